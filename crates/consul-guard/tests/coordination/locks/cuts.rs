//! The connection breaks while a session ends: at each of its requests, before and after it is applied. The next
//! holder has the lock no later after that than after the death of the process. The same while something between,
//! or Consul itself, refuses all requests.

use super::on_a_clock::Simulated;
use super::{acquire, call, permit, present, settings};
use crate::support::trials::{Trials, add};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_client::coordination::{Lease, Presence, Profile, Wait};
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::SimTransport;
use http::{Request, Response};
use std::cell::Cell;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn add_to(trials: &mut Trials) {
    add!(trials, a_session_that_ends_behind_a_broken_connection_is_free_in_time, long);
    add!(trials, a_release_with_an_unknown_outcome_can_be_made_again);
    add!(trials, a_release_that_is_refused_says_whether_it_may_have_been_applied);
    add!(trials, a_release_that_was_refused_says_that_the_lock_was_lost_meanwhile);
    add!(trials, an_attempt_that_is_refused_changes_nothing_and_leaves_nothing);
    add!(trials, a_token_that_consul_does_not_know_yet_is_waited_for_and_no_longer_than_the_check);
    add!(trials, an_attempt_that_ends_while_its_session_is_made_leaves_none);
    add!(trials, an_answer_that_never_comes_keeps_no_free_lock_from_its_waiter, long);
    add!(trials, a_stop_without_answers_ends_in_time);
    add!(trials, no_call_blocks_longer_than_its_timeout, long);
}

/// How requests fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Break {
    /// At once.
    Cut,
    /// Without any answer.
    Silent,
    /// With this status and body.
    Refused(u16, &'static str),
}

/// Answers with which something between, or Consul, refuses every request for a while.
const REFUSALS: [Break; 11] = [
    Break::Refused(302, ""),
    Break::Refused(400, "bad request"),
    Break::Refused(401, ""),
    Break::Refused(403, "<html>blocked</html>"),
    Break::Refused(403, "ACL not found"),
    Break::Refused(403, "Permission denied"),
    Break::Refused(404, "no such page"),
    Break::Refused(405, ""),
    Break::Refused(408, ""),
    Break::Refused(413, ""),
    Break::Refused(421, ""),
];

/// How the connection breaks.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The number of the request at which it breaks.
    nth: usize,
    /// Whether that request is applied, and only its answer is lost.
    is_applied: bool,
    how: Break,
    /// With what the paths of the requests begin that fail.
    paths: &'static str,
    lasts: Duration,
}

#[derive(Debug)]
struct Breaking {
    transport: SimTransport,
    clock: ManualClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: Option<Cut>,
    until: Option<Instant>,
    /// The path of the request that was applied and whose answer was lost.
    lost: Option<String>,
}

impl Breaking {
    fn arm(&self, cut: Cut) {
        self.state.lock().expect("no panic elsewhere").cut = Some(cut);
    }

    fn until(&self) -> Option<Instant> {
        self.state.lock().expect("no panic elsewhere").until
    }

    /// Whether a request on this path was applied and its answer lost.
    fn has_lost(&self, path: &str) -> bool {
        self.state.lock().expect("no panic elsewhere").lost.as_deref() == Some(path)
    }

    /// How the next request fails, and whether it is applied.
    fn next(&self, path: &str) -> Option<Cut> {
        let mut state = self.state.lock().expect("no panic elsewhere");
        let state = &mut *state;
        let cut = state.cut.as_mut()?;
        match state.until {
            Some(until) if self.clock.now() < until && path.starts_with(cut.paths) => {
                return Some(Cut { is_applied: false, ..*cut });
            }
            Some(_) => return None,
            None => {}
        }
        // Beats do not count.
        if path.starts_with("/v1/agent/") || !path.starts_with(cut.paths) {
            return None;
        }
        if cut.nth > 0 {
            cut.nth -= 1;
            return None;
        }
        let cut = *cut;
        state.until = Some(self.clock.now() + cut.lasts);
        Some(cut)
    }
}

impl Transport for Breaking {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let Some(cut) = self.next(request.uri().path()) else {
                return self.transport.send(request).await;
            };
            if cut.is_applied {
                let path = request.uri().path().to_owned();
                let answer = self.transport.send(request).await?;
                if answer.status().is_success() {
                    self.state.lock().expect("no panic elsewhere").lost = Some(path);
                }
            }
            match cut.how {
                Break::Silent => pending::<()>().await,
                Break::Refused(status, body) if !cut.is_applied => {
                    let refused = Response::builder().status(status).body(body.into());
                    return Ok(refused.expect("a response"));
                }
                _ => {}
            }
            Err(Error::new(Kind::Connect, "the connection broke").retryable())
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Claim {
    Lock,
    Permit,
}

impl Claim {
    pub async fn acquire(self, process: &Arc<Presence>, wait: Wait) -> Result<Arc<Lease>, Error> {
        match self {
            Claim::Lock => acquire(process, wait).await,
            Claim::Permit => permit(process, 1, wait).await,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    FailedTry,
    AbandonedWait,
    Release,
    Garbage,
    Stop,
}

/// A process that runs on this transport.
fn started(world: &Simulated, transport: Arc<dyn Transport>) -> Arc<Presence> {
    let (clock, rng) = (Arc::new(world.clock.clone()), fastrand::Rng::with_seed(1));
    let client = Client::new(vec![transport], settings(None), clock, rng);
    let process = present(client, Profile::standard());
    let running = Arc::clone(&process);
    world.clock.spawn(async move { match running.run().await {} });
    world.clock.advance(Duration::from_secs(1));
    process
}

/// A process on a connection that can break, with the task that runs its presence.
fn program(
    world: &Simulated,
    profile: Profile,
) -> (Arc<Presence>, Arc<Breaking>, consul_process::clock::TaskId) {
    program_with(world, profile, settings(None), 1)
}

/// Of two programs with one seed both would have the same service and check.
fn program_with(
    world: &Simulated,
    profile: Profile,
    settings: Settings,
    seed: u64,
) -> (Arc<Presence>, Arc<Breaking>, consul_process::clock::TaskId) {
    let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
    let clock = world.clock.clone();
    let breaking = Arc::new(Breaking { transport, clock, state: Mutex::default() });
    let rng = fastrand::Rng::with_seed(seed);
    let clock = Arc::new(world.clock.clone());
    let client = Client::new(vec![Arc::clone(&breaking) as _], settings, clock, rng);
    let process = present(client, profile);
    let running = Arc::clone(&process);
    let task = world.clock.spawn(async move { match running.run().await {} });
    (process, breaking, task)
}

fn a_session_that_ends_behind_a_broken_connection_is_free_in_time() {
    let mut played = 0;
    for claim in [Claim::Lock, Claim::Permit] {
        for end in [End::FailedTry, End::AbandonedWait, End::Release, End::Garbage, End::Stop] {
            let broken = [Break::Cut, Break::Silent];
            let profiles = [Profile::standard(), Profile::fast(), Profile::wan()];
            let broken = broken.into_iter().flat_map(|how| profiles.clone().map(|it| (how, it)));
            // The others are treated alike, as the next test shows.
            let refused = [REFUSALS[0], REFUSALS[5]].map(|how| (how, Profile::standard()));
            for (how, profile) in broken.chain(refused) {
                for is_applied in [false, true] {
                    let lasts = Duration::from_millis(500);
                    let cuts = (0..).map(|nth| Cut { nth, is_applied, how, paths: "", lasts });
                    // Until the end needs no further request.
                    let count = cuts.take_while(|cut| plays(claim, end, &profile, *cut)).count();
                    assert!(count > 0, "{claim:?} {end:?}");
                    played += count;
                }
            }
        }
    }
    assert!(played > 300, "{played} cuts");
}

/// Whether the connection broke.
fn plays(claim: Claim, end: End, profile: &Profile, cut: Cut) -> bool {
    let what = format!("{claim:?} {end:?} {} {cut:?}", profile.name);
    let world = Simulated::new();
    let timers = Arc::clone(&world.agent);
    world.clock.spawn(async move { match timers.run_timers().await {} });
    let (process, breaking, running) = program(&world, profile.clone());
    let other = world.process_with(profile.clone());
    let second = Duration::from_secs(1);
    world.clock.advance(second);
    let lease = match end {
        End::FailedTry | End::AbandonedWait => None,
        _ => {
            let lease = world.run(claim.acquire(&process, Wait::Forever)).expect("it is free");
            world.keep(&lease);
            world.clock.advance(second);
            Some(lease)
        }
    };
    breaking.arm(cut);
    let is_over = Cell::new(false);
    let ends = async {
        match (end, lease) {
            (End::FailedTry, _) => match claim.acquire(&process, Wait::Once).await {
                Ok(lease) => drop(lease.release().await),
                Err(error) => {
                    let is_told = error.maybe_applied() || !breaking.has_lost("/v1/txn");
                    assert!(is_told, "{what}: {error}");
                }
            },
            (End::AbandonedWait, _) => {
                let lease = tokio::select! {
                    biased;
                    lease = claim.acquire(&process, Wait::Forever) => Some(lease),
                    () = world.clock.sleep(Duration::from_millis(200)) => None,
                };
                match lease {
                    Some(Ok(lease)) => drop(lease.release().await),
                    Some(Err(error)) => {
                        assert!(matches!(cut.how, Break::Refused(..)), "{what}: {error}");
                    }
                    None => {}
                }
            }
            (End::Release, Some(lease)) => {
                lease.release().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            (End::Garbage, Some(lease)) => lease.give_up(),
            (_, lease) => {
                world.clock.cancel(running);
                if let Some(lease) = lease {
                    drop(lease.release().await);
                }
                drop(process.deregister().await);
            }
        }
        is_over.set(true);
        world.clock.now()
    };
    // Another process waits from the moment on at which the connection breaks.
    let takes = async {
        while breaking.until().is_none() && !is_over.get() {
            world.clock.sleep(Duration::from_millis(1)).await;
        }
        let granted = claim.acquire(&other, Wait::Forever).await.expect("it becomes free");
        world.keep(&granted);
        (granted, world.clock.now())
    };
    let (ended, (granted, at)) = world.run(async { tokio::join!(ends, takes) });
    let Some(until) = breaking.until() else { return false };
    // A try gives its session up when its time limit is over without an answer.
    let since = if end == End::FailedTry { until.max(ended) } else { until };
    let took = at - since;
    assert!(took <= profile.takeover(), "{what}: {took:?}");
    world.clock.advance(profile.takeover());
    assert!(granted.is_held(), "{what}");
    // The id of a session whose creation was not answered is not known; it holds nothing and ends with its TTL.
    let unknown = usize::from(breaking.has_lost("/v1/session/create"));
    assert_eq!(world.agent.stats().sessions, 1 + unknown, "{what}");
    true
}

fn a_release_with_an_unknown_outcome_can_be_made_again() {
    for claim in [Claim::Lock, Claim::Permit] {
        for how in REFUSALS.into_iter().chain([Break::Cut]) {
            for is_applied in [false, true] {
                can_be_made_again(claim, how, is_applied);
            }
        }
    }
}

fn can_be_made_again(claim: Claim, how: Break, is_applied: bool) {
    let what = format!("{claim:?} {how:?} {is_applied}");
    let world = Simulated::new();
    let (process, breaking, _) = program(&world, Profile::wan());
    let lease = world.run(claim.acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    // Longer than the time limit of a call, shorter than the TTL of the check.
    let lasts = Duration::from_millis(5500);
    // Without beats for so long the check could fail.
    let paths = if how == Break::Cut { "" } else { "/v1/txn" };
    breaking.arm(Cut { nth: 0, is_applied, how, paths, lasts });
    let begun = world.clock.now();
    if matches!(claim, Claim::Permit) && is_applied && how != Break::Cut {
        // The next read shows that the permit is free.
        return world.run(lease.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let error = world.run(lease.release()).expect_err(&what);
    let took = world.clock.now() - begun;
    assert_eq!(took, Duration::from_secs(5), "{what}: one limit for all requests: {error}");
    assert!(error.maybe_applied() && !lease.is_held(), "{what}: {error}");
    world.run(lease.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(world.clock.now() - begun < lasts + Duration::from_secs(2), "{what}");
    let error = world.run(lease.release()).expect_err("it was released");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{what}: {error}");
}

/// The token has lost the permission to write the key, and still has that to end the session.
fn a_release_that_is_refused_says_whether_it_may_have_been_applied() {
    let how = Break::Refused(403, "Permission denied");
    for is_applied in [false, true] {
        let world = Simulated::new();
        let (process, breaking, _) = program(&world, Profile::standard());
        let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
        world.keep(&lease);
        let lasts = Duration::from_secs(60);
        breaking.arm(Cut { nth: 0, is_applied, how, paths: "/v1/txn", lasts });
        let begun = world.clock.now();
        for _ in 0..2 {
            let error = world.run(lease.release()).expect_err("it is refused");
            assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
            assert_eq!(error.maybe_applied(), is_applied, "{error}");
            assert!(world.clock.now() - begun < Duration::from_secs(5), "{error}");
        }
        // The session is ended without the key, so the next holder waits for the lock delay.
        let other = world.process();
        world.run(acquire(&other, Wait::Forever)).expect("it becomes free");
        assert!(
            world.clock.now() - begun <= Profile::standard().takeover() + Duration::from_secs(1)
        );
        assert_eq!(world.agent.stats().sessions, 1);
    }
}

/// No request for the release was applied, so it is not the reason why the lock is not held.
fn a_release_that_was_refused_says_that_the_lock_was_lost_meanwhile() {
    let denied = Break::Refused(403, "Permission denied");
    for refusals in [1, 2, 4] {
        let world = Simulated::new();
        let (process, breaking, _) = program(&world, Profile::wan());
        let other = world.process();
        let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
        let lasts = process.profile().beat * refusals - Duration::from_millis(500);
        breaking.arm(Cut { nth: 0, is_applied: false, how: denied, paths: "/v1/txn", lasts });
        let ends = async {
            world.clock.sleep(Duration::from_millis(100)).await;
            let session = Args::new().arg(lease.session());
            call(other.client(), "session_destroy", session).await;
        };
        let (released, ()) = world.run(async { tokio::join!(lease.release(), ends) });
        let error = released.expect_err("it was lost before it could be released");
        let told = (error.kind(), error.maybe_applied());
        assert_eq!(told, (Kind::Conflict, false), "{refusals}: {error}");
    }
}

fn an_attempt_that_is_refused_changes_nothing_and_leaves_nothing() {
    for claim in [Claim::Lock, Claim::Permit] {
        for body in ["Permission denied", "ACL not found"] {
            let world = Simulated::new();
            let (process, breaking, _) = program(&world, Profile::standard());
            world.clock.advance(Duration::from_secs(1));
            let (how, lasts) = (Break::Refused(403, body), Duration::from_millis(10));
            breaking.arm(Cut { nth: 0, is_applied: false, how, paths: "/v1/txn", lasts });
            let error = world.run(claim.acquire(&process, Wait::Once)).expect_err("it is refused");
            assert!(!error.maybe_applied(), "{claim:?} {body}: {error}");
            // It has ended its session before it returns, as there was time.
            assert_eq!(world.agent.stats().sessions, 0, "{claim:?} {body}");
        }
    }
}

/// As of a program that begins when its token was just made: a server that lags behind does not know it.
fn a_token_that_consul_does_not_know_yet_is_waited_for_and_no_longer_than_the_check() {
    for claim in [Claim::Lock, Claim::Permit] {
        for profile in [Profile::standard(), Profile::fast(), Profile::wan()] {
            for (lasts, is_known) in [(profile.check_ttl / 2, true), (profile.check_ttl * 2, false)]
            {
                let what = format!("{claim:?}, {lasts:?}");
                let world = Simulated::new();
                let (process, breaking, _) = program(&world, profile.clone());
                let how = Break::Refused(403, "ACL not found");
                let paths = "/v1/agent/service/register";
                breaking.arm(Cut { nth: 0, is_applied: false, how, paths, lasts });
                let begun = world.clock.now();
                breaking.state.lock().expect("no panic elsewhere").until = Some(begun + lasts);
                match world.run(claim.acquire(&process, Wait::Forever)) {
                    Ok(_) => assert!(is_known, "{what}"),
                    Err(error) => {
                        assert!(!is_known, "{what}: {error}");
                        assert_eq!(error.kind(), Kind::AclNotFound, "{what}: {error}");
                        let passed = world.clock.now() - begun;
                        assert!(
                            passed >= profile.check_ttl && passed < lasts,
                            "{what}: {passed:?}"
                        );
                    }
                }
            }
        }
    }
}

/// An agent whose answers to requests for sessions are late.
#[derive(Debug)]
struct LateSessions {
    transport: SimTransport,
    clock: ManualClock,
    /// How long before and after the request reaches it.
    late: (Duration, Duration),
}

impl Transport for LateSessions {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            if request.uri().path() != "/v1/session/create" {
                return self.transport.send(request).await;
            }
            self.clock.sleep(self.late.0).await;
            let answer = self.transport.send(request).await;
            self.clock.sleep(self.late.1).await;
            answer
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

fn an_attempt_that_ends_while_its_session_is_made_leaves_none() {
    let ms = Duration::from_millis;
    for claim in [Claim::Lock, Claim::Permit] {
        for late in [(ms(600), ms(0)), (ms(0), ms(600)), (ms(300), ms(300))] {
            for after in [0, 100, 300, 500, 599, 600, 700].map(ms) {
                for is_dropped in [false, true] {
                    let what = format!("{claim:?} {late:?} {after:?}, dropped: {is_dropped}");
                    let world = Simulated::new();
                    let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
                    let clock = world.clock.clone();
                    let process =
                        started(&world, Arc::new(LateSessions { transport, clock, late }));
                    let lease = match is_dropped {
                        true => world.run(async {
                            tokio::select! {
                                biased;
                                lease = claim.acquire(&process, Wait::Forever) => lease.ok(),
                                () = world.clock.sleep(after) => None,
                            }
                        }),
                        false => world.run(claim.acquire(&process, Wait::For(after))).ok(),
                    };
                    if let Some(lease) = lease {
                        world.run(lease.release()).expect("an answer");
                    }
                    world.clock.advance(Duration::from_secs(2));
                    assert_eq!(world.agent.stats().sessions, 0, "{what}");
                }
            }
        }
    }
}

/// Each answer to a waiter in turn is lost without a sign, and all for a while after it, while the time limit of its client is
/// long.
fn an_answer_that_never_comes_keeps_no_free_lock_from_its_waiter() {
    let (mut played, mut worst) = (0, Duration::ZERO);
    for claim in [Claim::Lock, Claim::Permit] {
        for profile in [Profile::standard(), Profile::fast(), Profile::wan()] {
            for (dies, is_applied) in [(false, false), (false, true), (true, false), (true, true)] {
                for lasts in [0, 700, 1600, 4900].map(Duration::from_millis) {
                    for nth in 0..12 {
                        let (how, paths) = (Break::Silent, "");
                        let cut = Cut { nth, is_applied, how, paths, lasts };
                        let Some(late) = is_free_after(claim, &profile, dies, cut) else { break };
                        let what = format!("{claim:?} {} dies: {dies} {cut:?}", profile.name);
                        assert!(late <= profile.check_ttl * 2, "{what}: {late:?} late");
                        (played, worst) = (played + 1, worst.max(late));
                    }
                }
            }
        }
    }
    assert!(played > 50, "{played} answers; at the most {worst:?} late");
}

/// How long after a release, or after the time of a takeover, the waiter has the lock, if an answer was lost.
fn is_free_after(claim: Claim, profile: &Profile, dies: bool, cut: Cut) -> Option<Duration> {
    let world = Simulated::new();
    let timers = Arc::clone(&world.agent);
    world.clock.spawn(async move { match timers.run_timers().await {} });
    let timeout = Duration::from_secs(30);
    let (holder, _, beats) = program(&world, profile.clone());
    let patient = Settings { timeout, ..settings(None) };
    let (waiter, breaking, _) = program_with(&world, profile.clone(), patient, 2);
    let lease = world.run(claim.acquire(&holder, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    world.clock.advance(Duration::from_secs(1));
    breaking.arm(cut);
    let freed = async {
        world.clock.sleep(Duration::from_millis(6100)).await;
        if dies {
            world.clock.cancel(beats);
            return world.clock.now() + profile.takeover();
        }
        lease.release().await.expect("an answer");
        world.clock.now()
    };
    let takes = async {
        let granted = claim.acquire(&waiter, Wait::Forever).await.expect("it becomes free");
        (world.clock.now(), granted)
    };
    let (usual, (at, _granted)) = world.run(async { tokio::join!(freed, takes) });
    let usual = usual.max(breaking.until()?);
    Some(if at > usual { at - usual } else { Duration::ZERO })
}

fn a_stop_without_answers_ends_in_time() {
    for claim in [Claim::Lock, Claim::Permit] {
        for how in [Break::Cut, Break::Silent, REFUSALS[3], REFUSALS[5]] {
            let world = Simulated::new();
            let (process, breaking, running) = program(&world, Profile::standard());
            let lease = world.run(claim.acquire(&process, Wait::Forever)).expect("it is free");
            let lasts = Duration::from_secs(3600);
            // Each request that is not counted is refused, too, after the first that is.
            breaking.arm(Cut { nth: 0, is_applied: false, how, paths: "", lasts });
            world.clock.cancel(running);
            lease.give_up();
            let begun = world.clock.now();
            world.run(process.deregister()).expect_err("nothing answers");
            let took = world.clock.now() - begun;
            let most = process.client().settings().timeout;
            assert!(took <= most, "{claim:?} {how:?}: {took:?}");
        }
    }
}

/// A call that waits for Consul, and its time limit.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Try,
    WaitFor(Duration),
    Release,
    FencedPut,
    Stop,
}

fn no_call_blocks_longer_than_its_timeout() {
    let verbs = [
        Verb::Try,
        Verb::WaitFor(Duration::from_millis(700)),
        Verb::WaitFor(Duration::from_secs(4)),
        Verb::Release,
        Verb::FencedPut,
        Verb::Stop,
    ];
    let kinds = [Break::Cut, Break::Silent, REFUSALS[3], REFUSALS[5], Break::Refused(500, "no")];
    let mut broken = 0;
    for claim in [Claim::Lock, Claim::Permit] {
        for verb in verbs {
            for how in kinds {
                for paths in ["", "/v1/txn", "/v1/kv", "/v1/session"] {
                    for (is_applied, is_taken) in [(false, false), (true, false), (false, true)] {
                        for nth in 0..5 {
                            let lasts = Duration::from_secs(3600);
                            let cut = Cut { nth, is_applied, how, paths, lasts };
                            broken += usize::from(takes_its_time(claim, verb, is_taken, cut));
                        }
                    }
                }
            }
        }
    }
    assert!(broken > 500, "{broken}");
}

/// Whether the connection broke during the call.
fn takes_its_time(claim: Claim, verb: Verb, is_taken: bool, cut: Cut) -> bool {
    let world = Simulated::new();
    let (process, breaking, running) = program(&world, Profile::standard());
    world.clock.advance(Duration::from_secs(1));
    let timeout = process.client().settings().timeout;
    let acquires = matches!(verb, Verb::Try | Verb::WaitFor(_));
    let lease = match acquires {
        true => None,
        false => Some(world.run(claim.acquire(&process, Wait::Forever)).expect("it is free")),
    };
    if acquires && is_taken {
        let other = world.process();
        let held = world.run(claim.acquire(&other, Wait::Forever)).expect("it is free");
        world.keep(&held);
    }
    breaking.arm(cut);
    let begun = world.clock.now();
    let limit = match (verb, &lease) {
        (Verb::Try, _) => {
            drop(world.run(claim.acquire(&process, Wait::Once)));
            timeout
        }
        (Verb::WaitFor(limit), _) => {
            drop(world.run(claim.acquire(&process, Wait::For(limit))));
            limit
        }
        (Verb::Release, Some(lease)) => {
            drop(world.run(lease.release()));
            timeout
        }
        (Verb::FencedPut, Some(lease)) => {
            drop(world.run(lease.fenced_put("data", b"1".to_vec())));
            process.profile().in_flight
        }
        (_, lease) => {
            world.clock.cancel(running);
            lease.iter().for_each(|lease| lease.give_up());
            drop(world.run(process.deregister()));
            timeout
        }
    };
    let took = world.clock.now() - begun;
    assert!(took <= limit, "{claim:?} {verb:?} {is_taken} {cut:?}: {took:?}");
    breaking.until().is_some()
}
