//! `consul-sim`: the simulated agent on a socket, with Consul's command line.
//!
//! ```text
//! consul-sim agent -dev -http-port=8500
//! consul-sim agent -config-file agent.hcl
//! consul-sim version -format=json
//! ```
//!
//! Flags and configuration keys that have no effect on a simulated agent are accepted and ignored, so
//! that programs which start `consul` can start this one.

use consul_ffi::os;
use consul_ffi::simulate::acl::{Acl, DefaultPolicy, Secret};
use consul_ffi::simulate::http::serve::serve;
use consul_ffi::simulate::{Agent, Options, VERSION, hcl};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
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
    let as_json = Flags::parse(flags)?.last("format") == Some("json");
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

/// The largest configuration file.
const MAX_FILE_BYTES: usize = 1 << 20;

fn read(file: &str) -> Result<String, String> {
    let bytes = os::read_file(file.as_ref(), MAX_FILE_BYTES).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// The settings of the command line and the configuration files.
struct Settings {
    address: IpAddr,
    port: u16,
    connections_per_client: usize,
    agent: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 8500,
            connections_per_client: 200,
            agent: Options::default(),
        }
    }
}

impl Settings {
    fn new(flags: &Flags) -> Result<Self, String> {
        let mut settings = Settings::default();
        for (name, value) in &flags.0 {
            match (name.as_str(), value.as_str()) {
                ("config-file", file) => {
                    let text = read(file).map_err(|why| format!("{file}: {why}"))?;
                    settings.configure(&text).map_err(|why| format!("{file}: {why}"))?;
                }
                ("hcl", text) => settings.configure(text).map_err(|why| format!("-hcl: {why}"))?,
                ("dev", _) => settings.agent.pretty = true,
                ("node", name) => settings.agent.node_name = name.to_owned(),
                ("node-id", id) => settings.agent.node_id = Some(id.to_owned()),
                ("node-meta", pair) => {
                    let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
                    settings.agent.node_meta.insert(name.to_owned(), value.to_owned());
                }
                ("http-port", port) => {
                    settings.port = port
                        .parse()
                        .map_err(|_| format!("-http-port={port}: not a port (0 to 65535)"))?;
                }
                ("client", address) => settings.set_address(address)?,
                _ => {}
            }
        }
        Ok(settings)
    }

    fn set_address(&mut self, address: &str) -> Result<(), String> {
        self.address = address.parse().map_err(|_| format!("{address}: not an IP address"))?;
        Ok(())
    }

    /// Applies a configuration in HCL or JSON; a key without effect here is ignored.
    fn configure(&mut self, text: &str) -> Result<(), String> {
        let config = hcl::parse(text)?;
        let text = |path: &[&str]| match hcl::find(&config, path) {
            Some(hcl::Value::Literal(text)) => Some(text.as_str()),
            _ => None,
        };
        if let Some(name) = text(&["node_name"]) {
            self.agent.node_name = name.to_owned();
        }
        if let Some(id) = text(&["node_id"]) {
            self.agent.node_id = Some(id.to_owned());
        }
        if let Some(hcl::Value::Object(meta)) = hcl::find(&config, &["node_meta"]) {
            for (name, value) in meta {
                if let hcl::Value::Literal(value) = value {
                    self.agent.node_meta.insert(name.clone(), value.clone());
                }
            }
        }
        if let Some(port) = text(&["ports", "http"]) {
            self.port = port
                .parse()
                .map_err(|_| format!("ports.http = {port}: not a port (0 to 65535)"))?;
        }
        if let Some(address) = text(&["addresses", "http"]).or(text(&["client_addr"])) {
            self.set_address(address)?;
        }
        if let Some(enabled) = text(&["connect", "enabled"]) {
            self.agent.connect = enabled == "true";
        }
        if let Some(most) = text(&["limits", "http_max_conns_per_client"]) {
            self.connections_per_client = most
                .parse()
                .map_err(|_| format!("limits.http_max_conns_per_client = {most}: not a number"))?;
        }
        configure_acl(&mut self.agent.acl, text)
    }
}

fn configure_acl<'a>(
    acl: &mut Acl,
    text: impl Fn(&[&str]) -> Option<&'a str>,
) -> Result<(), String> {
    let is_true = |path: &[&str], present: bool| text(path).map_or(present, |on| on == "true");
    acl.enabled = is_true(&["acl", "enabled"], acl.enabled);
    acl.enable_key_list_policy =
        is_true(&["acl", "enable_key_list_policy"], acl.enable_key_list_policy);
    match text(&["acl", "default_policy"]) {
        Some("allow") => acl.default_policy = DefaultPolicy::Allow,
        Some("deny") => acl.default_policy = DefaultPolicy::Deny,
        Some(other) => return Err(format!("acl.default_policy = {other}: must be allow or deny")),
        None => {}
    }
    let token = |name: &str| text(&["acl", "tokens", name]).map(Secret::new);
    // `master` is its name before Consul 1.11.
    if let Some(secret) = token("initial_management").or_else(|| token("master")) {
        acl.initial_management = Some(secret);
    }
    if let Some(secret) = token("default") {
        acl.default_token = Some(secret);
    }
    Ok(())
}

fn agent(flags: &[String]) -> Result<(), String> {
    let settings = Settings::new(&Flags::parse(flags)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(run(settings))
}

async fn run(settings: Settings) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let address = SocketAddr::new(settings.address, settings.port);
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    print_line(
        &mut std::io::stdout(),
        &format!("==> Simulated Consul agent running on http://{address}"),
    );
    let agent = Arc::new(Agent::new(settings.agent));
    tokio::select! {
        ended = serve(agent, listener, settings.connections_per_client) => match ended {
            Ok(never) => match never {},
            Err(error) => Err(failed(error)),
        },
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// A command line in the form of Go's package `flag`: `-name=value`, `-name value`, `-switch`.
struct Flags(Vec<(String, String)>);

/// The flags of Consul's agent without a value.
const SWITCHES: &[&str] = &[
    "dev",
    "server",
    "bootstrap",
    "ui",
    "rejoin",
    "syslog",
    "disable-keyring-file",
    "disable-host-node-id",
    "enable-script-checks",
    "enable-local-script-checks",
    "log-json",
    "non-voting-server",
    "read-replica",
    "allow-write-http-from",
    "leave-on-terminate",
];

impl Flags {
    fn parse(arguments: &[String]) -> Result<Flags, String> {
        let mut flags = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                return Err(format!("unexpected argument {argument:?}\n{USAGE}"));
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if SWITCHES.contains(&flag) => (flag, "true".to_owned()),
                None => match arguments.next() {
                    Some(value) => (flag, value.clone()),
                    None => return Err(format!("the flag -{flag} requires a value")),
                },
            };
            flags.push((name.to_owned(), value));
        }
        Ok(Flags(flags))
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
