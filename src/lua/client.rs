//! `ConsulClient`: one method for every endpoint, run on the calling thread.

use super::value;
use crate::client::Client;
use crate::config::{Config, Simulate};
use crate::connect::connect;
use crate::error::{Error, Kind};
use crate::wire::request::Args;
use crate::wire::response::Success;
use crate::wire::table::Endpoint;
use crate::wire::value::Value;
use crate::wire::{self, raw};
use mlua::{
    AnyUserData, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields, UserDataMethods,
    Value as LuaValue,
};
use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use tokio::runtime::{Builder, Runtime};

/// A client as a Lua program holds it.
pub struct ConsulClient {
    config: Config,
    open: RefCell<Option<Open>>,
}

/// What a client has until it is closed. A runtime of its own lets a call run on the calling
/// thread, and a plain client start none.
struct Open {
    client: Client,
    runtime: Runtime,
}

impl ConsulClient {
    fn new(config: Config) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            Error::new(Kind::Config, format!("no runtime can be started: {error}")).not_sent()
        })?;
        init_logs(config.log_level);
        let client = connect(&config)?;
        Ok(ConsulClient { config, open: RefCell::new(Some(Open { client, runtime })) })
    }

    fn call(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Success, Error> {
        match &*self.open.borrow() {
            Some(Open { client, runtime }) => {
                let call = client.fetch(endpoint, args);
                match client.clock().as_manual() {
                    Some(clock) => runtime.block_on(clock.drive(call)),
                    None => runtime.block_on(call),
                }
            }
            None => {
                // A wrong argument is a wrong argument on a closed client too.
                endpoint.request(args, &self.config.defaults)?;
                let message = format!("{}: the client is closed", endpoint.name);
                Err(Error::new(Kind::Closed, message).not_sent())
            }
        }
    }

    fn close(&self) {
        if let Some(open) = self.open.take() {
            drop(open.client);
            // A plain drop would wait for name look-ups that are still under way.
            open.runtime.shutdown_background();
        }
    }

    fn endpoints(&self) -> String {
        let endpoints = self.config.endpoints.join(",");
        match &self.config.simulate {
            Simulate::No => endpoints,
            Simulate::ForEndpoints => format!("simulate:{endpoints}"),
            Simulate::Named(name) => format!("simulate:{name}"),
        }
    }

    fn field(&self, lua: &Lua, name: &str) -> mlua::Result<LuaValue> {
        let value = match name {
            "initialized" => Value::Bool(self.open.borrow().is_some()),
            "consul_url" => self.config.endpoints.first().map_or("", String::as_str).into(),
            "timeout" => (self.config.timeout.as_millis() as u64).into(),
            "simulate" => Value::Bool(self.config.simulate != Simulate::No),
            _ => Value::Null,
        };
        value::to_lua(lua, &value)
    }
}

impl Drop for ConsulClient {
    fn drop(&mut self) {
        self.close();
    }
}

impl UserData for ConsulClient {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            let state = if this.open.borrow().is_some() { "open" } else { "closed" };
            Ok(format!("ConsulClient({}, {state})", this.endpoints()))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "ConsulClient");
        fields.add_meta_field_with("__index", |lua| {
            lua.named_registry_value::<mlua::Function>(INDEX)
        });
    }
}

/// The registry's name for the Lua function that looks members of a client up.
const INDEX: &str = "consul_ffi.client.index";

/// Puts the native functions that `module.lua` builds the class from into `native`.
pub fn register(lua: &Lua, native: &Table) -> mlua::Result<()> {
    let methods = lua.create_table()?;
    for endpoint in wire::endpoints() {
        let method = lua.create_function(move |lua, args: MultiValue| {
            invoke(lua, endpoint.name, args, |args| {
                Ok((endpoint, positional(lua, endpoint, args)?))
            })
        })?;
        methods.set(endpoint.name, method)?;
    }
    let request = lua.create_function(|lua, args: MultiValue| {
        invoke(lua, "http_request", args, |args| http_request(lua, args))
    })?;
    methods.set("http_request", request)?;
    native.set("methods", methods)?;
    native.set(
        "new",
        lua.create_function(|lua, config: LuaValue| match new(lua, &config) {
            Ok(client) => Ok((Some(lua.create_userdata(client)?), None)),
            Err(error) => Ok((None, Some(format!("ConsulClient: {}", error.message())))),
        })?,
    )?;
    native.set(
        "close",
        lua.create_function(|_, this: AnyUserData| {
            this.borrow::<ConsulClient>()?.close();
            Ok(())
        })?,
    )?;
    native.set(
        "field",
        lua.create_function(|lua, (this, name): (AnyUserData, mlua::LuaString)| {
            this.borrow::<ConsulClient>()?.field(lua, &name.to_string_lossy())
        })?,
    )?;
    native.set(
        "set_index",
        lua.create_function(|lua, index: mlua::Function| {
            lua.set_named_registry_value(INDEX, index)
        })?,
    )
}

fn new(lua: &Lua, config: &LuaValue) -> Result<ConsulClient, Error> {
    let given = match value::from_lua(lua, config)? {
        Value::Null => Vec::new(),
        Value::Map(members) => members,
        other => {
            return Err(Error::misuse(format!(
                "the configuration must be a table, got {}",
                other.type_name()
            )));
        }
    };
    ConsulClient::new(Config::new(&given, |name| std::env::var_os(name).map(OsString::into_vec))?)
}

/// Runs a method: its outcome's three results, or nil and a message that `module.lua` raises.
fn invoke(
    lua: &Lua,
    method: &str,
    mut args: MultiValue,
    prepare: impl FnOnce(MultiValue) -> Result<(&'static Endpoint, Args), Error>,
) -> mlua::Result<(Option<bool>, LuaValue, Option<Table>)> {
    let this = args.pop_front();
    let this = this.as_ref().and_then(LuaValue::as_userdata);
    let outcome = match this.and_then(|this| this.borrow::<ConsulClient>().ok()) {
        Some(client) => prepare(args)
            .map_err(|error| error.context(method))
            .and_then(|(endpoint, args)| client.call(endpoint, &args)),
        None => Err(Error::misuse(format!("{method}: call it with a colon: client:{method}(…)"))),
    };
    match outcome {
        Err(error) if error.is_misuse() => {
            Ok((None, LuaValue::String(lua.create_string(error.message())?), None))
        }
        outcome => {
            let (success, response, extra) = value::outcome(lua, outcome)?;
            Ok((Some(success), response, Some(extra)))
        }
    }
}

/// The arguments of a method: as many positional ones as the endpoint has, then its options.
fn positional(lua: &Lua, endpoint: &Endpoint, given: MultiValue) -> Result<Args, Error> {
    let mut args = Args::new();
    let expected = endpoint.positional.len();
    if given.len() > expected + 1 {
        return Err(Error::misuse(format!(
            "takes {expected} arguments and a table of options, got {} arguments",
            given.len()
        )));
    }
    for (place, argument) in given.iter().enumerate() {
        let value = value::from_lua(lua, argument)?;
        if place < expected {
            args = args.arg(value);
        } else {
            args = options(args, value)?;
        }
    }
    Ok(args)
}

fn options(mut args: Args, value: Value) -> Result<Args, Error> {
    match value {
        Value::Null => Ok(args),
        Value::Map(members) => {
            for (name, member) in members {
                args = args.opt(name, member);
            }
            Ok(args)
        }
        other => Err(Error::misuse(format!(
            "the last argument is a table of options, got {}",
            other.type_name()
        ))),
    }
}

/// `client:http_request(method, path, body, params, options)`
fn http_request(lua: &Lua, given: MultiValue) -> Result<(&'static Endpoint, Args), Error> {
    let mut given = given.into_iter();
    let mut next = || match given.next() {
        Some(argument) => value::from_lua(lua, &argument),
        None => Ok(Value::Null),
    };
    let method = next()?;
    let endpoint = match &method {
        Value::Bytes(name) => raw::endpoint(&String::from_utf8_lossy(name)),
        _ => None,
    };
    let endpoint = endpoint.ok_or_else(|| {
        Error::misuse(format!(
            "the method must be GET, PUT, POST or DELETE, got {}",
            method.shown()
        ))
    })?;
    let args = Args::new().arg(next()?).arg(next()?).opt("params", next()?);
    Ok((endpoint, options(args, next()?)?))
}

/// Log lines of this library go to standard error; the first client's level stands.
fn init_logs(level: tracing::Level) {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;
    let ours = Targets::new().with_target(env!("CARGO_PKG_NAME"), level);
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // A second client finds the logs set up already.
    let _ = tracing_subscriber::registry().with(to_stderr).with(ours).try_init();
}
