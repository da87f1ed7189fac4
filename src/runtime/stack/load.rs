//! The function that `require("consul_ffi")` calls. All that it raises is a plain string: an error that leaves mlua is
//! a userdata, which the stand-alone interpreters print as "(error object is a userdata value)".
//!
//! An engine without memory leaves a function by a jump, which must not cross a frame of Rust that has
//! something to drop, or that catches panics. mlua protects what it does, except for the creation of
//! its own state, of metatables, and of room for the values that Rust holds: these run with a
//! [`Reserve`].

use crate::runtime::native::Failure;
use crate::{CLASSES, module, wrong_engine};
use mlua::{Lua, Table, ffi};
use std::os::raw::{c_int, c_void};
use std::ptr;

/// The text of the engines. They have this string from the beginning, so it takes no memory.
const NO_MEMORY: &str = "not enough memory";

/// Loads the module.
///
/// # Safety
/// `state` must be the state of a running Lua engine, as `require` passes it.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn luaopen_consul_ffi(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as the caller promised. Nothing that has a destructor is alive when one of these raises.
    unsafe {
        with_reserve(state, start_mlua, 0);
        run(state, |lua| match wrong_engine(lua)? {
            Some(refusal) => Err(Failure::Lua(refusal)),
            None => Ok(Some(module(lua)?)),
        });
        for number in 0..CLASSES.len() {
            with_reserve(state, create_metatable, number as c_int);
        }
    }
    1
}

/// The Lua values that Rust can hold at once without memory for more.
const HELD_VALUES: usize = 1000;

/// Creates the state that mlua keeps for each Lua state, if there is none.
///
/// # Safety
/// Must be called by Lua.
unsafe extern "C-unwind" fn start_mlua(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as the caller promised.
    unsafe {
        let _ = Lua::get_or_init_from_ptr(state);
        ffi::lua_settop(state, 0);
        run(state, |lua| {
            // mlua keeps these values on a stack, which it makes larger without protection.
            drop((0..HELD_VALUES).map(|_| lua.globals()).collect::<Vec<_>>());
            Ok(None)
        });
    }
    0
}

/// Creates the metatable of the class whose number is the argument.
///
/// # Safety
/// Must be called by Lua.
unsafe extern "C-unwind" fn create_metatable(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as the caller promised.
    unsafe {
        let number = ffi::lua_tointeger(state, 1);
        ffi::lua_settop(state, 0);
        run(state, |lua| {
            (CLASSES[number as usize].create_metatable)(lua)?;
            Ok(None)
        });
    }
    0
}

/// Runs work with the state of mlua, and pushes the table that it returns, or nil. Raises a failure as a
/// string.
///
/// # Safety
/// Must be called by a C function of Lua, after [`start_mlua`]. Nothing that has a destructor may be
/// alive in the caller.
unsafe fn run(
    state: *mut ffi::lua_State,
    work: impl FnOnce(&Lua) -> Result<Option<Table>, Failure>,
) {
    let mut message = None;
    // SAFETY: as the caller promised. The message has no destructor.
    unsafe {
        Lua::entrypoint1(state, |lua| {
            Ok(work(lua).unwrap_or_else(|failure| {
                message = Some(Message::of(&failure));
                None
            }))
        });
        if let Some(message) = &message {
            raise(state, message.text());
        }
    }
}

/// A message without a destructor.
struct Message {
    bytes: [u8; 512],
    length: usize,
}

impl Message {
    fn of(failure: &Failure) -> Self {
        let text = match failure {
            Failure::Error(error) => error.message(),
            Failure::Lua(text) => text,
        };
        let end = (0..=text.len().min(512)).rev().find(|end| text.is_char_boundary(*end));
        let mut message = Message { bytes: [0; 512], length: end.unwrap_or(0) };
        message.bytes[..message.length].copy_from_slice(&text.as_bytes()[..message.length]);
        message
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Raises a text.
///
/// # Safety
/// Must be called by a C function of Lua. Nothing that has a destructor may be alive in the caller.
unsafe fn raise(state: *mut ffi::lua_State, text: &[u8]) -> ! {
    // SAFETY: as the caller promised; Lua copies the text.
    unsafe {
        ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
        ffi::lua_error(state)
    }
}

/// Calls a function of Lua with an integer. The allocator of the state refuses nothing meanwhile; if it
/// would, a [`Reserve`] serves. Raises "not enough memory" if there is not enough for the reserve.
///
/// # Safety
/// Must be called by a C function of Lua. Nothing that has a destructor may be alive in the caller.
unsafe fn with_reserve(state: *mut ffi::lua_State, work: ffi::lua_CFunction, argument: c_int) {
    // SAFETY: as the caller promised. The state has its own allocator again before the reserve is gone,
    // because the work, which may raise, runs in a protected call.
    unsafe {
        ffi::lua_pushcfunction(state, work);
        ffi::lua_pushinteger(state, argument as _);
        let mut reserve = Reserve::empty(state);
        if !reserve.fill() {
            // A full collection may make the room.
            reserve.release();
            ffi::lua_gc(state, ffi::LUA_GCCOLLECT, 0);
            if !reserve.fill() {
                reserve.release();
                raise(state, NO_MEMORY.as_bytes());
            }
        }
        let reserve = &raw mut reserve;
        ffi::lua_setallocf(state, allocate, reserve.cast());
        let status = ffi::lua_pcall(state, 1, 0, 0);
        ffi::lua_setallocf(state, (*reserve).allocator, (*reserve).data);
        (*reserve).release();
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
    }
}

/// The number and the size in bytes of the blocks of a reserve. mlua's state takes fewer than 200
/// allocations, a metatable fewer than 100, and few of them are larger than the small blocks.
const SMALL: (usize, usize) = (256, 512);
const MEDIUM: (usize, usize) = (8, 4 * 1024);
const LARGE: (usize, usize) = (6, 32 * 1024);

/// By this many bytes for each reference in the registry of the engine large blocks are larger, because
/// the registry grows to twice its size at once.
const FOR_REFERENCE: usize = 64;

/// Blocks of memory that the allocator of a Lua state made in advance. It has no destructor, because
/// an engine without memory would jump over it.
struct Reserve {
    allocator: ffi::lua_Alloc,
    data: *mut c_void,
    /// The blocks and their sizes, the large ones last; null where there is none.
    blocks: [(*mut c_void, usize); SMALL.0 + MEDIUM.0 + LARGE.0],
}

impl Reserve {
    /// A reserve without blocks.
    ///
    /// # Safety
    /// The state must be valid.
    unsafe fn empty(state: *mut ffi::lua_State) -> Self {
        let mut data = ptr::null_mut();
        // SAFETY: as the caller promised.
        let (allocator, references) = unsafe {
            let allocator = ffi::lua_getallocf(state, &mut data);
            (allocator, ffi::lua_rawlen(state, ffi::LUA_REGISTRYINDEX))
        };
        // Lua 5.4 has it as a `u64`, and the clippy of some releases of Rust refuses the cast for the others.
        #[allow(clippy::unnecessary_cast)]
        let references = references as usize;
        let large = LARGE.1 + FOR_REFERENCE * references;
        let mut blocks = [(ptr::null_mut(), large); SMALL.0 + MEDIUM.0 + LARGE.0];
        blocks[..SMALL.0 + MEDIUM.0].fill((ptr::null_mut(), MEDIUM.1));
        blocks[..SMALL.0].fill((ptr::null_mut(), SMALL.1));
        Reserve { allocator, data, blocks }
    }

    /// Makes all blocks; false if one was refused.
    ///
    /// # Safety
    /// The state must be valid.
    unsafe fn fill(&mut self) -> bool {
        // SAFETY: as the caller promised.
        self.blocks.iter_mut().all(|(block, size)| unsafe {
            *block = (self.allocator)(self.data, ptr::null_mut(), 0, *size);
            !block.is_null()
        })
    }

    /// Frees the blocks that are left.
    ///
    /// # Safety
    /// The state must be valid.
    unsafe fn release(&mut self) {
        for (block, size) in &mut self.blocks {
            if !block.is_null() {
                // SAFETY: as the caller promised.
                unsafe { (self.allocator)(self.data, *block, *size, 0) };
                *block = ptr::null_mut();
            }
        }
    }

    /// A block of a size, made from one of the blocks; null if there is none.
    ///
    /// # Safety
    /// The state must be valid.
    unsafe fn take(&mut self, size: usize) -> *mut c_void {
        let fits = |block: &&mut (*mut c_void, usize)| !block.0.is_null() && block.1 >= size;
        let Some(block) = self.blocks.iter_mut().find(fits) else { return ptr::null_mut() };
        // An allocator may rely on the size that it is told when the block is freed.
        // SAFETY: as the caller promised.
        let made = unsafe { (self.allocator)(self.data, block.0, block.1, size) };
        if !made.is_null() {
            block.0 = ptr::null_mut();
        }
        made
    }
}

/// The allocator of a state with a [`Reserve`]: the state's own one, or the reserve where that refuses.
///
/// # Safety
/// As Lua calls its allocator, with a reserve.
unsafe extern "C" fn allocate(
    reserve: *mut c_void,
    block: *mut c_void,
    size: usize,
    new_size: usize,
) -> *mut c_void {
    // SAFETY: as the caller promised; a block that grows is copied before it is freed.
    unsafe {
        let reserve = &mut *reserve.cast::<Reserve>();
        let made = (reserve.allocator)(reserve.data, block, size, new_size);
        if !made.is_null() || new_size == 0 {
            return made;
        }
        let made = reserve.take(new_size);
        if !made.is_null() && !block.is_null() {
            ptr::copy_nonoverlapping(block.cast::<u8>(), made.cast(), size.min(new_size));
            (reserve.allocator)(reserve.data, block, size, 0);
        }
        made
    }
}
