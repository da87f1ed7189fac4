//! What the operators' programs share.

pub mod consul;
pub mod line;
pub mod print;

use consul_api::error::Kind;
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

/// The exit status of a call that failed.
pub fn status_of(kind: Kind) -> u8 {
    match kind {
        Kind::Argument | Kind::Config => 2,
        Kind::Connect | Kind::Timeout | Kind::Tls | Kind::NoLeader | Kind::RateLimited => 3,
        Kind::PermissionDenied | Kind::AclNotFound => 5,
        _ => 1,
    }
}
