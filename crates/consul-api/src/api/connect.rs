//! The service mesh: `/v1/connect`, `/v1/discovery-chain`, `/v1/exported-services`.

use crate::table::*;

const ENDS: &[Param] = &[
    Param::new("source", Shape::Text, Location::Query("source"), "The calling service."),
    Param::new("destination", Shape::Text, Location::Query("destination"), "The called service."),
];
/// Of intentions and of their permissions.
const PERMISSIONS: FreeForm = FreeForm {
    lists: &["Header", "Methods", "Permissions", "Providers", "VerifyClaims", "VerifyClaims.Path"],
    names: &["intention.DestinationName", "intention.SourceName"],
    opaque: &["Meta"],
    ..FreeForm::UNKNOWN
};
/// Source: `CommonCAProviderConfig` and the providers' configurations in Consul's folder agent/structs.
const CA: FreeForm = FreeForm {
    durations: &["IntermediateCertTTL", "LeafCertTTL", "RootCertTTL", "RotationPeriod"],
    opaque: &["Params", "State"],
    ..FreeForm::UNKNOWN
};
const INTENTION: Param = body("intention", Shape::Free(&PERMISSIONS), "The intention.");
const ID: Param = path("intention_id", Shape::Segment, "The intention's id.");

pub static CA_ROOTS: Endpoint = Endpoint {
    form: Form::Object(&[
        has("ActiveRootID", Form::Text),
        has("Roots", Form::OrNull(&Form::List(&Form::Object(&[has("ID", Form::Text)])))),
    ]),
    options: &[&[SCOPE[0]], BLOCKING],
    ..Endpoint::read("connect_ca_roots", "/v1/connect/ca/roots", "The mesh's root certificates.")
};

pub static CA_CONFIGURATION: Endpoint = Endpoint {
    form: Form::Object(&[has("Provider", Form::Text), has("Config", Form::Any)]),
    options: &[&[SCOPE[0]]],
    secret: true,
    ..Endpoint::read(
        "connect_ca_configuration",
        "/v1/connect/ca/configuration",
        "The configuration of the mesh's certificate authority.",
    )
};

pub static CA_CONFIGURATION_UPDATE: Endpoint = Endpoint {
    positional: &[body("configuration", Shape::Free(&CA), "The configuration.")],
    options: &[&[SCOPE[0]]],
    secret: true,
    ..Endpoint::write(
        "connect_ca_configuration_update",
        "/v1/connect/ca/configuration",
        "Replaces the configuration of the mesh's certificate authority.",
    )
};

pub static INTENTIONS: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[
        has("SourceName", Form::Text),
        has("DestinationName", Form::Text),
    ])),
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    filter: Some(Entries::Intention),
    ..Endpoint::read("connect_intention_list", "/v1/connect/intentions", "Lists the intentions.")
};

pub static INTENTION_READ: Endpoint = Endpoint {
    form: Form::Object(&[
        has("SourceName", Form::Given("source")),
        has("DestinationName", Form::Given("destination")),
    ]),
    missing: &["Intention not found"],
    options: &[SCOPE],
    absent: Absent::Null,
    since: Some("1.9"),
    positional: ENDS,
    ..Endpoint::read(
        "connect_intention_exact",
        "/v1/connect/intentions/exact",
        "Reads the intention between two services; nil if there is none.",
    )
};

pub static INTENTION_WRITE: Endpoint = Endpoint {
    reply: Reply::Applied,
    positional: &[ENDS[0], ENDS[1], INTENTION],
    options: &[SCOPE],
    since: Some("1.9"),
    ..Endpoint::write(
        "connect_intention_upsert",
        "/v1/connect/intentions/exact",
        "Writes the intention between two services.",
    )
};

pub static INTENTION_DELETE: Endpoint = Endpoint {
    missing: &["Intention not found"],
    reply: Reply::Applied,
    method: Verb::Delete,
    options: &[SCOPE],
    since: Some("1.9"),
    positional: ENDS,
    ..Endpoint::write(
        "connect_intention_delete",
        "/v1/connect/intentions/exact",
        "Deletes the intention between two services.",
    )
};

pub static INTENTION_CHECK: Endpoint = Endpoint {
    form: Form::Object(&[has("Allowed", Form::Bool)]),
    options: &[
        &[query("source_type", "source-type", Shape::Text, "The kind of source; default consul.")],
        SCOPE,
    ],
    positional: ENDS,
    ..Endpoint::read(
        "connect_intention_check",
        "/v1/connect/intentions/check",
        "Reports whether one service may call another.",
    )
};

pub static INTENTION_MATCH: Endpoint = Endpoint {
    form: Form::Some(&Form::ByGiven(
        "name",
        &Form::OrNull(&Form::List(&Form::Object(&[
            has("SourceName", Form::Text),
            has("DestinationName", Form::Text),
        ]))),
    )),
    positional: &[
        Param::new(
            "by",
            Shape::OneOf(&["source", "destination"]),
            Location::Query("by"),
            "Whether the names are of sources or of destinations.",
        ),
        Param::new("names", Shape::TextList, Location::Query("name"), "The services' names."),
    ],
    options: &[SCOPE],
    ..Endpoint::read(
        "connect_intention_match",
        "/v1/connect/intentions/match",
        "Lists the intentions that match services, by source or destination.",
    )
};

pub static INTENTION_CREATE: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Text)]),
    method: Verb::Post,
    positional: &[INTENTION],
    options: &[SCOPE],
    repeat: Repeat::Once,
    reply: Reply::Member("ID"),
    ..Endpoint::write(
        "connect_intention_create",
        "/v1/connect/intentions",
        "Creates an intention and returns its id; deprecated since 1.9.",
    )
};

pub static INTENTION_READ_BY_ID: Endpoint = Endpoint {
    form: Form::Object(&[
        has("ID", Form::Name),
        has("SourceName", Form::Text),
        has("DestinationName", Form::Text),
    ]),
    missing: &["Intention not found"],
    positional: &[ID],
    options: &[SCOPE],
    absent: Absent::Null,
    ..Endpoint::read(
        "connect_intention_read",
        "/v1/connect/intentions/{intention_id}",
        "Reads an intention by id; deprecated since 1.9.",
    )
};

pub static INTENTION_UPDATE_BY_ID: Endpoint = Endpoint {
    form: Form::Object(&[has("ID", Form::Name)]),
    missing: &["Intention not found"],
    positional: &[ID, INTENTION],
    options: &[SCOPE],
    ..Endpoint::write(
        "connect_intention_update",
        "/v1/connect/intentions/{intention_id}",
        "Replaces an intention by id; deprecated since 1.9.",
    )
};

pub static INTENTION_DELETE_BY_ID: Endpoint = Endpoint {
    missing: &["Intention not found", "Cannot delete non-existent intention"],
    reply: Reply::Applied,
    method: Verb::Delete,
    positional: &[ID],
    options: &[SCOPE],
    absent: Absent::Done,
    ..Endpoint::write(
        "connect_intention_delete_by_id",
        "/v1/connect/intentions/{intention_id}",
        "Deletes an intention by id; deprecated since 1.9.",
    )
};

pub static DISCOVERY_CHAIN: Endpoint = Endpoint {
    form: Form::Object(&[has("Chain", Form::Object(&[has("ServiceName", Form::Name)]))]),
    positional: &[path("service", Shape::Text, "The service's name.")],
    options: &[
        &[query("compile_dc", "compile-dc", Shape::Text, "The datacenter to compile for.")],
        CACHED,
        SCOPE,
        CONSISTENCY,
        BLOCKING,
    ],
    ..Endpoint::read(
        "discovery_chain",
        "/v1/discovery-chain/{service}",
        "The compiled discovery chain of a service.",
    )
};

pub static EXPORTED_SERVICES: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Service", Form::Text)])),
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    since: Some("1.17.3"),
    ..Endpoint::read(
        "exported_services",
        "/v1/exported-services",
        "Lists the services exported to other clusters.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[
    &CA_ROOTS,
    &CA_CONFIGURATION,
    &CA_CONFIGURATION_UPDATE,
    &INTENTIONS,
    &INTENTION_READ,
    &INTENTION_WRITE,
    &INTENTION_DELETE,
    &INTENTION_CHECK,
    &INTENTION_MATCH,
    &INTENTION_CREATE,
    &INTENTION_READ_BY_ID,
    &INTENTION_UPDATE_BY_ID,
    &INTENTION_DELETE_BY_ID,
    &DISCOVERY_CHAIN,
    &EXPORTED_SERVICES,
];
