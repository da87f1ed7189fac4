//! Names in Consul that our own programs never set, and values in the middle of their writes: what each verb does about them.

use super::imports::{Said, exported};
use super::{PACE, World};
use bytes::Bytes;
use consul_client::transport::Transport as _;
use consul_migrate::job::Phase;
use consul_migrate::mapping::{Op, parts};
use consul_migrate::verify::{Found, What, compare_up_to};
use consul_migrate::{
    Form, Freeze, Frozen, MayChange, Run, Stop, Until, cut_over, export, finish, load, restart,
    roll_back, tail,
};
use consul_process::clock::Clock as _;
use consul_sim::SimTransport;
use futures_util::future::{Either, join, select};
use http::{Request, Response};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

/// In a URL, and as Consul's lists show them: they have the same name for several.
const NOT_UTF8: &[(&str, &str)] = &[
    ("%ff", "\u{fffd}"),
    ("d/%ff", "d/\u{fffd}"),
    ("d%fe/x", "d\u{fffd}/x"),
    ("d%fe/x/y/z", "d\u{fffd}/x/y/z"),
    ("%ED%A0%80", "\u{fffd}\u{fffd}\u{fffd}"),
    ("a%EF%BF%BD%ff", "a\u{fffd}\u{fffd}"),
    ("caf%E9", "caf\u{fffd}"),
];

/// The same as text, in keys that Consul reads.
const REPLACEMENT: &[&str] = &["%EF%BF%BD", "d/%EF%BF%BD", "d%EF%BF%BD/x", "d%EF%BF%BD/y/z"];

/// Names that our client sends in no request.
const PATHS: &[&str] = &["a//b", "/x", "//", "a/../b", "a/./b", "./a", "../a", "a/..", "a//", "/"];

async fn send(world: &World, method: &str, path: &str, body: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(format!("http://sim{path}"));
    let body = Bytes::copy_from_slice(body.as_bytes());
    let transport = SimTransport::new(world.agent.clone(), "raw");
    transport.send(request.body(body).unwrap()).await.unwrap()
}

async fn set_path(world: &World, verb: &str, key: &str) {
    let op = serde_json::json!([{ "KV": { "Verb": verb, "Key": key, "Value": "dg==" } }]);
    let done = send(world, "PUT", "/v1/txn", &op.to_string()).await;
    assert_eq!(done.status(), 200, "{done:?}");
}

fn why<T: std::fmt::Debug>(done: Result<T, Stop>) -> String {
    match done {
        Err(stop) => stop.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn compared(world: &World, run: &Run<'_>) -> Result<Found, Stop> {
    let World { etcd, target, .. } = world;
    let (mapping, revision) = (run.job.record().mapping, world.fake.revision());
    compare_up_to(100, etcd, target, &mapping, revision, PACE, |_| ()).await
}

async fn cut(run: &Run<'_>) -> Result<consul_migrate::CutOver, Stop> {
    let (frozen, limit) = (Frozen::default(), Duration::from_secs(60));
    let done = cut_over(run, Freeze::Alarm, &frozen, limit, async |_| Ok(())).await;
    if done.is_err() {
        frozen.lift(run.etcd, run.job.target, &run.job.keys).await.unwrap();
    }
    done
}

async fn copied(world: &World) -> Run<'_> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    run
}

fn with_keys() -> World {
    let world = World::plain(1, &[]);
    ["/a", "/b/c", "/z"].iter().for_each(|key| world.put(key, Some("v")));
    world
}

/// Each verb ends with the name, and before it opens or changes anything.
pub fn not_utf8() {
    for (path, shown) in NOT_UTF8 {
        for neighbour in [None, Some(shown)] {
            let world = with_keys();
            world.works(async {
                let run = copied(&world).await;
                // The name as it is shown may be that of another key.
                if let Some(key) = neighbour {
                    let set = Op::set((**key).to_owned(), "v".into());
                    world.direct.txn_surely(&[], &[set]).await.unwrap();
                }
                let put = async |method| {
                    let done = send(&world, method, &format!("/v1/kv/{path}"), "v").await;
                    assert_eq!(done.status(), 200, "{path}: {done:?}");
                };
                let names = |said: &str| assert!(said.contains(shown), "{path}: {said}");
                put("PUT").await;
                for form in [Form::Lines, Form::ConsulKv] {
                    let (said, mut out) = (Said::default(), Vec::new());
                    let (target, mapping) = (&world.target, &world.mapping);
                    names(&why(export(target, mapping, form, &mut out, &said).await));
                }
                names(&why(compared(&world, &run).await));
                names(&why(cut(&run).await));
                assert!(world.fake.alarms().is_empty() && run.job.record().phase == Phase::Tail);
                run.job.replace_all().await.unwrap();
                restart(&run, "--again").await.unwrap();
                names(&why(load(&run, Default::default()).await));

                // It comes after the cut-over.
                put("DELETE").await;
                let other = Op::Delete { key: (*shown).to_owned() };
                world.direct.txn_surely(&[], &[other]).await.unwrap();
                load(&run, Default::default()).await.unwrap();
                let done = cut(&run).await.unwrap();
                assert!(done.differences.is_empty(), "{path}: {done:?}");
                put("PUT").await;
                names(&why(roll_back(&run, MayChange::NoNewKeys).await));
                assert!(!world.fake.alarms().is_empty(), "{path}: etcd is open");
                names(&why(finish(&run, false).await));
                put("DELETE").await;
                roll_back(&run, MayChange::NoNewKeys).await.unwrap();
            });
        }
    }
}

/// Keys with U+FFFD itself are keys as others.
pub fn replacement_characters() {
    let world = with_keys();
    world.works(async {
        let run = copied(&world).await;
        cut(&run).await.unwrap();
        for path in REPLACEMENT {
            send(&world, "PUT", &format!("/v1/kv/{path}"), "v").await;
        }
        for form in [Form::Lines, Form::ConsulKv] {
            assert_eq!(exported(&world, form).await.1.moved, 3 + REPLACEMENT.len() as u64);
        }
        let found = compared(&world, &run).await.unwrap();
        assert_eq!(found.differences.len(), REPLACEMENT.len());
        let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
        assert_eq!(done.set, REPLACEMENT.len() as u64, "{done:?}");
        assert!(compared(&world, &run).await.unwrap().differences.is_empty());
    });
}

/// A key that a program deletes and sets all the time is missing after a list, and no error.
pub fn that_come_and_go() {
    let world = with_keys();
    world.works(async {
        let flaps = async {
            loop {
                for method in ["PUT", "DELETE"] {
                    send(&world, method, "/v1/kv/d/%EF%BF%BD", "v").await;
                    world.clock.sleep(Duration::from_millis(7)).await;
                }
            }
        };
        let exports = async {
            for _ in 0..20 {
                exported(&world, Form::Lines).await;
            }
        };
        match select(pin!(exports), pin!(flaps)).await {
            Either::Left(_) => {}
            Either::Right((never, _)) => never,
        }
    });
}

/// Names with which a URL leads elsewhere: they are extra keys of others, that nothing is changed for.
pub fn paths() {
    for key in PATHS {
        let world = with_keys();
        world.works(async {
            let run = copied(&world).await;
            set_path(&world, "set", key).await;
            let extra = |found: &[consul_migrate::verify::Difference]| {
                let found: Vec<_> = found.iter().map(|it| (it.key.as_str(), it.what)).collect();
                assert_eq!(found, [(*key, What::Extra)]);
            };
            extra(&compared(&world, &run).await.unwrap().differences);
            let done = cut(&run).await.unwrap();
            extra(&done.differences);
            assert!(run.job.record().phase == Phase::Tail, "{key}");
            // No request of ours deletes it. So nothing is deleted.
            run.job.replace_all().await.unwrap();
            restart(&run, "--again").await.unwrap();
            load(&run, Default::default()).await.unwrap();
            extra(&compared(&world, &run).await.unwrap().differences);
            let said = Said::default();
            let (target, mapping) = (&world.target, &world.mapping);
            let done = export(target, mapping, Form::Lines, &mut Vec::new(), &said).await;
            assert!(why(done).contains(key), "{key}");

            set_path(&world, "delete", key).await;
            let done = cut(&run).await.unwrap();
            assert!(done.differences.is_empty(), "{key}: {done:?}");
            set_path(&world, "set", key).await;
            let set = Op::set("a".to_owned(), "of Consul".into());
            world.direct.txn_surely(&[], &[set]).await.unwrap();
            let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
            assert_eq!(done.without_source, [*key], "{done:?}");
            assert_eq!((done.set, done.deleted), (1, 0), "{key}: {done:?}");
            assert!(world.fake.alarms().is_empty());
            world.put("/b/c", Some("later"));
            let looks = pin!(world.clock.sleep(Duration::from_secs(5)));
            let Either::Right(_) = select(pin!(tail(&run, &Until::Dropped)), looks).await else {
                panic!("{key}: the tail has ended");
            };
            assert_eq!(world.stored("b/c").await.as_deref(), Some("later"), "{key}");
        });
    }
}

/// After a cut-over, a job with such a key beside it comes to its end.
pub fn paths_are_left_at_the_end() {
    for key in PATHS {
        let world = with_keys();
        world.works(async {
            let run = copied(&world).await;
            cut(&run).await.unwrap();
            set_path(&world, "set", key).await;
            let done = finish(&run, false).await.unwrap();
            assert_eq!(done.unmarked, 3, "{key}: {done:?}");
        });
    }
}

/// A large value of each kind is set while exports run: each has one of the values, whole, or ends with the name.
pub fn values_in_the_middle_of_a_write() {
    let value = |byte: u8, size: usize| Bytes::from(vec![byte; size]);
    // Plain ones take a PUT, encoded ones several parts, the same number or another.
    for (key, sizes) in [
        ("large", [400_000, 400_000, 500_000]),
        ("b\0", [700_000, 700_000, 700_000]),
        ("b\0", [1_000_000, 700_000, 300_000]),
        ("b\0", [300_000, 300_000, 300_000]),
    ] {
        for form in [Form::Lines, Form::ConsulKv] {
            for pause in [0, 170, 390] {
                let world = with_large(key, &value(b'a', sizes[0]));
                world.works(async {
                    let run = copied(&world).await;
                    let values: Vec<Bytes> =
                        (0..3).map(|at| value(b'a' + at as u8, sizes[at])).collect();
                    world.way_ms.store(50, std::sync::atomic::Ordering::Relaxed);
                    let writes = async {
                        for next in &values[1..] {
                            world.clock.sleep(Duration::from_millis(300)).await;
                            let entry = (key.as_bytes().to_vec(), Some((next.clone(), 0)));
                            assert!(world.fake.write(&[entry]));
                        }
                        world.clock.sleep(Duration::from_secs(3)).await;
                    };
                    let exports = async {
                        world.clock.sleep(Duration::from_millis(pause)).await;
                        let mut seen = BTreeSet::new();
                        for _ in 0..2 {
                            is_whole(&exported(&world, form).await.0, key, &values, &mut seen);
                        }
                    };
                    let follows = pin!(tail(&run, &Until::Dropped));
                    match select(follows, pin!(join(writes, exports))).await {
                        Either::Left((ended, _)) => panic!("{ended:?}"),
                        Either::Right(_) => {}
                    }
                });
            }
        }
    }
}

fn with_large(key: &str, value: &Bytes) -> World {
    use consul_migrate::mapping::{Choice, Problem};
    let world = World::plain(1, &[(Problem::ControlKey, Choice::Encode)]);
    world.put("a", Some("v"));
    world.put("z", Some("v"));
    assert!(world.fake.write(&[(key.as_bytes().to_vec(), Some((value.clone(), 0)))]));
    world
}

/// The value in an export is one of these.
fn is_whole(text: &str, key: &str, values: &[Bytes], seen: &mut BTreeSet<usize>) {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let lines =
        text.lines().map(|line| line.trim_matches(['[', ']', ',', '\t'])).filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let name = line.get("key").or(line.get("etcd_key"))?.as_str()?.to_owned();
            Some((name, base64.decode(line["value"].as_str()?).unwrap()))
        });
    let is_it =
        |name: &str| name == key || name == base64.encode(key) || name.starts_with("_etcd/");
    let value: Vec<u8> = lines.filter(|(name, _)| is_it(name)).flat_map(|(_, it)| it).collect();
    let at = values.iter().position(|it| *it == value);
    let ends = [value.first(), value.last()].map(|it| it.map(|byte| char::from(*byte)));
    seen.insert(at.unwrap_or_else(|| panic!("{key:?}: {} bytes from {ends:?}", value.len())));
}

/// A tail that was killed at any moment: an export has a whole value or names the key, and after the next tail it is well.
pub fn values_whose_write_was_killed() {
    let value = |byte: u8, size: usize| Bytes::from(vec![byte; size]);
    let mut named = [0; 2];
    for (kind, key) in ["large", "b\0"].into_iter().enumerate() {
        for life in (0..1300).step_by(90) {
            let world = with_large(key, &value(b'a', 500_000));
            world.works(async {
                let values = [value(b'a', 500_000), value(b'b', 500_000)];
                {
                    let run = copied(&world).await;
                    let entry = (key.as_bytes().to_vec(), Some((values[1].clone(), 0)));
                    assert!(world.fake.write(&[entry]));
                    world.way_ms.store(50, std::sync::atomic::Ordering::Relaxed);
                    let lives = pin!(world.clock.sleep(Duration::from_millis(life)));
                    drop(select(pin!(tail(&run, &Until::Dropped)), lives).await);
                }
                world.clock.sleep(Duration::from_secs(1)).await;
                world.way_ms.store(0, std::sync::atomic::Ordering::Relaxed);
                let name = ["large", "_etcd/6200/"][kind];
                named[kind] += are_whole_or_named(&world, key, &values, name).await;
                let (run, _) = world.hold(3).await.unwrap();
                let looks = pin!(world.clock.sleep(Duration::from_secs(5)));
                drop(select(pin!(tail(&run, &Until::Dropped)), looks).await);
                for form in [Form::Lines, Form::ConsulKv] {
                    is_whole(&exported(&world, form).await.0, key, &values, &mut BTreeSet::new());
                }
            });
        }
    }
    assert!(named.iter().all(|count| *count > 0), "no moment is in the middle: {named:?}");
}

/// Exports in each form; returns how many end and name the key.
async fn are_whole_or_named(world: &World, key: &str, values: &[Bytes], name: &str) -> u64 {
    let mut named = 0;
    for form in [Form::Lines, Form::ConsulKv] {
        let (said, mut out) = (Said::default(), Vec::new());
        match export(&world.target, &world.mapping, form, &mut out, &said).await {
            Ok(_) => {
                let text = String::from_utf8(out).unwrap();
                is_whole(&text, key, values, &mut BTreeSet::new());
            }
            Err(stop) => {
                named += 1;
                assert!(stop.to_string().contains(name), "{stop}");
            }
        }
    }
    named
}

/// The same of a new copy, which saves how far it is while it writes the parts of a value.
pub fn values_whose_copy_was_killed() {
    let values = [b'a', b'b'].map(|byte| Bytes::from(vec![byte; 1_500_000]));
    let mut named = 0;
    for life in (1600..4800).step_by(400) {
        let world = with_large("b\0", &values[0]);
        (0..40).for_each(|at| world.put(&format!("a{at:02}"), Some("v")));
        world.works(async {
            {
                let run = copied(&world).await;
                assert!(world.fake.write(&[(b"b\0".to_vec(), Some((values[1].clone(), 0)))]));
                restart(&run, "--again").await.unwrap();
                world.way_ms.store(400, std::sync::atomic::Ordering::Relaxed);
                let lives = pin!(world.clock.sleep(Duration::from_millis(life)));
                drop(select(pin!(load(&run, Default::default())), lives).await);
            }
            world.clock.sleep(Duration::from_secs(2)).await;
            world.way_ms.store(0, std::sync::atomic::Ordering::Relaxed);
            named += are_whole_or_named(&world, "b\0", &values, "_etcd/6200/").await;
            let (run, _) = world.hold(3).await.unwrap();
            load(&run, Default::default()).await.unwrap();
            assert_eq!(are_whole_or_named(&world, "b\0", &values[1..], "").await, 0, "{life}");
        });
    }
    assert!(named > 0);
}

/// Parts that a program has set in another order, with the job's flags, are whole once the job has gone on, or is cut over.
pub fn parts_that_programs_set() {
    for is_cut_over in [false, true] {
        let world = with_large("b\0", &Bytes::from(vec![7; 500_000]));
        world.works(async {
            let run = copied(&world).await;
            let mark = run.job.record().mapping.mark;
            if is_cut_over {
                cut(&run).await.unwrap();
            }
            let parts: Vec<Op> = parts("_etcd/6200/", &vec![8; 500_000].into(), mark).collect();
            for op in parts.iter().rev() {
                world.direct.put_surely(op.key(), &value_of(op), mark).await.unwrap();
            }
            if !is_cut_over {
                let (said, mut out) = (Said::default(), Vec::new());
                let (target, mapping) = (&world.target, &world.mapping);
                let done = export(target, mapping, Form::Lines, &mut out, &said).await;
                assert!(why(done).contains("_etcd/6200/"));
                world.put("a", Some("later"));
                let looks = pin!(world.clock.sleep(Duration::from_secs(5)));
                drop(select(pin!(tail(&run, &Until::Dropped)), looks).await);
            }
            assert_eq!(exported(&world, Form::Lines).await.1.encoded, 1, "{is_cut_over}");
        });
    }
}

/// A value may be the text by which a job claims a key: a program's own, or from etcd.
pub fn values_that_look_like_a_claim() {
    const CLAIM: &str = "consul-migrate x sets this key";
    // Jobs of versions without marks have that of programs.
    for ((is_cut_over, form), mark) in [false, true]
        .map(|it| [(it, Form::Lines), (it, Form::ConsulKv)])
        .concat()
        .into_iter()
        .flat_map(|it| [(it, None), (it, Some(0))])
    {
        let mut world = with_large("b\0", &CLAIM.into());
        world.mapping.mark = mark.unwrap_or(world.mapping.mark);
        world.works(async {
            world.put("copied", Some(CLAIM));
            let run = copied(&world).await;
            if is_cut_over {
                cut(&run).await.unwrap();
            }
            let set = async |key: &str, flags| {
                let set = Op::Set { key: key.to_owned(), value: CLAIM.into(), flags };
                world.direct.txn_surely(&[], &[set]).await
            };
            set("mine", 0).await.unwrap();
            let (text, tally, said) = exported(&world, form).await;
            assert_eq!((tally.moved, tally.encoded), (5, 1), "{text} {said:?}");
            // The job of this mark is gone, or restored to before it: nothing says that the value is whole.
            for key in ["mine", "_etcd/6200/0000-0001"] {
                set(key, 5).await.unwrap();
                let (target, mapping) = (&world.target, &world.mapping);
                let done = export(target, mapping, form, &mut Vec::new(), &Said::default()).await;
                assert!(why(done).contains(key.trim_end_matches("0000-0001")), "{key}");
                set(key, 0).await.unwrap();
            }
        });
    }
}

/// Names beside the parts of a key are not parts of it.
pub fn names_beside_parts() {
    for other in ["zzz", "0000-0001x", "0002-0002", "+0-+1", "0000-0002/x"] {
        let world = with_large("b\0", &Bytes::from(vec![7; 500_000]));
        world.works(async {
            let run = copied(&world).await;
            cut(&run).await.unwrap();
            let beside = Op::set(format!("_etcd/6200/{other}"), "v".into());
            world.direct.txn_surely(&[], &[beside]).await.unwrap();
            let (text, tally, said) = exported(&world, Form::Lines).await;
            assert_eq!((tally.moved, tally.encoded), (4, 1), "{other}: {said:?}");
            assert!(text.contains("etcd_key") && text.contains(other), "{other}");
            for op in parts("_etcd/6200/", &vec![8; 500_000].into(), 0) {
                world.direct.put_surely(op.key(), &value_of(&op), 0).await.unwrap();
            }
            let done = roll_back(&run, MayChange::NoNewKeys).await.unwrap();
            assert_eq!((done.set, &done.without_source[..]), (1, &[][..]), "{other}: {done:?}");
        });
    }
}

fn value_of(op: &Op) -> Bytes {
    let Op::Set { value, .. } = op else { unreachable!() };
    value.clone()
}
