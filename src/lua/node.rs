//! Tables of nodes, which in text read as the node's id.

use mlua::{Function, Lua, Table};

/// The registry's name for the metatable of nodes.
const METATABLE: &str = "consul_ffi.node";

/// The function by which `module.lua` says what the metatable is.
pub fn register(lua: &Lua) -> mlua::Result<Function> {
    lua.create_function(|lua, metatable: Table| lua.set_named_registry_value(METATABLE, metatable))
}

/// Lets a table read as the id of its node.
pub fn reads_as_id(lua: &Lua, table: &Table) -> mlua::Result<()> {
    table.set_metatable(Some(lua.named_registry_value(METATABLE)?))
}
