//! How N, W and R of a shard change while it is read and written: in steps; each is an entry.
//!
//! Nodes and clients learn of entries at different moments, so that a write may be acknowledged and a read answered by an
//! entry while others go on with an earlier one. A node that knows an entry executes nothing by older ones. With K
//! replicas, a write by quorums of W and a read by older ones of R' meet if W + R' > K, and a write by older ones of W'
//! and a read by quorums of R if W' + R > K. [`Entry::changing`] has the smallest W' and R' that still count. They are
//! forgotten when **all replicas were equal in this entry**: then all know it, so that nothing older is executed any
//! more, and each acknowledged write is on all of them.
//!
//! The steps of a shard, each when the replicas are equal in the one before:
//! - It is marked as changing, and W and R grow where they have to. From here on no entry is put back after Consul went back
//!   unless all of its nodes have answered: a silent node may know smaller quorums.
//! - A replica is added: a slot that has none, which a failover fills by a copy. With the end of the copy W and R grow so far
//!   that they meet the older ones among one replica more.
//! - A replica is removed. It may have stored a write or answer an older read, so W' and R' are one less. It may also have
//!   been silent when the others were equal: it alone goes on with older entries, where one is not a quorum.
//! - W and R become the wanted ones, and the shard is not changing any more.

use super::map::{Entry, NodeId, Quorums, Sizes, Slot};
use std::cmp::Ordering;

impl Entry {
    /// Whether the shard has N, W and R as they are wanted.
    pub fn has(&self, wanted: Quorums) -> bool {
        self.changing.is_none()
            && self.slots.len() == wanted.replicas
            && self.quorums == wanted.sizes()
    }

    /// Whether the next step of a change of its numbers waits until its replicas are equal in it.
    pub fn waits_for_equal_replicas(&self) -> bool {
        self.changing.is_some()
            && self.slots.iter().all(|slot| slot.change.is_none() && !slot.is_vacant())
    }

    /// The next step to what is wanted, in the same epoch; `None`: there is none, or not yet. `equal` is known if replicas
    /// were equal in this entry: the nodes of the others. Of the replicas one of those is removed that do not stay.
    pub fn toward(
        &self,
        wanted: Quorums,
        equal: Option<&[NodeId]>,
        stays: &dyn Fn(&NodeId) -> bool,
    ) -> Option<Entry> {
        let (count, quorums) = (self.slots.len(), self.quorums);
        let step = |slots: Vec<Slot>, quorums, changing| {
            Some(Entry { slots, quorums, changing, ..self.clone() })
        };
        let (slots, vacant) = (self.slots.clone(), self.slots.iter().position(Slot::is_vacant));
        if let Some(vacant) = vacant.filter(|_| count > wanted.replicas) {
            return step(without(slots, vacant), quorums, Some(self.lasting()));
        }
        let is_settled = vacant.is_none() && slots.iter().all(|slot| slot.change.is_none());
        if self.has(wanted) || !is_settled {
            return None;
        }
        let order = count.cmp(&wanted.replicas);
        let two = 2.min(count);
        let needed = quorums.max(match order {
            Ordering::Equal => wanted.sizes(),
            // So a quorum is left without the removed replica, and few are needed with the added one.
            _ => Sizes { write: two, read: two },
        });
        if needed != quorums || self.changing.is_none() {
            return step(slots, needed, Some(self.lasting()));
        }
        if order == Ordering::Equal && quorums == wanted.sizes() && self.lasting() == quorums {
            return step(slots, quorums, None);
        }
        match (order, equal?) {
            (Ordering::Less, []) => {
                let added = std::iter::once(Slot::default());
                step(slots.into_iter().chain(added).collect(), quorums, Some(quorums))
            }
            (Ordering::Equal, []) => step(slots, wanted.sizes(), None),
            // Two that do not answer may be a quorum in an older entry, as one alone may be if one was enough.
            (Ordering::Greater, left_out)
                if left_out.is_empty() || left_out.len() == 1 && self.lasting().least() > 1 =>
            {
                let holder = |slot: &Slot| slot.holder.as_ref().map(|place| place.node.clone());
                let is_left_out =
                    |slot: &Slot| holder(slot).is_some_and(|it| left_out.contains(&it));
                let leaves = |slot: &Slot| holder(slot).is_some_and(|node| !stays(&node));
                let removed = match left_out.is_empty() {
                    true => slots.iter().position(leaves).unwrap_or(count - 1),
                    false => slots.iter().position(is_left_out)?,
                };
                let Sizes { write, read } = quorums;
                let left = count - 1;
                let usual = Sizes::majorities(left);
                let sizes = Sizes {
                    write: wanted.write.max(count + 1 - read).max(usual.write.min(write)),
                    read: wanted.read.max(count + 1 - write).max(usual.read.min(read)),
                };
                let lasting = Sizes { write: write - 1, read: read - 1 };
                step(without(slots, removed), sizes, Some(lasting))
            }
            _ => None,
        }
    }

    /// The quorums for this number of replicas, after copies have filled slots.
    pub fn grown(&self, filled: usize) -> Sizes {
        let Sizes { write, read } = self.lasting();
        let met = |other: usize| (filled + 1).saturating_sub(other);
        self.quorums.max(Sizes { write: met(read), read: met(write) })
    }
}

fn without(mut slots: Vec<Slot>, place: usize) -> Vec<Slot> {
    slots.remove(place);
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Disk, Place};

    fn all(most: usize) -> Vec<Quorums> {
        let mut all = Vec::new();
        for replicas in 1..=most {
            for write in 1..=replicas {
                for read in replicas + 1 - write..=replicas {
                    all.push(Quorums { replicas, write, read });
                }
            }
        }
        all
    }

    fn slot(number: usize) -> Slot {
        let node = format!("n{number}").into();
        Slot::of(Place { node, disk: Disk(1), is_first: false })
    }

    fn entry(quorums: Quorums) -> Entry {
        let slots = (1..=quorums.replicas).map(slot).collect();
        Entry::new(1, slots).with_quorums(quorums.sizes())
    }

    /// Whether quorums of this entry meet each other, and the quorums of the entries before that still count.
    fn is_safe(entry: &Entry) -> bool {
        let (Sizes { write, read }, lasting) = (entry.quorums, entry.lasting());
        let count = entry.slots.len() - entry.vacant();
        write + read > count
            && lasting.write + read > count
            && write + lasting.read > count
            && lasting.least() > 0
            && write.max(read) <= count
    }

    /// The steps to these numbers, each with the replicas and quorums that it leaves.
    fn steps(from: Quorums, wanted: Quorums) -> Vec<(usize, Sizes)> {
        let (mut entry, mut steps) = (entry(from), Vec::new());
        let mut next_node = 100;
        while !entry.has(wanted) {
            if let Some(vacant) = entry.slots.iter().position(Slot::is_vacant) {
                entry.slots[vacant] = slot(next_node);
                next_node += 1;
                entry.quorums = entry.grown(entry.slots.len());
            } else {
                entry = entry.toward(wanted, Some(&[]), &|_| true).expect("a step");
            }
            assert!(is_safe(&entry), "from {from:?} to {wanted:?}: {entry:?}");
            steps.push((entry.slots.len() - entry.vacant(), entry.quorums));
            assert!(steps.len() < 30, "from {from:?} to {wanted:?}: {steps:?}");
        }
        steps
    }

    #[test]
    fn each_step_between_any_numbers_is_safe_and_the_last_one_is_reached() {
        let all = all(5);
        for from in &all {
            for wanted in &all {
                steps(*from, *wanted);
            }
        }
    }

    #[test]
    fn majorities_never_need_more_than_majorities() {
        for (from, to) in [(1, 3), (2, 3), (3, 2), (3, 5), (5, 3), (4, 1)] {
            for (count, quorums) in steps(Quorums::majorities(from), Quorums::majorities(to)) {
                assert_eq!(quorums, Sizes::majorities(count), "from {from} to {to}, with {count}");
            }
        }
    }

    #[test]
    fn a_step_waits_until_the_replicas_are_equal() {
        let (from, wanted) = (Quorums::majorities(3), Quorums::majorities(2));
        let marked = entry(from).toward(wanted, None, &|_| true).expect("the mark");
        assert_eq!((marked.changing, marked.slots.len()), (Some(from.sizes()), 3));
        assert_eq!(marked.toward(wanted, None, &|_| true), None);
        let [one, two] = ["n1", "n2"].map(NodeId::from);
        assert_eq!(marked.toward(wanted, Some(&[one.clone(), two]), &|_| true), None);
        // The silent one is removed, or else a replica that does not stay.
        let names = |entry: Option<Entry>| -> Vec<NodeId> {
            entry.expect("a step").members().cloned().collect()
        };
        let stays = |node: &NodeId| **node != *"n2";
        assert_eq!(
            names(marked.toward(wanted, Some(&[one]), &stays)),
            ["n2", "n3"].map(NodeId::from)
        );
        assert_eq!(names(marked.toward(wanted, Some(&[]), &stays)), ["n1", "n3"].map(NodeId::from));
        // Alone it may be a quorum of an older entry.
        let lasting = Sizes { write: 1, read: 2 };
        let marked = Entry { changing: Some(lasting), ..marked };
        assert_eq!(marked.toward(wanted, Some(&["n1".into()]), &|_| true), None);
    }

    #[test]
    fn a_replica_that_nobody_has_yet_is_given_up_at_once() {
        let (two, three) = (Quorums::majorities(2), Quorums::majorities(3));
        let marked = entry(two).toward(three, None, &|_| true).expect("the mark");
        let grows = marked.toward(three, Some(&[]), &|_| true).expect("a slot");
        assert_eq!((grows.slots.len(), grows.vacant()), (3, 1));
        let back = grows.toward(two, None, &|_| true).expect("without the slot");
        assert_eq!(back.slots, entry(two).slots);
        let rest = back.toward(two, None, &|_| true).expect("the end");
        assert!(rest.has(two));
    }
}
