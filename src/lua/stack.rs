//! The binding's one unsafe module: what mlua's safe interface cannot say.

#![allow(unsafe_code)]

use super::value::{LIST_METATABLE, MAX_EXACT};
use crate::error::Error;
use crate::wire::response::{EntryMeta, Meta};
use crate::wire::tape::{Item, Tape};
use mlua::{Lua, Table, Value, ffi};
use std::io::Write as _;
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

/// The Lua value for what a tape holds.
pub fn value(lua: &Lua, tape: &Tape) -> mlua::Result<Value> {
    // SAFETY: as in `results`.
    unsafe {
        lua.exec_raw((), |state| {
            make_room(state, tape);
            push_value(state, &mut tape.items());
        })
    }
}

/// A call's value and metadata as Lua values.
///
/// One protected call builds both: mlua's own interface makes one for each string and each member.
pub fn results(lua: &Lua, tape: &Tape, meta: &Meta) -> mlua::Result<(Value, Table)> {
    // SAFETY: `state` is valid in the closure. Running out of memory leaves it, and what it calls,
    // by a jump that runs no destructor: they only borrow, and own nothing that has one. Each
    // leaves the stack as it found it but for what it says it pushes, within the room that is
    // asked for first: a table in the making and a name for every level, and some.
    unsafe {
        lua.exec_raw((), |state| {
            make_room(state, tape);
            push_value(state, &mut tape.items());
            push_meta(state, meta);
        })
    }
}

/// A list of outcomes: `{ ok = true, value, meta }` for each success, nothing for the failures.
pub fn outcomes(lua: &Lua, outcomes: &[Result<(Tape, Meta), Error>]) -> mlua::Result<Table> {
    // SAFETY: as in `results`; a table and a name for each of two levels more.
    unsafe {
        lua.exec_raw((), |state| {
            ffi::lua_createtable(state, outcomes.len() as c_int, 0);
            for (place, outcome) in outcomes.iter().enumerate() {
                let Ok((tape, meta)) = outcome else { continue };
                make_room(state, tape);
                ffi::lua_createtable(state, 0, 3);
                push_bytes(state, b"ok");
                ffi::lua_pushboolean(state, 1);
                ffi::lua_rawset(state, -3);
                push_bytes(state, b"value");
                push_value(state, &mut tape.items());
                ffi::lua_rawset(state, -3);
                push_bytes(state, b"meta");
                push_meta(state, meta);
                ffi::lua_rawset(state, -3);
                ffi::lua_rawseti(state, -2, (place + 1) as _);
            }
        })
    }
}

/// Makes room on the Lua stack for a tape's value and a few more.
///
/// # Safety
/// To be called in a protected call.
unsafe fn make_room(state: *mut ffi::lua_State, tape: &Tape) {
    let slots = 2 * tape.depth() + 10;
    // SAFETY: as the caller promised.
    unsafe { ffi::luaL_checkstack(state, slots as c_int, c"a deep answer".as_ptr()) }
}

/// Pushes the next value of a tape.
///
/// # Safety
/// To be called in a protected call, with two free slots for every level of the value and two more.
unsafe fn push_value<'a>(state: *mut ffi::lua_State, items: &mut impl Iterator<Item = Item<'a>>) {
    // SAFETY: as the caller promised; every branch pushes one value.
    unsafe {
        match items.next() {
            None | Some(Item::Null) => ffi::lua_pushnil(state),
            Some(Item::Bool(value)) => ffi::lua_pushboolean(state, value.into()),
            Some(Item::Int(number)) => push_integer(state, number.unsigned_abs(), number < 0),
            Some(Item::Uint(number)) => push_integer(state, number, false),
            Some(Item::Float(number)) => ffi::lua_pushnumber(state, number),
            Some(Item::Bytes(bytes)) => push_bytes(state, bytes),
            Some(Item::List(count)) => {
                ffi::lua_createtable(state, count as c_int, 0);
                if count == 0 {
                    ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, LIST_METATABLE.as_ptr());
                    ffi::lua_setmetatable(state, -2);
                }
                for place in 1..=count {
                    push_value(state, items);
                    ffi::lua_rawseti(state, -2, place as _);
                }
            }
            Some(Item::Map(count)) => {
                ffi::lua_createtable(state, 0, count as c_int);
                for _ in 0..count {
                    push_value(state, items);
                    // A null is set too: it takes away what a member of the same name left.
                    push_value(state, items);
                    ffi::lua_rawset(state, -3);
                }
            }
        }
    }
}

/// Pushes a table with the metadata.
///
/// # Safety
/// To be called in a protected call, with three free slots.
unsafe fn push_meta(state: *mut ffi::lua_State, meta: &Meta) {
    let text = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            // SAFETY: as the caller of `push_meta` promised; the table is on top.
            unsafe {
                push_bytes(state, name.as_bytes());
                push_bytes(state, value.as_bytes());
                ffi::lua_rawset(state, -3);
            }
        }
    };
    let integer = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            // SAFETY: as above.
            unsafe {
                push_bytes(state, name.as_bytes());
                push_integer(state, value, false);
                ffi::lua_rawset(state, -3);
            }
        }
    };
    // SAFETY: as above.
    unsafe {
        ffi::lua_createtable(state, 0, if meta.entry.is_some() { 12 } else { 8 });
        push_bytes(state, b"request_ms");
        ffi::lua_pushnumber(state, meta.request_ms);
        ffi::lua_rawset(state, -3);
        push_bytes(state, b"stale");
        ffi::lua_pushboolean(state, meta.stale.into());
        ffi::lua_rawset(state, -3);
        if let Some(known_leader) = meta.known_leader {
            push_bytes(state, b"known_leader");
            ffi::lua_pushboolean(state, known_leader.into());
            ffi::lua_rawset(state, -3);
        }
    }
    integer("index", meta.index);
    integer("last_contact_ms", meta.last_contact_ms);
    text("content_hash", meta.content_hash.as_deref());
    text("cache", meta.cache.as_deref());
    integer("age_s", meta.age_s);
    text("backend", meta.backend.as_deref());
    text("endpoint", Some(&meta.endpoint));
    integer("attempts", Some(meta.attempts.into()));
    if let Some(entry) = &meta.entry {
        let EntryMeta { flags, session, lock_index, create_index, modify_index } = entry;
        integer("flags", Some(*flags));
        text("session", session.as_deref());
        integer("lock_index", Some(*lock_index));
        integer("create_index", Some(*create_index));
        integer("modify_index", Some(*modify_index));
    }
}

/// # Safety
/// To be called in a protected call, with a free slot.
unsafe fn push_bytes(state: *mut ffi::lua_State, bytes: &[u8]) {
    // SAFETY: as the caller promised; Lua copies the bytes.
    unsafe {
        ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len());
    }
}

/// Pushes a number when this Lua holds it exactly, its decimal digits otherwise.
///
/// # Safety
/// To be called in a protected call, with a free slot.
unsafe fn push_integer(state: *mut ffi::lua_State, magnitude: u64, negative: bool) {
    if magnitude > MAX_EXACT {
        let sign = if negative { "-" } else { "" };
        let mut digits = [0; 20];
        let mut rest = digits.as_mut_slice();
        // 2^64 and a sign fit.
        let _ = write!(rest, "{sign}{magnitude}");
        let unused = rest.len();
        // SAFETY: as the caller promised.
        return unsafe { push_bytes(state, &digits[..digits.len() - unused]) };
    }
    let number = if negative { -(magnitude as i64) } else { magnitude as i64 };
    // SAFETY: as the caller promised.
    unsafe {
        if cfg!(feature = "lua54") {
            ffi::lua_pushinteger(state, number as _);
        } else {
            ffi::lua_pushnumber(state, number as f64);
        }
    }
}
