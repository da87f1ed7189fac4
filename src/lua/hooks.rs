//! Lua's debug hooks while a native call waits.

use super::native::Failure;
use mlua::Lua;
use std::time::Duration;

/// How often a call that waits lets the hooks run.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Calls an empty function, so that hooks run that wait for a call. By such a hook the stand-alone
/// interpreters end a program on Ctrl-C; it raises "interrupted!".
///
/// # Errors
/// What a hook raised.
pub fn run(lua: &Lua) -> Result<(), Failure> {
    Ok(lua.load("").set_name("=consul_ffi").exec()?)
}
