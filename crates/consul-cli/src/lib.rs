//! What the operators' programs share.

pub mod consul;
pub mod line;
pub mod print;

use consul_process::os;

/// The largest file with a secret.
const MAX_SECRET: usize = 1 << 16;

/// The text of the file that a flag names.
pub fn secret(flag: &str, file: &str) -> Result<String, String> {
    let of_file = |why: &str| format!("{flag} {file:?}: {why}");
    let bytes =
        os::read_file(file.as_ref(), MAX_SECRET).map_err(|error| of_file(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| of_file("it is not UTF-8"))
}
