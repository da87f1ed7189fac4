//! What runs while a native call waits: Lua's debug hooks, and the handlers of requests.

use super::native::Failure;
use super::serving;
use mlua::Lua;
use std::time::Duration;

/// How often a call that waits lets them run.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Calls an empty function, so that hooks run that wait for a call. By such a hook the stand-alone
/// interpreters end a program on Ctrl-C; it raises "interrupted!". Then answers requests of other
/// nodes that wait for this Lua state.
///
/// # Errors
/// What a hook raised.
pub fn run(lua: &Lua) -> Result<(), Failure> {
    call(lua)?;
    serving::in_pause(lua)
}

/// Lets the hooks run, and nothing else.
///
/// # Errors
/// What a hook raised.
pub fn call(lua: &Lua) -> Result<(), Failure> {
    Ok(lua.load("").set_name("=consul_ffi").exec()?)
}
