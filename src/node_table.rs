//! Tables that describe a node. As text they are the id of the node, as in older programs.

use mlua::{Function, Lua, Table};

/// The registry's name for the metatable of these tables.
const METATABLE: &str = "consul_ffi.node";

/// The function with which `module.lua` sets the metatable.
pub fn register(lua: &Lua) -> mlua::Result<Function> {
    lua.create_function(|lua, metatable: Table| lua.set_named_registry_value(METATABLE, metatable))
}

/// Makes a table the id of its node as text.
pub fn set_metatable(lua: &Lua, table: &Table) -> mlua::Result<()> {
    table.set_metatable(Some(lua.named_registry_value(METATABLE)?))
}
