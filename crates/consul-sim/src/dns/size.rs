//! The size of answers: what does not fit is left out, as much as Consul leaves out.

use super::Over;
use crate::settings::DnsSettings;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding};
use std::collections::{HashMap, HashSet};

/// The most bytes of an answer over UDP to a client without EDNS.
const UDP_BYTES: usize = 512;

/// The most bytes of an answer over UDP.
const MAX_UDP_BYTES: usize = 65_535 - 68;

/// The most bytes of an answer over TCP.
const TCP_BYTES: usize = 65_523;

/// The most answers over UDP to a client without EDNS, whatever the configuration says.
const UDP_ANSWERS: usize = 8;

/// The most answers over TCP, and the most that name a port.
const TCP_ANSWERS: usize = 4096;
const TCP_SERVICES: usize = 1024;

/// The bytes of a message; none if it does not fit into any.
pub(super) fn encoded(message: &Message, compress: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(UDP_BYTES);
    let mut encoder = BinEncoder::new(&mut bytes);
    if !compress {
        encoder.set_name_encoding(NameEncoding::Uncompressed);
    }
    message.emit(&mut encoder).ok()?;
    Some(bytes)
}

fn length(message: &Message, compress: bool) -> usize {
    encoded(message, compress).map_or(usize::MAX, |bytes| bytes.len())
}

/// Leaves out the answers that the client cannot take, and the additional records that only these need.
pub(super) fn trim(reply: &mut Message, request: &Message, settings: &DnsSettings, over: Over) {
    let all = reply.answers.len();
    let additional = Additional::of(reply);
    let mut compress = !settings.disable_compression;
    let (most, slack) = match over {
        Over::Tcp => {
            let asked = request.queries.first().map(|query| query.query_type());
            let services = asked == Some(RecordType::SRV);
            reply.answers.truncate(if services { TCP_SERVICES } else { TCP_ANSWERS });
            (TCP_BYTES, 0)
        }
        Over::Udp => {
            let given = request.edns.as_ref().map_or(0, |edns| usize::from(edns.max_payload()));
            let most = given.clamp(UDP_BYTES, MAX_UDP_BYTES);
            let answers = settings.udp_answer_limit.min(UDP_ANSWERS);
            if most == UDP_BYTES && all > answers {
                compress = false;
                reply.answers.truncate(answers);
                additional.keep_used(reply);
            }
            // The head of a UDP packet.
            (most, 8)
        }
    };
    let mut cut = over == Over::Udp && reply.answers.len() < all;
    while reply.answers.len() > 1 && length(reply, compress) > most - slack {
        cut = true;
        reply.authorities.clear();
        let count = match length(reply, compress).saturating_sub(most) > 100 {
            true => additional.fitting(reply, most, compress),
            false => reply.answers.len() - 1,
        };
        reply.answers.truncate(count);
        additional.keep_used(reply);
    }
    reply.metadata.truncation = cut && settings.enable_truncate;
}

/// The additional records of a whole answer; only the first one of each name is ever kept in a part of it.
struct Additional {
    by_name: HashMap<String, Record>,
    are_any: bool,
}

impl Additional {
    fn of(reply: &Message) -> Self {
        let mut by_name = HashMap::new();
        for record in &reply.additionals {
            by_name.entry(key(&record.name)).or_insert_with(|| record.clone());
        }
        Self { are_any: !by_name.is_empty() || reply.edns.is_some(), by_name }
    }

    /// Keeps the additional records of the answers that are left.
    fn keep_used(&self, reply: &mut Message) {
        if !self.are_any {
            return;
        }
        let mut seen = HashSet::new();
        reply.additionals.clear();
        reply.edns = None;
        for answer in &reply.answers {
            let RData::SRV(service) = &answer.data else { continue };
            let mut target = key(&service.target);
            while seen.insert(target.clone()) {
                let Some(record) = self.by_name.get(&target) else { break };
                reply.additionals.push(record.clone());
                let RData::CNAME(name) = &record.data else { break };
                target = key(name);
            }
        }
    }

    /// How many answers fit into this number of bytes.
    fn fitting(&self, reply: &Message, most: usize, compress: bool) -> usize {
        let mut part = reply.clone();
        let (mut fits, mut too_many) = (0, reply.answers.len() + 1);
        while too_many - fits > 1 {
            let count = fits + (too_many - fits) / 2;
            part.answers = reply.answers[..count].to_vec();
            self.keep_used(&mut part);
            let length = length(&part, compress);
            if length > most {
                too_many = count;
            } else if most - length < 10 {
                return count;
            } else {
                fits = count;
            }
        }
        fits
    }
}

fn key(name: &hickory_proto::rr::Name) -> String {
    name.to_lowercase().to_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SRV};

    #[test]
    fn answers_have_a_limit_also_where_there_is_room() {
        let most = |kind: RecordType, data: RData, over: Over, udp_answer_limit: usize| {
            let mut request = Message::new(1, MessageType::Query, OpCode::Query);
            request.add_query(Query::query(Name::root(), kind));
            let mut reply = request.clone();
            let record = Record::from_rdata(Name::root(), 0, data);
            reply.answers = vec![record; TCP_ANSWERS + 1];
            let settings = DnsSettings { udp_answer_limit, ..DnsSettings::default() };
            trim(&mut reply, &request, &settings, over);
            reply.answers.len()
        };
        let address = || RData::A(A::new(10, 0, 0, 1));
        let service = RData::SRV(SRV::new(1, 1, 80, Name::root()));
        assert_eq!(most(RecordType::SRV, service, Over::Tcp, 3), TCP_SERVICES);
        assert_eq!(most(RecordType::A, address(), Over::Tcp, 3), TCP_ANSWERS);
        assert_eq!(most(RecordType::A, address(), Over::Udp, 5), 5);
        assert_eq!(most(RecordType::A, address(), Over::Udp, 20), UDP_ANSWERS);
    }
}
