//! The stored auth methods and binding rules.

use super::jwt::{Identity, Jwt};
use super::{kubernetes, template};
use crate::acl::templates::Templated;
use crate::filter::Filter;
use crate::filter::schema::{self, Schema};
use crate::go;
use crate::http::decode::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The types of methods that the simulated agent has.
pub(super) const JWT: &str = "jwt";
pub(super) const KUBERNETES: &str = "kubernetes";

/// The longest names of policies and of the other kinds.
const MAX_POLICY: usize = 128;
const MAX_NAME: usize = 256;

/// All auth methods and binding rules.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Table {
    /// By name.
    pub(super) methods: BTreeMap<String, Method>,
    pub(super) methods_newest: u64,
    /// By id.
    pub(super) rules: BTreeMap<String, Rule>,
    pub(super) rules_newest: u64,
}

impl Table {
    /// Reads again what a snapshot has as text alone.
    pub fn complete(&mut self) -> Result<(), String> {
        self.methods.values_mut().try_for_each(Method::complete)?;
        self.rules.values_mut().try_for_each(|rule| match self.methods.get(&rule.method) {
            Some(method) => rule.complete(method.kind.identities()),
            None => Err(format!("there is no auth method {}", go::quoted(&rule.method))),
        })
    }
}

/// How the tokens of others are checked.
#[derive(Clone, Debug, Default)]
pub(super) enum Kind {
    Jwt(Jwt),
    #[default]
    Kubernetes,
}

impl Kind {
    /// Reads the configuration of a method of this type.
    pub fn new(name: &str, config: &[(String, Json)]) -> Result<Self, String> {
        match name {
            JWT => Jwt::new(config).map(Kind::Jwt),
            KUBERNETES => kubernetes::check(config).map(|()| Kind::Kubernetes),
            _ => Err(format!("the simulated agent has no auth methods of type {name}")),
        }
    }

    /// The claims of a token, if it is valid at this time, in seconds since 1970.
    ///
    /// # Errors
    /// Consul's text.
    pub fn identity(&self, token: &str, now_s: i64) -> Result<Identity, String> {
        match self {
            Kind::Jwt(jwt) => jwt.identity(token, now_s),
            Kind::Kubernetes => Err(kubernetes::refuse(token)),
        }
    }

    /// The variables of templates, each with the text that stands for it when a rule is checked.
    pub fn variables(&self) -> BTreeMap<String, String> {
        match self {
            Kind::Jwt(jwt) => jwt.variables(),
            Kind::Kubernetes => kubernetes::variables(),
        }
    }

    /// The fields that selectors see.
    pub fn identities(&self) -> &'static Schema {
        match self {
            Kind::Jwt(_) => &schema::IDENTITIES,
            Kind::Kubernetes => &schema::SERVICE_ACCOUNTS,
        }
    }
}

/// A way to log in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Method {
    pub name: String,
    pub r#type: String,
    pub display_name: String,
    pub description: String,
    /// 0: tokens do not expire.
    pub max_token_ttl: Duration,
    pub locality: String,
    /// As it was given.
    pub config: Value,
    #[serde(skip)]
    pub kind: Kind,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Method {
    /// Reads the configuration again.
    pub fn complete(&mut self) -> Result<(), String> {
        let config = Json::deserialize(&self.config).map_err(|why| why.to_string())?;
        self.kind = Kind::new(&self.r#type, config.members())?;
        Ok(())
    }

    pub fn is_local(&self) -> bool {
        self.locality != "global"
    }
}

/// The grants to tokens whose identity a selector fits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Rule {
    pub id: String,
    pub description: String,
    pub method: String,
    pub selector: String,
    /// `None`: it fits each identity.
    #[serde(skip)]
    pub filter: Option<Arc<Filter>>,
    pub bind: Bind,
    pub bind_name: String,
    /// The variable of a templated policy, which is a template itself.
    #[serde(default)]
    pub variable: Option<String>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// The kind of what a token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Bind {
    Service,
    Role,
    Node,
    Policy,
    TemplatedPolicy,
}

impl Bind {
    pub fn new(name: &str) -> Option<Bind> {
        Some(match name {
            "service" => Bind::Service,
            "role" => Bind::Role,
            "node" => Bind::Node,
            "policy" => Bind::Policy,
            "templated-policy" => Bind::TemplatedPolicy,
            _ => return None,
        })
    }

    /// The name that a template gives with these variables, if it may be one of this kind.
    pub fn name(self, template: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
        let is_identity = matches!(self, Bind::Service | Bind::Node);
        let lower = |(name, value): (&String, &String)| (name.clone(), value.to_lowercase());
        let name = match is_identity {
            true => template::filled(template, &values.iter().map(lower).collect()),
            false => template::filled(template, values),
        };
        let name = name.map_err(|why| format!("error interpreting template: {why}"))?;
        let most = if self == Bind::Policy { MAX_POLICY } else { MAX_NAME };
        let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_inner = |c: char| is_end(c) || c == '-' || c == '_';
        let is_right = match is_identity {
            true => {
                name.starts_with(is_end) && name.ends_with(is_end) && name.chars().all(is_inner)
            }
            false => name.chars().all(|c| is_inner(c) || c.is_ascii_uppercase()),
        };
        match is_right && !name.is_empty() && name.len() <= most {
            true => Ok(name),
            false => Err(format!("invalid bind name: {}", go::quoted(&name))),
        }
    }
}

impl Rule {
    /// Compiles the selector again.
    pub fn complete(&mut self, identities: &'static Schema) -> Result<(), String> {
        self.filter = filter(&self.selector, identities)?;
        Ok(())
    }

    /// The name that it gives with these variables.
    pub fn name(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        match self.bind {
            Bind::TemplatedPolicy => Ok(self.bind_name.clone()),
            bind => bind.name(&self.bind_name, values),
        }
    }

    /// The templated policy that it gives with these variables.
    pub fn templated(&self, values: &BTreeMap<String, String>) -> Result<Templated, String> {
        let lower = values.iter().map(|(name, value)| (name.clone(), value.to_lowercase()));
        let (values, variable) = (lower.collect(), self.variable.as_deref());
        let filled = variable.map(|text| template::filled(text, &values)).transpose();
        let filled = filled
            .map_err(|why| format!("failed to interpret templated policy variables: {why}"))?;
        Templated::bound(&self.bind_name, filled)
    }

    pub fn applies_to(&self, identity: &Identity) -> bool {
        let holds = |filter: &Arc<Filter>| filter.matches(&identity.selectable) == Ok(true);
        self.filter.as_ref().is_none_or(holds)
    }
}

/// The filter of a selector; `None` for an empty one, which fits each identity.
pub(super) fn filter(
    selector: &str,
    identities: &'static Schema,
) -> Result<Option<Arc<Filter>>, String> {
    match selector {
        "" => Ok(None),
        selector => Filter::compile(selector, identities).map(|filter| Some(Arc::new(filter))),
    }
}
