//! Why the program ends without success, and its exit status.

use super::words;
use consul_api::error::Error;
use std::fmt;
use std::process::ExitCode;

pub enum Failure {
    /// The command line or the configuration is wrong.
    Usage(String),
    /// The cluster is not as the operator expects it.
    Refused(String),
    /// The shown state has a problem; it is printed already.
    NotWell,
    /// A wait has reached its time limit.
    Limit(String),
    /// A signal has ended a wait.
    Interrupted(String),
    /// A call has failed.
    Call(Error),
}

impl Failure {
    /// The same failure, if it is that of a call, with what holds in spite of it: the change was made before.
    pub fn after(self, state: &str) -> Self {
        match self {
            Failure::Call(error) => Failure::Call(error.with_note(state)),
            failure => failure,
        }
    }

    pub fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Refused(_) | Failure::NotWell => 1,
            Failure::Usage(_) => 2,
            Failure::Limit(_) => 4,
            Failure::Interrupted(_) => 130,
            Failure::Call(error) => error.exit_status(),
        })
    }

    /// The name of its kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::Refused(_) => "refused",
            Failure::NotWell => "not_well",
            Failure::Limit(_) => "limit",
            Failure::Interrupted(_) => "interrupted",
            Failure::Call(error) => error.kind().name(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Call(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(why)
            | Failure::Refused(why)
            | Failure::Limit(why)
            | Failure::Interrupted(why) => f.write_str(why),
            Failure::NotWell => Ok(()),
            Failure::Call(error) => f.write_str(&words::message(error)),
        }
    }
}
