//! A call that blocks an nginx worker blocks all of its requests: one warning for each process.

use consul_process::logs;
use mlua::{Function, Lua, Table};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process has the Lua module of nginx, and no such call yet.
static WATCHES: AtomicBool = AtomicBool::new(false);

/// The phases in which a call may block: there are no requests yet, or no more.
const MAY_BLOCK: [&str; 3] = ["init", "init_worker", "exit_worker"];

fn ngx(lua: &Lua) -> mlua::Result<Table> {
    lua.globals().get("ngx")
}

/// Prepares a Lua state.
pub fn register(lua: &Lua) {
    if ngx(lua).is_ok_and(|ngx| ngx.contains_key("get_phase").unwrap_or(false)) {
        WATCHES.store(true, Ordering::Relaxed);
    }
}

/// Warns, once in a process, if the calling thread is about to block in the phase of a request or of a timer.
pub fn before_block(lua: &Lua) {
    if !WATCHES.load(Ordering::Relaxed) {
        return;
    }
    let phase = ngx(lua).and_then(|ngx| ngx.get::<Function>("get_phase")?.call::<String>(()));
    let Ok(phase) = phase else { return };
    if MAY_BLOCK.contains(&&*phase) || !WATCHES.swap(false, Ordering::Relaxed) {
        return;
    }
    logs::warn_once(format!(
        "a call blocks this nginx worker, and with it all of its requests (here in the phase {phase}): make the client \
         with require(\"consul_ffi.openresty\").new, whose calls block only their request"
    ));
}
