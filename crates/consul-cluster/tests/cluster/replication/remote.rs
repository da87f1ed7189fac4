//! Replicas of a shard on nodes that reach each other over sockets, with limits of messages into which
//! two large records do not fit.

use crate::data_plane::world::{self, Node, World};
use crate::support::{AT_ONCE, PATIENCE};
use bytes::Bytes;
use consul_api::error::Kind;
use consul_api::request::Defaults;
use consul_client::{Client, Settings};
use consul_cluster::Options;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey};
use consul_cluster::stores::remote::{Background, Remote, service, service_name};
use consul_process::clock::SystemClock;
use consul_replication::clock::VersionClock;
use consul_replication::holder::Holder;
use consul_replication::map::{Change, ChangeKind, Disk, Entry, Place, Slot};
use consul_replication::message::{Action, Outcome, Request};
use consul_replication::peers::{Entries, Peers as _};
use consul_replication::quorum::Router;
use consul_replication::record::{HybridTime, Range, Record, Version};
use consul_replication::rules::Rules;
use consul_replication::storage::{Memory, PAGE_BYTES, Storage as _};
use consul_replication::transfer::Transfer;
use consul_sim::SimTransport;
use std::sync::Arc;
use std::time::{Duration, Instant};

const STORE: &str = "points";

/// The limit of requests and replies: a page, and a little more for what is around it.
const LIMIT: usize = PAGE_BYTES + (16 << 10);

/// A node with its replicas.
struct Member {
    node: Node,
    memory: Arc<Memory>,
    holder: Arc<Holder>,
    transfer: Transfer,
}

fn limited(id: &str) -> Options {
    Options { max_request_bytes: LIMIT, max_reply_bytes: LIMIT, ..world::options(id) }
}

fn clock() -> Arc<VersionClock> {
    Arc::new(VersionClock::new(|| 1_700_000_000_000, Duration::from_secs(10), 7))
}

fn remote(node: &Node) -> Arc<Remote> {
    Arc::new(Remote::new(Arc::clone(&node.plane), STORE, PATIENCE).expect("limits that are enough"))
}

impl Member {
    fn new(world: &World, id: &str, disk: u64) -> Self {
        let node = world.echo(limited(id));
        let memory = Arc::new(Memory::new());
        let storage = Arc::clone(&memory);
        let holder = Holder::new(id.into(), Disk(disk), storage, clock(), Rules::default());
        let holder = Arc::new(holder);
        node.plane.set_service(&service_name(STORE), Some(service(Arc::clone(&holder), 1)));
        let peers = remote(&node);
        let transfer = Transfer { holder: Arc::clone(&holder), peers, page: 1000 };
        Member { node, memory, holder, transfer }
    }

    /// Its records.
    fn records(&self, world: &World) -> Vec<Record> {
        let all = self.memory.scan(0, Range::all(), usize::MAX);
        world.runtime.block_on(all).expect("memory does not fail")
    }

    fn forget(&self, world: &World) {
        world.runtime.block_on(self.memory.drop_shard(0)).expect("memory does not fail");
    }
}

/// Four nodes; the first three are the holders of the shard.
fn members(world: &World) -> (Vec<Member>, Entry) {
    let members: Vec<Member> =
        (1..=4).map(|disk| Member::new(world, &format!("n{disk}"), disk)).collect();
    let slot = |disk: u64| {
        let node = format!("n{disk}").into();
        Slot::of(Place { node, disk: Disk(disk), is_first: true })
    };
    let entry = Entry::new(1, (1..=3).map(slot).collect());
    world.settle();
    (members, entry)
}

/// A process that keeps no records.
fn router(world: &World, entry: &Entry) -> Router {
    let node = world.node_with(Options { observer: true, ..limited("gateway") }, drop);
    world.settle();
    let entries = Arc::new(Entries::default());
    entries.learn(None, 0, entry);
    let transport = SimTransport::new(Arc::clone(&world.simulated.agent), "simulated");
    let settings = Settings { timeout: PATIENCE, retry_count: 0, defaults: Defaults::default() };
    let (system, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::with_seed(1));
    let client = Client::new(vec![Arc::new(transport)], settings, system, rng);
    let runtime = Arc::new(Background::new(world.runtime.handle().clone(), Arc::new(client)));
    let (peers, clock, times) = (remote(&node), clock(), Arc::default());
    Router { entries, peers, runtime, clock, times, rules: Rules::default() }
}

fn deadline(router: &Router) -> consul_process::clock::Instant {
    router.runtime.clock().now() + PATIENCE
}

#[test]
fn records_of_600_kb_are_written_read_repaired_and_copied_in_parts() {
    let world = World::new();
    let (members, entry) = members(&world);
    let router = router(&world, &entry);
    let large = |first: u8| (Bytes::from(vec![first]), Some(Bytes::from(vec![first; 600_000])));
    for first in *b"abc" {
        let write = router.write(0, vec![large(first)], deadline(&router));
        world.runtime.block_on(write).expect("a quorum");
    }
    let mut range = Range::all();
    let mut read = Vec::new();
    loop {
        let page = router.read(0, &range, 1000, deadline(&router));
        let page = world.runtime.block_on(page).expect("a quorum");
        read.extend(page.records.into_iter().map(|record| (record.id, record.data)));
        let Some(next) = page.next else { break };
        range = range.after(next);
    }
    assert_eq!(read, [large(b'a'), large(b'b'), large(b'c')]);
    // The first node fetches the records that it lacks, and sends the records that another one lacks.
    let first = &members[0];
    world.runtime.block_on(first.holder.learn(0, &entry)).expect("memory does not fail");
    let repair = || {
        let compared = first.transfer.repair(0, Version::default());
        let (compared, is_whole) = world.runtime.block_on(compared).expect("memory");
        assert!(is_whole);
        compared
    };
    // The third replica of a write is not waited for.
    repair();
    let all = first.records(&world);
    assert_eq!(all.len(), 3);
    for (lacking, fetched, sent) in [(0, 3, 0), (2, 0, 3)] {
        members[lacking].forget(&world);
        let compared = repair();
        assert_eq!((compared.fetched, compared.sent), (fetched, sent));
        assert!(members[..3].iter().all(|member| member.records(&world) == all));
    }
    let mut moving = Entry { epoch: 2, ..entry };
    moving.slots[2].change = Some(Change::new(ChangeKind::Move, "n4".into(), 2));
    let target = &members[3];
    world.runtime.block_on(target.holder.learn(0, &moving)).expect("memory does not fail");
    assert!(world.runtime.block_on(target.transfer.pursue(0)).expect("all answer"));
    assert_eq!(target.records(&world), all);
}

#[test]
fn ids_of_2_kb_are_compared_in_parts() {
    let world = World::new();
    let (members, entry) = members(&world);
    let first = &members[0];
    let version = Version::first_of(HybridTime::from_ms(1));
    let record = |number: u32| {
        let id = format!("{number:02000}").into();
        Record { id, version, data: Some(Bytes::from_static(b"data")) }
    };
    let all: Vec<Record> = (0..2000).map(record).collect();
    world.runtime.block_on(async {
        for member in &members[..3] {
            member.holder.learn(0, &entry).await.expect("memory does not fail");
        }
        first.memory.apply(0, all[..1000].to_vec()).await.expect("memory does not fail");
        members[1].memory.apply(0, all[1000..].to_vec()).await.expect("memory does not fail");
        first.transfer.repair(0, Version::default()).await.expect("all answer");
    });
    assert!(members[..3].iter().all(|member| member.records(&world) == all));
}

#[test]
fn a_write_that_does_not_fit_into_a_request_fails_at_once() {
    let world = World::new();
    let (members, entry) = members(&world);
    let router = router(&world, &entry);
    let begun = Instant::now();
    let write = |bytes: usize| {
        let record = (Bytes::from_static(b"id"), Some(Bytes::from(vec![0; bytes])));
        world.runtime.block_on(router.write(0, vec![record], deadline(&router)))
    };
    // A record that fits may be sent again, with more about the shard, when it is repaired.
    let error = write(LIMIT - 4096).expect_err("a record that is too large");
    assert_eq!((error.kind(), error.is_retryable()), (Kind::TooLarge, false));
    assert!(!error.maybe_applied());
    let told = format!("up to {} fit into a request (max_request_bytes)", LIMIT - 8192);
    assert!(error.message().contains(&told), "{error}");
    assert!(begun.elapsed() < AT_ONCE);
    assert!(members.iter().all(|member| member.records(&world).is_empty()));
    write(LIMIT - 10_000).expect("a quorum");
}

#[test]
fn limits_of_messages_that_are_too_small_are_refused() {
    let world = World::new();
    let made = |max_request_bytes, max_reply_bytes| {
        let id = format!("n-{max_request_bytes}-{max_reply_bytes}");
        let options = Options { max_request_bytes, max_reply_bytes, ..world::options(&id) };
        Remote::new(world.echo(options).plane, STORE, PATIENCE).map(drop)
    };
    made(LIMIT, LIMIT).expect("limits that are enough");
    for (request, reply) in [(PAGE_BYTES, LIMIT), (LIMIT, LIMIT - 1)] {
        let error = made(request, reply).expect_err("a limit that is too small");
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.message().contains(&format!("max_request_bytes is {request}")), "{error}");
    }
}

#[test]
fn a_message_that_is_not_a_request_is_refused_in_words() {
    let world = World::new();
    let (members, _) = members(&world);
    let name = service_name(STORE);
    for (bytes, kind, why) in [
        (
            &b"\x04anything"[..],
            Kind::Unsupported,
            "it has format 4, this release supports format 3",
        ),
        (b"", Kind::Decode, "it is empty"),
        (b"\x03garbage that is longer", Kind::Decode, "its bytes are not those that were sent"),
    ] {
        let body = Body::bytes(bytes);
        let options = CallOptions::default();
        let call = members[0].node.plane.call("n2", &name, &body, &options);
        let error = world.runtime.block_on(call).expect_err("a message that is not a request");
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn a_request_with_numbers_out_of_bounds_is_answered() {
    let world = World::new();
    let (members, entry) = members(&world);
    let horizon = Version::default();
    let ask = |action| {
        let request = Request { store: None, shard: 0, entry: entry.clone(), action };
        world.runtime.block_on(members[0].holder.serve(request)).outcome
    };
    let id = Bytes::from_static(b"id");
    let version = Version::first_of(HybridTime::from_ms(1));
    let record = Record { id: id.clone(), version, data: Some(id.clone()) };
    let stored = Outcome::Stored { overtaken: Vec::new() };
    assert_eq!(ask(Action::Write(vec![record.clone()])), stored);
    let page = Outcome::Page { records: vec![record], is_last: false, horizon };
    assert_eq!(ask(Action::Read { range: Range::all(), limit: 0 }), page);
    assert_eq!(ask(Action::Copy { after: None, limit: 0 }), page);
    for bits in [11, 64, u32::MAX] {
        let (after, through) = (None, None);
        let asked = Action::Sums { bits, horizon, after: after.clone(), through: through.clone() };
        let Outcome::Sums { sums, .. } = ask(asked) else { panic!("there are no sums") };
        assert_eq!(sums.len(), 1 << 10);
        let buckets = (0..1 << 10).collect();
        let versions = Outcome::Versions { versions: vec![(id.clone(), version)], is_last: true };
        assert_eq!(ask(Action::Versions { bits, buckets, horizon, after, through }), versions);
    }
}

#[test]
fn a_check_of_the_key_tells_a_node_of_another_key_from_one_that_does_not_answer() {
    const OLD: &str = "the secret of last year";
    const NEW: &str = "the secret of this year";
    const OTHER: &str = "the secret of others";
    let world = World::new();
    let node = |id: &str, key| world.echo(Options { cluster_key: key, ..world::options(id) });
    let old = node("old", Some(ClusterKey::new(OLD)));
    let both = node("both", Some(ClusterKey::new(NEW).with(OLD)));
    let new = node("new", Some(ClusterKey::new(NEW)));
    let other = node("other", Some(ClusterKey::new(OTHER)));
    let none = node("none", None);
    world.member("closed", "127.0.0.1:1");
    world.settle();
    let check_key = |from: &Node, to: &str| {
        let checked = world.runtime.block_on(remote(from).check_key(&to.into()));
        checked.err().map(|error| error.kind())
    };
    let refused = Some(Kind::PermissionDenied);
    for (from, accepted) in [
        (&old, &["both"][..]),
        (&both, &["old", "new"]),
        (&new, &["both"]),
        (&other, &[]),
        (&none, &[]),
    ] {
        let own = from.cluster.options().node_id.as_str();
        for to in ["old", "both", "new", "other", "none"].iter().filter(|to| **to != own) {
            let expected = if accepted.contains(to) { None } else { refused };
            assert_eq!(check_key(from, to), expected, "the key of {to} for {own}");
        }
        assert_eq!(check_key(from, "closed"), Some(Kind::Connect));
        assert_eq!(check_key(from, "nobody"), Some(Kind::NotFound));
    }
}
