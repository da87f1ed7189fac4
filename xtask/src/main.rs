//! `cargo xtask reference`: writes docs/api.md and the other pages and annotations that are generated. `cargo xtask notices`:
//! writes the SBOM and the licences of a package.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use xtask::{notices, reference};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["reference"] => write_reference(),
        ["notices", package, features, target, folder, ref others @ ..] => {
            notices::write([package, features, target], Path::new(folder), others)
        }
        _ => Err(io::Error::other(
            "usage: cargo xtask reference | notices PACKAGE FEATURES TARGET FOLDER [OTHER…]",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the files that differ.
fn write_reference() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, text) in reference::files() {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        fs::write(path, text)?;
        writeln!(io::stdout(), "{name}")?;
    }
    Ok(())
}
