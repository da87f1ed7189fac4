//! The common parts of the operators' programs.
//!
//! ```
//! use consul_cli::print;
//!
//! // A text of others is one line, on which no terminal acts.
//! assert_eq!(print::line("web\u{1b}[2J\nFORGED"), r"web\u{1b}[2J\nFORGED");
//! assert_eq!(print::counted(1, "node"), "1 node");
//! assert_eq!(print::counted(2, "node"), "2 nodes");
//! // With --json a failure is a document, too.
//! let failed = print::failed("usage", "--json is given twice");
//! assert_eq!(failed["error"]["kind"], "usage");
//! ```

pub mod consul;
pub mod line;
pub mod print;
pub mod stderr;
pub mod words;

use consul_process::os;
use std::path::Path;

/// The largest file with a secret or with profiles.
const MAX_SECRET: usize = 1 << 16;

/// The text of the file that a flag names.
pub fn secret(flag: &str, file: &str) -> Result<String, String> {
    text_file(&format!("{flag} {file:?}"), file.as_ref())
}

/// The text of a regular file that is not too large; `of` names it in errors, which never show its content.
pub fn text_file(of: &str, file: &Path) -> Result<String, String> {
    let of_file = |why: &str| format!("{of}: {why}");
    let bytes = os::read_file(file, MAX_SECRET).map_err(|error| of_file(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| of_file("it is not UTF-8"))
}
