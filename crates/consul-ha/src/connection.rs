//! The client and the observer of a run.

use super::arguments::{CommandLine, Drain, Forget, Keys, Leave, Maintenance, Verb};
use super::failure::Failure;
use super::words::of_flags;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_api::value::shape::unknown;
use consul_cli::consul::named;
use consul_cli::secret;
use consul_client::Client;
use consul_cluster::data_plane::DataPlane;
use consul_cluster::has_no_raft_leader;
use consul_cluster::nodes::rights::{self, Right};
use consul_cluster::observe::overview::{MAP_TIME, Overview};
use consul_cluster::observe::report::Overviews;
use consul_cluster::{Cluster, Options, Snapshot, stores};
use consul_config::connect::connect;
use consul_config::of_cluster;
use consul_process::clock::WallClock;
use consul_process::logs::{self, Wanted};
use std::sync::Arc;
use std::time::Duration;

/// The name by which nodes see this program when it calls them.
const NAME: &str = "consul-ha";

pub struct Session {
    pub client: Arc<Client>,
    /// For blocking queries.
    waiting: Arc<Client>,
    pub options: Options,
    /// The time limit of a call to Consul.
    patience: Duration,
    /// The rights that the verb needs.
    needed: Vec<Right>,
    /// The rights without which it would change nothing, as far as they are known before it has looked.
    pub changes: Vec<Right>,
}

/// The cluster as it is now, with what its nodes tell.
pub struct View {
    pub cluster: Arc<Cluster>,
    overviews: Arc<Overviews>,
    pub overview: Arc<Overview>,
}

impl View {
    /// Looks again; the nodes report changes.
    pub async fn again(&self) -> Result<Arc<Overview>, Error> {
        self.cluster.look_also_back().await?;
        Ok(self.overviews.overview().await)
    }
}

impl Session {
    pub fn new(line: &CommandLine) -> Result<Self, Failure> {
        let mut config = line.consul.config()?;
        config.warnings.iter_mut().for_each(|warning| *warning = of_flags(warning));
        logs::set(Wanted { level: config.log_level, json: config.log_json });
        let (options, _) = of_cluster(&of_keys(&line.keys)?)?;
        let options = Options { wall_clock: WallClock::machine(), ..options };
        let (client, waiting) = (Arc::new(connect(&config)?), Arc::new(connect(&config)?));
        let patience = Duration::from_millis(line.consul.timeout_ms.into());
        let needed = needed(&line.verb, &options);
        // Which node leads is not known yet, nor whether a node is stopped.
        let is_known = !matches!(
            line.verb,
            Verb::HandOver(_) | Verb::Drain(_) | Verb::Maintenance(_) | Verb::Forget(_)
        );
        let changes = needed.iter().filter(|right| is_known && right.is_to_write());
        let changes = changes.cloned().collect();
        Ok(Session { client, waiting, options, patience, needed, changes })
    }

    /// A failure; a refusal for lack of a right names it, also if Consul does not, and a silence of Consul that its servers
    /// have no Raft leader.
    pub async fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Call(error) if matches!(error.kind(), Kind::Timeout | Kind::NoLeader) => {
                let has_none = has_no_raft_leader(&self.client).await;
                let note =
                    "Consul's servers have no Raft leader: `consul-ha why` shows what is known";
                Failure::Call(if has_none { error.with_note(note) } else { error })
            }
            Failure::Call(error) => self.with_rights(error).await.into(),
            failure => failure,
        }
    }

    /// As [`Session::explained`].
    pub async fn with_rights(&self, error: Error) -> Error {
        rights::named(&self.client, error, self.needed.clone()).await
    }

    /// Refuses a dry run of what the token may not do.
    pub async fn check_rights(&self, needed: &[Right]) -> Result<(), Failure> {
        let lacking = rights::lacking(&self.client, needed.to_vec()).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let why = format!("it would be refused: the token lacks {}", rights::listed(&lacking));
        Err(Error::new(Kind::PermissionDenied, why).with_maybe_applied(false).into())
    }

    /// The key of a node, or that of the mode of its next start if it is not there.
    pub fn key_of(&self, node: &str, is_there: bool) -> String {
        match is_there {
            true => self.options.node_key(node),
            false => self.options.mode_key(node),
        }
    }

    /// Writes this key, or for a dry run asks whether the token may.
    pub async fn written<T>(
        &self,
        key: &str,
        is_dry: bool,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Failure> {
        let needed = vec![Right::write("key", key)];
        if is_dry {
            return self.check_rights(&needed).await.map(|()| None);
        }
        match write.await {
            Ok(written) => Ok(Some(written)),
            Err(error) => Err(rights::named(&self.client, error, needed).await.into()),
        }
    }

    /// An observer of the cluster, which has not read anything yet.
    pub fn observer(&self) -> Result<Arc<Cluster>, Error> {
        let (client, waiting) = (Arc::clone(&self.client), Arc::clone(&self.waiting));
        Cluster::new(client, waiting, self.options.clone())
    }

    /// The observer of a cluster, with calls to its nodes.
    pub fn overviews(&self, cluster: &Arc<Cluster>) -> Result<Arc<Overviews>, Error> {
        self.overviews_within(cluster, self.patience)
    }

    /// The same, which waits at most this long for Consul.
    pub fn overviews_within(
        &self,
        cluster: &Arc<Cluster>,
        limit: Duration,
    ) -> Result<Arc<Overviews>, Error> {
        let plane = DataPlane::new(Arc::clone(cluster), |_| ())?;
        Ok(Overviews::patient(Arc::clone(cluster), Some(plane), self.patience.min(limit)))
    }

    /// The cluster as it is now.
    pub async fn look(&self) -> Result<Arc<Cluster>, Error> {
        let cluster = self.observer()?;
        cluster.look().await?;
        Ok(cluster)
    }

    /// The cluster as it is now, with what its nodes tell. While Consul has no Raft leader, as it was.
    pub async fn view(&self) -> Result<View, Error> {
        let cluster = self.observer()?;
        cluster.look_also_back().await?;
        let overviews = self.overviews(&cluster)?;
        let overview = overviews.overview().await;
        Ok(View { cluster, overviews, overview })
    }

    /// As [`Session::view`], when it is known which nodes are behind with the shard map: a node without a new
    /// one gets the time for it.
    pub async fn settled_view(&self) -> Result<View, Error> {
        let mut view = self.view().await?;
        let newest = view.overview.map.as_ref().map_or(0, |map| map.epoch);
        let is_older = |epoch: Option<u64>| epoch.is_some_and(|epoch| epoch < newest);
        if view.overview.nodes.iter().any(|node| is_older(node.map_epoch)) {
            tokio::time::sleep(MAP_TIME).await;
            view.overview = view.again().await?;
        }
        Ok(view)
    }
}

/// Refuses a name that no node of the cluster has, with the nearest name.
pub fn check_node(snapshot: &Snapshot, id: &str) -> Result<(), Failure> {
    if snapshot.nodes.contains_key(id) {
        return Ok(());
    }
    if snapshot.kept_modes.contains_key(id) {
        return Err(Failure::Refused(format!("{id} is stopped")));
    }
    let known: Vec<&str> = snapshot.nodes.keys().map(String::as_str).collect();
    Err(Failure::Refused(unknown("node", id, &known)))
}

/// As [`check_node`], also for a node that is stopped and has a mode for its next start. Whether it is there.
pub fn check_node_or_kept(snapshot: &Snapshot, id: &str) -> Result<bool, Failure> {
    match snapshot.kept_modes.contains_key(id) {
        true => Ok(false),
        false => check_node(snapshot, id).map(|()| true),
    }
}

/// The rights that a verb needs.
fn needed(verb: &Verb, options: &Options) -> Vec<Right> {
    let write = |key: &str| Right::write("key", key);
    let change = match verb {
        Verb::Locks(locks) => {
            return vec![Right::read_all("key", &locks.prefix), Right::read_all("session", "")];
        }
        Verb::Drain(Drain { of, .. })
        | Verb::Maintenance(Maintenance { of, .. })
        | Verb::Leave(Leave { of, .. })
        | Verb::Forget(Forget { of, .. }) => vec![write(&options.node_key(&of.node))],
        Verb::Reinit(it) => vec![write(&options.node_key(&it.node))],
        Verb::SetWeight(_) => vec![write(&options.weights_key())],
        Verb::History(_) => return vec![Right::read("key", &options.history_key())],
        Verb::Pause(_) | Verb::Resume(_) => vec![write(&options.pause_key())],
        // Which node leads is not known yet.
        Verb::HandOver(_) => vec![Right::write_all("key", &options.nodes_prefix)],
        Verb::Thaw(_) => vec![write(&options.epoch_key())],
        Verb::AcceptLoss(it) => stores::outside::to_accept(options, &it.store, it.shard).into(),
        Verb::ForgetStore(it) => stores::forget::to_forget(options, &it.store).into(),
        Verb::StoreSet(it) => stores::outside::to_set_numbers(options, &it.store).into(),
        _ => Vec::new(),
    };
    rights::to_look(options).into_iter().chain(change).collect()
}

/// The secrets of the cluster: the lines of the file.
fn secrets(file: &str) -> Result<Value, Failure> {
    let text = secret("--cluster-key-file", file).map_err(Failure::Usage)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(Value::List(lines.map(Value::from).collect()))
}

fn of_keys(keys: &Keys) -> Result<Vec<(String, Value)>, Failure> {
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    let below = |prefix: &str| match prefix.trim_matches('/').is_empty() {
        true => Value::from("nodes/"),
        false => format!("{}/nodes/", prefix.trim_end_matches('/')).into(),
    };
    let nodes = match (&keys.nodes_prefix, &keys.prefix) {
        (Some(prefix), _) => Some(prefix.as_str().into()),
        // An empty variable of the environment is none.
        (None, Some(prefix)) if !prefix.is_empty() => Some(below(prefix)),
        (None, _) => None,
    };
    let files = [
        ("cert_file", text(&keys.data_cert)),
        ("key_file", text(&keys.data_key)),
        ("ca_file", text(&keys.data_ca)),
    ];
    let given = [
        ("observer", Some(true.into())),
        ("node_id", Some(NAME.into())),
        ("leader_key", text(&keys.leader_key)),
        ("nodes_prefix", nodes),
        ("shards_prefix", text(&keys.shards_prefix)),
        ("config_key", text(&keys.config_key)),
        ("cluster_key", keys.cluster_key_file.as_deref().map(secrets).transpose()?),
        ("data_tls", keys.data_cert.is_some().then(|| Value::Map(named(files)))),
    ];
    Ok(named(given))
}
