//! Two stores of one name, and the first map of a store.

use super::*;
use crate::support::between::{INVALID_KEY_NAME, WithoutColons};
use consul_api::request::Defaults;
use consul_client::Settings;
use consul_client::transport::Transport;
use consul_sim::SimTransport;
use http::{Request as HttpRequest, Response};

impl Cases {
    /// Stops the nodes, and lets Consul lose everything.
    fn wipe(&self, nodes: &[Process]) {
        self.world.wait(Duration::from_secs(10));
        nodes.iter().for_each(|node| self.kill(node));
        self.world.agent.restart(Retained::Nothing);
    }

    fn why(&self, process: &Process) -> Error {
        self.wait_until(60, || process.store.checked().is_err());
        process.store.checked().expect_err("it cannot be used")
    }
}

/// Of six nodes that start at once, three have disks that take long to be read.
#[test]
fn no_first_map_is_made_while_a_node_opens_its_disk() {
    let (cases, nodes) = Cases::filled(3);
    cases.wipe(&nodes);
    for process in &nodes {
        process.disk.be_slow(&cases.world.clock, Duration::from_secs(2));
    }
    let start = |id: &str, disk: &Arc<Disk>| cases.start(id, disk);
    let fresh = ["n4", "n5", "n6"].map(|id| start(id, &Disk::new()));
    let old = [0, 1, 2].map(|at| start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.wait_until(60, || old.iter().all(|process| process.store.holder().is_some()));
    cases.has(&fresh[0], "before");
}

/// An operator has deleted the map, and no node that knows it is live.
#[test]
fn no_first_map_is_made_while_a_node_that_is_down_knows_the_map() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    nodes.iter().for_each(|node| cases.kill(node));
    cases.world.send("DELETE", "/v1/kv/tsdb/cluster/shards/maps/points", "");
    let fresh = ["n4", "n5", "n6"].map(|id| cases.start(id, &Disk::new()));
    let why = "n1 or n2 or n3 has the map that Consul has lost";
    cases.wait_until(60, || fresh[0].store.waits_for().is_some_and(|it| it.contains(why)));
    cases.world.wait(Duration::from_secs(60));
    assert!(fresh[0].store.status().is_empty(), "another store has begun");
    let _old = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.world.run(fresh[0].store.ready()).expect("the old map");
    cases.has(&fresh[0], "before");
}

/// Their records in Consul are from before the first map.
#[test]
#[ignore = "computes long: make test-all"]
fn no_first_map_is_made_after_consul_went_back_before_it_while_nodes_open_their_disks() {
    let cases = Cases::new();
    let early = ["n1", "n2"].map(|id| cases.start(id, &Disk::new()));
    cases.world.wait(Duration::from_secs(10));
    let backup = cases.world.agent.back_up();
    let third = cases.start("n3", &Disk::new());
    cases.wait_until(20, || third.is_settled(3));
    cases.fill(&third, "before");
    cases.world.wait(Duration::from_secs(10));
    early.iter().chain([&third]).for_each(|node| cases.kill(node));
    cases.world.agent.restore_snapshot(&backup);
    let fresh = ["n4", "n5", "n6"].map(|id| cases.start(id, &Disk::new()));
    let old = [0, 1].map(|at: usize| {
        early[at].disk.be_slow(&cases.world.clock, Duration::from_secs(10));
        cases.start(&format!("n{}", at + 1), &early[at].disk)
    });
    cases.wait_until(200, || old.iter().all(|process| process.store.holder().is_some()));
    cases.has(&fresh[0], "before");
}

/// A program that does not open the store any more has died while it opened it.
#[test]
fn the_first_map_does_not_wait_for_an_earlier_start_of_a_node() {
    let cases = Cases::new();
    let key = "/v1/kv/tsdb/cluster/shards/members/points/opening/n4";
    cases.world.send("PUT", key, r#"{"format":1,"incarnation":"an earlier one"}"#);
    let nodes = ["n1", "n2"].map(|id| cases.start(id, &Disk::new()));
    cases.world.wait(Duration::from_secs(5));
    let client = cases.world.client();
    let without = Cluster::new(Arc::clone(&client), client, Cases::options("n4")).expect("options");
    let running = Arc::clone(&without);
    cases.world.clock.spawn(async move { _ = running.run().await });
    cases.world.run(without.started()).expect("it joins");
    let _third = cases.start("n3", &Disk::new());
    cases.wait_until(60, || nodes[0].is_settled(3));
}

/// They come so late that the new nodes have begun without them.
#[test]
#[ignore = "computes long: make test-all"]
fn a_disk_of_an_earlier_store_of_the_name_is_refused_and_keeps_its_records() {
    let (cases, nodes) = Cases::filled(3);
    cases.wipe(&nodes);
    let fresh = ["n4", "n5"].map(|id| cases.start(id, &Disk::new()));
    cases.world.run(fresh[0].store.ready()).expect("a map of two nodes");
    let old = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    for process in &old {
        let why = cases.why(process);
        assert_eq!(why.kind(), Kind::Conflict, "{why}");
        assert!(why.message().contains("another store of that name"), "{why}");
        assert!(process.store.holder().is_none(), "it answers nobody");
    }
    cases.world.wait(Duration::from_secs(90));
    // An operator decides for the old store.
    old.iter().chain(&fresh).for_each(|process| cases.kill(process));
    cases.world.agent.restart(Retained::Nothing);
    let back = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.wait_until(60, || back[0].is_settled(3));
    cases.has(&back[1], "before");
}

#[test]
fn a_disk_of_another_cluster_is_refused_and_harms_nobody() {
    let (cases, nodes) = Cases::filled(3);
    let (others, theirs) = {
        let others = Cases::new();
        // Its nodes draw other random numbers.
        (0..10).for_each(|_| _ = others.world.client());
        // Its map is newer.
        others.world.wait(Duration::from_secs(3600));
        let nodes = others.nodes(3);
        others.fill(&nodes[0], "other");
        others.world.wait(Duration::from_secs(10));
        (others, nodes)
    };
    others.kill(&theirs[2]);
    cases.kill(&nodes[2]);
    let wrong = cases.start("n3", &theirs[2].disk);
    let why = cases.why(&wrong);
    assert_eq!(why.kind(), Kind::Conflict, "{why}");
    cases.world.wait(Duration::from_secs(30));
    cases.has(&nodes[0], "before");
    cases.kill(&wrong);
    let right = cases.start("n3", &nodes[2].disk);
    cases.wait_until(60, || right.is_settled(3));
    cases.has(&right, "before");
    let again = others.start("n3", &theirs[2].disk);
    others.wait_until(60, || again.is_settled(3));
    others.has(&again, "other");
}

/// Also in the first moment, when it has not seen the map in Consul.
#[test]
fn a_running_node_refuses_the_map_of_another_store() {
    let (cases, nodes) = Cases::filled(3);
    let map = cases.map();
    let (_, id) = map.split_once("\"id\":").expect("an id");
    let id = id.split(',').next().expect("a number");
    let other = map.replacen(&format!("\"id\":{id}"), "\"id\":1", 1);
    cases.world.send("PUT", "/v1/kv/tsdb/cluster/shards/maps/points", &other);
    for process in &nodes {
        let why = cases.why(process);
        assert!(why.message().contains("0000000000000001"), "{why}");
        assert!(process.store.holder().is_none(), "it answers nobody");
    }
}

/// The id of the store that a document names.
fn id(document: &[u8]) -> Option<u64> {
    let document: serde_json::Value = serde_json::from_slice(document).expect("a document");
    document["id"].as_u64()
}

fn without(text: &str) -> String {
    let (before, rest) = text.split_once("\"id\":").expect("an id");
    let (_, after) = rest.split_once(',').expect("more");
    let changed = format!("{before}{after}");
    assert_eq!(id(changed.as_bytes()), None);
    changed
}

/// A leader of a release before ids has written the map since, and the disks have the id.
#[test]
fn a_map_that_has_lost_its_id_gets_that_of_the_disks() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    nodes.iter().for_each(|node| cases.kill(node));
    let map = cases.map();
    cases.world.send("PUT", "/v1/kv/tsdb/cluster/shards/maps/points", &without(&map));
    let back = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.wait_until(60, || id(cases.map().as_bytes()).is_some());
    assert_eq!(id(cases.map().as_bytes()), id(map.as_bytes()));
    cases.has(&back[0], "before");
}

/// Releases before ids have written the map and the disks.
#[test]
fn a_store_without_an_id_gets_one_and_loses_nothing() {
    let (cases, nodes) = Cases::filled(3);
    cases.world.wait(Duration::from_secs(10));
    nodes.iter().for_each(|node| cases.kill(node));
    let map = without(&cases.map());
    cases.world.send("PUT", "/v1/kv/tsdb/cluster/shards/maps/points", &map);
    cases.world.run(async {
        for process in &nodes {
            for name in ["disk", "map"] {
                let kept = process.disk.kept(name).await.expect("memory").expect("kept");
                let kept = without(std::str::from_utf8(&kept).expect("a text"));
                process.disk.keep(name, kept.into()).await.expect("memory");
            }
        }
    });
    let back = [0, 1, 2].map(|at| cases.start(&format!("n{}", at + 1), &nodes[at].disk));
    cases.wait_until(60, || id(cases.map().as_bytes()).is_some());
    cases.has(&back[0], "before");
    cases.fill(&back[1], "after");
    cases.wait_until(20, || {
        let mark = cases.world.run(back[2].disk.kept("disk")).expect("memory").expect("a mark");
        id(&mark) == id(cases.map().as_bytes())
    });
}

/// A member of the cluster that does not run the store delays the first map for a while only.
#[test]
fn the_first_map_says_what_it_waits_for() {
    let cases = Cases::new();
    let client = cases.world.client();
    let silent = Cluster::new(Arc::clone(&client), client, Cases::options("n9")).expect("options");
    let network = cases.network.clone();
    cases.world.clock.spawn(async move {
        let reach: leader::Reach = Arc::new(move |_| Arc::new(network.clone()));
        tokio::select! {
            biased;
            _ = silent.run() => {}
            never = leader::run(&silent, &reach) => match never {},
        }
    });
    cases.world.wait(Duration::from_secs(10));
    let nodes = [1, 2, 3].map(|n| cases.start(&format!("n{n}"), &Disk::new()));
    let says = || nodes[0].store.waits_for().is_some_and(|why| why.contains("n9 has said nothing"));
    cases.wait_until(10, says);
    cases.wait_until(20, || nodes[0].is_settled(3));
    cases.wait_until(5, || nodes[0].store.waits_for().is_none());
}

/// Consul loses everything while a node is silent, so that the epochs leap; then the store begins again on empty disks, at
/// lower epochs, and an observer goes on that knows only the first one.
#[test]
fn an_observer_of_an_earlier_store_of_the_name_teaches_the_new_one_nothing() {
    let (cases, nodes) = Cases::filled(5);
    cases.world.wait(Duration::from_secs(10));
    cases.kill(&nodes[4]);
    cases.world.agent.restart(Retained::Nothing);
    cases.world.wait(Duration::from_secs(60));
    let observer = cases.observe("gateway");
    let highest = |store: &Store| store.status().iter().map(|it| it.epoch).max();
    let before = highest(&observer);
    cases.wipe(&nodes[..4]);
    let fresh = [1, 2, 3, 4].map(|n| cases.start(&format!("n{n}"), &Disk::new()));
    cases.wait_until(60, || fresh[0].is_settled(3));
    assert!(highest(&fresh[0].store) < before, "the new store begins at lower epochs");
    cases.fill(&fresh[0], "new");
    let record = |key: &str| (Bytes::from(key.to_owned()), Some(Bytes::from_static(b"seen")));
    for turn in 0..40 {
        let key = format!("seen-{turn}");
        let write = observer.write(key.as_bytes(), vec![record(&key)], cases.deadline(10));
        cases.world.run(write).expect("it goes on with the new store");
        assert_eq!(cases.read(&fresh[1], &key).as_deref(), Some("seen"));
    }
    cases.world.wait(Duration::from_secs(30));
    fresh.iter().for_each(|node| assert!(node.is_settled(3)));
    assert_eq!(highest(&observer), highest(&fresh[0].store));
    cases.has(&fresh[2], "new");
}

/// How late the late answers are.
const LATE: Duration = Duration::from_secs(300);

/// An agent from which some answers about the map of the store come late: those to linearizable reads, or the others.
#[derive(Debug)]
struct Late {
    transport: SimTransport,
    clock: ManualClock,
    of_linearizable: bool,
    is_late: Mutex<bool>,
}

impl Late {
    fn new(cases: &Cases, of_linearizable: bool) -> Arc<Self> {
        let transport = SimTransport::new(Arc::clone(&cases.world.agent), "simulated");
        let clock = cases.world.clock.clone();
        Arc::new(Late { transport, clock, of_linearizable, is_late: Mutex::default() })
    }

    fn client(self: &Arc<Self>) -> Arc<Client> {
        let timeout = 3 * LATE;
        let settings = Settings { timeout, retry_count: 0, defaults: Defaults::default() };
        let clock = Arc::new(self.clock.clone());
        let rng = fastrand::Rng::with_seed(99);
        Arc::new(Client::new(vec![Arc::clone(self) as _], settings, clock, rng))
    }

    fn set(&self, is_late: bool) {
        *self.is_late.lock().expect("no panic") = is_late;
    }
}

impl Transport for Late {
    fn send(&self, request: HttpRequest<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_of_map = request.uri().path().ends_with("/shards/maps/points");
        let query = request.uri().query().unwrap_or_default();
        let is_meant = is_of_map && query.contains("consistent") == self.of_linearizable;
        let is_late = is_meant && *self.is_late.lock().expect("no panic");
        Box::pin(async move {
            let answer = self.transport.send(request).await;
            if is_late {
                self.clock.sleep(LATE).await;
            }
            answer
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

impl Cases {
    /// Waits until late answers have come, and looks whether an observer still knows the new store and not the earlier
    /// one, whose nodes are gone.
    fn knows_the_new_store(&self, observer: &Arc<Store>, fresh: &[Process]) {
        let known = || observer.status();
        self.wait_until(60, || known() == fresh[0].store.status());
        for _ in 0..LATE.as_secs() {
            self.world.wait(Duration::from_secs(1));
            let is_gone = |node: &NodeId| ["n1", "n2", "n3"].contains(&&**node);
            assert!(!known().iter().flat_map(|it| &it.holders).any(is_gone), "{:?}", known());
        }
        let record = (Bytes::from_static(b"key"), Some(Bytes::from_static(b"seen")));
        let write = observer.write(b"key", vec![record], self.deadline(10));
        self.world.run(write).expect("the entries are those of the new store");
        assert_eq!(self.read(&fresh[1], "key").as_deref(), Some("seen"));
    }

    /// Begins the store again on other nodes.
    fn begin_again(&self, nodes: &[Process]) -> [Process; 3] {
        self.wipe(nodes);
        let fresh = [4, 5, 6].map(|n| self.start(&format!("n{n}"), &Disk::new()));
        self.wait_until(60, || fresh[0].is_settled(3));
        fresh
    }
}

/// It was read before Consul was replaced, and the watch has the new map already.
#[test]
#[ignore = "computes long: make test-all"]
fn a_late_answer_does_not_bring_an_earlier_store_back() {
    let (cases, nodes) = Cases::filled(3);
    let late = Late::new(&cases, true);
    let observer = cases.observe_with("gateway", late.client());
    cases.world.run(observer.ready()).expect("a map");
    late.set(true);
    let asked = Arc::clone(&observer);
    let learned = Arc::new(Mutex::new(None));
    let outcome = Arc::clone(&learned);
    cases.world.clock.spawn(async move {
        *outcome.lock().expect("no panic") = Some(asked.refresh().await);
    });
    cases.world.wait(Duration::from_secs(1));
    late.set(false);
    let fresh = cases.begin_again(&nodes);
    cases.knows_the_new_store(&observer, &fresh);
    let learned = learned.lock().expect("no panic").take();
    learned.expect("the late answer has come").expect("the map was read again");
}

/// The same with the answer to the watch, while another read has learned the new map.
#[test]
#[ignore = "computes long: make test-all"]
fn a_late_answer_to_a_watch_does_not_bring_an_earlier_store_back() {
    let (cases, nodes) = Cases::filled(3);
    let late = Late::new(&cases, false);
    late.set(true);
    let observer = cases.observe_with("gateway", late.client());
    cases.world.wait(Duration::from_secs(1));
    let fresh = cases.begin_again(&nodes);
    assert!(observer.status().is_empty(), "the watch has no answer yet");
    cases.world.run(observer.refresh()).expect("the new map");
    cases.knows_the_new_store(&observer, &fresh);
}

#[test]
fn a_store_whose_name_the_server_does_not_take_ends_at_once_and_so_does_the_start() {
    let cases = Cases::new();
    let server = WithoutColons::new(&cases.world.agent);
    let client = server.client(Arc::new(cases.world.clock.clone()));
    let options = Cases::options("n1");
    let store = StoreOptions::new("points: raw", &options);
    let begun = cases.world.clock.now();
    let process = cases.start_on(client, options, store, &Disk::new());
    let of_store = cases.world.run(process.store.ready()).expect_err("a refusal");
    let of_node = cases.world.run(process.cluster.started()).expect_err("a refusal");
    for error in [of_store, of_node] {
        assert_eq!(error.kind(), Kind::Argument, "{error}");
        assert!(error.message().contains(INVALID_KEY_NAME), "{error}");
    }
    assert!(cases.world.clock.now() - begun < Duration::from_secs(1));
}
