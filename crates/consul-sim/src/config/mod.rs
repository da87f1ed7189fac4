//! The configuration of `consul-sim`: Consul's command line and its files, with Consul's errors.
//!
//! Source of the rules: the reference of the agent's configuration in Consul's documentation, and what Consul 1.21 prints.

mod definitions;
mod flags;
mod keys;
mod names;
mod shown;
mod values;

use super::acl::{Acl, DefaultPolicy, Secret, is_uuid};
use super::control::clock::SteeredClock;
use super::http::decode;
use super::http::listen::{Listener, SharedTls, TlsFiles, self_signed};
use super::settings::{DnsSettings, Ports, Settings, Telemetry};
use super::store::{Reload, State};
use super::{Agent, KeyNames, Options, entry, go, hcl};
use ::http::{HeaderName, HeaderValue};
use consul_process::clock::Clock;
use consul_process::hosts::Hosts;
use consul_process::os;
pub use flags::CommandLine;
use flags::{Flag, Given};
use serde_json::{Map, Value, json};
use shown::show_sockets;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The largest configuration file.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A configuration: the values of all files and flags, the last one of several.
#[derive(Debug)]
pub struct Config {
    line: CommandLine,
    values: Map<String, Value>,
    is_dev: bool,
    /// The configuration of the port with TLS, which a reload replaces.
    tls: SharedTls,
}

impl Config {
    /// Reads the files that a command line names.
    ///
    /// # Errors
    /// The reason, as Consul prints it.
    pub fn read(line: &CommandLine) -> Result<Self, String> {
        if !line.rest.is_empty() {
            return Err(format!("Unexpected extra arguments: [{}]", line.rest.join(" ")));
        }
        let mut config = Self {
            line: line.clone(),
            values: Map::new(),
            is_dev: false,
            tls: SharedTls::default(),
        };
        let format = line.texts_of(&["config-format"]).last();
        if format.is_some_and(|format| !["hcl", "json"].contains(&format)) {
            return Err("config: -config-format must be either 'hcl' or 'json'".to_owned());
        }
        for file in line.texts_of(&["config-file", "config-dir"]) {
            config.add_path(Path::new(file), format)?;
        }
        for (place, text) in line.texts_of(&["hcl"]).enumerate() {
            config.add(&format!("flags-{place}.hcl"), text, false)?;
        }
        // Flags outweigh files.
        line.flags.iter().for_each(|flag| config.set(flag));
        Ok(config)
    }

    /// A file, or the files of a folder in the order of their names.
    fn add_path(&mut self, path: &Path, format: Option<&str>) -> Result<(), String> {
        let shown = path.display();
        let failed = |error: std::io::Error| {
            let why = go::error_text(&error);
            format!("config: Open failed on {shown}. open {shown}: {why}")
        };
        if !path.metadata().map_err(failed)?.is_dir() {
            let is_json = is_json(path, format).ok_or_else(|| {
                format!("file {shown} has unknown extension; must be .hcl or .json, or config format must be set")
            })?;
            return self.add_file(path, is_json);
        }
        let entries = path.read_dir().map_err(failed)?.collect::<Result<Vec<_>, _>>();
        let mut files: Vec<PathBuf> =
            entries.map_err(failed)?.iter().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.into_iter().filter(|file| !file.is_dir()) {
            if let Some(is_json) = is_json(&file, format) {
                self.add_file(&file, is_json)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, is_json: bool) -> Result<(), String> {
        let shown = path.display();
        let bytes =
            os::read_file(path, MAX_FILE_BYTES).map_err(|error| format!("{shown}: {error}"))?;
        let text = String::from_utf8_lossy(&bytes);
        if let (Some(chunk), false) =
            (bytes.utf8_chunks().find(|it| !it.invalid().is_empty()), is_json)
        {
            let before = chunk.valid();
            let line = before.rsplit('\n').next().unwrap_or_default();
            let (line, column) = (before.matches('\n').count() + 1, line.chars().count() + 1);
            return Err(format!(
                "failed to parse {shown}: At {line}:{column}: illegal UTF-8 encoding"
            ));
        }
        self.add(&shown.to_string(), &text, is_json)
    }

    fn add(&mut self, name: &str, text: &str, is_json: bool) -> Result<(), String> {
        let values = if is_json { from_json(text) } else { hcl::parse(text).map(from_hcl) };
        let checked = values.and_then(|values| keys::check(&values));
        let mut checked = checked.map_err(|why| format!("failed to parse {name}: {why}"))?;
        // A service or check of its own is one more of the list: another file's would replace it.
        for (one, all) in [("service", "services"), ("check", "checks")] {
            if let Some(definition) = checked.remove(one) {
                merge(&mut checked, Map::from_iter([(all.to_owned(), json!([definition]))]));
            }
        }
        merge(&mut self.values, checked);
        Ok(())
    }

    fn set(&mut self, flag: &Flag) {
        let value = match (flag.name, &flag.value) {
            ("dev", Given::Switch(is_on)) => {
                self.is_dev = *is_on;
                return;
            }
            _ if flag.key.is_empty() => return,
            ("node-meta", Given::Text(pair)) => {
                let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
                json!({ name: value })
            }
            (_, Given::Text(text)) if keys::is_list(flag.key) => json!([text]),
            (_, Given::Text(text)) => json!(text),
            (_, Given::Int(number)) => json!(number),
            (_, Given::Switch(is_on)) => json!(is_on),
        };
        let nested = flag.key.rsplit('.').fold(value, |value, name| json!({ name: value }));
        if let Value::Object(values) = nested {
            merge(&mut self.values, values);
        }
    }

    /// The keys that the configuration sets and that have no effect here.
    pub fn unused_keys(&self) -> Vec<String> {
        keys::unused(&self.values)
    }

    /// The value of a key, under its name or an older one.
    fn get(&self, path: &str) -> Option<&Value> {
        let given = |path: &str| {
            let mut names = path.split('.');
            let first = self.values.get(names.next()?);
            names.fold(first, |value, name| value?.get(name))
        };
        let mut older = OLDER_NAMES.iter().filter(|(name, _)| *name == path);
        given(path).or_else(|| older.find_map(|(_, older)| given(older)))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    fn is_on(&self, path: &str, otherwise: bool) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(otherwise)
    }

    fn items(&self, path: &str) -> &[Value] {
        self.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn texts(&self, path: &str) -> impl Iterator<Item = (&str, &str)> {
        let members = self.get(path).and_then(Value::as_object);
        members
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }

    /// The sockets on which the agent answers, and their URLs.
    ///
    /// # Errors
    /// An address, port or file that cannot be used.
    pub async fn listeners(&self, agent: &Agent) -> Result<Vec<(String, Listener)>, String> {
        let mut listeners = Vec::new();
        for place in self.places("http", 8500)? {
            listeners.push(match place {
                Place::Port(address) => {
                    listen("http", address).await.map(|(url, on)| (url, Listener::Tcp(on)))?
                }
                Place::Path(path) => {
                    let failed = |error| format!("unix://{path}: {error}");
                    let listener = Listener::unix(Path::new(&path)).map_err(failed)?;
                    self.protect(&path)
                        .map_err(|why| format!("Failed setting up socket: {why}"))?;
                    (format!("unix://{path}"), listener)
                }
            });
        }
        for place in self.places("https", -1)? {
            let Place::Port(address) = place else {
                return Err("addresses.https: a unix socket is not supported".to_owned());
            };
            self.tls.set(self.acceptor()?);
            let (url, on) = listen("https", address).await?;
            listeners.push((url, Listener::Tls(on, self.tls.clone())));
        }
        for (protocol, name) in [("http", "HTTP"), ("https", "HTTPS")] {
            let urls = listeners.iter().filter_map(|(url, _): &(String, Listener)| {
                let (own, place) = url.split_once("://")?;
                let is_path = own == "unix" && protocol == "http";
                (own == protocol || is_path).then(|| match is_path {
                    true => url.clone(),
                    false => format!("tcp://{place}"),
                })
            });
            show_sockets(agent, name, urls.collect());
        }
        Ok(listeners)
    }

    /// Where the agent answers by this protocol.
    fn places(&self, protocol: &str, default_port: i64) -> Result<Vec<Place>, String> {
        let key = format!("ports.{protocol}");
        let port = self.get(&key).and_then(Value::as_i64).unwrap_or(default_port);
        if port < 0 {
            return Ok(Vec::new());
        }
        let port = u16::try_from(port).map_err(|_| format!("{key}: invalid port: {port}"))?;
        let own = format!("addresses.{protocol}");
        let (key, addresses) = match (self.text(&own), self.text("client_addr")) {
            (Some(text), _) => (own.as_str(), text),
            (None, text) => ("client_addr", text.unwrap_or("127.0.0.1")),
        };
        let place = |text: &str| match text.strip_prefix("unix://") {
            Some(path) => Ok(Place::Path(path.to_owned())),
            None => match text.parse() {
                Ok(address) => Ok(Place::Port(SocketAddr::new(address, port))),
                Err(_) => Err(format!("{key}: invalid ip address: {text}")),
            },
        };
        addresses.split_whitespace().map(place).collect()
    }

    /// The acceptor of the port with TLS, with the files as they are now.
    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let acceptor = match self.tls()? {
            Some(files) => files.acceptor(),
            None => self_signed(),
        };
        acceptor.map_err(|error| error.to_string())
    }

    /// A setting of TLS on one kind of port, with the defaults and the older name.
    fn of_tls(&self, port: &str, name: &str) -> Option<&Value> {
        let names = [format!("tls.{port}.{name}"), format!("tls.defaults.{name}"), name.to_owned()];
        names.iter().find_map(|name| self.get(name))
    }

    /// The files of the port with TLS, if there are any.
    fn tls(&self) -> Result<Option<TlsFiles>, String> {
        let text = |name| self.of_tls("https", name).and_then(Value::as_str);
        let file = |name| text(name).map(PathBuf::from);
        let verifies = self
            .of_tls("https", "verify_incoming")
            .and_then(Value::as_bool)
            .unwrap_or(self.is_on("verify_incoming_https", false));
        let (certificate, key) = match (file("cert_file"), file("key_file")) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if !verifies => return Ok(None),
            (None, _) => return Err("ports.https requires tls.defaults.cert_file".to_owned()),
            (_, None) => return Err("ports.https requires tls.defaults.key_file".to_owned()),
        };
        Ok(Some(TlsFiles {
            certificate,
            key,
            authorities: match (verifies, file("ca_file").or_else(|| file("ca_path"))) {
                (false, _) => None,
                (true, None) => {
                    return Err(
                        "VerifyIncoming set but no CA certificates were provided".to_owned()
                    );
                }
                (true, authorities) => authorities,
            },
            is_1_3: text("tls_min_version")
                .is_some_and(|least| ["TLSv1_3", "tls13"].contains(&least)),
        }))
    }

    /// The limit of connections from one address.
    pub fn connections_per_client(&self) -> usize {
        let most = self.get("limits.http_max_conns_per_client").and_then(Value::as_u64);
        most.and_then(|most| most.try_into().ok()).unwrap_or(200)
    }

    /// The socket of the control endpoints, its address and the names under which they answer; none without `-sim-port`.
    ///
    /// # Errors
    /// An address or port that cannot be used.
    pub async fn control(&self) -> Result<Option<(Listener, SocketAddr, Hosts)>, String> {
        let given = self.line.texts_of(&["sim-address"]).last();
        let names: Vec<_> = self.line.texts_of(&["sim-host"]).map(str::to_owned).collect();
        let Some(port) = self.line.number_of("sim-port") else {
            return match (given, &names[..]) {
                (None, []) => Ok(None),
                (Some(_), _) => Err("-sim-address requires -sim-port".to_owned()),
                (None, _) => Err("-sim-host requires -sim-port".to_owned()),
            };
        };
        let port = u16::try_from(port)
            .map_err(|_| format!("-sim-port = {port}: must be from 0 to {}", u16::MAX))?;
        let address = given.unwrap_or("127.0.0.1");
        let ip = address
            .parse()
            .map_err(|_| format!("-sim-address = {address}: must be an IP address"))?;
        let failed = |error| format!("-sim-address = {ip}, -sim-port = {port}: {error}");
        let listener = TcpListener::bind(SocketAddr::new(ip, port)).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok(Some((Listener::Tcp(listener), bound, Hosts::new(ip, &names))))
    }

    /// `-sim-ready-file`: the file that appears when the agent answers.
    pub fn ready_file(&self) -> Option<&Path> {
        self.line.texts_of(&["sim-ready-file"]).last().map(Path::new)
    }

    /// The first flag that concerns more than an agent.
    pub fn flag_of_a_process(&self) -> Option<&'static str> {
        let flags = ["sim-port", "sim-address", "sim-host", "sim-ready-file"];
        flags.into_iter().find(|flag| self.line.has(flag))
    }

    /// Whether a test moves the agent's clock.
    pub fn is_steered(&self) -> bool {
        self.line.has("sim-port")
    }

    /// `-sim-clock`: the clock of an agent that can be controlled.
    ///
    /// # Errors
    /// Another value than `real` and `manual`.
    pub fn clock(&self) -> Result<SteeredClock, String> {
        match self.line.texts_of(&["sim-clock"]).last() {
            None | Some("real") => Ok(SteeredClock::running()),
            Some("manual") => Ok(SteeredClock::standing()),
            Some(other) => Err(format!("-sim-clock = {other}: must be real or manual")),
        }
    }

    /// `-sim-key-names`: the rules for the names of keys.
    fn key_names(&self) -> Result<KeyNames, String> {
        let Some(release) = self.line.texts_of(&["sim-key-names"]).last() else {
            return Ok(KeyNames::default());
        };
        KeyNames::of(release).ok_or_else(|| {
            format!("-sim-key-names = {release}: must be one of {}", KeyNames::NAMES.join(", "))
        })
    }

    /// An agent with this configuration, its services and its checks, on this clock.
    ///
    /// # Errors
    /// The first value that is invalid.
    pub fn agent(&self, clock: Arc<dyn Clock>) -> Result<Agent, String> {
        let mut options = Options {
            clock,
            pretty: self.is_dev,
            settings: self.settings()?,
            ..Options::default()
        };
        if let Some(seed) = self.line.number_of("sim-seed") {
            options.seed =
                u64::try_from(seed).map_err(|_| format!("-sim-seed = {seed}: negative"))?;
        }
        if let Some(name) = self.text("node_name").filter(|name| !name.is_empty()) {
            name.clone_into(&mut options.node_name);
        }
        options.node_id = self.text("node_id").filter(|id| !id.is_empty()).map(str::to_lowercase);
        options.node_meta = self.node_meta();
        options.connect = self.is_on("connect.enabled", options.connect);
        self.configure_acl(&mut options.acl)?;
        let agent = Agent::new(options);
        let (line, tls) = (self.line.clone(), self.tls.clone());
        let reload = move |state: &mut State| Config::read(&line)?.reload(state, &tls);
        agent.with(|state| {
            state.reload = Some(Reload(Arc::new(reload)));
            self.register(state)
        })?;
        Ok(agent)
    }

    fn node_meta(&self) -> BTreeMap<String, String> {
        let meta = self.texts("node_meta");
        meta.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn settings(&self) -> Result<Settings, String> {
        self.check_values()?;
        self.check_start()?;
        let mut settings = Settings { key_names: self.key_names()?, ..Settings::default() };
        if let Some(name) = self.text("datacenter") {
            settings.datacenter = name.to_lowercase();
        }
        if let Some(id) = self.text("connect.ca_config.cluster_id") {
            if !is_uuid(id) {
                return Err("cluster_id was supplied but was not a valid UUID".to_owned());
            }
            settings.cluster_id = id.to_owned();
        }
        if let Some(address) = self.text("advertise_addr").and_then(|text| text.parse().ok()) {
            settings.address = address;
        }
        settings.ports = self.ports()?;
        settings.shown = self.shown();
        settings.telemetry = self.telemetry();
        let durations = [
            ("default_query_time", &mut settings.default_query_time),
            ("max_query_time", &mut settings.max_query_time),
            ("session_ttl_min", &mut settings.session_ttl_min),
        ];
        for (key, setting) in durations {
            if let Some(nanos) = self.text(key).and_then(|text| go::duration(text).ok()) {
                *setting = Duration::from_nanos(nanos.try_into().unwrap_or(0));
            }
        }
        let sizes = [
            ("limits.kv_max_value_size", &mut settings.kv_max_value_size),
            ("limits.txn_max_req_len", &mut settings.txn_max_req_len),
        ];
        for (key, setting) in sizes {
            if let Some(size) = self.get(key).and_then(Value::as_u64) {
                *setting = size.try_into().unwrap_or(usize::MAX);
            }
        }
        if let Some(size) = self.get("check_output_max_size").and_then(Value::as_i64) {
            settings.check_output_max_size = size;
        }
        settings.enable_script_checks = self.is_on("enable_script_checks", false);
        settings.enable_local_script_checks = self.is_on("enable_local_script_checks", false);
        settings.response_headers = self.headers()?;
        let blocked = self.items("http_config.block_endpoints").iter();
        settings.block_endpoints = blocked.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(settings)
    }

    /// The ports that the agent tells others.
    fn ports(&self) -> Result<Ports, String> {
        let standard = Ports::default();
        let port = |name: &str, otherwise: Option<u16>| {
            let key = format!("ports.{name}");
            match self.get(&key).and_then(Value::as_i64) {
                None => Ok(otherwise),
                Some(..=0) => Ok(None),
                Some(port) => u16::try_from(port)
                    .map(Some)
                    .map_err(|_| format!("{key}: invalid port: {port}")),
            }
        };
        let of_sidecars = |name, otherwise: &i64| {
            self.get(&format!("ports.sidecar_{name}_port"))
                .and_then(Value::as_i64)
                .unwrap_or(*otherwise)
        };
        let sidecars = standard.sidecars;
        Ok(Ports {
            server: port("server", None)?.unwrap_or(standard.server),
            serf_lan: port("serf_lan", None)?.unwrap_or(standard.serf_lan),
            serf_wan: port("serf_wan", standard.serf_wan)?,
            grpc: port("grpc", self.is_dev.then_some(8502))?,
            grpc_tls: port("grpc_tls", Some(8503))?,
            sidecars: of_sidecars("min", sidecars.start())..=of_sidecars("max", sidecars.end()),
        })
    }

    fn telemetry(&self) -> Telemetry {
        let retention = self.text("telemetry.prometheus_retention_time").unwrap_or_default();
        let prefix = self.text("telemetry.metrics_prefix").filter(|prefix| !prefix.is_empty());
        Telemetry {
            prefix: prefix.unwrap_or("consul").to_owned(),
            without_host: self.is_on("telemetry.disable_hostname", false),
            has_prometheus: go::duration(retention).is_ok_and(|nanos| nanos > 0),
        }
    }

    /// `pid_file`: the file with the process' number.
    pub fn pid_file(&self) -> Option<&Path> {
        self.text("pid_file").filter(|path| !path.is_empty()).map(Path::new)
    }

    /// Whether the agent leaves, and so ends as a success, when it is interrupted or terminated.
    pub fn leaves(&self, is_interrupt: bool) -> bool {
        match is_interrupt {
            true => !self.is_on("skip_leave_on_interrupt", true),
            false => self.is_on("leave_on_terminate", false),
        }
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let header = |(name, value): (&str, &str)| {
            let parsed = HeaderName::from_str(name).ok().zip(HeaderValue::from_str(value).ok());
            parsed.ok_or_else(|| format!("http_config.response_headers: invalid header: {name}"))
        };
        self.texts("http_config.response_headers").map(header).collect()
    }

    fn configure_acl(&self, acl: &mut Acl) -> Result<(), String> {
        acl.enabled =
            self.is_on("acl.enabled", acl.enabled) || self.get("acl_datacenter").is_some();
        acl.enable_key_list_policy =
            self.is_on("acl.enable_key_list_policy", acl.enable_key_list_policy);
        match self.text("acl.default_policy") {
            Some("allow") => acl.default_policy = DefaultPolicy::Allow,
            Some("deny") => acl.default_policy = DefaultPolicy::Deny,
            Some(other) => return Err(format!("Unsupported default ACL policy: {other}")),
            None => {}
        }
        let token = |name| self.text(name).map(Secret::new);
        if let Some(secret) = token("acl.tokens.initial_management") {
            acl.initial_management = Some(secret);
        }
        self.configure_tokens(acl);
        Ok(())
    }

    /// The agent's own tokens, which a reload reads again.
    fn configure_tokens(&self, acl: &mut Acl) {
        let token = |name| self.text(name).filter(|secret| !secret.is_empty()).map(Secret::new);
        acl.default_token = token("acl.tokens.default");
        acl.agent_token = token("acl.tokens.agent");
        acl.registration_token = token("acl.tokens.config_file_service_registration");
        acl.recovery_token = token("acl.tokens.agent_recovery");
        acl.dns_token = token("acl.tokens.dns");
    }

    /// Gives a socket the configured owner, group and mode.
    fn protect(&self, path: &str) -> Result<(), String> {
        let text = |name| self.text(name).filter(|text| !text.is_empty());
        let user = text("unix_sockets.user").map(user_id).transpose()?;
        let group = text("unix_sockets.group")
            .map(|group| group.parse().map_err(|_| format!("invalid group specified: {group}")));
        let group = group.transpose()?;
        std::os::unix::fs::chown(path, user, group).map_err(|error| {
            format!("failed setting ownership of {}: {error}", go::quoted(path))
        })?;
        let Some(mode) = text("unix_sockets.mode") else { return Ok(()) };
        let bits = u32::from_str_radix(mode, 8);
        let bits = bits.map_err(|_| format!("invalid mode specified: {mode}"))?;
        std::fs::set_permissions(path, Permissions::from_mode(bits)).map_err(|error| {
            format!("failed setting permissions to {bits} on {}: {error}", go::quoted(path))
        })
    }

    /// Takes over what a running agent reads again. As in Consul, its services are gone when the files of TLS are wrong.
    fn reload(mut self, state: &mut State, tls: &SharedTls) -> Result<(), String> {
        self.check_values()?;
        self.configure_tokens(&mut state.acl.config);
        if tls.is_used() {
            match self.acceptor() {
                Ok(acceptor) => tls.set(acceptor),
                Err(why) => {
                    self.values.clear();
                    self.define(state)?;
                    return Err(format!("Failed reloading tls configuration: {why}"));
                }
            }
        }
        self.register(state).map_err(definitions::of_reload)
    }

    /// Sets what DNS answers, writes the missing entries of the configuration, and registers its services and checks.
    fn register(&self, state: &mut State) -> Result<(), String> {
        let dns = self.dns_settings()?;
        // A reload does not change the domains.
        let domains =
            state.dns.take().map_or_else(|| dns.domains.clone(), |dns| dns.domains.clone());
        state.dns = Some(Arc::new(DnsSettings { domains, ..dns }));
        entry::bootstrap(state, self.items("config_entries.bootstrap"))?;
        self.define(state)
    }
}

/// The names of keys before Consul 1.4 and 1.11, which it still takes; the first that is given counts.
///
/// Source: the deprecation warnings of a Consul.
const OLDER_NAMES: &[(&str, &str)] = &[
    ("acl.default_policy", "acl_default_policy"),
    ("acl.down_policy", "acl_down_policy"),
    ("acl.enable_key_list_policy", "acl_enable_key_list_policy"),
    ("acl.token_ttl", "acl_ttl"),
    ("acl.tokens.agent", "acl_agent_token"),
    ("acl.tokens.agent_recovery", "acl.tokens.agent_master"),
    ("acl.tokens.agent_recovery", "acl_agent_master_token"),
    ("acl.tokens.default", "acl_token"),
    ("acl.tokens.initial_management", "acl.tokens.master"),
    ("acl.tokens.initial_management", "acl_master_token"),
];

/// Where an agent answers.
enum Place {
    Port(SocketAddr),
    Path(String),
}

/// The id of a user, by its number or its name.
fn user_id(user: &str) -> Result<u32, String> {
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut found = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok())?
    });
    let unknown = || format!("failed to look up user {user}: user: unknown user {user}");
    found.next().ok_or_else(unknown)
}

async fn listen(protocol: &str, address: SocketAddr) -> Result<(String, TcpListener), String> {
    let failed = |error| format!("{address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((format!("{protocol}://{address}"), listener))
}

fn is_json(path: &Path, format: Option<&str>) -> Option<bool> {
    let name = path.file_name()?.to_str()?;
    match format.or_else(|| Some(name.rsplit_once('.')?.1))? {
        "json" => Some(true),
        "hcl" => Some(false),
        _ => None,
    }
}

fn from_json(text: &str) -> Result<Map<String, Value>, String> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    const CUT: &str = "unexpected end of JSON input";
    let value = decode::Json::read(text.as_bytes()).map_err(|why| match why.as_str() {
        "EOF" | "unexpected EOF" => CUT.to_owned(),
        _ => why,
    })?;
    let mut reader = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    reader.next();
    if let Some(c) = text[reader.byte_offset()..].trim_start().chars().next() {
        return Err(format!("invalid character '{c}' after top-level value"));
    }
    match value {
        decode::Json::Null => Ok(Map::new()),
        decode::Json::Object(members) => Ok(members.into_iter().map(from_member).collect()),
        other => Err(other.value_type_error("map[string]interface {}")),
    }
}

fn from_member((name, value): (String, decode::Json)) -> (String, Value) {
    (name, value_from_json(value))
}

fn value_from_json(value: decode::Json) -> Value {
    use decode::Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(is_on) => is_on.into(),
        // As Go reads it.
        Json::Number(number) => number.as_f64().into(),
        Json::Text(text) => text.into(),
        Json::List(items) => items.into_iter().map(value_from_json).collect(),
        Json::Object(members) => Value::Object(members.into_iter().map(from_member).collect()),
    }
}

/// The values of HCL as values of JSON: a block is a list of objects, repeated blocks are one list.
fn from_hcl(members: hcl::Object) -> Map<String, Value> {
    let mut values = Map::new();
    for (name, value) in members {
        match value {
            hcl::Value::Object(inner) => {
                let item = Value::Object(from_hcl(inner));
                match values.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(items) => items.push(item),
                    other => *other = item,
                }
            }
            value => {
                values.insert(name, value_from_hcl(value));
            }
        }
    }
    values
}

fn value_from_hcl(value: hcl::Value) -> Value {
    match value {
        hcl::Value::Text(text) => text.into(),
        hcl::Value::Bool(is_on) => is_on.into(),
        hcl::Value::Number(text) => {
            text.parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
        }
        hcl::Value::List(items) => items.into_iter().map(value_from_hcl).collect(),
        hcl::Value::Object(members) => Value::Object(from_hcl(members)),
    }
}

/// Adds values: members of objects and items of lists are added, other values replaced.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Object(present)), Value::Object(added)) => merge(present, added),
            (Some(Value::Array(present)), Value::Array(added)) => present.extend(added),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}
