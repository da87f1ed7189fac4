//! The services and checks of the configuration.

use super::Config;
use crate::acl::Secret;
use crate::agent::definition::{self, Origin};
use crate::catalog::body::{check_meta, check_weights};
use crate::go;
use crate::http::decode;
use crate::http::reply::Refusal;
use crate::store::State;
use crate::store::catalog::Weights;
use serde_json::Value;
use std::collections::BTreeSet;

impl Config {
    /// Registers them. Those that only requests registered are removed in dev mode, in which Consul keeps nothing on disk.
    pub(super) fn define(&self, state: &mut State) -> Result<(), String> {
        self.check_definitions(state)?;
        let (mut services, mut checks) = (BTreeSet::new(), BTreeSet::new());
        // Consul forgets the earlier services before it reads the new ones, and keeps what it has read until a mistake.
        let read = self.register_services(state, &mut services, &mut checks);
        if self.is_dev {
            for id in others(state.local.services.keys(), &services) {
                state.deregister_service(&id);
            }
        }
        let read = read.and_then(|()| self.register_checks(state, &mut checks));
        if self.is_dev {
            for id in others(state.local.checks.keys(), &checks) {
                state.deregister_check(&id);
            }
        }
        read
    }

    /// Refuses definitions that no agent takes.
    fn check_definitions(&self, state: &State) -> Result<(), String> {
        let services = self.services().map(|given| {
            ("service", given, definition::services(&service_of(given), state, Origin::File).err())
        });
        let checks = self.checks().map(|given| {
            ("check", given, definition::check(&definition_of(given), state, Origin::File).err())
        });
        let mut refusals = services.chain(checks).filter_map(|(kind, given, refusal)| {
            Some(refused(kind, given, &refusal.filter(is_of_definition)?))
        });
        refusals.next().map_or(Ok(()), Err)
    }

    fn services(&self) -> impl Iterator<Item = &Value> {
        self.items("services").iter()
    }

    fn checks(&self) -> impl Iterator<Item = &Value> {
        self.items("checks").iter()
    }

    /// The parts of the definitions that an agent cannot read.
    pub(super) fn unreadable_definitions(&self) -> Vec<String> {
        let mut errors: Vec<_> = self.checks().flat_map(unreadable_durations).collect();
        for service in self.services() {
            let text = |key: &str| service.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = text("name");
            let own = service.get("checks").and_then(Value::as_array).into_iter().flatten();
            let own = own.chain(service.get("check").map(in_block));
            errors.extend(own.flat_map(unreadable_durations));
            let meta = service.get("meta").map(in_block).and_then(Value::as_object);
            let meta = meta
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            if let Err(why) = check_meta(text("kind"), Some(&meta.collect())) {
                errors.push(format!("invalid meta for service {name}: {why}"));
            }
            let weights = service.get("weights").map(in_block);
            let weight = |name| weights.and_then(|all| all.get(name)?.as_i64()).unwrap_or(1);
            let weights = Weights { passing: weight("passing"), warning: weight("warning") };
            if let Err(why) = check_weights(weights) {
                errors.push(format!("Invalid weight definition for service {name}: {why}"));
            }
        }
        errors
    }

    fn register_services(
        &self,
        state: &mut State,
        services: &mut BTreeSet<String>,
        checks: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        for given in self.services() {
            let defined = definition::services(&service_of(given), state, Origin::File)
                .map_err(|refusal| refused("service", given, &refusal))?;
            for (service, own) in defined {
                services.insert(service.id.clone());
                checks.extend(own.iter().map(|check| check.check.check_id.clone()));
                let token = token_of(given, state);
                state.register_service(service, own, false, token.as_ref());
            }
        }
        Ok(())
    }

    fn register_checks(
        &self,
        state: &mut State,
        checks: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        for given in self.checks() {
            let mut check = definition::check(&definition_of(given), state, Origin::File)
                .map_err(|refusal| refused("check", given, &refusal))?;
            // Consul sets the type of a check only when it is registered by a request.
            check.check.kind.clear();
            check.token = token_of(given, state);
            checks.insert(check.check.check_id.clone());
            state.register_check(check);
        }
        Ok(())
    }
}

/// The token of a definition, else that for all definitions of files.
fn token_of(given: &Value, state: &State) -> Option<Secret> {
    let token = given.get("token").and_then(Value::as_str).filter(|token| !token.is_empty());
    token.map(Secret::new).or_else(|| state.acl.config.registration_token.clone())
}

fn unreadable_durations(check: &Value) -> impl Iterator<Item = String> {
    let id = check.get("id").and_then(Value::as_str).unwrap_or_default();
    ["interval", "timeout", "ttl", "deregister_critical_service_after"].into_iter().filter_map(
        move |key| {
            let text = check.get(key)?.as_str()?;
            let why = go::duration(text).err()?;
            Some(format!("check[{id}].{key}: invalid duration: {}: {why}", go::quoted(text)))
        },
    )
}

/// The ids that the configuration does not name.
fn others<'a>(all: impl Iterator<Item = &'a String>, named: &BTreeSet<String>) -> Vec<String> {
    all.filter(|id| !named.contains(*id)).cloned().collect()
}

/// Whether a definition is refused for itself, and not when it is registered.
fn is_of_definition(refusal: &Refusal) -> bool {
    refusal.text.starts_with("Invalid check: ")
}

fn refused(kind: &str, given: &Value, refusal: &Refusal) -> String {
    let name =
        |given: &Value| go::quoted(given.get("name").and_then(Value::as_str).unwrap_or_default());
    match (refusal.text.strip_prefix("Invalid check: "), given.get("check")) {
        (Some(why), Some(check)) => format!("{kind} {}: check {}: {why}", name(given), name(check)),
        (Some(why), None) => format!("{kind} {}: {why}", name(given)),
        (None, _) => {
            let why = match refusal.text.as_str() {
                "Missing service name" => "Service name missing",
                why => why,
            };
            format!("Failed to register {kind} {}: {why}", name(given))
        }
    }
}

/// The error of a reload.
pub(super) fn of_reload(why: String) -> String {
    match ["service", "check"]
        .iter()
        .find(|kind| why.starts_with(&format!("Failed to register {kind}")))
    {
        Some(kind) => format!("Failed reloading {kind}s: {why}"),
        None => why,
    }
}

/// The definition of a service as the body of a request, in which the ids of checks have another name and a weight that is
/// not given is 0.
fn service_of(value: &Value) -> decode::Json {
    let mut service = definition_of(value);
    let check = |check: &mut decode::Json| {
        if let decode::Json::Object(members) = check {
            for (name, _) in members.iter_mut().filter(|(name, _)| name == "id") {
                "CheckID".clone_into(name);
            }
        }
    };
    if let decode::Json::Object(members) = &mut service {
        for (name, value) in members {
            match (name.as_str(), value) {
                ("check", one) => check(one),
                ("checks", decode::Json::List(items)) => items.iter_mut().for_each(check),
                ("weights", decode::Json::Object(weights)) => {
                    for name in ["passing", "warning"] {
                        if !weights.iter().any(|(given, _)| given == name) {
                            weights.push((name.to_owned(), decode::Json::Number(1.into())));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    service
}

/// The members of a service that are lists of objects; a block of HCL with another name is an object.
const LISTS: [&str; 3] = ["checks", "upstreams", "paths"];

/// A definition as the body of a request: the fields of bodies have no underscores, but for the names that the user chooses.
fn definition_of(value: &Value) -> decode::Json {
    use decode::Json;
    let address = |(name, value): (&String, &Value)| (name.clone(), definition_of(in_block(value)));
    let member = |(name, value): (&String, &Value)| {
        let value = if LISTS.contains(&name.as_str()) { value } else { in_block(value) };
        match (name.as_str(), value) {
            ("meta" | "header", value) => (name.clone(), plain(value)),
            ("config", value) => (name.clone(), plain(&without_blocks(value))),
            ("tagged_addresses", Value::Object(all)) => {
                (name.clone(), Json::Object(all.iter().map(address).collect()))
            }
            (name, value) => (name.replace('_', ""), definition_of(value)),
        }
    };
    match value {
        Value::Object(members) => Json::Object(members.iter().map(member).collect()),
        Value::Array(items) => Json::List(items.iter().map(definition_of).collect()),
        scalar => plain(scalar),
    }
}

/// The object of a block, which in HCL is a list of one.
fn in_block(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([object @ Value::Object(_)]) => object,
        _ => value,
    }
}

fn without_blocks(value: &Value) -> Value {
    match in_block(value) {
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| (name.clone(), without_blocks(value));
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => items.iter().map(without_blocks).collect(),
        scalar => scalar.clone(),
    }
}

fn plain(value: &Value) -> decode::Json {
    decode::Json::read(value.to_string().as_bytes()).unwrap_or(decode::Json::Null)
}
