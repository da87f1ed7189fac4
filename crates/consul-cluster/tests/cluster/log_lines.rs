//! Each log line that servers, other nodes or registrants can cause is caused again and again, and is limited
//! in rate, with the count of those left out.

use crate::nodes::{Process, node};
use crate::support::lines::logged;
use crate::support::world::World;
use consul_api::api::kv;
use consul_api::request::{Args, Defaults};
use consul_client::coordination::Profile;
use consul_client::transport::Transport;
use consul_client::view::{EMPTY_HOLD, view};
use consul_client::{Client, Settings};
use consul_cluster::Options;
use consul_process::clock::Clock;
use consul_sim::{Fault, Retained, SimTransport};
use futures_util::StreamExt;
use futures_util::future::join_all;
use http::StatusCode;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

/// More than the lines of one kind that are written within [`WINDOW`].
const MANY: usize = 24;
const MAX_LINES: u64 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// The lines that are not caused here, and why.
const NOT_HERE: &[(&str, &str)] = &[
    (
        "the shard map's announcement is written again",
        "once for each time that it is deleted; settings",
    ),
    (
        "somebody deregistered the agent's node",
        "once for each session that is made within a minute after that; coordination",
    ),
    ("registering again with the new token", "once for each token in a file; coordination"),
    (
        "a node's disk is a copy that has lived on elsewhere: it is left out",
        "once for each such node and leadership; stores",
    ),
    (
        "the leader cannot reach a node: it gets no new replicas",
        "once until it answers twice; stores",
    ),
    ("the leader reaches a node again", "after two answers, at most every 10 s; stores"),
    ("the service was not deregistered and stays", "once, at the end of a client"),
    ("the lock is not released yet", "once, at the end of a client"),
    ("acquire failed, retrying", "once while a wait fails; coordination"),
    ("still not acquired", "once while a wait fails; coordination"),
    (
        "a lock's key that another client has",
        "once for each time that an operator changes it; coordination",
    ),
    ("a session could not be ended; its TTL has ended it", "once for each session; coordination"),
    ("a storage was not flushed before the stop", "once, at the end of a node"),
    ("the node did not leave and stays", "once, at the end of a node"),
    ("the node stopped taking requests", "once, at the end of a node"),
    ("the node has ended", "once, at the end of a node"),
    ("an operator", "an operator, who writes the node's key; cluster::requests"),
    ("it stays: an operator has made it active", "an operator, who writes the node's key"),
    (
        "Consul has an older map than nodes",
        "once for a state to which Consul went back; stores::set_back",
    ),
    ("the maps of stores are read again", "after an operator has asked a node to leave"),
    ("a handler raised an error", "programs::logs"),
    ("changed", "a file of this machine"),
    ("for an older program", "a program of this machine"),
    ("cannot be used; the last content stays in use", "a file of this machine"),
    ("the log file was moved and cannot be opened again", "once; a process of this machine"),
    ("the pipe is not read: lines are left out", "a process of this machine"),
    ("the pipe was not read: lines were left out", "a process of this machine"),
    ("the authorities in data_tls.ca_file do not vouch", "a file of this machine"),
    ("a client of this process has no guard", "a process of this machine"),
    ("the TLS handshake of another node failed", "data_plane"),
    ("a connection without TLS was refused", "data_plane"),
    ("a connection with TLS was refused", "data_plane"),
    ("a request was refused: no secret of", "data_plane"),
    ("the guard of this process", "a process of this machine"),
    ("no guard: if this process dies", "a process of this machine"),
    ("a connection from another node could not be accepted", "the process has no descriptors left"),
    (
        "a connection to the status server could not be accepted",
        "the process has no descriptors left",
    ),
    (
        "a connection to the unix socket of this process could not be accepted",
        "the process has no descriptors left",
    ),
    ("another process connected to the unix socket", "a process of this machine"),
    ("a service is left out", "a name in the catalog that no request can have"),
    ("an answer is not believed", "once for such answers in a row; nodes, and coordination"),
    (
        "the node's key shows another start of it",
        "once for each time that an operator writes it; copies",
    ),
    ("the node's key could not be written", "once after each of those lines; copies"),
    ("it is not known who has the key", "an answer that is not believed, once in 3 s; nodes"),
    (
        "the cluster's shard maps have begun again",
        "once for each time that an operator deletes its keys; observer",
    ),
    ("; it is asked again before it is believed", "once for such lists in a row; nodes"),
    ("a leader's write is refused", "once for each loss of a right; refused"),
    ("what a leader writes is not refused any more", "once after the line above"),
    ("hands the leadership over to a node that may do its work", "once in five minutes; refused"),
    ("the leadership is not handed over: no other node may lead", "a program or an operator"),
    (
        "Consul learns of the death of this process by",
        "once until a beat is not refused; coordination",
    ),
    ("not registered", "once for each reason and agent; coordination"),
    ("several agents seem to answer at this endpoint", "once for each registration; coordination"),
    (
        "Consul does not list the instance of this node, which registers it again and again",
        "once until it is listed for the TTL of the check; shared_service",
    ),
    (
        "the instance of this node in Consul was replaced",
        "once before one of two ends, or once in a minute; shared_service",
    ),
    (
        "the leader's lock was not released; it ends with its session",
        "once, at the end of a leadership",
    ),
    ("the history of leaders is not kept", "once for each leadership; election"),
    ("the leader's key is blocked", "once until there is a leader; election"),
    ("a semaphore's document", "once for each time that an operator changes it; coordination"),
    ("the leader's work failed; it is retried", "once a second at most"),
    ("too many connections without a valid request", "data_plane::flood"),
    (
        "Consul refuses requests because of its limits: waiting queries pause",
        "once until it answers again",
    ),
    ("Consul answers again: waiting queries go on", "once after the line above"),
    ("a node is avoided", "once until it answers again"),
    ("a node that was avoided answers again", "once after the line above"),
    ("too many connections from other nodes", "strangers::tests"),
    ("a node and the leader refuse each other's cluster_key", "once for each start of a node"),
    ("a node and the leader accept each other's cluster_key again", "once after the line above"),
    (
        "the node's key is older than it was; it is written again",
        "once for each restored snapshot; modes",
    ),
    ("the node takes another weight", "an operator; modes"),
    ("Consul has lost the weights of nodes; they are put back", "once for each loss; modes"),
    ("not the weights of nodes; those known before count", "as \"not a node's key\"; modes"),
    ("not a record of a node", "stores"),
    ("not an announcement of a node", "as the line above"),
    ("that the storage is opened was not announced", "once a second at most"),
    ("the first map of a store waits", "four times a second at most"),
    ("the map in Consul is ignored", "stores"),
    ("the leader's work for a store is tried again", "four times a second at most"),
    ("the report was not written", "once a second at most"),
    ("the map was not put back; it is tried again", "twice a second at most"),
    ("Consul has lost the map of a store; it is put back", "once for each loss"),
    ("its entry may be old and stays as it is", "of each shard once in two seconds at most"),
    ("accept_loss had no effect: no replica is known to be missing", "an operator"),
    ("an operator accepts the loss of replicas", "an operator"),
    ("the numbers of a store change", "an operator"),
    (
        "the numbers of the store's map count",
        "once at the start, and once for each change by an operator",
    ),
    ("not what an operator wants of a store", "an operator"),
    ("not a request to forget a store", "an operator"),
    ("a store that nodes have open is not forgotten", "an operator"),
    ("a store is forgotten", "an operator"),
    ("not the mode of a node that is stopped; it is ignored", "an operator; modes"),
    ("the node's mode ends with this stop", "once, at the end of a node"),
    ("what an operator has ordered was not put back", "once in five seconds at most"),
    ("Consul has lost the pause, or its end; it is put back", "once for each loss"),
    (
        "Consul has lost the mode of a node that is stopped; it is put back",
        "once for each loss and node",
    ),
    (
        "the node goes on in the mode in which an operator has put it",
        "once, at the start of a node",
    ),
    ("the last report was not read; it is tried again", "twice a second at most"),
    ("the storage was not opened; it is tried again", "a storage of this process"),
    ("a store cannot be used", "once, at the end of a store"),
    (": it may lack records, does not count before it has", "once, at the start of a store"),
    ("how old the disk is cannot be compared with the map", "once, at the start of a store"),
    (
        "too few replicas are whole: all that the others still have",
        "once for each failover of a shard",
    ),
    ("an entry was not kept", "a storage of this process"),
    ("the map was not kept", "a storage of this process"),
    ("a storage raised an error", "a program of this machine"),
    ("the machine's clock was set back", "the clock of this machine"),
    ("systemd was not told", "twice in the time of the watchdog at most"),
];

/// The messages of all log lines of the library above the level DEBUG, without what is inserted. A line without
/// words of its own is written once for each text.
fn messages(folder: &Path) -> Vec<String> {
    let mut messages = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            messages.extend(messages_of_folder(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for level in ["error", "warn", "info"] {
                for call in code.split(&format!("tracing::{level}!(")).skip(1) {
                    let call = until_its_end(call);
                    let message = call.rsplit('"').nth(1);
                    let message = message.unwrap_or_else(|| panic!("no message: {call}"));
                    // The longest part between insertions.
                    let parts = message.split(['{', '}']).step_by(2);
                    let part = parts.max_by_key(|part| part.len()).unwrap_or_default();
                    messages.extend(Some(part.trim().to_owned()).filter(|part| !part.is_empty()));
                }
            }
        }
    }
    messages
}

/// The arguments of a call, whose opening parenthesis is before the text.
fn until_its_end(text: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
    let end = text.find(|c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_text => is_escaped = true,
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    &text[..end.unwrap_or(text.len())]
}

fn messages_of_folder(path: &Path) -> Vec<String> {
    if ["consul-sim", "consul-test-support", "tests"].iter().any(|it| path.ends_with(it)) {
        Vec::new()
    } else {
        messages(path)
    }
}

/// The processes that meet the faults.
struct Crowd {
    world: World,
    nodes: Vec<Process>,
    /// The clients of service views.
    clients: Vec<Arc<Client>>,
}

impl Crowd {
    fn new() -> Self {
        let mut crowd = Crowd { world: World::new(), nodes: Vec::new(), clients: Vec::new() };
        for _ in 0..MANY {
            let client = crowd.client();
            let args = Args::new().arg("web");
            let (_, answers) = view(Arc::clone(&client), args, EMPTY_HOLD).expect("a view");
            crowd.world.clock.spawn(answers.for_each(|()| async {}));
            crowd.clients.push(client);
        }
        crowd
    }

    /// A client with two endpoints; faults can affect the first.
    fn client(&self) -> Arc<Client> {
        let transport = |name: &str| {
            let agent = Arc::clone(&self.world.agent);
            Arc::new(SimTransport::new(agent, name).for_client(name)) as Arc<dyn Transport>
        };
        let settings = Settings {
            timeout: Duration::from_secs(2),
            retry_count: 1,
            defaults: Defaults::default(),
        };
        let clock = Arc::new(self.world.clock.clone());
        let rng = fastrand::Rng::with_seed((self.clients.len() + self.nodes.len()) as u64);
        Arc::new(Client::new(vec![transport("first"), transport("second")], settings, clock, rng))
    }

    /// Starts a node of one of [`MANY`] clusters.
    fn start(&mut self, cluster: usize, id: &str) {
        // Sessions outlive faults that make their renewals fail.
        let (lease, check_ttl) = (Duration::from_secs(1), Duration::from_secs(12));
        let profile = Profile { lease, check_ttl, ..Profile::standard() };
        let options = Options {
            nodes_prefix: format!("c{cluster}/nodes/"),
            leader_key: format!("c{cluster}/leader"),
            shards_prefix: format!("c{cluster}/shards/"),
            config_key: format!("c{cluster}/config"),
            shards: 8,
            profile,
            replace_after: Duration::from_secs(5),
            forget_after: Duration::from_secs(12),
            ..node(id)
        };
        let client = self.client();
        let process = self.world.start_with(client, options);
        self.nodes.push(process);
    }

    fn fault(&self, seconds: u64, fault: Fault) {
        self.world.agent.add_fault(fault);
        self.world.wait(Duration::from_secs(seconds));
        self.world.agent.clear_faults();
    }

    fn answers(&self, seconds: u64, status: u16, status_chance: f64) {
        let status = StatusCode::from_u16(status).ok();
        self.fault(seconds, Fault { status, status_chance, ..Fault::default() });
    }

    fn hand_over(&self) {
        self.nodes.iter().for_each(|node| node.cluster.hand_over());
    }

    /// Reads with all clients while no server has a leader.
    fn read_stale(&self) {
        self.world.agent.add_fault(Fault { no_leader: true, ..Fault::default() });
        let args = Args::new().arg("key").opt("stale_if_error", true);
        let reads = self.clients.iter().map(|client| client.call(&kv::GET, &args));
        self.world.run(join_all(reads));
        self.world.agent.clear_faults();
    }

    /// Registers an instance for the views.
    fn register(&self, name: &str, port: u32, round: usize) {
        let service = format!(r#"{{"Service":"web","ID":"{name}{round}","Port":{port}}}"#);
        let body = format!(r#"{{"Node":"other","Address":"10.0.0.9","Service":{service}}}"#);
        self.world.send("PUT", "/v1/catalog/register", &body);
    }

    fn settle(&self) {
        self.world.wait(Duration::from_secs(10));
    }
}

/// Puts new nodes of all clusters through every fault.
fn cause_all(crowd: &mut Crowd, round: usize) {
    let id = |name: &str| format!("{name}{round}");
    let all = || Fault { partition: true, ..Fault::default() };
    // Nodes and views start while the servers fail.
    let status = StatusCode::from_u16(500).ok();
    crowd.world.agent.add_fault(Fault { status, status_chance: 1.0, ..Fault::default() });
    for cluster in 0..MANY {
        crowd.start(cluster, &id("a"));
    }
    crowd.world.wait(Duration::from_secs(3));
    crowd.world.agent.clear_faults();
    crowd.settle();
    crowd.hand_over();
    crowd.answers(4, 403, 1.0);
    crowd.settle();
    crowd.hand_over();
    crowd.answers(14, 500, 0.6);
    crowd.settle();
    crowd.answers(11, 500, 1.0);
    crowd.settle();
    // A node that has no successor tries again after this time.
    crowd.hand_over();
    crowd.world.wait(crowd.nodes[0].cluster.options().profile.takeover() - Duration::from_secs(1));
    crowd.answers(8, 500, 1.0);
    crowd.settle();
    crowd.read_stale();
    // Another program's: Consul's have an index, or a text about what is missing.
    crowd.hand_over();
    crowd.answers(14, 404, 0.6);
    crowd.settle();
    // The agent has forgotten all services, and refuses some of the requests that follow.
    crowd.world.agent.restart(Retained::Nothing);
    crowd.answers(14, 403, 0.5);
    crowd.settle();
    crowd.fault(15, Fault { clients: vec!["first".to_owned()], ..all() });
    crowd.settle();
    crowd.fault(4, all());
    crowd.settle();

    crowd.register("good", 80, round);
    crowd.register("bad", 80_000, round);
    crowd.settle();
    crowd.world.agent.restart(Retained::Nothing);
    crowd.settle();

    for cluster in 0..MANY {
        crowd.start(cluster, &id("b"));
        crowd.start(cluster, &id("c"));
    }
    crowd.settle();
    for cluster in 0..MANY {
        let path = |key: &str| format!("/v1/kv/c{cluster}/{key}");
        crowd.world.send("PUT", &path(&format!("nodes/{}", id("b"))), "not a node's");
    }
    crowd.settle();
    for cluster in 0..MANY {
        let path = |key: &str| format!("/v1/kv/c{cluster}/{key}");
        crowd.world.send("PUT", &path(&format!("nodes/x{round}")), "not a node's");
        let mistyped = format!(
            r#"{{"id":"y{round}","address":"a:1","weight":0,"started_ms":0,"incarnation":"y","mode":"drain"}}"#
        );
        crowd.world.send("PUT", &path(&format!("nodes/y{round}")), &mistyped);
        crowd.world.send("PUT", &path("shards/map"), "not a map");
        crowd.world.send("PUT", &path("shards/epoch"), r#"{"epoch":90000,"digest":""}"#);
    }
    crowd.settle();
    // Two of three nodes die at once, and are forgotten.
    let is_leader = |node: &&Process| !node.cluster.is_leader();
    crowd.nodes.iter().filter(is_leader).for_each(|node| crowd.world.kill(node));
    crowd.world.wait(Duration::from_secs(35));
    crowd.nodes.drain(..).for_each(|node| crowd.world.kill(&node));
}

#[test]
#[ignore = "computes long: make test-all"]
fn each_line_that_others_can_cause_is_limited() {
    let mut crowd = Crowd::new();
    let mut text = String::new();
    logged(Level::INFO, Arc::new(crowd.world.clock.clone()), |lines| {
        (0..2).for_each(|round| cause_all(&mut crowd, round));
        text = lines.text();
    });
    let windows = crowd.world.clock.now().since_origin().as_secs() / WINDOW.as_secs() + 1;
    let mut wrong = Vec::new();
    let root = Path::new(crate::support::root());
    for message in ["src", "crates"].iter().flat_map(|folder| messages(&root.join(folder))) {
        let of_kind: Vec<&str> = text.lines().filter(|line| line.contains(&message)).collect();
        let is_cut = of_kind.iter().any(|line| line.contains(" left_out="));
        let is_not_here = NOT_HERE.iter().any(|(words, _)| message.starts_with(words));
        if !is_not_here && (!is_cut || of_kind.len() as u64 > MAX_LINES * windows) {
            wrong.push(format!("{message:?}: {} lines, cut: {is_cut}", of_kind.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
