//! The duties of a storage of replicated shards, for the one in memory. `spec/examples/storage_contract.lua`
//! has the same sentences for storages of Lua programs.

use bytes::Bytes;
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::storage::{Memory, Storage};
use futures_util::FutureExt as _;

/// The storage under test, whose futures need no time.
#[derive(Default)]
struct Tested(Memory);

fn now<T>(future: impl Future<Output = Result<T, consul_api::error::Error>>) -> T {
    future.now_or_never().expect("no wait").expect("a success")
}

fn version(number: u64) -> Version {
    Version::new(HybridTime::from_ms(0), number)
}

fn record(id: &str, number: u64, data: Option<&str>) -> Record {
    let data = data.map(|data| Bytes::copy_from_slice(data.as_bytes()));
    Record { id: Bytes::copy_from_slice(id.as_bytes()), version: version(number), data }
}

impl Tested {
    fn apply(&self, shard: u32, records: &[Record]) -> Vec<(usize, Version)> {
        now(self.0.apply(shard, records.to_vec()))
    }

    fn scan(&self, shard: u32, range: Range, limit: usize) -> String {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let shown = |it: &Record| {
            let data = it.data.as_ref().map_or("deleted".to_owned(), text);
            format!("{}={data}", text(&it.id))
        };
        now(self.0.scan(shard, range, limit)).iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    fn all(&self, shard: u32) -> String {
        self.scan(shard, Range::all(), 1000)
    }
}

fn range(from: &str, to: Option<&str>, after: Option<&str>) -> Range {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Range { from: bytes(from), to: to.map(bytes), after: after.map(bytes) }
}

#[test]
fn it_is_not_changed_by_records_that_it_has() {
    let storage = Tested::default();
    let all = [record("a", 1, Some("one")), record("b", 1, None), record("c", 2, Some(""))];
    for _ in 0..2 {
        assert_eq!(storage.apply(7, &all), []);
    }
    assert_eq!(storage.apply(7, &[]), []);
    assert_eq!(storage.all(7), "a=one b=deleted c=");
}

#[test]
fn it_keeps_the_higher_version_in_any_order_and_names_those_that_it_kept() {
    let storage = Tested::default();
    storage
        .apply(7, &[record("a", 5, Some("five")), record("b", 5, None), record("c", 5, Some("x"))]);
    let older = [
        record("a", 4, Some("four")),
        record("new", 1, Some("x")),
        record("b", 4, Some("four")),
        record("c", 9, Some("y")),
    ];
    assert_eq!(storage.apply(7, &older), [(0, version(5)), (2, version(5))]);
    assert_eq!(storage.all(7), "a=five b=deleted c=y new=x");
    assert_eq!(storage.apply(7, &[record("a", 6, None), record("b", 6, Some("six"))]), []);
    assert_eq!(storage.all(7), "a=deleted b=six c=y new=x");
}

#[test]
fn it_keeps_the_greater_data_of_equal_versions_a_deletion_being_the_least() {
    let storage = Tested::default();
    storage.apply(7, &[record("a", 1, Some("b"))]);
    for less in [Some("a"), None] {
        assert_eq!(storage.apply(7, &[record("a", 1, less)]), [(0, version(1))]);
    }
    assert_eq!(storage.apply(7, &[record("a", 1, Some("c"))]), []);
    assert_eq!(storage.all(7), "a=c");
}

#[test]
fn it_scans_in_the_order_of_bytes_from_an_id_to_before_another_after_an_id_in_pages() {
    let storage = Tested::default();
    for id in ["b", "z", "a", "B", "ab", "a\0", "\0"] {
        storage.apply(7, &[record(id, 1, Some("x"))]);
    }
    assert_eq!(storage.all(7), "\0=x B=x a=x a\0=x ab=x b=x z=x");
    assert_eq!(storage.scan(7, range("a", Some("b"), None), 9), "a=x a\0=x ab=x");
    assert_eq!(storage.scan(7, range("a", Some("b"), Some("a\0")), 9), "ab=x");
    assert_eq!(storage.scan(7, range("a", Some("b"), Some("B")), 1), "a=x");
    assert_eq!(storage.scan(7, range("c", Some("d"), None), 9), "");
}

#[test]
fn it_keeps_shards_apart_and_purges_the_deleted_records_below_a_version() {
    let storage = Tested::default();
    let deleted = [record("a", 1, None), record("b", 2, None), record("c", 1, Some("x"))];
    storage.apply(7, &deleted);
    storage.apply(8, &deleted[..1]);
    now(storage.0.purge(7, version(2)));
    assert_eq!((storage.all(7), storage.all(8)), ("b=deleted c=x".into(), "a=deleted".into()));
}

#[test]
fn it_has_what_was_kept_also_after_its_shards_were_dropped() {
    let storage = Tested::default();
    assert_eq!(now(storage.0.kept("shard/7")), None);
    now(storage.0.keep("shard/7", Bytes::from_static(b"\0\xff")));
    storage.apply(7, &[record("a", 1, Some("x"))]);
    now(storage.0.drop_shard(7));
    assert_eq!(now(storage.0.kept("shard/7")), Some(Bytes::from_static(b"\0\xff")));
    assert_eq!(storage.all(7), "");
    now(storage.0.keep("shard/7", Bytes::from_static(b"new")));
    assert_eq!(now(storage.0.kept("shard/7")), Some(Bytes::from_static(b"new")));
}
