//! DNS as Consul speaks it: names of services, nodes, prepared queries and addresses, from the state that HTTP shows.
//!
//! Source: "Discover services with DNS" and the key `dns_config` in Consul's documentation, and the answers of Consul 1.21.

mod answer;
mod listen;
mod question;
mod record;
mod size;

use super::Agent;
use super::settings::DnsSettings;
use answer::Answering;
pub(super) use answer::seconds;
use hickory_proto::op::{Header, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
pub use listen::Listening;
pub(super) use listen::bind;
use size::{encoded, trim};
use std::sync::Arc;

impl DnsSettings {
    /// How many of these labels are the name of a domain.
    fn domain_of(&self, labels: &[String]) -> Option<usize> {
        let own = self.domains.iter().filter(|domain| labels.ends_with(domain));
        own.map(Vec::len).max()
    }

    /// How long answers about a service hold.
    fn ttl_of(&self, service: &str) -> u32 {
        let by_name = |(name, _): &&(String, u32)| name == service;
        let starts = self.service_ttl.iter().filter_map(|(name, ttl)| {
            let start = name.strip_suffix('*')?;
            service.starts_with(start).then_some((start.len(), *ttl))
        });
        match self.service_ttl.iter().find(by_name) {
            Some((_, ttl)) => *ttl,
            None => starts.max().map_or(0, |(_, ttl)| ttl),
        }
    }
}

/// The transport of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// An agent that is asked by DNS.
#[derive(Debug)]
pub(super) struct Dns {
    agent: Arc<Agent>,
}

impl Dns {
    /// Answers with the state of this agent.
    pub fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// The answer to a request; none if the bytes are not a request, or if no message can hold the answer.
    fn answer(&self, request: &[u8], over: Over) -> Option<Vec<u8>> {
        let Header { metadata, counts, .. } = Header::read(&mut BinDecoder::new(request)).ok()?;
        if metadata.message_type == MessageType::Response {
            return None;
        }
        let refused = |code| {
            let mut reply = Message::error_msg(metadata.id, metadata.op_code, code);
            reply.metadata.recursion_desired = metadata.recursion_desired;
            reply.metadata.checking_disabled = metadata.checking_disabled;
            reply.to_vec().ok()
        };
        if !matches!(metadata.op_code, OpCode::Query | OpCode::Notify) {
            return refused(ResponseCode::NotImp);
        }
        let is_valid = counts.queries == 1
            && counts.answers <= 1
            && counts.authorities <= 1
            && counts.additionals <= 2;
        let Some(request) = Message::from_vec(request).ok().filter(|_| is_valid) else {
            return refused(ResponseCode::FormErr);
        };
        let mut reply = begun(&request);
        let settings = self.agent.with(|state| {
            let order = state.rng.fork();
            let settings = state.dns.clone().unwrap_or_default();
            Answering::new(state, &settings, order).answer(&request, &mut reply)?;
            Some(settings)
        })?;
        if reply.metadata.authoritative {
            trim(&mut reply, &request, &settings, over);
        }
        encoded(&reply, !settings.disable_compression)
    }
}

/// A reply without records.
fn begun(request: &Message) -> Message {
    let asked = &request.metadata;
    let mut reply = Message::new(asked.id, MessageType::Response, asked.op_code);
    if asked.op_code == OpCode::Query {
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.checking_disabled = asked.checking_disabled;
    }
    reply.queries.clone_from(&request.queries);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use hickory_proto::op::{Edns, Query};
    use hickory_proto::rr::{Name, RecordType};

    fn dns() -> Dns {
        Dns::new(Arc::new(Agent::new(Options::default())))
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message.edns = Some(Edns::new());
        message
    }

    #[test]
    fn the_exact_name_of_a_service_sets_its_ttl_then_the_longest_start() {
        let ttls = [("w*", 5), ("we*", 6), ("web", 7), ("*", 3)];
        let service_ttl = ttls.map(|(name, ttl)| (name.to_owned(), ttl)).to_vec();
        let settings = DnsSettings { service_ttl, ..DnsSettings::default() };
        for (service, ttl) in [("web", 7), ("webs", 6), ("wide", 5), ("other", 3)] {
            assert_eq!(settings.ttl_of(service), ttl, "{service}");
        }
        assert_eq!(DnsSettings::default().ttl_of("web"), 0);
    }

    #[test]
    fn a_reply_is_not_answered() {
        let mut message = question("consul.", RecordType::SOA);
        let dns = dns();
        let ask = |message: &Message| dns.answer(&message.to_vec().expect("bytes"), Over::Udp);
        assert!(ask(&message).is_some());
        message.metadata.message_type = MessageType::Response;
        assert_eq!(ask(&message), None);
    }

    #[test]
    fn no_bytes_stop_it() {
        let dns = dns();
        let names = [
            "consul.service.consul.",
            "_consul._tcp.service.dc1.dc.consul.",
            "_a._.query.consul.",
            "_._.service.consul.",
            "1.0.0.127.in-addr.arpa.",
            "7f000001.addr.consul.",
            "sim.node.consul.",
        ];
        let kinds = [RecordType::SRV, RecordType::ANY, RecordType::PTR, RecordType::A];
        let mut rng = fastrand::Rng::with_seed(3);
        for name in names {
            for kind in kinds {
                let whole = question(name, kind).to_vec().expect("bytes");
                assert!(dns.answer(&whole, Over::Tcp).is_some(), "{name}");
                for _ in 0..300 {
                    let mut bytes = whole.clone();
                    for _ in 0..rng.usize(1..4) {
                        let place = rng.usize(..bytes.len());
                        bytes[place] = rng.u8(..);
                    }
                    bytes.truncate(rng.usize(..=bytes.len()));
                    // It may have no answer.
                    let _ = dns.answer(&bytes, Over::Udp);
                }
            }
        }
        let name = "7f000001.addr.consul.";
        let whole = question(name, RecordType::A).to_vec().expect("bytes");
        let reply = dns.answer(&whole, Over::Udp).expect("an answer");
        assert_eq!(Message::from_vec(&reply).expect("a message").answers.len(), 1);
    }
}
