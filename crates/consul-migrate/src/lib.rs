//! From etcd to Consul while programs write: a copy of a snapshot, the changes since then exactly once, a
//! comparison, and the way back. `consul-migrate` is its program.
//!
//! ```text
//! etcd      the JSON gateway: pages at one revision, watches, roles, alarms
//! mapping   what each key becomes, a pure function
//! target    Consul, with requests that are repeated
//! silence   says that a side does not answer
//! job       the record in Consul, which instance may go on, and whether etcd is still the one of the job
//! snapshot  all keys of a snapshot, which have a problem, and the others -> Consul
//! tail      the changes since then -> Consul, and how far it is behind
//! verify    the differences of a snapshot and Consul, which also a sweep needs
//! ahead     what is read next while the present is worked on
//! tally     what becomes of the keys, in numbers
//! switch    the cut-over, while etcd takes no writes; the way back; what is left of a move when it is over
//! lines     Consul's keys as lines of JSON, and back
//! object    objects of JSON in files
//! ```
//!
//! ```
//! use consul_migrate::mapping::Mapping;
//!
//! let mapping = Mapping {
//!     etcd_prefix: b"/app/".to_vec(),
//!     consul_prefix: "app/".to_owned(),
//!     on: Default::default(),
//!     form: None,
//!     mark: 0,
//!     refused: Default::default(),
//! };
//! assert_eq!(mapping.problem_of_key(b"/app/config"), None);
//! // Keys of Consul are text.
//! assert!(mapping.problem_of_key(b"/app/\xff").is_some());
//! ```

mod ahead;
pub mod etcd;
pub mod job;
mod lines;
pub mod mapping;
pub mod object;
mod silence;
pub mod snapshot;
mod switch;
mod tail;
pub mod tally;
pub mod target;
pub mod verify;

pub use lines::{Form, check, export, import};
pub use snapshot::load::{load, restart};
pub use snapshot::nothing::nothing;
pub use switch::cutover::{
    CutOver, Freeze, Frozen, LAST_LOOK, LIFTED, Left, alarm_of_others, alarm_refused, cut_over,
    lift_left, lift_left_of, may_cut_over, opened_late, rights_now, roles_refused, taken_late,
};
pub use switch::finish::{Finished, finish, finish_without_etcd, may_finish};
pub use switch::rollback::{
    LeftKey, MayChange, RolledBack, may_roll_back, roll_back, rollback_has_begun,
};
pub use tail::{Until, tail};

use consul_api::error::Error;
use etcd::{Etcd, Refused, Right};
use job::Job;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a run ends before its end.
#[derive(Debug)]
pub enum Stop {
    /// Another instance holds the job: this one.
    Held(String),
    /// The state or a choice of the operator does not allow it.
    Refused(String),
    /// etcd has compacted the revisions that were to be read.
    Compacted,
    /// A call has failed.
    Failed(Error),
}

impl Stop {
    /// The same with something else that is to be known.
    #[must_use]
    pub fn with(self, more: &str) -> Stop {
        match self {
            Stop::Held(holder) => Stop::Held(format!("{holder}. {more}")),
            Stop::Refused(why) => Stop::Refused(format!("{why}. {more}")),
            Stop::Failed(error) => {
                let message = format!("{}. {more}", error.message());
                let is_open = error.maybe_applied();
                Error::new(error.kind(), message).with_maybe_applied(is_open).into()
            }
            Stop::Compacted => Stop::Compacted,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Compacted => Stop::Compacted,
            other => Stop::Failed(other.into_error()),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Held(holder) => {
                write!(f, "another instance holds the job, and --take-over replaces it: {holder}")
            }
            Stop::Refused(why) => f.write_str(why),
            Stop::Compacted => f.write_str(
                "etcd has compacted the revisions that were to be read: run the same command again",
            ),
            Stop::Failed(error) => f.write_str(error.message()),
        }
    }
}

/// How fast a run may be.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The keys of a page of etcd.
    pub page: u64,
    /// The transactions in flight.
    pub in_flight: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { page: 5000, in_flight: 8 }
    }
}

/// Where a run reports its progress.
pub trait Report: Send + Sync {
    /// The number of keys of the present phase that are done, and of all of them if that is known.
    fn progress(&self, phase: &'static str, done: u64, of: Option<u64>);

    /// How far Consul is behind etcd, in revisions of etcd and in time, as far as it is known.
    fn behind(&self, _revisions: u64, _time: Duration) {}

    /// Something that an operator should know.
    fn note(&self, text: &str);

    /// The writers of etcd are stopped next, in this way, for which these rights are taken from its roles: what undoes that is to
    /// be known also if this process is killed and Consul loses the job.
    ///
    /// # Errors
    /// It cannot be told: then no writer is stopped.
    fn stops(&self, how: &str, taken: &[Right]) -> Result<(), Stop> {
        self.note(how);
        taken.iter().for_each(|right| self.note(&format!("  {right}")));
        Ok(())
    }
}

/// The things that all parts of a run use.
pub struct Run<'a> {
    /// The cluster whose keys are moved.
    pub etcd: &'a Etcd,
    /// The job in Consul, which this instance holds.
    pub job: Job<'a>,
    /// The size of pages and the number of transactions in flight.
    pub pace: Pace,
    /// The receiver of progress and of notices for an operator.
    pub report: Arc<dyn Report>,
}
