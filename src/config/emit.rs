//! The reference of the options, made from their declarations: `docs/configuration.md` for people,
//! a class for the Lua language server.

use super::CLUSTER_OPTIONS;
use super::options::{OPTIONS, Setting};
use std::fmt::Write;

/// The reference for people, in Markdown.
pub fn configuration_md() -> String {
    let mut page = String::from(HEAD);
    page.push_str(&table(OPTIONS));
    page.push_str("\n## Each option\n");
    page.push_str(&sections(OPTIONS));
    page.push_str(TAIL);
    page.push_str(CLUSTER);
    page.push_str(&table(CLUSTER_OPTIONS));
    page.push_str(&sections(CLUSTER_OPTIONS));
    page
}

fn table<C>(options: &[Setting<C>]) -> String {
    let mut table = "| option | takes | environment | default |\n|---|---|---|---|\n".to_owned();
    for Setting { name, takes, env, default, .. } in options {
        let env = env.map_or(String::new(), |env| format!("`{env}`"));
        let words = takes.words();
        let _ = writeln!(table, "| [`{name}`](#{name}) | {words} | {env} | {default} |");
    }
    table
}

fn sections<C>(options: &[Setting<C>]) -> String {
    let mut sections = String::new();
    for Setting { name, aliases, doc, .. } in options {
        let _ = write!(sections, "\n### {name}\n\n{doc}\n");
        if !aliases.is_empty() {
            let names: Vec<_> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let _ = write!(sections, "\nOther names: {}.\n", names.join(", "));
        }
    }
    sections
}

/// The classes of the configurations for the Lua language server.
pub fn lua_classes() -> String {
    let client = "\n---What a client is made with; docs/configuration.md says more.\n\
         ---@class consul_ffi.ConsulConfig\n";
    let node = "\n---What a node of a cluster is made with; docs/configuration.md says more.\n\
         ---@class consul_ffi.ClusterConfig: consul_ffi.ConsulConfig\n";
    [client, &fields(OPTIONS), node, &fields(CLUSTER_OPTIONS)].concat()
}

fn fields<C>(options: &[Setting<C>]) -> String {
    let mut fields = String::new();
    for Setting { name, aliases, takes, doc, default, .. } in options {
        let lua_type = takes.lua_type();
        let _ = writeln!(fields, "---@field {name}? {lua_type} {doc} Default: {default}.");
        for alias in *aliases {
            let _ = writeln!(fields, "---@field {alias}? {lua_type} Another name of {name}.");
        }
    }
    fields
}

const CLUSTER: &str = "
## Options of a cluster's node

`ConsulHACluster:new(config)` takes these besides those of a client.

";

const HEAD: &str = "\
# Configuration

Made from the options in `src/config` by `make docs`; do not edit.

`consul_ffi.new(config)` takes a table of these options. What the program does not say comes from the environment, and
else is the default; an empty environment variable counts as none, and a boolean one is `1`, `t`, `true`, `0`, `f` or
`false`, small or capital. `new` raises when an option is unknown (and names the nearest), has a wrong type or value, or
contradicts another one, and when a file cannot be read or used. It touches no network.

";

const TAIL: &str = "
## What contradicts

These are refused when the client is made, naming both options:

- a certificate without its key, or a key without its certificate;
- `token` with `token_file`, when the program says both. In the environment the file wins, as with Consul's own client;
  one that the program says beats either of the environment's;
- `consistency = \"consistent\"` with `stale_if_error`;
- `tls = false` with an `https://` endpoint, and `tls = true` with nothing but unix sockets;
- an option `tls_…` that the program says when no endpoint uses TLS. The environment's are not looked at then;
- one option by two of its names.

A call that says `consistent` together with `stale`, `cached` or `stale_if_error` fails with `argument`.

## Endpoints

With several endpoints each has its own scheme: `http://`, `https://` and `unix://` can stand in one list. `tls = true`,
or `CONSUL_HTTP_SSL=true`, turns `http://` into `https://`, as with Consul's own client: an address never takes back a
request for TLS. `CONSUL_HTTP_SSL=false` leaves `https://` as it is. The port is 80 or 443 when none is named; Consul's
are 8500 and 8501.

Redirects are never followed: a server sends one when a key is not what it stores, and following it would read or write
another key. The call fails with `argument`.

## TLS

TLS 1.2 and 1.3, with no library of the system. Without `tls_ca_file` and `tls_ca_path` the authorities of the system are
trusted; `SSL_CERT_FILE` and `SSL_CERT_DIR` name another store. A server's certificate must be for the endpoint's host,
or for `tls_server_name`, by its subject alternative names; a common name alone does not count. A certificate of one's
own that nobody else signed is trusted by naming it in `tls_ca_file`.

Certificates and keys are read when the client is made, and not again. A handshake that fails is an error of kind `tls`
that says why: no trusted authority, another name, expired, a demand for a certificate of the client, no TLS on that
port.

## The token's file

White space around the token is taken off. The file is looked at again at most once a second, when a call is made; and
when a call is refused with `acl_not_found` or `permission_denied` and the file has another token by then, the call is
made once more with that one. So a token that is replaced in the file before it is deleted in Consul costs no failed
call. While the file cannot be read or is empty, the last token stays in use, with a line at `WARN`. A call's own option
`token` wins over both.

## Connections

A connection is kept after its answer was read and used again for the next request. A client has no thread of its own,
so a connection that was idle for too long is closed when the client makes its next call, whichever endpoint that goes
to.

## Log lines

They go to standard error, and only those of this library. No level shows a token, a password, or the body of a request
or of a success; errors are shown with what the server says in them.

| level | what |
|---|---|
| `ERROR` | somebody must act: a cluster's shard map is frozen, or what stands in its key is none |
| `WARN` | something needs a look although calls may succeed: one of several endpoints fails and is left alone for a while; the file of the token cannot be used |
| `INFO` | something changed: an endpoint answers again; the leader does not answer and any server may (`stale_if_error`); the file of the token holds a new one |
| `DEBUG` | each call and how each attempt ended: its method and main argument, the attempts, the error |
";
