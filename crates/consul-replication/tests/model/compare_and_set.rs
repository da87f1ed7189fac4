//! Why a store has no compare-and-set of a record: with the messages that it has, two clients that write over the same
//! version, searched to the end. A replica stores a write only if its version is still the expected one. A write that
//! fails is on a minority, has the higher version or not, and is found by later reads.

use std::collections::BTreeSet;

const REPLICAS: usize = 3;
const READ_QUORUM: usize = 2;

/// The clients write version 1 and version 2, both over version 0.
const CLIENTS: usize = 2;

/// The additional steps of such a store.
#[derive(Clone, Copy, Default)]
struct Attempt {
    /// How many replicas have to store a write; 2 is the quorum that meets each read.
    write_quorum: usize,
    /// A client that fails takes back what was stored for it, unless it dies before.
    takes_back: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    versions: [u8; REPLICAS],
    /// Whether a replica has answered a client, and whether it has stored the write.
    answers: [[Option<bool>; REPLICAS]; CLIENTS],
    took_back: [bool; CLIENTS],
}

impl State {
    fn count(&self, client: usize, stored: bool) -> usize {
        self.answers[client].iter().filter(|answer| **answer == Some(stored)).count()
    }

    /// Every state that follows: a replica executes a request, or a client takes its write back. That a message is late or a
    /// client dies is that its step never comes.
    fn next(&self, attempt: Attempt) -> Vec<State> {
        let mut all = Vec::new();
        for client in 0..CLIENTS {
            for replica in 0..REPLICAS {
                if self.answers[client][replica].is_none() && !self.took_back[client] {
                    let mut next = *self;
                    let is_stored = self.versions[replica] == 0;
                    next.answers[client][replica] = Some(is_stored);
                    if is_stored {
                        next.versions[replica] = client as u8 + 1;
                    }
                    all.push(next);
                }
            }
            let has_failed = self.count(client, false) > REPLICAS - attempt.write_quorum;
            if attempt.takes_back && has_failed && !self.took_back[client] {
                let mut next = *self;
                next.took_back[client] = true;
                let own = next.versions.iter_mut().filter(|it| **it == client as u8 + 1);
                own.for_each(|version| *version = 0);
                all.push(next);
            }
        }
        all
    }

    /// Its fault: both were told that they have replaced version 0, or a read shows another value than the
    /// acknowledged one.
    fn violation(&self, attempt: Attempt) -> Option<String> {
        let is_done = |client: &usize| self.count(*client, true) >= attempt.write_quorum;
        let done: Vec<usize> = (0..CLIENTS).filter(is_done).collect();
        let acknowledged = *done.first()? as u8 + 1;
        if done.len() > 1 {
            return Some("both have replaced version 0".to_owned());
        }
        let pairs = (0..REPLICAS).map(|left| [left, (left + 1) % REPLICAS]);
        let read = pairs.map(|pair: [usize; READ_QUORUM]| pair.map(|it| self.versions[it]));
        let wrong = read.map(|it| it[0].max(it[1])).find(|it| *it != acknowledged)?;
        Some(format!("{acknowledged} was acknowledged, a read shows {wrong}: {:?}", self.versions))
    }
}

fn search(attempt: Attempt) -> Option<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![State::default()]);
    while let Some(state) = open.pop() {
        if let Some(violation) = state.violation(attempt) {
            return Some(violation);
        }
        if seen.insert(state) {
            open.extend(state.next(attempt));
        }
    }
    None
}

#[test]
fn a_compare_and_set_by_quorums_shows_a_write_that_has_failed() {
    for takes_back in [false, true] {
        let found = search(Attempt { write_quorum: 2, takes_back });
        let found = found.expect("a failed write with the higher version is read");
        assert!(found.contains("1 was acknowledged, a read shows 2"), "{found}");
    }
}

/// Only where each replica has to store it, so that an absent one stops all writes.
#[test]
fn a_compare_and_set_on_all_replicas_is_safe() {
    for takes_back in [false, true] {
        assert_eq!(search(Attempt { write_quorum: REPLICAS, takes_back }), None);
    }
}
