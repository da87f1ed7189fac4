//! `consul-sim`: the simulated agent on a socket, with Consul's command line.
//!
//! ```text
//! consul-sim agent -dev -http-port=8500
//! consul-sim agent -config-file agent.hcl
//! consul-sim agent -dev -http-port=0 -sim-port=0 -sim-seed=1 -sim-clock=manual
//! consul-sim version -format=json
//! ```
//!
//! The flags `-sim-…` are for tests: docs/consul-sim.md.
//!
//! Flags and keys that Consul knows and that have no effect on a simulated agent are named in one warning; those that Consul
//! does not know are refused, as Consul does.

use consul_process::clock::{Clock, SystemClock};
use consul_sim::VERSION;
use consul_sim::config::{CommandLine, Config};
use consul_sim::control::endpoints::Control;
use consul_sim::http::serve::{serve, serve_answers};
use std::future::pending;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

const USAGE: &str =
    "usage: consul-sim agent [-dev] [-http-port=N] [-node=NAME] [-config-file=FILE] …
                        [-sim-port=N] [-sim-address=IP] [-sim-host=NAME] [-sim-seed=N] [-sim-clock=real|manual] [-sim-ready-file=FILE]
                        [-sim-key-names=1.21.0|1.21.5|1.22]
       consul-sim version [-format=json], consul-sim --version";

/// How the program ended.
enum End {
    Done,
    /// By a signal, without leaving first.
    Killed,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, flags))
            if asks_for_help(command) || flags.first().is_some_and(|flag| asks_for_help(flag)) =>
        {
            help();
            Ok(End::Done)
        }
        Some((command, flags)) if command == "agent" => agent(flags),
        Some((command, flags)) if is_version(command) => version(flags),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Killed) => ExitCode::FAILURE,
        Err(why) => {
            print_line(&mut std::io::stderr(), &why);
            ExitCode::FAILURE
        }
    }
}

fn asks_for_help(argument: &str) -> bool {
    ["-h", "-help", "--help", "help"].contains(&argument)
}

/// `consul` knows the last two as well.
fn is_version(argument: &str) -> bool {
    ["version", "-V", "-version", "--version"].contains(&argument)
}

fn help() {
    let text = format!(
        "{USAGE}\n\nA simulated Consul agent for tests. It answers as Consul {VERSION} and keeps everything in memory. \
         Flags and keys of the\nconfiguration that have no effect here are named in a warning at the start. The other \
         commands are those of consul itself, for\nexample: CONSUL_HTTP_ADDR=127.0.0.1:8500 consul members\n\n\
         Flags of agent:\n{}\n\nFlags of version:\n  {:<32} prints JSON",
        CommandLine::help(),
        "-format=json"
    );
    print_line(&mut std::io::stdout(), &text);
}

/// Prints a line; a closed pipe does not end the program.
fn print_line(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn version(flags: &[String]) -> Result<End, String> {
    let as_json = flags.join("=").trim_start_matches('-') == "format=json";
    let text = if as_json {
        let version = serde_json::json!({
            "Version": VERSION, "Revision": "", "Prerelease": "", "BuildDate": "1970-01-01T00:00:01Z",
            "RPC": {"Default": 2, "Min": 2, "Max": 3},
        });
        format!("{version:#}")
    } else {
        format!("Consul v{VERSION}\n(consul-sim {}, a simulated agent)", env!("CARGO_PKG_VERSION"))
    };
    print_line(&mut std::io::stdout(), &text);
    Ok(End::Done)
}

fn agent(flags: &[String]) -> Result<End, String> {
    let line = CommandLine::parse(flags).map_err(|why| format!("{why}\n{USAGE}"))?;
    let config = Config::read(&line).map_err(starting)?;
    let unused = config.unused_keys();
    if !unused.is_empty() {
        let unused = unused.join(", ");
        print_line(
            &mut std::io::stderr(),
            &format!("==> WARNING: keys without effect on a simulated agent: {unused}"),
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let ended = runtime.block_on(run(&config));
    // A thread may be waiting for the reader of its errors.
    runtime.shutdown_background();
    ended
}

/// The reason why the agent does not start, as Consul prints it.
fn starting(why: String) -> String {
    format!("==> {why}")
}

async fn run(config: &Config) -> Result<End, String> {
    let failed = |error: std::io::Error| error.to_string();
    if let Some(file) = config.ready_file() {
        remove(file)?;
    }
    if let Some(file) = config.pid_file() {
        let pid = std::process::id().to_string();
        let written = std::fs::write(file, pid);
        written.map_err(|error| {
            starting(format!("Could not open pid file: {}: {error}", file.display()))
        })?;
    }
    let control = config.control().await.map_err(starting)?;
    let steered = config.clock().map_err(starting)?;
    // A clock that nothing can advance costs each request its time for nothing.
    let clock: Arc<dyn Clock> = match config.is_steered() {
        true => Arc::new(steered.clone()),
        false => Arc::new(SystemClock::new()),
    };
    let agent = Arc::new(config.agent(clock).map_err(starting)?);
    let (urls, listeners): (Vec<_>, Vec<_>) =
        config.listeners(&agent).await.map_err(starting)?.into_iter().unzip();
    let dns = config.dns(Arc::clone(&agent)).await.map_err(starting)?;
    let asked_at = dns.addresses();
    let most = config.connections_per_client();
    let (control_urls, controlled) = match control {
        None => (Vec::new(), None),
        Some((listener, address, hosts)) => {
            let control = Control::new(hosts);
            control.add_first(Arc::clone(&agent), steered, urls.clone(), asked_at.clone());
            let served = serve_answers(Arc::new(control), vec![listener], most);
            (vec![format!("http://{address}")], Some(served))
        }
    };
    let controlled = async {
        match controlled {
            None => pending().await,
            Some(served) => served.await,
        }
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let reloads = async {
        while hangup.recv().await.is_some() {
            if let Err(why) = agent.reload() {
                let print = move || {
                    print_line(&mut std::io::stderr(), &format!("==> reload: {why}"));
                };
                let _ = spawn_blocking(print).await;
            }
        }
        pending().await
    };
    let mut line = format!("==> Simulated Consul agent running on {}", urls.join(" "));
    if !control_urls.is_empty() {
        line += &format!(" with control endpoints on {}", control_urls.join(" "));
    }
    if !asked_at.is_empty() {
        line += &format!(" and DNS on {}", asked_at.join(" "));
    }
    let ready = serde_json::json!({
        "pid": std::process::id(), "urls": urls, "control_urls": control_urls, "dns": asked_at,
    });
    let ready = format!("{ready}\n");
    if let Some(file) = config.ready_file() {
        write_whole(file, &ready)?;
    }
    print_line(&mut std::io::stdout(), &line);
    let by_signal =
        |is_interrupt| Ok(if config.leaves(is_interrupt) { End::Done } else { End::Killed });
    let ended = tokio::select! {
        ended = serve(Arc::clone(&agent), listeners, most) => match ended {
            Ok(never) => match never {},
            Err(error) => Err(failed(error)),
        },
        ended = controlled => match ended {
            Ok(never) => match never {},
            Err(error) => Err(failed(error)),
        },
        never = reloads => never,
        never = dns.serve() => match never {},
        () = agent.left() => Ok(End::Done),
        _ = interrupt.recv() => by_signal(true),
        _ = terminate.recv() => by_signal(false),
    };
    // Another process may have replaced it.
    let is_own = |file: &&Path| std::fs::read(file).is_ok_and(|text| text == ready.as_bytes());
    if let Some(file) = config.ready_file().filter(is_own) {
        remove(file)?;
    }
    if let Some(file) = config.pid_file() {
        remove(file)?;
    }
    ended
}

/// Removes a file that an earlier process may have left.
fn remove(file: &Path) -> Result<(), String> {
    let kind = file.symlink_metadata().map(|metadata| metadata.file_type());
    if kind.is_ok_and(|kind| !kind.is_file() && !kind.is_symlink()) {
        return Err(format!("{}: it is not a regular file", file.display()));
    }
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(of_file(file, &error)),
        _ => Ok(()),
    }
}

/// Writes a file that its readers never see in part.
fn write_whole(file: &Path, text: &str) -> Result<(), String> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, file));
    written.map_err(|error| of_file(file, &error))
}

fn of_file(file: &Path, error: &std::io::Error) -> String {
    starting(format!("{}: {error}", file.display()))
}
