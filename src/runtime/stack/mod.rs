//! The only unsafe module of the binding: what the safe interface of mlua does not offer.

#![allow(unsafe_code)]

mod load;

use super::value::{HAS_INTEGERS, LIST_METATABLE, MAX_EXACT, META_METATABLE};
use consul_api::error::Error;
use consul_api::response::{EntryMeta, Meta};
use consul_api::tape::{Item, Tape};
use mlua::{FromLuaMulti, Function, LightUserData, Lua, Table, Value, ffi};
use std::io::Write as _;
use std::os::raw::c_int;

/// A value to push onto the Lua stack.
enum Input<'a> {
    Value(&'a Tape),
    ValueAndMeta(&'a Tape, &'a Meta),
    Outcomes(&'a [Result<(Tape, Meta), Error>]),
}

/// The function that pushes it, [`push`]. Each Lua state creates it once, because to create a function
/// takes as long as to push a value and its metadata.
struct Pusher(Function);

/// Prepares a Lua state.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    // Lua copies the table of a constructor faster than it adds names one by one.
    let names = members(&Meta::default()).map(|(name, _)| name);
    let template = names.map(|name| format!("{name} = false")).join(", ");
    let set = names.map(|name| format!("meta.{name} = {name}")).join("; ");
    let code = format!(
        "local setmetatable, metatable = setmetatable, ... \
         return function({}) local meta = {{ {template} }}; {set}; return setmetatable(meta, metatable) end",
        names.join(", ")
    );
    let metatable: Table = lua.named_registry_value(META_METATABLE)?;
    let new_meta: Function = lua.load(code).set_name("=consul_ffi").call(metatable)?;
    // SAFETY: `state` is valid in the closure, with the function on top as the upvalue. Only `run`
    // calls the new function, with the argument that it expects.
    let push = unsafe { lua.exec_raw(new_meta, |state| ffi::lua_pushcclosure(state, push, 1)) }?;
    lua.set_app_data(Pusher(push));
    Ok(())
}

/// The Lua value of a tape.
pub fn value(lua: &Lua, tape: &Tape) -> mlua::Result<Value> {
    run(lua, &Input::Value(tape))
}

/// The Lua values of a successful call.
pub fn value_and_meta(lua: &Lua, tape: &Tape, meta: &Meta) -> mlua::Result<(Value, Value)> {
    run(lua, &Input::ValueAndMeta(tape, meta))
}

/// A list with `{ ok = true, value, meta }` for each success and nil for each failure.
pub fn outcomes(lua: &Lua, outcomes: &[Result<(Tape, Meta), Error>]) -> mlua::Result<Table> {
    run(lua, &Input::Outcomes(outcomes))
}

/// Pushes everything in one protected call; the interface of mlua makes one for each string and each
/// member.
fn run<R: FromLuaMulti>(lua: &Lua, input: &Input) -> mlua::Result<R> {
    let pusher = lua.app_data_ref::<Pusher>();
    let pusher = pusher.ok_or_else(|| mlua::Error::runtime("the module is not registered"))?;
    pusher.0.call(LightUserData(std::ptr::from_ref(input).cast_mut().cast()))
}

/// The function that returns the table of the metadata for its members.
const NEW_META: c_int = ffi::lua_upvalueindex(1);

/// Pushes the [`Input`] that its argument points to.
///
/// # Safety
/// Must be called by Lua with this argument and the upvalue [`NEW_META`], in a protected call.
unsafe extern "C-unwind" fn push(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: `run` passes an input that outlives the call. Without memory Lua jumps out of this
    // function and the ones that it calls, which runs no destructors: they only borrow, and own nothing
    // that has one. Each leaves the stack as it was, plus what it says it pushes, within the room that
    // is reserved first: an unfinished table and a name for each level, and some more.
    unsafe {
        match &*ffi::lua_touserdata(state, 1).cast::<Input>() {
            Input::Value(tape) => {
                make_room(state, tape);
                push_value(state, &mut tape.items(), &mut NameCache::for_tape(state, tape));
                1
            }
            Input::ValueAndMeta(tape, meta) => {
                make_room(state, tape);
                push_value(state, &mut tape.items(), &mut NameCache::for_tape(state, tape));
                push_meta(state, meta);
                2
            }
            Input::Outcomes(outcomes) => {
                push_outcomes(state, outcomes);
                1
            }
        }
    }
}

/// Pushes a list of outcomes.
///
/// # Safety
/// Must be called in a protected call, with a free slot.
unsafe fn push_outcomes(state: *mut ffi::lua_State, outcomes: &[Result<(Tape, Meta), Error>]) {
    // SAFETY: as the caller promised; a table and a name for each of two more levels.
    unsafe {
        ffi::lua_createtable(state, outcomes.len() as c_int, 0);
        for (index, outcome) in outcomes.iter().enumerate() {
            let Ok((tape, meta)) = outcome else { continue };
            make_room(state, tape);
            ffi::lua_createtable(state, 0, 3);
            push_bytes(state, b"ok");
            ffi::lua_pushboolean(state, 1);
            ffi::lua_rawset(state, -3);
            push_bytes(state, b"value");
            push_value(state, &mut tape.items(), &mut None);
            ffi::lua_rawset(state, -3);
            push_bytes(state, b"meta");
            push_meta(state, meta);
            ffi::lua_rawset(state, -3);
            ffi::lua_rawseti(state, -2, (index + 1) as _);
        }
    }
}

/// Reserves room on the Lua stack for the value of a tape and its metadata.
///
/// # Safety
/// Must be called in a protected call.
unsafe fn make_room(state: *mut ffi::lua_State, tape: &Tape) {
    let slots = 2 * tape.depth() + 10 + MEMBERS + CACHED_NAMES;
    // SAFETY: as the caller promised.
    unsafe { ffi::luaL_checkstack(state, slots as c_int, c"the answer nests too deep".as_ptr()) }
}

/// Pushes the next value of a tape.
///
/// # Safety
/// Must be called in a protected call, with two free slots for each level of the value and two more.
unsafe fn push_value<'a>(
    state: *mut ffi::lua_State,
    items: &mut impl Iterator<Item = Item<'a>>,
    names: &mut Option<NameCache<'a>>,
) {
    // SAFETY: as the caller promised; every branch pushes one value.
    unsafe {
        match items.next() {
            Some(Item::List(count)) => {
                ffi::lua_createtable(state, count as c_int, 0);
                if count == 0 {
                    ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, LIST_METATABLE.as_ptr());
                    ffi::lua_setmetatable(state, -2);
                }
                for index in 1..=count {
                    push_value(state, items, names);
                    ffi::lua_rawseti(state, -2, index as _);
                }
            }
            Some(Item::Map(count)) => {
                ffi::lua_createtable(state, 0, count as c_int);
                for _ in 0..count {
                    match (items.next().unwrap_or(Item::Null), &mut *names) {
                        (Item::Bytes(name), Some(names)) => names.push(state, name),
                        (name, _) => push_plain(state, name),
                    }
                    // A null is set too: it removes the value of an earlier member of the same name.
                    push_value(state, items, names);
                    ffi::lua_rawset(state, -3);
                }
            }
            item => push_plain(state, item.unwrap_or(Item::Null)),
        }
    }
}

/// The slots of a [`NameCache`].
const CACHED_NAMES: usize = 64;

/// The items of a tape from which on a [`NameCache`] pays off, because the same names come again.
const MIN_ITEMS_FOR_CACHE: usize = 256;

/// Names of members as strings on the Lua stack. To copy one takes less time than Lua's own lookup of a
/// string by its bytes.
struct NameCache<'a> {
    /// The stack slot of the first name.
    first: c_int,
    /// The first name for each hash.
    names: [&'a [u8]; CACHED_NAMES],
}

impl<'a> NameCache<'a> {
    /// An empty cache; None for a short tape.
    ///
    /// # Safety
    /// Must be called in a protected call, with [`CACHED_NAMES`] free slots, which it occupies.
    unsafe fn for_tape(state: *mut ffi::lua_State, tape: &Tape) -> Option<Self> {
        if tape.count() < MIN_ITEMS_FOR_CACHE {
            return None;
        }
        // SAFETY: as the caller promised.
        unsafe {
            let top = ffi::lua_gettop(state);
            ffi::lua_settop(state, top + CACHED_NAMES as c_int);
            Some(NameCache { first: top + 1, names: [&[]; CACHED_NAMES] })
        }
    }

    /// Pushes a name.
    ///
    /// # Safety
    /// Must be called in the protected call that created the cache, with two free slots.
    #[inline]
    unsafe fn push(&mut self, state: *mut ffi::lua_State, name: &'a [u8]) {
        let hash = match name {
            [begin, .., end] => name.len() * 5 + usize::from(*begin) * 3 + usize::from(*end),
            // SAFETY: as the caller promised.
            _ => return unsafe { push_bytes(state, name) },
        };
        let cached = &mut self.names[hash % CACHED_NAMES];
        let slot = self.first + (hash % CACHED_NAMES) as c_int;
        // SAFETY: as the caller promised; the slot is one of those that the cache occupies.
        unsafe {
            if *cached == name {
                return ffi::lua_pushvalue(state, slot);
            }
            push_bytes(state, name);
            if cached.is_empty() {
                *cached = name;
                ffi::lua_pushvalue(state, -1);
                ffi::lua_replace(state, slot);
            }
        }
    }
}

/// Pushes a value that is not a table; nil for a table.
///
/// # Safety
/// Must be called in a protected call, with a free slot.
#[inline]
unsafe fn push_plain(state: *mut ffi::lua_State, item: Item<'_>) {
    // SAFETY: as the caller promised; every branch pushes one value.
    unsafe {
        match item {
            Item::Null | Item::List(_) | Item::Map(_) => ffi::lua_pushnil(state),
            Item::Bool(value) => ffi::lua_pushboolean(state, value.into()),
            Item::Int(number) => push_integer(state, number.unsigned_abs(), number < 0),
            Item::Uint(number) => push_integer(state, number, false),
            Item::Float(number) => ffi::lua_pushnumber(state, number),
            Item::Bytes(bytes) => push_bytes(state, bytes),
        }
    }
}

/// The members of a call's metadata.
const MEMBERS: usize = 18;

/// The metadata of a call, always with the same names in the same order.
fn members(meta: &Meta) -> [(&'static str, Option<Item<'_>>); MEMBERS] {
    fn text(text: Option<&String>) -> Option<Item<'_>> {
        text.map(|text| Item::Bytes(text.as_bytes()))
    }
    let entry = meta.entry.as_ref();
    let of_entry = |number: fn(&EntryMeta) -> u64| entry.map(|entry| Item::Uint(number(entry)));
    [
        ("request_ms", Some(Item::Float(meta.request_ms))),
        ("stale", Some(Item::Bool(meta.stale))),
        ("known_leader", meta.known_leader.map(Item::Bool)),
        ("index", meta.index.map(Item::Uint)),
        ("last_contact_ms", meta.last_contact_ms.map(Item::Uint)),
        ("content_hash", text(meta.content_hash.as_ref())),
        ("cache", text(meta.cache.as_ref())),
        ("age_s", meta.age_s.map(Item::Uint)),
        ("backend", text(meta.backend.as_ref())),
        ("filtered_by_acl", meta.filtered_by_acl.map(Item::Bool)),
        (
            "default_acl_policy",
            meta.default_acl_policy.map(|policy| Item::Bytes(policy.as_bytes())),
        ),
        ("endpoint", text(Some(&meta.endpoint))),
        ("attempts", Some(Item::Uint(meta.attempts.into()))),
        ("flags", of_entry(|entry| entry.flags)),
        ("session", text(entry.and_then(|entry| entry.session.as_ref()))),
        ("lock_index", of_entry(|entry| entry.lock_index)),
        ("create_index", of_entry(|entry| entry.create_index)),
        ("modify_index", of_entry(|entry| entry.modify_index)),
    ]
}

/// Pushes a table with the metadata.
///
/// # Safety
/// Must be called by [`push`], with a free slot for each member and one more.
unsafe fn push_meta(state: *mut ffi::lua_State, meta: &Meta) {
    let members = members(meta);
    // SAFETY: as the caller promised; the members are in the order of the function's parameters.
    unsafe {
        ffi::lua_pushvalue(state, NEW_META);
        for (_, member) in &members {
            push_plain(state, member.unwrap_or(Item::Null));
        }
        ffi::lua_call(state, members.len() as c_int, 1);
    }
}

/// # Safety
/// Must be called in a protected call, with a free slot.
unsafe fn push_bytes(state: *mut ffi::lua_State, bytes: &[u8]) {
    // SAFETY: as the caller promised; Lua copies the bytes.
    unsafe {
        ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len());
    }
}

/// Pushes an integer as a number, or as its decimal digits if a number of this Lua is not exact.
///
/// # Safety
/// Must be called in a protected call, with a free slot.
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
        if HAS_INTEGERS {
            ffi::lua_pushinteger(state, number as _);
        } else {
            ffi::lua_pushnumber(state, number as f64);
        }
    }
}

/// For each string of a list the item of another list at the index, counted from 1, that `index_of`
/// returns; or the index of the first item that is not a string. Makes one protected call.
pub fn look_up_all(
    lua: &Lua,
    strings: &Table,
    list: &Table,
    index_of: impl Fn(&[u8]) -> usize,
) -> mlua::Result<Value> {
    // SAFETY: `state` is valid in the closure, with the two tables at 1 and 2 and room for three
    // more. The bytes of a string are read while the string is on the stack. Without memory Lua jumps
    // out of the closure; nothing that needs a destructor is alive then.
    unsafe {
        lua.exec_raw((strings, list), |state| {
            let count = ffi::lua_rawlen(state, 1);
            ffi::lua_createtable(state, count as c_int, 0);
            for number in 1..=count {
                ffi::lua_rawgeti(state, 1, number as _);
                if ffi::lua_type(state, -1) != ffi::LUA_TSTRING {
                    ffi::lua_pushinteger(state, number as _);
                    break;
                }
                let mut length = 0;
                let bytes = ffi::lua_tolstring(state, -1, &mut length);
                let index = index_of(std::slice::from_raw_parts(bytes.cast(), length));
                ffi::lua_pop(state, 1);
                ffi::lua_rawgeti(state, 2, index as _);
                ffi::lua_rawseti(state, 3, number as _);
            }
            ffi::lua_replace(state, 1);
            ffi::lua_settop(state, 1);
        })
    }
}
