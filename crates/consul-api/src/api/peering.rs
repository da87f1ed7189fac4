//! Peering, partitions and namespaces: `/v1/peering`, `/v1/partition`, `/v1/namespace`.

use crate::table::*;

const PARTITION: &[Param] = &[SCOPE[2]];
const NAME: Param = path("name", Shape::Text, "The name.");
const TOKEN: &[Field] = &[
    field("PeerName", Shape::Name, "the name of the other cluster in this one"),
    field("Partition", Shape::Text, "the admin partition (Consul Enterprise)"),
    field("Meta", Shape::TextMap, "metadata"),
    field("ServerExternalAddresses", Shape::TextList, "addresses for the other cluster"),
];
const ESTABLISHMENT: &[Field] = &[
    field("PeerName", Shape::Name, "the name of the other cluster in this one"),
    field("PeeringToken", Shape::Text, "the token that the other cluster created"),
    field("Partition", Shape::Text, "the admin partition (Consul Enterprise)"),
    field("Meta", Shape::TextMap, "metadata"),
];
const ENTERPRISE: FreeForm = FreeForm {
    lists: &["PolicyDefaults", "RoleDefaults"],
    names: &["definition.Name"],
    opaque: &["Meta"],
    ..FreeForm::UNKNOWN
};
const ENTERPRISE_DEFINITION: Param =
    body("definition", Shape::Free(&ENTERPRISE), "The definition.");

pub static TOKEN_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("PeeringToken", Form::Text)]),
    method: Verb::Post,
    positional: &[body("request", Shape::Object(TOKEN), "The cluster that the token is for.")],
    repeat: Repeat::Once,
    reply: Reply::Member("PeeringToken"),
    since: Some("1.13"),
    secret: true,
    ..Endpoint::write(
        "peering_token",
        "/v1/peering/token",
        "Creates a token for another cluster and returns it.",
    )
};

pub static ESTABLISH: Endpoint = Endpoint {
    form: Form::Map(&Form::Nothing),
    method: Verb::Post,
    positional: &[body("request", Shape::Object(ESTABLISHMENT), "The token and the name.")],
    repeat: Repeat::Once,
    since: Some("1.13"),
    ..Endpoint::write(
        "peering_establish",
        "/v1/peering/establish",
        "Establishes a peering with the cluster that created a token.",
    )
};

pub static READ: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text), has("Name", Form::Name)]),
    missing: &["Peering not found"],
    positional: &[NAME],
    options: &[PARTITION],
    absent: Absent::Null,
    since: Some("1.13"),
    ..Endpoint::read(
        "peering_read",
        "/v1/peering/{name}",
        "Reads a peering; nil if it does not exist.",
    )
};

pub static DELETE: Endpoint = Endpoint {
    missing: &["Peering not found"],
    method: Verb::Delete,
    positional: &[NAME],
    options: &[PARTITION],
    absent: Absent::Done,
    since: Some("1.13"),
    ..Endpoint::write(
        "peering_delete",
        "/v1/peering/{name}",
        "Deletes a peering, in the background; succeeds also if it does not exist.",
    )
};

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("ID", Form::Text), has("Name", Form::Text)])),
    options: &[PARTITION],
    since: Some("1.13"),
    ..Endpoint::read("peering_list", "/v1/peerings", "Lists the peerings.")
};

pub static PARTITION_LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Name", Form::Text)])),
    since: Some("1.11"),
    ..Endpoint::read(
        "partition_list",
        "/v1/partitions",
        "Lists the partitions (Consul Enterprise).",
    )
};

pub static PARTITION_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Text)]),
    positional: &[ENTERPRISE_DEFINITION],
    repeat: Repeat::Once,
    reply: Reply::Json,
    since: Some("1.11"),
    ..Endpoint::write(
        "partition_create",
        "/v1/partition",
        "Creates an admin partition (Consul Enterprise).",
    )
};

pub static PARTITION_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name)]),
    missing_header: Some("vary"),
    positional: &[NAME],
    since: Some("1.11"),
    ..Endpoint::read(
        "partition_read",
        "/v1/partition/{name}",
        "Reads an admin partition (Consul Enterprise).",
    )
};

pub static PARTITION_UPDATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name)]),
    positional: &[NAME, ENTERPRISE_DEFINITION],
    reply: Reply::Json,
    since: Some("1.11"),
    ..Endpoint::write(
        "partition_update",
        "/v1/partition/{name}",
        "Replaces an admin partition (Consul Enterprise).",
    )
};

pub static PARTITION_DELETE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[NAME],
    since: Some("1.11"),
    ..Endpoint::write(
        "partition_delete",
        "/v1/partition/{name}",
        "Deletes an admin partition (Consul Enterprise).",
    )
};

pub static NAMESPACE_LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Name", Form::Text)])),
    ..Endpoint::read(
        "namespace_list",
        "/v1/namespaces",
        "Lists the namespaces (Consul Enterprise).",
    )
};

pub static NAMESPACE_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Text)]),
    positional: &[ENTERPRISE_DEFINITION],
    repeat: Repeat::Once,
    reply: Reply::Json,
    ..Endpoint::write(
        "namespace_create",
        "/v1/namespace",
        "Creates a namespace (Consul Enterprise).",
    )
};

pub static NAMESPACE_READ: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name)]),
    missing_header: Some("vary"),
    positional: &[NAME],
    ..Endpoint::read(
        "namespace_read",
        "/v1/namespace/{name}",
        "Reads a namespace (Consul Enterprise).",
    )
};

pub static NAMESPACE_UPDATE: Endpoint = Endpoint {
    form: Form::Object(&[has("Name", Form::Name)]),
    positional: &[NAME, ENTERPRISE_DEFINITION],
    reply: Reply::Json,
    ..Endpoint::write(
        "namespace_update",
        "/v1/namespace/{name}",
        "Replaces a namespace (Consul Enterprise).",
    )
};

pub static NAMESPACE_DELETE: Endpoint = Endpoint {
    method: Verb::Delete,
    positional: &[NAME],
    ..Endpoint::write(
        "namespace_delete",
        "/v1/namespace/{name}",
        "Deletes a namespace (Consul Enterprise).",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &TOKEN_CREATE,
    &ESTABLISH,
    &READ,
    &DELETE,
    &LIST,
    &PARTITION_LIST,
    &PARTITION_CREATE,
    &PARTITION_READ,
    &PARTITION_UPDATE,
    &PARTITION_DELETE,
    &NAMESPACE_LIST,
    &NAMESPACE_CREATE,
    &NAMESPACE_READ,
    &NAMESPACE_UPDATE,
    &NAMESPACE_DELETE,
];
