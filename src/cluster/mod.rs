//! `ConsulHACluster`: a node of a cluster. It takes part in the background, independent of what the
//! program does.

mod calls;
mod data_plane;
mod deferred;
mod inbox;
mod leave;
mod lua_storage;
mod methods;
mod node;
mod routing;
mod running_node;
mod running_store;
mod serving;
mod store;
mod watchdog;

use super::runtime::native::{self, Class, Returned};
use super::runtime::{log, value};
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
pub(super) use deferred::DeferredRequest;
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
pub(super) use node::ClusterNode;
pub(super) use store::ReplicatedStore;

impl Class for ClusterNode {
    const NAME: &'static str = "ConsulHACluster";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        serving::register(lua)?;
        let methods = methods::METHODS.iter().chain(routing::METHODS).chain(calls::METHODS);
        let methods = methods.chain(store::METHODS_OF_NODE);
        let class = native::class(lua, methods)?;
        class.set("new", native::raising(lua, "ConsulHACluster", new)?)?;
        class.set("fields", native::functions(lua, methods::FIELDS)?)?;
        Ok(class)
    }
}

/// `ConsulHACluster.new(options)`
fn new(lua: &Lua, values: MultiValue) -> native::Result {
    let given = values.front().unwrap_or(&LuaValue::Nil);
    let node = value::options(lua, given).and_then(|given| match given {
        Value::Map(given) => ClusterNode::new(given),
        Value::Null => ClusterNode::new(Vec::new()),
        other => Err(ValuePath::top("the configuration").wrong_type_text("a table", &other)),
    });
    let node = node.map_err(|error| error.context("ConsulHACluster"))?;
    log::choose(lua, given, &node.config)?;
    let node = native::object(lua, node)?;
    serving::create_handlers(lua, &node)?;
    Ok(Returned::Value(LuaValue::UserData(node)))
}
