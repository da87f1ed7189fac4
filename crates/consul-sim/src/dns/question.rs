//! The meaning of a name in a question.

use super::answer::Failure;
use super::record::{self, Unnameable, labels};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// A question within a domain.
pub(super) struct Asked {
    pub name: Name,
    pub kind: RecordType,
    /// Whether the client knows EDNS.
    pub edns: bool,
    /// The labels before the domain, in lower case.
    pub labels: Vec<String>,
    /// The domain as the question spells it.
    pub domain: Name,
}

impl Asked {
    pub fn of(name: &Name, kind: RecordType, edns: bool, in_domain: usize) -> Self {
        let mut labels = labels(name);
        labels.truncate(labels.len() - in_domain);
        let domain = name.trim_to(in_domain);
        Self { name: name.clone(), kind, edns, labels, domain }
    }

    pub fn record(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), ttl, data)
    }

    /// The name without regard to how it was written.
    pub fn plain_name(&self) -> Result<Name, Unnameable> {
        record::name_in(&self.labels.join("."), &self.domain)
    }

    /// The word that says what the name is of, the labels before it, and those after it.
    pub fn parts(&self) -> Option<(&str, &[String], &[String])> {
        let kinds = ["service", "connect", "virtual", "ingress", "node", "query", "addr"];
        for (place, label) in self.labels.iter().enumerate().rev() {
            let (before, after) = (&self.labels[..place], &self.labels[place + 1..]);
            if kinds.contains(&label.as_str()) {
                return Some((label, before, after));
            }
            // Names of ports need no word.
            if self.kind == RecordType::SRV && label.starts_with('_') {
                return Some(("service", &self.labels[..=place], after));
            }
        }
        None
    }

    pub fn is_prepared_query(&self) -> bool {
        let parts = self.parts();
        parts.is_some_and(|(kind, names, place)| {
            kind == "query" && !names.is_empty() && place.len() <= 1
        })
    }
}

/// Where a name says that its subject is.
#[derive(Default)]
pub(super) struct Locality<'a> {
    pub datacenter: Option<&'a str>,
    pub peer: Option<&'a str>,
    /// A datacenter; in names of virtual addresses a peer.
    pub either: Option<&'a str>,
}

impl<'a> Locality<'a> {
    pub fn of(labels: &'a [String]) -> Result<Self, Failure> {
        let mut locality = Self::default();
        match labels {
            [] => {}
            [one] => locality.either = Some(one),
            [_, _] | [_, _, _, _] => {
                for pair in labels.chunks_exact(2) {
                    match pair[1].as_str() {
                        "dc" => locality.datacenter = Some(&pair[0]),
                        "peer" => locality.peer = Some(&pair[0]),
                        _ => return Err(Failure::NotFound),
                    }
                }
            }
            _ => return Err(Failure::NotFound),
        }
        match (locality.datacenter, locality.peer) {
            (Some(_), Some(_)) => Err(Failure::NotFound),
            _ => Ok(locality),
        }
    }

    /// There is one datacenter.
    pub fn is_in(&self, own: &str) -> Result<(), Failure> {
        let datacenter = self.datacenter.or(self.either);
        if datacenter.is_none_or(|given| given == own) { Ok(()) } else { Err(Failure::NotFound) }
    }

    /// There are no peers.
    pub fn has_no_peer(&self) -> Result<(), Failure> {
        if self.peer.is_none() { Ok(()) } else { Err(Failure::NotFound) }
    }
}
