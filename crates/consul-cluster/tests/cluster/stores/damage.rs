//! Disks that change what was written.

use super::*;
use consul_cluster::Mode;
use consul_replication::record::{Record, Version};

const KEY: &str = "before-7";

/// After this time what was written is below the horizon of each replica, since they were compared and purged.
const OLD: Duration = Duration::from_secs(120);

/// Within this time a damaged record that was read is replaced, also by a copy of the whole replica.
const MENDED: Duration = Duration::from_secs(45);

impl Cases {
    /// Changes what a disk has of a record.
    fn change_on(&self, node: &Process, key: &str, change: impl Fn(&mut Record)) {
        let (disk, shard) = (&node.disk, node.store.shard_of(key.as_bytes()));
        self.world.run(async {
            let mut records = disk.scan(shard, Range::all(), usize::MAX).await.expect("memory");
            records.iter_mut().filter(|it| it.id == key.as_bytes()).for_each(change);
            disk.drop_shard(shard).await.expect("memory");
            disk.apply(shard, records).await.expect("memory");
        });
    }

    fn flip_data(&self, node: &Process, key: &str, (at, bit): (usize, u32)) {
        self.change_on(node, key, |record| {
            let mut data = record.data.clone().expect("it is not deleted").to_vec();
            data[at] ^= 1 << bit;
            record.data = Some(data.into());
        });
    }

    /// What a node reads of a key; `None`: the read is incomplete.
    fn try_read(&self, at: &Process, key: &str) -> Option<Option<Bytes>> {
        let range = Range { from: Bytes::from(key.to_owned()), ..Range::all() };
        let page = at.store.read(key.as_bytes(), &range, 1, self.deadline(2));
        let page = self.world.run(page);
        if let Err(why) = &page {
            assert!(why.message().contains("has changed record"), "{why}");
        }
        let record = page.ok()?.records.into_iter().find(|it| it.id == key.as_bytes());
        Some(record.and_then(|record| record.data))
    }

    /// All replicas have what was written, and say so.
    fn is_mended(&self, nodes: &[Process], what: &str) {
        for node in nodes {
            self.has(node, "before");
            for record in node.disk.records(8) {
                let is_right = record.data.as_deref() == Some(b"before") && !record.is_damaged();
                assert!(is_right, "{what}: {record:?}");
            }
            assert_eq!(node.disk.records(8).len(), 40, "{what}");
            assert_eq!(node.store.fault(), None, "{what}");
            assert_eq!(node.store.serves(), Ok(()), "{what}");
        }
    }
}

/// Whichever replicas have other data, whether these are the greater or the less, and however old they are.
#[test]
fn data_that_disks_have_changed_are_never_read_and_are_replaced() {
    for age in [Duration::from_secs(1), OLD] {
        for subset in 1_u32..7 {
            for flip in [(0, 0), (0, 1)] {
                let (cases, nodes) = Cases::filled(3);
                cases.world.wait(age);
                for at in (0..3).filter(|at| subset & (1 << at) != 0) {
                    cases.flip_data(&nodes[at], KEY, flip);
                }
                let what = format!("{age:?}, {subset:b}, {flip:?}");
                for node in &nodes {
                    match cases.try_read(node, KEY) {
                        Some(data) => assert_eq!(data.as_deref(), Some(&b"before"[..]), "{what}"),
                        None => assert_eq!(subset.count_ones(), 2, "{what}"),
                    }
                }
                cases.world.wait(MENDED);
                cases.is_mended(&nodes, &what);
            }
        }
    }
}

/// Nobody has it any more: nothing else is returned, the nodes say so, and a write ends it.
#[test]
fn a_record_that_all_disks_have_changed_is_not_read_until_it_is_written() {
    let (cases, nodes) = Cases::filled(3);
    for (at, node) in nodes.iter().enumerate() {
        cases.flip_data(node, KEY, (at, 1));
    }
    for _ in 0..3 {
        nodes.iter().for_each(|node| assert_eq!(cases.try_read(node, KEY), None));
        cases.world.wait(Duration::from_secs(60));
        for node in &nodes {
            let why = node.store.serves().expect_err("a record is lost");
            assert!(why.contains("the disk has changed record \"before-7\" of shard"), "{why}");
        }
    }
    cases.write(&nodes[1], KEY, "before").expect("a quorum");
    cases.world.wait(MENDED);
    cases.is_mended(&nodes, "written again");
}

/// Bits of each part of its version, and its id. A replica that cannot be mended by a record is made again.
#[test]
fn versions_and_ids_that_a_disk_has_changed_are_never_read_and_are_replaced() {
    let flip = |bit: u32, record: &mut Record| {
        let bits = u128::from_str_radix(&record.version.to_string(), 16).expect("hexadecimal");
        record.version = format!("{:032x}", bits ^ 1 << bit).parse().expect("a version");
    };
    let id = |_: u32, record: &mut Record| record.id = Bytes::from("before-7x");
    for number in [0, 17, 30, 50, 70, 90, 127, 128] {
        let (cases, nodes) = Cases::filled(3);
        cases.world.wait(if number % 3 == 0 { OLD } else { Duration::from_secs(1) });
        let damaged = number as usize % 3;
        cases.change_on(&nodes[damaged], KEY, |record| match number {
            128 => id(number, record),
            bit => flip(bit, record),
        });
        for _ in 0..2 {
            for node in &nodes {
                assert_eq!(cases.read(node, KEY).as_deref(), Some("before"), "{number}");
            }
            cases.world.wait(MENDED);
        }
        for node in &nodes {
            cases.has(node, "before");
            assert_eq!(node.store.serves(), Ok(()), "{number}");
            assert_eq!(node.disk.records(8).iter().filter(|it| it.is_damaged()).count(), 0);
            assert_eq!(node.disk.records(8).len(), 40, "{number}");
        }
        // Not by that replica alone.
        cases.kill(&nodes[(damaged + 1) % 3]);
        cases.has(&nodes[(damaged + 2) % 3], "before");
    }
}

/// The one that has it right is not away: it mends the other one without the third.
#[test]
fn a_changed_record_is_replaced_while_another_replica_is_away() {
    for age in [Duration::from_secs(1), OLD] {
        for damaged in 0..2 {
            let (cases, nodes) = Cases::filled(3);
            cases.world.wait(age);
            cases.kill(&nodes[2]);
            cases.flip_data(&nodes[damaged], KEY, (2, 3));
            _ = cases.try_read(&nodes[damaged], KEY);
            cases.world.wait(Duration::from_secs(40));
            nodes[..2].iter().for_each(|node| cases.has(node, "before"));
        }
    }
}

/// A move and a failover take no changed record, and lack nothing.
#[test]
fn a_changed_record_is_neither_copied_nor_left_out() {
    for (flip, is_moved) in [(0, true), (7, true), (0, false), (7, false)] {
        let (cases, nodes) = Cases::filled(4);
        cases.wait_until(120, || nodes.iter().all(|node| node.is_settled(3)));
        let shard = nodes[0].store.shard_of(KEY.as_bytes()) as usize;
        let holders = nodes[0].store.status()[shard].holders.clone();
        let at = |holder: &NodeId| {
            let is_it = |node: &&Process| *node.cluster.options().node_id == **holder;
            nodes.iter().find(is_it).expect("a node")
        };
        let (damaged, other) = (at(&holders[0]), at(&holders[1]));
        cases.flip_data(damaged, KEY, (0, flip));
        let gone = if is_moved { damaged } else { other };
        if is_moved {
            let drain = other.cluster.set_mode(&holders[0], Mode::Draining);
            cases.world.run(drain).expect("the right to do so");
        } else {
            cases.kill(other);
        }
        let left = |node: &NodeId| *node.clone() != *gone.cluster.options().node_id;
        cases.wait_until(300, || {
            let status = &damaged.store.status()[shard];
            status.targets.is_empty()
                && status.holders.len() == 3
                && status.holders.iter().all(left)
        });
        // Each pair of those that it has now.
        let now = damaged.store.status()[shard].holders.clone();
        let disks = now.iter().map(|holder| &at(holder).disk);
        for disk in disks {
            let records = disk.records(8);
            let found = records.iter().find(|it| it.id == KEY).expect("it is there");
            assert_eq!(found.data.as_deref(), Some(&b"before"[..]), "{flip}, {is_moved}");
        }
    }
}

/// Records of earlier releases have no sum.
#[test]
fn versions_without_a_sum_are_read_as_they_are() {
    let record = |version: Version| Record { id: "id".into(), version, data: Some("x".into()) };
    let version = |text: &str| -> Version { text.parse().expect("a version") };
    assert!(!record(version("018bcfe568000000d1b5c39e70000000")).is_damaged());
    assert!(!record(Version::default()).is_damaged());
    let summed = record(version("018bcfe568000000d1b5c39e70000000")).summed();
    assert!(
        !summed.is_damaged()
            && summed.version.time() == version("018bcfe568000000d1b5c39e70000000").time()
    );
    assert!(Record { data: Some("y".into()), ..summed.clone() }.is_damaged());
    assert!(Record { id: "ie".into(), ..summed.clone() }.is_damaged());
    assert_eq!(Record { data: None, ..summed.clone() }.summed().version, summed.version);
}
