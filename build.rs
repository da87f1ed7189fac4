//! How the module is linked.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A Lua state unloads its modules when it is closed, but our code may still be running in
    // threads and registered for forks. Apple's linker has no such flag, and its loader unloads
    // no library that has thread-local variables, as every Rust library has.
    if env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor != "apple") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
