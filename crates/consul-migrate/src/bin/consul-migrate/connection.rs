//! The clients of a run.

use super::arguments::{CommandLine, Etcd as Given};
use super::failure::Failure;
use super::progress::Progress;
use consul_api::error::Error;
use consul_cli::secret;
use consul_client::transport::{Options, TlsOptions};
use consul_config::connect::connect;
use consul_migrate::etcd::{Etcd, Login};
use consul_migrate::job::Instance;
use consul_migrate::mapping::Mapping;
use consul_migrate::streaming::{Streaming, StreamingHttp};
use consul_migrate::target::Target;
use consul_migrate::{Frozen, Pace};
use consul_process::clock::{Clock, SystemClock};
use consul_process::logs::{self, Wanted};
use consul_process::os::{self, Process};
use std::sync::Arc;
use std::time::Duration;

/// The time limit of an attempt to read a page of etcd, and the least that less patience makes of it.
const TIMEOUT: Duration = Duration::from_secs(20);
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);

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
}

impl Session {
    pub async fn new(line: &CommandLine) -> Result<Self, Failure> {
        let config = line.consul.config()?;
        logs::set(Wanted { level: config.log_level, json: config.log_json });
        let patience = Duration::from_secs(line.job.patience);
        let client = Arc::new(connect(&config)?);
        let job = &line.job;
        let mut target = Target::new(client, patience, job.txn.into());
        if job.txn > EACH_TAKES {
            target.learn_max_ops().await?;
        }
        Ok(Session {
            etcd: etcd(&line.etcd, patience)?,
            target,
            mapping: Mapping {
                etcd_prefix: line.etcd.prefix.clone().into_bytes(),
                consul_prefix: job.consul_prefix.clone(),
                on: job.on.iter().copied().collect(),
                form: None,
                mark: 0,
            },
            pace: Pace { page: job.page, in_flight: job.in_flight.into() },
            me: instance(line.verb.name()),
            progress: Arc::new(Progress::new(line.json)),
            frozen: Frozen::default(),
        })
    }
}

fn etcd(given: &Given, patience: Duration) -> Result<Etcd, Failure> {
    let tls = TlsOptions {
        ca_file: given.etcd_ca_file.as_ref().map(Into::into),
        cert_file: given.etcd_client_cert.as_ref().map(Into::into),
        key_file: given.etcd_client_key.as_ref().map(Into::into),
        server_name: given.server_name.clone(),
        ..TlsOptions::default()
    };
    let is_tls = tls.ca_file.is_some() || tls.cert_file.is_some();
    let options = Options { tls, ..Options::default() };
    let server = |address: &String| -> Result<Arc<dyn Streaming>, Error> {
        Ok(Arc::new(StreamingHttp::new(&url(address, is_tls), &options)?))
    };
    let servers = given.addresses.iter().map(server).collect::<Result<Vec<_>, _>>()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let timeout = patience.clamp(LEAST_TIMEOUT, TIMEOUT);
    Ok(Etcd::new(servers, login(given)?, clock, timeout, patience))
}

fn url(address: &str, is_tls: bool) -> String {
    let address = address.trim_end_matches('/');
    match (address.contains("://"), is_tls) {
        (true, _) => address.to_owned(),
        (false, true) => format!("https://{address}"),
        (false, false) => format!("http://{address}"),
    }
}

fn login(given: &Given) -> Result<Option<Login>, Failure> {
    let Some(user) = &given.user else { return Ok(None) };
    let (name, in_user) = match user.split_once(':') {
        Some((name, password)) => (name, Some(password.to_owned())),
        None => (user.as_str(), None),
    };
    let of_environment = || std::env::var("ETCDCTL_PASSWORD").ok();
    let password = match &given.password_file {
        Some(file) => {
            let text = secret("--etcd-password-file", file).map_err(Failure::Usage)?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => in_user.or_else(of_environment),
    };
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
        boot: os::boot_id().unwrap_or_default(),
        process: std::process::id(),
        verb: verb.to_owned(),
    }
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
    fn an_address_without_a_scheme_has_tls_if_there_are_files_for_it() {
        assert_eq!(url("a:2379", true), "https://a:2379");
        assert_eq!(url("a:2379/", false), "http://a:2379");
        assert_eq!(url("http://a:2379", true), "http://a:2379");
    }
}
