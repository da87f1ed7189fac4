//! Central configuration: `/v1/config`.

use crate::table::*;

const KIND: Param =
    path("kind", Shape::Segment, "The kind, such as service-defaults or proxy-defaults.");
const NAME: Param = path("name", Shape::Text, "The entry's name.");
const CAS: &[Param] = &[query(
    "cas",
    "cas",
    Shape::Uint,
    "Write only if the entry has this modify index; 0: only if it does not exist.",
)
.guards("the entry has another modify index")];

pub static LIST: Endpoint = Endpoint {
    form: Form::List(&Form::Object(&[has("Kind", Form::Name)])),
    positional: &[KIND],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    filter: Some(Entries::ConfigEntry),
    secret: true,
    ..Endpoint::read("config_list", "/v1/config/{kind}", "Lists the entries of a kind.")
};

pub static READ: Endpoint = Endpoint {
    form: Form::Object(&[has("Kind", Form::Given("kind")), may_have("Name", Form::Name)]),
    missing: &["Config entry not found"],
    positional: &[KIND, NAME],
    options: &[SCOPE, CONSISTENCY, BLOCKING],
    absent: Absent::Null,
    secret: true,
    ..Endpoint::read(
        "config_read",
        "/v1/config/{kind}/{name}",
        "Reads an entry; nil if it does not exist.",
    )
};

/// Source: the kinds of `ConfigEntry` in Consul's folders api and agent/structs.
pub const ENTRY: FreeForm = FreeForm {
    durations: &[
        "BaseEjectionTime",
        "BaseInterval",
        "CacheDuration",
        "ConnectTimeout",
        "IdleTimeout",
        "Interval",
        "MaxInterval",
        "RequestTimeout",
        "TTL",
    ],
    // Recorded on 1.8.7 and 1.21.0; the others are texts.
    answered_in_nanoseconds: &[
        "CookieConfig.TTL",
        "JWKSCluster.ConnectTimeout",
        "PassiveHealthCheck.BaseEjectionTime",
        "PassiveHealthCheck.Interval",
        "Remote.CacheDuration",
        "RetryPolicyBackOff.BaseInterval",
        "RetryPolicyBackOff.MaxInterval",
        "TimeoutFilter.IdleTimeout",
        "TimeoutFilter.RequestTimeout",
    ],
    nanoseconds: &[],
    lists: &[
        "Addresses",
        "Audiences",
        "Certificates",
        "CipherSuites",
        "Conditions",
        "Consumers",
        "Datacenters",
        "EnvoyExtensions",
        "HashPolicies",
        "HTTP.Header",
        "HTTP.QueryParam",
        "Headers",
        "Hostnames",
        "Hosts",
        "Listeners",
        "Locations",
        "Matches",
        "Members",
        "Methods",
        "Overrides",
        "Parents",
        "Paths",
        "Permissions",
        "Providers",
        "Query",
        "Regions",
        "Remove",
        "RetryOn",
        "RetryOnStatusCodes",
        "Routes",
        "Rules",
        "Services",
        "Sources",
        "Splits",
        "Targets",
        "VerifyClaims",
        "VerifyClaims.Path",
    ],
    names: &["entry.Kind", "entry.Name"],
    by_name: &["Failover", "Subsets"],
    kept: &["Config"],
    opaque: &["Add", "Arguments", "LegacyMeta", "Meta", "Set"],
};

pub static WRITE: Endpoint = Endpoint {
    positional: &[body("entry", Shape::Free(&ENTRY), "The entry.")],
    options: &[CAS, SCOPE],
    reply: Reply::Applied,
    ..Endpoint::write(
        "config_write",
        "/v1/config",
        "Writes an entry, which contains its Kind and Name.",
    )
};

pub static DELETE: Endpoint = Endpoint {
    form: Form::Map(&Form::Nothing),
    method: Verb::Delete,
    positional: &[KIND, NAME],
    options: &[
        &[query(
            "cas",
            "cas",
            Shape::Uint,
            "Delete only if the entry has this modify index (from 1.11; earlier ones delete it, and the call fails).",
        )
        .guards("the entry has another modify index")],
        SCOPE,
    ],
    ..Endpoint::write(
        "config_delete",
        "/v1/config/{kind}/{name}",
        "Deletes an entry; succeeds also if it does not exist.",
    )
};

pub const ENDPOINTS: &[&Endpoint] = &[&LIST, &READ, &WRITE, &DELETE];
