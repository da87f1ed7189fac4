//! Restart, reset and figures of an agent, for tests.

pub mod clock;
pub mod endpoints;
pub(super) mod fault;
#[cfg(test)]
pub(super) mod testing;

use super::store::State;
use super::{Agent, Options};
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use std::sync::Arc;

/// The state that an agent retains when it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retained {
    /// The disk: keys, sessions, the catalog, the agent's services and checks. Lock delays and
    /// events are lost, and the TTLs of sessions and checks restart.
    Disk,
    /// The disk without the sessions; their locks are released.
    DiskWithoutSessions,
    /// Nothing, as an agent in dev mode: the index starts again.
    Nothing,
}

impl Retained {
    /// The data that a restart with these options retains.
    ///
    /// # Errors
    /// [`Kind::Argument`](consul_api::error::Kind::Argument), naming the option, what was given and what is allowed.
    pub fn from_options(options: &[(String, Value)]) -> Result<Self, Error> {
        let mut retained = Retained::Disk;
        for (option, value) in options {
            let is_set = Shape::Bool.boolean(value, &ValuePath::top(option))?;
            retained = match (option.as_str(), is_set) {
                ("wipe", true) => Retained::Nothing,
                ("lose_sessions", true) if retained == Retained::Disk => {
                    Retained::DiskWithoutSessions
                }
                ("wipe" | "lose_sessions", _) => retained,
                _ => {
                    let known = ["lose_sessions", "wipe"];
                    return Err(Error::misuse(unknown("option", option, &known)));
                }
            };
        }
        Ok(retained)
    }
}

/// Figures about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Requests since the agent was created.
    pub requests: u64,
    /// The newest index of the Raft log.
    pub index: u64,
    /// Keys in the store.
    pub keys: usize,
    /// Live sessions.
    pub sessions: usize,
    /// Waiting blocking queries.
    pub waiting: usize,
}

/// A copy of an agent's disk.
#[derive(Debug)]
pub struct Backup(State);

impl Agent {
    /// Stops the agent and starts it again: waiting requests lose their connection.
    pub fn restart(&self, retained: Retained) {
        self.start_again(|state| match retained {
            Retained::Disk => state.restart(),
            Retained::DiskWithoutSessions => {
                let index = state.next_index();
                for id in
                    state.sessions.all().map(|session| session.id.to_string()).collect::<Vec<_>>()
                {
                    state.end_session(&id, index);
                }
                state.restart();
            }
            // The random generator goes on, so that ids do not repeat.
            Retained::Nothing => {
                let rng = state.rng.clone();
                begin(state, &self.options);
                state.rng = rng;
            }
        });
    }

    /// A copy of the agent's disk at this moment.
    pub fn back_up(&self) -> Backup {
        Backup(self.with(|state| state.clone()))
    }

    /// As [`Agent::restart`], but with the disk of the backup: the index goes back.
    pub fn restore(&self, Backup(past): &Backup) {
        self.start_again(|state| {
            let (rng, now) = (state.rng.clone(), state.now);
            *state = past.clone();
            (state.rng, state.now) = (rng, now);
            state.restart();
        });
    }

    /// Restores a snapshot of the servers, like `PUT /v1/snapshot`: the indexes of the tables go back, and the
    /// agent keeps its services and checks, which it compares with the catalog up to a minute later.
    pub fn restore_snapshot(&self, Backup(past): &Backup) {
        self.with(|state| state.restore(past.image()));
    }

    /// Resets the agent to its initial state, seed included, and ends all faults.
    pub fn reset(&self) {
        self.faults().clear();
        self.start_again(|state| begin(state, &self.options));
    }

    /// As [`Agent::reset`], with another seed.
    pub fn reset_to(&self, seed: u64) {
        self.faults().clear();
        let options = Options { seed, ..self.options.clone() };
        self.start_again(|state| begin(state, &options));
    }

    fn start_again(&self, change: impl FnOnce(&mut State)) {
        self.with(|state| {
            let watches = std::mem::take(&mut state.watches);
            change(state);
            state.watches = watches;
        });
        self.timers_changed.notify_one();
        self.restarted.notify_waiters();
    }

    /// Figures about the agent.
    pub fn stats(&self) -> Stats {
        let requests = self.requests.load(std::sync::atomic::Ordering::Relaxed);
        self.with(|state| Stats {
            requests,
            index: state.index(),
            keys: state.kv.len(),
            sessions: state.sessions.all().count(),
            waiting: state.watches.waiters(),
        })
    }
}

/// Begins with the state of a fresh server, and without the services of the configuration.
fn begin(state: &mut State, options: &Options) {
    let reload = state.reload.take();
    let (dns, log, left) = (state.dns.take(), state.log.clone(), Arc::clone(&state.left));
    *state = State::new(state.now, options);
    state.reload = reload;
    (state.dns, state.log, state.left) = (dns, log, left);
}

#[cfg(test)]
mod tests {
    use super::testing::World;
    use super::*;

    #[test]
    fn a_restart_keeps_what_is_on_the_disk() {
        let world = World::new();
        world.put("kv/a", "1");
        let session = world.session("{}");
        world.put(&format!("kv/lock?acquire={session}"), "");
        world.put("event/fire/e", "");
        world.agent.restart(Retained::Disk);
        assert_eq!(world.get("event/list").text(), "[]");
        assert_eq!(world.get("kv/a?raw").text(), "1");
        assert_eq!(world.agent.stats().sessions, 1);
        world.agent.restart(Retained::DiskWithoutSessions);
        assert_eq!(world.agent.stats().sessions, 0);
        assert_eq!(world.agent.stats().keys, 2);
        world.agent.restart(Retained::Nothing);
        assert_eq!(world.agent.stats().keys, 0);
    }

    #[test]
    fn an_older_disk_takes_the_index_back_and_ids_do_not_repeat() {
        let world = World::new();
        world.put("kv/a", "1");
        let index = world.agent.stats().index;
        let backup = world.agent.back_up();
        let lost = world.session("{}");
        world.put("kv/a", "2");
        world.agent.restore(&backup);
        assert_eq!(world.get("kv/a?raw").text(), "1");
        assert_eq!((world.agent.stats().index, world.agent.stats().sessions), (index, 0));
        assert_ne!(world.session("{}"), lost);
        world.agent.restart(Retained::Nothing);
        assert_ne!(world.session("{}"), lost);
    }

    #[test]
    fn a_reset_begins_the_same_trace_again() {
        let world = World::new();
        let first = (world.session("{}"), world.agent.stats().index);
        world.agent.reset();
        assert_eq!((world.session("{}"), world.agent.stats().index), first);
    }

    #[test]
    fn a_lock_delay_is_forgotten_by_a_restart() {
        let world = World::new();
        let holder = world.session("{}");
        world.put(&format!("kv/lock?acquire={holder}"), "");
        world.put(&format!("session/destroy/{holder}"), "");
        let other = world.session("{}");
        assert_eq!(world.put(&format!("kv/lock?acquire={other}"), "").text(), "false");
        world.agent.restart(Retained::Disk);
        assert_eq!(world.put(&format!("kv/lock?acquire={other}"), "").text(), "true");
    }
}
