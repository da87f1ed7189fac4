//! The bounds of a report: a peer may send anything.

use super::Report;
use crate::event::MAX_KEPT;
use crate::stores::reinit::Remaking;

/// The most endpoints of Consul that one process has.
const MAX_ENDPOINTS: usize = 16;

/// The most nodes that a node names.
const MAX_REFUSING: usize = 1024;

/// More stores than one process has.
const MAX_STORES: usize = 4096;

/// More than a storage has.
const MAX_FUNCTIONS: usize = 8;

/// The longest name of this library, and the longest other text, such as a name that a program has given, in bytes.
const MAX_NAME: usize = 64;
const MAX_TEXT: usize = 1024;

/// The end of the year 9999, in Unix milliseconds.
const LAST_MS: u64 = 253_402_300_799_999;

/// Cuts a text that is longer than this, in bytes.
pub(super) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
}

/// Cuts a message of a peer.
pub(super) fn cut_message(mut text: String) -> String {
    cut(&mut text, MAX_TEXT);
    text
}

impl Report {
    /// The report as one of this process, without more of anything than a process has.
    pub(super) fn bounded(mut self, teller: &str) -> Self {
        cut(&mut self.incarnation, MAX_NAME);
        self.at_ms = self.at_ms.map(|at| at.min(LAST_MS));
        self.certificate_expires_ms = self.certificate_expires_ms.map(|at| at.min(LAST_MS));
        if let Some(expiry) = &mut self.consul_expiry {
            expiry.at_ms = expiry.at_ms.min(LAST_MS);
            cut(&mut expiry.option, MAX_NAME);
        }
        self.lacking = self.lacking.map(cut_message);
        self.unusable_files = self.unusable_files.map(cut_message);
        self.no_rights = self.no_rights.map(cut_message);
        self.unknown_token = self.unknown_token.map(cut_message);
        self.no_history = self.no_history.map(cut_message);
        self.ended = self.ended.map(cut_message);
        self.copies.truncate(MAX_STORES);
        for copies in &mut self.copies {
            copies.remaking = copies.remaking.take().map(Remaking::brief);
            let remaking = copies.remaking.iter_mut();
            remaking.for_each(|it| cut(&mut it.waits_for, MAX_TEXT));
        }
        self.stores = self.stores.filter(|stores| stores.len() <= MAX_STORES);
        self.stores.iter_mut().flatten().for_each(|store| cut(store, MAX_TEXT));
        self.faults.truncate(MAX_STORES);
        for fault in &mut self.faults {
            cut(&mut fault.store, MAX_TEXT);
            cut(&mut fault.why, MAX_TEXT);
            fault.functions.truncate(MAX_FUNCTIONS);
            fault.functions.iter_mut().for_each(|function| cut(function, MAX_NAME));
        }
        // They are looked up by the store.
        self.copies.sort_by(|one, other| one.store.cmp(&other.store));
        self.stores.iter_mut().for_each(|stores| stores.sort());
        self.faults.sort_by(|one, other| one.store.cmp(&other.store));
        self.endpoints.truncate(MAX_ENDPOINTS);
        self.refusing.truncate(MAX_REFUSING);
        self.refusing.iter_mut().for_each(|node| cut(node, MAX_TEXT));
        self.unreached.truncate(MAX_REFUSING);
        self.unreached.iter_mut().for_each(|node| cut(node, MAX_TEXT));
        self.avoided.truncate(MAX_REFUSING);
        self.avoided.iter_mut().for_each(|node| cut(node, MAX_TEXT));
        for endpoint in &mut self.endpoints {
            teller.clone_into(&mut endpoint.told_by);
            cut(&mut endpoint.address, MAX_TEXT);
        }
        let skipped = self.events.len().saturating_sub(MAX_KEPT);
        self.events.drain(..skipped);
        for event in &mut self.events {
            event.at_ms = event.at_ms.min(LAST_MS);
            cut(&mut event.event, MAX_NAME);
            cut(&mut event.detail, MAX_TEXT);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PastEvent;
    use crate::observe::overview::{EndpointOverview, EndpointState};
    use crate::stores::{CopyReport, StoreFault};

    /// Names of nodes and stores are as long as programs make them, and a process may have many stores.
    #[test]
    fn a_report_keeps_whole_what_a_process_can_have() {
        let name = |at: usize| format!("{at:04}-").repeat(at % 50 + 1);
        let names: Vec<String> = (0..1000).map(name).collect();
        let copies = |store: &String| CopyReport { store: store.clone(), ..CopyReport::default() };
        let fault = |store: &String| StoreFault { store: store.clone(), ..StoreFault::default() };
        let report = Report {
            refusing: names.clone(),
            unreached: names.clone(),
            avoided: names.clone(),
            copies: names.iter().map(copies).collect(),
            stores: Some(names.clone()),
            faults: names.iter().map(fault).collect(),
            ..Report::default()
        };
        let bounded = serde_json::to_value(report.clone().bounded("n2")).expect("an object");
        let whole = serde_json::to_value(report).expect("an object");
        for (member, value) in whole.as_object().expect("an object") {
            assert!(bounded[member] == *value, "{member}");
        }
    }

    #[test]
    fn nothing_of_a_report_is_larger_than_a_process_has_it() {
        let long = "ä".repeat(60_000);
        let event =
            |seq| PastEvent { seq, at_ms: u64::MAX, event: long.clone(), detail: long.clone() };
        let endpoint = EndpointOverview {
            told_by: "n1".to_owned(),
            address: long.clone(),
            state: EndpointState::Benched,
            latency_ms: None,
        };
        let report = Report {
            incarnation: long.clone(),
            at_ms: Some(1 << 63),
            endpoints: vec![endpoint; 1000],
            events: (1..=1000).map(event).collect(),
            ..Report::default()
        };
        let bounded = report.bounded("n2");
        assert_eq!((bounded.at_ms, bounded.endpoints.len()), (Some(LAST_MS), MAX_ENDPOINTS));
        assert!(bounded.endpoints.iter().all(|it| it.told_by == "n2"));
        let seqs: Vec<u64> = bounded.events.iter().map(|it| it.seq).collect();
        assert_eq!(seqs, (745..=1000).collect::<Vec<u64>>());
        assert!(bounded.events.iter().all(|it| it.at_ms == LAST_MS));
        let bytes = serde_json::to_vec(&bounded).expect("a document").len();
        assert!(bytes < 300_000 + 16 * 1100, "{bytes}");
    }
}
