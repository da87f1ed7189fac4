//! Three nodes with a store, an operator, and the numbers of each node as Prometheus scrapes them.

use super::*;
use crate::support::authority::{Authority, Folder};
use consul_cluster::data_plane::{ClusterKey, DataPlane, DataTls};
use consul_cluster::observe::overview::{Overview, Problem};
use consul_cluster::observe::report::Overviews;
use consul_cluster::stores::outside::{self, NumbersChange};
use consul_process::metrics::{Format, Page, Source, text};
use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::time::SystemTime;
use tokio::runtime::{Builder, Runtime as Tokio};

pub const KEY: &str = "a secret of the cluster, and long enough";

/// The rights of a node, and what is left when half of them are lost.
pub const ALL: &str = r#"key_prefix "" { policy = "write" } session_prefix "" { policy = "write" }
    service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;
pub const HALF: &str = r#"key_prefix "" { policy = "read" } service_prefix "" { policy = "write" }
    node_prefix "" { policy = "read" }"#;

const RULES: &str = "docs/monitoring/alerts.yml";

/// The time between two scrapes, in seconds.
const SCRAPE_S: u64 = 15;

/// How much of a time that passes is simulated, in seconds.
const SIMULATED_S: u64 = 90;

/// After so long nodes are asked again for an overview, and the files of certificates are read again.
const ASKED_AGAIN: Duration = Duration::from_millis(1100);

/// An overview that took as long has not waited for all answers.
const WAITED_FOR: Duration = Duration::from_millis(400);

/// How a process is started.
pub struct Config {
    pub key: &'static str,
    pub ahead_s: Arc<AtomicI64>,
    tls: Option<Arc<Folder>>,
    pub disk: Arc<Disk>,
}

impl Config {
    fn new() -> Self {
        Config { key: KEY, ahead_s: Arc::default(), tls: None, disk: Disk::new() }
    }
}

struct Node {
    cluster: Arc<Cluster>,
    store: Option<Arc<Store>>,
    task: TaskId,
    plane: Arc<DataPlane>,
    overviews: Arc<Overviews>,
    /// The server for its peers; without it they find nobody.
    sockets: Option<Tokio>,
    client: String,
}

/// A series of samples, `None` where there is none.
type Series = BTreeMap<String, Vec<Option<f64>>>;

pub struct Lab {
    pub cases: Cases,
    pub operator: Config,
    configs: BTreeMap<&'static str, Config>,
    nodes: BTreeMap<&'static str, Node>,
    sockets: Tokio,
    authority: Option<Authority>,
    management: Option<&'static str>,
    clients: AtomicUsize,
    /// The Unix time at the origin of the clock.
    epoch: Duration,
    job: &'static str,
    series: Series,
    scrapes: usize,
    next_scrape: Instant,
    twin: Option<Box<Lab>>,
    written: usize,
    /// The problems that `why` has told all the time, if somebody asks it.
    watched: Option<RefCell<BTreeMap<String, String>>>,
}

impl Lab {
    pub fn new() -> Self {
        Lab::of(&["n1", "n2", "n3"])
    }

    pub fn of(ids: &[&'static str]) -> Self {
        Lab::begun(Cases::new(), None, None, ids)
    }

    pub fn with_acl() -> Self {
        let (world, management) = World::with_acl();
        Lab::begun(Cases::of(world), Some(management), None, &["n1", "n2", "n3"])
    }

    pub fn encrypted() -> Self {
        Lab::begun(Cases::new(), None, Some(Authority::new("lab")), &["n1", "n2", "n3"])
    }

    fn begun(
        cases: Cases,
        management: Option<&'static str>,
        authority: Option<Authority>,
        ids: &[&'static str],
    ) -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let sockets = tokio();
        let next_scrape = cases.world.clock.now();
        let mut lab = Lab {
            cases,
            operator: Config::new(),
            configs: ["n1", "n2", "n3"].map(|id| (id, Config::new())).into(),
            nodes: BTreeMap::new(),
            sockets,
            authority,
            management,
            clients: AtomicUsize::new(0),
            epoch,
            job: "lab",
            series: Series::new(),
            scrapes: 0,
            next_scrape,
            twin: None,
            written: 0,
            watched: None,
        };
        if lab.authority.is_some() {
            for id in ["n1", "n2", "n3", "operator"] {
                lab.config(id).tls = Some(Arc::new(Folder::new()));
                lab.certify(id, 90 * 86_400);
            }
        }
        ids.iter().for_each(|id| lab.start(id));
        if lab.is_whole() {
            let stores: Vec<_> = lab.nodes.values().filter_map(|it| it.store.clone()).collect();
            lab.cases.world.run(async {
                for store in stores {
                    store.ready().await.expect("a map");
                }
            });
        }
        lab.cases.world.wait(Duration::from_secs(30));
        lab.next_scrape = lab.cases.world.clock.now();
        lab
    }

    pub fn is_whole(&self) -> bool {
        self.nodes.len() == 3
    }

    fn config(&mut self, id: &str) -> &mut Config {
        match id {
            "operator" => &mut self.operator,
            id => self.configs.get_mut(id).expect("a node"),
        }
    }

    pub fn change(&mut self, id: &str, change: impl FnOnce(&mut Config)) {
        change(self.config(id));
    }

    pub fn disk(&self, id: &str) -> &Disk {
        &self.configs[id].disk
    }

    /// A client of a process, with its name in faults.
    fn client(&self) -> (Arc<Client>, String) {
        let world = &self.cases.world;
        match self.management {
            None => {
                let number = self.clients.fetch_add(1, Relaxed);
                (world.client(), number.to_string())
            }
            // The manager has a client of its own.
            Some(management) => {
                let number = self.clients.fetch_add(2, Relaxed) + 1;
                (world.client_with_rules(management, ALL), number.to_string())
            }
        }
    }

    fn options(&self, id: &str, config: &Config) -> Options {
        let (ahead, epoch) = (Arc::clone(&config.ahead_s), self.epoch);
        let unix = move |now: Instant| {
            let seconds = epoch.as_secs().saturating_add_signed(ahead.load(Relaxed));
            Duration::from_secs(seconds) + now.since_origin()
        };
        let tls = config.tls.as_ref().map(|folder| DataTls {
            cert_file: folder.path("cert.pem"),
            key_file: folder.path("key.pem"),
            ca_file: folder.path("ca.pem"),
        });
        Options {
            cluster_key: Some(ClusterKey::new(config.key)),
            data_tls: tls,
            wall_clock: WallClock::new(unix),
            forget_after: Duration::from_secs(3600),
            ..Cases::options(id)
        }
    }

    /// Gives a process a certificate that ends this many seconds from now.
    pub fn certify(&mut self, id: &str, ends_s: u64) {
        let authority = self.authority.as_ref().expect("a lab with certificates");
        let now = self.epoch + self.cases.world.clock.now().since_origin();
        let end = now + Duration::from_secs(ends_s);
        let identity = authority.sign_changed(&["any.name"], |it| {
            it.not_before = rcgen::date_time_ymd(2000, 1, 1);
            it.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        });
        let ca = authority.pem();
        let folder = Arc::clone(self.config(id).tls.as_ref().expect("a folder"));
        folder.file("cert.pem", &identity.certificate);
        folder.file("key.pem", &identity.key);
        folder.file("ca.pem", ca);
        std::thread::sleep(ASKED_AGAIN);
    }

    pub fn start(&mut self, id: &'static str) {
        self.start_with(id, true);
    }

    fn start_with(&mut self, id: &'static str, has_store: bool) {
        let (client, name) = self.client();
        let config = &self.configs[id];
        let options = self.options(id, config);
        let store = StoreOptions {
            drop_after: Duration::from_secs(5),
            repair_every: Duration::from_secs(600),
            ..StoreOptions::new("points", &options)
        };
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        let plane = DataPlane::new(Arc::clone(&cluster), |_| ()).expect("a data plane");
        let sockets = tokio();
        sockets.spawn(Arc::clone(&plane).serve());
        let overviews = Overviews::new(Arc::clone(&cluster), Some(Arc::clone(&plane)));
        {
            let mut keys = self.cases.network.keys.lock().expect("no panic");
            match config.key == KEY {
                true => keys.remove(&NodeId::from(id)),
                false => keys.insert(id.into(), &["another"]),
            };
        }
        let (task, store) = match has_store {
            true => {
                let process = self.cases.run(Arc::clone(&cluster), store, &config.disk);
                overviews.add_store(&process.store);
                (process.task, Some(process.store))
            }
            false => (self.run_without(&cluster, id), None),
        };
        let sockets = Some(sockets);
        let node = Node { cluster, store, task, plane, overviews, sockets, client: name };
        self.nodes.insert(id, node);
        self.pass(Duration::from_secs(1));
    }

    /// Asks `why` all the time from now on.
    pub fn watch(&mut self) {
        self.watched = Some(RefCell::default());
    }

    /// The problems told since the last call, each with its text.
    pub fn watched(&self) -> BTreeMap<String, String> {
        self.watched.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// Lets this time pass.
    pub fn pass(&self, time: Duration) {
        let Some(watched) = &self.watched else { return self.cases.world.wait(time) };
        let end = self.cases.world.clock.now() + time;
        while self.cases.world.clock.now() < end {
            self.cases.world.wait(Duration::from_millis(100));
            let told = self.problems().into_iter();
            let named = told.map(|it| (format!("{} {}", it.problem, it.of), it.text));
            watched.borrow_mut().extend(named);
        }
    }

    /// Gives a node an empty disk at its next start. Returns its disk of before.
    pub fn new_disk(&mut self, id: &str) -> Arc<Disk> {
        std::mem::replace(&mut self.config(id).disk, Disk::new())
    }

    /// The problems of `consul-ha why` in whole.
    pub fn problems(&self) -> Vec<Problem> {
        let cluster = self.looking().expect("an answer");
        let plane = DataPlane::new(Arc::clone(&cluster), |_| ()).expect("a data plane");
        let overviews = Overviews::new(cluster, Some(plane));
        self.sockets.block_on(overviews.overview()).problems.clone()
    }

    /// Accepts the loss of all that is missing of a shard.
    pub fn accept_loss(&self, shard: u32) {
        let operator = self.looking().expect("an answer");
        self.cases.world.run(async {
            let missing = outside::missing(&operator, "points", shard, &[], None).await;
            let missing = missing.expect("an answer").expect("it is known");
            let missing = Vec::from_iter(missing.iter().map(ToString::to_string));
            let accepted = outside::accept_loss(&operator, "points", shard, &missing, None).await;
            accepted.expect("the right to do so");
        });
    }

    /// Whether n1 reads a key that was written.
    pub fn reads(&self, key: &str) -> bool {
        let store = self.nodes["n1"].store.as_ref().expect("a store");
        let all = Range::all();
        let read = store.read(key.as_bytes(), &all, 9, self.cases.deadline(30));
        let page = self.cases.world.run(read).expect("an answer");
        page.records.iter().any(|it| it.id == key.as_bytes())
    }

    /// Gives the store these numbers of replicas, and of those for a write and for a read.
    pub fn set_numbers(&self, (replicas, write, read): (usize, usize, usize)) {
        let operator = self.looking().expect("an answer");
        let change =
            NumbersChange { replicas: Some(replicas), write: Some(write), read: Some(read) };
        self.cases.world.run(async {
            let shown = outside::numbers(&operator, "points", change, None).await.expect("a store");
            outside::set_numbers(&operator, "points", &shown, None).await.expect("an answer");
        });
    }

    fn run_without(&self, cluster: &Arc<Cluster>, id: &str) -> TaskId {
        let (cluster, network) = (Arc::clone(cluster), self.cases.network.of(id));
        network.plain.lock().expect("no panic").insert(id.into());
        self.cases.world.clock.spawn(async move {
            let reach: leader::Reach = Arc::new(move |_| Arc::new(network.clone()));
            tokio::select! {
                biased;
                _ = cluster.run() => {}
                never = leader::run(&cluster, &reach) => match never {},
            }
        })
    }

    pub fn kill(&mut self, id: &str) {
        self.end(id);
    }

    fn end(&mut self, id: &str) -> Arc<Cluster> {
        let mut node = self.nodes.remove(id).expect("a node that runs");
        self.cases.world.clock.cancel(node.task);
        self.cases.network.stores.lock().expect("no panic").remove(&NodeId::from(id));
        node.sockets.take().into_iter().for_each(Tokio::shutdown_background);
        node.cluster
    }

    /// Stops it gracefully.
    pub fn stop(&mut self, id: &str) {
        let cluster = self.end(id);
        self.cases.world.run(cluster.leave()).expect("a graceful stop");
    }

    pub fn restart(&mut self, id: &'static str) {
        self.kill(id);
        self.cases.network.cut.lock().expect("no panic").clear();
        self.start(id);
    }

    pub fn fault(&self, fault: Fault) {
        self.cases.world.agent.add_fault(fault);
    }

    pub fn cut_from_consul(&self, id: &str) {
        let clients = vec![self.nodes[id].client.clone()];
        self.fault(Fault { clients, partition: true, ..Fault::default() });
    }

    /// Consul takes this long for each request of a node.
    pub fn slow_down(&self, id: &str, latency: Duration) {
        let clients = vec![self.nodes[id].client.clone()];
        self.fault(Fault { clients, latency, ..Fault::default() });
    }

    pub fn cut_from_peers(&mut self, id: &'static str) {
        let node = self.nodes.get_mut(id).expect("a node");
        node.sockets.take().into_iter().for_each(Tokio::shutdown_background);
        self.cases.network.cut.lock().expect("no panic").insert(id.into(), Callers::All);
    }

    /// Calls between two nodes find nobody, or do again; both are used.
    pub fn cut_apart(&self, one: &'static str, other: &'static str, is_cut: bool) {
        for (from, to) in [(one, other), (other, one)] {
            self.nodes[from].plane.cut_off(to, is_cut);
            let mut cut = self.cases.network.cut.lock().expect("no panic");
            match is_cut {
                true => _ = cut.insert(from.into(), Callers::One(to.into())),
                false => _ = cut.remove(&NodeId::from(from)),
            }
        }
        for _ in 0..3 {
            self.call_each_other();
            self.cases.world.wait(Duration::from_millis(700));
        }
    }

    /// Lets another node lead.
    pub fn hand_over(&self) {
        let leads = |node: &&Node| node.cluster.is_leader();
        self.nodes.values().find(leads).expect("a leader").cluster.hand_over();
        self.pass(Duration::from_secs(5));
    }

    pub fn set_rules(&self, id: &str, rules: &str) {
        let management = self.management.expect("a lab with ACLs");
        let name = format!("rules-{}", self.nodes[id].client);
        self.cases.world.change_rules_of(&name, management, rules);
    }

    pub fn restart_without_store(&mut self) {
        for id in ["n1", "n2", "n3"] {
            self.kill(id);
            self.start_with(id, false);
        }
        // Until one leads again.
        self.cases.world.wait(Duration::from_secs(20));
    }

    pub fn forget_store(&mut self) {
        let operator = self.looking().expect("an answer");
        let asked = consul_cluster::stores::forget::ask(&operator, "points", "ada");
        self.cases.world.run(asked).expect("an answer");
    }

    /// Another cluster of the same name, at another Consul and scraped by another job.
    pub fn add_twin(&mut self) {
        let mut twin = Lab::new();
        twin.job = "twin";
        self.twin = Some(Box::new(twin));
    }

    /// An observer that has looked, as `consul-ha` is.
    fn looking(&self) -> Result<Arc<Cluster>, Error> {
        let (client, _) = self.client();
        let own = self.options("operator", &self.operator);
        let options = Options { observer: true, node_address: String::new(), ..own };
        let cluster = Cluster::new(Arc::clone(&client), client, options).expect("options");
        self.cases.world.run(cluster.look_also_back())?;
        Ok(cluster)
    }

    /// The problems of `consul-ha why`.
    pub fn why(&self) -> BTreeSet<String> {
        let cluster = match self.looking() {
            Ok(cluster) => cluster,
            Err(error) => return BTreeSet::from([format!("failed: {error}")]),
        };
        let plane = DataPlane::new(Arc::clone(&cluster), |_| ()).expect("a data plane");
        self.told_by(&Overviews::new(cluster, Some(plane)))
    }

    /// On a busy machine a node may not answer in time: it is asked again.
    fn told_by(&self, overviews: &Overviews) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        for _ in 0..5 {
            let begun = std::time::Instant::now();
            told = self.sockets.block_on(async { of_failures(&*overviews.overview().await) });
            let is_silent = told.iter().any(|it| it.starts_with("`node_silent`"));
            if !is_silent || begun.elapsed() < WAITED_FOR {
                break;
            }
            self.cases.world.wait(ASKED_AGAIN);
        }
        told
    }

    /// The problems on the page and in `/cluster` of each running node.
    pub fn pages(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let page = |(id, node): (&&'static str, &Node)| (*id, self.told_by(&node.overviews));
        self.nodes.iter().map(page).collect()
    }

    /// Forgets the numbers of the failure before.
    pub fn begin_again(&mut self) {
        self.series.clear();
        self.scrapes = 0;
    }

    /// A program uses the store all the time.
    pub fn use_all(&mut self) {
        let Some(store) = self.nodes.values().find_map(|node| node.store.clone()) else { return };
        for _ in 0..4 {
            self.written += 1;
            let key = format!("key-{}", self.written);
            let record = (Bytes::from(key.clone()), Some(Bytes::from("value")));
            let written = store.write(key.as_bytes(), vec![record], self.cases.deadline(2));
            // It may be refused.
            _ = self.cases.world.run(written);
        }
    }

    /// Lets so much time pass.
    pub fn hold(&mut self, seconds: u64) {
        let simulated = seconds.min(SIMULATED_S);
        for _ in 0..simulated / SCRAPE_S {
            self.scrape_for(SCRAPE_S);
        }
        self.go_on((seconds - simulated) / SCRAPE_S);
    }

    /// Adds scrapes that go on as the last ones: counters grow as in the last minute, the rest stays.
    fn go_on(&mut self, scrapes: u64) {
        if let Some(twin) = &mut self.twin {
            twin.go_on(scrapes);
        }
        for (series, samples) in &mut self.series {
            let last = samples.last().copied().flatten();
            let before = samples.iter().rev().nth(4).copied().flatten();
            let is_counter = series.split('{').next().is_some_and(|it| it.ends_with("_total"));
            let growth = last.zip(before).map(|(last, before)| (last - before) / 4.0);
            let growth = growth.filter(|_| is_counter).unwrap_or_default();
            samples.extend((1..=scrapes).map(|n| last.map(|it| it + growth * n as f64)));
        }
        self.scrapes += scrapes as usize;
    }

    pub fn scrape_for(&mut self, seconds: u64) {
        if let Some(twin) = &mut self.twin {
            twin.scrape_for(seconds);
        }
        let end = self.cases.world.clock.now() + Duration::from_secs(seconds);
        self.use_all();
        loop {
            let now = self.cases.world.clock.now();
            if now >= self.next_scrape {
                self.scrape();
                self.next_scrape = self.next_scrape + Duration::from_secs(SCRAPE_S);
            } else if now < end {
                self.cases.world.wait(end.min(self.next_scrape) - now);
            } else {
                return;
            }
        }
    }

    fn scrape(&mut self) {
        self.call_each_other();
        let named = rules();
        let unix =
            self.epoch.as_secs() as f64 + self.cases.world.clock.now().since_origin().as_secs_f64();
        let process_wide = text(Format::Prometheus);
        let mut now: BTreeMap<String, f64> = BTreeMap::new();
        for id in self.configs.keys() {
            let up = format!("up{{job=\"{}\",instance=\"{id}\"}}", self.job);
            let node = self.nodes.get(id);
            now.insert(up, f64::from(node.is_some()));
            let Some(node) = node else { continue };
            let mut page = Page::default();
            Source::write(&*node.cluster, &mut page);
            Source::write(&*node.plane, &mut page);
            // As its status server does.
            self.sockets.block_on(node.overviews.overview());
            Source::write(&*node.overviews, &mut page);
            if let Some(store) = &node.store {
                Source::write(&**store, &mut page);
            }
            let own = page.text(Format::Prometheus);
            let cluster = format!("cluster=\"{}\"", node.cluster.options().nodes_prefix);
            let of_node = |line: &&str| !line.starts_with('#');
            let of_all = |line: &&str| {
                let is_of_object =
                    ["node=\"", "store=\"", "state=\""].iter().any(|it| line.contains(it))
                        || line.contains("cluster=\"") && !line.contains(&cluster);
                let (name, _) = line.split_once(['{', ' ']).unwrap_or((line, ""));
                of_node(line) && !is_of_object && !own.contains(&format!("\n{name}{{"))
            };
            let lines = own.lines().filter(of_node).chain(process_wide.lines().filter(of_all));
            for line in lines {
                let (series, value) = line.rsplit_once(' ').expect("a sample");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                if !named.contains(name) {
                    continue;
                }
                let labels = labels.trim_end_matches('}');
                let comma = if labels.is_empty() { "" } else { "," };
                let series =
                    format!("{name}{{{labels}{comma}job=\"{}\",instance=\"{id}\"}}", self.job);
                let value: f64 = value.parse().expect("a number");
                // Prometheus' tests of rules begin at the Unix epoch.
                now.insert(series, if is_time(name) { value - unix } else { value });
            }
        }
        for series in
            now.keys().filter(|it| !self.series.contains_key(*it)).cloned().collect::<Vec<_>>()
        {
            self.series.insert(series, vec![None; self.scrapes]);
        }
        for (series, samples) in &mut self.series {
            samples.push(now.get(series).copied());
        }
        self.scrapes += 1;
    }

    /// Nodes call each other all the time, but not the nodes that they know to be down: the counters are of the process, and
    /// another node may not know that.
    fn call_each_other(&self) {
        let calls = self.nodes.iter().flat_map(|(from, node)| {
            let known = node.cluster.snapshot();
            let is_live = move |id: &str| known.nodes.get(id).is_some_and(|it| it.is_live);
            let others = self.nodes.keys().filter(move |id| *id != from && is_live(id));
            others.map(|id| node.plane.check_key(id))
        });
        self.sockets.block_on(futures_util::future::join_all(calls.collect::<Vec<_>>()));
    }

    /// The numbers that are not what they are in a healthy cluster, with their nodes.
    pub fn changed_numbers(&self) -> BTreeSet<String> {
        let (mut found, alerting) = (BTreeSet::new(), alerting());
        for (series, samples) in &self.series {
            let Some(Some(value)) = samples.last() else { continue };
            let (name, labels) = series.split_once('{').expect("labels");
            let name = name.trim_start_matches("consul_ffi_");
            let is_well = match name {
                "up" | "cluster_in_touch" | "cluster_has_leader" | "store_usable" => *value == 1.0,
                "cluster_clock_seconds" => value.abs() < 2.0,
                "data_plane_certificate_expiry_timestamp_seconds" => *value > 14.0 * 86_400.0,
                "cluster_nodes" => !labels.contains("state=\"down\"") || *value == 0.0,
                "cluster_node_state" => !labels.contains("state=\"suspended\"") || *value == 0.0,
                "cluster_map_epoch" => true,
                // All of them are in the columns before.
                "cluster_problems" => {
                    let problem = label(labels, "problem");
                    !is_of_failure(problem) || !alerting.contains(problem)
                }
                "data_plane_strangers_refused_total" => {
                    samples.iter().rev().nth(4).copied().flatten().is_none_or(|it| it == *value)
                }
                name if name.ends_with("_total") => true,
                _ => *value == 0.0,
            };
            if !is_well {
                let is_shown = |it: &&str| it.starts_with("state=") || it.starts_with("problem=");
                let state = labels.split(',').find(is_shown);
                let state = state.map_or(String::new(), |it| format!("{{{it}}}"));
                let shown = match name {
                    "cluster_clock_seconds" => format!("{value:+.0} s"),
                    _ if name.ends_with("timestamp_seconds") => {
                        format!("{:.1} d", value / 86_400.0)
                    }
                    "data_plane_strangers_refused_total" => "grows".to_owned(),
                    // How many there are differs from run to run.
                    "watches_failing" | "client_benched_endpoints" | "data_plane_avoided_nodes" => {
                        "> 0".to_owned()
                    }
                    _ => value.to_string(),
                };
                found.insert(format!("`{name}{state}` {shown}"));
            }
        }
        found
    }

    /// The alerts that fire now; `None` without promtool.
    pub fn alerts(&self) -> Option<BTreeSet<String>> {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(RULES);
        let mut test = format!(
            "rule_files: [\"{}\"]\nevaluation_interval: {SCRAPE_S}s\ntests:\n  - interval: {SCRAPE_S}s\n    input_series:\n",
            rules.display()
        );
        let twins = self.twin.iter().flat_map(|twin| &twin.series);
        for (series, samples) in self.series.iter().chain(twins) {
            let is_time = series.split('{').next().is_some_and(is_time);
            let mut before = None;
            let values = samples.iter().enumerate().map(|(scrape, value)| {
                let shown = match (value, before) {
                    (Some(value), _) if is_time => {
                        (value + (scrape as u64 * SCRAPE_S) as f64).to_string()
                    }
                    (Some(value), _) => value.to_string(),
                    (None, Some(_)) => "stale".to_owned(),
                    (None, None) => "_".to_owned(),
                };
                before = *value;
                shown
            });
            let values: Vec<String> = values.collect();
            _ = writeln!(test, "      - {{ series: '{series}', values: '{}' }}", values.join(" "));
        }
        test.push_str("    promql_expr_test:\n");
        _ = writeln!(
            test,
            "      - {{ expr: 'group by (alertname) (ALERTS{{alertstate=\"firing\"}})', eval_time: {}s, exp_samples: [] }}",
            (self.scrapes as u64 - 1) * SCRAPE_S
        );
        let folder = Folder::new();
        let file = folder.file("alerts.yml", &test);
        let tested = Command::new("promtool").args(["test", "rules", &file]).output().ok()?;
        let said = String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()).into_owned();
        let got = said.split_once("got:").map_or("", |(_, got)| got);
        assert!(said.contains("SUCCESS") || !got.is_empty(), "{said}");
        let names = got.split("alertname=\"").skip(1).filter_map(|it| it.split('"').next());
        Some(names.map(str::to_owned).collect())
    }
}

/// Whether a metric is a Unix time.
fn is_time(metric: &str) -> bool {
    ["_clock_seconds", "_timestamp_seconds"].iter().any(|end| metric.ends_with(end))
}

fn tokio() -> Tokio {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

fn rules_file() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(RULES);
    fs::read_to_string(file).expect("the rules")
}

/// The problems that the rules ask for by name.
fn alerting() -> BTreeSet<String> {
    let text = rules_file();
    let selectors = text.split("cluster_problems{problem=").skip(1);
    let named = selectors.filter_map(|rest| rest.split('"').nth(1));
    named.flat_map(|names| names.split('|')).map(str::to_owned).collect()
}

/// The value of a label.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let rest = labels.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default()
}

/// The names of metrics that the rules ask for.
fn rules() -> BTreeSet<String> {
    let text = rules_file();
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c: char| !is_of_name(c)).filter(|it| it.starts_with("consul_ffi_"));
    words.map(str::to_owned).collect()
}

/// Whether it does not come with time, as what a process cannot ask does.
fn is_of_failure(problem: &str) -> bool {
    !["endpoint_benched", "stores_unknown"].contains(&problem)
}

fn of_failures(overview: &Overview) -> BTreeSet<String> {
    let told = overview.problems.iter().filter(|it| is_of_failure(it.problem));
    let told = told.map(|it| match it.of.as_str() {
        "" => format!("`{}`", it.problem),
        of => format!("`{}` {of}", it.problem),
    });
    told.collect()
}

/// The reports about a failure.
#[derive(Default)]
pub struct Seen {
    pub at_once: BTreeSet<String>,
    pub page_at_once: BTreeMap<&'static str, BTreeSet<String>>,
    pub later: BTreeSet<String>,
    pub page: BTreeMap<&'static str, BTreeSet<String>>,
    pub numbers: BTreeSet<String>,
    pub alerts: Option<BTreeSet<String>>,
    pub wrong: Vec<String>,
}

impl Seen {
    pub fn nobody_says_anything(&mut self, lab: &Lab, when: &str) {
        // On a busy machine a node may not answer in time.
        let mut pages: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for _ in 0..3 {
            pages = lab.pages();
            pages.insert("why", lab.why());
            if pages.values().all(BTreeSet::is_empty) {
                break;
            }
            lab.cases.world.wait(ASKED_AGAIN);
        }
        for (who, told) in pages.iter().filter(|(_, told)| !told.is_empty()) {
            self.wrong.push(format!("{when}, {who} says {told:?}"));
        }
        if let Some(alerts) = lab.alerts().filter(|alerts| !alerts.is_empty()) {
            self.wrong.push(format!("{when}, these fire: {alerts:?}"));
        }
        let numbers = lab.changed_numbers();
        if !numbers.is_empty() {
            self.wrong.push(format!("{when}, the numbers are {numbers:?}"));
        }
    }

    /// Finds what is silent although something is wrong.
    pub fn check(&mut self, failure: &Failure) {
        let is_said = |told: &BTreeSet<String>| !told.is_empty();
        let pages = |pages: &BTreeMap<&str, BTreeSet<String>>| pages.values().any(is_said);
        let told = match failure.who {
            Who::Nobody => [
                ("nobody", !is_said(&self.at_once) && !pages(&self.page_at_once)),
                ("no number", self.numbers.is_empty()),
            ],
            Who::Operator => {
                [("why", is_said(&self.at_once)), ("nobody else", !pages(&self.page_at_once))]
            }
            Who::All => [("why", is_said(&self.at_once)), ("the page", pages(&self.page_at_once))],
        };
        let silent = told.iter().filter(|(_, is_so)| !is_so);
        self.wrong.extend(silent.map(|(who, _)| format!("it is not {who} that tells within 5 s")));
        let lasts = failure.who == Who::All && !failure.is_short;
        if lasts && self.numbers.is_empty() {
            self.wrong.push("the numbers say nothing".to_owned());
        }
    }

    /// The row of the table; `alerts` are as the last time, if they cannot be known.
    pub fn line(&self, name: &str, alerts: &str) -> String {
        let list = |told: &BTreeSet<String>| match told.is_empty() {
            true => "-".to_owned(),
            false => told.iter().cloned().collect::<Vec<_>>().join(", "),
        };
        let then = |first: String, later: String| match first == later {
            true => later,
            false => format!("{first}; then {later}"),
        };
        let page = |pages: &BTreeMap<&'static str, BTreeSet<String>>| {
            let shown: Vec<(&str, String)> = pages.iter().map(|(id, it)| (*id, list(it))).collect();
            match shown.iter().all(|(_, it)| *it == shown[0].1) {
                true => shown[0].1.clone(),
                false => shown
                    .iter()
                    .map(|(id, it)| format!("of {id}: {it}"))
                    .collect::<Vec<_>>()
                    .join("; "),
            }
        };
        let fire = self
            .alerts
            .as_ref()
            .map(|alerts| list(&alerts.iter().map(|it| format!("`{it}`")).collect()));
        format!(
            "| {name} | {} | {} | {} | {} |",
            then(list(&self.at_once), list(&self.later)),
            then(page(&self.page_at_once), page(&self.page)),
            list(&self.numbers),
            fire.as_deref().unwrap_or(alerts)
        )
    }
}
