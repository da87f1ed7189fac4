//! What `require("consul_ffi")` returns. The only layer that knows Lua.

mod background;
mod batch;
mod client;
mod cluster;
mod data_plane;
mod handle;
mod held;
mod hooks;
mod inbox;
mod lock;
mod native;
mod node;
mod open;
mod ring;
mod routing;
mod serving;
mod simulator;
mod stack;
mod standing;
mod text;
mod value;
mod view;
mod watch;

use mlua::{Function, Lua, Table};

/// The engine that this build is for, by the name a user knows.
const ENGINE: &str = if cfg!(feature = "luajit") {
    "LuaJIT"
} else if cfg!(feature = "lua51") {
    "Lua 5.1"
} else {
    "Lua 5.4"
};

/// Why this build cannot run in the engine that loads it, with the command that mends it.
///
/// LuaJIT and Lua 5.1 load each other's modules without a word, and luarocks keeps both in the
/// tree 5.1.
fn wrong_engine(lua: &Lua) -> mlua::Result<Option<String>> {
    let globals = lua.globals();
    let version: String = globals.get("_VERSION")?;
    let loaded_by = if globals.contains_key("jit")? { "LuaJIT" } else { version.as_str() };
    if loaded_by == ENGINE {
        return Ok(None);
    }
    let install = match loaded_by {
        "LuaJIT" => "luarocks --lua-version=5.1 make LUA=$(command -v luajit)".to_owned(),
        other => {
            let number = other.trim_start_matches("Lua ");
            format!("luarocks --lua-version={number} make LUA=$(command -v lua{number})")
        }
    };
    Ok(Some(format!(
        "this build of consul_ffi is for {ENGINE}, but {loaded_by} loads it; \
         in a checkout of consul_ffi run: {install}"
    )))
}

/// The module's table: one for each Lua state, however often it is loaded.
fn module(lua: &Lua) -> mlua::Result<Table> {
    const KEY: &str = "consul_ffi";
    if let Ok(module) = lua.named_registry_value(KEY) {
        return Ok(module);
    }
    value::register(lua)?;
    stack::register(lua)?;
    serving::register(lua)?;
    let native = client::register(lua)?;
    native.set("_VERSION", env!("CARGO_PKG_VERSION"))?;
    native.set("batch", native::function(lua, "batch", batch::batch)?)?;
    native.set("handle", handle::register(lua)?)?;
    native.set("watch", watch::register(lua)?)?;
    native.set("view", view::register(lua)?)?;
    native.set("lock", lock::register(lua)?)?;
    native.set("set_node_metatable", node::register(lua)?)?;
    native.set("cluster", cluster::register(lua)?)?;
    native.set("ring", ring::register(lua)?)?;
    native.set("simulator", simulator::register(lua)?)?;
    native.set("text", text::register(lua)?)?;
    let build: Function =
        lua.load(include_str!("module.lua")).set_name("=consul_ffi").into_function()?;
    let module: Table = build.call(native)?;
    lua.set_named_registry_value(KEY, &module)?;
    Ok(module)
}
