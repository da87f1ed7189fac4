//! On the simulated agent and a clock that the test advances.

mod failures;
mod operators;
mod wrong_answers;

use super::{KEY, acquire, call, permit, present, runtime, settings};
use crate::support::between::{ANSWERS, Between};
use crate::support::lines::logged;
use crate::support::trials::Trials;
use bytes::Bytes;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::lock::{self, LOCK_FLAGS, LockOptions};
use consul_client::coordination::semaphore::SEMAPHORE_FLAGS;
use consul_client::coordination::{Event, Lease, Presence, Profile, Wait};
use consul_client::transport::Transport;
use consul_process::clock::{BoxFuture, Clock, Instant, ManualClock};
use consul_sim::{self as simulate, Agent, SimTransport};
use http::{Request, Response};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;

type Test = fn(&Simulated);

const TESTS: &[(&str, Test)] = &[
    ("after_a_suspension_of_the_machine_it_is_not_held_at_once", suspended_machine),
    ("a_fenced_put_is_written_only_by_the_holder", fenced_put),
    ("who_withdraws_is_no_service_and_has_no_session_any_more", withdrawn),
    ("a_missing_permission_ends_the_wait", missing_permission),
    ("a_value_that_no_transaction_holds_is_named_with_its_size", large_values),
    ("a_wait_that_goes_on_failing_says_so_once_after_three_seconds", failing_wait),
    ("a_semaphore_has_as_many_holders_as_permits", permits),
    ("a_dead_holders_permit_is_given_away_after_the_lock_delay", dead_holders_permit),
    ("attempts_shorter_than_the_lock_delay_get_a_dead_holders_permit", short_attempts),
    ("a_permit_is_given_away_after_the_lock_delay_of_its_holder", delay_of_the_holder),
    ("a_dead_holder_of_the_go_client_keeps_its_permit_for_its_lock_delay", foreign_holder),
    ("of_several_dead_holders_the_first_to_be_free_makes_room", several_dead_holders),
    ("a_permit_that_a_guard_gave_back_is_free_at_once", given_back),
    ("a_lock_has_the_wanted_value_although_the_answer_was_lost", lost_answer),
    ("a_lock_and_a_permit_whose_first_answer_is_lost_are_held", late_answers),
    ("an_attempt_that_was_lost_while_another_session_took_the_lock_has_failed", lost_request),
    ("a_session_that_is_refused_ends_the_wait_at_once", refused_session),
    ("a_put_by_another_client_ends_the_lock", foreign_put),
    ("a_key_that_is_not_a_lock_is_left_alone", operators::other_flags),
    ("a_key_that_an_operator_has_changed_is_taken_when_nobody_holds_it", operators::operated),
    (
        "a_document_that_was_overwritten_is_replaced_when_nobody_holds_a_permit",
        operators::operated_semaphore,
    ),
    (
        "a_document_that_was_overwritten_is_replaced_beside_who_holds_no_permit",
        operators::operated_semaphore_of_others,
    ),
    (
        "a_document_that_was_overwritten_is_written_again_by_its_holders",
        operators::document_of_holders,
    ),
    (
        "a_permit_is_released_although_its_document_was_overwritten",
        operators::document_at_a_release,
    ),
    ("what_is_deregistered_from_the_catalog_is_back_in_time", operators::deregistered),
    (
        "short_attempts_get_what_an_operator_has_overwritten",
        operators::short_attempts_after_an_operator,
    ),
    ("the_end_of_a_wait_says_what_was_in_its_way", operators::end_of_a_wait),
    ("another_limit_of_a_semaphore_counts_when_nobody_holds_a_permit", operators::another_limit),
    (
        "whatever_number_of_dead_holders_a_semaphore_has_there_is_a_next_one",
        operators::crowds_of_dead_holders,
    ),
    (
        "what_is_no_session_holds_no_permit_and_its_key_is_left_alone",
        operators::holders_that_are_no_sessions,
    ),
    ("a_proof_counts_from_its_start", failures::slow_proofs),
    ("a_waiting_program_sends_little", failures::waiting_sends_little),
    ("a_waiter_pauses_although_its_queries_do_not_block", failures::unblocked_waiter),
    ("a_lock_is_not_kept_any_more_once_it_is_released", failures::keeping_ends),
    ("renewals_follow_the_ttl_of_the_reply", renewals),
    ("between_two_lost_races_there_is_a_pause", failures::lost_races),
    ("answers_of_another_program_end_no_lock_and_no_permit [long]", wrong_answers::other_program),
    (
        "a_process_whose_agent_is_another_program_goes_to_the_next_one",
        wrong_answers::other_program_as_agent,
    ),
    ("answers_of_another_program_end_no_wait_for_a_lock", wrong_answers::other_program_and_waiter),
    (
        "a_waiter_whose_session_ends_while_its_key_is_made_makes_another_one",
        failures::session_of_a_contender,
    ),
    ("sessions_that_end_at_once_are_made_ever_less_often", failures::useless_sessions),
    (
        "answers_that_are_not_of_the_leader_now_end_no_lock_and_no_permit",
        wrong_answers::wrong_proofs,
    ),
    ("a_loss_that_no_transaction_confirms_is_none", wrong_answers::unconfirmed_loss),
    ("what_a_server_without_a_leader_shows_extends_no_lease", wrong_answers::proof_without_leader),
    (
        "a_lock_and_a_permit_that_a_restored_snapshot_lacks_are_lost",
        wrong_answers::restored_snapshot,
    ),
    ("a_permit_that_acls_hide_is_not_lost", wrong_answers::hidden_permit),
    (
        "a_waiter_whose_waits_end_at_once_renews_its_session_at_its_pace",
        failures::renewals_of_waiters,
    ),
    ("a_waiter_behind_a_cache_that_marks_nothing_has_a_free_lock_in_time", failures::cached_waiter),
    ("a_renewal_whose_reply_has_a_ttl_of_a_day_ends_no_lock", failures::day_of_renewal),
];

pub fn add_to(trials: &mut Trials) {
    for (name, run) in TESTS {
        trials.add(name, || run(&Simulated::new()));
    }
}

/// A simulated agent on a clock that the test advances.
pub struct Simulated {
    pub clock: ManualClock,
    pub agent: Arc<Agent>,
    processes: AtomicU64,
}

impl Simulated {
    pub fn new() -> Self {
        Self::with(simulate::Options::default())
    }

    pub fn with(options: simulate::Options) -> Self {
        let clock = ManualClock::new();
        let options = simulate::Options { clock: Arc::new(clock.clone()), seed: 1, ..options };
        let (agent, processes) = (Arc::new(Agent::new(options)), AtomicU64::new(0));
        Self { clock, agent, processes }
    }

    pub fn run<R>(&self, work: impl Future<Output = R>) -> R {
        runtime().block_on(self.clock.drive(work))
    }

    fn client(&self, clock: Arc<dyn Clock>) -> Client {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let transport = transport.for_client(number.to_string());
        let rng = fastrand::Rng::with_seed(number);
        Client::new(vec![Arc::new(transport)], settings(None), clock, rng)
    }

    /// A process; the first is the client `0` of the agent's faults.
    pub fn process(&self) -> Arc<Presence> {
        self.process_on(Arc::new(self.clock.clone()))
    }

    fn process_on(&self, clock: Arc<dyn Clock>) -> Arc<Presence> {
        self.running(present(self.client(clock), Profile::standard()))
    }

    pub fn process_with(&self, profile: Profile) -> Arc<Presence> {
        self.running(present(self.client(Arc::new(self.clock.clone())), profile))
    }

    /// A process whose requests go through `wrap`.
    fn process_behind(
        &self,
        wrap: impl FnOnce(SimTransport) -> Arc<dyn Transport>,
    ) -> Arc<Presence> {
        let transport = SimTransport::new(Arc::clone(&self.agent), "simulated");
        let clock = Arc::new(self.clock.clone());
        let rng = fastrand::Rng::with_seed(1);
        let client = Client::new(vec![wrap(transport)], settings(None), clock, rng);
        self.running(present(client, Profile::standard()))
    }

    pub fn running(&self, presence: Arc<Presence>) -> Arc<Presence> {
        let running = Arc::clone(&presence);
        self.clock.spawn(async move { match running.run().await {} });
        presence
    }

    fn destroy_session(&self, process: &Presence, session: &str) {
        self.run(call(process.client(), "session_destroy", Args::new().arg(session)));
    }

    pub fn keep(&self, lease: &Arc<Lease>) {
        let lease = Arc::clone(lease);
        self.clock.spawn(async move { drop(lease.keep().await) });
    }

    pub fn cut_off(&self, process: &str) {
        let clients = vec![process.to_owned()];
        let fault = simulate::Fault { clients, partition: true, ..simulate::Fault::default() };
        self.agent.add_fault(fault);
    }
}

/// Its processes hold the clock, which holds them.
impl Drop for Simulated {
    fn drop(&mut self) {
        self.clock.cancel_all();
    }
}

/// A clock that continues while the machine is suspended, unlike its timers.
#[derive(Debug, Default)]
struct Suspended {
    awake: ManualClock,
    slept_ms: AtomicU64,
}

impl Suspended {
    fn slept(&self) -> Duration {
        Duration::from_millis(self.slept_ms.load(Ordering::Relaxed))
    }
}

impl Clock for Suspended {
    fn now(&self) -> Instant {
        self.awake.now() + self.slept()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        // The rest of a timer at the beginning of the sleep passes after the machine has resumed.
        self.awake.sleep(deadline - self.now())
    }
}

fn suspended_machine(world: &Simulated) {
    let clock = Arc::new(Suspended { awake: world.clock.clone(), slept_ms: AtomicU64::new(0) });
    let process = world.process_on(Arc::clone(&clock) as Arc<dyn Clock>);
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    world.clock.advance(Duration::from_secs(10));
    assert!(lease.is_held() && lease.poll_event().is_none());
    // The servers run on other machines and have given the lock away meanwhile.
    world.cut_off("0");
    clock.slept_ms.store(3_600_000, Ordering::Relaxed);
    // Nothing has run yet.
    assert!(!lease.is_held());
    assert_eq!(lease.remaining(), Duration::ZERO);
    assert_eq!(lease.poll_event(), None);
    world.clock.advance(process.profile().proof_interval());
    assert_eq!(lease.poll_event(), Some(Event::Suspended));
}

fn fenced_put(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    world.run(async {
        let read = async || {
            let args = Args::new().arg("data");
            let answer = one.client().call(&wire::api::kv::GET, &args).await.expect("an answer");
            (answer.value, answer.meta.entry.map(|entry| entry.modify_index))
        };
        let lease = acquire(&one, Wait::Forever).await.expect("it is free");
        let index = lease.fenced_put("data", b"1".to_vec()).await.expect("it is held");
        assert_eq!(read().await, ("1".into(), Some(index)));
        let error = lease.fenced_put(KEY, b"x".to_vec()).await.expect_err("its own key");
        assert_eq!(error.kind(), Kind::Argument, "{error}");
        // Consul itself refuses the write after the end of the session, even if the holder does not
        // know.
        call(two.client(), "session_destroy", Args::new().arg(lease.session())).await;
        assert!(lease.is_held());
        let error = lease.fenced_put("data", b"2".to_vec()).await.expect_err("it is lost");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{error}");
        assert_eq!(read().await, ("1".into(), Some(index)));
        // Nothing is sent once it is not held.
        let before = world.agent.stats().requests;
        world.clock.sleep(one.profile().lease).await;
        let error = lease.fenced_put("data", b"2".to_vec()).await.expect_err("it is suspended");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(world.agent.stats().requests - before < 10, "only beats");
        drop(lease);
        let lease = acquire(&two, Wait::Forever).await.expect("it is free again");
        lease.release().await.expect("it is held");
        let error = lease.fenced_put("data", b"3".to_vec()).await.expect_err("it was released");
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Conflict, false), "{error}");
        assert_eq!(read().await.0, "1".into());
    });
}

fn withdrawn(world: &Simulated) {
    let process = present(world.client(Arc::new(world.clock.clone())), Profile::standard());
    world.run(process.deregister()).expect("there is nothing to withdraw");
    let running = Arc::clone(&process);
    let beats = world.clock.spawn(async move { match running.run().await {} });
    world.run(async {
        let lease = acquire(&process, Wait::Forever).await.expect("it is free");
        let services = call(process.client(), "agent_services", Args::new()).await;
        assert!(format!("{services:?}").contains("consul_ffi-"), "{services:?}");
        world.clock.cancel(beats);
        process.deregister().await.expect("the agent answers");
        let services = call(process.client(), "agent_services", Args::new()).await;
        assert!(!format!("{services:?}").contains("consul_ffi-"), "{services:?}");
        let session = Args::new().arg(lease.session());
        assert_eq!(call(process.client(), "session_info", session).await, Value::Null);
    });
}

fn missing_permission(_: &Simulated) {
    use consul_sim::acl::{Acl, DefaultPolicy, Secret};
    let acl = Acl {
        enabled: true,
        default_policy: DefaultPolicy::Deny,
        initial_management: Some(Secret::new("6a1253d2-1785-24fd-91c2-f8e78c745511")),
        ..Acl::default()
    };
    let world = Simulated::with(simulate::Options { acl, ..simulate::Options::default() });
    let process = world.process();
    let error = world.run(acquire(&process, Wait::Forever)).expect_err("no permission");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(world.clock.now().since_origin() < Duration::from_secs(1));
}

fn large_values(world: &Simulated) {
    let process = world.process();
    for (bytes, is_taken) in [(380_000, true), (400_000, false), (500_000, false)] {
        for is_given in [true, false] {
            let (key, value) = (format!("large/{bytes}/{is_given}"), vec![b'x'; bytes]);
            if !is_given {
                // The lock keeps the value that the key has.
                let put = Args::new().arg(key.as_str()).arg(value.clone()).opt("flags", LOCK_FLAGS);
                world.run(call(process.client(), "kv_put", put));
            }
            let value = is_given.then_some(value);
            let options = LockOptions { value, wait: Wait::Once, is_own: false };
            let held = world.run(lock::acquire(&process, &key, &options));
            assert_eq!(held.is_ok(), is_taken, "{key}: {held:?}");
            if let Err(error) = held {
                assert_eq!(error.kind(), Kind::TooLarge, "{error}");
                assert!(error.message().contains(&format!("{bytes} bytes")), "{error}");
            }
        }
    }
}

fn failing_wait(world: &Simulated) {
    for (wait_s, lines_said) in [(2, 0), (5, 1), (30, 1)] {
        for of_permit in [false, true] {
            let transport = SimTransport::new(Arc::clone(&world.agent), "simulated");
            // A datacenter that does not exist.
            let mut settings = settings(None);
            settings.defaults.dc = Some("mistyped".to_owned());
            let clock = Arc::new(world.clock.clone());
            let client = Client::new(
                vec![Arc::new(transport)],
                settings,
                clock,
                fastrand::Rng::with_seed(1),
            );
            let process = world.running(present(client, Profile::standard()));
            logged(Level::WARN, Arc::new(world.clock.clone()), |lines| {
                let wait = Wait::For(Duration::from_secs(wait_s));
                let error = match of_permit {
                    false => world.run(acquire(&process, wait)).expect_err("no such datacenter"),
                    true => world.run(permit(&process, 1, wait)).expect_err("no such datacenter"),
                };
                assert_eq!(error.kind(), Kind::Timeout, "{error}");
                let said = lines.count("still not acquired");
                assert_eq!(said, lines_said, "{wait_s} s: {}", lines.text());
                assert_eq!(lines.count("No path to datacenter"), lines_said, "{}", lines.text());
            });
        }
    }
}

fn permits(world: &Simulated) {
    let processes: Vec<_> = (0..4).map(|_| world.process()).collect();
    world.run(async {
        let one = permit(&processes[0], 2, Wait::Forever).await.expect("a permit is free");
        let two = permit(&processes[1], 2, Wait::Forever).await.expect("a permit is free");
        world.keep(&one);
        world.keep(&two);
        assert!(two.token() > one.token());
        let error = permit(&processes[2], 2, Wait::Once).await.expect_err("none is free");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let error = permit(&processes[2], 3, Wait::Once).await.expect_err("another limit");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let error = permit(&processes[0], 2, Wait::Forever).await.expect_err("it has one");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        let limit = Wait::For(Duration::from_secs(2));
        let error = permit(&processes[2], 2, limit).await.expect_err("none becomes free");
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        // Neither a key nor a session is left of the three that failed.
        let keys = call(processes[3].client(), "kv_keys", Args::new().arg("permits/")).await;
        assert_eq!(keys.items().len(), 3, "{keys:?}");
        assert_eq!(world.agent.stats().sessions, 2);
        one.release().await.expect("it is held");
        let three = permit(&processes[2], 2, Wait::Once).await.expect("one is free again");
        assert!(three.token() > two.token());
        two.fenced_put("data", b"1".to_vec()).await.expect("it holds a permit");
        let own = format!("permits/{}", two.session());
        let error = two.fenced_put(&own, Vec::new()).await.expect_err("its own key");
        assert_eq!(error.kind(), Kind::Argument, "{error}");
    });
}

fn dead_holders_permit(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let lease = world.run(permit(&one, 1, Wait::Forever)).expect("a permit is free");
    world.keep(&lease);
    world.destroy_session(&two, lease.session());
    let taken = world.run(async {
        let begun = world.clock.now();
        let next = permit(&two, 1, Wait::Forever).await.expect("it becomes free");
        assert!(next.token() > lease.token());
        world.clock.now() - begun
    });
    assert!(!lease.is_held());
    let delay = one.profile().lock_delay;
    assert!((delay..delay + Duration::from_millis(200)).contains(&taken), "{taken:?}");
}

fn short_attempts(world: &Simulated) {
    let one = world.process();
    for wait in [Wait::Once, Wait::For(Duration::from_secs(1))] {
        let lease = world.run(permit(&one, 1, Wait::Forever)).expect("a permit is free");
        world.keep(&lease);
        world.destroy_session(&one, lease.session());
        let begun = world.clock.now();
        // Each attempt is that of a new process, which remembers nothing.
        let next = loop {
            match world.run(permit(&world.process(), 1, wait)) {
                Ok(next) => break next,
                Err(error) => {
                    assert!(world.clock.now() - begun < Duration::from_secs(10), "{error}")
                }
            }
            world.clock.advance(Duration::from_millis(100));
        };
        let (taken, delay) = (world.clock.now() - begun, one.profile().lock_delay);
        assert!((delay..delay + Duration::from_millis(500)).contains(&taken), "{taken:?}");
        world.run(next.release()).expect("it is held");
    }
}

fn several_dead_holders(world: &Simulated) {
    let slow = world.process_with(Profile::wan());
    let fast = world.process_with(Profile::fast());
    let (three, four) = (world.process(), world.process());
    let leases = [&slow, &fast]
        .map(|process| world.run(permit(process, 3, Wait::Forever)).expect("a permit is free"));
    for lease in &leases {
        world.destroy_session(&three, lease.session());
    }
    let begun = world.clock.now();
    // The third permit is free, whatever the others are.
    let third = world.run(permit(&three, 3, Wait::Once)).expect("a permit is free");
    world.keep(&third);
    let next = world.run(permit(&four, 3, Wait::Forever)).expect("it becomes free");
    let (taken, delay) = (world.clock.now() - begun, fast.profile().lock_delay);
    assert!((delay..delay + Duration::from_millis(200)).contains(&taken), "{taken:?}");
    let stored = world.run(document(&three));
    let stays = [&leases[0], &third, &next].iter().all(|lease| stored.contains(lease.session()));
    assert!(stays && !stored.contains(leases[1].session()), "{stored}");
}

fn delay_of_the_holder(world: &Simulated) {
    // The first process is cut off.
    let profiles = [Profile::wan(), Profile::fast()];
    let [one, two] = profiles.map(|profile| world.process_with(profile));
    let lease = world.run(permit(&one, 1, Wait::Forever)).expect("a permit is free");
    world.keep(&lease);
    world.clock.advance(one.profile().proof_interval());
    world.cut_off("0");
    world.destroy_session(&two, lease.session());
    let begun = world.clock.now();
    let next = world.run(permit(&two, 1, Wait::Forever)).expect("it becomes free");
    assert!(!lease.is_held() && next.is_held());
    let (taken, delay) = (world.clock.now() - begun, one.profile().lock_delay);
    assert!((delay..delay + Duration::from_millis(200)).contains(&taken), "{taken:?}");
    // In the layout of the Go client, without a trace of the dead holder.
    let (stored, session) = (world.run(document(&two)), next.session());
    assert_eq!(stored, format!(r#"{{"Limit":1,"Holders":{{"{session}":true}}}}"#));
    let keys = world.run(call(two.client(), "kv_keys", Args::new().arg("permits/")));
    assert_eq!(keys.items().len(), 2, "{keys:?}");
    world.run(next.release()).expect("it is held");
    assert_eq!(world.run(document(&two)), r#"{"Limit":1,"Holders":{}}"#);
}

async fn document(process: &Presence) -> String {
    let document = call(process.client(), "kv_get", Args::new().arg("permits/.lock")).await;
    document.as_str().expect("a text").to_owned()
}

/// A holder that does not have this module's lock delay: its session's is Consul's default of 15 s.
async fn hold_as_the_go_client(process: &Presence) -> String {
    let session = call(process.client(), "session_create", Args::new()).await;
    let session = session.as_str().expect("an id").to_owned();
    let key = Args::new().arg(format!("permits/{session}")).arg("").opt("acquire", &*session);
    call(process.client(), "kv_put", key).await;
    let document = format!(r#"{{"Limit":1,"Holders":{{"{session}":true}}}}"#);
    let document = Args::new().arg("permits/.lock").arg(document);
    call(process.client(), "kv_put", document.opt("flags", SEMAPHORE_FLAGS)).await;
    session
}

fn foreign_holder(world: &Simulated) {
    let two = world.process_with(Profile::fast());
    world.run(async {
        let session = hold_as_the_go_client(&two).await;
        permit(&two, 1, Wait::Once).await.expect_err("it is held");
        call(two.client(), "session_destroy", Args::new().arg(session)).await;
        let begun = world.clock.now();
        permit(&two, 1, Wait::Forever).await.expect("it becomes free");
        let (taken, delay) = (world.clock.now() - begun, Duration::from_secs(15));
        assert!((delay..delay + Duration::from_millis(200)).contains(&taken), "{taken:?}");
    });
}

fn given_back(world: &Simulated) {
    let two = world.process();
    world.run(async {
        let session = hold_as_the_go_client(&two).await;
        let key = format!("permits/{session}");
        let given_back = Args::new().arg(key).arg("given back").opt("release", &*session);
        call(two.client(), "kv_put", given_back).await;
        call(two.client(), "session_destroy", Args::new().arg(session)).await;
        permit(&two, 1, Wait::Once).await.expect("it is free");
        let keys = call(two.client(), "kv_keys", Args::new().arg("permits/")).await;
        assert_eq!(keys.items().len(), 2, "{keys:?}");
    });
}

/// An agent under load, which answers renewals with a longer TTL.
#[derive(Debug)]
struct Loaded {
    transport: SimTransport,
    clock: ManualClock,
    renewed: Mutex<Vec<Duration>>,
    is_failing: AtomicBool,
}

impl Transport for Loaded {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_renewal = request.uri().path().starts_with("/v1/session/renew/");
        if is_renewal {
            let now = self.clock.now().since_origin();
            self.renewed.lock().expect("no panic elsewhere").push(now);
        }
        Box::pin(async move {
            let mut answer = self.transport.send(request).await?;
            if is_renewal && self.is_failing.load(Ordering::Relaxed) {
                *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                *answer.body_mut() = Bytes::from_static(b"an error");
            }
            let body = String::from_utf8_lossy(answer.body());
            if is_renewal && body.contains("\"TTL\"") {
                let body = body.replace("10s", "40s");
                *answer.body_mut() = Bytes::from(body);
            }
            Ok(answer)
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

fn renewals(world: &Simulated) {
    let mut loaded = None;
    let process = world.process_behind(|transport| {
        let is_failing = AtomicBool::new(false);
        let clock = world.clock.clone();
        let agent = Arc::new(Loaded { transport, clock, renewed: Mutex::default(), is_failing });
        loaded = Some(Arc::clone(&agent));
        agent
    });
    let loaded = loaded.expect("it was made");
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let pauses = |seconds| {
        world.clock.advance(Duration::from_secs(seconds));
        let renewed = std::mem::take(&mut *loaded.renewed.lock().expect("no panic elsewhere"));
        let pauses = renewed.windows(2).map(|pair| (pair[1] - pair[0]).as_secs());
        pauses.collect::<Vec<_>>()
    };
    // The first after 3 s, then each after 12 s, which is as far from the end of 40 s as 3 s from 10 s.
    assert_eq!(pauses(30), [12, 12]);
    // The agent has another leader, which knows nothing of a longer TTL.
    loaded.is_failing.store(true, Ordering::Relaxed);
    assert!(pauses(24).iter().all(|pause| (2..=6).contains(pause)));
}

/// A network that loses the answer to the first transaction, after which another client writes the key.
#[derive(Debug)]
struct LosesAnswer {
    transport: SimTransport,
    is_lost: AtomicBool,
}

impl Transport for LosesAnswer {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let is_txn = request.uri().path() == "/v1/txn";
            let answer = self.transport.send(request).await;
            if !is_txn || self.is_lost.swap(true, Ordering::Relaxed) {
                return answer;
            }
            let put = Request::put(format!("/v1/kv/{KEY}?flags={LOCK_FLAGS}"));
            let put = put.body(Bytes::from_static(b"another's")).expect("a valid request");
            self.transport.send(put).await?;
            Err(Error::new(Kind::Connect, "the connection was cut").retryable())
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

/// A network that loses the first transaction, while another session takes the lock.
#[derive(Debug)]
struct LosesRequest {
    transport: SimTransport,
    is_lost: AtomicBool,
}

impl Transport for LosesRequest {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let is_txn = request.uri().path() == "/v1/txn";
            if !is_txn || self.is_lost.swap(true, Ordering::Relaxed) {
                return self.transport.send(request).await;
            }
            let put = |target: &str| Request::put(target).body(Bytes::new()).expect("a request");
            let created = self.transport.send(put("/v1/session/create")).await?;
            let created: serde_json::Value = serde_json::from_slice(created.body()).expect("JSON");
            let session = created["ID"].as_str().expect("an id");
            let acquire = format!("/v1/kv/{KEY}?flags={LOCK_FLAGS}&acquire={session}");
            assert_eq!(self.transport.send(put(&acquire)).await?.body(), "true");
            Err(Error::new(Kind::Connect, "the connection was cut").retryable())
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

fn lost_request(world: &Simulated) {
    let process = world.process_behind(|transport| {
        Arc::new(LosesRequest { transport, is_lost: AtomicBool::new(false) })
    });
    let error = world.run(acquire(&process, Wait::Once)).expect_err("another session holds it");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.message().starts_with(&format!("lock {KEY:?}: session ")), "{error}");
}

/// An agent that refuses to create sessions.
#[derive(Debug)]
struct RefusesSessions(SimTransport);

impl Transport for RefusesSessions {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if request.uri().path() != "/v1/session/create" {
            return self.0.send(request);
        }
        let refused = Response::builder().status(403).body(Bytes::from("Permission denied"));
        Box::pin(async { Ok(refused.expect("a response")) })
    }

    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}

fn refused_session(world: &Simulated) {
    let process = world.process_behind(|transport| Arc::new(RefusesSessions(transport)));
    let error = world.run(acquire(&process, Wait::Forever)).expect_err("no session");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(world.clock.now().since_origin() < Duration::from_secs(1));
}

fn lost_answer(world: &Simulated) {
    let process = world.process_behind(|transport| {
        Arc::new(LosesAnswer { transport, is_lost: AtomicBool::new(false) })
    });
    let options = LockOptions { value: Some(b"mine".to_vec()), wait: Wait::Forever, is_own: false };
    let lease = world.run(lock::acquire(&process, KEY, &options)).expect("it is free");
    world.keep(&lease);
    world.clock.advance(Duration::from_secs(5));
    assert!(lease.is_held() && lease.poll_event().is_none());
    let entry = world.run(process.client().call(&wire::api::kv::GET, &Args::new().arg(KEY)));
    let entry = entry.expect("an answer");
    assert_eq!(entry.value, "mine".into());
    let meta = entry.meta.entry.expect("the key exists");
    assert_eq!(
        (meta.session.as_deref(), meta.modify_index),
        (Some(lease.session()), lease.token())
    );
}

/// A balancer that loses the answer to the first transaction, some time later, and a cache for reads that are not linearizable.
#[derive(Debug)]
struct LateAndCached {
    transport: SimTransport,
    clock: ManualClock,
    after: Duration,
    loses: bool,
    is_lost: AtomicBool,
    cached: Mutex<BTreeMap<String, Response<Bytes>>>,
}

impl Transport for LateAndCached {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let target = request.uri().to_string();
            let is_txn = target.starts_with("/v1/txn");
            let is_cached = target.starts_with("/v1/kv/") && !target.contains("consistent");
            let copy = |of: &Response<Bytes>| {
                let mut copy = Response::new(of.body().clone());
                *copy.status_mut() = of.status();
                *copy.headers_mut() = of.headers().clone();
                copy
            };
            let cached = || self.cached.lock().expect("no panic elsewhere");
            if let Some(known) = cached().get(&target).filter(|_| is_cached).map(copy) {
                return Ok(known);
            }
            let answer = self.transport.send(request).await?;
            if is_cached {
                cached().insert(target, copy(&answer));
            }
            if is_txn && !self.is_lost.swap(true, Ordering::Relaxed) {
                self.clock.sleep(self.after).await;
                if self.loses {
                    let lost = Response::builder().status(504).body(Bytes::from_static(b"timeout"));
                    return Ok(lost.expect("a valid answer"));
                }
            }
            Ok(answer)
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

/// Also where the second one comes after a whole lease.
fn late_answers(world: &Simulated) {
    let times = [0, 1900, 2100, 4000].map(Duration::from_millis);
    for (after, loses) in times.into_iter().flat_map(|after| [(after, true), (after, false)]) {
        let process = || {
            world.process_behind(|transport| {
                let (is_lost, cached) = (AtomicBool::new(false), Mutex::default());
                let clock = world.clock.clone();
                Arc::new(LateAndCached { transport, clock, after, loses, is_lost, cached })
            })
        };
        let limit = Wait::For(after + Duration::from_secs(3));
        let lock = world.run(acquire(&process(), limit)).expect("it is free");
        assert!(lock.is_held(), "the lock after {after:?}, {loses}");
        world.run(lock.release()).expect("an answer");
        let permit = world.run(permit(&process(), 1, limit)).expect("it is free");
        assert!(permit.is_held(), "the permit after {after:?}, {loses}");
        world.run(permit.release()).expect("an answer");
        world.clock.advance(Duration::from_secs(20));
    }
}

fn foreign_put(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let lease = world.run(acquire(&one, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let put = Args::new().arg(KEY).arg("another's");
    world.run(call(two.client(), "kv_put", put.clone()));
    // Consul leaves the session on the key; only the token of the proof shows the write.
    world.clock.advance(one.profile().proof_interval() * 2);
    assert!(!lease.is_held() && lease.has_ended());
    let lost = Event::Lost("another client wrote its key".to_owned());
    assert_eq!(lease.poll_event(), Some(lost));
    // The put has taken the flags of a lock away; the value stays, and the next holder's token is higher.
    let error = world.run(acquire(&two, Wait::Forever)).expect_err("it is not a lock any more");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    world.run(call(two.client(), "kv_put", put.opt("flags", LOCK_FLAGS)));
    let next = world.run(acquire(&two, Wait::Forever)).expect("it becomes free");
    assert!(next.token() > lease.token());
    let value = world.run(call(two.client(), "kv_get", Args::new().arg(KEY)));
    assert_eq!(value, "another's".into());
}
