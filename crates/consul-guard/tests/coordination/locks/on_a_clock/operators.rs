//! The changes of an operator to the key of a lock and to the document of a semaphore.

use super::*;

/// An operator's change to the key of a lock: a command of Consul's, with the session that holds it.
pub(super) type Operation = fn(&Simulated, &Arc<Presence>, &str);

pub(super) fn put_of_operator(world: &Simulated, process: &Arc<Presence>, value: &str) {
    let put = Args::new().arg(KEY).arg(value);
    world.run(call(process.client(), "kv_put", put));
}

pub(super) fn released_by_operator(world: &Simulated, process: &Arc<Presence>, session: &str) {
    let put = Args::new().arg(KEY).arg("").opt("release", session);
    // Nobody holds it any more.
    _ = world.run(process.client().call(&wire::api::kv::PUT, &put));
}

pub(super) const OPERATIONS: &[(&str, Operation)] = &[
    ("release", released_by_operator),
    ("data", |world, process, _| put_of_operator(world, process, "data")),
    ("empty", |world, process, _| put_of_operator(world, process, "")),
    ("release and data", |world, process, session| {
        released_by_operator(world, process, session);
        put_of_operator(world, process, "data");
    }),
    ("delete", |world, process, _| {
        world.run(call(process.client(), "kv_delete", Args::new().arg(KEY)));
    }),
    ("delete and empty", |world, process, _| {
        world.run(call(process.client(), "kv_delete", Args::new().arg(KEY)));
        put_of_operator(world, process, "");
    }),
];

/// The holder notices at its next proof, and the next one waits for that.
pub(super) fn operated(world: &Simulated) {
    for (name, operate) in OPERATIONS {
        for is_gone in [false, true] {
            let what = format!("{name}, gone: {is_gone}");
            let (one, two, operator) = (world.process(), world.process(), world.process());
            let lease = world.run(acquire(&one, Wait::Forever)).expect("it is free");
            let session = lease.session().to_owned();
            if is_gone {
                world.run(lease.release()).expect("an answer");
            } else {
                world.keep(&lease);
            }
            operate(world, &operator, &session);
            let begun = world.clock.now();
            if name.ends_with("data") {
                // Nothing tells it from another program's data any more.
                world.clock.advance(one.profile().takeover());
                let error = world.run(acquire(&two, Wait::Forever)).expect_err("data");
                let cure = format!("consul kv delete {KEY}");
                assert!(error.message().contains(&cure), "{what}: {error}");
                world.run(call(operator.client(), "kv_delete", Args::new().arg(KEY)));
                continue;
            }
            let next = Arc::new(Mutex::new(None));
            let (acquired, presence) = (Arc::clone(&next), Arc::clone(&two));
            world.clock.spawn(async move {
                let lease = acquire(&presence, Wait::Forever).await;
                *acquired.lock().expect("no panic") = Some(lease.expect("it becomes free"));
            });
            let is_next_held =
                || next.lock().expect("no panic").as_ref().is_some_and(|it| it.is_held());
            while !is_next_held() {
                world.clock.advance(Duration::from_millis(20));
                let waited = world.clock.now() - begun;
                assert!(waited <= one.profile().takeover() * 2, "{what}: not free");
                // A key that is deleted is free at once, as for each client of Consul.
                let may_overlap = name.starts_with("delete") && waited <= one.profile().lease;
                assert!(may_overlap || !(is_next_held() && lease.is_held()), "{what}: two hold it");
            }
            let lease = next.lock().expect("no panic").take().expect("a lease");
            world.run(lease.release()).expect("an answer");
        }
    }
}

/// A document of a semaphore that is none any more, and no contender of it.
pub(super) fn operated_semaphore(world: &Simulated) {
    for document in ["", "data", "{}", r#"{"Limit":2,"Holders":{}}"#] {
        let (one, two) = (world.process(), world.process());
        let first = world.run(permit(&one, 2, Wait::Forever)).expect("a permit is free");
        world.keep(&first);
        let put = Args::new().arg("permits/.lock").arg(document);
        world.run(call(two.client(), "kv_put", put));
        let error = world.run(permit(&two, 2, Wait::Once)).expect_err("another contender");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.message().contains("consul kv delete permits/.lock"), "{error}");
        // It cannot take itself out of the document.
        _ = world.run(first.release());
        world.clock.advance(Duration::from_secs(60));
        let limit = Wait::For(Duration::from_secs(10));
        let next = world.run(permit(&two, 2, limit)).expect("nobody holds one");
        world.run(next.release()).expect("an answer");
    }
}

/// The other contender was not made a holder by a client that says so. One of the Go client notices at once.
pub(super) fn operated_semaphore_of_others(world: &Simulated) {
    let two = world.process();
    world.run(hold_as_the_go_client(&two));
    let put = Args::new().arg("permits/.lock").arg("data");
    world.run(call(two.client(), "kv_put", put));
    let begun = world.clock.now();
    let next = world.run(permit(&two, 1, Wait::For(Duration::from_secs(10))));
    next.expect("nobody can hold one");
    let longest = Profile::NAMED.iter().map(|it| (it.profile)().lock_delay).max();
    assert!(Some(world.clock.now() - begun) >= longest, "a holder may act until then");
}

/// The changes of an operator to the document of a semaphore; the flags of the key, and its value: `None` deletes it.
const DOCUMENTS: &[(u64, Option<&str>)] = &[
    (0, Some("")),
    (0, Some("data")),
    (0, Some("{}")),
    (0, Some(r#"{"Limit":2,"Holders":{}}"#)),
    (7, Some("data")),
    (SEMAPHORE_FLAGS, Some("")),
    (SEMAPHORE_FLAGS, Some(r#"{"Limit":"#)),
    (0, None),
];

fn operate_on_document(world: &Simulated, operator: &Arc<Presence>, at: (u64, Option<&str>)) {
    let key = Args::new().arg("permits/.lock");
    match at {
        (_, None) => world.run(call(operator.client(), "kv_delete", key)),
        (flags, Some(value)) => {
            world.run(call(operator.client(), "kv_put", key.arg(value).opt("flags", flags)))
        }
    };
}

/// The holders are those whose keys say so, and nobody else gets a permit meanwhile.
pub(super) fn document_of_holders(_: &Simulated) {
    for document in DOCUMENTS {
        for holders in [1, 2] {
            let world = Simulated::new();
            let operator = world.process();
            let held: Vec<_> = (0..holders)
                .map(|_| {
                    let process = world.process();
                    let lease = world.run(permit(&process, holders, Wait::Forever));
                    let lease = lease.expect("a permit is free");
                    world.keep(&lease);
                    lease
                })
                .collect();
            let next: Arc<Mutex<Option<Arc<Lease>>>> = Arc::default();
            let (acquired, waiter) = (Arc::clone(&next), world.process());
            world.clock.spawn(async move {
                let lease = permit(&waiter, holders, Wait::Forever).await;
                *acquired.lock().expect("no panic") = Some(lease.expect("it becomes free"));
            });
            world.clock.advance(Duration::from_secs(1));
            operate_on_document(&world, &operator, *document);
            let what = format!("{document:?}, {holders}");
            for _ in 0..600 {
                world.clock.advance(Duration::from_millis(20));
                assert!(next.lock().expect("no panic").is_none(), "{what}: no permit is free");
            }
            for lease in &held {
                let events: Vec<_> = std::iter::from_fn(|| lease.poll_event()).collect();
                assert_eq!(events, [Event::Suspended, Event::Resumed], "{what}");
                assert!(lease.is_held(), "{what}");
            }
            world.run(held[0].release()).unwrap_or_else(|error| panic!("{what}: {error}"));
            world.clock.advance(Duration::from_secs(1));
            let next = next.lock().expect("no panic").take().expect("a permit is free");
            assert!(next.is_held() && held[1..].iter().all(|lease| lease.is_held()), "{what}");
        }
    }
}

/// It is free at once, although the document cannot name who has it.
pub(super) fn document_at_a_release(_: &Simulated) {
    for document in DOCUMENTS {
        let world = Simulated::new();
        let (one, two) = (world.process(), world.process());
        let lease = world.run(permit(&one, 1, Wait::Forever)).expect("a permit is free");
        world.keep(&lease);
        operate_on_document(&world, &two, *document);
        world.run(lease.release()).unwrap_or_else(|error| panic!("{document:?}: {error}"));
        let keys = call(two.client(), "kv_keys", Args::new().arg("permits/"));
        assert!(world.run(keys).items().len() <= 1, "{document:?}");
        assert_eq!(world.agent.stats().sessions, 0, "{document:?}");
    }
}

/// Attempts that are shorter than the time for which a changed key has to stay.
pub(super) fn short_attempts_after_an_operator(_: &Simulated) {
    for is_lock in [false, true] {
        for wait in [Wait::Once, Wait::For(Duration::from_secs(1))] {
            let world = Simulated::new();
            let process = world.process();
            let key = Args::new().arg(if is_lock { KEY } else { "permits/.lock" });
            world.run(call(process.client(), "kv_put", key.arg("")));
            let begun = world.clock.now();
            loop {
                let acquired = match is_lock {
                    true => world.run(acquire(&process, wait)),
                    false => world.run(permit(&process, 1, wait)),
                };
                let took = world.clock.now() - begun;
                match acquired {
                    Ok(_) => break assert!(took > Duration::from_secs(7), "{took:?}"),
                    Err(error) => assert!(took < Duration::from_secs(10), "{is_lock}: {error}"),
                }
                world.clock.advance(Duration::from_millis(500));
            }
        }
    }
}

pub(super) fn end_of_a_wait(_: &Simulated) {
    let wait = Wait::For(Duration::from_millis(1500));
    let says = |world: &Simulated, process: &Arc<Presence>, wanted: &[&str]| {
        let error = world.run(acquire(process, wait)).expect_err("it is not free").to_string();
        assert!(wanted.iter().all(|words| error.contains(words)), "{wanted:?}: {error}");
    };
    // The first process is cut off.
    let world = Simulated::new();
    let process = world.process();
    world.cut_off("0");
    says(&world, &process, &["this process is not registered"]);
    let world = Simulated::new();
    let (process, other) = (world.process(), world.process());
    world.clock.advance(Duration::from_secs(1));
    world.cut_off("0");
    says(&world, &process, &["Consul has not answered"]);
    world.agent.clear_faults();
    let lease = world.run(acquire(&other, Wait::Forever)).expect("it is free");
    says(&world, &process, &["holds it"]);
    world.destroy_session(&process, lease.session());
    says(&world, &process, &["the lock delay is not over"]);
    world.agent.clear_faults();
    let status = http::StatusCode::from_u16(500).ok();
    let fault = simulate::Fault { status, status_chance: 1.0, ..simulate::Fault::default() };
    world.agent.add_fault(fault);
    says(&world, &process, &["last: ", "500"]);
}

pub(super) fn another_limit(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let held = world.run(permit(&one, 2, Wait::Forever)).expect("a permit is free");
    let wait = Wait::For(Duration::from_secs(2));
    for wait in [Wait::Once, wait] {
        let error = world.run(permit(&two, 3, wait)).expect_err("one is held by the other limit");
        assert!(error.message().contains("its limit is 2, not 3"), "{error}");
    }
    world.run(held.release()).expect("an answer");
    let held = world.run(permit(&two, 3, Wait::Once)).expect("nobody holds one");
    let error = world.run(permit(&one, 2, Wait::Once)).expect_err("now it is the other one");
    assert!(error.message().contains("its limit is 3, not 2"), "{error}");
    world.run(held.release()).expect("an answer");
}

pub(super) fn other_flags(world: &Simulated) {
    let process = world.process();
    let put = Args::new().arg(KEY).arg("data");
    world.run(call(process.client(), "kv_put", put.clone()));
    for wait in [Wait::Once, Wait::Forever] {
        let error = world.run(acquire(&process, wait)).expect_err("it is not a lock");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.message().contains("is not a lock"), "{error}");
    }
    world.run(call(process.client(), "kv_put", put.opt("flags", LOCK_FLAGS)));
    world.run(acquire(&process, Wait::Once)).expect("it is one now");
}

/// An operator deregisters what a session depends on from the catalog, not from the agent, which compares the two once a
/// minute: the holder is lost, and the next one has the lock or the permit no later than after the death of a process.
pub(super) fn deregistered(world: &Simulated) {
    let operator = world.process();
    for what in ["node", "service", "check"] {
        for is_permit in [false, true] {
            let (one, two) = (world.process(), world.process());
            let acquire = async |process: &Arc<Presence>, wait| match is_permit {
                true => permit(process, 1, wait).await,
                false => acquire(process, wait).await,
            };
            let lease = world.run(acquire(&one, Wait::Forever)).expect("it is free");
            world.keep(&lease);
            let begun = world.clock.now();
            world.run(async {
                let info = Args::new().arg(lease.session());
                let session = call(operator.client(), "session_info", info).await;
                let node = session.get("Node").expect("a session").clone();
                let mut gone = vec![("Node".to_owned(), node)];
                let checks = session.get("ServiceChecks").expect("a session").items();
                let check = checks[0].get("ID").and_then(Value::as_str).expect("a check");
                let service = check.trim_start_matches("service:");
                match what {
                    "service" => gone.push(("ServiceID".to_owned(), service.into())),
                    "check" => gone.push(("CheckID".to_owned(), check.into())),
                    _ => {}
                }
                let gone = Args::new().arg(Value::Map(gone));
                call(operator.client(), "catalog_deregister", gone).await;
            });
            for process in [&two, &one] {
                let wait = Wait::For(process.profile().takeover());
                let next = world.run(acquire(process, wait));
                let next = next.unwrap_or_else(|error| panic!("{what}, {is_permit}: {error}"));
                assert!(!lease.is_held(), "{what}, {is_permit}: two hold it");
                world.run(next.release()).expect("it is held");
            }
            let took = world.clock.now() - begun;
            assert!(took <= one.profile().takeover() * 2, "{what}, {is_permit}: {took:?}");
        }
        // The servers make the node's own check again.
        world.clock.advance(Duration::from_secs(120));
    }
}

/// Dead holders by hundreds, of a document with the wanted limit, with another one, or with more holders than its limit.
pub(super) fn crowds_of_dead_holders(world: &Simulated) {
    let ids = |count| (0..count).map(|it| format!("{it:08x}-0000-0000-0000-000000000000"));
    for dead in [1, 29, 30, 31, 61, 150] {
        for (written, wanted) in [(dead, dead), (dead, dead + 1), (dead + 1, 1), (1, 1), (1, 2)] {
            let what = format!("{dead} dead, {written} written, {wanted} wanted");
            let process = world.process();
            let holders: Vec<String> = ids(dead).map(|id| format!("\"{id}\":true")).collect();
            let document = format!(r#"{{"Limit":{written},"Holders":{{{}}}}}"#, holders.join(","));
            let put = Args::new().arg("permits/.lock").arg(document);
            world.run(call(process.client(), "kv_put", put.opt("flags", SEMAPHORE_FLAGS)));
            let limit = Wait::For(Duration::from_secs(5));
            let lease = world.run(permit(&process, wanted, limit));
            let lease = lease.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(lease.is_held(), "{what}");
            world.run(lease.release()).expect("an answer");
        }
    }
}

/// A holder that another client has written into a document and that is not a session: its key is not touched.
pub(super) fn holders_that_are_no_sessions(world: &Simulated) {
    for name in [".lock", "../z", "data", "a/b", "", "00000000-0000-0000-0000-00000000000g"] {
        let process = world.process();
        let own = format!("permits/{name}");
        if matches!(name, "data" | "a/b") {
            world.run(call(process.client(), "kv_put", Args::new().arg(own.as_str()).arg("own")));
        }
        let document = format!(r#"{{"Limit":1,"Holders":{{"{name}":true}}}}"#);
        let put = Args::new().arg("permits/.lock").arg(document);
        world.run(call(process.client(), "kv_put", put.opt("flags", SEMAPHORE_FLAGS)));
        let lease = world.run(permit(&process, 1, Wait::For(Duration::from_secs(5))));
        let lease = lease.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        if matches!(name, "data" | "a/b") {
            let kept = world.run(call(process.client(), "kv_get", Args::new().arg(own)));
            assert_eq!(kept, "own".into(), "{name:?}");
        }
        world.run(lease.release()).expect("an answer");
    }
}
