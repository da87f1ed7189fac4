//! `consul-guard`: releases the locks of a process when that process has died. The module starts
//! it, with a socket to that process as its standard input.
//!
//! ```text
//! consul-guard PID
//! consul-guard version, consul-guard --help
//! ```

use consul_guard::{PROGRAM, watch};
use consul_process::os::{self, Process};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [word] if ["version", "-V", "--version"].contains(&&**word) => {
            writeln!(io::stdout(), "{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
        }
        [id] if id.parse::<u32>().is_ok() => guard(id.parse().unwrap_or_default()),
        [word] if ["help", "-h", "--help"].contains(&&**word) => {
            writeln!(io::stdout(), "{}", help())
        }
        _ => Err(io::Error::other(usage())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error does not change the exit status.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    format!("usage: {PROGRAM} PID (by the module); {PROGRAM} version; {PROGRAM} help")
}

fn help() -> String {
    format!(
        "{}\n\nReleases the locks of a process in Consul when that process has died. The module consul_ffi starts it, by \
         the\noption guard, and sends it what is to be released.\n\n  PID      the process to watch; a socket to it \
         is the standard input\n  version  prints the version, as --version\n  help     prints this, as --help",
        usage()
    )
}

fn guard(process_id: u32) -> io::Result<()> {
    // It gets tokens.
    os::hide_memory();
    let socket = || io::Result::Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    socket()?.peer_addr()?;
    os::daemonize()?;
    watch(&socket()?, &Process::new(process_id));
    Ok(())
}
