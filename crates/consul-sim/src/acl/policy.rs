//! The rules of policies: the access to resources.
//!
//! Source: "ACL rules" in Consul's documentation.

use crate::hcl::{self, Value};
use std::collections::BTreeMap;

/// The resource of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Acl,
    Agent,
    Event,
    /// The part of a service's rules for its intentions.
    Intention,
    Key,
    Keyring,
    Mesh,
    Node,
    Operator,
    Peering,
    Query,
    Service,
    Session,
}

impl Resource {
    /// The resource that rules call `name`.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut known = NAMED.iter().chain(SINGLE).chain([&Resource::Intention]);
        known.find(|resource| resource.name() == name).copied()
    }

    /// Whether a rule is for the resources of a name, not for the only one.
    pub fn has_names(self) -> bool {
        NAMED.contains(&self) || self == Resource::Intention
    }

    /// The name in rules and error messages.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Acl => "acl",
            Resource::Agent => "agent",
            Resource::Event => "event",
            Resource::Intention => "intention",
            Resource::Key => "key",
            Resource::Keyring => "keyring",
            Resource::Mesh => "mesh",
            Resource::Node => "node",
            Resource::Operator => "operator",
            Resource::Peering => "peering",
            Resource::Query => "query",
            Resource::Service => "service",
            Resource::Session => "session",
        }
    }

    /// Consul's Go type and field for a rule, which its error shows.
    fn go_rule(self) -> (&'static str, &'static str) {
        match self {
            Resource::Agent => ("AgentRule", "Node"),
            Resource::Event => ("EventRule", "Event"),
            Resource::Key => ("KeyRule", "Prefix"),
            Resource::Node => ("NodeRule", "Name"),
            Resource::Query => ("PreparedQueryRule", "Prefix"),
            Resource::Session => ("SessionRule", "Node"),
            _ => ("ServiceRule", "Name"),
        }
    }
}

/// Resources with names.
const NAMED: &[Resource] = &[
    Resource::Agent,
    Resource::Event,
    Resource::Key,
    Resource::Node,
    Resource::Query,
    Resource::Service,
    Resource::Session,
];

/// Resources without names.
const SINGLE: &[Resource] =
    &[Resource::Acl, Resource::Keyring, Resource::Mesh, Resource::Operator, Resource::Peering];

/// The access that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Reading keys by prefix, if the configuration requires a permission for it.
    List,
    Write,
}

impl Access {
    /// The name in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::List => "list",
            Access::Write => "write",
        }
    }
}

/// The access that a rule grants, in the order of precedence among rules with the same name: `Deny`
/// is the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Read,
    List,
    Write,
    Deny,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "deny" => Some(Level::Deny),
            "read" => Some(Level::Read),
            "list" => Some(Level::List),
            "write" => Some(Level::Write),
            _ => None,
        }
    }

    pub fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self != Level::Deny,
            Access::List => matches!(self, Level::List | Level::Write),
            Access::Write => self == Level::Write,
        }
    }
}

/// The rules of one resource. The name of a resource without names is "".
#[derive(Clone, Debug, Default)]
struct Names {
    exact: BTreeMap<Vec<u8>, Level>,
    prefixes: BTreeMap<Vec<u8>, Level>,
}

/// The rules of a policy, or of several together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(BTreeMap<Resource, Names>);

impl Rules {
    /// Reads a policy's rules; the error is Consul's.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Rules::default();
        let given = hcl::parse(text).map_err(|why| format!("Failed to parse ACL rules: {why}"))?;
        for (name, value) in &given {
            if let Some(resource) = SINGLE.iter().find(|resource| resource.name() == name) {
                rules.add_single(*resource, value)?;
            }
            let (stem, is_prefix) = match name.strip_suffix("_prefix") {
                Some(stem) => (stem, true),
                None => (name.as_str(), false),
            };
            if let Some(resource) = NAMED.iter().find(|resource| resource.name() == stem) {
                rules.add_block(*resource, is_prefix, value)?;
            }
        }
        Ok(rules)
    }

    fn add_single(&mut self, resource: Resource, value: &Value) -> Result<(), String> {
        let text = value.literal().unwrap_or_default();
        match Level::parse(text) {
            // It says nothing, as if it were absent.
            None if *value == Value::Text(String::new()) => Ok(()),
            Some(level) if level != Level::List => {
                self.add(resource, false, "", level);
                Ok(())
            }
            _ => Err(format!("Invalid {} policy: {}", resource.name(), crate::go::quoted(text))),
        }
    }

    fn add_block(
        &mut self,
        resource: Resource,
        is_prefix: bool,
        value: &Value,
    ) -> Result<(), String> {
        let members = match value {
            Value::Object(members) => members,
            Value::List(items) => {
                return items.iter().try_for_each(|item| self.add_block(resource, is_prefix, item));
            }
            _ => {
                return Err("Failed to parse ACL rules: At -: unknown slice type: \
                            *ast.LiteralType"
                    .to_owned());
            }
        };
        // A block without a name is a rule with the empty name.
        if members.iter().any(|(name, value)| name == "policy" && is_literal(value)) {
            return self.add_rule(resource, is_prefix, "", value);
        }
        members.iter().try_for_each(|(name, rule)| self.add_rule(resource, is_prefix, name, rule))
    }

    fn add_rule(
        &mut self,
        resource: Resource,
        is_prefix: bool,
        name: &str,
        rule: &Value,
    ) -> Result<(), String> {
        let (policy, intentions) = (text_of(rule, "policy"), text_of(rule, "intentions"));
        let invalid = |what: &str| {
            let suffix = if is_prefix { "_prefix" } else { "" };
            let shown = shown(resource, name, policy, intentions);
            Err(format!("Invalid {}{suffix} {what}policy: {shown}", resource.name()))
        };
        let Some(level) = Level::parse(policy) else { return invalid("") };
        if level == Level::List && resource != Resource::Key {
            return invalid("");
        }
        let is_right = |text| Level::parse(text).is_some_and(|level| level != Level::List);
        if resource == Resource::Service && !intentions.is_empty() && !is_right(intentions) {
            return invalid("intentions ");
        }
        if resource == Resource::Service {
            self.add_service(is_prefix, name, level, Level::parse(intentions));
        } else {
            self.add(resource, is_prefix, name, level);
        }
        Ok(())
    }

    /// Adds a rule for a service, and the one for its intentions: without one of their own, a caller
    /// with any access to the service may read them.
    pub fn add_service(
        &mut self,
        is_prefix: bool,
        name: &str,
        level: Level,
        intentions: Option<Level>,
    ) {
        let usual = if level == Level::Deny { Level::Deny } else { Level::Read };
        self.add(Resource::Service, is_prefix, name, level);
        self.add(Resource::Intention, is_prefix, name, intentions.unwrap_or(usual));
    }

    /// Adds a rule. Of two with the same name, the stronger one stays.
    pub fn add(&mut self, resource: Resource, is_prefix: bool, name: &str, level: Level) {
        let names = self.0.entry(resource).or_default();
        let levels = if is_prefix { &mut names.prefixes } else { &mut names.exact };
        let present = levels.entry(name.as_bytes().to_vec()).or_insert(level);
        *present = level.max(*present);
    }

    /// Adds all rules of another policy.
    pub fn add_all(&mut self, other: &Rules) {
        for (resource, names) in &other.0 {
            let own = self.0.entry(*resource).or_default();
            for (from, to) in [(&names.exact, &mut own.exact), (&names.prefixes, &mut own.prefixes)]
            {
                for (name, level) in from {
                    let present = to.entry(name.clone()).or_insert(*level);
                    *present = (*level).max(*present);
                }
            }
        }
    }

    /// The level of a name: of the rule with exactly this name, else of the longest prefix. Without a
    /// rule for the mesh or for peerings, the one for operators counts.
    pub fn level(&self, resource: Resource, name: &[u8]) -> Option<Level> {
        let own = self.0.get(&resource).and_then(|names| {
            names.exact.get(name).copied().or_else(|| longest_prefix(names, name))
        });
        match (own, resource) {
            (None, Resource::Mesh | Resource::Peering) => self.level(Resource::Operator, name),
            (own, _) => own,
        }
    }

    /// The level for the intentions of all services together: writing needs the access to all of them,
    /// reading the access to any.
    pub fn wildcard_level(&self, access: Access) -> Option<Level> {
        let names = self.0.get(&Resource::Intention)?;
        let mut levels = names.exact.values().chain(names.prefixes.values());
        match access {
            Access::Write => self.tree_level(Resource::Intention, b""),
            _ if levels.any(|level| level.allows(access)) => Some(Level::Read),
            _ => names.prefixes.get(&b""[..]).copied(),
        }
    }

    /// The level for writing everything under a prefix, as deleting a tree does: the longest prefix
    /// must grant it, and no rule below may deny it.
    pub fn tree_level(&self, resource: Resource, prefix: &[u8]) -> Option<Level> {
        let names = self.0.get(&resource)?;
        let below = |levels: &BTreeMap<Vec<u8>, Level>| {
            let mut levels = levels.range(prefix.to_vec()..);
            let mut levels = levels.by_ref().take_while(|(name, _)| name.starts_with(prefix));
            levels.any(|(_, level)| *level != Level::Write)
        };
        if below(&names.exact) || below(&names.prefixes) {
            return Some(Level::Deny);
        }
        longest_prefix(names, prefix)
    }
}

fn longest_prefix(names: &Names, name: &[u8]) -> Option<Level> {
    (0..=name.len()).rev().find_map(|length| names.prefixes.get(&name[..length]).copied())
}

fn is_literal(value: &Value) -> bool {
    value.literal().is_some()
}

/// The text of a member, the last one of several; empty if absent.
fn text_of<'a>(rule: &'a Value, member: &str) -> &'a str {
    let members = match rule {
        Value::Object(members) => members.as_slice(),
        Value::List(items) => return items.last().map_or("", |item| text_of(item, member)),
        _ => &[],
    };
    let found = members.iter().rev().find(|(name, _)| name == member);
    found.and_then(|(_, value)| value.literal()).unwrap_or_default()
}

/// A rule as Consul's errors show it: as Go prints a struct.
fn shown(resource: Resource, name: &str, policy: &str, intentions: &str) -> String {
    use crate::go::quoted;
    let (rule, field) = resource.go_rule();
    let (name, policy) = (quoted(name), quoted(policy));
    let mut text = format!("&acl.{rule}{{{field}:{name}, Policy:{policy}");
    if resource == Resource::Service {
        text.push_str(&format!(", Intentions:{}", quoted(intentions)));
    }
    if matches!(resource, Resource::Key | Resource::Node | Resource::Service) {
        text.push_str(", EnterpriseRule:acl.EnterpriseRule{}");
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        let mut all = Rules::default();
        for text in texts {
            all.add_all(&Rules::parse(text).expect("rules"));
        }
        all
    }

    fn allows(rules: &Rules, access: Access, key: &str) -> bool {
        rules.level(Resource::Key, key.as_bytes()).is_some_and(|level| level.allows(access))
    }

    #[test]
    fn an_exact_name_beats_a_prefix_and_a_long_prefix_a_short_one() {
        let rules = rules(&[
            r#"key_prefix "" { policy = "read" } key_prefix "a/" { policy = "write" }"#,
            r#"key_prefix "a/x" { policy = "deny" } key "a/1" { policy = "read" }"#,
        ]);
        for (key, read, write) in
            [("b", true, false), ("a/2", true, true), ("a/x/1", false, false), ("a/1", true, false)]
        {
            assert_eq!(allows(&rules, Access::Read, key), read, "{key}");
            assert_eq!(allows(&rules, Access::Write, key), write, "{key}");
        }
    }

    #[test]
    fn of_several_policies_the_strongest_counts_and_deny_is_the_strongest() {
        let policy = |level: &str| format!("key_prefix \"a\" {{ policy = \"{level}\" }}");
        for (one, other, level) in [
            ("read", "write", Level::Write),
            ("write", "list", Level::Write),
            ("list", "read", Level::List),
            ("deny", "write", Level::Deny),
        ] {
            for pair in [[one, other], [other, one]] {
                let rules = rules(&pair.map(policy).each_ref().map(String::as_str));
                assert_eq!(rules.level(Resource::Key, b"a/1"), Some(level));
            }
        }
    }

    #[test]
    fn a_tree_is_writable_when_all_below_it_is() {
        let rules = rules(&[
            r#"key_prefix "a/" { policy = "write" } key_prefix "a/x" { policy = "deny" }"#,
            r#"key_prefix "p" { policy = "write" } key "p" { policy = "read" }"#,
        ]);
        let may = |prefix: &str| rules.tree_level(Resource::Key, prefix.as_bytes());
        assert_eq!(may("a/1"), Some(Level::Write));
        assert_eq!(may("a/"), Some(Level::Deny));
        assert_eq!(may("a/x/1"), Some(Level::Deny));
        assert_eq!(may("p"), Some(Level::Deny));
        assert_eq!(may("pp"), Some(Level::Write));
        assert_eq!(may("zz"), None);
        assert_eq!(may(""), Some(Level::Deny));
    }

    #[test]
    fn hcl_json_and_blocks_without_names_are_rules_and_unknown_names_are_ignored() {
        for text in [
            r#"key "a" { policy = "read" more = "x" } unknown "a" { policy = "x" } policy = "x""#,
            r#"{"key": {"a": {"policy": "read"}}}"#,
            r#"{"key": [{"b": {"policy": "deny"}}, {"a": {"policy": "read"}}]}"#,
        ] {
            let rules = Rules::parse(text).expect("rules");
            assert_eq!(rules.level(Resource::Key, b"a"), Some(Level::Read), "{text}");
        }
        let rules = Rules::parse("session { policy = \"read\" }\nacl = \"write\"").expect("rules");
        assert_eq!(rules.level(Resource::Session, b""), Some(Level::Read));
        assert_eq!(rules.level(Resource::Acl, b""), Some(Level::Write));
    }

    /// Consul 1.21 says the same of these.
    #[test]
    fn invalid_rules_are_refused() {
        for (text, error) in [
            ("acl = \"foo\"", "Invalid acl policy: \"foo\""),
            ("operator = \"list\"", "Invalid operator policy: \"list\""),
            (
                "key \"a\" { }",
                "Invalid key policy: &acl.KeyRule{Prefix:\"a\", Policy:\"\", \
                 EnterpriseRule:acl.EnterpriseRule{}}",
            ),
            (
                "service_prefix \"\" { policy = \"list\" }",
                "Invalid service_prefix policy: &acl.ServiceRule{Name:\"\", Policy:\"list\", \
                 Intentions:\"\", EnterpriseRule:acl.EnterpriseRule{}}",
            ),
            (
                "service \"a\" { policy = \"read\" intentions = \"x\" }",
                "Invalid service intentions policy: &acl.ServiceRule{Name:\"a\", \
                 Policy:\"read\", Intentions:\"x\", EnterpriseRule:acl.EnterpriseRule{}}",
            ),
            (
                "session \"a\" { policy = \"x\" }",
                "Invalid session policy: &acl.SessionRule{Node:\"a\", Policy:\"x\"}",
            ),
            (
                "key \"a\" { policy = 1 }",
                "Invalid key policy: &acl.KeyRule{Prefix:\"a\", Policy:\"1\", \
                 EnterpriseRule:acl.EnterpriseRule{}}",
            ),
            (
                "{\"key\":5}",
                "Failed to parse ACL rules: At -: unknown slice type: *ast.LiteralType",
            ),
            ("@", "Failed to parse ACL rules: At 1:1: illegal char"),
        ] {
            assert_eq!(Rules::parse(text).err().as_deref(), Some(error));
        }
    }
}
