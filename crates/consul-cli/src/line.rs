//! The command line.

use super::print::{PROGRAM, failed, print, print_json};
use clap::{CommandFactory, Parser};
use clap_complete::{Shell, generate};

/// The command line of this process; an invalid one ends it.
pub fn parsed<L: Parser + CommandFactory>() -> L {
    PROGRAM.set(L::command().get_name());
    L::try_parse().unwrap_or_else(|error| {
        // To print the help is not a failure.
        if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
            print_json(&failed("usage", &error.to_string()));
        }
        error.exit()
    })
}

/// Prints the script that completes command lines.
pub fn completion<L: CommandFactory>(shell: Shell) {
    let mut script = Vec::new();
    generate(shell, &mut L::command(), PROGRAM.to_string(), &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
}
