//! The states of the model, and what makes two of them the same.

use crate::rules::{Model, Rule};

pub const NODES: usize = 4;
pub const REPLICAS: usize = 3;
pub const WRITE_QUORUM: usize = 2;
const READ_QUORUM: usize = 2;
/// Replicas that a failover fences and copies, of the two others.
pub const FENCED: usize = 2;
/// The initial entry, four changes, and an entry that is put back after Consul went back.
pub const ENTRIES: usize = 7;

/// A set of entries of the map, one bit each.
pub type Entries = u8;

/// One node: its part in each entry of the map, what stands on its disk, and what clients have from it.
#[derive(Clone, Copy, Default)]
pub struct Node {
    pub holder: Entries,
    pub leaving: Entries,
    /// Replaced by a failover.
    pub gone: Entries,
    /// Target of a move or a failover; with `gone`, of its own failover with a new disk.
    pub target: Entries,
    /// Entries that name its second disk.
    pub named: Entries,
    /// Entries whose target has fenced and copied it.
    pub copied: Entries,
    /// Entries for which it has told the leader that it is whole.
    pub reported: Entries,
    /// The reports of its second disk.
    pub reported_disk: Entries,
    /// Epochs in which it acknowledged a version.
    pub acks: [Entries; 2],
    /// Epochs in which it answered a read without a version that was acknowledged before.
    pub missed: [Entries; 2],
    /// The newest version on its disk.
    pub version: u8,
    pub disk: u8,
    pub whole: bool,
    pub sealed: bool,
    /// It executes nothing in epochs below.
    pub fence: u8,
    /// The newest entry that it knows, plus 1.
    pub known: u8,
    /// The change that it is a target for, plus 1.
    pub work: u8,
}

#[derive(Clone, Copy, Default)]
pub struct State {
    pub nodes: [Node; NODES],
    /// The change that each entry belongs to: an entry that is put back belongs to its original's.
    pub change: [u8; ENTRIES],
    pub len: u8,
    /// The entry in Consul.
    pub consul: u8,
    /// The entry that Consul may go back to, plus 1.
    pub previous: u8,
    /// The entry that the leader will put back, plus 1.
    pub answer: u8,
    pub was_set_back: bool,
    pub has_lost_disk: bool,
    /// Versions that were acknowledged.
    pub acknowledged: u8,
}

pub fn bit(entry: u8) -> Entries {
    1 << entry
}

pub fn holds(entries: Entries, entry: u8) -> bool {
    entries & bit(entry) != 0
}

impl Node {
    pub fn knows(&self, entry: u8) -> bool {
        self.known == entry + 1
    }

    /// The entries that name it.
    pub fn member(&self) -> Entries {
        self.holder | self.leaving | self.gone | self.target
    }

    /// Whether its data are those that the entry means.
    pub fn is_whole(&self, entry: u8, model: &Model) -> bool {
        self.whole && ((self.named >> entry & 1) == self.disk || !model.has(Rule::NameTheDisk))
    }

    /// Whether it executes a request of that epoch, and counts.
    pub fn executes(&self, epoch: u8, model: &Model) -> bool {
        let counts = holds(self.holder | self.leaving, epoch) && self.is_whole(epoch, model)
            || holds(self.target, epoch) && !model.has(Rule::TargetCountsLate);
        let is_current =
            if model.has(Rule::RefuseOtherEpochs) { self.knows(epoch) } else { self.known > epoch };
        counts && is_current && !self.sealed && self.fence <= epoch
    }

    /// Whether it may learn an entry.
    pub fn may_learn(&self, entry: u8, model: &Model) -> bool {
        self.known <= entry && (self.fence <= entry || !model.has(Rule::IgnoreEntriesBelowFence))
    }

    pub fn is_whole_or_has_data(&self) -> bool {
        self.whole || self.version > 0
    }

    pub fn drop_copy(&mut self) {
        self.version = 0;
        self.whole = false;
    }

    /// Marks its copy as whole and reports it to the leader.
    pub fn complete(&mut self, entry: u8) {
        self.whole = true;
        self.reported |= bit(entry);
        self.reported_disk = self.reported_disk & !bit(entry) | self.disk << entry;
    }

    fn masks(&mut self) -> [&mut Entries; 12] {
        let [acks0, acks1] = &mut self.acks;
        let [missed0, missed1] = &mut self.missed;
        [
            &mut self.holder,
            &mut self.leaving,
            &mut self.gone,
            &mut self.target,
            &mut self.named,
            &mut self.copied,
            &mut self.reported,
            &mut self.reported_disk,
            acks0,
            acks1,
            missed0,
            missed1,
        ]
    }

    fn packed(&mut self) -> u128 {
        let small = [
            (self.version, 2),
            (self.disk, 1),
            (self.whole.into(), 1),
            (self.sealed.into(), 1),
            (self.fence, 3),
            (self.known, 3),
            (self.work, 3),
        ];
        let small = small.iter().fold(0, |all, (value, bits)| all << bits | u128::from(*value));
        self.masks().iter().fold(small, |all, mask| all << 8 | u128::from(**mask))
    }
}

pub enum Settled {
    State,
    Loss,
    /// Each loss that follows is found without the last steps, too.
    Useless,
}

impl State {
    pub fn initial() -> State {
        let holder = Node { holder: 1, whole: true, known: 1, ..Node::default() };
        let other = Node { known: 1, ..Node::default() };
        State { nodes: [holder, holder, holder, other], len: 1, ..State::default() }
    }

    /// Lets a node learn an entry, which belongs to a change.
    pub fn learn(&mut self, index: usize, entry: u8) {
        let change = self.change[usize::from(entry)] + 1;
        let node = &mut self.nodes[index];
        node.known = entry + 1;
        if holds(node.holder, entry) {
            node.sealed = false;
            node.work = 0;
        } else if holds(node.target, entry) {
            node.sealed = false;
            if node.work != change {
                node.work = change;
                node.drop_copy();
                self.forget_copies(index);
            }
        } else if holds(node.leaving | node.gone, entry) {
            node.work = 0;
        }
    }

    /// Forgets what a node has copied as a target.
    pub fn forget_copies(&mut self, index: usize) {
        let targeted = self.nodes[index].target;
        for node in &mut self.nodes {
            node.copied &= !targeted;
        }
    }

    /// Does what every reader does, and brings equivalent states into one form.
    pub fn settle(&mut self, model: &Model) -> Settled {
        if !model.limits.set_back {
            self.previous = 0;
        }
        for version in 0..model.limits.writes {
            if self.acknowledged >> version & 1 == 0 {
                if self.cannot_be_acknowledged(version, model) {
                    return Settled::Useless;
                }
            } else if self.is_missed(version, model) {
                return Settled::Loss;
            }
        }
        if model.has(Rule::RefuseOtherEpochs) {
            self.forget_dead_entries(model);
        }
        let mut nodes = self.nodes.map(|mut node| (node.packed(), node));
        nodes.sort_unstable_by_key(|(packed, _)| *packed);
        self.nodes = nodes.map(|(_, node)| node);
        Settled::State
    }

    /// Reads with every replica that executes reads.
    fn is_missed(&mut self, version: u8, model: &Model) -> bool {
        let index = usize::from(version);
        for node in &mut self.nodes {
            if node.version <= version {
                for epoch in 0..self.len {
                    if node.executes(epoch, model) {
                        node.missed[index] |= bit(epoch);
                    }
                }
            }
        }
        let count =
            |epoch| self.nodes.iter().filter(|node| holds(node.missed[index], epoch)).count();
        (0..self.len).any(|epoch| count(epoch) >= READ_QUORUM)
    }

    /// Whether the quorum of a write that has begun can no longer be had: then the trace without it
    /// loses at least as much.
    fn cannot_be_acknowledged(&self, version: u8, model: &Model) -> bool {
        let index = usize::from(version);
        let begun = self.nodes.iter().fold(0, |all, node| all | node.acks[index]);
        let may = |node: &Node, epoch| {
            node.known <= epoch + 1
                && node.fence <= epoch
                && holds(node.holder | node.leaving, epoch)
        };
        begun != 0
            && model.has(Rule::RefuseOtherEpochs)
            && model.has(Rule::CountWithinOneEpoch)
            && model.has(Rule::TargetCountsLate)
            && !(0..self.len).filter(|epoch| holds(begun, *epoch)).any(|epoch| {
                let count = self
                    .nodes
                    .iter()
                    .filter(|node| holds(node.acks[index], epoch) || may(node, epoch))
                    .count();
                count >= WRITE_QUORUM
            })
    }

    /// Removes the entries that nothing refers to any more, and what can have no effect.
    fn forget_dead_entries(&mut self, model: &Model) {
        let mut live = bit(self.consul);
        if self.previous > 0 {
            live |= bit(self.previous - 1);
        }
        if self.answer > 0 {
            live |= bit(self.answer - 1);
        }
        for node in &mut self.nodes {
            if node.fence < node.known {
                node.fence = 0;
            }
        }
        for entry in 0..self.len {
            if self.nodes.iter().any(|node| node.knows(entry) || node.may_learn(entry, model)) {
                live |= bit(entry);
            }
        }
        // Answers in an epoch in which no quorum can come together.
        for epoch in 0..self.len {
            let mut counts = [0; 2];
            for node in &self.nodes {
                let may = (node.knows(epoch) || node.may_learn(epoch, model))
                    && (holds(node.holder | node.leaving, epoch)
                        || holds(node.target, epoch) && !model.has(Rule::TargetCountsLate));
                for (count, missed) in counts.iter_mut().zip(node.missed) {
                    *count += usize::from(may || holds(missed, epoch));
                }
            }
            for (index, count) in counts.iter().enumerate() {
                if *count < READ_QUORUM {
                    for node in &mut self.nodes {
                        node.missed[index] &= !bit(epoch);
                    }
                }
            }
        }
        let reportable = bit(self.consul)
            | if self.previous > 0 && !model.has(Rule::AskAfterSetBack) {
                bit(self.previous - 1)
            } else {
                0
            };
        for node in &mut self.nodes {
            node.reported &= reportable;
            node.reported_disk &= reportable;
            if !node.is_whole_or_has_data()
                && (node.known == 0 || !holds(node.target, node.known - 1))
            {
                node.work = 0;
            }
        }
        self.renumber(live);
    }

    /// A number that differs, but for one pair in 2^64, when two states differ.
    pub fn fingerprint(&self) -> u64 {
        let mut words = [0u128; NODES + 1];
        for (word, node) in words.iter_mut().zip(self.nodes) {
            let mut node = node;
            *word = node.packed();
        }
        let small = [
            (self.len, 3),
            (self.consul, 3),
            (self.previous, 3),
            (self.answer, 3),
            (self.was_set_back.into(), 1),
            (self.has_lost_disk.into(), 1),
            (self.acknowledged, 2),
        ];
        words[NODES] = small
            .iter()
            .map(|(value, bits)| (u128::from(*value), *bits))
            .chain(self.change.iter().map(|change| (u128::from(*change), 3)))
            .fold(0, |all, (value, bits)| all << bits | value);
        let mut bytes = [0; 16 * (NODES + 1)];
        for (chunk, word) in bytes.chunks_exact_mut(16).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        twox_hash::XxHash3_64::oneshot(&bytes)
    }

    fn renumber(&mut self, live: Entries) {
        if live == bit(self.len) - 1 {
            return;
        }
        let rank = |entry: u8| (live & (bit(entry) - 1)).count_ones() as u8;
        let old = self.change;
        let mut labels = [u8::MAX; ENTRIES + 1];
        self.change = [0; ENTRIES];
        for entry in (0..self.len).filter(|entry| holds(live, *entry)) {
            let label = &mut labels[usize::from(old[usize::from(entry)])];
            if *label == u8::MAX {
                *label = rank(entry);
            }
            self.change[usize::from(rank(entry))] = *label;
        }
        for node in &mut self.nodes {
            for mask in node.masks() {
                *mask = COMPRESSED[usize::from(live)][usize::from(*mask)];
            }
            node.fence = rank(node.fence);
            if node.known > 0 {
                node.known = rank(node.known - 1) + 1;
            }
            if node.work > 0 {
                let label = labels[usize::from(node.work - 1)];
                node.work = if label == u8::MAX { ENTRIES as u8 } else { label + 1 };
            }
        }
        self.len = rank(self.len);
        self.consul = rank(self.consul);
        for reference in [&mut self.previous, &mut self.answer] {
            if *reference > 0 {
                *reference = rank(*reference - 1) + 1;
            }
        }
    }
}

const MASKS: usize = 1 << ENTRIES;

/// For entries to keep and a mask: the mask's bits at the places of the kept ones, moved together.
static COMPRESSED: [[Entries; MASKS]; MASKS] = {
    let mut table = [[0; MASKS]; MASKS];
    let mut keep = 0;
    while keep < MASKS {
        let mut mask = 0;
        while mask < MASKS {
            let (mut entry, mut place) = (0, 0);
            while entry < ENTRIES {
                if keep >> entry & 1 != 0 {
                    table[keep][mask] |= ((mask >> entry & 1) << place) as Entries;
                    place += 1;
                }
                entry += 1;
            }
            mask += 1;
        }
        keep += 1;
    }
    table
};
