//! A cluster's observer: a process that routes and calls and is not a member.

use crate::acl::{caller, rule};
use crate::target::{T, args, behaviours, pause, text};
use consul_api::error::Kind;
use consul_cluster::data_plane::{Body, CallOptions, ClusterKey, DataPlane, Request};
use consul_cluster::{Cluster, Event, Options};
use consul_sim::acl::DefaultPolicy::Deny;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

behaviours![
    an_observer_needs_only_read_permissions_and_leaves_no_trace,
    an_observer_says_what_it_may_not_read,
];

/// The options in the cluster of a test.
fn in_cluster(t: &T, options: Options) -> Options {
    let prefix = t.name("cluster");
    Options {
        leader_key: format!("{prefix}/leader"),
        nodes_prefix: format!("{prefix}/nodes/"),
        shards_prefix: format!("{prefix}/shards/"),
        config_key: format!("{prefix}/config"),
        cluster_key: Some(ClusterKey::new("a secret of the cluster")),
        ..options
    }
}

fn echo(request: Request) {
    if let Some(request) = request.begin() {
        let reply =
            format!("{} for {}", String::from_utf8_lossy(&request.body.bytes), request.from);
        request.reply(Ok(Body::bytes(reply)));
    }
}

/// The keys, sessions, services and checks of a cluster: their names, not their contents.
async fn traces(t: &T, cluster: &Options) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    for key in t.value("kv_keys", args![t.name("cluster")]).await.items() {
        traces.insert(key.as_str().expect("a key").to_owned());
    }
    let service = cluster.service();
    for session in t.value("session_list", args![]).await.items() {
        if text(session, "Name").contains(&t.name("cluster")) {
            traces.insert(format!("session {}", text(session, "ID")));
        }
    }
    for (method, name) in [("health_checks", "CheckID"), ("catalog_service", "ServiceID")] {
        for entry in t.value(method, args![service.as_str()]).await.items() {
            traces.insert(format!("{method} {}", text(entry, name)));
        }
    }
    traces
}

/// The rules for reading what belongs to a cluster, and nothing else.
fn reading(cluster: &Options, t: &T) -> String {
    rule("key_prefix", &format!("{}/", t.name("cluster")), "read")
        + &rule("service", &cluster.service(), "read")
        + &rule("node_prefix", "", "read")
}

async fn an_observer_needs_only_read_permissions_and_leaves_no_trace(t: T) {
    let t = t.with_acls(Deny);
    let options = in_cluster(&t, Options::new("n1", "127.0.0.1:9000"));
    let member = Cluster::new(t.client(), t.client(), options.clone()).expect("options");
    let served = DataPlane::new(Arc::clone(&member), echo).expect("a data plane");
    served.set_handler("echo", true);
    let reader = caller(&t, &reading(&options, &t)).await;
    let observing = in_cluster(&t, Options::observer("gateway"));
    let observer = Cluster::new(reader.client(), reader.client(), observing).expect("options");
    let calling = DataPlane::new(Arc::clone(&observer), drop).expect("a data plane");
    assert!(Arc::clone(&calling).serve().await.is_err(), "it has no listener");
    let mut before = BTreeSet::new();
    let test = async {
        member.started().await.expect("a member");
        while member.snapshot().map.is_none() {
            pause(Duration::from_millis(20)).await;
        }
        before = traces(&t, &options).await;
        assert!(before.iter().any(|trace| trace.contains("nodes/n1")), "{before:?}");
        assert!(before.iter().any(|trace| trace.contains("session")), "{before:?}");
        let watched = async {
            tokio::select! {
                why = observer.run() => panic!("{why}"),
                started = observer.started() => started.expect("an observer"),
            }
            let snapshot = observer.snapshot();
            assert_eq!(snapshot.node_for(b"key").expect("a node").record.id, "n1");
            assert_eq!(snapshot.leader.as_ref().expect("a leader").node_id, "n1");
            assert_eq!(snapshot.shard_of(b"key"), member.snapshot().shard_of(b"key"));
            assert_eq!((observer.state(), observer.is_leader()), ("observer", false));
            // The leader may be seen first.
            let events: Vec<_> = std::iter::from_fn(|| observer.poll_event()).collect();
            assert!(events.contains(&Event::NodeJoined("n1".to_owned())), "{events:?}");
            let (body, usual) = (Body::bytes("a call"), CallOptions::default());
            let reply = calling.call("n1", "echo", &body, &usual).await.expect("a reply");
            assert_eq!(reply.bytes, "a call for gateway");
            let error = calling.call("gateway", "echo", &body, &usual).await;
            assert_eq!(error.expect_err("it is not a node").kind(), Kind::NotFound);
            let error = observer.shards_ready(&[1]).await.expect_err("it has no shards");
            assert_eq!(error.kind(), Kind::Unsupported);
        };
        watched.await;
        assert_eq!(traces(&t, &options).await, before);
        observer.leave().await.expect("it has nothing to remove");
        assert_eq!(traces(&t, &options).await, before);
    };
    tokio::select! {
        why = member.run() => panic!("{why}"),
        ended = Arc::clone(&served).serve() => panic!("{ended:?}"),
        () = test => {}
    }
    member.leave().await.expect("the end");
}

async fn an_observer_says_what_it_may_not_read(t: T) {
    let t = t.with_acls(Deny);
    let observing = in_cluster(&t, Options::observer("gateway"));
    let nothing = caller(&t, &rule("key_prefix", "other", "read")).await;
    let observer = Cluster::new(nothing.client(), nothing.client(), observing).expect("options");
    let why = tokio::select! {
        why = observer.run() => why,
        started = observer.started() => started.expect_err("a refusal"),
    };
    assert_eq!(why.kind(), Kind::PermissionDenied, "{why}");
}
