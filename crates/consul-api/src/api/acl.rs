//! Access control: `/v1/acl`.

use crate::table::*;

const LINK: &[Field] = &[
    field("ID", Shape::Text, "the id"),
    field("Name", Shape::Text, "the name, instead of the id"),
];

const SERVICE_IDENTITY: &[Field] = &[
    field("ServiceName", Shape::Text, "the service's name"),
    field("Datacenters", Shape::TextList, "the datacenters where it applies; default: all"),
];

const NODE_IDENTITY: &[Field] = &[
    field("NodeName", Shape::Text, "the node's name"),
    field("Datacenter", Shape::Text, "the datacenter where it applies"),
];

const TEMPLATED_POLICY: &[Field] = &[
    field("TemplateName", Shape::Text, "the template's name"),
    field("TemplateVariables", Shape::Free(&FreeForm::UNKNOWN), "the template's variables"),
    field("Datacenters", Shape::TextList, "the datacenters where it applies; default: all"),
    field("TemplateID", Shape::Text, "ignored"),
];

/// The fields of an object, and those that each object has when it is read.
macro_rules! object {
    ($($field:expr),* $(,)?) => {
        &[
            $($field,)*
            field("Hash", Shape::TextOrEmpty, "ignored, as it is in what was read"),
            field("CreateIndex", Shape::Uint, "ignored"),
            field("ModifyIndex", Shape::Uint, "ignored"),
            field("Namespace", Shape::TextOrEmpty, "the namespace (Consul Enterprise)"),
            field("Partition", Shape::TextOrEmpty, "the partition (Consul Enterprise)"),
        ]
    };
}

const TOKEN: &[Field] = object! {
    field("AccessorID", Shape::Name, "the public id; default: a random one"),
    field("SecretID", Shape::Text, "the secret; default: a random one"),
    field("Description", Shape::TextOrEmpty, "a description"),
    field("Policies", Shape::Objects(LINK), "its policies"),
    field("Roles", Shape::Objects(LINK), "its roles"),
    field("ServiceIdentities", Shape::Objects(SERVICE_IDENTITY), "services whose rights it has"),
    field("NodeIdentities", Shape::Objects(NODE_IDENTITY), "nodes whose rights it has (from 1.8)"),
    field(
        "TemplatedPolicies",
        Shape::Objects(TEMPLATED_POLICY),
        "its templated policies (from 1.17)",
    ),
    field("Local", Shape::Bool, "valid in this datacenter only"),
    field("ExpirationTime", Shape::Text, "when it expires, RFC 3339"),
    field("ExpirationTTL", DURATION, "when it expires: after this time, 1 m to 24 h"),
    field("AuthMethod", Shape::Text, "the auth method that created it"),
    field("AuthMethodNamespace", Shape::TextOrEmpty, "its namespace (Consul Enterprise)"),
    field("CreateTime", Shape::Text, "ignored"),
    field("ExpandedPolicies", Shape::NotSent, "not sent, as all that follow"),
    field("ExpandedRoles", Shape::NotSent, "not sent"),
    field("NamespaceDefaultPolicyIDs", Shape::NotSent, "not sent"),
    field("NamespaceDefaultRoleIDs", Shape::NotSent, "not sent"),
    field("AgentACLDefaultPolicy", Shape::NotSent, "not sent"),
    field("AgentACLDownPolicy", Shape::NotSent, "not sent"),
    field("ResolvedByAgent", Shape::NotSent, "not sent"),
};

const POLICY: &[Field] = object! {
    field("ID", Shape::Text, "its id, which an update may repeat"),
    field("Name", Shape::Name, "its name"),
    field("Description", Shape::TextOrEmpty, "a description"),
    field("Rules", Shape::TextOrEmpty, "the rules, in HCL or JSON"),
    field("Datacenters", Shape::TextList, "the datacenters where it applies; default: all"),
};

const ROLE: &[Field] = object! {
    field("ID", Shape::Text, "its id, which an update may repeat"),
    field("Name", Shape::Name, "its name"),
    field("Description", Shape::TextOrEmpty, "a description"),
    field("Policies", Shape::Objects(LINK), "its policies"),
    field("ServiceIdentities", Shape::Objects(SERVICE_IDENTITY), "services whose rights it has"),
    field("NodeIdentities", Shape::Objects(NODE_IDENTITY), "nodes whose rights it has (from 1.8)"),
    field(
        "TemplatedPolicies",
        Shape::Objects(TEMPLATED_POLICY),
        "its templated policies (from 1.17)",
    ),
};

const BOOTSTRAP_SECRET: &[Field] =
    &[field("BootstrapSecret", Shape::Text, "the secret of the new token, a UUID (from 1.15)")];

const LOGIN_FIELDS: &[Field] = &[
    field("AuthMethod", Shape::Text, "the auth method's name"),
    field("BearerToken", Shape::Text, "the token that proves the identity to the auth method"),
    field("Meta", Shape::TextMap, "metadata"),
];

const AUTHORIZATION: &[Field] = &[
    field("Resource", Shape::Text, "as in rules: key, service, node, session, operator, …"),
    field(
        "Segment",
        Shape::TextOrEmpty,
        "the name of the key, service, node, …; nothing for acl, keyring, mesh, operator, peering",
    ),
    field(
        "Access",
        Shape::OneOf(&["read", "list", "write", "write-prefix"]),
        "list and write-prefix, which is about all keys that begin so, are for keys only",
    ),
];

const CLONE_FIELDS: &[Field] = &[field("Description", Shape::TextOrEmpty, "a description")];

const ACCESSOR: Param = path("accessor", Shape::Segment, "The token's accessor id.");
const POLICY_ID: Param = path("policy_id", Shape::Segment, "The policy's id.");
const ROLE_ID: Param = path("role_id", Shape::Segment, "The role's id.");
const METHOD_NAME: Param = path("method", Shape::Text, "The auth method's name.");
const RULE_ID: Param = path("rule", Shape::Segment, "The binding rule's id.");
const NAME: Param = path("name", Shape::Text, "The name.");
const TOKEN_BODY: Param = body("token", Shape::Object(TOKEN), "The token.");
const POLICY_BODY: Param = body("policy", Shape::Object(POLICY), "The policy.");
const ROLE_BODY: Param = body("role", Shape::Object(ROLE), "The role.");
/// Source: `ACLAuthMethod` in Consul's folder api, and the configurations in the pages about auth methods.
const METHOD: FreeForm = FreeForm {
    durations: &["MaxTokenTTL"],
    nanoseconds: &["ClockSkewLeeway", "ExpirationLeeway", "NotBeforeLeeway"],
    lists: &[
        "AllowedRedirectURIs",
        "AllowedSTSHeaderValues",
        "BoundAudiences",
        "BoundIAMPrincipalARNs",
        "IAMEntityTags",
        "JWTSupportedAlgs",
        "JWTValidationPubKeys",
        "NamespaceRules",
        "OIDCACRValues",
        "OIDCScopes",
    ],
    names: &["auth_method.Name"],
    opaque: &["ClaimMappings", "ListClaimMappings"],
    ..FreeForm::UNKNOWN
};
const METHOD_BODY: Param = body("auth_method", Shape::Free(&METHOD), "The auth method.");
const RULE_BODY: Param = body("binding_rule", Shape::Free(&FreeForm::UNKNOWN), "The binding rule.");

const TOKEN_FILTERS: &[Param] = &[
    query("policy", "policy", Shape::Text, "Only tokens with the policy of this id."),
    query("role", "role", Shape::Text, "Only tokens with the role of this id."),
    query("auth_method", "authmethod", Shape::Text, "Only tokens from this auth method."),
    query(
        "service_name",
        "servicename",
        Shape::Text,
        "Only tokens with this service identity (from 1.17.1).",
    ),
];
const ROLE_FILTERS: &[Param] =
    &[query("policy", "policy", Shape::Text, "Only roles with the policy of this id.")];
const RULE_FILTERS: &[Param] =
    &[query("auth_method", "authmethod", Shape::Text, "Only rules of this auth method.")];
const EXPANDED: &[Param] =
    &[query("expanded", "expanded", Shape::Flag, "Include the effective rules (from 1.12).")];

/// A read that requires access control.
const fn read(name: &'static str, path: &'static str, doc: &'static str) -> Endpoint {
    Endpoint { needs_acl: true, ..Endpoint::read(name, path, doc) }
}

/// A write that requires access control.
const fn write(name: &'static str, path: &'static str, doc: &'static str) -> Endpoint {
    Endpoint { needs_acl: true, ..Endpoint::write(name, path, doc) }
}

pub static BOOTSTRAP: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Text), has("SecretID", Form::Text)]),
    positional: &[body(
        "secret",
        Shape::Object(BOOTSTRAP_SECRET),
        "The secret; default: a random one.",
    )
    .optional()],
    repeat: Repeat::Once,
    reply: Reply::Json,
    secret: true,
    ..write(
        "acl_bootstrap",
        "/v1/acl/bootstrap",
        "Creates the first management token; possible once.",
    )
};

pub static REPLICATION: Endpoint = Endpoint {
    form: Form::Object(&[has("Enabled", Form::Bool), has("Running", Form::Bool)]),
    options: &[&[SCOPE[0]]],
    ..read("acl_replication", "/v1/acl/replication", "The state of ACL replication.")
};

pub static LOGIN: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Text), has("SecretID", Form::Text)]),
    method: Verb::Post,
    positional: &[body("login", Shape::Object(LOGIN_FIELDS), "The auth method and its token.")],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    secret: true,
    ..write("acl_login", "/v1/acl/login", "Exchanges a bearer token for an ACL token.")
};

pub static LOGOUT: Endpoint = Endpoint {
    reply: Reply::Applied,
    method: Verb::Post,
    ..write(
        "acl_logout",
        "/v1/acl/logout",
        "Destroys the token that the call is made with, if it came from a login.",
    )
};

pub static TOKENS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("AccessorID", Form::Text)])),
    options: &[TOKEN_FILTERS, SCOPE, CONSISTENCY, BLOCKING],
    secret: true,
    ..read("acl_token_list", "/v1/acl/tokens", "Lists the tokens.")
};

pub static TOKEN_SELF: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Text), has("SecretID", Form::Text)]),
    missing: &["Supplied token does not exist"],
    options: &[CONSISTENCY],
    secret: true,
    ..read("acl_token_self", "/v1/acl/token/self", "Reads the token that the call is made with.")
};

pub static TOKEN_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[
        has("AccessorID", Form::Given("AccessorID")),
        has("SecretID", Form::Given("SecretID")),
    ]),
    positional: &[TOKEN_BODY],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    secret: true,
    ..write("acl_token_create", "/v1/acl/token", "Creates a token.")
};

pub static TOKEN_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Name), has("SecretID", Form::Text)]),
    missing: &["Requested token"],
    positional: &[ACCESSOR],
    options: &[EXPANDED, SCOPE, CONSISTENCY],
    secret: true,
    ..read("acl_token_read", "/v1/acl/token/{accessor}", "Reads a token.")
};

pub static TOKEN_UPDATE: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Name), has("SecretID", Form::Text)]),
    missing: &["Cannot find token"],
    positional: &[ACCESSOR, TOKEN_BODY],
    options: &[SCOPE],
    reply: Reply::Json,
    secret: true,
    ..write("acl_token_update", "/v1/acl/token/{accessor}", "Replaces a token.")
};

pub static TOKEN_DELETE: Endpoint = Endpoint {
    missing: &["Cannot find token"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[ACCESSOR],
    options: &[SCOPE],
    absent: Absent::Done,
    ..write(
        "acl_token_delete",
        "/v1/acl/token/{accessor}",
        "Deletes a token; succeeds also if it does not exist.",
    )
};

pub static TOKEN_CLONE: Endpoint = Endpoint {
    form: Form::Object(&[has("AccessorID", Form::Text), has("SecretID", Form::Text)]),
    missing: &["Cannot find token"],
    positional: &[
        ACCESSOR,
        body("clone", Shape::Object(CLONE_FIELDS), "Fields that differ from the original.")
            .optional(),
    ],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    secret: true,
    ..write(
        "acl_token_clone",
        "/v1/acl/token/{accessor}/clone",
        "Creates a token with the same rights.",
    )
};

pub static POLICIES: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Name", Form::Text)])),
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    ..read("acl_policy_list", "/v1/acl/policies", "Lists the policies.")
};

pub static POLICY_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Given("Name"))]),
    positional: &[POLICY_BODY],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    ..write("acl_policy_create", "/v1/acl/policy", "Creates a policy.")
};

pub static POLICY_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name), has("Name", Form::Text)]),
    missing: &["Requested policy"],
    positional: &[POLICY_ID],
    options: &[SCOPE],
    ..read("acl_policy_read", "/v1/acl/policy/{policy_id}", "Reads a policy.")
};

pub static POLICY_UPDATE: Endpoint = Endpoint {
    missing: &["Cannot find policy"],
    form: Form::Object(&[has("ID", Form::Name), has("Name", Form::Text)]),
    positional: &[POLICY_ID, POLICY_BODY],
    options: &[SCOPE],
    reply: Reply::Json,
    ..write("acl_policy_update", "/v1/acl/policy/{policy_id}", "Replaces a policy.")
};

pub static POLICY_DELETE: Endpoint = Endpoint {
    missing: &["Cannot find policy"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[POLICY_ID],
    options: &[SCOPE],
    absent: Absent::Done,
    ..write(
        "acl_policy_delete",
        "/v1/acl/policy/{policy_id}",
        "Deletes a policy; succeeds also if it does not exist.",
    )
};

pub static POLICY_BY_NAME: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Name)]),
    missing: &["Requested policy"],
    positional: &[NAME],
    options: &[SCOPE],
    ..read(
        "acl_policy_read_by_name",
        "/v1/acl/policy/name/{name}",
        "Reads the policy of this name.",
    )
};

pub static ROLES: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Name", Form::Text)])),
    options: &[ROLE_FILTERS, SCOPE, CONSISTENCY, BLOCKING],
    ..read("acl_role_list", "/v1/acl/roles", "Lists the roles.")
};

pub static ROLE_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Given("Name"))]),
    positional: &[ROLE_BODY],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    ..write("acl_role_create", "/v1/acl/role", "Creates a role.")
};

pub static ROLE_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name), has("Name", Form::Text)]),
    missing_header: Some("vary"),
    missing: &["Requested role"],
    positional: &[ROLE_ID],
    options: &[SCOPE],
    ..read("acl_role_read", "/v1/acl/role/{role_id}", "Reads a role.")
};

pub static ROLE_UPDATE: Endpoint = Endpoint {
    missing: &["Cannot find role"],
    form: Form::Object(&[has("ID", Form::Name), has("Name", Form::Text)]),
    positional: &[ROLE_ID, ROLE_BODY],
    options: &[SCOPE],
    reply: Reply::Json,
    ..write("acl_role_update", "/v1/acl/role/{role_id}", "Replaces a role.")
};

pub static ROLE_DELETE: Endpoint = Endpoint {
    missing: &["Cannot find role"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[ROLE_ID],
    options: &[SCOPE],
    absent: Absent::Done,
    ..write(
        "acl_role_delete",
        "/v1/acl/role/{role_id}",
        "Deletes a role; succeeds also if it does not exist.",
    )
};

pub static ROLE_BY_NAME: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Name)]),
    missing_header: Some("vary"),
    missing: &["Requested role"],
    positional: &[NAME],
    options: &[SCOPE],
    ..read("acl_role_read_by_name", "/v1/acl/role/name/{name}", "Reads the role of this name.")
};

pub static AUTH_METHODS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Name", Form::Text), has("Type", Form::Text)])),
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    secret: true,
    ..read("acl_auth_method_list", "/v1/acl/auth-methods", "Lists the auth methods.")
};

pub static AUTH_METHOD_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Given("Name")), has("Type", Form::Given("Type"))]),
    positional: &[METHOD_BODY],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    secret: true,
    ..write("acl_auth_method_create", "/v1/acl/auth-method", "Creates an auth method.")
};

pub static AUTH_METHOD_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name), has("Type", Form::Text)]),
    missing_header: Some("vary"),
    missing: &["Requested auth method"],
    positional: &[METHOD_NAME],
    options: &[SCOPE],
    secret: true,
    ..read("acl_auth_method_read", "/v1/acl/auth-method/{method}", "Reads an auth method.")
};

pub static AUTH_METHOD_UPDATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name), has("Type", Form::Text)]),
    positional: &[METHOD_NAME, METHOD_BODY],
    options: &[SCOPE],
    reply: Reply::Json,
    secret: true,
    ..write("acl_auth_method_update", "/v1/acl/auth-method/{method}", "Replaces an auth method.")
};

pub static AUTH_METHOD_DELETE: Endpoint = Endpoint {
    missing: &["Cannot find auth method"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[METHOD_NAME],
    options: &[SCOPE],
    absent: Absent::Done,
    ..write(
        "acl_auth_method_delete",
        "/v1/acl/auth-method/{method}",
        "Deletes an auth method; succeeds also if it does not exist.",
    )
};

pub static BINDING_RULES: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("AuthMethod", Form::Text)])),
    options: &[RULE_FILTERS, SCOPE, CONSISTENCY, BLOCKING],
    ..read("acl_binding_rule_list", "/v1/acl/binding-rules", "Lists the binding rules.")
};

pub static BINDING_RULE_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("AuthMethod", Form::Given("AuthMethod"))]),
    positional: &[RULE_BODY],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Json,
    ..write("acl_binding_rule_create", "/v1/acl/binding-rule", "Creates a binding rule.")
};

pub static BINDING_RULE_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name), has("AuthMethod", Form::Text)]),
    missing_header: Some("vary"),
    missing: &["Requested binding rule"],
    positional: &[RULE_ID],
    options: &[SCOPE],
    ..read("acl_binding_rule_read", "/v1/acl/binding-rule/{rule}", "Reads a binding rule.")
};

pub static BINDING_RULE_UPDATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name), has("AuthMethod", Form::Text)]),
    positional: &[RULE_ID, RULE_BODY],
    options: &[SCOPE],
    reply: Reply::Json,
    ..write("acl_binding_rule_update", "/v1/acl/binding-rule/{rule}", "Replaces a binding rule.")
};

pub static BINDING_RULE_DELETE: Endpoint = Endpoint {
    missing: &["Cannot find binding rule"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[RULE_ID],
    options: &[SCOPE],
    absent: Absent::Done,
    ..write(
        "acl_binding_rule_delete",
        "/v1/acl/binding-rule/{rule}",
        "Deletes a binding rule; succeeds also if it does not exist.",
    )
};

pub static TEMPLATED_POLICIES: Endpoint = Endpoint {
    form: Form::Some(&Form::Map(&Form::Object(&[has("TemplateName", Form::Text)]))),
    since: Some("1.17"),
    ..read(
        "acl_templated_policy_list",
        "/v1/acl/templated-policies",
        "Lists the templated policies.",
    )
};

pub static TEMPLATED_POLICY_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("TemplateName", Form::Name)]),
    positional: &[NAME],
    since: Some("1.17"),
    ..read(
        "acl_templated_policy_read",
        "/v1/acl/templated-policy/name/{name}",
        "Reads a templated policy.",
    )
};

pub static TEMPLATED_POLICY_PREVIEW: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Text)]),
    method: Verb::Post,
    positional: &[NAME, body("variables", Shape::Any, "The template's variables.").optional()],
    repeat: Repeat::Read,
    reply: Reply::Json,
    since: Some("1.17"),
    ..write(
        "acl_templated_policy_preview",
        "/v1/acl/templated-policy/preview/{name}",
        "Shows the policy that a template generates.",
    )
};

pub static AUTHORIZE: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("Resource", Form::Given("Resource")),
        may_have("Segment", Form::Given("Segment")),
        has("Access", Form::Given("Access")),
        has("Allow", Form::Bool),
    ])),
    method: Verb::Post,
    positional: &[body("requests", Shape::Objects(AUTHORIZATION), "The permissions, up to 64.")],
    options: &[&[SCOPE[0]]],
    repeat: Repeat::Read,
    reply: Reply::Json,
    ..write(
        "acl_authorize",
        "/v1/internal/acl/authorize",
        "Whether the token has these permissions: the same list with `Allow`, true or false. Consul's UI uses this endpoint; Consul's reference does not list it.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &BOOTSTRAP,
    &REPLICATION,
    &LOGIN,
    &LOGOUT,
    &TOKENS,
    &TOKEN_SELF,
    &TOKEN_CREATE,
    &TOKEN_READ,
    &TOKEN_UPDATE,
    &TOKEN_DELETE,
    &TOKEN_CLONE,
    &POLICIES,
    &POLICY_CREATE,
    &POLICY_READ,
    &POLICY_UPDATE,
    &POLICY_DELETE,
    &POLICY_BY_NAME,
    &ROLES,
    &ROLE_CREATE,
    &ROLE_READ,
    &ROLE_UPDATE,
    &ROLE_DELETE,
    &ROLE_BY_NAME,
    &AUTH_METHODS,
    &AUTH_METHOD_CREATE,
    &AUTH_METHOD_READ,
    &AUTH_METHOD_UPDATE,
    &AUTH_METHOD_DELETE,
    &BINDING_RULES,
    &BINDING_RULE_CREATE,
    &BINDING_RULE_READ,
    &BINDING_RULE_UPDATE,
    &BINDING_RULE_DELETE,
    &TEMPLATED_POLICIES,
    &TEMPLATED_POLICY_READ,
    &TEMPLATED_POLICY_PREVIEW,
    &AUTHORIZE,
];
