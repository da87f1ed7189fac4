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

impl Agent {
    /// Stops the agent and starts it again: requests that wait lose their connection.
    pub fn restart(&self, keeps: Keeps) {
        self.with(|state| match keeps {
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
            Keeps::Nothing => {
                let mut fresh = State::new(state.now, &self.options);
                fresh.watches = std::mem::take(&mut state.watches);
                *state = fresh;
            }
        });
        self.timers_changed.notify_one();
        self.restarted.notify_waiters();
    }

    /// Makes the agent as it was at first, seed included, and ends all faults.
    pub fn reset(&self) {
        self.faults().clear();
        self.restart(Keeps::Nothing);
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
