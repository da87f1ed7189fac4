//! `ConsulClient`: a method for each endpoint, and the objects that a client creates.

pub(super) mod arguments;
pub(super) mod background;
mod batch;
pub(super) mod consul_client;
mod foreground;
pub(super) mod loop_call;
mod registered;
pub(super) mod service_view;
pub(super) mod service_views;
pub(super) mod watch;

use super::coordination::lock;
use super::runtime::handle::Handle;
use super::runtime::native::{self, Call, Class, Failure, Method, Returned};
use super::runtime::{log, value};
use arguments::HTTP_REQUEST;
use consul_api as wire;
use consul_api::api::{agent, health, session};
use consul_api::error::Error;
use consul_api::request::Request;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_client::ConsulClient;
use consul_config::{Config, OPTIONS, Simulate};
use loop_call::InLoop;
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

const METHODS: &[Method<ConsulClient>] = &[
    Method::raising("__tostring", |call| native::text(call.lua, &call.object.shown())),
    Method::new("close", |call| {
        call.object.close();
        Ok(Returned::done())
    }),
    Method::raising("registered", |call| {
        Ok(Returned::Value(value::to_lua(call.lua, &call.object.registered())?))
    }),
    Method::new("batch", batch::batch),
    Method::new("start", start),
    Method::new("watch", watch::open),
    Method::new("service_view", service_view::open),
    Method::new("service_views", service_views::open),
    Method::new("lock", lock::new_lock),
    Method::new("semaphore", lock::new_semaphore),
];

/// The fields, for older programs.
const FIELDS: &[Method<ConsulClient>] = &[
    Method::raising("initialized", |call| {
        Ok(Returned::Value(LuaValue::Boolean(call.object.is_open())))
    }),
    Method::raising("consul_url", |call| {
        native::text(call.lua, call.object.config.endpoints.first().map_or("", String::as_str))
    }),
    Method::raising("timeout", |call| {
        let ms = call.object.config.timeout.as_millis() as u64;
        Ok(Returned::Value(value::to_lua(call.lua, &ms.into())?))
    }),
    Method::raising("simulate", |call| {
        let is_simulated = call.object.config.simulate != Simulate::No;
        Ok(Returned::Value(LuaValue::Boolean(is_simulated)))
    }),
];

/// Rows under the names that they have in older programs, with which their errors begin.
static OLDER: [Endpoint; 5] = [
    Endpoint { name: "register_service", ..agent::SERVICE_REGISTER },
    Endpoint { name: "deregister_service", ..agent::SERVICE_DEREGISTER },
    Endpoint { name: "discover_services", ..health::SERVICE },
    Endpoint { name: "create_session", ..session::CREATE },
    Endpoint { name: "destroy_session", ..session::DESTROY },
];

impl Class for ConsulClient {
    const NAME: &'static str = "ConsulClient";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        let methods: Table = class.get("methods")?;
        let rows = wire::endpoints().chain(&OLDER).map(|row| (row.name, Some(row)));
        for (name, row) in rows.chain([(HTTP_REQUEST, None)]) {
            let method = move |lua: &Lua, values: MultiValue| call(lua, name, row, &values);
            methods.set(name, native::function(lua, name, method)?)?;
        }
        class.set("new", native::raising(lua, "ConsulClient", new)?)?;
        class.set("in_loop", native::function(lua, "start", loop_call::begin)?)?;
        class.set("fields", native::functions(lua, FIELDS)?)?;
        Ok(class)
    }
}

/// Makes a call of an endpoint, or of `http_request`, on the calling thread.
fn call(
    lua: &Lua,
    method: &str,
    row: Option<&'static Endpoint>,
    values: &MultiValue,
) -> native::Result {
    let (_, client) = native::called_on::<ConsulClient>(values, method)?;
    let (endpoint, args) = arguments::call(lua, method, row, values.iter().skip(1))?;
    let success = client.call(lua, endpoint, &args)?;
    Ok(Returned::Outcome(value::success(lua, success)?))
}

/// `client:start(method, …)`
fn start(call: &Call<ConsulClient>) -> native::Result {
    begin(call.lua, &call.object, call.args(), |_, _| None)
}

/// Begins a call, in the background unless `in_loop` has what runs its request.
fn begin<'a>(
    lua: &Lua,
    client: &ConsulClient,
    given: impl ExactSizeIterator<Item = &'a LuaValue>,
    in_loop: impl FnOnce(&ConsulClient, &Request) -> Option<Rc<InLoop>>,
) -> native::Result {
    let (endpoint, args) = arguments::named_call(lua, given)?;
    let (label, job) = match client.request(endpoint, &args) {
        Ok(request) => {
            if let Some(in_loop) = in_loop(client, &request) {
                let call = native::object(lua, in_loop.call(request))?;
                return Ok(Returned::Value(LuaValue::UserData(call)));
            }
            let label = request.label.clone();
            let job = client.background(&label).and_then(|background| background.call(request));
            (label, job)
        }
        Err(error) => (endpoint.name.to_owned(), Err(error)),
    };
    Handle::of(lua, label, job)
}

/// `ConsulClient.new(config)`
fn new(lua: &Lua, values: MultiValue) -> native::Result {
    let table = values.front().unwrap_or(&LuaValue::Nil);
    let client = open(lua, table).map_err(|failure| match failure {
        Failure::Error(error) => Failure::Error(error.context("ConsulClient")),
        failure => failure,
    })?;
    Ok(Returned::Value(LuaValue::UserData(native::object(lua, client)?)))
}

fn open(lua: &Lua, table: &LuaValue) -> Result<ConsulClient, Failure> {
    let mut given = match value::options(lua, table)? {
        Value::Null => Vec::new(),
        Value::Map(members) => members,
        other => {
            return Err(Error::misuse(format!(
                "the configuration must be a table, got {}",
                other.type_name()
            ))
            .into());
        }
    };
    let ignored = names_of_older_program(&mut given);
    let config = Config::new(&given, |name| std::env::var_os(name).map(OsString::into_vec))?;
    log::choose(lua, table, &config)?;
    let client = ConsulClient::new(config)?;
    if !ignored.is_empty() {
        let names = ignored.join(", ");
        tracing::warn!(
            "for an older program: ConsulClient ignores names that are not options: {names}"
        );
    }
    Ok(client)
}

/// Removes the names that are not options from a configuration with `consul_url`, and returns them: only older
/// programs write it, and the older module ignored such names.
fn names_of_older_program(given: &mut Vec<(String, Value)>) -> Vec<String> {
    let mut ignored = Vec::new();
    if given.iter().any(|(name, _)| name == "consul_url") {
        given.retain(|(name, _)| {
            let is_known = OPTIONS.iter().any(|option| option.is_called(name));
            if !is_known {
                ignored.push(name.clone());
            }
            is_known
        });
    }
    ignored
}
