//! How the program is linked.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_target = |name: &str, value: &str| env::var(name).is_ok_and(|target| target == value);
    // Only the profile `guard` optimises for size.
    if is_target("OPT_LEVEL", "z") && is_target("CARGO_CFG_TARGET_OS", "linux") {
        discard_unwind_tables();
    }
}

/// Leaves the tables for unwinding, a tenth of the program, out of the guard, which aborts on a
/// panic. Not every linker can do that, so it is left out when a linker may be configured.
fn discard_unwind_tables() {
    const SCRIPT: &str =
        "SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame_hdr .gcc_except_table*) } }
        INSERT AFTER .text;";
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_of_paths = |flag: &str| flag.is_empty() || flag.starts_with("--remap-path-prefix=");
    if is_set("RUSTC_LINKER") || !flags.split('\u{1f}').all(is_of_paths) {
        return;
    }
    let Some(folder) = env::var_os("OUT_DIR") else { return };
    let script = Path::new(&folder).join("guard.ld");
    if fs::write(&script, SCRIPT).is_ok() {
        println!("cargo:rustc-link-arg-bin=consul-guard=-Wl,-T,{}", script.display());
    }
}
