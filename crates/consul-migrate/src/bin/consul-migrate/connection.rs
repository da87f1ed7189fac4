//! The clients of a run.

use super::arguments::{CommandLine, Etcd as Given};
use super::failure::Failure;
use super::progress::Progress;
use consul_api::error::{Error, Kind};
use consul_cli::secret;
use consul_cli::stderr;
use consul_cli::words::{self, Words};
use consul_client::transport::{Options, TlsOptions};
use consul_config::NotAnAddress;
use consul_config::connect::connect;
use consul_migrate::etcd::streaming::{Streaming, StreamingHttp};
use consul_migrate::etcd::{Etcd, Login};
use consul_migrate::job::Instance;
use consul_migrate::mapping::Mapping;
use consul_migrate::target::Target;
use consul_migrate::{Frozen, Pace};
use consul_process::clock::{Clock, SystemClock};
use consul_process::logs::{self, Wanted};
use consul_process::os::{self, Process};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The time limit of an attempt to read a page of etcd, and the least that less patience makes of it.
const TIMEOUT: Duration = Duration::from_secs(20);
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);

/// That of etcd, for an address without a scheme and a port.
const PORT: u16 = 2379;

/// The options of the connections to etcd.
const ETCDS: Words = Words {
    flags: &[
        ("tls_ca_file", "--etcd-ca-file"),
        ("tls_cert_file", "--etcd-client-cert"),
        ("tls_key_file", "--etcd-client-key"),
        ("tls_server_name", "--etcd-server-name"),
        ("tls_verify", "--etcd-skip-verify"),
    ],
    first: &[],
    // No flag takes a folder of authorities.
    phrases: &[(" or tls_ca_path", "")],
};

/// For how long requests are repeated by default.
const PATIENCE: Duration = Duration::from_secs(60);

/// The operations in a transaction that each server takes.
const EACH_TAKES: u16 = 64;

pub struct Session {
    pub etcd: Etcd,
    pub target: Target,
    pub mapping: Mapping,
    pub pace: Pace,
    pub me: Instance,
    pub progress: Arc<Progress>,
    pub frozen: Frozen,
    /// Whether the verb's work is done: no signal ends it any more.
    pub has_result: AtomicBool,
    /// Whether a tail waits until both sides answer.
    pub is_patient: bool,
    /// Consul's addresses.
    pub consul: Vec<String>,
}

impl Session {
    /// Asks neither side yet.
    pub fn new(line: &CommandLine) -> Result<Self, Failure> {
        let config = line.consul.config().map_err(of_flags)?;
        logs::written_by(stderr::write);
        logs::set(Wanted { level: config.log_level, json: config.log_json });
        let patience = line.job.patience.map_or(PATIENCE, Duration::from_secs);
        let etcd = etcd(&line.etcd, patience)?;
        let client = Arc::new(connect(&config).map_err(of_flags)?);
        let job = &line.job;
        let progress = Arc::new(Progress::new(line.json));
        let mut target = Target::new(client, patience, job.txn.into())
            .in_words(|error| words::in_flags(error, &[&words::CONSUL]))
            .reporting(progress.clone());
        if config.defaults.token.is_none() && config.token_file.is_none() {
            target = target.without_token();
        }
        Ok(Session {
            etcd: etcd.reporting(progress.clone()),
            target,
            mapping: Mapping {
                etcd_prefix: line.etcd.prefix.clone().into_bytes(),
                consul_prefix: job.consul_prefix.clone(),
                on: job.on.iter().copied().collect(),
                form: None,
                mark: 0,
                refused: Default::default(),
            },
            pace: Pace { page: job.page, in_flight: job.in_flight.into() },
            me: instance(line.verb.name()),
            progress,
            frozen: Frozen::default(),
            has_result: AtomicBool::new(false),
            is_patient: line.job.patience.is_none(),
            consul: config.endpoints,
        })
    }

    /// Learns how many operations Consul takes in a transaction.
    pub async fn learn(&mut self, line: &CommandLine) -> Result<(), Failure> {
        match line.job.txn {
            ..=EACH_TAKES => Ok(()),
            _ => Ok(self.target.learn_max_ops().await?),
        }
    }
}

fn etcd(given: &Given, patience: Duration) -> Result<Etcd, Failure> {
    let tls = TlsOptions {
        ca_file: given.etcd_ca_file.as_ref().map(Into::into),
        cert_file: given.etcd_client_cert.as_ref().map(Into::into),
        key_file: given.etcd_client_key.as_ref().map(Into::into),
        server_name: given.server_name.clone(),
        verify: !given.skip_verify,
        ..TlsOptions::default()
    };
    let is_tls = tls.ca_file.is_some() || tls.cert_file.is_some();
    let options = Options { tls, ..Options::default() };
    let server = |address: &String| -> Result<Arc<dyn Streaming>, Failure> {
        let url = url(address, is_tls).map_err(Failure::Usage)?;
        let server = StreamingHttp::new(&url, &options).map_err(|error| match error.kind() {
            Kind::Config => Failure::Usage(of_etcds_flags(error.message())),
            _ => error.into(),
        })?;
        Ok(Arc::new(server))
    };
    let servers = given.addresses.iter().map(server).collect::<Result<Vec<_>, _>>()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let timeout = patience.clamp(LEAST_TIMEOUT, TIMEOUT);
    let etcd = Etcd::new(servers, login(given)?, clock, timeout, patience);
    let etcd = etcd.in_words(|error| words::in_flags(error, &[&ETCDS]));
    Ok(etcd.with_prefix(&given.prefix))
}

/// An error about Consul's options in the words of flags.
fn of_flags(error: Error) -> Failure {
    match error.kind() {
        Kind::Config => Failure::Usage(words::of_flags(error.message(), &[&words::CONSUL])),
        _ => error.into(),
    }
}

/// The same about etcd's.
fn of_etcds_flags(message: &str) -> String {
    words::of_flags(message, &[&ETCDS])
}

/// The URL of a server of etcd, with addresses in the form of Consul agents' addresses but for the port.
fn url(address: &str, is_tls: bool) -> Result<String, String> {
    let address = address.trim();
    let given = match address.contains("://") {
        true => address.to_owned(),
        false => format!("{}://{address}", if is_tls { "https" } else { "http" }),
    };
    let refused = |why: &str| format!("--etcd {address:?}: {why}");
    const SCHEME: &str = "the scheme must be http or https";
    let is_http = |url: &str| url.to_ascii_lowercase().starts_with("http");
    let url = consul_config::url(&given).map_err(|why| match why {
        NotAnAddress::Credentials => {
            "--etcd must be a URL without credentials: --etcd-user and --etcd-password-file take \
                                      them, or ETCDCTL_USER and ETCDCTL_PASSWORD"
                .to_owned()
        }
        NotAnAddress::Because(_) if !is_http(&given) => refused(SCHEME),
        NotAnAddress::Because(why) => refused(why),
    })?;
    let Some((scheme @ ("http" | "https"), authority)) = url.split_once("://") else {
        return Err(refused(SCHEME));
    };
    match authority.contains('/') {
        true => Err(refused("it must not have a path")),
        false if !address.contains("://") && !has_port(authority) => {
            Ok(format!("{scheme}://{authority}:{PORT}"))
        }
        false => Ok(url),
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'))
}

fn login(given: &Given) -> Result<Option<Login>, Failure> {
    let Some(user) = &given.user else { return Ok(None) };
    let elsewhere = match &given.password_file {
        Some(file) => {
            let text = secret("--etcd-password-file", file).map_err(Failure::Usage)?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => std::env::var("ETCDCTL_PASSWORD").ok().filter(|password| !password.is_empty()),
    };
    // As etcdctl: a name can have a colon if the password is not behind it.
    let (name, password) = match (&elsewhere, user.split_once(':')) {
        (None, Some((name, password))) => (name, Some(password.to_owned())),
        (elsewhere, _) => (user.as_str(), elsewhere.clone()),
    };
    if elsewhere.is_none()
        && password.is_some()
        && std::env::var("ETCDCTL_USER").ok().as_ref() != Some(user)
    {
        let why = "a password is never an argument, which each user of this machine can read: --etcd-password-file or \
                   ETCDCTL_PASSWORD takes it, or ETCDCTL_USER with the name";
        return Err(Failure::Usage(why.to_owned()));
    }
    let missing = || {
        let why =
            "the password of etcd's user is missing: --etcd-password-file or ETCDCTL_PASSWORD";
        Failure::Usage(why.to_owned())
    };
    Ok(Some(Login { name: name.to_owned(), password: password.ok_or_else(missing)? }))
}

fn instance(verb: &str) -> Instance {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Instance {
        id: format!("{:016x}", fastrand::u64(..)),
        host: host.trim().to_owned(),
        boot: os::boot_id().map(|boot| boot + &namespace()).unwrap_or_default(),
        process: std::process::id(),
        verb: verb.to_owned(),
    }
}

/// That of the numbers of processes: two containers of one machine may have its name, and number their processes alike.
fn namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid")
        .map(|name| format!(" {}", name.display()))
        .unwrap_or_default()
}

/// Whether an instance was a process of this machine that has ended.
pub fn is_dead(instance: &Instance, me: &Instance) -> bool {
    let is_here = instance.boot == me.boot && instance.host == me.host && !me.boot.is_empty();
    is_here && Process::new(instance.process).exits_within(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_tls_if_there_are_files_for_it_and_etcds_port_if_it_is_a_host() {
        for (address, is_tls, wanted) in [
            ("a:2379", true, "https://a:2379"),
            ("a:2379/", false, "http://a:2379"),
            ("http://a:2379", true, "http://a:2379"),
            ("127.0.0.1", false, "http://127.0.0.1:2379"),
            (" etcd.example ", true, "https://etcd.example:2379"),
            ("[::1]", false, "http://[::1]:2379"),
            ("[::1]:1", false, "http://[::1]:1"),
            ("HTTPS://etcd.example", false, "https://etcd.example"),
        ] {
            assert_eq!(url(address, is_tls).as_deref(), Ok(wanted), "{address}");
        }
    }

    /// The hints of the client are in the words of the module's options.
    #[test]
    fn no_option_for_tls_is_named_as_the_module_names_it() {
        let of_tls = |name: &&str| name.starts_with("tls_") && *name != "tls_ca_path";
        for option in consul_config::OPTIONS.iter().map(|option| option.name).filter(of_tls) {
            for side in [&words::CONSUL, &ETCDS] {
                let hint = format!("it is that of {option} or tls_ca_path (set {option})");
                let shown = words::in_flags(Error::new(Kind::Tls, hint), &[side]);
                assert!(!shown.message().contains("tls_"), "{option}: {shown}");
            }
        }
    }

    /// The number of its process says nothing elsewhere.
    #[test]
    fn an_instance_in_another_container_of_this_machine_is_not_dead() {
        let me = instance("tail");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = Instance { process: child.id(), ..me.clone() };
        assert!(is_dead(&dead, &me) && !is_dead(&me, &me));
        let boot = os::boot_id().unwrap() + " pid:[1]";
        let elsewhere = Instance { boot, ..dead };
        assert!(!is_dead(&elsewhere, &me), "{elsewhere:?}");
    }

    #[test]
    fn a_password_is_no_argument() {
        use clap::Parser as _;
        for user in ["app:s3cret", "app:", "app", ":s3cret"] {
            let line = CommandLine::try_parse_from(["it", "--etcd-user", user, "plan"]);
            let line = line.expect("a command line");
            let Err(Failure::Usage(said)) = login(&line.etcd) else { panic!("{user}") };
            assert!(said.contains("--etcd-password-file") && !said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_and_a_password_is_not_shown() {
        for (address, why) in [
            ("", "it is not a URL"),
            ("http://", "not a URL"),
            ("a:0", "the port must be from 1 to 65535"),
            ("a:70000", "the port must be from 1 to 65535"),
            ("a:b", "--etcd \"a:b\": "),
            ("ftp://a:1", "the scheme must be http or https"),
            ("unix:///run/etcd.sock", "the scheme must be http or https"),
            ("http://a:1/v3", "it must not have a path"),
            ("http://a:1?x=1", "it must not have a query"),
            ("http://user:s3cret@a:2379", "--etcd-user"),
            ("user:s3cret@a:2379", "--etcd-user"),
            ("::1", "in brackets, such as [::1]"),
            ("fe80::1", "in brackets"),
            ("::1:2379", "in brackets"),
            ("http://::1", "in brackets"),
            ("fe80::1%lo", "in brackets"),
            ("http://fe80::1%25lo", "in brackets"),
            ("[fe80::1%lo]", "with a zone"),
            ("[fe80::1%lo]:2379", "with a zone"),
            ("http://[fe80::1%25lo]:2379", "with a zone"),
            ("[127.0.0.1]:1", "in brackets there must be an IPv6 address"),
            ("[a]", "in brackets there must be an IPv6 address"),
            ("[]:1", "in brackets there must be an IPv6 address"),
            ("[::1", "not a URL"),
            ("::1]", "not a URL"),
            ("[::1]x", "the port must be"),
            ("[::1]2379", "the port must be"),
            ("a:1:2", "not a URL"),
            ("a..b", "no host name has"),
            (".a", "no host name has"),
            ("a b", "not a URL"),
            ("a%20b", "not a URL"),
            ("a!:1", "letters, digits"),
            ("*", "letters, digits"),
            ("ftp://user:s3cret@a", "--etcd-user"),
        ] {
            let said = url(address, false).expect_err(address);
            assert!(said.contains(why), "{address}: {said}");
            assert!(!said.contains("s3cret") && !said.contains("unix or"), "{said}");
        }
    }
}
