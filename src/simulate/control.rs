//! What a test does to an agent: it restarts it, resets it, looks at it.

use super::Agent;
use super::store::State;

/// What an agent keeps when it restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// What is on its disk: keys, sessions, the catalog, its services and checks. Lock delays and
    /// events are forgotten, and sessions and TTL checks begin their time anew.
    Disk,
    /// The same without the sessions; their locks are released.
    DiskWithoutSessions,
    /// Nothing, as an agent in dev mode: the index begins anew.
    Nothing,
}

/// Figures about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// How many requests were answered since it was made.
    pub requests: u64,
    /// The newest index of the Raft log.
    pub index: u64,
    /// How many keys it has.
    pub keys: usize,
    /// How many sessions live.
    pub sessions: usize,
    /// How many blocking queries wait.
    pub waiting: usize,
}

/// A copy of an agent's disk.
#[derive(Debug)]
pub struct Backup(State);

impl Agent {
    /// Stops the agent and starts it again: requests that wait lose their connection.
    pub fn restart(&self, keeps: Keeps) {
        self.start_anew(|state| match keeps {
            Keeps::Disk => state.restart(),
            Keeps::DiskWithoutSessions => {
                let index = state.next_index();
                for id in
                    state.sessions.all().map(|session| session.id.to_string()).collect::<Vec<_>>()
                {
                    state.end_session(&id, index);
                }
                state.restart();
            }
            // Ids that were given before are not given again.
            Keeps::Nothing => {
                let rng = state.rng.clone();
                *state = State::new(state.now, &self.options);
                state.rng = rng;
            }
        });
    }

    /// A copy of what is on the agent's disk now.
    pub fn back_up(&self) -> Backup {
        Backup(self.with(|state| state.clone()))
    }

    /// As [`Agent::restart`], but with a disk of the past: the index goes back.
    pub fn restore(&self, Backup(past): &Backup) {
        self.start_anew(|state| {
            let (rng, now) = (state.rng.clone(), state.now);
            *state = past.clone();
            (state.rng, state.now) = (rng, now);
            state.restart();
        });
    }

    /// Makes the agent as it was at first, seed included, and ends all faults.
    pub fn reset(&self) {
        self.faults().clear();
        self.start_anew(|state| *state = State::new(state.now, &self.options));
    }

    fn start_anew(&self, change: impl FnOnce(&mut State)) {
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

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    #[test]
    fn a_restart_keeps_what_is_on_the_disk() {
        let world = World::new();
        world.put("kv/a", "1");
        let session = world.session("{}");
        world.put(&format!("kv/lock?acquire={session}"), "");
        world.put("event/fire/e", "");
        world.agent.restart(Keeps::Disk);
        assert_eq!(world.get("event/list").text(), "[]");
        assert_eq!(world.get("kv/a?raw").text(), "1");
        assert_eq!(world.agent.stats().sessions, 1);
        world.agent.restart(Keeps::DiskWithoutSessions);
        assert_eq!(world.agent.stats().sessions, 0);
        assert_eq!(world.agent.stats().keys, 2);
        world.agent.restart(Keeps::Nothing);
        assert_eq!(world.agent.stats().keys, 0);
    }

    #[test]
    fn an_older_disk_takes_the_index_back_and_no_id_is_given_twice() {
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
        world.agent.restart(Keeps::Nothing);
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
        world.agent.restart(Keeps::Disk);
        assert_eq!(world.put(&format!("kv/lock?acquire={other}"), "").text(), "true");
    }
}
