//! The leader's plans.

use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Quorums, Slot};
use consul_replication::plan::{Accepted, MAX_CHANGES, Map, Member, Planner, Presence};
use consul_replication::record::{HybridTime, Version};
use consul_replication::rules::Rules;
use consul_replication::state::{Doubt, Equal, Report};
use std::collections::BTreeSet;

const NOW: Version = Version::first_of(HybridTime::from_ms(1000));

const QUORUMS: Quorums = Quorums { replicas: 3, write: 2, read: 2 };

fn members(count: u64) -> Vec<Member> {
    let member = |number: u64| Member {
        id: format!("n{number}").into(),
        zone: String::new(),
        weight: 1.0,
        disk: Disk(number),
        presence: Presence::Live,
        is_failing: false,
        to_remake: BTreeSet::new(),
        report: Report::default(),
    };
    (1..=count).map(member).collect()
}

fn place_of(member: &Member) -> Place {
    Place { node: member.id.clone(), disk: member.disk, is_first: true }
}

fn next(map: &Map, members: &[Member], stuck: &[(u32, u64)], accepted: &[u32]) -> Map {
    let missing = |shard: &u32| (*shard, map.missing(*shard, members));
    next_after(map, members, stuck, &accepted.iter().map(missing).collect())
}

/// The same after the word of an operator about these replicas.
fn next_after(map: &Map, members: &[Member], stuck: &[(u32, u64)], accepted: &Accepted) -> Map {
    let stuck: BTreeSet<_> = stuck.iter().copied().collect();
    let planner = Planner { stuck: &stuck, accepted, ..planner(members) };
    map.next(&planner).unwrap_or_else(|| map.clone())
}

fn planner(members: &[Member]) -> Planner<'_> {
    static NONE: (BTreeSet<(u32, u64)>, Accepted) = (BTreeSet::new(), Accepted::new());
    Planner {
        members,
        quorums: QUORUMS,
        may_plan: true,
        stuck: &NONE.0,
        accepted: &NONE.1,
        now: NOW,
        rules: Rules::default(),
    }
}

/// The next map on the way to other numbers.
fn next_toward(map: &Map, members: &[Member], quorums: Quorums) -> Map {
    map.next(&Planner { quorums, ..planner(members) }).unwrap_or_else(|| map.clone())
}

fn first(shards: usize, members: &[Member]) -> Map {
    Map::first(shards, 1, &planner(members))
}

fn changes(map: &Map) -> Vec<Change> {
    let slots = map.shards.iter().flat_map(|entry| &entry.slots);
    slots.filter_map(|slot| slot.change.clone()).collect()
}

#[test]
fn a_limited_number_of_changes_is_in_progress() {
    let map = first(8192, &members(3));
    let joined = next(&map, &members(4), &[], &[]);
    assert_eq!(changes(&joined).len(), MAX_CHANGES);
    assert_eq!(changes(&next(&joined, &members(4), &[], &[])).len(), MAX_CHANGES);
    // A lost disk is one change for each of its shards.
    let mut lost = members(3);
    lost[0].disk = Disk(99);
    assert_eq!(changes(&next(&map, &lost, &[], &[])).len(), MAX_CHANGES);
}

/// A map of one shard on n1 to n3 with a failover of n1 to n4.
fn failing_over() -> (Map, Vec<Member>) {
    let mut map = first(1, &members(3));
    let slots = &mut map.shards[0].slots;
    let slot = slots.iter_mut().find(|it| it.holder.as_ref().is_some_and(|it| *it.node == *"n1"));
    slot.expect("n1").change = Some(Change::new(ChangeKind::Failover, "n4".into(), 1));
    let mut members = members(5);
    members[0].presence = Presence::Gone;
    (map, members)
}

#[test]
fn a_failover_whose_target_fails_gets_another_one_unless_its_sources_are_away() {
    let (map, mut members) = failing_over();
    let target = |map: &Map| changes(map)[0].to.clone();
    assert_eq!(target(&next(&map, &members, &[], &[])), NodeId::from("n4"));
    assert_eq!(target(&next(&map, &members, &[(0, 1)], &[])), NodeId::from("n5"));
    members[1].presence = Presence::Down;
    assert_eq!(target(&next(&map, &members, &[(0, 1)], &[])), NodeId::from("n4"));
}

#[test]
fn an_accepted_loss_is_that_of_the_nodes_that_are_away() {
    let (map, mut members) = failing_over();
    members[1].presence = Presence::Down;
    let of_n4 =
        |map: &Map| changes(map).into_iter().find(|it| *it.to == *"n4").expect("a failover");
    let nodes = |ids: &[&str]| ids.iter().map(|id| NodeId::from(*id)).collect::<BTreeSet<_>>();
    let lost = |map: &Map| of_n4(map).lost.into_iter().collect::<BTreeSet<_>>();
    assert!(lost(&next(&map, &members, &[], &[])).is_empty());
    let accepted = next(&map, &members, &[], &[0]);
    assert_eq!(lost(&accepted), nodes(&["n1", "n2"]));
    assert_eq!(of_n4(&accepted).since, 1, "what was copied stays");
    assert_eq!(changes(&accepted).len(), 2, "n2 is replaced too");
    // It is back with its replica, and is copied too.
    members[1].presence = Presence::Live;
    assert_eq!(lost(&next(&accepted, &members, &[], &[0])), nodes(&["n1"]));
}

/// A disk that was given up can come back, and what it has was not deleted.
#[test]
fn nothing_is_proved_of_the_time_before_an_accepted_loss() {
    let (map, members) = failing_over();
    assert_eq!(next(&map, &members, &[], &[]).shards[0].unproven, Version::default());
    let accepted = next(&map, &members, &[], &[0]);
    assert_eq!(accepted.shards[0].unproven, NOW);
    // It stays when the failovers have ended, and in other epochs.
    let mut ended = accepted.clone();
    let since = ended.shards[0].slots.iter().flat_map(|it| &it.change).map(|it| it.since);
    let finished: Vec<(u32, u64)> = since.map(|since| (0, since)).collect();
    let mut members = members;
    members.iter_mut().for_each(|member| member.report.finished.clone_from(&finished));
    ended = next(&ended, &members, &[], &[]);
    assert_eq!(ended.shards[0].unproven, NOW);
    assert_eq!(ended.raised(99).shards[0].unproven, NOW);
}

#[test]
fn the_loss_of_all_disks_can_be_accepted() {
    let map = first(1, &members(3));
    let mut members = members(3);
    members.iter_mut().for_each(|member| member.disk = Disk(member.disk.0 + 100));
    let accepted = next(&map, &members, &[], &[0]);
    assert_eq!(changes(&accepted).len(), 3);
    assert!(changes(&accepted).iter().all(|change| change.lost.len() == 3));
}

/// n1 has lost its disk, which an operator has accepted; what n2 has is doubted, or whole.
#[test]
fn a_failover_unites_what_is_doubted_only_if_nothing_else_is_lost() {
    let map = first(1, &members(3));
    let place = |node: &str| {
        let holders = map.shards[0].slots.iter().filter_map(|slot| slot.holder.clone());
        holders.into_iter().find(|place| *place.node == *node).expect("a holder")
    };
    for (doubt, accepted, unites) in [
        (None, &["n1"][..], false),
        (Some(Doubt::Old), &["n1"], false),
        (Some(Doubt::Partial), &["n1"], false),
        (Some(Doubt::Old), &["n1", "n2"], true),
        (Some(Doubt::Partial), &["n1", "n2"], true),
        (Some(Doubt::Restarted), &["n1"], true),
    ] {
        let mut members = members(3);
        members[0].disk = Disk(99);
        if let Some(doubt) = doubt {
            members[1].disk = Disk(98);
            members[1].report.doubted = vec![(0, doubt)];
        }
        let accepted: Accepted = [(0, accepted.iter().map(|node| place(node)).collect())].into();
        let next = next_after(&map, &members, &[], &accepted);
        let change = changes(&next).into_iter().find(|it| *it.to == *"n1").expect("a failover");
        assert_eq!(next.shards[0].unproven, NOW, "an operator accepts it");
        assert_eq!(
            (change.unites, change.lost),
            (unites, vec!["n1".into()]),
            "{doubt:?}, {accepted:?}"
        );
    }
}

/// As many disks as the promise allows are lost, and nothing that was acknowledged with them.
#[test]
fn a_loss_that_nobody_has_to_accept_proves_as_much_as_before() {
    let map = first(1, &members(3));
    let mut members = members(3);
    members[0].disk = Disk(99);
    (members[1].disk, members[1].report.doubted) = (Disk(98), vec![(0, Doubt::Restarted)]);
    let next = next_after(&map, &members, &[], &Accepted::new());
    assert!(changes(&next).iter().all(|it| it.unites && !it.lost.is_empty()), "{next:?}");
    assert_eq!(next.shards[0].unproven, Version::default());
}

/// A node that was asked, and whose answer was not used, would refuse the shard forever.
#[test]
fn an_entry_gets_an_epoch_that_every_node_executes() {
    let map = first(2, &members(3));
    let mut members = members(3);
    members[1].report.fenced = vec![(1, 1_000_000)];
    let epochs = |map: &Map| [map.shards[0].epoch, map.shards[1].epoch];
    let raised = next(&map, &members, &[], &[]);
    assert_eq!(epochs(&raised), [1, 1_000_001]);
    assert_eq!(epochs(&next(&raised, &members, &[], &[])), [1, 1_000_001]);
}

#[test]
fn a_node_that_drains_is_no_target_of_a_failover() {
    let (map, mut members) = failing_over();
    let target = |map: &Map| changes(map)[0].to.clone();
    members[4].weight = 0.0;
    assert_eq!(target(&next(&map, &members, &[(0, 1)], &[])), NodeId::from("n4"), "n5 drains");
}

/// n1 is away too, and may come back with what n2 and itself alone had.
#[test]
fn a_failover_waits_for_all_others_unless_the_loss_of_its_own_holder_is_accepted() {
    let (map, mut members) = failing_over();
    members[0].presence = Presence::Live;
    members[1].presence = Presence::Down;
    let accepted: Accepted = [(0, map.missing(0, &members))].into();
    members[0].presence = Presence::Gone;
    let next = next_after(&map, &members, &[], &accepted);
    let lost = |to: &str| changes(&next).into_iter().find(|it| *it.to == *to).expect("it").lost;
    assert!(lost("n4").is_empty());
    assert_eq!(lost("n5"), [NodeId::from("n2")]);
}

#[test]
fn a_lost_disk_that_cannot_be_filled_again_is_replaced_on_another_node() {
    let map = first(1, &members(3));
    let mut members = members(4);
    members[0].disk = Disk(99);
    let filled = next(&map, &members, &[], &[]);
    let change = changes(&filled).remove(0);
    assert_eq!(change.to, NodeId::from("n1"));
    let moved = next(&filled, &members, &[(0, change.since)], &[]);
    assert_eq!(changes(&moved)[0].to, NodeId::from("n4"));
}

/// n1 is back, and has not reported yet that it has its replica.
#[test]
fn a_holder_that_is_being_replaced_gets_no_other_slot_of_its_shard() {
    let (map, mut members) = failing_over();
    members.truncate(4);
    members[0].presence = Presence::Live;
    members[1].presence = Presence::Gone;
    let next = next(&map, &members, &[], &[]);
    assert!(changes(&next).iter().all(|change| *change.to == *"n4"), "{next:?}");
}

/// A shard of three replicas that changes to two, in which these nodes have found the replicas equal but for others.
fn shrinking(equal: &[(usize, &[&str])]) -> (Map, Vec<Member>) {
    let mut members = members(3);
    let marked = next_toward(&first(1, &members), &members, TWO);
    let epoch = marked.shards[0].epoch;
    for (member, without) in equal {
        let without = without.iter().map(|node| NodeId::from(*node)).collect();
        members[*member].report.equal = vec![Equal { shard: 0, epoch, without }];
    }
    (marked, members)
}

const TWO: Quorums = Quorums { replicas: 2, write: 2, read: 2 };

fn holders(map: &Map) -> Vec<String> {
    let places = map.shards[0].counting().map(|(_, place)| place.node.to_string());
    BTreeSet::from_iter(places).into_iter().collect()
}

#[test]
fn a_replica_that_did_not_reach_another_hides_nothing_of_one_that_did() {
    let three = Quorums { replicas: 3, write: 3, read: 1 };
    let (_, mut members) = shrinking(&[]);
    let marked = next_toward(&first(1, &members), &members, three);
    let epoch = marked.shards[0].epoch;
    let equal = |without: Vec<NodeId>| vec![Equal { shard: 0, epoch, without }];
    members[0].report.equal = equal(vec!["n3".into()]);
    assert_eq!(next_toward(&marked, &members, three).shards, marked.shards);
    members[2].report.equal = equal(Vec::new());
    let changed = next_toward(&marked, &members, three);
    assert!(changed.shards[0].has(three), "{changed:?}");
}

#[test]
fn no_replica_is_removed_beside_another_one_that_is_away() {
    for away in [Presence::Down, Presence::Gone] {
        // All were equal; then the node of one went away, and that one is removed.
        for number in 0..3 {
            let (marked, mut members) = shrinking(&[((number + 1) % 3, &[])]);
            members[number].presence = away;
            let left = holders(&next_toward(&marked, &members, TWO));
            assert_eq!(left.len(), 2);
            assert!(!left.contains(&format!("n{}", number + 1)), "{left:?}");
        }
        // Another one was left out, or two are away: it waits.
        let (marked, mut members) = shrinking(&[(1, &["n3"])]);
        members[0].presence = away;
        assert_eq!(holders(&next_toward(&marked, &members, TWO)).len(), 3);
        let (marked, mut members) = shrinking(&[(1, &[])]);
        (members[0].presence, members[2].presence) = (away, away);
        assert_eq!(holders(&next_toward(&marked, &members, TWO)).len(), 3);
    }
}

/// Once it makes no progress: a storage that fails may still give what it has.
#[test]
fn a_move_from_a_storage_that_fails_becomes_a_failover_if_nothing_is_missed_with_it() {
    let quorums = |write, read| Quorums { replicas: 3, write, read };
    for (weight, fails, quorums, is_stuck, kind) in [
        (0.0, ["n1"].as_slice(), quorums(2, 2), true, Some(ChangeKind::Failover)),
        (0.0, &["n1"], quorums(2, 2), false, Some(ChangeKind::Move)),
        (0.0, &[], quorums(2, 2), true, None),
        (1.0, &["n1"], quorums(2, 2), true, None),
        (0.0, &["n1", "n2"], quorums(2, 2), true, None),
        (0.0, &["n1", "n2"], quorums(3, 3), true, Some(ChangeKind::Failover)),
        (0.0, &["n1"], quorums(3, 1), true, None),
        (0.0, &["n1"], quorums(1, 3), true, None),
    ] {
        let case = format!("weight {weight}, {fails:?} fail, {quorums:?}, stuck {is_stuck}");
        let mut members = members(4);
        let mut map = Map::first(1, 1, &Planner { quorums, ..planner(&members[..3]) });
        let change = Change::new(ChangeKind::Move, "n4".into(), 1);
        let slot = map.shards[0].slots.iter_mut().find(|it| it.names("n1"));
        slot.expect("one of n1").change = Some(change);
        members[0].weight = weight;
        for member in &mut members {
            member.is_failing = fails.contains(&&*member.id);
        }
        let stuck = BTreeSet::from_iter(is_stuck.then_some((0, 1)));
        let after = |map: &Map, members: &[Member]| {
            map.next(&Planner { quorums, may_plan: false, stuck: &stuck, ..planner(members) })
        };
        let next = after(&map, &members).unwrap_or(map);
        assert_eq!(changes(&next).first().map(|it| it.kind), kind, "{case}");
        if kind != Some(ChangeKind::Failover) {
            continue;
        }
        // It has learned that it is replaced, and has its data: until its storage works.
        members[0].report.returned = [(0, next.version)].into();
        assert_eq!(after(&next, &members), None, "{case}");
        members[0].is_failing = false;
        let cancelled = after(&next, &members).expect("another map");
        assert_eq!(changes(&cancelled), [], "{case}");
    }
}

/// n1 is to make its replica again. Each member but n1 to n3 is a spare one.
#[test]
fn a_replica_that_is_to_be_made_again_does_not_move() {
    let map = first(1, &members(3));
    let with = |count, change: &dyn Fn(&mut Member)| {
        let mut members = members(count);
        members[0].to_remake.insert(0);
        change(&mut members[0]);
        members
    };
    let of_n1 = |map: &Map| {
        let slots = map.shards[0].slots.iter();
        let mut slots = slots.filter(|it| it.holder.as_ref().is_some_and(|it| *it.node == *"n1"));
        slots.next().and_then(|slot| slot.change.clone()).map(|it| (it.kind, it.to.to_string()))
    };
    let (moves, failover) = (ChangeKind::Move, ChangeKind::Failover);
    let to = |kind, node: &str| Some((kind, node.to_owned()));
    for (what, expected, change) in [
        ("it drains", None, &(|it: &mut Member| it.weight = 0.0) as &dyn Fn(&mut Member)),
        ("it is light", None, &|it| it.weight = 0.01),
        ("done", to(moves, "n4"), &|it| (it.weight, it.to_remake) = (0.0, BTreeSet::new())),
        ("another shard", to(moves, "n4"), &|it| (it.weight, it.to_remake) = (0.0, [1].into())),
        // Nothing copies it after that, and what it drains from is another node.
        ("given up", to(failover, "n1"), &|it| it.report.missing.push(0)),
        ("given up, it drains", to(failover, "n4"), &|it| {
            it.weight = 0.0;
            it.report.missing.push(0);
        }),
        ("it is gone", to(failover, "n4"), &|it| it.presence = Presence::Gone),
        ("it drains and fails", to(failover, "n4"), &|it| (it.weight, it.is_failing) = (0.0, true)),
    ] {
        assert_eq!(of_n1(&next(&map, &with(4, change), &[], &[])), expected, "{what}");
    }
    // Without another node it makes it itself, until there is one.
    let drains = with(3, &|it| {
        it.weight = 0.0;
        it.report.missing.push(0);
    });
    let begun = next(&map, &drains, &[], &[]);
    assert_eq!(of_n1(&begun), to(failover, "n1"));
    let joined: Vec<Member> = drains.iter().cloned().chain(members(4).pop()).collect();
    assert_eq!(of_n1(&next(&begun, &joined, &[], &[])), to(failover, "n4"));
    // A move that has begun before ends, unless it has copied it already.
    let moving = next(&map, &with(4, &|it| (it.weight, it.to_remake) = (0.0, [].into())), &[], &[]);
    let drains = with(4, &|it| it.weight = 0.0);
    assert_eq!(of_n1(&next(&moving, &drains, &[], &[])), None);
    let mut finished = drains;
    finished[3].report.finished.push((0, moving.version));
    let after = next(&moving, &finished, &[], &[]);
    assert!(after.shards[0].names("n4") && !after.shards[0].names("n1"));
}

/// It goes first of more replicas than are wanted.
#[test]
fn a_replica_that_is_to_be_made_again_is_removed_first() {
    for remade in 0..3 {
        let mut members = members(3);
        let mut map = first(1, &members);
        members[remade].to_remake.insert(0);
        let wanted = Quorums::majorities(2);
        for _ in 0..3 {
            let (epoch, without) = (map.shards[0].epoch, Vec::new());
            members[0].report.equal = vec![Equal { shard: 0, epoch, without }];
            map = next_toward(&map, &members, wanted);
        }
        assert!(map.shards[0].has(wanted) || map.shards[0].slots.len() == 2, "{map:?}");
        assert!(!map.shards[0].names(&members[remade].id), "{map:?}");
    }
}

/// A move waits for the other replicas, and may have the only node that could get the lost one.
#[test]
fn a_replica_that_is_gone_is_made_before_another_one_moves() {
    for count in [4, 5] {
        for weight in [1.0, 0.0] {
            for order in 0..3 {
                let mut members = members(count);
                (members[0].presence, members[3].weight) = (Presence::Gone, weight);
                let mut slots = [0, 3, 2].map(|at| Slot::of(place_of(&members[at]))).to_vec();
                slots[1].change = Some(Change::new(ChangeKind::Move, "n2".into(), 1));
                slots.rotate_left(order);
                let shards = vec![Entry::new(1, slots)];
                let map = next(&Map { version: 1, shards }, &members, &[], &[]);
                let case = format!("{count} nodes, weight {weight}, {order}: {map:?}");
                let lost = map.shards[0].slots.iter().find(|slot| slot.names("n1"));
                let change = lost.and_then(|slot| slot.change.as_ref()).expect(&case);
                assert_eq!(change.kind, ChangeKind::Failover, "{case}");
                let targets: BTreeSet<_> = changes(&map).iter().map(|it| it.to.clone()).collect();
                assert_eq!(targets.len(), changes(&map).len(), "{case}");
                // That stays so.
                let later = next(&map, &members, &[], &[]);
                assert!(changes(&later).iter().any(|it| it.since == change.since), "{case}");
            }
        }
    }
}
