//! `consul-sim`: the simulated agent on a socket, with Consul's command line.
//!
//! ```text
//! consul-sim agent -dev -http-port=8500
//! consul-sim agent -config-file agent.hcl
//! consul-sim version -format=json
//! ```
//!
//! Flags and keys that Consul knows and that have no effect on a simulated agent are named in one warning; those that Consul
//! does not know are refused, as Consul does.

use consul_ffi::simulate::VERSION;
use consul_ffi::simulate::config::{CommandLine, Config};
use consul_ffi::simulate::http::serve::serve;
use std::future::pending;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: consul-sim agent [-dev] [-http-port=N] [-node=NAME] [-config-file=FILE] …
       consul-sim version [-format=json]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, flags)) if command == "agent" => agent(flags),
        Some((command, flags)) if command == "version" => version(flags),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            print_line(&mut std::io::stderr(), &why);
            ExitCode::FAILURE
        }
    }
}

/// Prints a line; a closed pipe does not end the program.
fn print_line(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn version(flags: &[String]) -> Result<(), String> {
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
    Ok(())
}

fn agent(flags: &[String]) -> Result<(), String> {
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
    runtime.map_err(|error| error.to_string())?.block_on(run(&config))
}

/// The reason why the agent does not start, as Consul prints it.
fn starting(why: String) -> String {
    format!("==> {why}")
}

async fn run(config: &Config) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let agent = Arc::new(config.agent().map_err(starting)?);
    let (urls, listeners): (Vec<_>, Vec<_>) =
        config.listeners().await.map_err(starting)?.into_iter().unzip();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let reloads = async {
        while hangup.recv().await.is_some() {
            if let Err(why) = agent.reload() {
                print_line(&mut std::io::stderr(), &format!("==> reload: {why}"));
            }
        }
        pending().await
    };
    print_line(
        &mut std::io::stdout(),
        &format!("==> Simulated Consul agent running on {}", urls.join(" ")),
    );
    tokio::select! {
        ended = serve(Arc::clone(&agent), listeners, config.connections_per_client()) => match ended {
            Ok(never) => match never {},
            Err(error) => Err(failed(error)),
        },
        never = reloads => never,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
