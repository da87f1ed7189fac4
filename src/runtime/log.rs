//! The program's log function, `log(level, message, fields)`. A Lua state has one at most; it gets the lines of the
//! process in calls of that state, never inside itself and never from another thread.

use super::native::{pcall, text_of};
use super::value;
use super::wait::INTERVAL;
use consul_api::value::Value;
use consul_config::{Config, Given};
use consul_process::logs::{self, Line, Receiver, Wanted};
use mlua::{Function, Lua, Table, Value as LuaValue};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

/// The registry's name for the function.
const FUNCTION: &str = "consul_ffi.log";

/// The parts of a Lua state with a log function.
struct OfState {
    receiver: RefCell<Receiver>,
    has_failed: Cell<bool>,
}

/// Puts the options of the log in `config` in force, from the program's table.
pub fn choose(lua: &Lua, table: &LuaValue, config: &Config) -> mlua::Result<()> {
    match (config.log, table.as_table()) {
        (Some(Given::Function), Some(table)) => set_function(lua, table.raw_get("log")?)?,
        (Some(Given::Nothing), _) => remove_function(lua)?,
        _ => {}
    }
    logs::set(Wanted { level: config.log_level, json: config.log_json });
    Ok(())
}

fn set_function(lua: &Lua, function: Function) -> mlua::Result<()> {
    lua.set_named_registry_value(FUNCTION, function)?;
    match of_state(lua) {
        Some(state) => state.has_failed.set(false),
        None => {
            let (receiver, has_failed) = (RefCell::default(), Cell::new(false));
            lua.set_app_data(Rc::new(OfState { receiver, has_failed }));
        }
    }
    Ok(())
}

fn remove_function(lua: &Lua) -> mlua::Result<()> {
    lua.remove_app_data::<Rc<OfState>>();
    lua.unset_named_registry_value(FUNCTION)
}

fn of_state(lua: &Lua) -> Option<Rc<OfState>> {
    lua.app_data_ref::<Rc<OfState>>().map(|state| Rc::clone(&state))
}

/// Makes the function the one of a forked child, before the child's first call causes lines.
#[inline]
pub fn adopt(lua: &Lua) {
    if logs::is_due() {
        adopt_of_parent(lua);
    }
}

#[cold]
fn adopt_of_parent(lua: &Lua) {
    if let Some(state) = of_state(lua)
        && state.receiver.borrow().belongs_to_parent()
    {
        state.receiver.replace(Receiver::new());
    }
}

/// Gives this state's function the lines that wait.
#[inline]
pub fn deliver(lua: &Lua) {
    if logs::is_due() {
        deliver_waiting(lua);
    }
}

#[cold]
fn deliver_waiting(lua: &Lua) {
    adopt_of_parent(lua);
    let Some(mut delivery) = logs::delivery() else { return };
    if of_state(lua).is_none() {
        return;
    }
    // A slow function must not hold up the call for longer.
    let end = Instant::now() + INTERVAL;
    while Instant::now() < end
        && let Some(state) = of_state(lua)
        && let Some(line) = delivery.next()
    {
        let failed = match call(lua, &line) {
            Ok((true, _)) => continue,
            Ok((false, raised)) => text_of(&raised),
            Err(error) => error.to_string(),
        };
        line.write();
        if !state.has_failed.replace(true) {
            let why = "the program's log function raised an error; such lines go to standard error";
            tracing::error!(error = failed, "{why}");
        }
    }
}

/// Calls the function: whether it returned, and what it raised.
fn call(lua: &Lua, line: &Line) -> mlua::Result<(bool, LuaValue)> {
    let function: Function = lua.named_registry_value(FUNCTION)?;
    let (level, message) = (line.level.as_str(), line.message.as_str());
    pcall(lua)?.call((function, level, message, fields(lua, line)?))
}

/// The third argument of the function.
fn fields(lua: &Lua, line: &Line) -> mlua::Result<Table> {
    let fields = lua.create_table()?;
    for (name, value) in &line.fields {
        fields.raw_set(name.as_str(), value::to_lua(lua, &Value::from(value.clone()))?)?;
    }
    fields.raw_set("target", line.target)?;
    fields.raw_set("at_ms", line.at_ms)?;
    if line.lost > 0 {
        fields.raw_set("lost", line.lost)?;
    }
    Ok(fields)
}
