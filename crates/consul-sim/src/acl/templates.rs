//! Templated policies. There are six, and their only variable is a name.

use super::policy::Rules;
use super::table::{Policy, RESERVED};
use crate::go;
use crate::http::decode::{Json, Object};
use crate::http::reply::Refusal;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// One template: its rules as resource, name and access; `*` is all names, `.` the variable.
pub(super) struct Template {
    pub(super) name: &'static str,
    number: u8,
    pub(super) description: &'static str,
    head: &'static str,
    rules: &'static [(&'static str, &'static str, &'static str)],
    indent: &'static str,
}

pub(super) const TEMPLATES: &[Template] = &[
    Template {
        name: "builtin/api-gateway",
        number: 8,
        description: "Gives the token or role permissions for a Consul api gateway",
        head: "mesh = \"read\"",
        rules: &[("node", "*", "read"), ("service", "*", "read"), ("service", ".", "write")],
        indent: "\t",
    },
    Template {
        name: "builtin/dns",
        number: 5,
        description: "Gives the token or role permissions for the Consul DNS to query services in the network.",
        head: "",
        rules: &[("node", "*", "read"), ("service", "*", "read"), ("query", "*", "read")],
        indent: "\t",
    },
    Template {
        name: "builtin/node",
        number: 4,
        description: "Gives the token or role permissions for a register an agent/node into the catalog. A node is \
                      typically a consul agent but can also be a physical server, cloud instance or a container.",
        head: "",
        rules: &[("node", ".", "write"), ("service", "*", "read")],
        indent: "\t",
    },
    Template {
        name: "builtin/nomad-client",
        number: 9,
        description: "Gives the token or role permissions required for integration with a nomad client.",
        head: "",
        rules: &[
            ("agent", "*", "read"),
            ("node", "*", "read"),
            ("service", "*", "write"),
            ("key", "*", "read"),
        ],
        indent: "  ",
    },
    Template {
        name: "builtin/nomad-server",
        number: 6,
        description: "Gives the token or role permissions required for integration with a nomad server.",
        head: "\nacl = \"write\"",
        rules: &[("agent", "*", "read"), ("node", "*", "read"), ("service", "*", "write")],
        indent: "  ",
    },
    Template {
        name: "builtin/service",
        number: 3,
        description: "Gives the token or role permissions to register a service and discover services in the \
                      Consul catalog. It also gives the specified service's sidecar proxy the permission to \
                      discover and route traffic to other services.",
        head: "",
        rules: &[
            ("service", ".", "write"),
            ("service", ".-sidecar-proxy", "write"),
            ("service", "*", "read"),
            ("node", "*", "read"),
        ],
        indent: "\t",
    },
];

/// The schema of the variables of those that have one.
pub(super) const SCHEMA: &str = "{\n\t\"type\": \"object\",\n\t\"properties\": {\n\t\t\"name\": { \"type\": \"string\", \
                      \"$ref\": \"#/definitions/min-length-one\" }\n\t},\n\t\"required\": [\"name\"],\n\t\
                      \"definitions\": {\n\t\t\"min-length-one\": {\n\t\t\t\t\"type\": \"string\",\n\t\t\t\t\
                      \"minLength\": 1\n\t\t}\n\t}\n}";

impl Template {
    pub(super) fn named(name: &str) -> Option<&'static Template> {
        TEMPLATES.iter().find(|template| template.name == name)
    }

    pub(super) fn has_name(&self) -> bool {
        self.rules.iter().any(|(_, name, _)| name.starts_with('.'))
    }

    /// Its rules for a name, in Consul's layout.
    pub(super) fn rules(&self, variable: &str) -> String {
        let mut text = self.head.to_owned();
        for (resource, name, access) in self.rules {
            let (prefix, name) = match *name {
                "*" => ("_prefix", String::new()),
                name => ("", name.replacen('.', variable, 1)),
            };
            // The first rule of one has a line of its own, as the others have.
            let line = if text.is_empty() && self.number == 9 { "" } else { "\n" };
            let _ = write!(
                text,
                "{line}{resource}{prefix} \"{name}\" {{\n{}policy = \"{access}\"\n}}",
                self.indent
            );
        }
        text
    }

    /// The policy that it makes for a name.
    pub(super) fn synthetic(&self, variable: &str, datacenters: Option<Vec<String>>) -> Policy {
        let text = self.rules(variable);
        // Source: the offset of the 128-bit hash FNV-1a, which Consul adds to the rules.
        let mut id = String::new();
        for byte in text.bytes() {
            let _ = write!(id, "{byte:02x}");
        }
        id.push_str("6c62272e07bb014262b821756295c58d");
        Policy {
            name: format!("synthetic-policy-{id}"),
            id,
            description: format!("synthetic policy generated from templated policy: {}", self.name),
            text,
            rules: Rules::default(),
            datacenters,
            create_index: 0,
            modify_index: 0,
        }
    }

    /// Refuses a variable that is not one of this template.
    pub(super) fn check(&self, variable: Option<&str>) -> Result<(), String> {
        const ALLOWED: &str = "Only lowercase alphanumeric characters, '-' and '_' are allowed";
        let schema = |why: &str| Err(format!("1 error occurred:\n\t* {why}\n\n"));
        if !self.has_name() {
            return Ok(());
        }
        let Some(name) = variable else {
            return schema("Invalid type. Expected: object, given: null");
        };
        let quoted = go::quoted(name);
        match self.name {
            "builtin/service" if !super::token_body::is_identity(name) => {
                Err(format!("service identity {quoted} has an invalid name. {ALLOWED}"))
            }
            "builtin/node" if !super::token_body::is_identity(name) => {
                Err(format!("node identity {quoted}  has an invalid name. {ALLOWED}"))
            }
            _ if name.is_empty() => schema("name is required"),
            _ => Ok(()),
        }
    }
}

/// A template with its variable, as tokens and roles have it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct Templated {
    pub name: String,
    pub variable: Option<String>,
    pub datacenters: Vec<String>,
}

impl Templated {
    /// The templated policies of a body, as they are given.
    pub fn read_all(given: &Object<'_>) -> Result<Vec<Templated>, String> {
        let items = given.list("TemplatedPolicies", "structs.ACLTemplatedPolicies")?;
        let read = |item: &Json| {
            let item = given.nested("TemplatedPolicies", item, "structs.ACLTemplatedPolicy")?;
            item.check_known(&["TemplateID", "TemplateName", "TemplateVariables", "Datacenters"])?;
            item.text("TemplateID")?;
            Ok(Templated {
                name: item.text("TemplateName")?,
                variable: variable(&item, "TemplateVariables")?,
                datacenters: item.texts("Datacenters")?.unwrap_or_default(),
            })
        };
        items.unwrap_or_default().iter().map(read).collect()
    }

    /// That of a binding rule.
    pub fn bound(name: &str, variable: Option<String>) -> Result<Templated, String> {
        let template = Template::named(name).ok_or_else(|| {
            format!("Bind name for templated-policy bind type does not match existing template name: {name}")
        })?;
        let check = template.check(variable.as_deref());
        check.map_err(|why| format!("templated policy failed validation: {why}"))?;
        Ok(Templated { name: name.to_owned(), variable, datacenters: Vec::new() })
    }

    /// A template for a name, which is known to fit.
    pub fn of(name: &str, variable: &str, datacenters: Vec<String>) -> Templated {
        Templated { name: name.to_owned(), variable: Some(variable.to_owned()), datacenters }
    }

    /// The policy that it stands for.
    pub fn synthetic(&self) -> Option<Policy> {
        let variable = self.variable.as_deref().unwrap_or_default();
        Some(Template::named(&self.name)?.synthetic(variable, Some(self.datacenters.clone())))
    }

    /// Its rules.
    pub fn rules(&self) -> Rules {
        let variable = self.variable.as_deref().unwrap_or_default();
        let text = Template::named(&self.name).map(|template| template.rules(variable));
        Rules::parse(&text.unwrap_or_default()).unwrap_or_default()
    }

    pub fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.name].into_iter().chain(&self.variable).chain(&self.datacenters).map(String::as_str)
    }
}

/// Refuses those that Consul refuses, and keeps each one once.
pub(super) fn checked(given: Vec<Templated>, on: &str) -> Result<Vec<Templated>, Refusal> {
    let mut kept: Vec<Templated> = Vec::new();
    for one in given {
        let Templated { name, variable, .. } = &one;
        let is_role = on == "role";
        let why = if name.is_empty() {
            Err(format!("templated policy is missing the template name field on this {on}"))
        } else if let Some(template) = Template::named(name) {
            template.check(variable.as_deref()).map_err(|why| match is_role {
                true => format!("encountered role with invalid templated policy: {why}"),
                false => {
                    format!("validation error for templated policy {}: {why}", go::quoted(name))
                }
            })
        } else if is_role {
            Err(format!("templated policy with an invalid templated name: {name} for this role"))
        } else {
            Err(format!("no such ACL templated policy with Name {}", go::quoted(name)))
        };
        why.map_err(Refusal::server)?;
        let has_name = Template::named(name).is_some_and(Template::has_name);
        let is_same =
            |known: &Templated| known.name == *name && (!has_name || known.variable == *variable);
        if !kept.iter().any(is_same) {
            kept.push(one);
        }
    }
    Ok(kept)
}

/// The name of an object of variables; `None` without one.
pub(super) fn variable(given: &Object<'_>, member: &str) -> Result<Option<String>, String> {
    let Some(json) = given.get(member).filter(|json| **json != Json::Null) else { return Ok(None) };
    let variables = given.nested(member, json, "structs.ACLTemplatedPolicyVariables")?;
    variables.check_known(&["name"])?;
    variables.text("name").map(Some)
}

/// Variables in replies.
#[derive(Serialize)]
pub(super) struct Variables<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct View<'a> {
    #[serde(rename = "TemplateID")]
    id: String,
    template_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    template_variables: Option<Variables<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    datacenters: &'a [String],
}

impl<'a> From<&'a Templated> for View<'a> {
    fn from(one: &'a Templated) -> Self {
        let number = Template::named(&one.name).map_or(0, |template| template.number);
        Self {
            id: format!("{}{number:02}", RESERVED),
            template_name: &one.name,
            template_variables: one.variable.as_deref().map(|name| Variables { name }),
            datacenters: &one.datacenters,
        }
    }
}
