//! The rights of this process's token, as Consul tells them.

use crate::options::Options;
use consul_api::api::{acl, catalog};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Meta;
use consul_api::value::Value;
use consul_client::Client;
use std::fmt;

/// A refusal of a Consul that says which right is missing, as 1.8 does not.
const NAMED: &str = "lacks";

/// The end of a name that no rule has.
const BELOW: &str = "any-name-below";

/// The most rights that one call may ask for.
const MAX_ASKED: usize = 64;

/// A right in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// Its subject: `key`, `service`, `node`, `session`.
    pub resource: &'static str,
    /// `read` or `write`.
    pub access: &'static str,
    /// The name, or the common beginning of the names.
    pub name: String,
    /// Whether it is about all names that begin so.
    pub is_of_all: bool,
}

impl Right {
    /// A right to read.
    pub fn read(resource: &'static str, name: &str) -> Self {
        Right { resource, access: "read", name: name.to_owned(), is_of_all: false }
    }

    /// A right to read all whose names begin so.
    pub fn read_all(resource: &'static str, prefix: &str) -> Self {
        Right { is_of_all: true, ..Right::read(resource, prefix) }
    }

    /// A right to write.
    pub fn write(resource: &'static str, name: &str) -> Self {
        Right { access: "write", ..Right::read(resource, name) }
    }

    /// A right to write all whose names begin so.
    pub fn write_all(resource: &'static str, prefix: &str) -> Self {
        Right { access: "write", ..Right::read_all(resource, prefix) }
    }

    /// Whether it is a right to write.
    pub fn is_to_write(&self) -> bool {
        self.access == "write"
    }

    /// The name to ask Consul about. A rule may be about a prefix as a name, and not about the names below.
    fn segment(&self) -> String {
        let below = if self.is_of_all { BELOW } else { "" };
        format!("{}{below}", self.name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} on {:?}", self.resource, self.access, self.name)
    }
}

/// The rights to see all nodes.
pub fn to_see_nodes(options: &Options) -> Vec<Right> {
    vec![
        Right::read_all("key", &options.nodes_prefix),
        Right::read("service", &options.service()),
        // The names of agents are not known without it.
        Right::read_all("node", ""),
    ]
}

/// The rights to see a cluster: its nodes, its leader and its shard maps.
pub fn to_look(options: &Options) -> Vec<Right> {
    let mut rights = to_see_nodes(options);
    let keys = [&options.leader_key, &options.epoch_key(), &options.map_key()];
    rights.extend(keys.map(|key| Right::read("key", key)));
    rights.push(Right::read_all("key", &options.shards_prefix));
    rights
}

/// The rights that a node needs: to be a member, to see the others, and to become the leader, which writes the maps. Others
/// are about its agent ([`agent_of`]).
pub(crate) fn to_take_part(options: &Options) -> Vec<Right> {
    let own = options.node_key(&options.node_id);
    let keys = [&own, &options.leader_key, &options.config_key];
    let keys = keys.map(|key| Right::write("key", key)).into_iter();
    let maps = Right::write_all("key", &options.shards_prefix);
    let service = Right::write("service", &options.service());
    let others = Right::read_all("key", &options.nodes_prefix);
    keys.chain([maps, service, others]).collect()
}

/// The name of the agent that has the service of this node, if Consul tells it.
pub(crate) async fn agent_of(client: &Client, options: &Options) -> Option<String> {
    let args = Args::new().arg(options.service());
    let instances = client.call(&catalog::SERVICE, &args).await.ok()?.value;
    let text = |it: &Value, name| it.get(name).and_then(Value::as_str).map(str::to_owned);
    let is_own = |it: &&Value| text(it, "ServiceID") == Some(options.service_id());
    text(instances.items().iter().find(is_own)?, "Node")
}

/// The rights in a sentence.
pub fn listed(rights: &[Right]) -> String {
    rights.iter().map(Right::to_string).collect::<Vec<_>>().join(" and ")
}

/// An error with the rights among `needed` that the token lacks, if it is a refusal that names none.
pub async fn named(client: &Client, error: Error, needed: Vec<Right>) -> Error {
    if error.kind() != Kind::PermissionDenied || error.message().contains(NAMED) {
        return error;
    }
    match lacking(client, needed).await {
        Ok(lacking) if !lacking.is_empty() => {
            error.with_note(&format!("the token lacks {}", listed(&lacking)))
        }
        _ => error,
    }
}

/// The rights that the token lacks to see all entries of these lists.
///
/// # Errors
/// Errors of the call.
pub async fn to_see_lists<const N: usize>(
    client: &Client,
    lists: [(&Meta, Right); N],
) -> Result<Vec<Right>, Error> {
    let (mut hidden, mut untold) = (Vec::new(), Vec::new());
    for (meta, right) in lists {
        match meta.filtered_by_acl {
            Some(true) => hidden.push(right),
            _ if meta.tells_hidden() => {}
            _ => untold.push(right),
        }
    }
    if !untold.is_empty() {
        hidden.extend(lacking(client, untold).await?);
    }
    Ok(hidden)
}

/// The rights among these that the token lacks; none if Consul has no ACLs.
///
/// # Errors
/// Errors of the call.
pub async fn lacking(client: &Client, rights: Vec<Right>) -> Result<Vec<Right>, Error> {
    let question = |right: &Right| {
        let segment = right.segment();
        let members =
            [("Resource", right.resource), ("Access", right.access), ("Segment", &segment)];
        Value::Map(members.map(|(name, text)| (name.to_owned(), text.into())).into())
    };
    let is_allowed = |value: &Value| matches!(value.get("Allow"), Some(Value::Bool(true)));
    let mut lacking = Vec::new();
    for asked in rights.chunks(MAX_ASKED) {
        let args = Args::new().arg(Value::List(asked.iter().map(question).collect()));
        let answer = match client.call(&acl::AUTHORIZE, &args).await {
            Ok(answer) => answer.value,
            Err(error) if error.kind() == Kind::Unsupported => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let refused = asked.iter().zip(answer.items()).filter(|(_, answer)| !is_allowed(answer));
        lacking.extend(refused.map(|(right, _)| right.clone()));
    }
    Ok(lacking)
}
