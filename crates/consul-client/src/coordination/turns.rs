//! Places for the requests of a presence, of which a limited number is on its way at a time. A request that gets no answer
//! keeps its place for less time the more others wait, so silence for some keys holds up no other, however many these are.

use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// From this many tries on a request gives way only to those that have had fewer.
const MANY_TRIES: usize = 2;

/// The places. Of those that wait the one with the fewest tries comes first, then the one that has waited longest.
#[derive(Debug)]
pub(super) struct Turns {
    size: usize,
    state: Mutex<State>,
    /// Counts the changes of those that wait.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    free: usize,
    number: u64,
    /// By their tries.
    waiting: BTreeMap<(usize, u64), oneshot::Sender<Turn>>,
    /// How many wait, by their tries.
    counts: [usize; MANY_TRIES + 1],
}

impl State {
    fn pop_first(&mut self) -> Option<oneshot::Sender<Turn>> {
        let ((tries, _), next) = self.waiting.pop_first()?;
        self.counts[tries] -= 1;
        Some(next)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.0.state);
            let next = state.pop_first();
            state.free += usize::from(next.is_none());
            next
        };
        if let Some(next) = next {
            // Without a receiver the place comes back and is dropped in turn.
            drop(next.send(Turn(Arc::clone(&self.0))));
            self.0.changes.send_modify(|it| *it += 1);
        }
    }
}

/// A request that waits, which leaves when it is dropped.
struct Waiting<'a>(&'a Turns, (usize, u64));

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if state.waiting.remove(&self.1).is_some() {
            state.counts[self.1.0] -= 1;
            drop(state);
            self.0.changes.send_modify(|it| *it += 1);
        }
    }
}

impl Turns {
    pub fn new(size: usize) -> Arc<Self> {
        let state =
            State { free: size, number: 0, waiting: BTreeMap::new(), counts: [0; MANY_TRIES + 1] };
        Arc::new(Self { size, state: Mutex::new(state), changes: watch::Sender::default() })
    }

    /// Waits for a place for a request that has been tried so often.
    pub async fn turn(self: &Arc<Self>, tries: usize) -> Turn {
        loop {
            let (number, granted) = {
                let mut state = lock(&self.state);
                if state.free > 0 {
                    state.free -= 1;
                    return Turn(Arc::clone(self));
                }
                state.number += 1;
                let number = (tries.min(MANY_TRIES), state.number);
                let (grant, granted) = oneshot::channel();
                state.waiting.insert(number, grant);
                state.counts[number.0] += 1;
                (number, granted)
            };
            let _waiting = Waiting(self, number);
            self.changes.send_modify(|it| *it += 1);
            if let Ok(turn) = granted.await {
                return turn;
            }
        }
    }

    /// How many wait for whom a request with this number of tries gives its place up.
    fn before(&self, tries: usize) -> usize {
        let bound = if tries < MANY_TRIES { tries + 1 } else { MANY_TRIES };
        lock(&self.state).counts[..bound].iter().sum()
    }

    /// Completes when a request that has had a place since `begun` has to leave it to those that wait: after `longest`, or
    /// after less the more wait, so that all of them have a place soon, but not before `least`.
    pub async fn is_over(
        &self,
        clock: &dyn Clock,
        tries: usize,
        begun: Instant,
        (least, longest): (Duration, Duration),
    ) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let end = match self.before(tries) {
                0 => None,
                count => {
                    let share = longest.mul_f64(self.size as f64 / count as f64);
                    Some(begun + share.min(longest).max(least))
                }
            };
            tokio::select! {
                biased;
                // The sender lives as long as `self`.
                _ = changes.changed() => {}
                () = clock.sleep_until_any(end) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn places_go_to_those_with_the_fewest_tries_and_none_is_lost() {
        let turns = Turns::new(1);
        let first = turns.turn(0).now_or_never().expect("a free place");
        let mut again = Box::pin(turns.turn(7));
        let mut once = Box::pin(turns.turn(1));
        let mut gone = Box::pin(turns.turn(0));
        let mut new = Box::pin(turns.turn(0));
        for waiting in [&mut again, &mut once, &mut gone, &mut new] {
            assert!(waiting.now_or_never().is_none());
        }
        assert_eq!([0, 1, 2, 9].map(|tries| turns.before(tries)), [2, 3, 3, 3]);
        // One is granted to nobody.
        drop(gone);
        drop(first);
        let new = new.as_mut().now_or_never().expect("its place");
        assert!(once.as_mut().now_or_never().is_none());
        drop(new);
        let once = once.as_mut().now_or_never().expect("its place");
        drop(once);
        // Dropped after it was granted.
        drop(again);
        assert!(turns.turn(0).now_or_never().is_some());
        assert!(lock(&turns.state).waiting.is_empty());
    }
}
