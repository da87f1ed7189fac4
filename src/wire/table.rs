//! The table of endpoints: what a row says, and the parameters that many rows share.
//!
//! A row is the only place where an endpoint is declared. Methods, argument checks, the simulated
//! agent's routes and the reference all come from it.

use http::Method;

/// The HTTP methods that Consul uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// GET
    Get,
    /// PUT
    Put,
    /// POST
    Post,
    /// DELETE
    Delete,
}

impl From<Verb> for Method {
    fn from(verb: Verb) -> Method {
        match verb {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
            Verb::Post => Method::POST,
            Verb::Delete => Method::DELETE,
        }
    }
}

/// One operation of Consul's HTTP API.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The method's name in Lua.
    pub name: &'static str,
    /// The HTTP method.
    pub method: Verb,
    /// The path; a segment `{name}` is the positional parameter of that name. Only `{key}` spans
    /// several segments.
    pub path: &'static str,
    /// The positional parameters, in their order.
    pub positional: &'static [Param],
    /// The named parameters, in groups that rows share.
    pub options: &'static [&'static [Param]],
    /// What the request always says in its query, besides the parameters.
    pub fixed_query: &'static str,
    /// Whether the request may be sent again when its fate is unknown.
    pub repeat: Repeat,
    /// What a successful answer is.
    pub reply: Reply,
    /// What the answer 404 means.
    pub absent: Absent,
    /// Statuses besides 2xx whose body is the answer.
    pub also_success: &'static [u16],
    /// The first Consul that has it, when that is later than the oldest supported one.
    pub since: Option<&'static str>,
    /// What it does, in one sentence.
    pub doc: &'static str,
}

/// Whether a request may be sent again when it is unknown if the server applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing.
    Read,
    /// Applied twice it leaves the same state as applied once.
    Idempotent,
    /// A second application could do something else: never sent twice blindly.
    Once,
}

/// How a successful answer becomes the call's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The JSON body, with Consul's field names.
    Json,
    /// The one string in the JSON object's member of this name.
    Member(&'static str),
    /// The first item of the JSON list; an empty list is an absent thing.
    FirstItem,
    /// The value of one KV entry as bytes; the rest of the entry goes to the metadata.
    KvValue,
    /// A list of KV entries whose `Value` is bytes.
    KvEntries,
    /// `true`; `false` is a conflict.
    Applied,
    /// Nothing but the success.
    Done,
    /// The JSON body, whose event payloads are bytes.
    Events,
    /// The results of a transaction.
    Txn,
    /// The body's bytes as they are.
    Body,
}

/// What an answer 404 means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An error of kind `not_found`.
    Error,
    /// Success with nothing.
    Null,
    /// Success with an empty list.
    EmptyList,
    /// Success: what should go is gone.
    Done,
    /// An error of kind `session_invalid`.
    SessionInvalid,
}

/// One parameter of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in Lua.
    pub name: &'static str,
    /// What it takes.
    pub kind: Shape,
    /// Where it goes in the request.
    pub place: Place,
    /// Whether it can be left out.
    pub optional: bool,
    /// Set when its presence makes the request [`Repeat::Once`]: why Consul then answers `false`.
    pub guards: Option<&'static str>,
    /// What it is for, in one sentence.
    pub doc: &'static str,
}

/// Where a parameter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The path's segment of the parameter's name.
    Path,
    /// The query, under this name.
    Query(&'static str),
    /// The query, each member of the table under its own name.
    QueryMembers,
    /// A header of this name.
    Header(&'static str),
    /// The body.
    Body,
    /// Not sent: it changes how the client makes the call.
    Call,
}

/// What a parameter or a field of a body takes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A non-empty UTF-8 string.
    Text,
    /// A UTF-8 string that may be empty.
    TextOrEmpty,
    /// A key that the server will store under exactly this name.
    Key,
    /// As [`Shape::Key`], but may be empty.
    KeyPrefix,
    /// A path as it goes to the server, already encoded.
    EncodedPath,
    /// Bytes: a string as it is, a number or boolean as its text, a table as JSON.
    Payload,
    /// A string of bytes, sent as base64.
    Base64,
    /// True or false.
    Bool,
    /// True or false, sent by presence.
    Flag,
    /// An integer from 0 to 2^64-1: a number, a decimal string, a LuaJIT `ULL`.
    Uint,
    /// An integer.
    Int,
    /// A duration: seconds as a number, or a Go string.
    Duration {
        /// The shortest one taken, in seconds; 0 is always taken.
        min_s: u64,
        /// The longest one taken, in seconds.
        max_s: u64,
    },
    /// A positive number of milliseconds.
    Millis,
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A string or a list of strings.
    TextList,
    /// A table of strings by name.
    TextMap,
    /// A table of string lists by name.
    TextListMap,
    /// A table with these fields.
    Object(&'static [Field]),
    /// A list of tables with these fields.
    Objects(&'static [Field]),
    /// A table by name of tables with these fields.
    ObjectMap(&'static [Field]),
    /// Any table.
    Any,
}

/// One field of a request's JSON body.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Consul's name; a program may also write it in snake_case.
    pub name: &'static str,
    /// What it takes.
    pub kind: Shape,
    /// What it is for, in a few words.
    pub doc: &'static str,
}

/// A field.
pub const fn field(name: &'static str, kind: Shape, doc: &'static str) -> Field {
    Field { name, kind, doc }
}

/// Any duration that Consul can hold.
pub const DURATION: Shape = Shape::Duration { min_s: 0, max_s: u32::MAX as u64 };

impl Param {
    /// A parameter that must be given.
    pub const fn new(name: &'static str, kind: Shape, place: Place, doc: &'static str) -> Self {
        Param { name, kind, place, optional: false, guards: None, doc }
    }

    /// The same parameter, which may be left out.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same parameter, whose presence guards the write: when Consul answers `false`, `reason`
    /// says why, and the request is never sent twice blindly.
    pub const fn guards(mut self, reason: &'static str) -> Self {
        self.guards = Some(reason);
        self
    }
}

/// A parameter that fills the path's segment `{name}`.
pub const fn path(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Place::Path, doc)
}

/// A parameter that is the body.
pub const fn body(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Place::Body, doc)
}

/// An option that goes into the query under `query`.
pub const fn query(
    name: &'static str,
    query: &'static str,
    kind: Shape,
    doc: &'static str,
) -> Param {
    Param::new(name, kind, Place::Query(query), doc).optional()
}

const fn call(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Place::Call, doc).optional()
}

/// Options that every method takes.
pub const COMMON: &[Param] = &[
    call("timeout_ms", Shape::Millis, "The longest the call may take, all attempts together."),
    call(
        "retry",
        Shape::Bool,
        "False: the request is sent at most once, and its fate is not looked up.",
    ),
    Param::new(
        "token",
        Shape::Text,
        Place::Header("x-consul-token"),
        "The ACL token for this call instead of the client's.",
    )
    .optional(),
];

/// Options that name the part of the catalog to speak to.
pub const SCOPE: &[Param] = &[
    query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own."),
    query("namespace", "ns", Shape::Text, "The namespace (Consul Enterprise)."),
    query("partition", "partition", Shape::Text, "The admin partition (Consul Enterprise)."),
];

/// Options for how fresh a read must be.
pub const CONSISTENCY: &[Param] = &[
    query("stale", "stale", Shape::Flag, "Any server may answer, even one that has no leader."),
    query(
        "consistent",
        "consistent",
        Shape::Flag,
        "The leader confirms its leadership before it answers: linearizable.",
    ),
    call(
        "stale_if_error",
        Shape::Bool,
        "True: when the leader does not answer, any server may; `meta.stale` then says so.",
    ),
];

/// Options that turn a read into a blocking query.
pub const BLOCKING: &[Param] = &[
    query("index", "index", Shape::Uint, "Wait until the result is newer than this index."),
    query(
        "wait",
        "wait",
        Shape::Duration { min_s: 0, max_s: 600 },
        "The longest wait; Consul adds up to a sixteenth. Default 5 minutes.",
    ),
];

/// Reads that the agent may answer from its cache.
pub const CACHED: &[Param] =
    &[query("cached", "cached", Shape::Flag, "The agent may answer from its cache.")];

/// Reads of services that another cluster exports.
pub const PEER: &[Param] =
    &[query("peer", "peer", Shape::Text, "The peer to read from (from 1.13).")];

/// Reads of mesh services.
pub const MESH: &[Param] = &[query(
    "merge_central_config",
    "merge-central-config",
    Shape::Flag,
    "Merge the central proxy configuration into each instance (from 1.13).",
)];

/// Server-side filtering.
pub const FILTER: &[Param] =
    &[query("filter", "filter", Shape::Text, "A filter expression that the server evaluates.")];

/// Options of reads that can be sorted and narrowed by node.
pub const NODES: &[Param] = &[
    query("near", "near", Shape::Text, "Sort by distance from this node, or from `_agent`."),
    query("node_meta", "node-meta", Shape::TextMap, "Only nodes that have all this metadata."),
];

impl Endpoint {
    /// A row with the commonest properties; the rest is set by struct update.
    pub const fn read(name: &'static str, path: &'static str, doc: &'static str) -> Self {
        Endpoint {
            name,
            method: Verb::Get,
            path,
            positional: &[],
            options: &[],
            fixed_query: "",
            repeat: Repeat::Read,
            reply: Reply::Json,
            absent: Absent::Error,
            also_success: &[],
            since: None,
            doc,
        }
    }

    /// A row for an idempotent PUT; the rest is set by struct update.
    pub const fn write(name: &'static str, path: &'static str, doc: &'static str) -> Self {
        Endpoint {
            method: Verb::Put,
            repeat: Repeat::Idempotent,
            reply: Reply::Done,
            ..Self::read(name, path, doc)
        }
    }

    /// Every option that the endpoint takes.
    pub fn all_options(&self) -> impl Iterator<Item = &'static Param> {
        self.options.iter().copied().flatten().chain(COMMON)
    }
}
