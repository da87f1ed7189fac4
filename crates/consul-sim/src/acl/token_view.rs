//! Tokens in replies.

use super::{
    Access, Authority, DefaultPolicy, NodeIdentity, Policy, Resource, ServiceIdentity, Token,
    content_hash, identity_texts, policies, roles, templates,
};
use crate::go;
use crate::store::State;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct View<'a> {
    /// The secret again, under its name in the reply to a bootstrap.
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "AccessorID")]
    accessor: &'a str,
    #[serde(rename = "SecretID")]
    secret: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<Link<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Link<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service_identities: Vec<ServiceView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    node_identities: Vec<NodeView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    templated_policies: Vec<templates::View<'a>>,
    local: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_time: Option<String>,
    create_time: &'a str,
    hash: String,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Link<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
}

/// Links to the policies of these ids.
pub(super) fn policy_links<'a>(state: &'a State, ids: &[String]) -> Vec<Link<'a>> {
    let policies = ids.iter().filter_map(|id| state.acl.policies.get(id));
    policies.map(|policy| Link { id: &policy.id, name: &policy.name }).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceView<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenters: Option<&'a [String]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeView<'a> {
    node_name: &'a str,
    datacenter: &'a str,
}

impl<'a> From<&'a ServiceIdentity> for ServiceView<'a> {
    fn from(service: &'a ServiceIdentity) -> Self {
        Self { service_name: &service.name, datacenters: service.datacenters.as_deref() }
    }
}

impl<'a> From<&'a NodeIdentity> for NodeView<'a> {
    fn from(node: &'a NodeIdentity) -> Self {
        Self { node_name: &node.name, datacenter: &node.datacenter }
    }
}

impl<'a> View<'a> {
    pub fn new(state: &'a State, token: &'a Token) -> Self {
        let roles = state.acl.roles_of(token);
        Self {
            id: None,
            accessor: &token.accessor,
            secret: &token.secret.0,
            description: &token.description,
            policies: policy_links(state, &token.policies),
            roles: roles.map(|role| Link { id: &role.id, name: &role.name }).collect(),
            service_identities: token.services.iter().map(ServiceView::from).collect(),
            node_identities: token.nodes.iter().map(NodeView::from).collect(),
            templated_policies: token.templates.iter().map(templates::View::from).collect(),
            local: token.local,
            auth_method: token.method.as_deref(),
            expiration_time: token.expires.map(go::date_text),
            create_time: &token.created,
            hash: content_hash(
                [token.description.as_str(), if token.local { "local" } else { "global" }]
                    .into_iter()
                    .chain(token.policies.iter().chain(&token.roles).map(String::as_str))
                    .chain(identity_texts(&token.services, &token.nodes, &token.templates)),
            ),
            create_index: token.create_index,
            modify_index: token.modify_index,
        }
    }

    /// The token in the reply to a bootstrap.
    pub fn with_id(mut self) -> Self {
        self.id = Some(self.secret);
        self
    }

    /// The token without its secret, unless the caller may write tokens.
    pub fn for_reader(mut self, authority: &Authority) -> Self {
        if !authority.allows(Resource::Acl, "", Access::Write) {
            self.secret = "<hidden>";
        }
        self
    }
}

/// A token with its policies and roles.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Expanded<'a> {
    #[serde(flatten)]
    token: View<'a>,
    expanded_policies: Option<Vec<policies::View<'a>>>,
    expanded_roles: Option<Vec<roles::View<'a>>>,
    #[serde(rename = "NamespaceDefaultPolicyIDs")]
    namespace_default_policy_ids: Option<()>,
    #[serde(rename = "NamespaceDefaultRoleIDs")]
    namespace_default_role_ids: Option<()>,
    #[serde(rename = "AgentACLDefaultPolicy")]
    default_policy: &'static str,
    #[serde(rename = "AgentACLDownPolicy")]
    down_policy: &'static str,
    resolved_by_agent: &'a str,
}

impl<'a> Expanded<'a> {
    /// `synthetic` has the policies that its identities and templates stand for.
    pub fn new(
        state: &'a State,
        token: &'a Token,
        synthetic: &'a [Policy],
        view: View<'a>,
    ) -> Self {
        let policies = state.acl.policies_of(token).into_iter().chain(synthetic);
        let policies: Vec<_> = policies.map(policies::View::from).collect();
        let roles: Vec<_> =
            state.acl.roles_of(token).map(|role| roles::View::new(state, role)).collect();
        Self {
            token: view,
            expanded_policies: (!policies.is_empty()).then_some(policies),
            expanded_roles: (!roles.is_empty()).then_some(roles),
            namespace_default_policy_ids: None,
            namespace_default_role_ids: None,
            default_policy: match state.acl.config.default_policy {
                DefaultPolicy::Allow => "allow",
                DefaultPolicy::Deny => "deny",
            },
            down_policy: "extend-cache",
            resolved_by_agent: &state.node_name,
        }
    }
}
