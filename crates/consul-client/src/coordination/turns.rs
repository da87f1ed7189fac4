//! Turns: which request of many keys is sent next. A key that keeps silent holds up no other, because it has places of its
//! own; a key that had no answer once may have a place of either kind. A request that takes long moves to a place for silent
//! keys while one is free, so that its late answer is seen. A request without an answer goes on at the server and may hold a
//! connection there, so it counts for a while after its end here: Consul takes 200 connections from an address.
//!
//! Source: `http_max_conns_per_client` in "Limits" of Consul's agent configuration reference.

use consul_api::error::{Error, Kind};
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long a request without an answer counts after its begin, because the server may still work on it.
const REMEMBERED: Duration = Duration::from_millis(2500);

/// How many requests may be on their way however few connections there are, which then wait for these.
const LEAST_AT_A_TIME: usize = 4;

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A contender, which waits for a lock or a permit.
    Contend,
    /// The end of a session.
    End,
    /// The renewal of the session of a held lock.
    Renew,
}

/// How many requests of a purpose are on their way at a time.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The requests for keys that are answered.
    pub answered: usize,
    /// The requests for keys that keep silent.
    pub silent: usize,
    /// None begins while this many sixteenths of the connections carry requests that have turns.
    connections: usize,
    /// None begins while the server may still work on this many of them that had no answer.
    pub left: usize,
}

impl Purpose {
    /// The number of its requests that are on their way at a time.
    pub const fn places(self) -> Places {
        match self {
            Purpose::Contend => Places { answered: 24, silent: 16, connections: 10, left: 80 },
            Purpose::End => Places { answered: 16, silent: 4, connections: 12, left: 120 },
            Purpose::Renew => Places { answered: 24, silent: 8, connections: 15, left: 120 },
        }
    }
}

/// The times of a purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// How long a request keeps a place for answered keys at least.
    pub least: Duration,
    /// How long it lasts at most.
    pub most: Duration,
    /// How long it lasts at most when its key has had no answer for [`Times::half`].
    pub pressed: Duration,
    /// How long one lasts at most that moves to a place for silent keys, because the next ones are not due before; zero:
    /// none moves.
    pub late: Duration,
    /// A key is silent when it has had no answer for this long …
    pub half: Duration,
    /// … and to this many requests while others were answered.
    pub silences: u32,
    /// How much later a key comes whose last request had no answer.
    pub later: Duration,
}

/// The requests for a key since its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The last answer, or when it was first due.
    pub since: Instant,
    /// When the last one began, or as `since`.
    begun: Instant,
    /// How many had no answer.
    tries: u32,
    /// How many of those had none while others had.
    silences: u32,
    /// How long the longest of them has waited.
    longest: Duration,
}

impl Key {
    pub fn new(since: Instant) -> Self {
        Self { since, begun: since, tries: 0, silences: 0, longest: Duration::ZERO }
    }

    /// It had no answer for this long.
    fn add_silence(&mut self, begun: Instant, took: Duration, others_are_answered: bool) {
        self.begun = begun;
        self.tries += 1;
        self.silences += u32::from(others_are_answered);
        self.longest = self.longest.max(took);
    }
}

/// The knowledge of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Answered,
    /// Some of its last requests had no answer.
    Doubtful,
    Silent,
}

/// The place of a request among the waiting ones of its class: the oldest last request first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    class: Class,
    order: Instant,
    number: u64,
}

/// Who waits, and what is on its way.
#[derive(Debug)]
struct Schedule<W> {
    connections: usize,
    number: u64,
    queues: [Queue<W>; 3],
    /// When the last answer came.
    answered: Instant,
}

#[derive(Debug)]
struct Queue<W> {
    times: Times,
    /// Ordered by class.
    waiting: BTreeMap<Ticket, W>,
    answered: usize,
    silent: usize,
    /// When requests that had no answer do not count any more.
    left: VecDeque<Instant>,
    /// How long Consul takes to answer lately, at most.
    slowest: Duration,
}

impl<W> Queue<W> {
    /// How long a request has to wait for its answer before it is made again: longer than Consul takes lately.
    fn patience(&self) -> Duration {
        (self.slowest * 2).max(self.times.least).min(self.times.most)
    }

    /// The time limit of a request for this key, which began then.
    fn limit(&self, key: &Key, class: Class, now: Instant, is_silent: bool) -> Duration {
        let patience = self.patience();
        if is_silent {
            return match class {
                Class::Answered => patience.max(self.times.late),
                // Consul may be as slow as this.
                Class::Doubtful => self.times.most,
                Class::Silent => patience.max(self.times.pressed),
            };
        }
        match now - key.since >= self.times.half {
            true => patience.min(self.times.pressed),
            // Renewals learn how slow Consul is.
            false if !self.times.late.is_zero() => {
                patience.max(self.times.pressed.min(self.times.least * (key.tries + 1)))
            }
            false => patience,
        }
    }

    fn class(&self, key: &Key, now: Instant) -> Class {
        let is_silent = key.silences >= self.times.silences
            && now - key.since >= self.times.half
            && key.longest >= self.patience();
        match key.tries {
            0 => Class::Answered,
            _ if is_silent => Class::Silent,
            _ => Class::Doubtful,
        }
    }

    fn first(&self, class: Class) -> Option<Ticket> {
        let from = Ticket { class, order: Instant::default(), number: 0 };
        let (first, _) = self.waiting.range(from..).next()?;
        (first.class == class).then_some(*first)
    }

    /// Who is next, and whether in a place for silent keys.
    fn next(&self, places: Places) -> Option<(Ticket, bool)> {
        let (fresh, doubtful) = (self.first(Class::Answered), self.first(Class::Doubtful));
        let may_be_silent = self.silent < places.silent;
        if let Some(doubtful) = doubtful.filter(|_| may_be_silent) {
            return Some((doubtful, true));
        }
        let first = [fresh, doubtful].into_iter().flatten().min_by_key(|it| (it.order, it.number));
        if let Some(first) = first.filter(|_| self.answered < places.answered) {
            return Some((first, false));
        }
        let silent = self.first(Class::Silent).filter(|_| may_be_silent)?;
        Some((silent, true))
    }
}

impl<W> Schedule<W> {
    fn new(connections: usize, times: impl Fn(Purpose) -> Times) -> Self {
        let queue = |purpose| Queue {
            times: times(purpose),
            waiting: BTreeMap::new(),
            answered: 0,
            silent: 0,
            left: VecDeque::new(),
            slowest: Duration::ZERO,
        };
        let queues = [Purpose::Contend, Purpose::End, Purpose::Renew].map(queue);
        Self { connections, number: 0, queues, answered: Instant::default() }
    }

    fn queue(&mut self, purpose: Purpose) -> &mut Queue<W> {
        &mut self.queues[purpose as usize]
    }

    fn wait(&mut self, purpose: Purpose, key: &Key, now: Instant, waiter: W) -> Ticket {
        self.number += 1;
        let number = self.number;
        let queue = self.queue(purpose);
        let order = key.begun + queue.times.later * key.tries.min(1);
        let ticket = Ticket { class: queue.class(key, now), order, number };
        queue.waiting.insert(ticket, waiter);
        ticket
    }

    /// Takes the next request that may begin now; the last value is whether it has a place for silent keys.
    fn next(&mut self, now: Instant) -> Option<(Purpose, W, bool)> {
        // The more there is to lose, the earlier.
        [Purpose::Renew, Purpose::End, Purpose::Contend].into_iter().find_map(|purpose| {
            let (places, open) = (purpose.places(), self.open());
            let most = (self.connections * places.connections / 16).max(LEAST_AT_A_TIME);
            let queue = self.queue(purpose);
            while queue.left.front().is_some_and(|end| *end <= now) {
                queue.left.pop_front();
            }
            if open >= most || queue.left.len() >= places.left {
                return None;
            }
            let (ticket, is_silent) = queue.next(places)?;
            let waiter = queue.waiting.remove(&ticket)?;
            match is_silent {
                true => queue.silent += 1,
                false => queue.answered += 1,
            }
            Some((purpose, waiter, is_silent))
        })
    }

    /// When the next request without an answer does not count any more.
    fn left_until(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.left.front()).min().copied()
    }

    /// How many requests are on their way.
    fn open(&self) -> usize {
        self.queues.iter().map(|queue| queue.answered + queue.silent).sum()
    }

    /// Moves a request to a place for silent keys if one is free.
    fn move_to_silent(&mut self, purpose: Purpose) -> bool {
        let queue = self.queue(purpose);
        let is_free = !queue.times.late.is_zero() && queue.silent < purpose.places().silent;
        if is_free {
            (queue.answered, queue.silent) = (queue.answered - 1, queue.silent + 1);
        }
        is_free
    }

    fn end(&mut self, purpose: Purpose, is_silent: bool) {
        match is_silent {
            true => self.queue(purpose).silent -= 1,
            false => self.queue(purpose).answered -= 1,
        }
    }

    /// Notes an answer to a request that was begun then.
    fn note_answer(&mut self, purpose: Purpose, begun: Instant, now: Instant) {
        self.answered = now;
        let queue = self.queue(purpose);
        queue.slowest = (queue.slowest * 7 / 8).max(now - begun);
    }

    /// Counts a request for the key that has had no answer since `begun`.
    fn note_silence(&mut self, purpose: Purpose, key: &mut Key, begun: Instant, now: Instant) {
        // A process that ends all of its sessions may have no other requests.
        let is_alone = purpose != Purpose::End && self.answered <= begun;
        key.add_silence(begun, now - begun, !is_alone);
        let end = begun + REMEMBERED;
        let left = &mut self.queue(purpose).left;
        left.insert(left.partition_point(|other| *other <= end), end);
    }
}

/// The knowledge of a key.
#[derive(Debug, Default)]
pub(super) struct Silences(Mutex<Option<Key>>);

impl Silences {
    /// The requests since its last answer, or since then when there was none.
    fn key(&self, since: Instant) -> Key {
        *lock(&self.0).get_or_insert(Key::new(since))
    }
}

/// The turns of the requests of a presence, each for one request.
pub(super) struct Turns {
    clock: Arc<dyn Clock>,
    schedule: Mutex<Schedule<oneshot::Sender<bool>>>,
    has_left: Notify,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    /// Turns on this many connections.
    pub fn new(
        clock: Arc<dyn Clock>,
        connections: usize,
        times: impl Fn(Purpose) -> Times,
    ) -> Self {
        let schedule = Mutex::new(Schedule::new(connections, times));
        Self { clock, schedule, has_left: Notify::new() }
    }

    /// Waits for the turn of a request for a key, which had its last answer, or was due first, then.
    pub async fn turn(&self, purpose: Purpose, silences: &Silences, since: Instant) -> Turn<'_> {
        let (begins, granted) = oneshot::channel();
        let (key, now) = (silences.key(since), self.clock.now());
        let ticket = lock(&self.schedule).wait(purpose, &key, now, begins);
        // Dropped with it, it leaves the queue or ends the turn.
        let granted = Some(granted);
        let mut turn =
            Turn { turns: self, purpose, ticket, granted, is_silent: false, key, begun: now };
        self.go_on();
        if let Some(granted) = &mut turn.granted {
            // The sender lives until the turn has come.
            turn.is_silent = granted.await.unwrap_or_default();
        }
        (turn.granted, turn.begun) = (None, self.clock.now());
        turn
    }

    /// Consul answers.
    pub fn note_alive(&self) {
        lock(&self.schedule).answered = self.clock.now();
    }

    /// Lets all begin that may.
    fn go_on(&self) {
        let mut schedule = lock(&self.schedule);
        while let Some((purpose, begins, is_silent)) = schedule.next(self.clock.now()) {
            if begins.send(is_silent).is_err() {
                schedule.end(purpose, is_silent);
            }
        }
    }

    /// Lets those go on that wait until the server has done with others, forever.
    pub async fn go_on_in_time(&self) -> Infallible {
        loop {
            let next = lock(&self.schedule).left_until();
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
    purpose: Purpose,
    ticket: Ticket,
    /// Until it has come.
    granted: Option<oneshot::Receiver<bool>>,
    is_silent: bool,
    key: Key,
    begun: Instant,
}

impl Turn<'_> {
    /// Whether its request has a place for silent keys.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The time limit of its request in the place that it has.
    pub fn limit(&self) -> Duration {
        let mut schedule = lock(&self.turns.schedule);
        let queue = schedule.queue(self.purpose);
        queue.limit(&self.key, self.ticket.class, self.begun, self.is_silent)
    }

    /// Makes the request, and notes what came of it. Without an answer in time it is dropped, with [`Kind::Timeout`].
    pub async fn answer<R>(
        mut self,
        silences: &Silences,
        request: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let clock = Arc::clone(&self.turns.clock);
        let mut request = pin!(request);
        let mut look = match self.is_silent {
            true => self.limit(),
            false => lock(&self.turns.schedule).queue(self.purpose).times.least,
        };
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut request => break answered,
                () = clock.sleep_until(self.begun + look) => {}
            }
            if !self.is_silent {
                self.is_silent = lock(&self.turns.schedule).move_to_silent(self.purpose);
                self.turns.go_on();
            }
            look = self.limit();
            if clock.now() - self.begun >= look {
                let why = format!("no answer within {} ms", look.as_millis());
                break Err(Error::new(Kind::Timeout, why));
            }
        };
        self.note(silences, answered.as_ref().err());
        answered
    }

    /// Ends it, and notes what came of its request: a refusal is an answer.
    pub fn note(self, silences: &Silences, error: Option<&Error>) {
        let now = self.turns.clock.now();
        let mut schedule = lock(&self.turns.schedule);
        match error {
            None => schedule.note_answer(self.purpose, self.begun, now),
            Some(error) if error.kind() == Kind::Timeout => {
                let mut key = silences.key(self.key.since);
                schedule.note_silence(self.purpose, &mut key, self.begun, now);
                *lock(&silences.0) = Some(key);
                self.turns.has_left.notify_one();
                return;
            }
            Some(error) if error.status().is_some() => schedule.answered = now,
            Some(_) => {}
        }
        // A session lives as long after its last renewal, however often others are refused.
        let since = if error.is_none() { self.begun } else { self.key.since };
        let key = Key { begun: self.begun, ..Key::new(since) };
        *lock(&silences.0) = (self.purpose == Purpose::Renew).then_some(key);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut schedule = lock(&self.turns.schedule);
        if schedule.queue(self.purpose).waiting.remove(&self.ticket).is_none() {
            let granted = self.granted.as_mut().and_then(|granted| granted.try_recv().ok());
            schedule.end(self.purpose, granted.unwrap_or(self.is_silent));
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

    const CONNECTIONS: usize = 64;
    const TIMES: Times = Times {
        least: Duration::from_millis(625),
        most: Duration::from_secs(5),
        pressed: Duration::from_millis(1500),
        half: Duration::from_secs(10),
        silences: 3,
        late: Duration::from_secs(3),
        later: Duration::from_secs(3),
    };
    const LIFE: Duration = Duration::from_secs(20);

    /// Many sessions that are renewed.
    #[derive(Clone, Copy, Debug)]
    struct Scenario {
        keys: usize,
        /// How many of them get no answer.
        silent: usize,
        answered_after: Duration,
        /// From 7 s on no request gets an answer for this long.
        stall: Duration,
        /// How many of 1,000 requests get no answer.
        loses: u64,
    }

    impl Scenario {
        /// When a request has its answer.
        fn answer(&self, key: usize, begun: Instant, random: u64) -> Option<Instant> {
            let stall = Instant::from_origin(Duration::from_secs(7));
            let is_stalled = begun >= stall && begun < stall + self.stall;
            let is_lost = key < self.silent || is_stalled || random % 1000 < self.loses;
            (!is_lost).then(|| begun + self.answered_after)
        }

        /// Whether the sessions of keys that are answered can all be renewed: a round of requests takes half their life.
        fn is_possible(&self) -> bool {
            let (places, patience) =
                (Purpose::Renew.places(), (self.answered_after * 2).max(TIMES.least));
            let healthy = self.answered_after * (self.keys - self.silent) as u32;
            // Each is tried some times before it has places of its own.
            let silent = patience * self.silent as u32 * 3;
            (healthy + silent) / places.answered as u32 + self.stall * 2 < LIFE / 2
        }
    }

    /// A renewal that is on its way.
    struct Running {
        key: usize,
        begun: Instant,
        state: Key,
        class: Class,
        is_silent: bool,
        answer: Option<Instant>,
    }

    enum Happens {
        Due(usize),
        Look(u64),
    }

    /// How long each key has been without an answer at most.
    fn simulate(scenario: &Scenario, time: Duration) -> Vec<Duration> {
        let mut schedule = Schedule::new(CONNECTIONS, |_| TIMES);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut states: Vec<_> = (0..scenario.keys).map(|_| Key::new(Instant::default())).collect();
        let mut longest = vec![Duration::ZERO; scenario.keys];
        let mut renewed = vec![Instant::default(); scenario.keys];
        let (mut running, mut number) = (BTreeMap::<u64, Running>::new(), 0_u64);
        let mut events = BinaryHeap::new();
        let mut happens: BTreeMap<u64, Happens> = BTreeMap::new();
        for key in 0..scenario.keys {
            number += 1;
            let at = Instant::default()
                + Duration::from_millis(3000 * key as u64 / scenario.keys as u64);
            events.push(Reverse((at, number)));
            happens.insert(number, Happens::Due(key));
        }
        while let Some(Reverse((now, event))) = events.pop() {
            if now.since_origin() > time {
                break;
            }
            let mut next = Vec::new();
            match happens.remove(&event) {
                Some(Happens::Due(key)) => {
                    schedule.wait(Purpose::Renew, &states[key], now, key);
                }
                Some(Happens::Look(of)) => {
                    if let Some(mut it) = running.remove(&of) {
                        let (key, took) = (it.key, now - it.begun);
                        let is_answered = it.answer.is_some_and(|at| at <= now);
                        if !is_answered && !it.is_silent {
                            it.is_silent = schedule.move_to_silent(Purpose::Renew);
                        }
                        let queue = schedule.queue(Purpose::Renew);
                        let limit = queue.limit(&it.state, it.class, it.begun, it.is_silent);
                        let pause = Duration::from_secs(3).saturating_sub(took);
                        if is_answered {
                            schedule.note_answer(Purpose::Renew, it.begun, now);
                            states[key] = Key::new(it.begun);
                            schedule.end(Purpose::Renew, it.is_silent);
                            next.push((now + Duration::from_secs(3), Happens::Due(key)));
                        } else if took >= limit {
                            schedule.note_silence(Purpose::Renew, &mut states[key], it.begun, now);
                            schedule.end(Purpose::Renew, it.is_silent);
                            let again = now + pause.max(Duration::from_millis(500));
                            // Consul has ended a session that was not renewed for long.
                            if now - renewed[key] < LIFE {
                                next.push((again, Happens::Due(key)));
                            }
                            next.push((it.begun + REMEMBERED, Happens::Look(0)));
                        } else {
                            let end = it.begun + limit;
                            next.push((it.answer.map_or(end, |at| at.min(end)), Happens::Look(of)));
                            running.insert(of, it);
                        }
                    }
                }
                None => {}
            }
            for (at, what) in next {
                number += 1;
                events.push(Reverse((at, number)));
                happens.insert(number, what);
            }
            while let Some((_, key, is_silent)) = schedule.next(now) {
                let answer = scenario.answer(key, now, rng.u64(..));
                if answer.is_some() {
                    // Consul renews it whether its answer is waited for or not.
                    longest[key] = longest[key].max(now - renewed[key]);
                    renewed[key] = now;
                }
                number += 1;
                let (state, queue) = (states[key], schedule.queue(Purpose::Renew));
                let class = queue.class(&state, now);
                let first = match is_silent {
                    true => queue.limit(&state, class, now, true),
                    false => TIMES.least,
                };
                let look = answer.map_or(now + first, |at| at.min(now + first));
                events.push(Reverse((look, number)));
                happens.insert(number, Happens::Look(number));
                running
                    .insert(number, Running { key, begun: now, state, class, is_silent, answer });
            }
            let (queue, places) =
                (&schedule.queues[Purpose::Renew as usize], Purpose::Renew.places());
            assert!(queue.answered <= places.answered && queue.silent <= places.silent);
            assert!(schedule.open() + queue.left.len() < 170);
        }
        for (longest, renewed) in longest.iter_mut().zip(&renewed) {
            *longest = (*longest).max(Instant::from_origin(time) - *renewed);
        }
        longest
    }

    /// The longest time of a key that is answered.
    fn longest(scenario: &Scenario) -> Duration {
        let longest = simulate(scenario, Duration::from_secs(60));
        longest[scenario.silent..].iter().copied().max().unwrap_or_default()
    }

    fn scenario(keys: usize, silent: usize, after: u64, stall: u64, loses: u64) -> Scenario {
        let (answered_after, stall) = (Duration::from_millis(after), Duration::from_millis(stall));
        Scenario { keys, silent, answered_after, stall, loses }
    }

    #[test]
    fn each_healthy_session_is_renewed_in_time() {
        for (keys, silent, after, stall) in [
            (400, 0, 220, 1200),
            (600, 0, 160, 1200),
            (1000, 0, 80, 1200),
            (1000, 0, 200, 0),
            (300, 0, 700, 0),
            (150, 0, 1650, 0),
            (150, 0, 3000, 0),
            (200, 150, 4, 2000),
            (200, 150, 4, 4000),
            (400, 398, 5, 0),
            (400, 200, 300, 1200),
        ] {
            let scenario = scenario(keys, silent, after, stall, 0);
            let longest = longest(&scenario);
            println!("{scenario:?}: {longest:?}");
            assert!(longest < LIFE, "{scenario:?}: {longest:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn a_session_that_can_be_renewed_is(
            keys in 1..400_usize,
            share in 0..100_usize,
            after in 1..3000_u64,
            stall in 0..4000_u64,
            loses in 0..10_u64,
        ) {
            let scenario = scenario(keys, keys * share / 100, after, stall, loses);
            prop_assume!(scenario.is_possible());
            let longest = longest(&scenario);
            prop_assert!(longest < LIFE, "{scenario:?}: {longest:?}");
        }
    }

    #[test]
    fn a_turn_that_nobody_waits_for_any_more_is_the_next_ones() {
        let clock = ManualClock::new();
        let turns = Turns::new(Arc::new(clock.clone()), CONNECTIONS, |_| TIMES);
        let now = clock.now();
        let places = Purpose::Renew.places().answered;
        let silences = Silences::default();
        let turn = || Box::pin(turns.turn(Purpose::Renew, &silences, now));
        let mut taken: Vec<_> = (0..places).filter_map(|_| turn().now_or_never()).collect();
        assert_eq!(taken.len(), places);
        let (mut gone, mut granted, mut next) = (turn(), turn(), turn());
        for waiting in [&mut gone, &mut granted, &mut next] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(gone);
        // It is granted a turn, and dropped before it learns of that.
        taken.pop();
        drop(granted);
        let next = next.as_mut().now_or_never();
        assert!(next.is_some());
        // A doubtful one has another place.
        let doubtful = Silences(Mutex::new(Some(Key { tries: 1, ..Key::new(now) })));
        assert!(Box::pin(turns.turn(Purpose::Renew, &doubtful, now)).now_or_never().is_some());
        drop((taken, next));
        let schedule = lock(&turns.schedule);
        assert_eq!(
            (schedule.open(), schedule.queues[Purpose::Renew as usize].waiting.len()),
            (0, 0)
        );
    }
}
