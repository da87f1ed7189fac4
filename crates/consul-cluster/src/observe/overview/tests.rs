use super::*;
use crate::event::{MAX_KEPT, PastEvent};
use crate::nodes::node::{Complaint, Record};
use crate::observe::report::Known;
use crate::snapshot::Leader;
use consul_process::clock::{Clock as _, ManualClock};

fn node(id: &str, incarnation: &str) -> Node {
    let document = serde_json::json!({
        "id": id, "address": "a:1", "weight": 1.0, "started_ms": 1, "incarnation": incarnation,
    });
    let record: Record = serde_json::from_value(document).expect("a record");
    Node {
        record: record.into(),
        modify_index: 1,
        is_live: true,
        down_since: None,
        vanished_at: None,
        complaint: Complaint::default(),
    }
}

/// When a silent node is looked at, since the beginning.
const LOOKED_AT: Duration = Duration::from_millis(42_900);

/// The overview of a node with this start that shows `change`, if it did not answer.
fn silent_node(incarnation: &str, change: impl FnOnce(&mut Node)) -> NodeOverview {
    let mut node = node("n1", incarnation);
    change(&mut node);
    let members = [("n1".to_owned(), node)].into();
    let snapshot = Snapshot::default().with(|it| it.nodes = members);
    let mut told = Told::default();
    told.silent = Some("no route".to_owned());
    let mut known = Known { told: [("n1".to_owned(), told)].into(), ..Known::default() };
    let now = ManualClock::new().now() + LOOKED_AT;
    let mut shown = nodes(&snapshot, &mut known, (now, 0));
    shown.remove(0)
}

#[test]
fn a_node_is_shown_as_its_checks_and_its_own_start_say() {
    let shown = silent_node("", |_| {});
    assert_eq!((shown.state, shown.silent.as_deref()), (NodeState::Live, Some("no route")));
    let warns = silent_node("", |node| {
        node.complaint = Complaint { is_warning: true, output: "it sleeps".to_owned() };
    });
    assert_eq!((warns.state, warns.check_output.as_str()), (NodeState::Unavailable, "it sleeps"));
    let down = silent_node("", |node| node.is_live = false);
    assert_eq!((down.state, down.silent), (NodeState::Down, None), "that it is down says it");
    assert_eq!(down.down_for_ms, None, "it was never seen live");
    let down = silent_node("", |node| {
        (node.is_live, node.vanished_at) = (false, Some(ManualClock::new().now()));
    });
    assert_eq!(down.down_for_ms, Some(42_900));
    let other = silent_node("another start", |_| {});
    assert_eq!(other.silent, None, "it was another start that did not answer");
}

#[test]
fn a_node_that_may_not_lead_is_shown_while_it_lives() {
    let shown = |is_live| {
        let shown = silent_node("", |node| {
            node.is_live = is_live;
            Arc::make_mut(&mut node.record).cannot_lead = Some("no right".to_owned());
        });
        shown.cannot_lead
    };
    assert_eq!((shown(true).as_deref(), shown(false)), (Some("no right"), None));
}

#[test]
fn a_node_refuses_the_key_if_the_leader_or_this_process_says_so() {
    let members = ["n1", "n2", "n3"].map(|id| (id.to_owned(), node(id, "")));
    let leader = Leader {
        node_id: "n1".to_owned(),
        address: "a:1".to_owned(),
        session_id: "s".to_owned(),
        token: 1,
        elected_at_ms: 1,
    };
    let mut snapshot = Snapshot::default().with(|it| it.nodes = members.into());
    let shown = |snapshot: &Snapshot| {
        let mut of_this = Told::default();
        of_this.refuses_key = true;
        let told = [("n1", Told::of_refusing("n2")), ("n2", Told::default()), ("n3", of_this)];
        let told = told.map(|(id, told)| (id.to_owned(), told)).into();
        let shown =
            nodes(snapshot, &mut Known { told, ..Known::default() }, (Instant::default(), 0));
        shown.iter().map(|it| it.refuses_key).collect::<Vec<_>>()
    };
    assert_eq!(shown(&snapshot), [false, false, true], "n1 was the leader");
    snapshot.leader = Some(leader);
    assert_eq!(shown(&snapshot), [false, true, true]);
}

/// The lag of a node with a map of this epoch, while this process learns of these newest maps (in
/// milliseconds since the beginning, epoch), at the last of these times.
fn lag(epoch: u64, newest: &[(u64, u64)]) -> Option<u64> {
    let members = [("n1".to_owned(), node("n1", ""))].into();
    let snapshot = Snapshot::default().with(|it| it.nodes = members);
    let told = [("n1", epoch), ("n2", 0), ("n3", 0)];
    let told = told.map(|(id, epoch)| (id.to_owned(), Told::of_map(epoch)));
    let mut known = Known { told: told.into(), ..Known::default() };
    let begun = ManualClock::new().now();
    let mut lag = None;
    for (at_ms, epoch) in newest {
        // Two nodes have it.
        for id in ["n2", "n3"] {
            known.told.insert(id.to_owned(), Told::of_map(*epoch));
        }
        lag = nodes(&snapshot, &mut known, (begun + Duration::from_millis(*at_ms), 0))[0].map_lag;
    }
    lag
}

#[test]
fn a_node_is_behind_when_it_has_had_the_time_to_get_a_newer_map() {
    assert_eq!(lag(7, &[(0, 7), (5000, 7)]), Some(0));
    assert_eq!(lag(7, &[(0, 7), (5000, 70_000)]), Some(0), "the first map of a new leader");
    assert_eq!(lag(7, &[(0, 7), (5000, 70_000), (6999, 70_000)]), Some(0));
    assert_eq!(lag(7, &[(0, 7), (5000, 70_000), (7000, 70_000)]), Some(69_993));
    assert_eq!(lag(8, &[(0, 7), (1000, 8), (2000, 9), (3000, 10)]), Some(0), "one after the other");
    assert_eq!(lag(7, &[(0, 7), (1000, 8), (2000, 9), (3000, 10)]), Some(3));
    assert_eq!(lag(7, &[(0, 9), (5000, 7), (9000, 7)]), Some(0), "Consul has lost the newer one");
    assert_eq!(lag(6, &[(0, 9), (5000, 7), (9000, 7)]), Some(1));
}

#[test]
fn one_node_alone_makes_no_other_one_be_behind() {
    let members = [("n1".to_owned(), node("n1", ""))].into();
    let snapshot = Snapshot::default().with(|it| it.nodes = members);
    let told = [("n1", 7), ("n2", 7), ("liar", 99)];
    let told = told.map(|(id, epoch)| (id.to_owned(), Told::of_map(epoch)));
    let mut known = Known { told: told.into(), ..Known::default() };
    let begun = ManualClock::new().now();
    for seconds in [0, 60] {
        let shown = nodes(&snapshot, &mut known, (begun + Duration::from_secs(seconds), 0));
        assert_eq!(shown[0].map_lag, Some(0));
    }
}

/// Each word of a node, or of the leader about it, that counts only while it lives, or only while it does not.
#[test]
fn what_is_told_of_a_node_is_shown_where_it_counts() {
    let leader = Leader {
        node_id: "n2".to_owned(),
        address: "a:1".to_owned(),
        session_id: "s".to_owned(),
        token: 1,
        elected_at_ms: 1,
    };
    for is_live in [false, true] {
        let mut member = node("n1", "");
        member.is_live = is_live;
        let members = [("n1".to_owned(), member), ("n2".to_owned(), node("n2", ""))];
        let snapshot = Snapshot::default()
            .with(|it| (it.nodes, it.leader) = (members.into(), Some(leader.clone())));
        let mut told = Told::of_words("n3", "why");
        (told.ended, told.answers) = (Some("taken".to_owned()), true);
        let told = [("n1".to_owned(), told), ("n2".to_owned(), Told::of_words("n1", "why"))];
        let mut known = Known { told: told.into(), ..Known::default() };
        let shown = nodes(&snapshot, &mut known, (Instant::default(), 0)).remove(0);
        assert_eq!(shown.avoids.is_empty(), !is_live);
        assert_eq!(shown.is_unreached_by_leader, is_live);
        assert_eq!(shown.is_refused_by_leader, is_live);
        assert_eq!((shown.ended.is_some(), shown.lost_consul), (!is_live, false));
        let words = [shown.no_history, shown.lacking, shown.unusable_files, shown.no_rights];
        assert_eq!(words, [(); 4].map(|()| Some("why".to_owned())));
    }
}

#[test]
fn the_common_prefix_ends_with_the_last_slash_that_all_keys_share() {
    let of = |common: &str| {
        let key = |end: &str| format!("{common}{end}");
        prefix(&Options {
            nodes_prefix: key("nodes/"),
            shards_prefix: key("shards/"),
            leader_key: key("leader"),
            config_key: key("config"),
            ..Options::new("n1", "a:1")
        })
    };
    for common in ["", "a/", "a/b/", "a/b/c/"] {
        assert_eq!(of(common), common);
        assert_eq!(of(&format!("{common}n")), common);
    }
}

/// It has no map, and is down as long as the key is that of the start before.
#[test]
fn a_new_start_of_a_node_is_not_taken_for_the_one_before() {
    for (is_live, is_other) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut member = node("n1", "");
        member.is_live = is_live;
        let snapshot = Snapshot::default().with(|it| it.nodes = [("n1".to_owned(), member)].into());
        let told = [("n1", 0), ("n2", 7), ("n3", 7)];
        let mut told = told.map(|(id, epoch)| (id.to_owned(), Told::of_map(epoch)));
        told[0].1.is_other_start = is_other;
        let mut known = Known { told: told.into(), ..Known::default() };
        let begun = ManualClock::new().now();
        nodes(&snapshot, &mut known, (begun, 0));
        let shown = nodes(&snapshot, &mut known, (begun + MAP_TIME, 0)).remove(0);
        assert_eq!(shown.map_lag, (!is_other).then_some(7));
        assert_eq!(shown.starts_again, is_other && !is_live);
    }
}

/// A node writes its key before its check passes.
#[test]
fn a_node_is_new_until_it_has_had_the_time_to_join() {
    let shown = |now_ms, change: fn(&mut Node)| {
        let mut member = node("n1", "");
        (member.is_live, member.down_since) = (false, Some(Instant::default()));
        Arc::make_mut(&mut member.record).started_ms = 10_000;
        change(&mut member);
        let snapshot = Snapshot::default().with(|it| it.nodes = [("n1".to_owned(), member)].into());
        nodes(&snapshot, &mut Known::default(), (Instant::default(), now_ms)).remove(0).is_new
    };
    for (now_ms, is_new) in [(8000, false), (8001, true), (11_999, true), (12_000, false)] {
        assert_eq!(shown(now_ms, |_| {}), is_new, "{now_ms}");
    }
    assert!(!shown(10_000, |it| it.is_live = true));
}

/// A map in which shard 0 moves from n1 to n3 while n3 is listed first, and n2 has both shards.
fn moving() -> ShardMap {
    let document = serde_json::json!({
        "format": 1, "epoch": 7, "token": 1, "replicas": 2, "nodes": ["n1", "n2", "n3"],
        "shards": [[{ "node": 2, "source": 0, "since": 6 }, 1, { "node": 0, "leaving": true }], [1, 0]],
    });
    ShardMap::decode(document.to_string().as_bytes()).expect("a map")
}

#[test]
fn a_replica_that_comes_or_goes_is_shown_as_that() {
    let map = MapOverview::new(&moving());
    let (whole, copied) = (Placed::Whole, Placed::Copied);
    assert_eq!(
        map.placement,
        [
            vec![whole(1, 'a'), copied(2, 'i', Some(0)), whole(0, 'l')],
            vec![whole(1, 'a'), whole(0, 'a')]
        ],
        "the primary comes first"
    );
    let map = moving();
    let loads = Loads::of(&map);
    let of = |id: &str| {
        let Loads { primaries, replicas, moving_in, moving_out } = loads[id];
        [primaries, replicas, moving_in, moving_out]
    };
    assert_eq!(["n1", "n2", "n3"].map(of), [[0, 2, 0, 1], [2, 0, 0, 0], [0, 0, 1, 0]]);
}

#[test]
fn the_lease_of_an_earlier_leadership_is_not_that_of_the_leader() {
    let left = |token: u64| {
        let leads = Leader {
            node_id: "n1".to_owned(),
            address: "a:1".to_owned(),
            session_id: "s".to_owned(),
            token,
            elected_at_ms: 1,
        };
        let snapshot = Snapshot::default().with(|it| it.leader = Some(leads));
        let told = [("n1".to_owned(), Told::of_lease(17, 7400))].into();
        leader(&snapshot, &told).expect("a leader").lease_ms
    };
    assert_eq!((left(17), left(18)), (Some(7400), None));
}

#[test]
fn whether_the_leader_leads_is_what_it_says_when_it_has_had_the_time_to_know() {
    // Elected at 10 s with the token 17: what it says at these times with these leases.
    let leads = |at_s: u64, token, left_ms| {
        let told = Told::of_lease(token, left_ms).told_at(at_s * 1000);
        told.leads(17, 10_000)
    };
    assert_eq!(leads(11, 17, 7400), Some(true));
    assert_eq!(leads(11, 16, 7400), None, "it may just have been elected");
    assert_eq!(leads(9, 16, 7400), None, "the key is newer than its word");
    assert_eq!(leads(8, 16, 7400), Some(false), "its clock was set back");
    assert_eq!(leads(12, 16, 7400), Some(false), "the key is of a leadership that is over");
    assert_eq!(leads(12, 17, 0), Some(false), "it has no recent proof");
    assert_eq!(Told::default().leads(17, 10_000), None, "it tells nothing");
    let mut silent = Told::of_lease(16, 0).told_at(99_000);
    silent.silent = Some("no answer".to_owned());
    assert_eq!(silent.leads(17, 10_000), None, "it told that before");
}

#[test]
fn a_node_that_answers_while_it_is_down_has_lost_consul() {
    let shown = |is_live, answers| {
        let mut member = node("n1", "");
        member.is_live = is_live;
        let snapshot = Snapshot::default().with(|it| it.nodes = [("n1".to_owned(), member)].into());
        let mut told = Told::default();
        told.answers = answers;
        told.doubt = Some("it refuses".to_owned());
        let mut known = Known { told: [("n1".to_owned(), told)].into(), ..Known::default() };
        let shown = nodes(&snapshot, &mut known, (Instant::default(), 0)).remove(0);
        assert_eq!(shown.doubt.is_some(), !is_live, "one that lives is not looked for");
        shown.lost_consul
    };
    assert!(shown(false, true));
    assert!(!shown(true, true) && !shown(false, false));
}

#[test]
fn the_latency_of_an_endpoint_is_in_milliseconds() {
    let endpoint = |is_benched| {
        let address = "http://127.0.0.1:8500".to_owned();
        let latency = Some(Duration::from_micros(1250));
        EndpointOverview::new("n1", EndpointHealth { address, is_benched, latency })
    };
    assert_eq!(endpoint(false).latency_ms, Some(1.25));
    assert_eq!(
        [false, true].map(|it| endpoint(it).state),
        [EndpointState::Ok, EndpointState::Benched]
    );
}

#[test]
fn what_acls_hide_is_named() {
    let hides = |hides_keys, sight| {
        let change = |it: &mut Snapshot| (it.hides_keys, it.sight) = (hides_keys, sight);
        hidden(&Snapshot::default().with(change))
    };
    assert_eq!(hides(false, Sight::None), [""; 0]);
    assert_eq!(hides(false, Sight::Whole), [""; 0]);
    assert_eq!(hides(true, Sight::Part), ["keys of nodes", "instances of nodes"]);
    assert_eq!(hides(false, Sight::Part), ["instances of nodes"]);
}

/// The names, times and nodes of the events that are shown when nodes tell (name, time).
fn shown(of_nodes: &[(&str, &[(&str, u64)])]) -> Vec<(String, u64, String)> {
    let told = |events: &[(&str, u64)]| {
        let past = |(seq, (name, at_ms)): (usize, &(&str, u64))| PastEvent {
            seq: seq as u64 + 1,
            at_ms: *at_ms,
            event: (*name).to_owned(),
            detail: "x".to_owned(),
        };
        let mut told = Told::default();
        told.events.extend(events.iter().enumerate().map(past));
        told
    };
    let told: Vec<_> = of_nodes.iter().map(|(id, events)| (*id, told(events))).collect();
    events(told.iter().map(|(id, told)| (*id, told)))
        .into_iter()
        .map(|it| (it.event, it.at_ms, it.node_id))
        .collect()
}

#[test]
fn events_are_one_only_if_different_nodes_notice_them_within_a_short_time() {
    let event = |name: &str, at_ms, id: &str| (name.to_owned(), at_ms, id.to_owned());
    assert_eq!(
        shown(&[("n1", &[("node_left", 10_000)]), ("n2", &[("node_left", 15_000)])]),
        [event("node_left", 10_000, "n1")]
    );
    assert_eq!(
        shown(&[("n1", &[("node_left", 10_000)]), ("n2", &[("node_left", 15_001)])]),
        [event("node_left", 10_000, "n1"), event("node_left", 15_001, "n2")]
    );
    assert_eq!(
        shown(&[("n1", &[("node_left", 10_000), ("node_left", 10_001)])]),
        [event("node_left", 10_000, "n1"), event("node_left", 10_001, "n1")],
        "it left twice"
    );
    assert_eq!(
        shown(&[("n1", &[("suspended", 10_000)]), ("n2", &[("suspended", 10_000)])]),
        [event("suspended", 10_000, "n1"), event("suspended", 10_000, "n2")],
        "each is about the node itself"
    );
}

#[test]
fn the_newest_events_alone_are_shown() {
    let many: Vec<(&str, u64)> = (0..MAX_KEPT as u64).map(|at| ("stopped", at * 2)).collect();
    let later: Vec<(&str, u64)> = many.iter().map(|(name, at)| (*name, at + 1)).collect();
    let shown = shown(&[("n1", &many), ("n2", &later)]);
    assert_eq!(shown.len(), MAX_KEPT);
    assert_eq!(shown.first().map(|(_, at, _)| *at), Some(MAX_KEPT as u64));
}
