//! The binding's one unsafe module: what mlua's safe interface cannot say.

#![allow(unsafe_code)]

use mlua::{Lua, ffi};
use std::os::raw::c_int;

/// What `require("consul_ffi")` calls.
///
/// It is written by hand because an error that leaves mlua is a userdata, which the stand-alone
/// interpreters print as "(error object is a userdata value)"; a wrong engine is to be told in
/// plain words.
///
/// # Safety
/// `state` must be the state of a running Lua engine, as `require` passes it.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_consul_ffi(state: *mut ffi::lua_State) -> c_int {
    let mut refusal = None;
    // SAFETY: `state` is valid by this function's contract.
    let results = unsafe {
        Lua::entrypoint1(state, |lua| {
            refusal = super::wrong_engine(lua)?;
            if refusal.is_some() { Ok(None) } else { super::module(lua).map(Some) }
        })
    };
    let Some(message) = refusal else { return results };
    // SAFETY: the copy belongs to Lua before the message is dropped, and nothing that needs a
    // destructor is alive when lua_error leaves this function by a jump.
    unsafe {
        ffi::lua_pushlstring(state, message.as_ptr().cast(), message.len());
        drop(message);
        ffi::lua_error(state)
    }
}
