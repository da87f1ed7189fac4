//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use consul_cli::consul::Consul;
use consul_cluster::nodes::weights;

const STATUSES: &str = "\
Exit statuses:
  0  done, or all is well
  1  refused, or something is not well: the output says what
  2  the command line or the configuration is wrong
  3  Consul does not answer
  4  a wait has reached its time limit
  5  the token lacks a right: the output names it";

/// The longest wait, in seconds: a week.
const LONGEST_WAIT: u64 = 7 * 86_400;

/// Shows a cluster of consul_ffi and changes it, from outside: it is not a member, and has no key, check or
/// session in Consul.
#[derive(Parser)]
#[command(name = "consul-ha", version, after_help = STATUSES, max_term_width = 100)]
pub struct CommandLine {
    #[command(flatten)]
    pub profile: OfProfile,
    #[command(flatten)]
    pub consul: Consul,
    #[command(flatten)]
    pub keys: Keys,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The cluster, by a name of the operator's own.
#[derive(Args)]
#[command(next_help_heading = "Profile")]
pub struct OfProfile {
    /// A cluster by its name in the file of profiles; flags go before what it says, and if CONSUL_HA_PROFILE names it, the
    /// environment does, too.
    #[arg(long, global = true, env = "CONSUL_HA_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// The file of profiles; by default consul-ha/profiles.toml in XDG_CONFIG_HOME or ~/.config.
    #[arg(long, global = true, env = "CONSUL_HA_PROFILES", value_name = "FILE")]
    pub profiles: Option<String>,
}

/// The keys of the cluster, as the options of its nodes name them.
#[derive(Args)]
#[command(next_help_heading = "Cluster")]
pub struct Keys {
    /// The common beginning of the cluster's keys: `ha/` for ha/leader, ha/nodes/, ha/shards/ and ha/config.
    #[arg(long, global = true, env = "CONSUL_HA_PREFIX", value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The key of the leader's lock.
    #[arg(long, global = true, value_name = "KEY")]
    pub leader_key: Option<String>,
    /// The prefix of the nodes' keys; by default the others are next to it. It goes before a prefix.
    #[arg(long, global = true, value_name = "PREFIX")]
    pub nodes_prefix: Option<String>,
    /// The prefix of the shard maps' keys.
    #[arg(long, global = true, value_name = "PREFIX")]
    pub shards_prefix: Option<String>,
    /// The key of the shared configuration.
    #[arg(long, global = true, value_name = "KEY")]
    pub config_key: Option<String>,
    /// The file with the secrets that sign calls between nodes (cluster_key), one in each line.
    #[arg(long, global = true, env = "CONSUL_HA_CLUSTER_KEY_FILE", value_name = "FILE")]
    pub cluster_key_file: Option<String>,
    /// The certificate for calls to nodes (data_tls).
    #[arg(
        long,
        global = true,
        env = "CONSUL_HA_DATA_CERT",
        value_name = "FILE",
        requires = "data_key",
        requires = "data_ca"
    )]
    pub data_cert: Option<String>,
    /// Its key.
    #[arg(
        long,
        global = true,
        env = "CONSUL_HA_DATA_KEY",
        value_name = "FILE",
        requires = "data_cert"
    )]
    pub data_key: Option<String>,
    /// The authorities of the nodes' certificates.
    #[arg(
        long,
        global = true,
        env = "CONSUL_HA_DATA_CA",
        value_name = "FILE",
        requires = "data_cert"
    )]
    pub data_ca: Option<String>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// List the nodes.
    Nodes(Watched),
    /// List the shards of the map and of the stores, or show the shard of a key.
    Shards(Shards),
    /// Show the leader; status 1 if there is none, or if it says that it does not lead.
    Leader(Watched),
    /// Tell every reason that something is not well, with its cure; status 1 if there is one.
    Why(Why),
    /// Show what has happened, from the nodes' own memory, with times in UTC.
    Events(Events),
    /// Serve the page, the numbers and the document of the whole cluster over HTTP, until it is stopped.
    Serve(Serve),
    /// Look for what goes wrong in Consul and around it; status 1 if something is.
    Doctor(Doctor),
    /// List the locks and semaphores below a prefix.
    Locks(Locks),
    /// Move the shards of a node to others; it does not lead meanwhile.
    Drain(Drain),
    /// Route no requests to a node, which keeps its shards and does not lead meanwhile.
    Maintenance(Maintenance),
    /// Let the leader hand over to another node, or to any other one.
    HandOver(HandOver),
    /// Let a node hand over its shards and stop. Its program sees the event `stopped`.
    Leave(Leave),
    /// Let a frozen shard map change again: its lost members count as lost.
    Thaw(Thaw),
    /// Stop all automatic moves of shards until `resume`; leaders are elected as ever.
    Pause(Pause),
    /// End a pause.
    Resume(Change),
    /// Remove a node that is down from the members, now instead of after forget_after_s.
    Forget(Forget),
    /// Let a shard of a store do without the replicas that are missing now. Acknowledged writes may be lost.
    AcceptLoss(AcceptLoss),
    /// Give a store other numbers of replicas, on a living cluster: the leader gets there in safe steps.
    StoreSet(StoreSet),
    /// Let a node make its replicas again from other nodes', one after the other, since its records are damaged or wrong.
    Reinit(Reinit),
    /// Remove a store that nobody uses any more from Consul. Its records stay on disks, which no node opens then.
    ForgetStore(ForgetStore),
    /// Give a node another weight: its share of the shards relative to the others. It lasts over restarts of the node.
    SetWeight(SetWeight),
    /// Show the last leaders, from Consul, with times in UTC: also those before the nodes were restarted.
    History(Watched),
    /// Print the completion for a shell.
    Completion {
        /// The shell that reads it.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page: `consul-ha man | man -l -`.
    Man,
    /// Print the names of the nodes, for the completion.
    #[command(hide = true)]
    Names,
}

#[derive(Args)]
pub struct Watched {
    /// Show it again after this time, 2 s by default.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub watch: Option<u32>,
}

#[derive(Args)]
pub struct Why {
    #[command(flatten)]
    pub watched: Watched,
    /// Wait until all is well.
    #[arg(long, conflicts_with = "watch")]
    pub wait: bool,
    /// The time limit of the wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait",
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
}

#[derive(Args)]
pub struct Shards {
    /// A key of the program: the shard that it is in.
    pub key: Option<String>,
    /// Only the shards of this node.
    #[arg(long, value_name = "NODE", conflicts_with = "key")]
    pub node: Option<String>,
    /// Which shards to list.
    #[arg(long, value_enum, default_value_t = Which::All, conflicts_with = "key")]
    pub only: Which,
    #[command(flatten)]
    pub watched: Watched,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// All.
    All,
    /// Those with a replica that comes or goes.
    Moving,
}

#[derive(Args)]
pub struct Locks {
    /// The prefix of their keys; by default all keys are read.
    // Another id than that of --prefix, whose value it would have otherwise.
    #[arg(id = "keys", value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    #[command(flatten)]
    pub watched: Watched,
}

/// How a change is made.
#[derive(Args)]
pub struct Change {
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse unless the shard map still has this epoch, which `shards` prints.
    #[arg(long, value_name = "N")]
    pub expect_epoch: Option<u64>,
}

#[derive(Args)]
pub struct OfNode {
    /// The node's id.
    pub node: String,
    #[command(flatten)]
    pub change: Change,
}

/// The consent to what no other verb undoes.
#[derive(Args)]
pub struct Consent {
    /// Agree in advance; necessary without a terminal.
    #[arg(long, short)]
    pub yes: bool,
}

/// The consent to give up nodes that Consul does not see.
#[derive(Args)]
pub struct Loss {
    #[command(flatten)]
    pub consent: Consent,
    /// Also if a process answers at its data address: then it may live, with its way to Consul broken.
    #[arg(long)]
    pub force: bool,
}

#[derive(Args)]
pub struct Thaw {
    #[command(flatten)]
    pub change: Change,
    #[command(flatten)]
    pub loss: Loss,
}

#[derive(Args)]
pub struct Forget {
    #[command(flatten)]
    pub of: OfNode,
    #[command(flatten)]
    pub loss: Loss,
}

#[derive(Args)]
pub struct Pause {
    #[command(flatten)]
    pub change: Change,
    /// Why, for those who see the pause.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
    /// Who pauses; by default the user of this process and its machine.
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

#[derive(Args)]
pub struct Drain {
    #[command(flatten)]
    pub of: OfNode,
    /// Wait until the node has no shard.
    #[arg(long)]
    pub wait: bool,
    /// The time limit of the wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait",
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
    /// End the drain: the node gets shards again.
    #[arg(long, conflicts_with = "wait")]
    pub off: bool,
}

#[derive(Args)]
pub struct Maintenance {
    #[command(flatten)]
    pub of: OfNode,
    /// End the maintenance.
    #[arg(long)]
    pub off: bool,
}

#[derive(Args)]
pub struct SetWeight {
    #[command(flatten)]
    pub of: OfNode,
    /// The weight, 0 or more; 0: no shards.
    #[arg(value_name = "WEIGHT", value_parser = weight, required_unless_present = "off", conflicts_with = "off")]
    pub weight: Option<f64>,
    /// The weight of the node's configuration again.
    #[arg(long)]
    pub off: bool,
}

#[derive(Args)]
pub struct HandOver {
    /// The node that is to lead.
    pub node: Option<String>,
    /// Take back the request that the leader has yet to take, also that of another operator.
    #[arg(long, conflicts_with = "node")]
    pub withdraw: bool,
    #[command(flatten)]
    pub change: Change,
    /// How long to wait for the new leader, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
}

#[derive(Args)]
pub struct Leave {
    #[command(flatten)]
    pub of: OfNode,
    /// Wait until the node has left.
    #[arg(long)]
    pub wait: bool,
    /// The time limit of the wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
}

#[derive(Args)]
pub struct Events {
    /// Go on with those that come.
    #[arg(long, short)]
    pub follow: bool,
}

#[derive(Args)]
pub struct Serve {
    /// Where to listen, `host:port`. All who can connect there can read it; it changes nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    pub listen: String,
    /// A further name by which browsers reach it, without a port; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub host: Vec<String>,
}

#[derive(Args)]
pub struct Doctor {
    /// Whose rights the token is to have.
    #[arg(long = "as", value_enum, default_value_t = Role::Node, value_name = "ROLE")]
    pub role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A node of the cluster.
    Node,
    /// An operator, who changes the modes of nodes.
    Operator,
    /// A process that only looks.
    Observer,
}

impl Role {
    pub fn noun(self) -> &'static str {
        match self {
            Role::Node => "a node",
            Role::Operator => "an operator",
            Role::Observer => "an observer",
        }
    }
}

#[derive(Args)]
pub struct AcceptLoss {
    /// The store's name.
    pub store: String,
    /// The number of the shard.
    pub shard: u32,
    /// Only the replica that is missing on this node; may be repeated. Others stay waited for.
    #[arg(id = "of", long = "node", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Say what would be accepted, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse unless the store's map still has this version, which `shards` prints.
    #[arg(long, value_name = "N")]
    pub expect_epoch: Option<u64>,
    #[command(flatten)]
    pub loss: Loss,
}

#[derive(Args)]
pub struct ForgetStore {
    /// The store's name.
    pub store: String,
    #[command(flatten)]
    pub consent: Consent,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for the leader, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
}

#[derive(Args)]
pub struct Reinit {
    /// The node's id.
    pub node: String,
    /// The store; by default all stores.
    pub store: Option<String>,
    /// Only the replica of this shard; may be repeated.
    #[arg(
        id = "shard",
        long = "shard",
        value_name = "N",
        requires = "store",
        conflicts_with = "off"
    )]
    pub shards: Vec<u32>,
    /// End it: what the node has not begun stays as it is.
    #[arg(long, conflicts_with = "wait")]
    pub off: bool,
    #[command(flatten)]
    pub consent: Consent,
    /// Say what would be made again, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until all are made again.
    #[arg(long)]
    pub wait: bool,
    /// The time limit of the wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, requires = "wait",
        value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    pub limit: u64,
}

#[derive(Args)]
pub struct StoreSet {
    /// The store's name.
    pub store: String,
    /// N: the replicas of each shard.
    #[arg(long, value_name = "N", required_unless_present_any = ["write_quorum", "read_quorum"])]
    pub replicas: Option<usize>,
    /// W: how many of them store a write before it is acknowledged.
    #[arg(long, value_name = "W")]
    pub write_quorum: Option<usize>,
    /// R: how many of them answer a read.
    #[arg(long, value_name = "R")]
    pub read_quorum: Option<usize>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse unless the store's map still has this version, which `shards` prints.
    #[arg(long, value_name = "N")]
    pub expect_epoch: Option<u64>,
}

/// A weight of a node.
fn weight(text: &str) -> Result<f64, String> {
    let weight = text.parse().ok().filter(|weight| weights::is_valid(*weight));
    weight.ok_or_else(|| "it must be a number from 0 on, such as 0.5".to_owned())
}

/// A name in requests, which has no port.
fn host_name(name: &str) -> Result<String, String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match !name.is_empty() && name.chars().all(is_of_name) {
        true => Ok(name.to_owned()),
        false => Err("it must be a name such as status.example, without a port".to_owned()),
    }
}
