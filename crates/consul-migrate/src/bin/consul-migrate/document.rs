//! The document of a run, for `--json` and `--report`: what all verbs have in it, and how people read it.

use super::arguments::{CommandLine, Verb};
use super::connection::Session;
use super::failure::Failure;
use super::verbs::listed;
use consul_cli::print::{self, inert, print, print_json};
use consul_migrate::Stop;
use consul_migrate::etcd::Right;
use consul_migrate::object::Object;
use consul_migrate::tally::Tally;
use consul_migrate::verify::Difference;
use consul_migrate::verify::digest::Digests;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, Read};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The result of a verb, with where, when and for which job.
pub async fn document(session: &Session, line: &CommandLine, mut done: Value) -> Value {
    let (version, cluster) = match has_etcd(line) {
        true => (session.etcd.version().await, session.etcd.cluster_id()),
        false => (None, None),
    };
    let [consul, datacenter] = session.target.about().await;
    let mut head = head(session, line);
    add(
        &mut head,
        json!({
            "etcd": { "version": version, "cluster_id": cluster },
            "consul": { "version": consul, "datacenter": datacenter },
        }),
    );
    std::mem::swap(&mut head, &mut done);
    add(&mut done, head);
    done
}

/// The same of a run that has failed, without asking either side again.
pub fn of_failure(session: &Session, line: &CommandLine, failed: Value) -> Value {
    let mut document = head(session, line);
    add(
        &mut document,
        json!({
            "etcd": { "version": null, "cluster_id": session.etcd.cluster_id() },
            "consul": { "version": null, "datacenter": null },
        }),
    );
    let taken = session.frozen.taken();
    if !taken.is_empty() {
        add(&mut document, json!({ "taken": taken }));
    }
    add(&mut document, failed);
    document
}

fn has_etcd(line: &CommandLine) -> bool {
    match &line.verb {
        Verb::Export(_) | Verb::Import(_) => false,
        Verb::Finish(it) => !it.without_etcd,
        _ => true,
    }
}

fn now() -> Option<String> {
    let time = OffsetDateTime::from(SystemTime::now()).replace_nanosecond(0);
    time.ok().and_then(|time| time.format(&Rfc3339).ok())
}

/// That of a cut-over which is about to take these rights, as long as it has no other: `head` is one without them.
pub fn of_taking(head: &Value, taken: &[Right]) -> Value {
    let mut document = head.clone();
    add(&mut document, json!({ "time": now(), "taken": taken }));
    document
}

fn head(session: &Session, line: &CommandLine) -> Value {
    let addresses = if has_etcd(line) { session.etcd.addresses() } else { Vec::new() };
    json!({
        "verb": line.verb.name(), "time": now(), "job": line.job.name, "version": env!("CARGO_PKG_VERSION"),
        "etcd": { "addresses": addresses, "prefix": String::from_utf8_lossy(&session.mapping.etcd_prefix) },
        "consul": { "addresses": session.consul, "prefix": session.mapping.consul_prefix },
    })
}

/// Adds members, also members of objects within.
pub fn add(to: &mut Value, members: Value) {
    match (to, members) {
        (Value::Object(to), Value::Object(members)) => {
            for (name, value) in members {
                add(to.entry(name).or_insert(Value::Null), value);
            }
        }
        (to, value) => *to = value,
    }
}

/// The part of a document that people read, for every verb.
#[derive(Deserialize)]
struct Shown {
    verb: String,
    time: String,
    job: String,
    version: String,
    etcd: Object<Etcd>,
    consul: Object<Consul>,
    keys: Option<Object<Tally>>,
    revision: Option<u64>,
    stopped_seconds: Option<f64>,
    missing: Option<u64>,
    extra: Option<u64>,
    different: Option<u64>,
    #[serde(default)]
    differences: Vec<Object<Difference>>,
    whole: Option<bool>,
    digests: Option<Object<Digests>>,
    #[serde(default)]
    taken: Vec<Object<Right>>,
    opened: Option<String>,
    error: Option<Object<Failed>>,
}

/// The document of a run that could not begin: its command line or its configuration is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unbegun {
    error: Object<Failed>,
}

#[derive(Deserialize)]
struct Etcd {
    addresses: Vec<String>,
    prefix: String,
    version: Option<String>,
    cluster_id: Option<String>,
}

#[derive(Deserialize)]
struct Consul {
    addresses: Vec<String>,
    prefix: String,
    version: Option<String>,
    datacenter: Option<String>,
}

#[derive(Deserialize)]
struct Failed {
    kind: String,
    message: String,
}

impl Failed {
    fn text(&self) -> String {
        format!("it has failed ({}): {}\n", self.kind, self.message)
    }
}

/// Prints the document in a file.
pub fn show(file: &str, is_json: bool) -> Result<(), Failure> {
    if print::is_closed() {
        let why = "the report cannot be printed: standard output is closed";
        return Err(Stop::Refused(why.to_owned()).into());
    }
    let unusable = |why: String| Failure::Usage(format!("{file:?}: {why}"));
    let text = match file {
        "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        file => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| unusable(error.to_string()))?;
    let not_one = |error: serde_json::Error| unusable(format!("it is not a report: {error}"));
    let document: Value = serde_json::from_str(&text).map_err(not_one)?;
    let text = match Object::<Unbegun>::deserialize(&document) {
        Ok(Object(unbegun)) => unbegun.error.0.text(),
        Err(_) => Object::<Shown>::deserialize(&document).map_err(not_one)?.0.text(),
    };
    match is_json {
        true => print_json(&document),
        false => print(&inert(text.trim_end())),
    }
    Ok(())
}

impl Shown {
    fn text(&self) -> String {
        let known = |name: &str, value: &Option<String>| {
            value.as_ref().map_or(String::new(), |value| format!(", {name} {value}"))
        };
        let mut text = format!(
            "{} of the job {:?} at {}, by consul-migrate {}\n",
            self.verb, self.job, self.time, self.version
        );
        let (Object(etcd), Object(consul)) = (&self.etcd, &self.consul);
        if !etcd.addresses.is_empty() {
            text += &format!(
                "etcd: {}, keys that begin with {:?}{}{}{}\n",
                etcd.addresses.join(", "),
                etcd.prefix,
                known("version", &etcd.version),
                known("cluster", &etcd.cluster_id),
                self.revision.map_or(String::new(), |revision| format!(", revision {revision}"))
            );
        }
        text += &format!(
            "Consul: {}, keys that begin with {:?}{}{}\n",
            consul.addresses.join(", "),
            consul.prefix,
            known("version", &consul.version),
            known("datacenter", &consul.datacenter)
        );
        if let Some(Object(keys)) = &self.keys {
            text += &format!("{keys}\n");
        }
        if let (Some(missing), Some(extra), Some(different)) =
            (self.missing, self.extra, self.different)
        {
            let least = if self.whole == Some(false) { "at least " } else { "" };
            text += &format!("{least}{missing} missing, {extra} extra, {different} different\n");
            let differences = self.differences.iter().map(|Object(difference)| difference);
            text += &listed(differences, self.differences.len(), "the report names all");
        }
        if let Some(seconds) = self.stopped_seconds {
            text += &format!("writers were stopped for {seconds:.2} s\n");
        }
        if let Some(opened) = &self.opened {
            text += &format!("{opened}\n");
        }
        if let Some(Object(Digests { etcd, consul })) = &self.digests {
            let same = if etcd == consul { "the same on both sides" } else { "NOT the same" };
            text += &format!("digests, {same}:\n  etcd    {etcd}\n  Consul  {consul}\n");
        }
        if !self.taken.is_empty() {
            text += match self.error {
                None => {
                    "taken from roles of etcd until `finish` or `rollback`; without the job, by:\n"
                }
                Some(_) => {
                    "taken from roles of etcd; when etcd is to take writes again, which it is not while `status` says that the job is cut over, give them back by:\n"
                }
            };
            let taken = self.taken.iter().map(|Object(right)| right);
            text += &listed(taken, self.taken.len(), "the report names all");
        }
        text += &self.error.as_ref().map_or(String::new(), |Object(failed)| failed.text());
        text
    }
}
