//! `ConsulClient`: one method for every endpoint, run on the calling thread.

use super::handle::Background;
use super::native::{self, Failure, Results};
use super::open::Open;
use super::value;
use crate::client::Client;
use crate::config::{Config, Simulate};
use crate::error::{Error, Kind};
use crate::wire::request::{Args, Request};
use crate::wire::response::Success;
use crate::wire::shape::{At, unknown};
use crate::wire::table::Endpoint;
use crate::wire::value::Value;
use crate::wire::{self, raw};
use mlua::{
    Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields, UserDataMethods, UserDataRef,
    Value as LuaValue,
};
use std::cell::RefCell;
use std::ffi::OsString;
use std::mem;
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;
use std::sync::Arc;

/// A client as a Lua program holds it.
pub struct ConsulClient {
    config: Config,
    open: RefCell<Option<Rc<Open>>>,
}

impl ConsulClient {
    fn new(config: Config) -> Result<Self, Error> {
        init_logs(config.log_level);
        let open = Open::new(&config)?;
        Ok(ConsulClient { config, open: RefCell::new(Some(open)) })
    }

    fn call(
        &self,
        lua: &Lua,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Success, Failure> {
        let request = self.request(endpoint, args)?;
        let open = self.opened(&request.label)?;
        // A hook may call the client too, or close it.
        let done = open.run_one(lua, open.client().perform(&request));
        Open::release(open);
        Ok(done??)
    }

    /// Checks a call's arguments and builds its request; on a closed client a wrong argument is a
    /// wrong argument too.
    pub fn request(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Request, Error> {
        match &*self.open.borrow() {
            Some(open) => open.client().request(endpoint, args),
            None => endpoint.request(args, &self.config.defaults),
        }
    }

    /// Runs work on the calling thread; `label` says in errors what it is.
    pub fn run<R>(
        &self,
        lua: &Lua,
        label: &str,
        work: impl AsyncFnOnce(&Client) -> R,
    ) -> Result<R, Failure> {
        let open = self.opened(label)?;
        // A hook may call the client too, or close it.
        let done = open.run(lua, work(open.client()));
        Open::release(open);
        done
    }

    /// How many requests may be under way to one endpoint at a time.
    pub fn max_connections(&self) -> usize {
        self.config.http.max_connections
    }

    /// Whether a key's leading slash is taken off instead of refused.
    pub fn strips_leading_slash(&self) -> bool {
        self.config.defaults.strip_leading_slash
    }

    /// Where calls of this client go on in the background; `label` says in errors what it is for.
    pub fn background(&self, label: &str) -> Result<Arc<Background>, Error> {
        self.opened(label)?.background(&self.config)
    }

    /// What this client has in this process; a fork's child makes its own.
    fn opened(&self, label: &str) -> Result<Rc<Open>, Error> {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_some_and(|open| !open.is_ours()) {
            mem::forget(open.replace(Open::new(&self.config)?));
        }
        open.clone().ok_or_else(|| {
            Error::new(Kind::Closed, format!("{label}: the client is closed")).not_sent()
        })
    }

    fn close(&self) {
        if let Some(open) = &*self.open.borrow() {
            open.end_background();
        }
        self.forget();
    }

    /// Gives back what the client has. Handles that are left go on.
    fn forget(&self) {
        if let Some(open) = self.open.take() {
            Open::release(open);
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
        self.forget();
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

const HTTP_REQUEST: &str = "http_request";

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let rows = wire::endpoints().map(|endpoint| (endpoint.name, Some(endpoint)));
    let methods = rows
        .chain([(HTTP_REQUEST, None)])
        .map(|(name, row)| (name, move |lua: &Lua, args: MultiValue| call(lua, name, row, args)));
    let native = native::class(lua, INDEX, methods)?;
    native.set(
        "new",
        native::function(lua, "ConsulClient", |lua, args| {
            let config = args.front().unwrap_or(&LuaValue::Nil);
            let client = new(lua, config)
                .map_err(|error| Error::misuse(format!("ConsulClient: {}", error.message())))?;
            Ok((LuaValue::UserData(lua.create_userdata(client)?), LuaValue::Nil, LuaValue::Nil))
        })?,
    )?;
    native.set(
        "close",
        native::function(lua, "close", |_, args| {
            this(&args, "close")?.close();
            Ok((LuaValue::Boolean(true), LuaValue::Nil, LuaValue::Nil))
        })?,
    )?;
    native.set(
        "field",
        lua.create_function(|lua, (this, name): (LuaValue, mlua::LuaString)| {
            let this = this.as_userdata().and_then(|this| this.borrow::<ConsulClient>().ok());
            this.map_or(Ok(LuaValue::Nil), |client| client.field(lua, &name.to_string_lossy()))
        })?,
    )?;
    Ok(native)
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

/// The client that a method is called on.
pub fn this(args: &MultiValue, method: &str) -> Result<UserDataRef<ConsulClient>, Error> {
    let this = args.front().and_then(LuaValue::as_userdata);
    this.and_then(|this| this.borrow::<ConsulClient>().ok())
        .ok_or_else(|| Error::misuse(format!("{method}: call it with a colon: client:{method}(…)")))
}

/// Runs a method; gives `true, value, meta`.
fn call(
    lua: &Lua,
    method: &str,
    row: Option<&'static Endpoint>,
    mut args: MultiValue,
) -> Result<Results, Failure> {
    let client = this(&args, method)?;
    args.pop_front();
    let (endpoint, args) = arguments(lua, method, row, args)?;
    let success = client.call(lua, endpoint, &args)?;
    Ok(value::outcome(lua, Ok(success))?)
}

/// A call that is named by its method, which is the first of the arguments.
pub fn prepare(lua: &Lua, mut args: MultiValue) -> Result<(&'static Endpoint, Args), Error> {
    let method = match args.pop_front().unwrap_or(LuaValue::Nil) {
        LuaValue::String(name) => name.to_string_lossy(),
        other => {
            let other = value::from_lua(lua, &other)?;
            return Err(At::top("method").wrong_type_text("the name of a method", &other));
        }
    };
    let row = wire::endpoint(&method);
    if row.is_none() && method != HTTP_REQUEST {
        let names: Vec<_> = wire::endpoints().map(|endpoint| endpoint.name).collect();
        return Err(Error::misuse(unknown("method", &method, &names)));
    }
    arguments(lua, &method, row, args)
}

/// The endpoint and the arguments of a method: of a row, or of `http_request`, which has none.
fn arguments(
    lua: &Lua,
    method: &str,
    row: Option<&'static Endpoint>,
    args: MultiValue,
) -> Result<(&'static Endpoint, Args), Error> {
    let call = match row {
        Some(endpoint) => positional(lua, endpoint, args).map(|args| (endpoint, args)),
        None => http_request(lua, args),
    };
    call.map_err(|error| error.context(method))
}

/// The arguments of a method: as many positional ones as the endpoint has, then its options.
pub fn positional(lua: &Lua, endpoint: &Endpoint, given: MultiValue) -> Result<Args, Error> {
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
pub fn init_logs(level: tracing::Level) {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;
    let ours = Targets::new().with_target(env!("CARGO_PKG_NAME"), level);
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // A second client finds the logs set up already.
    let _ = tracing_subscriber::registry().with(to_stderr).with(ours).try_init();
}
