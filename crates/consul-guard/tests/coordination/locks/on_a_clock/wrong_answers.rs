//! Answers that are not from Consul's leader of now end no lock.

use super::failures::refused_transaction;
use super::*;

/// A process, and what is between it and Consul.
pub(super) fn behind(world: &Simulated) -> (Arc<Presence>, Between) {
    let between = Between::new(&world.agent, "between");
    let transport = between.clone();
    (world.process_behind(|_| Arc::new(transport)), between)
}

pub(super) fn other_program_as_agent(_: &Simulated) {
    // An agent that has registered a service says nothing, too.
    for answer in ANSWERS.iter().filter(|(status, body)| (*status, *body) != (200, "")) {
        let world = Simulated::new();
        let between = Between::new(&world.agent, "between");
        let transports: Vec<Arc<dyn Transport>> = vec![
            Arc::new(between.clone()),
            Arc::new(SimTransport::new(Arc::clone(&world.agent), "simulated")),
        ];
        let clock = Arc::new(world.clock.clone());
        let client = Client::new(transports, settings(None), clock, fastrand::Rng::with_seed(1));
        let process = world.running(present(client, Profile::standard()));
        for is_registered in [false, true] {
            between.set(Some(("/v1/agent/", *answer)));
            if is_registered {
                world.clock.advance(process.profile().check_ttl * 3);
            }
            let limit = Wait::For(process.profile().takeover() * 2);
            let lease = world.run(acquire(&process, limit));
            let lease = lease.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
            world.run(lease.release()).expect("an answer");
            between.set(None);
        }
    }
}

pub(super) fn other_program(_: &Simulated) {
    for answer in ANSWERS {
        for path in ["/v1/kv/", "/v1/session/", "/v1/agent/", "/v1/txn", "/"] {
            let world = Simulated::new();
            let (process, between) = behind(&world);
            let lock = world.run(acquire(&process, Wait::Once)).expect("it is free");
            let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
            world.keep(&lock);
            world.keep(&permit);
            world.run(world.clock.sleep(Duration::from_secs(2)));
            between.set(Some((path, *answer)));
            // Shorter than the check lives without a beat, and longer than three proofs take.
            world.run(world.clock.sleep(Duration::from_secs(2)));
            between.set(None);
            world.run(world.clock.sleep(Duration::from_secs(10)));
            for lease in [&lock, &permit] {
                let events: Vec<_> = std::iter::from_fn(|| lease.poll_event()).collect();
                let is_lost = events.iter().any(|event| matches!(event, Event::Lost(_)));
                assert!(!is_lost && lease.is_held(), "{path} {answer:?}: {events:?}");
            }
            let put = world.run(lock.fenced_put("data", b"1".to_vec()));
            put.unwrap_or_else(|error| panic!("{path} {answer:?}: {error}"));
            between.set(Some(("/v1/txn", *answer)));
            let error =
                world.run(lock.fenced_put("data", b"2".to_vec())).expect_err("not Consul's");
            assert_eq!((error.kind(), error.maybe_applied()), (Kind::Decode, true), "{error}");
        }
    }
}

pub(super) fn other_program_and_waiter(_: &Simulated) {
    for answer in ANSWERS {
        let world = Simulated::new();
        let holder = world.process();
        let held = world.run(acquire(&holder, Wait::Once)).expect("it is free");
        world.keep(&held);
        let (waiter, between) = behind(&world);
        between.set(Some(("/", *answer)));
        let clock = world.clock.clone();
        world.clock.spawn(async move {
            clock.sleep(Duration::from_secs(20)).await;
            between.set(None);
            held.release().await.expect("it is held");
        });
        let wait = Wait::For(Duration::from_secs(60));
        let lease = world.run(acquire(&waiter, wait));
        assert!(lease.is_ok_and(|lease| lease.is_held()), "{answer:?}");
    }
}

/// The change of an answer to a read: by the path and query, the answer, and the fencing token of the holder.
pub(super) type Wrong = fn(&str, &Response<Bytes>, u64) -> Response<Bytes>;

/// A transport whose answers to linearizable reads, to transactions that only read and to renewals are changed while
/// there is a change.
#[derive(Debug)]
pub(super) struct Changes {
    transport: SimTransport,
    wrong: Mutex<Option<(Wrong, u64)>>,
    renewals: AtomicU64,
}

impl Changes {
    fn set(&self, wrong: Option<(Wrong, u64)>) {
        *self.wrong.lock().expect("no panic") = wrong;
    }
}

impl Transport for Changes {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let target = request.uri().to_string();
        let is_renewal = target.starts_with("/v1/session/renew");
        let is_proof = target.contains("consistent");
        self.renewals.fetch_add(u64::from(is_renewal), Ordering::Relaxed);
        Box::pin(async move {
            let answer = self.transport.send(request).await?;
            let wrong = *self.wrong.lock().expect("no panic");
            let wrong = wrong.filter(|_| is_proof || is_renewal);
            Ok(wrong.map_or(answer.clone(), |(wrong, token)| wrong(&target, &answer, token)))
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

/// A process whose answers can be changed.
pub(super) fn with_changes(world: &Simulated) -> (Arc<Presence>, Arc<Changes>) {
    let mut made = None;
    let process = world.process_behind(|transport| {
        let (wrong, renewals) = (Mutex::default(), AtomicU64::new(0));
        let changes = Arc::new(Changes { transport, wrong, renewals });
        made = Some(Arc::clone(&changes));
        changes
    });
    (process, made.expect("it was made"))
}

/// With other headers.
pub(super) fn with(answer: &Response<Bytes>, headers: &[(&'static str, &str)]) -> Response<Bytes> {
    let mut answer = answer.clone();
    for (name, value) in headers {
        answer.headers_mut().insert(*name, value.parse().expect("a header"));
    }
    answer
}

/// That there is nothing, at this index.
pub(super) fn nothing(answer: &Response<Bytes>, index: u64) -> Response<Bytes> {
    let mut answer = with(answer, &[("x-consul-index", &index.to_string())]);
    *answer.status_mut() = http::StatusCode::NOT_FOUND;
    *answer.body_mut() = Bytes::new();
    answer
}

/// The keys without a holder, as they are or as they were before the grant.
pub(super) fn free(answer: &Response<Bytes>, index: Option<u64>) -> Response<Bytes> {
    let mut entries: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
    for entry in entries.as_array_mut().expect("entries") {
        let entry = entry.as_object_mut().expect("an entry");
        entry.remove("Session");
        if entry["Key"].as_str().is_some_and(|key| key.ends_with("/.lock")) {
            // {"Limit":1,"Holders":{}}
            entry.insert("Value".into(), "eyJMaW1pdCI6MSwiSG9sZGVycyI6e319".into());
        }
        if let Some(index) = index {
            entry.insert("ModifyIndex".into(), index.into());
        }
    }
    let mut answer = answer.clone();
    *answer.body_mut() = entries.to_string().into();
    match index {
        Some(index) => with(&answer, &[("x-consul-index", &index.to_string())]),
        None => answer,
    }
}

pub(super) const LEADERLESS: [(&str, &str); 2] =
    [("x-consul-knownleader", "false"), ("x-consul-lastcontact", "999999")];

pub(super) fn is_read(target: &str) -> bool {
    target.starts_with("/v1/kv/")
}

pub(super) fn is_renewal(target: &str) -> bool {
    target.starts_with("/v1/session/renew")
}

/// Of a transaction: with the results of another session's key, so that the lease is looked at alone.
pub(super) fn of_another(answer: &Response<Bytes>) -> Response<Bytes> {
    let mut results: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
    for result in results["Results"].as_array_mut().into_iter().flatten() {
        if let Some(session) = result["KV"].get_mut("Session") {
            *session = "another".into();
        }
    }
    let mut answer = answer.clone();
    *answer.body_mut() = results.to_string().into();
    answer
}

/// A transaction with a refused operation.
pub(super) fn refused_at(place: usize, what: &str) -> Response<Bytes> {
    refused_transaction(&serde_json::json!({ "OpIndex": place, "What": what }).to_string())
}

/// A renewal as it is, and a transaction that proves nothing.
pub(super) fn not_proven(target: &str, answer: &Response<Bytes>) -> Response<Bytes> {
    if is_renewal(target) { answer.clone() } else { of_another(answer) }
}

pub(super) const WRONG: &[(&str, Wrong)] = &[
    ("nothing, from before the grant", |target, answer, _| match is_read(target) {
        true => nothing(answer, 1),
        false => not_proven(target, answer),
    }),
    ("nothing, from the future", |target, answer, _| match is_read(target) {
        true => nothing(answer, 99_999),
        false => not_proven(target, answer),
    }),
    ("nothing, without a leader", |target, answer, _| match is_read(target) {
        true => with(&nothing(answer, 99_999), &LEADERLESS),
        false => not_proven(target, answer),
    }),
    ("nothing, the leader was not heard", |target, answer, _| match is_read(target) {
        true => with(&nothing(answer, 99_999), &LEADERLESS[1..]),
        false => not_proven(target, answer),
    }),
    ("nothing, of a cache", |target, answer, _| match is_read(target) {
        true => with(&nothing(answer, 99_999), &[("age", "30")]),
        false => not_proven(target, answer),
    }),
    ("the keys before the grant", |target, answer, token| match is_read(target) {
        true => free(answer, Some(token - 1)),
        false => not_proven(target, answer),
    }),
    ("the keys, free", |target, answer, _| match is_read(target) {
        true => free(answer, None),
        false => not_proven(target, answer),
    }),
    ("no session to renew", without_session),
];

pub(super) fn without_session(target: &str, answer: &Response<Bytes>, _: u64) -> Response<Bytes> {
    let mut gone = answer.clone();
    if target.starts_with("/v1/session/renew") {
        let id = target.split(['/', '?']).nth(4).expect("a session");
        *gone.status_mut() = http::StatusCode::NOT_FOUND;
        *gone.body_mut() = format!("Session id '{id}' not found").into();
    }
    gone
}

/// No transaction is answered.
pub(super) fn without_transaction(target: &str, answer: &Response<Bytes>) -> Response<Bytes> {
    let mut answer = answer.clone();
    if target.starts_with("/v1/txn") {
        *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
    }
    answer
}

pub(super) fn wrong_proofs(_: &Simulated) {
    for (what, wrong) in WRONG {
        // Shorter than a lease; longer than several leases.
        for ms in [700, 10_000] {
            let world = Simulated::new();
            let (process, changes) = with_changes(&world);
            let lock = world.run(acquire(&process, Wait::Once)).expect("it is free");
            let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
            for (lease, other) in [(&lock, &permit), (&permit, &lock)] {
                world.keep(lease);
                world.clock.advance(Duration::from_secs(1));
                changes.set(Some((*wrong, lease.token())));
                let lasts = Duration::from_millis(ms);
                let until = lasts.min(process.profile().lease);
                world.clock.advance(until);
                let is_proven = lasts == until || *what == "no session to renew";
                assert_eq!(lease.is_held(), is_proven, "{what}, {ms} ms");
                world.clock.advance(lasts - until);
                changes.set(None);
                world.clock.advance(Duration::from_secs(5));
                let events: Vec<_> = std::iter::from_fn(|| lease.poll_event()).collect();
                let is_lost = events.iter().any(|event| matches!(event, Event::Lost(_)));
                assert!(!is_lost && lease.is_held(), "{what}, {ms} ms: {events:?}");
                assert!(!other.has_ended(), "{what}, {ms} ms");
            }
            world.run(lock.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
            // Nor does such an answer to its release leave the permit taken.
            changes.set(Some((*wrong, permit.token())));
            let world = &world;
            world.clock.spawn({
                let (clock, changes) = (world.clock.clone(), Arc::clone(&changes));
                async move {
                    clock.sleep(Duration::from_millis(200)).await;
                    changes.set(None);
                }
            });
            world.run(permit.release()).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

/// The answer that shows the loss may be wrong, and no transaction says so.
pub(super) fn unconfirmed_loss(world: &Simulated) {
    let (process, changes) = with_changes(world);
    let lock = world.run(acquire(&process, Wait::Once)).expect("it is free");
    let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
    world.keep(&lock);
    world.keep(&permit);
    let free_keys: Wrong = |target, answer, _| match is_read(target) {
        true => free(answer, None),
        false => without_transaction(target, answer),
    };
    let no_session: Wrong = |target, answer, token| {
        without_transaction(target, &without_session(target, answer, token))
    };
    for (wrong, is_proven) in [(free_keys, false), (no_session, true)] {
        changes.set(Some((wrong, 0)));
        world.clock.advance(Duration::from_secs(10));
        for lease in [&lock, &permit] {
            assert_eq!((lease.has_ended(), lease.is_held()), (false, is_proven));
        }
        changes.set(None);
        world.clock.advance(Duration::from_secs(2));
        assert!(lock.is_held() && permit.is_held());
    }
}

pub(super) fn proof_without_leader(world: &Simulated) {
    let (process, changes) = with_changes(world);
    let lock = world.run(acquire(&process, Wait::Once)).expect("it is free");
    let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
    world.keep(&lock);
    world.keep(&permit);
    let headers: [Wrong; 5] = [
        |_, answer, _| with(answer, &LEADERLESS),
        |_, answer, _| with(answer, &LEADERLESS[..1]),
        |_, answer, _| with(answer, &LEADERLESS[1..]),
        |_, answer, _| with(answer, &[("x-cache", "HIT")]),
        |_, answer, _| with(answer, &[("age", "1")]),
    ];
    for (place, wrong) in headers.into_iter().enumerate() {
        changes.set(Some((wrong, 0)));
        world.clock.advance(process.profile().lease * 2);
        assert!(!lock.is_held() && !permit.is_held(), "{place}");
        changes.set(None);
        world.clock.advance(Duration::from_secs(2));
        assert!(lock.is_held() && permit.is_held(), "{place}");
    }
    // A proxy may drop them.
    changes.set(Some((
        |_, answer, _| {
            let mut answer = answer.clone();
            LEADERLESS.iter().for_each(|(name, _)| drop(answer.headers_mut().remove(*name)));
            answer
        },
        0,
    )));
    world.clock.advance(Duration::from_secs(10));
    assert!(lock.is_held() && permit.is_held());
}

pub(super) fn restored_snapshot(world: &Simulated) {
    let process = world.process();
    world.run(process.registered()).expect("it is registered");
    let past = world.agent.back_up();
    let lock = world.run(acquire(&process, Wait::Once)).expect("it is free");
    let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
    world.keep(&lock);
    world.keep(&permit);
    world.clock.advance(Duration::from_secs(1));
    world.agent.restore_snapshot(&past);
    world.clock.advance(process.profile().lease);
    for lease in [&lock, &permit] {
        assert!(lease.has_ended() && matches!(lease.poll_event(), Some(Event::Lost(_))));
    }
}

pub(super) fn hidden_permit(world: &Simulated) {
    let (process, changes) = with_changes(world);
    let permit = world.run(permit(&process, 1, Wait::Once)).expect("a permit is free");
    world.keep(&permit);
    let hidden: Wrong = |target, answer, _| match is_read(target) {
        true => with(&nothing(answer, 99_999), &[("x-consul-results-filtered-by-acls", "true")]),
        false if is_renewal(target) => answer.clone(),
        false => refused_at(1, "Permission denied"),
    };
    changes.set(Some((hidden, 0)));
    world.clock.advance(Duration::from_secs(10));
    assert!(!permit.has_ended() && !permit.is_held());
    changes.set(None);
    world.clock.advance(Duration::from_secs(1));
    assert!(permit.is_held());
}
