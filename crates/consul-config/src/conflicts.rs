//! Options that contradict each other, and options that decide for others.

use super::Config;
use super::sources::Sources;
use consul_api::error::{Error, Kind};
use consul_client::transport::https::OVER_SOCKET;

impl Config {
    /// Refuses options that contradict each other or have no effect, and applies those that decide
    /// for others.
    pub(super) fn reconcile(&mut self, sources: &Sources<'_>) -> Result<(), Error> {
        if let (Some(token), Some(file)) =
            (sources.program_name("token"), sources.program_name("token_file"))
        {
            return contradiction(&format!(
                "{token} and {file} both set the token; set one of them"
            ));
        }
        if self.token_file.is_some() {
            // If both come from the environment, the file counts, as for the official client.
            self.defaults.token = None;
        }
        match (sources.name("tls_cert_file"), sources.name("tls_key_file")) {
            (Some(cert), None) => {
                return contradiction(&format!(
                    "{cert} requires the key of the certificate: tls_key_file"
                ));
            }
            (None, Some(key)) => {
                return contradiction(&format!(
                    "{key} requires the certificate of the key: tls_cert_file"
                ));
            }
            _ => {}
        }
        if self.defaults.consistency == Some("consistent") && self.defaults.stale_if_error {
            let consistency = sources.name("consistency").unwrap_or("consistency");
            return contradiction(&format!(
                "{consistency} = \"consistent\" and stale_if_error contradict each other"
            ));
        }
        if let (Some(program), false) = (sources.program_name("guard_program"), self.guard) {
            return contradiction(&format!("{program} has no effect without guard = true"));
        }
        self.reconcile_tls(sources)
    }

    /// `tls = true` applies to every endpoint, whatever its scheme, as for the official client; `tls = false` never turns an
    /// `https://` endpoint into a plain one.
    fn reconcile_tls(&mut self, sources: &Sources<'_>) -> Result<(), Error> {
        if self.tls == Some(true) {
            for endpoint in &mut self.endpoints {
                let secure = [("http://", "https://"), ("unix://", OVER_SOCKET)];
                for (plain, secure) in secure {
                    if let Some(rest) = endpoint.strip_prefix(plain) {
                        *endpoint = format!("{secure}{rest}");
                    }
                }
            }
        }
        let secure = self.endpoints.iter().find(|endpoint| endpoint.starts_with("https"));
        if let (Some(tls), Some(false), Some(endpoint)) =
            (sources.program_name("tls"), self.tls, secure)
        {
            return contradiction(&format!("{tls} is false, but the endpoint {endpoint} uses TLS"));
        }
        let without_effect = TLS_ONLY.iter().find_map(|option| sources.program_name(option));
        match (without_effect, secure) {
            (Some(option), None) => contradiction(&format!(
                "{option} has no effect, because no endpoint uses TLS ({}): set tls = true or use https://",
                self.endpoints.join(", ")
            )),
            _ => Ok(()),
        }
    }
}

/// Options that only TLS uses. Those from the environment, which all clients share, need not have an
/// effect.
const TLS_ONLY: &[&str] = &[
    "tls_verify",
    "tls_ca_file",
    "tls_ca_path",
    "tls_cert_file",
    "tls_key_file",
    "tls_server_name",
];

pub(super) fn contradiction(message: &str) -> Result<(), Error> {
    Err(Error::new(Kind::Config, message).not_sent())
}
