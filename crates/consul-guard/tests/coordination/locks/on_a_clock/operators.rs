//! What an operator does to the key of a lock and to the document of a semaphore.

use super::*;

/// What an operator does to the key of a lock: a command of Consul's, with the session that holds it.
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

/// The other contender may hold a permit that the document has lost.
pub(super) fn operated_semaphore_of_others(world: &Simulated) {
    let two = world.process();
    world.run(hold_as_the_go_client(&two));
    let put = Args::new().arg("permits/.lock").arg("data");
    world.run(call(two.client(), "kv_put", put));
    let error = world.run(permit(&two, 1, Wait::For(two.profile().lock_delay * 10)));
    assert_eq!(error.expect_err("another contender").kind(), Kind::Conflict);
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
