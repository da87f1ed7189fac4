//! Exports that a shell or an editor has written again, and keys that they have twice.

use super::World;
use consul_migrate::{Form, Report, Stop, import, is_whole};
use std::io::Cursor;
use std::sync::Mutex;

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
struct Said(Mutex<Vec<String>>);

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
    parts_that_were_there_are_not_left();
}

/// Consul has a value of another number of parts, beside names that are nobody's parts.
fn parts_that_were_there_are_not_left() {
    use consul_migrate::mapping::Op;
    let names = |count: usize| (0..count).map(move |at| format!("_etcd/2fff/{at:04}-{count:04}"));
    let others = ["_etcd/2fff00/0000-0001", "_etcd/2FFF/0000-0001", "_etcd/2fff"];
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
    assert!(is_whole(&mut Cursor::new(text)).unwrap(), "{what}");
    if form == Form::Lines {
        let cut = &text[..text.len() - 20];
        assert!(!is_whole(&mut Cursor::new(cut)).unwrap(), "{what}");
    }
    let (world, said) = (World::plain(1, &[]), Said::default());
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
                assert!(world.found().await.is_empty());
            });
        }
    }
}
