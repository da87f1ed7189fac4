//! The rows of endpoints: their fields, and the parameters that many rows share.
//!
//! A row is the only declaration of an endpoint. Methods, argument checks, the simulated agent's routes
//! and the reference are made from it.

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

impl Verb {
    /// Its name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }
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
    /// The path. A segment `{name}` is the positional parameter of that name; only `{key}` spans several
    /// segments.
    pub path: &'static str,
    /// The positional parameters.
    pub positional: &'static [Param],
    /// The options, in groups that rows share.
    pub options: &'static [&'static [Param]],
    /// The fixed part of the query.
    pub fixed_query: &'static str,
    /// Whether the request may be sent again if it is unknown whether it was applied.
    pub repeat: Repeat,
    /// How a success becomes the value.
    pub reply: Reply,
    /// The form of a success; an answer of another form is not Consul's.
    pub form: Form,
    /// The meaning of the status 404.
    pub absent: Absent,
    /// How the text of a 404, or of a 500 of older servers, begins that says so. Any other 404 is not Consul's, and neither is
    /// one whose text names another object.
    ///
    /// Source: the handlers in Consul's folder agent, of 1.8.7 and 1.21.0.
    pub missing: &'static [&'static str],
    /// A header of a 404 without a body that says so.
    pub missing_header: Option<&'static str>,
    /// Further statuses of a success.
    pub also_success: &'static [u16],
    /// The items of the value, by which a watch tells changes apart.
    pub items: Items,
    /// The entries that the option `filter` selects from; `None`: the endpoint has no such option.
    pub filter: Option<Entries>,
    /// Whether a success can hold a secret (a token, a key), so that no message or log line may quote it.
    pub secret: bool,
    /// Whether it requires access control: without, an agent answers with 401.
    pub needs_acl: bool,
    /// Whether the agent answers by itself, also while its servers have no Raft leader.
    pub local: bool,
    /// Which parameters of Consul Enterprise a Consul without it refuses.
    pub enterprise: Enterprise,
    /// The first Consul version with it, if later than the oldest supported one.
    pub since: Option<&'static str>,
    /// One sentence for the reference.
    pub doc: &'static str,
}

impl Endpoint {
    /// Its method and path, for log lines: `GET /v1/kv/{key}`.
    pub fn template(&self) -> String {
        format!("{} {}", Method::from(self.method), self.path)
    }

    /// Whether a request can wait for a change after an index.
    pub fn can_block(&self) -> bool {
        self.all_options().any(|option| option.name == "index")
    }
}

/// Which of `ns` and `partition` a Consul without Enterprise refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enterprise {
    /// Those that the row has.
    Own,
    /// Those that the row has, without `ns`: nodes have no namespace, so it is not read for them.
    OfNodes,
    /// Those that the row has, and `partition`: the agent checks it for its members.
    OfMembers,
}

/// Whether a request may be sent again if it is unknown whether the server applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Yes: it changes nothing.
    Read,
    /// Yes: two applications leave the same state as one.
    Idempotent,
    /// No: a second application could have another effect.
    Once,
}

/// How a successful answer becomes the call's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The JSON body, with Consul's field names.
    Json,
    /// A JSON object; its value is the string in this member.
    Member(&'static str),
    /// A JSON list; its first item is the value, and an empty list means that it does not exist.
    FirstItem,
    /// A list with one KV entry, whose `Value` is the value as bytes; the other members are metadata.
    KvValue,
    /// A list of KV entries whose `Value` is bytes.
    KvEntries,
    /// `true`, or `false` for a conflict.
    Applied,
    /// A body that says nothing more than the status: the value is true. With a parameter that guards the request, as
    /// [`Reply::Applied`].
    Done,
    /// JSON with event payloads, which become bytes.
    Events,
    /// The results of a transaction.
    Txn,
    /// Bytes.
    Body,
    /// Bytes that are compressed by gzip.
    Archive,
}

/// The form of an answer's JSON, which is checked while it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Any JSON.
    Any,
    /// None: the body is empty.
    Nothing,
    /// A string.
    Text,
    /// True or false.
    Bool,
    /// A number.
    Number,
    /// Base64 that becomes bytes; null becomes the empty string.
    Bytes,
    /// The name at the end of the request's path, in any case.
    Name,
    /// The same, or any name if the path ends with what can be the beginning of an id.
    ///
    /// Source: `nodeServices` in Consul's agent/consul/state/catalog.go.
    NameOrId,
    /// The key at the end of the request's path.
    Key,
    /// A key that begins with the prefix at the end of the request's path.
    Under,
    /// A value of this parameter of the request in any case, or any string if the request does not have it. One of Consul's
    /// fields is looked for in the body.
    Given(&'static str),
    /// This list, object or string, which is not empty, but for the keys below the empty prefix.
    Some(&'static Form),
    /// The address of a server, `host:port`, or the empty string.
    Address,
    /// This, or null: a pointer or a slice of Go that can be nil.
    OrNull(&'static Form),
    /// A list of these.
    List(&'static Form),
    /// A list of these. Some items may have another form, but not all: the reader leaves those out.
    Entries(&'static Form),
    /// An object whose members, of any name, are these.
    Map(&'static Form),
    /// An object whose members, named by values of this parameter of the request, are these.
    ByGiven(&'static str, &'static Form),
    /// An object with these members; others are not looked at.
    Object(&'static [Member]),
}

/// A member of [`Form::Object`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Consul's name.
    pub name: &'static str,
    /// Its value.
    pub form: Form,
    /// Whether it can be missing.
    pub is_optional: bool,
}

/// A member that is always there.
pub const fn has(name: &'static str, form: Form) -> Member {
    Member { name, form, is_optional: false }
}

/// A member that can be missing.
pub const fn may_have(name: &'static str, form: Form) -> Member {
    Member { name, form, is_optional: true }
}

/// The meaning of the status 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An error of kind `not_found`.
    Error,
    /// A success with null.
    Null,
    /// A success with an empty list.
    EmptyList,
    /// A success: it is deleted.
    Done,
    /// An error of kind `session_invalid`.
    SessionInvalid,
}

/// One parameter of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in Lua.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Shape,
    /// Its location in the request.
    pub location: Location,
    /// Whether it may be omitted.
    pub optional: bool,
    /// Set if it is a condition of the write, which makes the request [`Repeat::Once`]: the reason if
    /// Consul answers `false`.
    pub guards: Option<&'static str>,
    /// One sentence for the reference.
    pub doc: &'static str,
}

/// The items of a read's value, by which a watch tells changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Items {
    /// The value is one item.
    One,
    /// The value is a list; these paths of members identify an item.
    By(&'static [&'static [&'static str]]),
    /// The value is a list of strings.
    Texts,
    /// The value is a map, by names.
    Named,
}

/// The entries of a list or map that `filter` selects from, by the fields that an expression can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// An instance as its agent knows it.
    AgentService,
    /// A check as its agent knows it.
    AgentCheck,
    /// A check in the catalog.
    Check,
    /// A central configuration entry.
    ConfigEntry,
    /// An instance with its node and checks.
    Instance,
    /// An intention of the mesh.
    Intention,
    /// A member of the gossip pool.
    Member,
    /// A node.
    Node,
    /// An instance of a node.
    NodeService,
    /// An instance with the fields of its node.
    ServiceNode,
}

/// The location of a parameter in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// The path's segment of the parameter's name.
    Path,
    /// The query, under this name.
    Query(&'static str),
    /// The query: each member of the table under its own name.
    QueryMembers,
    /// A header of this name.
    Header(&'static str),
    /// The body.
    Body,
    /// None: it is an option of the client's call.
    Call,
}

/// The values that a parameter, or a field of a body, takes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A non-empty UTF-8 string.
    Text,
    /// The same; a path finds the registered object by it.
    Name,
    /// The same without a `/`: an id, or what another parameter follows in the path. Consul reads `%2F` as a `/`.
    Segment,
    /// A UTF-8 string that may be empty.
    TextOrEmpty,
    /// A key that the server stores under exactly this name.
    Key,
    /// As [`Shape::Key`], or empty.
    KeyPrefix,
    /// A path that is percent-encoded already.
    EncodedPath,
    /// Bytes: a string as it is, a number or boolean as its text, a table as JSON.
    Payload,
    /// As [`Shape::Payload`], in a JSON body: sent as base64.
    Base64,
    /// True or false.
    Bool,
    /// True or false; true is sent as a parameter without a value.
    Flag,
    /// An integer from 0 to 2^64-1: a number, a decimal string, a LuaJIT `ULL`.
    Uint,
    /// An integer from 0 to 65535, as [`Shape::Uint`] takes it.
    Port,
    /// A duration: seconds as a number, or a Go string.
    Duration {
        /// The minimum, in seconds; 0 is always allowed.
        min_s: u64,
        /// The maximum, in seconds.
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
    /// A table of Consul's fields, which are not declared here, but for these.
    Free(&'static FreeForm),
    /// Any table.
    Any,
    /// Any value, which is not sent: a read has it, and a write refuses it.
    NotSent,
}

/// The types of fields of a body that are not declared, by their names at any depth.
#[derive(Debug)]
pub struct FreeForm {
    /// Durations: a number is in seconds.
    pub durations: &'static [&'static str],
    /// The [`Self::durations`] that Consul answers as nanoseconds: in an object that it has answered, a number can be
    /// in these. `Check.Interval` is one of this name in a table `Check` alone.
    pub answered_in_nanoseconds: &'static [&'static str],
    /// Durations that Consul reads from nanoseconds alone: a number is in seconds, and one below 0 is sent as it is. In an
    /// object that Consul has answered, it can be in nanoseconds.
    pub nanoseconds: &'static [&'static str],
    /// Lists, as which an empty table is sent. `HTTP.Header` is one of this name in a table `HTTP` alone, `Header.*` each
    /// member of `Header`.
    pub lists: &'static [&'static str],
    /// Names by which a path finds the created object, each with its table: `entry.Name`.
    pub names: &'static [&'static str],
    /// Tables by names of the program, of tables with Consul's fields.
    pub by_name: &'static [&'static str],
    /// Tables of a proxy or of a program of the user's, which are sent as they are at every depth. Only in the table
    /// passive_health_check there a number of [`Self::durations`] is in seconds: Consul reads that itself.
    pub kept: &'static [&'static str],
    /// Tables that are sent as they are.
    pub opaque: &'static [&'static str],
}

impl FreeForm {
    /// A table about which nothing is known.
    pub const UNKNOWN: FreeForm = FreeForm {
        durations: &[],
        answered_in_nanoseconds: &[],
        nanoseconds: &[],
        lists: &[],
        names: &[],
        by_name: &[],
        kept: &[],
        opaque: &[],
    };
}

/// One field of a request's JSON body.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Consul's name; a program may also write it in snake_case.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Shape,
    /// A few words for the reference.
    pub doc: &'static str,
}

/// Makes a [`Field`].
pub const fn field(name: &'static str, kind: Shape, doc: &'static str) -> Field {
    Field { name, kind, doc }
}

/// Any duration that Consul can represent.
pub const DURATION: Shape = Shape::Duration { min_s: 0, max_s: u32::MAX as u64 };

impl Param {
    /// A required parameter.
    pub const fn new(
        name: &'static str,
        kind: Shape,
        location: Location,
        doc: &'static str,
    ) -> Self {
        Param { name, kind, location, optional: false, guards: None, doc }
    }

    /// The same parameter, which may be omitted.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same parameter as a condition of the write, with the reason if Consul answers `false`.
    pub const fn guards(mut self, reason: &'static str) -> Self {
        self.guards = Some(reason);
        self
    }
}

/// A parameter for the path's segment `{name}`.
pub const fn path(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Location::Path, doc)
}

/// A required parameter for the body.
pub const fn body(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Location::Body, doc)
}

/// An option for the query, under the name `query`.
pub const fn query(
    name: &'static str,
    query: &'static str,
    kind: Shape,
    doc: &'static str,
) -> Param {
    Param::new(name, kind, Location::Query(query), doc).optional()
}

/// An option of the client's call.
pub const fn call(name: &'static str, kind: Shape, doc: &'static str) -> Param {
    Param::new(name, kind, Location::Call, doc).optional()
}

/// Options that every method takes.
pub const COMMON: &[Param] = &[
    call(
        "timeout_ms",
        Shape::Millis,
        "The time limit of the call, all attempts and the wait of a blocking query included.",
    ),
    call(
        "retry",
        Shape::Bool,
        "False: the request is sent again only if the server cannot have seen it, and the outcome is not looked up.",
    ),
    Param::new(
        "token",
        Shape::TextOrEmpty,
        Location::Header("x-consul-token"),
        "The ACL token for this call instead of the client's; empty: none.",
    )
    .optional(),
];

/// Options that select a part of the data.
pub const SCOPE: &[Param] = &[
    query("dc", "dc", Shape::Text, "The datacenter; default: the agent's own."),
    query("namespace", "ns", Shape::Text, "The namespace (Consul Enterprise)."),
    query("partition", "partition", Shape::Text, "The admin partition (Consul Enterprise)."),
];

/// Options for the consistency of a read.
pub const CONSISTENCY: &[Param] = &[
    query("stale", "stale", Shape::Flag, "Any server may answer, also one without a leader."),
    query(
        "consistent",
        "consistent",
        Shape::Flag,
        "The leader confirms its leadership before it answers: linearizable.",
    ),
    call(
        "stale_if_error",
        Shape::Bool,
        "True: if the leader does not answer, any server may, and `meta.stale` is true.",
    ),
];

/// Options that turn a read into a blocking query.
pub const BLOCKING: &[Param] = &[
    query(
        "index",
        "index",
        Shape::Uint,
        "Wait until there is a newer state than that of this index.",
    ),
    query(
        "wait",
        "wait",
        Shape::Duration { min_s: 0, max_s: 600 },
        "The longest wait; Consul adds up to a sixteenth. Default 5 minutes; with 0 the query does not wait.",
    ),
];

/// The option of reads that the agent may answer from its cache.
pub const CACHED: &[Param] = &[
    query("cached", "cached", Shape::Flag, "The agent may answer from its cache."),
    Param::new(
        "cache_control",
        Shape::Text,
        Location::Header("cache-control"),
        "How old an answer of the cache may be, in seconds: `max-age=30`, `stale-if-error=60`, `must-revalidate`, or several \
         with commas.",
    )
    .optional(),
];

/// The option of reads of services that another cluster exports.
pub const PEER: &[Param] =
    &[query("peer", "peer", Shape::Text, "The peer to read from (from 1.13).")];

/// The option of reads of mesh services.
pub const MESH: &[Param] = &[query(
    "merge_central_config",
    "merge-central-config",
    Shape::Flag,
    "Merge the central proxy configuration into each instance (from 1.13).",
)];

/// The option of endpoints with [`Endpoint::filter`].
pub const FILTER: &[Param] =
    &[query("filter", "filter", Shape::Text, "A filter expression that the server evaluates.")];

/// Options that sort a list by distance and select by node.
pub const NODES: &[Param] = &[
    query("near", "near", Shape::Text, "Sort by distance from this node, or from `_agent`."),
    query("node_meta", "node-meta", Shape::TextMap, "Only nodes with all of this metadata."),
];

impl Endpoint {
    /// A GET that returns JSON; a row sets the other fields by struct update.
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
            form: Form::Any,
            absent: Absent::Error,
            missing: &[],
            missing_header: None,
            also_success: &[],
            items: Items::One,
            filter: None,
            secret: false,
            needs_acl: false,
            local: false,
            enterprise: Enterprise::Own,
            since: None,
            doc,
        }
    }

    /// An idempotent PUT that returns nothing.
    pub const fn write(name: &'static str, path: &'static str, doc: &'static str) -> Self {
        Endpoint {
            method: Verb::Put,
            repeat: Repeat::Idempotent,
            reply: Reply::Done,
            form: Form::Nothing,
            ..Self::read(name, path, doc)
        }
    }

    /// Whether every supported release has it.
    pub fn is_in_every_release(&self) -> bool {
        let is_enterprise = self.path.starts_with("/v1/namespace");
        self.path.starts_with("/v1/") && self.since.is_none() && !is_enterprise
    }

    /// The value of its path's last parameter in this path, as it was sent.
    pub fn subject<'a>(&self, path: &'a str) -> &'a str {
        let Some((before, after)) = self.path.rsplit_once('{') else { return "" };
        let segments = path.splitn(before.matches('/').count() + 1, '/');
        let rest = segments.last().unwrap_or_default();
        let tail = after.split_once('}').map_or("", |(_, tail)| tail);
        rest.strip_suffix(tail).unwrap_or(rest)
    }

    /// Each segment of a path in place of a parameter, with the parameter's name.
    pub fn segments<'a>(&self, path: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
        let pairs = self.path.split('/').zip(path.split('/'));
        pairs.filter_map(|(wanted, found)| {
            Some((wanted.strip_prefix('{')?.strip_suffix('}')?, found))
        })
    }

    /// The row to which Consul would route this plain path of this one: the one with more of the path in its template.
    ///
    /// Source: `ServeMux` of Go, and the handlers in Consul's folder agent, which look for the ends.
    pub(crate) fn routed_elsewhere(&self, plain: &str) -> Option<&'static Endpoint> {
        let fixed = |(begins, ends): (&str, &str)| begins.len() + ends.len();
        let own = self.around_parameters().map_or(usize::MAX, fixed);
        let takes = |other: &&Endpoint| match other.around_parameters() {
            None => other.path == plain,
            Some((begins, ends)) => {
                fixed((begins, ends)) > own
                    && plain.strip_prefix(begins).is_some_and(|rest| rest.ends_with(ends))
            }
        };
        crate::endpoints().filter(|other| other.path != self.path).find(takes)
    }

    /// The texts before and after the parameters of its path, if it has any.
    fn around_parameters(&self) -> Option<(&'static str, &'static str)> {
        let (begins, rest) = self.path.split_once('{')?;
        Some((begins, rest.rsplit_once('}').map_or("", |(_, ends)| ends)))
    }

    /// Every option of the endpoint.
    pub fn all_options(&self) -> impl Iterator<Item = &'static Param> {
        let filter = self.filter.map_or(&[][..], |_| FILTER);
        self.options.iter().copied().flatten().chain(filter).chain(COMMON)
    }

    /// Whether this path, without its query, is one of this endpoint.
    pub fn is_at(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for wanted in self.path.split('/') {
            match segments.next() {
                Some(_) if wanted == "{key}" => return true,
                Some(segment) if wanted.starts_with('{') && !segment.is_empty() => {}
                Some(segment) if segment == wanted => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}
