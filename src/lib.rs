//! The result of `require("consul_ffi")`. The only layer that uses Lua.

// The tests of whole programs are built without an engine.
#![cfg(any(feature = "luajit", feature = "lua51", feature = "lua53", feature = "lua54"))]

// A library that ends the process of its host on a defect would be worse than the defect.
const _: () = assert!(cfg!(panic = "unwind"), "consul_ffi must be built with panic = \"unwind\"");

mod client;
mod cluster;
mod coordination;
mod decode;
mod file;
mod metrics;
mod node_table;
mod older;
mod ring;
mod runtime;
mod simulator;
mod status;

use client::consul_client::ConsulClient;
use client::loop_call::LoopCall;
use client::service_view::ServiceView;
use client::service_views::ServiceViews;
use client::watch::Watch;
use cluster::{ClusterNode, DeferredRequest, ReplicatedStore};
use coordination::lock::Lock;
use file::LogFile;
use mlua::{Function, Lua, Table};
use ring::ConsistentHashRing;
use runtime::executor::EndOfState;
use runtime::handle::Handle;
use runtime::native::Registration;
use simulator::Simulator;
use status::Status;

/// Every class.
const CLASSES: &[Registration] = &[
    Registration::of::<ConsulClient>("client"),
    Registration::of::<Handle>("handle"),
    Registration::of::<LoopCall>("loop_call"),
    Registration::of::<Watch>("watch"),
    Registration::of::<ServiceView>("view"),
    Registration::of::<ServiceViews>("views"),
    Registration::of::<Lock>("lock"),
    Registration::of::<ClusterNode>("cluster"),
    Registration::of::<ReplicatedStore>("store"),
    Registration::of::<DeferredRequest>("request"),
    Registration::of::<ConsistentHashRing>("ring"),
    Registration::of::<Simulator>("simulator"),
    Registration::of::<LogFile>("file"),
    Registration::of::<Status>("status"),
];

/// The name of the engine that this build is for.
const ENGINE: &str = if cfg!(feature = "luajit") {
    "LuaJIT"
} else if cfg!(feature = "lua51") {
    "Lua 5.1"
} else if cfg!(feature = "lua53") {
    "Lua 5.3"
} else {
    "Lua 5.4"
};

/// The error of a build that is for another engine, with the command that builds the right one.
///
/// LuaJIT and Lua 5.1 load each other's modules without an error, and luarocks has both in the tree
/// 5.1. The loaders of the others miss functions, and say which one.
fn wrong_engine(lua: &Lua) -> mlua::Result<Option<String>> {
    let globals = lua.globals();
    let version: String = globals.get("_VERSION")?;
    let loaded_by = if globals.contains_key("jit")? { "LuaJIT" } else { version.as_str() };
    if loaded_by == ENGINE {
        return Ok(None);
    }
    let program = loaded_by.to_lowercase().replace(' ', "");
    Ok(Some(format!(
        "this build of consul_ffi is for {ENGINE}, but {loaded_by} loads it; \
         in a checkout of consul_ffi run: make install LUA={program}"
    )))
}

/// The table of the module. Each Lua state has one, however often it loads the module.
fn module(lua: &Lua) -> mlua::Result<Table> {
    const KEY: &str = "consul_ffi";
    if let Ok(module) = lua.named_registry_value(KEY) {
        return Ok(module);
    }
    lua.set_named_registry_value("consul_ffi.end", lua.create_any_userdata(EndOfState)?)?;
    runtime::native::register(lua)?;
    runtime::nginx::register(lua);
    runtime::value::register(lua)?;
    runtime::stack::register(lua)?;
    let native = lua.create_table()?;
    native.set("_VERSION", env!("CARGO_PKG_VERSION"))?;
    native.set("kinds", runtime::native::kinds(lua)?)?;
    for class in CLASSES {
        native.set(class.part, (class.register)(lua)?)?;
    }
    for (name, metatable) in [
        ("error_metatable", runtime::value::ERROR_METATABLE),
        ("meta_metatable", runtime::value::META_METATABLE),
    ] {
        native.set(name, lua.named_registry_value::<Table>(metatable)?)?;
    }
    native.set("nearest", runtime::native::nearest(lua)?)?;
    native.set("set_node_metatable", node_table::register(lua)?)?;
    native.set("decode", decode::register(lua)?)?;
    native.set("metrics", metrics::register(lua)?)?;
    native.set("older", older::register(lua)?)?;
    let build: Function =
        lua.load(include_str!("module.lua")).set_name("=consul_ffi").into_function()?;
    let module: Table = build.call(native)?;
    lua.set_named_registry_value(KEY, &module)?;
    Ok(module)
}
