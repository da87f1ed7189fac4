//! Random requests and replies as bytes, whole, cut and damaged.

use crate::support::golden;
use bytes::Bytes;
use consul_api::error::Kind;
use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Slot, StoreId};
use consul_replication::message::{Action, NotReady, Outcome, Reply, Request};
use consul_replication::record::{HybridTime, Range, Record, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(ms, writer)| Version::new(HybridTime::from_ms(ms), writer))
}

fn record() -> impl Strategy<Value = Record> {
    (bytes(), version(), option::of(bytes())).prop_map(|(id, version, data)| Record {
        id,
        version,
        data,
    })
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    vec(record(), 0..5)
}

fn slot() -> impl Strategy<Value = Slot> {
    let place = (".{0,9}", any::<u64>(), any::<bool>()).prop_map(|(node, disk, is_first)| Place {
        node: node.into(),
        disk: Disk(disk),
        is_first,
    });
    let kind = prop_oneof![Just(ChangeKind::Move), Just(ChangeKind::Failover)];
    let lost = vec(".{0,9}".prop_map(NodeId::from), 0..3);
    let change = (kind, ".{0,9}", any::<u64>(), lost, any::<bool>());
    let change = change.prop_map(|(kind, to, since, lost, unites)| Change {
        kind,
        to: to.into(),
        since,
        lost,
        unites,
    });
    (option::of(place), option::of(change)).prop_map(|(holder, change)| Slot { holder, change })
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<u64>(), vec(slot(), 0..4)).prop_map(|(epoch, slots)| Entry::new(epoch, slots))
}

fn action() -> impl Strategy<Value = Action> {
    let range = (bytes(), option::of(bytes()), option::of(bytes()))
        .prop_map(|(from, to, after)| Range { from, to, after });
    let buckets = vec(any::<u32>(), 0..9);
    prop_oneof![
        records().prop_map(Action::Write),
        (range, any::<usize>()).prop_map(|(range, limit)| Action::Read { range, limit }),
        Just(Action::Seal),
        Just(Action::Fence),
        Just(Action::Recover),
        (option::of(bytes()), any::<usize>())
            .prop_map(|(after, limit)| Action::Copy { after, limit }),
        (any::<u32>(), version(), option::of(bytes()), option::of(bytes())).prop_map(
            |(bits, horizon, after, through)| Action::Sums { bits, horizon, after, through }
        ),
        (any::<u32>(), buckets, version(), option::of(bytes()), option::of(bytes())).prop_map(
            |(bits, buckets, horizon, after, through)| {
                Action::Versions { bits, buckets, horizon, after, through }
            }
        ),
        vec(bytes(), 0..5).prop_map(Action::Fetch),
        records().prop_map(Action::Repair),
        version().prop_map(|below| Action::Floor { below }),
        version().prop_map(|below| Action::Purge { below }),
        Just(Action::Ping),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let why = prop::sample::select(vec![
        NotReady::NotAHolder,
        NotReady::NotWhole,
        NotReady::Sealed,
        NotReady::Fenced,
    ]);
    prop_oneof![
        Just(Outcome::Done),
        vec((any::<usize>(), version()), 0..5).prop_map(|overtaken| Outcome::Stored { overtaken }),
        (records(), any::<bool>(), version()).prop_map(|(records, is_last, horizon)| {
            Outcome::Page { records, is_last, horizon }
        }),
        (vec(any::<u64>(), 0..9), version(), option::of(bytes()))
            .prop_map(|(sums, horizon, through)| Outcome::Sums { sums, horizon, through }),
        (vec((bytes(), version()), 0..5), any::<bool>())
            .prop_map(|(versions, is_last)| Outcome::Versions { versions, is_last }),
        (option::of(entry()), any::<u64>())
            .prop_map(|(entry, fence)| Outcome::Known { entry, fence }),
        entry().prop_map(Outcome::Stale),
        why.prop_map(Outcome::NotReady),
        ".{0,40}".prop_map(Outcome::Failed),
        any::<u64>().prop_map(|id| Outcome::OtherStore(StoreId(id))),
    ]
}

/// The kind of the error for bytes that are not a message.
fn refused<T: std::fmt::Debug>(read: Result<T, consul_api::error::Error>) -> Kind {
    read.expect_err("bytes that are not a message").kind()
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(
        store in option::of(any::<u64>().prop_map(StoreId)), shard in any::<u32>(), entry in entry(),
        action in action(),
        cut in any::<prop::sample::Index>(), garbled in any::<prop::sample::Index>(), with in 1..=255_u8,
    ) {
        let request = Request { store, shard, entry, action };
        let mut bytes = request.encode().to_vec();
        prop_assert_eq!(Request::decode(&bytes).expect("a request"), request);
        prop_assert_eq!(refused(Request::decode(&bytes[..cut.index(bytes.len())])), Kind::Decode);
        let garbled = garbled.index(bytes.len() - 1) + 1;
        bytes[garbled] ^= with;
        prop_assert_eq!(refused(Request::decode(&bytes)), Kind::Decode);
    }

    #[test]
    fn a_reply_is_read_as_it_was_written(
        ms in any::<u64>(), outcome in outcome(),
        cut in any::<prop::sample::Index>(), garbled in any::<prop::sample::Index>(), with in 1..=255_u8,
    ) {
        let reply = Reply { time: HybridTime::from_ms(ms), outcome };
        let mut bytes = reply.encode().to_vec();
        prop_assert_eq!(Reply::decode(&bytes).expect("a reply"), reply);
        prop_assert_eq!(refused(Reply::decode(&bytes[..cut.index(bytes.len())])), Kind::Decode);
        let garbled = garbled.index(bytes.len() - 1) + 1;
        bytes[garbled] ^= with;
        prop_assert_eq!(refused(Reply::decode(&bytes)), Kind::Decode);
    }

    /// Also with the right hash: whatever the fields are, there is no panic.
    #[test]
    fn any_fields_give_a_message_or_an_error(fields in vec(any::<u8>(), 0..99)) {
        let hash = twox_hash::XxHash3_64::oneshot(&fields).to_le_bytes();
        let bytes = [&[3], &hash[..], &fields[..]].concat();
        for read in [Request::decode(&bytes).err(), Reply::decode(&bytes).err()] {
            prop_assert!(read.is_none_or(|error| error.kind() == Kind::Decode));
        }
    }
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let entry = Entry::new(1, Vec::new());
    let request = Request { store: None, shard: 1, entry, action: Action::Ping };
    let mut bytes = request.encode().to_vec();
    bytes[0] = 4;
    let error = Request::decode(&bytes).expect_err("a newer format");
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(
        error.message(),
        "the request about a shard cannot be read: it has format 4, this release supports format 3"
    );
    bytes[0] = 3;
    bytes.push(0);
    let error = Reply::decode(&bytes).expect_err("damaged");
    assert_eq!(
        error.message(),
        "the reply about a shard cannot be read: its bytes are not those that were sent"
    );
}

/// Messages of all forms, each as its bytes in hexadecimal digits and as what they mean.
fn messages() -> String {
    let mut runner = TestRunner::deterministic();
    let mut line = |request: bool| {
        let (bytes, meaning) = if request {
            let request =
                (option::of(any::<u64>().prop_map(StoreId)), any::<u32>(), entry(), action())
                    .prop_map(|(store, shard, entry, action)| Request {
                        store,
                        shard,
                        entry,
                        action,
                    })
                    .new_tree(&mut runner)
                    .expect("a request")
                    .current();
            (request.encode(), format!("{request:?}"))
        } else {
            let reply = (any::<u64>(), outcome())
                .prop_map(|(ms, outcome)| Reply { time: HybridTime::from_ms(ms), outcome })
                .new_tree(&mut runner)
                .expect("a reply")
                .current();
            (reply.encode(), format!("{reply:?}"))
        };
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits} {meaning}")
    };
    let lines: Vec<String> = (0..200).map(|number| line(number % 2 == 0)).collect();
    lines.join("\n")
}

#[test]
fn the_messages_of_each_release_mean_what_they_meant() {
    for text in golden::of_each_release("messages.txt", messages) {
        for line in text.lines() {
            let (digits, meaning) = line.split_once(' ').expect("two parts");
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            let read = match meaning.starts_with("Request") {
                true => Request::decode(&bytes).map(|it| (format!("{it:?}"), it.encode())),
                false => Reply::decode(&bytes).map(|it| (format!("{it:?}"), it.encode())),
            };
            // That release reads what this one writes, too.
            assert_eq!(read.expect("a message"), (meaning.to_owned(), bytes.into()));
        }
    }
}
