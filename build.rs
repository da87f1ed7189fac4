//! How the module is linked.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_target = |name: &str, value: &str| env::var(name).is_ok_and(|target| target == value);
    if is_target("CARGO_CFG_TARGET_VENDOR", "apple") {
        // The loader there unloads no library that has thread-local variables, as every Rust
        // library has, and the linker has flags of its own.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup");
        return;
    }
    // A Lua state unloads its modules when it is closed, but our code may still be running in
    // threads and registered for forks.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
