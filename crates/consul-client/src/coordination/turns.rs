//! Turns: which request of many keys is sent next. Requests for keys that keep silent hold up no other, because they have
//! places of their own, and those with the fewest silences come first. A request that had no answer in time goes on at the
//! server and may hold a connection there, so it counts for a while after its end here: Consul takes 200 connections from an
//! address.
//!
//! Source: `http_max_conns_per_client` in "Limits" of Consul's agent configuration reference.

use consul_api::error::{Error, Kind};
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long a request without an answer counts after its begin: the server may still work on it.
const REMEMBERED: Duration = Duration::from_millis(2500);

/// How many requests may be on their way however few connections there are, which then wait for these.
const LEAST_AT_A_TIME: usize = 4;

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A contender, which waits for a lock or a permit.
    Contend,
    /// The end of a session.
    End,
    /// The renewal of the session of a held lock.
    Renew,
}

/// How many requests of a verb are on their way at a time.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Places for keys whose last request was answered in time.
    pub answered: usize,
    /// Places for keys that kept silent.
    pub silent: usize,
    /// None begins while this many sixteenths of the connections carry requests that have turns.
    connections: usize,
    /// None begins while the server may still work on this many requests that had no answer.
    pub left: usize,
}

impl Verb {
    /// The number of its requests that are on their way at a time.
    pub const fn places(self) -> Places {
        match self {
            Verb::Contend => Places { answered: 24, silent: 16, connections: 10, left: 64 },
            Verb::End => Places { answered: 16, silent: 4, connections: 12, left: 120 },
            Verb::Renew => Places { answered: 24, silent: 8, connections: 13, left: 120 },
        }
    }
}

/// How often the requests for a key have had no answer in time, one after the other.
#[derive(Debug, Default)]
pub(super) struct Silences(AtomicU32);

impl Silences {
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The place of a request in the order of those that wait: the fewest silences first, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    silences: u32,
    since: Instant,
    number: u64,
}

/// Who waits, and what is on its way.
#[derive(Debug)]
struct Schedule<W> {
    connections: usize,
    number: u64,
    queues: [Queue<W>; 3],
    /// When requests that had no answer do not count any more.
    left: VecDeque<Instant>,
}

#[derive(Debug)]
struct Queue<W> {
    waiting: BTreeMap<Ticket, W>,
    answered: usize,
    silent: usize,
}

impl<W> Schedule<W> {
    fn new(connections: usize) -> Self {
        let queue = || Queue { waiting: BTreeMap::new(), answered: 0, silent: 0 };
        let queues = [queue(), queue(), queue()];
        Self { connections, number: 0, queues, left: VecDeque::new() }
    }

    fn wait(&mut self, verb: Verb, (silences, since): (u32, Instant), waiter: W) -> Ticket {
        self.number += 1;
        let ticket = Ticket { silences, since, number: self.number };
        self.queues[verb as usize].waiting.insert(ticket, waiter);
        ticket
    }

    /// Takes the next request that may begin now.
    fn next(&mut self, now: Instant) -> Option<(Verb, Ticket, W)> {
        while self.left.front().is_some_and(|end| *end <= now) {
            self.left.pop_front();
        }
        // The more there is to lose, the earlier.
        [Verb::Renew, Verb::End, Verb::Contend].into_iter().find_map(|verb| {
            let (places, open, left) = (verb.places(), self.open(), self.left.len());
            let queue = &mut self.queues[verb as usize];
            let first = queue.waiting.first_entry()?;
            let ticket = *first.key();
            let (taken, size) = match ticket.silences {
                0 => (&mut queue.answered, places.answered),
                _ => (&mut queue.silent, places.silent),
            };
            let most = (self.connections * places.connections / 16).max(LEAST_AT_A_TIME);
            if *taken >= size || open >= most || left >= places.left {
                return None;
            }
            *taken += 1;
            Some((verb, ticket, first.remove()))
        })
    }

    /// How many requests are on their way.
    fn open(&self) -> usize {
        self.queues.iter().map(|queue| queue.answered + queue.silent).sum()
    }

    fn end(&mut self, verb: Verb, ticket: Ticket) {
        let queue = &mut self.queues[verb as usize];
        match ticket.silences {
            0 => queue.answered -= 1,
            _ => queue.silent -= 1,
        }
    }

    /// Counts a request that has had no answer since `begun`.
    fn leave(&mut self, begun: Instant) {
        let end = begun + REMEMBERED;
        let place = self.left.partition_point(|other| *other <= end);
        self.left.insert(place, end);
    }
}

/// The turns of the requests of a presence, each for one request.
pub(super) struct Turns {
    clock: Arc<dyn Clock>,
    schedule: Mutex<Schedule<oneshot::Sender<()>>>,
    /// How long Consul takes to answer lately, at most, by verb.
    slowest: Mutex<[Duration; 3]>,
    has_left: Notify,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    /// Turns on this many connections.
    pub fn new(clock: Arc<dyn Clock>, connections: usize) -> Self {
        let schedule = Mutex::new(Schedule::new(connections));
        Self { clock, schedule, slowest: Mutex::default(), has_left: Notify::new() }
    }

    /// Waits for the turn of a request for a key that kept silent so often; of two with as many silences, the
    /// request that is due earlier is first.
    pub async fn turn(&self, verb: Verb, silences: u32, since: Instant) -> Turn<'_> {
        let (begins, begun) = oneshot::channel();
        let ticket = lock(&self.schedule).wait(verb, (silences, since), begins);
        // Dropped with it, it leaves the queue or ends the turn.
        let turn = Turn { turns: self, verb, ticket };
        self.go_on();
        // The sender lives until the turn has come.
        let _ = begun.await;
        turn
    }

    /// Makes a request in its turn, and notes the silence if there is no answer in time.
    pub async fn answer<R>(
        &self,
        turn: Turn<'_>,
        silences: &Silences,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let (verb, begun) = (turn.verb, self.clock.now());
        let answered = request.await;
        match &answered {
            Ok(_) => self.note_answer(verb, self.clock.now() - begun),
            Err(error) if error.kind() == Kind::Timeout => {
                silences.add_one();
                turn.leave(begun);
            }
            Err(_) => {}
        }
        answered
    }

    /// Notes how long an answer takes: a slow server is not a silent one.
    pub fn note_answer(&self, verb: Verb, took: Duration) {
        let slowest = &mut lock(&self.slowest)[verb as usize];
        *slowest = (*slowest * 7 / 8).max(took);
    }

    /// How long Consul takes to answer lately, at most.
    pub fn slowest(&self, verb: Verb) -> Duration {
        lock(&self.slowest)[verb as usize]
    }

    /// Lets all begin that may.
    fn go_on(&self) {
        let mut schedule = lock(&self.schedule);
        while let Some((_, _, begins)) = schedule.next(self.clock.now()) {
            // A request that does not wait any more ends its turn when it is dropped.
            let _ = begins.send(());
        }
    }

    /// Lets those go on that wait until the server has done with others, forever.
    pub async fn go_on_in_time(&self) -> Infallible {
        loop {
            let next = lock(&self.schedule).left.front().copied();
            tokio::select! {
                biased;
                () = self.has_left.notified() => {}
                () = self.clock.sleep_until_any(next) => self.go_on(),
            }
        }
    }
}

/// The turn of a request, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    verb: Verb,
    ticket: Ticket,
}

impl Turn<'_> {
    /// Ends it without an answer to the request, which was begun then.
    pub fn leave(self, begun: Instant) {
        lock(&self.turns.schedule).leave(begun);
        self.turns.has_left.notify_one();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut schedule = lock(&self.turns.schedule);
        if schedule.queues[self.verb as usize].waiting.remove(&self.ticket).is_none() {
            schedule.end(self.verb, self.ticket);
        }
        drop(schedule);
        self.turns.go_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::clock::ManualClock;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const VERBS: [Verb; 3] = [Verb::Contend, Verb::End, Verb::Renew];
    const CONNECTIONS: usize = 64;
    /// The time limit of a request for a key that has not kept silent, and of others.
    const LIMITS: [Duration; 2] = [Duration::from_millis(900), Duration::from_millis(1500)];

    #[derive(Clone, Copy, Debug)]
    struct Key {
        verb: Verb,
        /// `None`: it keeps silent.
        answers_after: Option<Duration>,
    }

    /// When a key begins to wait, or the request of a turn, which was begun then, ends.
    type Happens = (Instant, usize, Option<(Ticket, Instant)>);

    fn key() -> impl Strategy<Value = Key> {
        let after = prop_oneof![
            4 => Just(None),
            2 => (1200_u64..4000).prop_map(Some),
            2 => (1_u64..100).prop_map(Some),
        ];
        let key = |(verb, ms): (usize, Option<u64>)| Key {
            verb: VERBS[verb],
            answers_after: ms.map(Duration::from_millis),
        };
        (0..3_usize, after).prop_map(key)
    }

    /// A key in a simulation: its silences, since when it waits, the longest time that it has waited, and how often it was
    /// answered.
    #[derive(Clone, Copy, Default)]
    struct State {
        silences: u32,
        since: Instant,
        longest: Duration,
        answered: usize,
    }

    /// Each key asks again 3 s after an answer, and 0.5 s after a silence. Returns what became of the keys after this time.
    fn simulate(keys: &[Key], time: Duration) -> Vec<State> {
        let mut schedule = Schedule::new(CONNECTIONS);
        let mut states = vec![State::default(); keys.len()];
        let mut now = Instant::default();
        let mut events: BinaryHeap<Reverse<Happens>> =
            (0..keys.len()).map(|key| Reverse((now, key, None))).collect();
        while let Some(Reverse((at, number, ended))) = events.pop() {
            now = at;
            if now.since_origin() > time {
                break;
            }
            let (key, state) = (keys.get(number), states.get_mut(number));
            if let (Some(key), Some(state)) = (key, state) {
                match ended {
                    None => {
                        state.since = now;
                        schedule.wait(key.verb, (state.silences, now), number);
                    }
                    Some((ticket, begun)) => {
                        let limit = LIMITS[usize::from(ticket.silences > 0)];
                        let pause = match key.answers_after.filter(|after| *after < limit) {
                            Some(_) => {
                                (state.silences, state.answered) = (0, state.answered + 1);
                                3000
                            }
                            None => {
                                state.silences += 1;
                                schedule.leave(begun);
                                events.push(Reverse((begun + REMEMBERED, usize::MAX, None)));
                                500
                            }
                        };
                        schedule.end(key.verb, ticket);
                        events.push(Reverse((now + Duration::from_millis(pause), number, None)));
                    }
                }
            }
            while let Some((verb, ticket, number)) = schedule.next(now) {
                let queue = &schedule.queues[verb as usize];
                let fewest = queue.waiting.keys().next().map(|other| other.silences);
                assert!(fewest.is_none_or(|fewest| ticket.silences <= fewest));
                states[number].longest = states[number].longest.max(now - states[number].since);
                let limit = LIMITS[usize::from(ticket.silences > 0)];
                let takes = keys[number].answers_after.unwrap_or(limit).min(limit);
                events.push(Reverse((now + takes, number, Some((ticket, now)))));
            }
            let on_their_way = schedule.open();
            assert!(on_their_way <= CONNECTIONS * 13 / 16, "{on_their_way}");
            assert!(on_their_way + schedule.left.len() <= 120 + CONNECTIONS);
            for (verb, queue) in VERBS.iter().zip(&schedule.queues) {
                let places = verb.places();
                assert!(queue.answered <= places.answered && queue.silent <= places.silent);
            }
        }
        states
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn what_keeps_silent_holds_up_no_other(keys in prop::collection::vec(key(), 1..400)) {
            let states = simulate(&keys, Duration::from_secs(60));
            for (key, state) in keys.iter().zip(&states) {
                let Some(_) = key.answers_after.filter(|after| *after < LIMITS[0]) else { continue };
                // All are tried first in a round, 24 or fewer at a time; after that only healthy ones are.
                let others = keys.iter().filter(|other| other.verb == key.verb).count();
                let round = LIMITS[0] * others.div_ceil(16) as u32 + REMEMBERED * 2;
                prop_assert!(state.longest <= round, "{key:?}: {:?} of {round:?}", state.longest);
                prop_assert!(state.answered >= 10, "{key:?}: {}", state.answered);
            }
        }
    }

    #[test]
    fn each_of_400_held_locks_has_its_turn_in_time_although_all_others_keep_silent() {
        for healthy in [0, 200, 399] {
            let silent = Key { verb: Verb::Renew, answers_after: None };
            let mut keys = vec![silent; 400];
            keys[healthy].answers_after = Some(Duration::from_millis(5));
            let states = simulate(&keys, Duration::from_secs(60));
            assert!(
                states[healthy].longest < Duration::from_secs(16),
                "{:?}",
                states[healthy].longest
            );
            assert!(states[healthy].answered > 12, "{}", states[healthy].answered);
        }
    }

    #[test]
    fn a_turn_that_nobody_waits_for_any_more_is_the_next_ones() {
        let clock = ManualClock::new();
        let turns = Turns::new(Arc::new(clock.clone()), CONNECTIONS);
        let now = clock.now();
        let places = Verb::Renew.places().answered;
        let turn = |silences| Box::pin(turns.turn(Verb::Renew, silences, now));
        let mut taken: Vec<_> = (0..places).filter_map(|_| turn(0).now_or_never()).collect();
        assert_eq!(taken.len(), places);
        let (mut gone, mut granted, mut next) = (turn(0), turn(0), turn(0));
        for waiting in [&mut gone, &mut granted, &mut next] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(gone);
        // It is granted a turn, and dropped before it learns of that.
        taken.pop();
        drop(granted);
        let next = next.as_mut().now_or_never();
        assert!(next.is_some());
        // A silent one has another place.
        assert!(turn(1).now_or_never().is_some());
        drop((taken, next));
        let schedule = lock(&turns.schedule);
        assert_eq!((schedule.open(), schedule.queues[Verb::Renew as usize].waiting.len()), (0, 0));
    }
}
