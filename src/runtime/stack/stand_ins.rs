//! The engine's functions that this build calls and other engines do not have. Without a definition of each, the
//! loader of another engine would say only "undefined symbol"; with these it loads the module, which says what is
//! wrong. Where the engine has the function, the loader takes that one: it looks in the program and its libraries first.
//!
//! They are in assembler because the compiler would take a body that it sees for that of the engine's function.

use consul_process::os;
use std::ffi::CStr;

/// The name of the engine that has loaded this build, if it does not have all functions that the build calls.
pub fn engine() -> Option<&'static str> {
    if CALLED.iter().all(|name| os::has_function(name)) {
        return None;
    }
    let known_by = |(function, _): &&(&CStr, &str)| os::has_function(function);
    Some(KNOWN_BY.iter().find(known_by).map_or("Lua 5.1", |(_, engine)| engine))
}

/// A function that an engine has and those below it do not.
const KNOWN_BY: &[(&CStr, &str)] = &[
    (c"luaJIT_setmode", "LuaJIT"),
    (c"lua_numbertocstring", "Lua 5.5"),
    (c"lua_newuserdatauv", "Lua 5.4"),
    (c"lua_rotate", "Lua 5.3"),
    (c"lua_callk", "Lua 5.2"),
];

#[cfg(target_arch = "x86_64")]
macro_rules! trap {
    () => {
        "ud2"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! trap {
    () => {
        "brk #1"
    };
}

macro_rules! stand_ins {
    ($($name:ident)*) => {
        const CALLED: &[&CStr] = &[$(
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            }
        ),*];

        #[allow(non_snake_case)] // Lua's names
        #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
        mod definitions {
            $(
                #[unsafe(naked)]
                #[unsafe(no_mangle)]
                extern "C" fn $name() {
                    std::arch::naked_asm!(trap!())
                }
            )*
        }
    };
}

#[cfg(any(feature = "luajit", feature = "lua51"))]
stand_ins! {
    luaL_loadbuffer lua_call lua_cpcall lua_getfenv lua_insert lua_newuserdata lua_objlen lua_pcall lua_remove
    lua_replace lua_setfenv lua_tonumber
}

#[cfg(feature = "lua53")]
stand_ins! {
    luaL_len luaL_loadbufferx luaL_tolstring luaL_traceback lua_absindex lua_callk lua_copy lua_getuservalue
    lua_isinteger lua_newuserdata lua_pcallk lua_rawgetp lua_rawlen lua_rawsetp lua_rotate lua_seti lua_setuservalue
    lua_tointegerx lua_tonumberx
}

#[cfg(feature = "lua54")]
stand_ins! {
    luaL_len luaL_loadbufferx luaL_tolstring luaL_traceback lua_absindex lua_callk lua_copy lua_getiuservalue
    lua_isinteger lua_newuserdatauv lua_pcallk lua_rawgetp lua_rawlen lua_rawsetp lua_rotate lua_seti
    lua_setiuservalue lua_tointegerx lua_tonumberx
}
