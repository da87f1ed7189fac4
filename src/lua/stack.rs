//! The binding's one unsafe module: what mlua's safe interface cannot say.

#![allow(unsafe_code)]

use super::value::{LIST_METATABLE, MAX_EXACT};
use crate::error::Error;
use crate::wire::response::{EntryMeta, Meta};
use crate::wire::tape::{Item, Tape};
use mlua::{FromLuaMulti, Function, LightUserData, Lua, Table, Value, ffi};
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

/// What is to be put on the Lua stack.
enum Job<'a> {
    Value(&'a Tape),
    Results(&'a Tape, &'a Meta),
    Outcomes(&'a [Result<(Tape, Meta), Error>]),
}

/// What puts it there, made once for a Lua state: to make functions for each call takes as long as to
/// push a value and its metadata.
struct Pusher {
    push: Function,
    /// Makes the table of the metadata from its members.
    meta: Function,
}

/// Prepares a Lua state.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    // SAFETY: the function is called in `run` alone, with what it expects.
    let push = unsafe { lua.create_c_function(push) }?;
    // Lua copies a table that it has made once faster than it takes new names in, one by one.
    let names = members(&Meta::default()).map(|(name, _)| name);
    let template = names.map(|name| format!("{name} = false")).join(", ");
    let set = names.map(|name| format!("meta.{name} = {name}")).join("; ");
    let code = format!(
        "return function({}) local meta = {{ {template} }}; {set}; return meta end",
        names.join(", ")
    );
    let meta = lua.load(code).set_name("=consul_ffi").eval()?;
    lua.set_app_data(Pusher { push, meta });
    Ok(())
}

/// The Lua value for what a tape holds.
pub fn value(lua: &Lua, tape: &Tape) -> mlua::Result<Value> {
    run(lua, &Job::Value(tape))
}

/// A call's value and metadata as Lua values.
pub fn results(lua: &Lua, tape: &Tape, meta: &Meta) -> mlua::Result<(Value, Table)> {
    run(lua, &Job::Results(tape, meta))
}

/// A list of outcomes: `{ ok = true, value, meta }` for each success, nothing for the failures.
pub fn outcomes(lua: &Lua, outcomes: &[Result<(Tape, Meta), Error>]) -> mlua::Result<Table> {
    run(lua, &Job::Outcomes(outcomes))
}

/// One protected call builds all: mlua's own interface makes one for each string and each member.
fn run<R: FromLuaMulti>(lua: &Lua, job: &Job) -> mlua::Result<R> {
    let pusher = lua.app_data_ref::<Pusher>();
    let pusher = pusher.ok_or_else(|| mlua::Error::runtime("the module is not registered"))?;
    let job = LightUserData(std::ptr::from_ref(job).cast_mut().cast());
    pusher.push.call((job, &pusher.meta))
}

/// The place of [`Pusher::meta`] on the stack.
const META: c_int = 2;

/// Pushes what its first argument says, a pointer to a [`Job`]; the second one is [`Pusher::meta`].
///
/// # Safety
/// To be called by Lua with these arguments, in a protected call.
unsafe extern "C-unwind" fn push(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: `run` passes a job that outlives the call. Running out of memory leaves this function
    // and what it calls by a jump that runs no destructor: they only borrow, and own nothing that has
    // one. Each leaves the stack as it found it but for what it says it pushes, within the room that
    // is asked for first: a table in the making and a name for every level, and some.
    unsafe {
        match &*ffi::lua_touserdata(state, 1).cast::<Job>() {
            Job::Value(tape) => {
                make_room(state, tape);
                push_value(state, &mut tape.items(), &mut Names::of(state, tape));
                1
            }
            Job::Results(tape, meta) => {
                make_room(state, tape);
                push_value(state, &mut tape.items(), &mut Names::of(state, tape));
                push_meta(state, meta);
                2
            }
            Job::Outcomes(outcomes) => {
                push_outcomes(state, outcomes);
                1
            }
        }
    }
}

/// Pushes a list of outcomes.
///
/// # Safety
/// To be called in a protected call, with a free slot.
unsafe fn push_outcomes(state: *mut ffi::lua_State, outcomes: &[Result<(Tape, Meta), Error>]) {
    // SAFETY: as the caller promised; a table and a name for each of two levels more.
    unsafe {
        ffi::lua_createtable(state, outcomes.len() as c_int, 0);
        for (place, outcome) in outcomes.iter().enumerate() {
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
            ffi::lua_rawseti(state, -2, (place + 1) as _);
        }
    }
}

/// Makes room on the Lua stack for a tape's value and a few more.
///
/// # Safety
/// To be called in a protected call.
unsafe fn make_room(state: *mut ffi::lua_State, tape: &Tape) {
    let slots = 2 * tape.depth() + 10 + MEMBERS + NAMES;
    // SAFETY: as the caller promised.
    unsafe { ffi::luaL_checkstack(state, slots as c_int, c"a deep answer".as_ptr()) }
}

/// Pushes the next value of a tape.
///
/// # Safety
/// To be called in a protected call, with two free slots for every level of the value and two more.
unsafe fn push_value<'a>(
    state: *mut ffi::lua_State,
    items: &mut impl Iterator<Item = Item<'a>>,
    names: &mut Option<Names<'a>>,
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
                for place in 1..=count {
                    push_value(state, items, names);
                    ffi::lua_rawseti(state, -2, place as _);
                }
            }
            Some(Item::Map(count)) => {
                ffi::lua_createtable(state, 0, count as c_int);
                for _ in 0..count {
                    match (items.next().unwrap_or(Item::Null), &mut *names) {
                        (Item::Bytes(name), Some(names)) => names.push(state, name),
                        (name, _) => push_plain(state, name),
                    }
                    // A null is set too: it takes away what a member of the same name left.
                    push_value(state, items, names);
                    ffi::lua_rawset(state, -3);
                }
            }
            item => push_plain(state, item.unwrap_or(Item::Null)),
        }
    }
}

/// How many names of members are kept at most.
const NAMES: usize = 64;

/// From so many items on, the same names come again and again.
const ITEMS_WITH_NAMES: usize = 256;

/// Names of members that Lua has as strings already, on its stack: to copy one takes less time than to
/// look it up among all strings.
struct Names<'a> {
    /// The slot of the first.
    first: c_int,
    /// The names, each in the place that its bytes say, if it was the first there.
    known: [&'a [u8]; NAMES],
}

impl<'a> Names<'a> {
    /// Those of a tape that is long enough for them.
    ///
    /// # Safety
    /// To be called in a protected call, with [`NAMES`] free slots, which are taken.
    unsafe fn of(state: *mut ffi::lua_State, tape: &Tape) -> Option<Self> {
        if tape.count() < ITEMS_WITH_NAMES {
            return None;
        }
        // SAFETY: as the caller promised.
        unsafe {
            let top = ffi::lua_gettop(state);
            ffi::lua_settop(state, top + NAMES as c_int);
            Some(Names { first: top + 1, known: [&[]; NAMES] })
        }
    }

    /// Pushes a name.
    ///
    /// # Safety
    /// To be called in the protected call that these were made in, with two free slots.
    #[inline]
    unsafe fn push(&mut self, state: *mut ffi::lua_State, name: &'a [u8]) {
        let hash = match name {
            [begin, .., end] => name.len() * 5 + usize::from(*begin) * 3 + usize::from(*end),
            // SAFETY: as the caller promised.
            _ => return unsafe { push_bytes(state, name) },
        };
        let known = &mut self.known[hash % NAMES];
        let slot = self.first + (hash % NAMES) as c_int;
        // SAFETY: as the caller promised; the slot is one of those that were taken.
        unsafe {
            if *known == name {
                return ffi::lua_pushvalue(state, slot);
            }
            push_bytes(state, name);
            if known.is_empty() {
                *known = name;
                ffi::lua_pushvalue(state, -1);
                ffi::lua_replace(state, slot);
            }
        }
    }
}

/// Pushes what is no table; nil for what is one.
///
/// # Safety
/// To be called in a protected call, with a free slot.
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

/// How many members a call's metadata has at most.
const MEMBERS: usize = 16;

/// The members of a call's metadata: always the same names in the same order.
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
/// To be called in a call of [`push`], with a free slot for each member and one more.
unsafe fn push_meta(state: *mut ffi::lua_State, meta: &Meta) {
    let members = members(meta);
    // SAFETY: as the caller promised; the members are in the function's order.
    unsafe {
        ffi::lua_pushvalue(state, META);
        for (_, member) in &members {
            push_plain(state, member.unwrap_or(Item::Null));
        }
        ffi::lua_call(state, members.len() as c_int, 1);
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

/// For each string of a list what another list has at the place, counted from 1, that `place_of` says,
/// in one list; or the place of the first item that is no string.
///
/// One protected call does it all, as in `results`.
pub fn picked(
    lua: &Lua,
    strings: &Table,
    list: &Table,
    place_of: impl Fn(&[u8]) -> usize,
) -> mlua::Result<Value> {
    // SAFETY: `state` is valid in the closure, with the two tables at 1 and 2 and room for three
    // more. A string's bytes are looked at while the string is on the stack. Running out of memory
    // leaves it by a jump; nothing that needs a destructor is alive then.
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
                let place = place_of(std::slice::from_raw_parts(bytes.cast(), length));
                ffi::lua_pop(state, 1);
                ffi::lua_rawgeti(state, 2, place as _);
                ffi::lua_rawseti(state, 3, number as _);
            }
            ffi::lua_replace(state, 1);
            ffi::lua_settop(state, 1);
        })
    }
}
