//! Exports beside programs that write, exports that a shell or an editor has written again, and keys that they have twice.

use super::World;
use consul_migrate::mapping::{Op, parts};
use consul_migrate::tally::Tally;
use consul_migrate::{Form, Report, Stop, check, export, import};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, join, select};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The keys and values of an export.
type Keys = &'static [(&'static str, &'static str)];

/// With the number of keys, and of values that were before another one of the same key.
const CASES: [(Keys, u64, u64); 5] = [
    (&[("a", "1"), ("größe/東京", "2"), ("b", "")], 3, 0),
    (&[("a", "1"), ("a", "2")], 1, 1),
    (&[("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "1")], 2, 3),
    (&[("_etcd/2fff/0000-0002", "1"), ("a", "1"), ("_etcd/2fff/0001-0002", "2")], 2, 0),
    (&[("_etcd/2fff/0000-0001", "1"), ("_etcd/2fff/0000-0001", "2")], 1, 1),
];

#[derive(Debug, Default)]
pub struct Said(Mutex<Vec<String>>);

impl Report for Said {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

pub fn run() {
    for (keys, count, again) in CASES {
        for form in [Form::Lines, Form::ConsulKv] {
            // A part of an encoded key has no line.
            if form == Form::Lines && keys[0].0.starts_with("_etcd/") {
                continue;
            }
            for (name, text) in encodings(&text(keys, form)) {
                is_read(keys, form, &text, count, again, name);
            }
        }
    }
    says_what_it_is_not();
    says_which_line_is_wrong();
    parts_that_were_there_are_not_left();
    an_import_that_is_killed_leaves_no_mixture();
    large_values_of_a_list_are_set_one_by_one();
    a_value_is_replaced_at_once();
    a_list_asks_for_names_once();
    an_export_looks_again_at_parts();
    parts_that_are_not_whole_have_lines();
    keys_that_are_deleted_meanwhile_are_not_counted();
}

/// The lines are right up to the last one, and as many as it says. Of an input that cannot be read twice those before are set.
fn says_which_line_is_wrong() {
    let line = |name: String| format!("{{\"key\":\"{name}\",\"value\":\"dg==\"}}");
    let right = |count: usize| (0..count).map(|at| line(format!("k/{at:03}"))).collect::<Vec<_>>();
    let utf8: &[u8] = b"{\"key\":\"\xff\",\"value\":\"\"}";
    let wrong = [
        utf8,
        b"[1]",
        b"[\"a\",null,\"dg==\",0]",
        b"null",
        b"{\"key\":\"x\",\"valu\":\"dg==\"}",
        b"{\"key\":\"a//b\",\"value\":\"\"}",
        b"{\"etcd_key\":\"\",\"value\":\"dg==\"}",
        b"{\"lines\":\"1\"}",
    ];
    for (count, wrong) in [0, 1, 150, 500].into_iter().flat_map(|it| wrong.map(|line| (it, line))) {
        let mut text = right(count).join("\n").into_bytes();
        text.extend(
            [if count == 0 { b"" } else { &b"\n"[..] }, wrong, b"\n{\"lines\":501}\n"].concat(),
        );
        let said = refused(&text, count);
        let is_list = count == 0 && wrong.starts_with(b"[");
        let wanted = match is_list {
            true => "--format consul-kv".to_owned(),
            false => format!("line {} is not of an export: ", count + 1),
        };
        assert!(said.contains(&wanted), "{wanted}: {said}");
    }
    for (count, end, words) in [
        (3, "{\"lines\":2}", "it has 3 lines of 2"),
        (3, "{\"lines\":4}", "it has 3 lines of 4"),
        (3, "{\"lines\":3}\n{\"lines\":3}", "line 5 is after the end"),
        (3, "[3]", "line 4 is not of an export"),
        (3, "", "--partial"),
    ] {
        let said = refused(format!("{}\n{end}\n", right(count).join("\n")).as_bytes(), count);
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The refusal of an export, the same before anything is set and after this number of lines.
fn refused(text: &[u8], count: usize) -> String {
    let world = World::plain(1, &[]);
    world.works(async {
        let (target, mapping, said) = (&world.target, &world.mapping, Said::default());
        let before = check(mapping, &mut &*text, false).unwrap_err().to_string();
        let done = import(target, mapping, Form::Lines, &mut &*text, false, &said).await;
        let why = done.unwrap_err().to_string();
        assert_eq!(world.found().await.len(), count, "{why}");
        let set = match count {
            0 => format!("nothing was written: {before}"),
            1 => format!("{before}; 1 line before it was set"),
            count => format!("{before}; {count} lines before it were set"),
        };
        assert_eq!(why, set);
        before
    })
}

/// At any moment, over a value with the same number of parts or another: a later export has one of the values, or says that
/// the parts are not whole.
fn an_import_that_is_killed_leaves_no_mixture() {
    let value = |byte: u8, size: usize| vec![byte; size];
    let mut torn = 0;
    // The parts of a list may be in any order.
    for ((form, is_reversed), before) in
        [(Form::Lines, false), (Form::ConsulKv, false), (Form::ConsulKv, true)]
            .into_iter()
            .flat_map(|form| [800_000, 500_000].map(|it| (form, it)))
    {
        let values = [value(b'a', before), value(b'b', 800_000)];
        for life in (50..1050).step_by(100) {
            let world = World::plain(1, &[]);
            world.works(async {
                use base64::Engine as _;
                let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
                for op in parts("_etcd/2fff/", &values[0].clone().into(), 0) {
                    world.direct.txn_surely(&[], &[op]).await.unwrap();
                }
                let text = match form {
                    Form::Lines => {
                        let value = base64(&values[1]);
                        format!(
                            "{{\"etcd_key\":\"L/8=\",\"value\":\"{value}\"}}\n{{\"lines\":1}}\n"
                        )
                    }
                    Form::ConsulKv => {
                        let part = |op: Op| {
                            let Op::Set { key, value, .. } = op else { unreachable!() };
                            format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}", base64(&value))
                        };
                        let value = values[1].clone().into();
                        let mut all: Vec<_> = parts("_etcd/2fff/", &value, 0).map(part).collect();
                        if is_reversed {
                            all.reverse();
                        }
                        format!("[{}]", all.join(","))
                    }
                };
                world.way_ms.store(50, Ordering::Relaxed);
                let (target, mapping, said) = (&world.target, &world.mapping, Said::default());
                let mut from = text.as_bytes();
                {
                    let imports = pin!(import(target, mapping, form, &mut from, false, &said));
                    let lives = pin!(world.clock.sleep(Duration::from_millis(life)));
                    drop(select(imports, lives).await);
                }
                world.clock.sleep(Duration::from_secs(1)).await;
                world.way_ms.store(0, Ordering::Relaxed);
                let (text, ..) = exported(&world, Form::Lines).await;
                let is = |at: usize| text.contains(&format!("\"{}\"", base64(&values[at])));
                let is_torn = !text.contains("etcd_key");
                torn += usize::from(is_torn);
                assert!(is_torn || is(0) || is(1), "{form:?} after {life} ms a value is of both");
            });
        }
    }
    assert!(torn > 0, "no moment is in the middle");
}

/// An import of a list replaces one large value after the other: of two not both are without their first part.
fn large_values_of_a_list_are_set_one_by_one() {
    let world = World::plain(1, &[]);
    world.works(async {
        use base64::Engine as _;
        let all = |value: u8| {
            ["_etcd/2ffe/", "_etcd/2fff/"]
                .map(|prefix| parts(prefix, &vec![value; 800_000].into(), 0).collect::<Vec<_>>())
        };
        for op in all(b'a').concat() {
            world.direct.txn_surely(&[], &[op]).await.unwrap();
        }
        let part = |op: Op| {
            let Op::Set { key, value, .. } = op else { unreachable!() };
            let value = base64::engine::general_purpose::STANDARD.encode(value);
            format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}")
        };
        let list: Vec<_> = all(b'b').concat().into_iter().map(part).collect();
        let (list, said) = (format!("[{}]", list.join(",")), Said::default());
        world.way_ms.store(50, Ordering::Relaxed);
        let (target, mapping, mut from) = (&world.target, &world.mapping, list.as_bytes());
        let imports = import(target, mapping, Form::ConsulKv, &mut from, false, &said);
        let mut torn = 0;
        let looks = async {
            loop {
                let found = world.direct.keys("_etcd/", None).await.unwrap();
                let firsts = found.iter().filter(|name| name.ends_with("/0000-0003")).count();
                assert!(firsts > 0, "{found:?}");
                torn += usize::from(firsts == 1);
                world.clock.sleep(Duration::from_millis(10)).await;
            }
        };
        let Either::Left((done, _)) = select(pin!(imports), pin!(looks)).await;
        assert_eq!(done.unwrap().encoded, 2);
        assert!(torn > 0, "no look is in the middle");
        assert!(world.found().await.into_iter().all(|(_, value)| value.starts_with(b"b")));
    });
}

/// The parts of a value are deleted and another one is set in one transaction, wherever the line is among others.
fn a_value_is_replaced_at_once() {
    let world = World::plain(1, &[]);
    world.works(async {
        let (target, mapping) = (&world.target, &world.mapping);
        for before in target.max_ops - 4..=target.max_ops {
            let old = (0..3).map(|at| Op::set(format!("_etcd/2fff/{at:04}-0003"), "1".into()));
            let clean = ["_etcd/", "k/"].map(|prefix| Op::DeleteTree { prefix: prefix.to_owned() });
            world.direct.txn_surely(&[], &clean).await.unwrap();
            world.direct.txn_surely(&[], &old.collect::<Vec<_>>()).await.unwrap();
            let lines = (0..before).map(|at| format!("{{\"key\":\"k/{at}\",\"value\":\"\"}}\n"));
            let text = lines.chain(["{\"etcd_key\":\"L/8=\",\"value\":\"Mg==\"}".to_owned()]);
            let (text, said) = (text.collect::<String>(), Said::default());
            world.way_ms.store(50, Ordering::Relaxed);
            let mut from = text.as_bytes();
            let imports = import(target, mapping, Form::Lines, &mut from, true, &said);
            let looks = async {
                loop {
                    let found = world.direct.keys("_etcd/", None).await.unwrap();
                    assert!([1, 3].contains(&found.len()), "{before}: {found:?}");
                    world.clock.sleep(Duration::from_millis(10)).await;
                }
            };
            let Either::Left((done, _)) = select(pin!(imports), pin!(looks)).await;
            assert_eq!(done.unwrap().moved, before as u64 + 1);
            world.way_ms.store(0, Ordering::Relaxed);
        }
    });
}

/// The time is that of the world, in which each request takes 200 ms.
fn a_list_asks_for_names_once() {
    let world = World::plain(1, &[]);
    world.way_ms.store(100, Ordering::Relaxed);
    world.works(async {
        let entry = |at: u8| format!("{{\"key\":\"_etcd/{at:02x}/0000-0001\",\"value\":\"Mg==\"}}");
        let list = format!("[{}]", (0..40).map(entry).collect::<Vec<_>>().join(","));
        let (target, mapping, said) = (&world.target, &world.mapping, Said::default());
        let (begun, mut from) = (world.clock.now(), list.as_bytes());
        let done = import(target, mapping, Form::ConsulKv, &mut from, false, &said).await.unwrap();
        assert_eq!((done.encoded, done.moved), (40, 40));
        let requests = (world.clock.now() - begun).as_millis() / 200;
        let sets = 40_u128.div_ceil(target.max_ops as u128);
        assert!(requests <= sets + 1, "{requests} requests");
    });
}

/// The export of all keys, the numbers of them, and the notes.
pub(super) async fn exported(world: &World, form: Form) -> (String, Tally, Vec<String>) {
    let (mut out, said) = (Vec::new(), Said::default());
    let tally = export(&world.target, &world.mapping, form, &mut out, &said).await.unwrap();
    (String::from_utf8(out).unwrap(), tally, said.0.into_inner().unwrap())
}

/// A tail writes a large value in several transactions, so that its parts are not whole for a moment.
fn an_export_looks_again_at_parts() {
    for (whole_after_ms, is_whole) in [(0, true), (600, true), (1700, true), (5000, false)] {
        let world = World::plain(1, &[]);
        world.works(async {
            let set = |name: &str| Op::set(name.to_owned(), "v".into());
            let (first, second) = (set("_etcd/61/0000-0002"), set("_etcd/61/0001-0002"));
            world.direct.txn_surely(&[], &[first, set("z")]).await.unwrap();
            let writes = async {
                world.clock.sleep(Duration::from_millis(whole_after_ms)).await;
                world.direct.txn_surely(&[], &[second]).await.unwrap();
            };
            let ((text, tally, said), ()) = join(exported(&world, Form::Lines), writes).await;
            assert_eq!(text.contains("etcd_key"), is_whole, "{whole_after_ms}: {text}");
            assert_eq!((tally.moved, tally.encoded), (2, u64::from(is_whole)), "{text}");
            assert_eq!(said.len(), usize::from(!is_whole), "{said:?}");
        });
    }
}

/// An export has all names below `_etcd/`, and an import sets the same again.
fn parts_that_are_not_whole_have_lines() {
    let large = parts("_etcd/62/", &vec![7; 800_000].into(), 5).collect::<Vec<_>>();
    let whole: Vec<&str> = large.iter().map(Op::key).collect();
    let others = [
        "_etcd/61/0000-0001",
        "_etcd/61/+0-+1",
        "_etcd/61/zzz",
        "_etcd/6",
        "_etcd/62/0000-0002",
        "a",
    ];
    let (all, rng) = ([&whole[..], &others].concat(), &mut fastrand::Rng::with_seed(1));
    for form in [Form::Lines, Form::ConsulKv] {
        for _ in 0..24 {
            let (from, to) = (World::plain(1, &[]), World::plain(2, &[]));
            let mut ops: Vec<Op> = large.clone();
            ops.extend(others.map(|name| Op::set(name.to_owned(), "v".into())));
            ops.retain(|_| rng.u8(..4) > 0);
            let (text, found) = from.works(async {
                for op in &ops {
                    from.direct.txn_surely(&[], std::slice::from_ref(op)).await.unwrap();
                }
                let (text, tally, _) = exported(&from, form).await;
                let found = from.found().await;
                assert!(found.len() == ops.len() && all.len() > 8);
                assert_eq!(tally.consul, Some(tally.moved));
                if form == Form::Lines {
                    assert!(text.ends_with(&format!("{{\"lines\":{}}}\n", tally.moved)), "{text}");
                }
                (text, found)
            });
            to.works(async {
                let (target, mapping, said) = (&to.target, &to.mapping, Said::default());
                import(target, mapping, form, &mut text.as_bytes(), false, &said).await.unwrap();
                assert!(to.found().await == found, "{:?}", found.keys());
            });
        }
    }
}

/// Programs delete keys after an export has read the names.
fn keys_that_are_deleted_meanwhile_are_not_counted() {
    for form in [Form::Lines, Form::ConsulKv] {
        let world = World::plain(1, &[]);
        world.works(async {
            let plain = ["a", "b", "c"];
            let set = |name: &str| Op::set(name.to_owned(), "v".into());
            let mut ops: Vec<Op> = plain.map(set).into();
            ops.extend(parts("_etcd/61/", &"v".into(), 0));
            ops.extend(parts("_etcd/62/", &vec![7; 400_000].into(), 0));
            for op in &ops {
                world.direct.txn_surely(&[], std::slice::from_ref(op)).await.unwrap();
            }
            // The names are on their way back.
            world.way_ms.store(200, Ordering::Relaxed);
            let deletes = async {
                world.clock.sleep(Duration::from_millis(300)).await;
                let gone =
                    ["b", "_etcd/61/0000-0001"].map(|key| Op::Delete { key: key.to_owned() });
                world.direct.txn_surely(&[], &gone).await.unwrap();
            };
            let ((text, tally, _), ()) = join(exported(&world, form), deletes).await;
            assert_eq!((tally.moved, tally.encoded, tally.consul), (3, 1, Some(3)), "{form:?}");
            assert!(!text.contains("\"b\"") && text.contains("\"c\""), "{text}");
        });
    }
}

/// Consul has a value of another number of parts, beside names that are nobody's parts.
fn parts_that_were_there_are_not_left() {
    let names = |count: usize| (0..count).map(move |at| format!("_etcd/2fff/{at:04}-{count:04}"));
    let others = ["_etcd/2fff00/0000-0001", "_etcd/2FFF/0000-0001", "_etcd/2fff", "_etcd/2fff/z"];
    for (before, now) in (1..4_usize).flat_map(|before| (1..4).map(move |now| (before, now))) {
        let world = World::plain(1, &[]);
        world.works(async {
            let all = names(before).chain(others.map(str::to_owned));
            let all: Vec<_> = all.map(|key| Op::set(key, "1".into())).collect();
            world.direct.txn_surely(&[], &all).await.unwrap();
            let entry = |name| format!("{{\"key\":\"{name}\",\"value\":\"Mg==\"}}");
            let list = format!("[{}]", names(now).map(entry).collect::<Vec<_>>().join(","));
            let (target, mapping) = (&world.target, &world.mapping);
            let (said, mut from) = (Said::default(), list.as_bytes());
            let done = import(target, mapping, Form::ConsulKv, &mut from, false, &said).await;
            assert_eq!(done.unwrap().encoded, 1);
            let mut found = world.direct.keys("", None).await.unwrap();
            let mut wanted: Vec<_> = names(now).chain(others.map(str::to_owned)).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{before} {now}");
            // The same of lines, in which the key is there twice.
            let value = |count: usize| vec![7; 360_000 * count];
            let of_lines =
                |count| parts("_etcd/2fff/", &value(count).into(), 0).collect::<Vec<_>>();
            let lines = [before, now].map(|count| {
                use base64::Engine as _;
                let value = base64::engine::general_purpose::STANDARD.encode(value(count));
                format!("{{\"etcd_key\":\"L/8=\",\"value\":\"{value}\"}}\n")
            });
            let (text, said) = (lines.concat(), Said::default());
            let mut from = text.as_bytes();
            let done = import(target, mapping, Form::Lines, &mut from, true, &said).await.unwrap();
            assert_eq!((done.encoded, done.moved), (1, 1));
            let mut wanted: BTreeMap<_, _> =
                of_lines(now).into_iter().map(|op| (op.key().to_owned(), op.size())).collect();
            wanted.extend(others.map(|name| (name.to_owned(), 1)));
            let found = world.found().await.into_iter();
            let found: BTreeMap<_, _> = found.map(|(key, value)| (key, value.len())).collect();
            assert_eq!(found, wanted, "{before} {now}");
        });
    }
}

fn text(keys: Keys, form: Form) -> String {
    use base64::Engine as _;
    let encoder = base64::engine::general_purpose::STANDARD;
    let of = |(key, value): &(&str, &str)| {
        format!("{{\"key\":\"{key}\",\"flags\":1,\"value\":\"{}\"}}", encoder.encode(value))
    };
    let each: Vec<String> = keys.iter().map(of).collect();
    match form {
        Form::Lines => format!("{}\r\n{{\"lines\":{}}}\r\n", each.join("\r\n"), keys.len()),
        Form::ConsulKv => format!("[\n\t{}\n]\n", each.join(",\n\t")),
    }
}

fn encodings(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let units = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<_>>();
    let (le, be) = (units(u16::to_le_bytes), units(u16::to_be_bytes));
    vec![
        ("UTF-8", text.as_bytes().to_vec()),
        ("UTF-8 with a mark", [&[0xef, 0xbb, 0xbf], text.as_bytes()].concat()),
        ("UTF-16LE with a mark", [&[0xff, 0xfe], &le[..]].concat()),
        ("UTF-16BE with a mark", [&[0xfe, 0xff], &be[..]].concat()),
        ("UTF-16LE", le),
        ("UTF-16BE", be),
    ]
}

fn is_read(keys: Keys, form: Form, text: &[u8], count: u64, again: u64, name: &str) {
    let what = format!("{keys:?} {form:?} {name}");
    let (world, said) = (World::plain(1, &[]), Said::default());
    if form == Form::Lines {
        check(&world.mapping, &mut &*text, false).expect(&what);
        let cut = &text[..text.len() - 20];
        check(&world.mapping, &mut &*cut, false).expect_err(&what);
    }
    world.works(async {
        let (target, mapping) = (&world.target, &world.mapping);
        let tally = import(target, mapping, form, &mut &text[..], false, &said).await.unwrap();
        assert_eq!((tally.moved, tally.consul), (count, Some(count)), "{what}");
        for (key, _) in keys {
            let (_, last) = keys.iter().rfind(|(other, _)| other == key).unwrap();
            assert_eq!(world.stored(key).await.as_deref(), Some(*last), "{what}");
        }
        let said = said.0.lock().unwrap();
        assert_eq!(said.len(), usize::from(again > 0), "{what}: {said:?}");
        assert!(said.iter().all(|text| text.starts_with(&again.to_string())), "{what}: {said:?}");
    });
}

fn says_what_it_is_not() {
    for text in [&b"\x1f\x8b\x08"[..], b"<html>", b"\xff\xfe<\0h\0", b""] {
        for form in [Form::Lines, Form::ConsulKv] {
            let world = World::plain(1, &[]);
            world.works(async {
                let (target, mapping) = (&world.target, &world.mapping);
                let (said, mut from) = (Said::default(), text);
                let done = import(target, mapping, form, &mut from, false, &said).await;
                assert!(matches!(done, Err(Stop::Refused(_) | Stop::Failed(_))), "{done:?}");
                let is_gzip = text.starts_with(b"\x1f\x8b");
                assert_eq!(done.unwrap_err().to_string().contains("gzip"), is_gzip);
                assert!(world.found().await.is_empty());
            });
        }
    }
}
