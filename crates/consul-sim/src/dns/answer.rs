//! The records that a question finds.

use super::question::{Asked, Locality};
use super::record::{self, Unnameable, labels};
use crate::acl::{Access, Authority, Resource};
use crate::go;
use crate::settings::DnsSettings;
use crate::store::State;
use crate::store::catalog::{Check, Node, Record as NodeRecord, Service};
use fastrand::Rng;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::StatusCode;
use std::collections::HashSet;
use std::net::IpAddr;

/// How often an address that is a name may lead to another one.
const DEPTH: u32 = 3;

/// The most records of a name to a client without EDNS.
const MAX_OF_NAME: usize = 5;

/// The most servers in an answer.
const MAX_SERVERS: usize = 3;

/// An instance of a service on its node.
type Found<'a> = (&'a NodeRecord, &'a Service);

/// The records of an answer.
#[derive(Default)]
struct Records {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

/// Why there are none.
pub(super) enum Failure {
    /// Nothing has the name.
    NotFound,
    /// The name has no record of this type.
    NoData,
    /// The token or the question is refused.
    Refused,
    /// No message can hold the answer.
    Unnameable,
}

impl From<Unnameable> for Failure {
    fn from(Unnameable: Unnameable) -> Self {
        Self::Unnameable
    }
}

/// The answers from one state.
pub(super) struct Answering<'a> {
    state: &'a State,
    settings: &'a DnsSettings,
    /// `None`: the agent's token does not exist.
    authority: Option<Authority>,
    order: Rng,
}

impl<'a> Answering<'a> {
    pub fn new(state: &'a State, settings: &'a DnsSettings, order: Rng) -> Self {
        let authority = state.dns_authority();
        let authority = authority.known().is_ok().then_some(authority);
        Self { state, settings, authority, order }
    }

    /// Puts the answer to a request into its reply; none if no message can hold it.
    pub fn answer(&mut self, request: &Message, reply: &mut Message) -> Option<()> {
        let query = request.queries.first()?;
        let own = labels(query.name());
        let in_domain = self.settings.domain_of(&own);
        if in_domain.is_none() && own.last().is_none_or(|label| label != "arpa") {
            reply.metadata.response_code = ResponseCode::Refused;
            return Some(());
        }
        reply.metadata.authoritative = true;
        let mut scoped = false;
        let done = match in_domain {
            None => self.reverse(query, &own, reply),
            Some(in_domain) => {
                let edns = request.edns.is_some();
                let asked = Asked::of(query.name(), query.query_type(), edns, in_domain);
                scoped = asked.is_prepared_query();
                self.forward(&asked, reply)
            }
        };
        if let Err(failure) = done {
            reply.metadata.response_code = match failure {
                Failure::NotFound => ResponseCode::NXDomain,
                Failure::NoData => ResponseCode::NoError,
                Failure::Refused => ResponseCode::ServFail,
                Failure::Unnameable => return None,
            };
            if matches!(failure, Failure::NotFound | Failure::NoData) {
                reply.authorities.push(self.authority_record(&own).ok()?);
            }
        }
        let is_global = !scoped || reply.metadata.response_code != ResponseCode::NoError;
        reply.edns = request.edns.as_ref().map(|edns| own_edns(edns, is_global));
        Some(())
    }

    fn forward(&mut self, asked: &Asked, reply: &mut Message) -> Result<(), Failure> {
        match asked.kind {
            RecordType::SOA => {
                reply.answers.push(self.authority_record(&labels(&asked.name))?);
                let servers = self.servers(asked)?;
                (reply.authorities, reply.additionals) = (servers.answers, servers.additionals);
            }
            RecordType::NS => {
                let servers = self.servers(asked)?;
                (reply.answers, reply.additionals) = (servers.answers, servers.additionals);
            }
            RecordType::AXFR => reply.metadata.response_code = ResponseCode::NotImp,
            _ => {
                let records = self.find(asked, DEPTH)?;
                (reply.answers, reply.additionals) = (records.answers, records.additionals);
            }
        }
        Ok(())
    }

    /// The node or the service with an address.
    fn reverse(&self, query: &Query, own: &[String], reply: &mut Message) -> Result<(), Failure> {
        if query.query_type() == RecordType::SOA {
            reply.authorities.push(self.authority_record(own)?);
        }
        let address = record::reversed(own).ok_or(Failure::NotFound)?;
        let authority = self.authority.as_ref().ok_or(Failure::NotFound)?;
        let seen = || {
            let nodes = self.state.catalog.nodes();
            nodes.filter(|at| authority.sees(Resource::Node, &at.node.node))
        };
        let is_at = |text: &str| record::address(text) == Some(address);
        let datacenter = &self.state.settings.datacenter;
        let name = match seen().find(|at| is_at(&at.node.address)) {
            Some(at) => format!("{}.node", at.node.node),
            None => {
                let mut services = seen().flat_map(|at| at.services.values());
                let found = services.find(|service| {
                    is_at(&service.address) && authority.sees(Resource::Service, &service.name)
                });
                format!("{}.service", found.ok_or(Failure::NotFound)?.name)
            }
        };
        let name = record::name_in(&format!("{name}.{datacenter}"), &self.domain(0)?)?;
        reply.answers.push(Record::from_rdata(query.name().clone(), 0, RData::PTR(PTR(name))));
        Ok(())
    }

    /// The name of a domain of the configuration.
    fn domain(&self, place: usize) -> Result<Name, Unnameable> {
        record::name(&self.settings.domains[place].join("."))
    }

    /// The record of authority for a question with these labels.
    fn authority_record(&self, asked: &[String]) -> Result<Record, Unnameable> {
        let is_in = |domain: &Vec<String>| asked.len() > domain.len() && asked.ends_with(domain);
        let other = self.settings.domains.iter().skip(1).any(is_in);
        let domain = self.domain(usize::from(other))?;
        let soa = self.settings.soa;
        let signed = |seconds: u32| i32::from_ne_bytes(seconds.to_ne_bytes());
        let data = SOA::new(
            record::name_in("ns", &domain)?,
            record::name_in("hostmaster", &domain)?,
            u32::try_from(self.state.since_1970().as_secs()).unwrap_or_default(),
            signed(soa.refresh),
            signed(soa.retry),
            signed(soa.expire),
            soa.min_ttl,
        );
        // The TTL must be that of answers that something is missing.
        Ok(Record::from_rdata(domain, soa.min_ttl, RData::SOA(data)))
    }

    /// Consul's servers, and in addition their addresses.
    fn servers(&mut self, asked: &Asked) -> Result<Records, Failure> {
        let mut records = Records::default();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '\\' | '-');
        for (at, _) in self.instances("consul", None, false).unwrap_or_default() {
            if at.node.node.chars().all(valid) && records.answers.len() < MAX_SERVERS {
                let text = format!("{}.node.{}", at.node.node, at.node.datacenter).to_lowercase();
                let name = record::name_in(&text, &asked.domain)?;
                let data = RData::NS(NS(name.clone()));
                let ttl = self.settings.node_ttl;
                records.answers.push(Record::from_rdata(asked.domain.clone(), ttl, data));
                records.additionals.extend(self.of_node(
                    &at.node,
                    &name,
                    RecordType::ANY,
                    DEPTH,
                )?);
            }
        }
        Ok(records)
    }

    fn find(&mut self, asked: &Asked, depth: u32) -> Result<Records, Failure> {
        let (kind, names, place) = asked.parts().ok_or(Failure::NotFound)?;
        let datacenter = self.state.settings.datacenter.as_str();
        let last = names.last().ok_or(Failure::NotFound)?;
        match kind {
            "service" => {
                let locality = Locality::of(place)?;
                locality.has_no_peer()?;
                locality.is_in(datacenter)?;
                let tags = &names[..names.len() - 1];
                let (name, tag) = match names {
                    [name, tag] if name.starts_with('_') && tag.starts_with('_') => {
                        (&name[1..], Some(&tag[1..]).filter(|tag| *tag != "tcp").map(str::to_owned))
                    }
                    _ => (last.as_str(), (!tags.is_empty()).then(|| tags.join("."))),
                };
                let tag = tag.filter(|tag| !tag.is_empty());
                is_given(name)?;
                let found = self.instances(name, tag.as_deref(), false)?;
                self.of_instances(asked, &found, self.settings.ttl_of(name), depth)
            }
            "connect" => {
                Locality::of(place)?.is_in(datacenter)?;
                let found = self.instances(last, None, true)?;
                self.of_instances(asked, &found, self.settings.ttl_of(last), depth)
            }
            "virtual" => self.virtual_address(asked, last, &Locality::of(place)?),
            "node" => {
                let locality = Locality::of(place)?;
                use RecordType::{A, AAAA, ANY, TXT};
                if ![ANY, A, AAAA, TXT].contains(&asked.kind) {
                    return Ok(Records::default());
                }
                locality.has_no_peer()?;
                locality.is_in(datacenter)?;
                self.node(asked, &names.join("."), depth)
            }
            "query" => {
                let is_here = match place {
                    [] => true,
                    [one] => one == datacenter,
                    _ => false,
                };
                if !is_here {
                    return Err(Failure::NotFound);
                }
                let name = match names {
                    [first, .., last] if first.starts_with('_') && last.starts_with('_') => {
                        names[..names.len() - 1].join(".")[1..].to_owned()
                    }
                    _ => names.join("."),
                };
                is_given(&name)?;
                self.prepared_query(asked, &name, depth)
            }
            "addr" => self.address(asked, names),
            // There are no ingress gateways that lead to services.
            _ => Err(Failure::NotFound),
        }
    }

    /// The instances of a service that take requests, in random order.
    fn instances(
        &mut self,
        name: &str,
        tag: Option<&str>,
        connect: bool,
    ) -> Result<Vec<Found<'a>>, Failure> {
        let authority = self.authority.as_ref().ok_or(Failure::Refused)?;
        if connect && !authority.allows(Resource::Service, name, Access::Read) {
            return Err(Failure::Refused);
        }
        let catalog = &self.state.catalog;
        let all: Vec<Found<'a>> = match connect {
            true => catalog.connect_instances(name).collect(),
            false => catalog.instances(name).collect(),
        };
        let has = |service: &Service, tag: &str| {
            let tags = service.tags.as_deref().unwrap_or_default();
            tags.iter().any(|own| own.to_lowercase() == tag)
        };
        let only_passing = self.settings.only_passing;
        let healthy = |check: &Check| {
            check.status == "passing" || !only_passing && check.status != "critical"
        };
        let takes = all.into_iter().filter(|(at, service)| {
            tag.is_none_or(|tag| has(service, tag))
                && at.checks_of(service).all(healthy)
                && authority.sees_instance(&at.node.node, &service.name)
        });
        let mut found: Vec<_> = takes.collect();
        self.order.shuffle(&mut found);
        Ok(found)
    }

    fn of_instances(
        &mut self,
        asked: &Asked,
        found: &[Found<'a>],
        ttl: u32,
        depth: u32,
    ) -> Result<Records, Failure> {
        if found.is_empty() {
            return Err(Failure::NotFound);
        }
        let records = match asked.kind {
            RecordType::SRV => self.ports(asked, found, ttl, depth)?,
            _ => self.addresses(asked, found, ttl, depth)?,
        };
        if records.answers.is_empty() { Err(Failure::NoData) } else { Ok(records) }
    }

    /// The ports of instances, and in addition their addresses and the metadata of their nodes.
    fn ports(
        &mut self,
        asked: &Asked,
        found: &[Found<'a>],
        ttl: u32,
        depth: u32,
    ) -> Result<Records, Failure> {
        let mut records = Records::default();
        let mut handled = HashSet::new();
        for &(at, service) in found {
            let address = service_address(asked.kind, service);
            if handled.insert((&at.node.node, address, service.port)) {
                let own = self.of_instance(asked, (at, service), ttl, depth)?;
                records.answers.extend(own.answers);
                records.additionals.extend(own.additionals);
                if self.settings.node_meta {
                    let name = node_name(&at.node, &asked.domain)?;
                    records.additionals.extend(metadata(&at.node, &name, ttl));
                }
            }
        }
        Ok(records)
    }

    /// The addresses of instances; names instead of addresses only if there are no addresses.
    fn addresses(
        &mut self,
        asked: &Asked,
        found: &[Found<'a>],
        ttl: u32,
        depth: u32,
    ) -> Result<Records, Failure> {
        let (mut answers, mut of_name) = (Vec::new(), Vec::new());
        let (mut handled, mut count) = (HashSet::new(), 0);
        for instance in found {
            let own = self.of_instance(asked, *instance, ttl, depth)?.answers;
            let Some(first) = own.first() else { continue };
            if !handled.insert(first.data.clone()) {
                continue;
            }
            if matches!(first.data, RData::CNAME(_)) {
                if of_name.is_empty() {
                    of_name = own;
                }
                continue;
            }
            answers.extend(own);
            count += 1;
            if count == self.settings.a_record_limit {
                break;
            }
        }
        let answers = if answers.is_empty() { of_name } else { answers };
        Ok(Records { answers, ..Records::default() })
    }

    fn of_instance(
        &mut self,
        asked: &Asked,
        (at, service): Found<'a>,
        ttl: u32,
        depth: u32,
    ) -> Result<Records, Failure> {
        let own = service_address(asked.kind, service);
        let of_node = node_address(asked.kind, &at.node);
        let node_at = record::address(of_node);
        let (address, is_nodes) = match (own, record::address(own), node_at) {
            ("", _, Some(address)) => (address, of_node == at.node.address),
            ("", _, None) if of_node.is_empty() => return Ok(Records::default()),
            ("", _, None) => return self.of_name(asked, of_node, (at, service), ttl, depth),
            (_, Some(address), _) => (address, false),
            // The name leads to itself.
            (_, None, Some(address)) if record::name(own)?.eq_case(&asked.name) => (address, true),
            (_, None, _) => return self.of_name(asked, own, (at, service), ttl, depth),
        };
        let Some(data) = record::of_address(asked.kind, address) else {
            return Ok(Records::default());
        };
        if asked.kind != RecordType::SRV {
            let answers = vec![asked.record(ttl, data)];
            return Ok(Records { answers, ..Records::default() });
        }
        let target = match is_nodes {
            true => node_name(&at.node, &asked.domain)?,
            false => address_name(address, &at.node, &asked.domain)?,
        };
        Ok(Records {
            answers: vec![port(asked, (at, service), target.clone(), ttl)],
            additionals: vec![Record::from_rdata(target, ttl, data)],
        })
    }

    /// The records of an instance whose address is a name.
    fn of_name(
        &mut self,
        asked: &Asked,
        text: &str,
        instance: Found<'a>,
        ttl: u32,
        depth: u32,
    ) -> Result<Records, Failure> {
        let name = record::name(text)?;
        let known = [RecordType::CNAME, RecordType::A, RecordType::AAAA];
        let most = if asked.edns { usize::MAX } else { MAX_OF_NAME };
        let followed = self.follow(&name, depth);
        let further = followed.into_iter().filter(|record| known.contains(&record.record_type()));
        let mut further: Vec<_> = further.take(most).collect();
        for record in &mut further {
            record.ttl = ttl;
        }
        if asked.kind == RecordType::SRV {
            let answers = vec![port(asked, instance, name, ttl)];
            return Ok(Records { answers, additionals: further });
        }
        let mut answers = vec![asked.record(ttl, RData::CNAME(CNAME(name)))];
        answers.extend(further);
        Ok(Records { answers, ..Records::default() })
    }

    /// The records of a name within a domain of Consul; none of others.
    fn follow(&mut self, name: &Name, depth: u32) -> Vec<Record> {
        let own = labels(name);
        match self.settings.domain_of(&own) {
            Some(in_domain) if in_domain < own.len() && depth > 0 => {
                let asked = Asked::of(name, RecordType::ANY, false, in_domain);
                self.find(&asked, depth - 1).map(|records| records.answers).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    fn node(&mut self, asked: &Asked, name: &str, depth: u32) -> Result<Records, Failure> {
        use RecordType::{ANY, TXT};
        let mut records = Records::default();
        let authority = self.authority.as_ref().ok_or(Failure::Refused)?;
        let state = self.state;
        let found = state.catalog.node(name).map(|at| &at.node);
        let node = found.filter(|node| authority.sees(Resource::Node, &node.node));
        let node = node.ok_or(Failure::NotFound)?;
        if asked.kind != TXT {
            records.answers = self.of_node(node, &asked.name, asked.kind, depth)?;
        }
        let metadata = metadata(node, &asked.name, self.settings.node_ttl);
        if [TXT, ANY].contains(&asked.kind) {
            records.answers.extend(metadata);
        } else if self.settings.node_meta {
            records.additionals.extend(metadata);
        }
        Ok(records)
    }

    /// The address of a node as the record of a name.
    fn of_node(
        &mut self,
        node: &Node,
        name: &Name,
        kind: RecordType,
        depth: u32,
    ) -> Result<Vec<Record>, Failure> {
        let ttl = self.settings.node_ttl;
        let record = |data| Record::from_rdata(name.clone(), ttl, data);
        match record::address(node_address(kind, node)) {
            Some(address) => {
                Ok(record::of_address(kind, address).map(record).into_iter().collect())
            }
            None => {
                let target = record::name(&node.address)?;
                let mut records = vec![record(RData::CNAME(CNAME(target.clone())))];
                records.extend(self.follow(&target, depth));
                Ok(records)
            }
        }
    }

    fn prepared_query(
        &mut self,
        asked: &Asked,
        name: &str,
        depth: u32,
    ) -> Result<Records, Failure> {
        let state = self.state;
        // An unknown query is looked up for a caller whose token is unknown, too.
        let Some(own) = self.authority.as_ref() else {
            let is_known = state.queries.is_known(name);
            return Err(if is_known { Failure::Refused } else { Failure::NotFound });
        };
        let executed = state.execute_for_dns(name, own, &mut self.order);
        let executed = executed.map_err(|refusal| match refusal.status {
            StatusCode::NOT_FOUND => Failure::NotFound,
            _ => Failure::Refused,
        })?;
        let ttl = match executed.ttl.as_str() {
            "" => self.settings.ttl_of(&executed.service),
            text => seconds(go::duration(text).unwrap_or_default()),
        };
        self.of_instances(asked, &executed.found, ttl, depth)
    }

    fn virtual_address(
        &self,
        asked: &Asked,
        service: &str,
        locality: &Locality<'_>,
    ) -> Result<Records, Failure> {
        let authority = self.authority.as_ref().ok_or(Failure::Refused)?;
        if !authority.allows(Resource::Service, service, Access::Read) {
            return Err(Failure::Refused);
        }
        let mut records = Records::default();
        let is_own = locality.peer.or(locality.either).is_none();
        if let Some(address) = self.state.catalog.virtual_address(service).filter(|_| is_own) {
            let name = asked.plain_name()?;
            let ttl = self.settings.node_ttl;
            records.answers.push(Record::from_rdata(name, ttl, RData::A(address.into())));
        }
        Ok(records)
    }

    /// The address that the name itself says.
    fn address(&self, asked: &Asked, names: &[String]) -> Result<Records, Failure> {
        let [label] = names else { return Err(Failure::NotFound) };
        let address = record::from_hex(label).ok_or(Failure::NotFound)?;
        let record =
            Record::from_rdata(asked.plain_name()?, self.settings.node_ttl, address.into());
        let mut records = Records::default();
        match [record.record_type(), RecordType::ANY].contains(&asked.kind) {
            true => records.answers.push(record),
            false => records.additionals.push(record),
        }
        Ok(records)
    }
}

/// Refuses the name that is only an underscore in a question by RFC 2782.
fn is_given(name: &str) -> Result<(), Failure> {
    if name.is_empty() { Err(Failure::Refused) } else { Ok(()) }
}

/// The EDNS of a reply: the client's size, and the network of the client for which the answer holds.
fn own_edns(asked: &Edns, is_global: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload());
    if let Some(EdnsOption::Subnet(subnet)) = asked.option(EdnsCode::Subnet) {
        let prefix = subnet.source_prefix();
        let scope = if is_global { 0 } else { prefix };
        let own = ClientSubnet::new(subnet.addr(), prefix, scope);
        edns.options_mut().insert(EdnsOption::Subnet(own));
    }
    edns
}

/// The whole seconds of a time in nanoseconds.
pub(crate) fn seconds(nanos: i64) -> u32 {
    u32::try_from(nanos / 1_000_000_000).unwrap_or_default()
}

/// The address of a service that fits the question.
fn service_address(kind: RecordType, service: &Service) -> &str {
    let tagged = |tag: &str| Some(service.tagged_addresses.get(tag)?.address.as_str());
    fitting(kind, tagged("lan_ipv4"), tagged("lan_ipv6"), &service.address)
}

fn node_address(kind: RecordType, node: &Node) -> &str {
    let all = node.tagged_addresses.as_ref();
    let tagged = |tag: &str| Some(all?.get(tag)?.as_str());
    fitting(kind, tagged("lan_ipv4"), tagged("lan_ipv6"), &node.address)
}

fn fitting<'a>(
    kind: RecordType,
    v4: Option<&'a str>,
    v6: Option<&'a str>,
    own: &'a str,
) -> &'a str {
    let v6 = v6.filter(|text| !text.is_empty() && kind != RecordType::A);
    let v4 = v4.filter(|text| !text.is_empty() && kind != RecordType::AAAA);
    v6.or(v4).unwrap_or(own)
}

fn node_name(node: &Node, domain: &Name) -> Result<Name, Unnameable> {
    record::name_in(&format!("{}.node.{}", node.node, node.datacenter), domain)
}

fn address_name(address: IpAddr, node: &Node, domain: &Name) -> Result<Name, Unnameable> {
    record::name_in(&format!("{}.addr.{}", record::hex(address), node.datacenter), domain)
}

/// The port of an instance at a name.
fn port(asked: &Asked, (at, service): Found<'_>, target: Name, ttl: u32) -> Record {
    let own = |check: &&Check| check.service_name.is_empty() || check.service_name == service.name;
    let checks = || at.checks_of(service).filter(own);
    let weight = if checks().any(|check| check.status == "critical") {
        0
    } else if checks().any(|check| check.status == "warning") {
        service.weights.warning
    } else {
        service.weights.passing
    };
    let number = |number: i64| u16::try_from(number & 0xFFFF).unwrap_or_default();
    let data = SRV::new(1, number(weight), number(service.port), target);
    asked.record(ttl, RData::SRV(data))
}

fn metadata(node: &Node, name: &Name, ttl: u32) -> Vec<Record> {
    let text = |(key, value): (&String, &String)| {
        let data = TXT::new(vec![record::attribute(key, value)]);
        Record::from_rdata(name.clone(), ttl, RData::TXT(data))
    };
    node.meta.iter().flatten().map(text).collect()
}
