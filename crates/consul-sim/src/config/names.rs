//! The configuration of DNS.

use super::shown::show_sockets;
use super::{Config, Place, go, keys};
use crate::Agent;
use crate::dns::{self, Dns, Listening};
use crate::settings::DnsSettings;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// Consul's port of DNS.
const PORT: i64 = 8600;

impl Config {
    /// An agent's DNS. Where HTTP has any free port, it has no sockets without a port in the configuration, so that several
    /// agents can run at once.
    ///
    /// # Errors
    /// A value, address or port that cannot be used, as Consul prints it.
    pub async fn dns(&self, agent: Arc<Agent>) -> Result<Listening, String> {
        let dns = Dns::new(Arc::clone(&agent));
        let is_any = self.get("ports.http").and_then(Value::as_i64) == Some(0);
        let mut sockets = Vec::new();
        for place in self.places("dns", if is_any { -1 } else { PORT })? {
            let Place::Port(address) = place else {
                return Err("DNS address cannot be a unix socket".to_owned());
            };
            sockets.push(dns::bind(address).await.map_err(|failed| of_socket(address, &failed))?);
        }
        let listening = Listening::new(dns, sockets);
        let urls = listening.addresses();
        let of = |protocol| urls.iter().map(move |address| format!("{protocol}://{address}"));
        show_sockets(&agent, "DNS", of("tcp").chain(of("udp")).collect());
        Ok(listening)
    }

    pub(super) fn dns_settings(&self) -> Result<DnsSettings, String> {
        let mut settings = DnsSettings::default();
        let own = self.text("domain").unwrap_or("consul");
        let domains = [own, self.text("alt_domain").unwrap_or_default()];
        let domains = domains.map(|text| text.trim_end_matches('.').to_lowercase());
        let is_given = |text: &&String| !text.is_empty();
        let labels = |text: &String| text.split('.').map(str::to_owned).collect();
        settings.domains = domains.iter().filter(is_given).map(labels).collect();
        let alternative = settings.domains.get(1).filter(|labels| labels.len() > 1);
        let datacenter = self.text("datacenter").unwrap_or("dc1").to_lowercase();
        let taken = ["service", "connect", "node", "query", "addr", &datacenter];
        if alternative.is_some_and(|labels| taken.contains(&labels[0].as_str())) {
            return Err(format!("alt_domain cannot start with {{{}}}", taken.join(",")));
        }
        if settings.domains.is_empty() {
            return Err("domain: the root cannot be simulated".to_owned());
        }

        let mut errors = Vec::new();
        let mut duration = |key: &str, text: &str| match go::duration(text) {
            Ok(nanos) => dns::seconds(nanos),
            Err(why) => {
                errors.push(format!("{key}: invalid duration: {}: {why}", go::quoted(text)));
                0
            }
        };
        for (name, text) in self.texts("dns_config.service_ttl") {
            let key = format!("dns_config.service_ttl[{}]", go::quoted(name));
            settings.service_ttl.push((name.to_owned(), duration(&key, text)));
        }
        if let Some(text) = self.text("dns_config.node_ttl") {
            settings.node_ttl = duration("dns_config.node_ttl", text);
        }
        if !errors.is_empty() {
            return Err(keys::errors(errors.into_iter()));
        }

        for (key, limit) in [
            ("dns_config.udp_answer_limit", &mut settings.udp_answer_limit),
            ("dns_config.a_record_limit", &mut settings.a_record_limit),
        ] {
            if let Some(given) = self.get(key).and_then(Value::as_i64) {
                *limit = given.try_into().map_err(|_| {
                    format!("{key} cannot be {given}. Must be greater than or equal to zero")
                })?;
            }
        }
        settings.only_passing = self.is_on("dns_config.only_passing", false);
        settings.enable_truncate = self.is_on("dns_config.enable_truncate", false);
        settings.disable_compression = self.is_on("dns_config.disable_compression", false);
        settings.node_meta = self.is_on("dns_config.enable_additional_node_meta_txt", true);
        let soa = &mut settings.soa;
        for (key, number) in [
            ("refresh", &mut soa.refresh),
            ("retry", &mut soa.retry),
            ("expire", &mut soa.expire),
            ("min_ttl", &mut soa.min_ttl),
        ] {
            let given = self.get(&format!("dns_config.soa.{key}")).and_then(Value::as_u64);
            if let Some(given) = given.and_then(|given| given.try_into().ok()) {
                *number = given;
            }
        }
        Ok(settings)
    }
}

fn of_socket(address: SocketAddr, (protocol, error): &(&str, std::io::Error)) -> String {
    let why = go::error_text(error);
    keys::errors([format!("listen {protocol} {address}: bind: {why}")].into_iter())
}
