//! The names under which a server answers that asks for no proof. A browser sends the name that its user or a page has asked
//! for, so a name of another site that was bound to this machine's address is refused.

use http::header::HOST;
use http::{Request, Version};
use std::net::IpAddr;

/// The names that requests may use.
#[derive(Debug)]
pub struct Hosts {
    /// The address of the listener.
    ip: IpAddr,
    /// Names without a port, in lower case.
    names: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no name or several.
    Malformed,
    /// It is for another server.
    Foreign,
}

impl Hosts {
    /// The names of a listener at this address, besides the address itself and `localhost`.
    pub fn new(ip: IpAddr, names: &[String]) -> Self {
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Hosts { ip: ip.to_canonical(), names }
    }

    /// Checks the name in a request.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let mut headers = request.headers().get_all(HOST).iter();
        let (first, second) = (headers.next(), headers.next());
        let header = match (first, second) {
            (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::Malformed)?),
            // Checks of load balancers send no name, browsers always do.
            (None, _) if request.version() == Version::HTTP_10 => None,
            _ => return Err(Refusal::Malformed),
        };
        let of_target = request.uri().authority().map(|authority| authority.as_str());
        let mut given = header.into_iter().chain(of_target);
        if given.all(|host| self.allows(host)) { Ok(()) } else { Err(Refusal::Foreign) }
    }

    /// Whether a name with or without a port is one of the server's.
    fn allows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            // Nobody can bind an address to another machine, as a name can be.
            Ok(ip) if self.ip.is_unspecified() => !ip.is_multicast(),
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip == self.ip || (ip.is_loopback() && self.ip.is_loopback())
            }
            Err(_) => name == "localhost" || self.names.contains(&name),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(ip: &str, host: &[&str], target: &str) -> Result<(), Refusal> {
        let hosts = Hosts::new(ip.parse().expect("an address"), &["Status.Example".to_owned()]);
        let request = host.iter().fold(Request::get(target), |it, host| it.header(HOST, *host));
        hosts.check(&request.body(()).expect("a request"))
    }

    #[test]
    fn only_its_own_names_are_allowed() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "localhost:1",
            "LOCALHOST",
            "[::1]:9",
            "status.example:80",
        ] {
            assert_eq!(checked("127.0.0.1", &[host], "/"), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "10.0.0.1", "127.0.0.1.evil.example", "localhost.evil", "", "a:b:c"]
        {
            assert_eq!(checked("127.0.0.1", &[host], "/"), Err(Refusal::Foreign), "{host}");
        }
        assert_eq!(checked("10.0.0.1", &["127.0.0.1"], "/"), Err(Refusal::Foreign));
        assert_eq!(checked("0.0.0.0", &["10.0.0.1:9100"], "/"), Ok(()));
        assert_eq!(checked("0.0.0.0", &["evil.example"], "/"), Err(Refusal::Foreign));
        assert_eq!(
            checked("127.0.0.1", &["localhost"], "http://evil.example/"),
            Err(Refusal::Foreign)
        );
    }

    #[test]
    fn a_request_has_one_name_unless_it_is_an_old_one() {
        assert_eq!(checked("127.0.0.1", &[], "/"), Err(Refusal::Malformed));
        assert_eq!(checked("127.0.0.1", &["localhost", "localhost"], "/"), Err(Refusal::Malformed));
        let hosts = Hosts::new(IpAddr::from([127, 0, 0, 1]), &[]);
        let old = Request::get("/leader").version(Version::HTTP_10).body(()).expect("a request");
        assert_eq!(hosts.check(&old), Ok(()));
    }
}
