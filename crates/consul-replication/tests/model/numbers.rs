//! Changes of N, W and R, searched to the end: one shard on four nodes, one write with any number of tries, reads at any time,
//! and an operator who wants other numbers at any moment. The steps are the steps of [`Entry::toward`].
//!
//! Nodes and clients learn of entries late or never, and ask by any of them. Replicas are compared, one of them may be left
//! out; a replica that is away is replaced by a failover; a disk is lost; Consul loses all entries and is told them by the
//! nodes that answer. As in `steps.rs` a write reaches only the replicas whose acknowledgements count, in one entry, and
//! after each step every replica answers all reads that it can. A comparison is one step: before it, each node may have learned
//! the entry in any order. Moves wait until the numbers are as they are wanted.

use consul_replication::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Quorums, Slot};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

const NODES: usize = 4;
const MOST_ENTRIES: usize = 12;

/// The steps that a search leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A step waits until the replicas were equal in the entry before.
    Equal,
    /// The numbers change in steps, not at once.
    Steps,
    /// With a copy that has filled a slot W and R grow.
    Grow,
    /// While the numbers change, all nodes have to answer before an entry is put back.
    AllAnswer,
    /// A removed replica counts for older entries and writes.
    RemovedCounts,
}

#[derive(Clone, Debug, Default)]
struct Search {
    /// N, W and R at the beginning, and those that are wanted one after the other.
    goals: Vec<Quorums>,
    /// The failovers of replicas that are not lost.
    failovers: u8,
    lost_disk: bool,
    set_back: bool,
    without: Option<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    /// The newest entry that it knows, plus 1.
    known: u8,
    /// It executes nothing in entries before.
    fence: u8,
    disk: u8,
    has_record: bool,
    is_whole: bool,
    has_acknowledged: bool,
    /// The entries by which it has answered a read without the record after that was acknowledged.
    missed: u16,
    /// The entry that planned the change that it is the target for, plus 1.
    work: u8,
    /// The nodes that it has fenced and copied.
    copied: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    /// The entries, by their numbers in the table.
    entries: [u16; MOST_ENTRIES],
    count: u8,
    nodes: [Node; NODES],
    /// The entry by which the record is written, plus 1.
    written: u8,
    is_acknowledged: bool,
    goal: u8,
    failovers: u8,
    lost_disk: bool,
    set_back: bool,
    /// The change whose target has reported its end, plus 1, and the disk of that.
    finished: (u8, u8),
    /// The nodes that were left out when the others were found to be equal in the last entry, plus 1.
    equal: u8,
}

/// The entries that occur.
#[derive(Default)]
struct Table {
    all: Vec<Entry>,
    numbers: HashMap<String, u16>,
}

impl Table {
    fn number(&mut self, entry: Entry) -> u16 {
        let next = self.all.len() as u16;
        let number = *self.numbers.entry(format!("{entry:?}")).or_insert(next);
        if number == next {
            self.all.push(entry);
        }
        number
    }
}

fn name(node: usize) -> NodeId {
    NodeId::from(["a", "b", "c", "d"][node])
}

fn number(node: &str) -> usize {
    usize::from(node.as_bytes()[0] - b'a')
}

fn place(node: usize, disk: u8) -> Place {
    Place { node: name(node), disk: Disk(disk.into()), is_first: false }
}

impl State {
    fn first(goal: Quorums, table: &mut Table) -> Self {
        let slots = (0..goal.replicas).map(|node| Slot::of(place(node, 0))).collect();
        let entry = Entry::new(0, slots).with_quorums(goal.sizes());
        let mut state = State { count: 1, ..State::default() };
        state.entries[0] = table.number(entry);
        for (number, node) in state.nodes.iter_mut().enumerate() {
            (node.known, node.is_whole) = (1, number < goal.replicas);
        }
        state
    }

    fn entry<'a>(&self, epoch: u8, table: &'a Table) -> &'a Entry {
        &table.all[usize::from(self.entries[usize::from(epoch)])]
    }

    fn last<'a>(&self, table: &'a Table) -> &'a Entry {
        self.entry(self.count - 1, table)
    }

    fn publish(&self, entry: Entry, table: &mut Table) -> Option<State> {
        let mut next = *self;
        *next.entries.get_mut(usize::from(self.count))? = table.number(entry);
        (next.count, next.equal) = (self.count + 1, 0);
        Some(next)
    }

    fn is_counted(&self, node: usize, entry: &Entry) -> bool {
        let it = &self.nodes[node];
        let is_named = |place: &Place| place.disk == Disk(it.disk.into());
        it.is_whole && entry.counting_at(&name(node)).is_some_and(is_named)
    }

    /// Whether a node executes requests by an entry.
    fn executes(&self, node: usize, epoch: u8, entry: &Entry) -> bool {
        let it = &self.nodes[node];
        it.known == epoch + 1 && it.fence <= epoch && self.is_counted(node, entry)
    }

    fn learn(&mut self, node: usize, epoch: u8, entry: &Entry) {
        let it = &mut self.nodes[node];
        it.known = it.known.max(epoch + 1);
        let change = entry.change_to(&name(node)).map(|(_, change)| change.since as u8 + 1);
        match change {
            Some(since) if it.work != since => {
                (it.work, it.copied, it.has_record, it.is_whole) = (since, 0, false, false);
            }
            Some(_) => {}
            None => it.work = 0,
        }
    }

    /// The states that follow.
    fn next(&self, search: &Search, table: &mut Table) -> Vec<(String, State)> {
        let mut next = Vec::new();
        self.lead(search, table, &mut next);
        for node in 0..NODES {
            self.learn_any(node, table, &mut next);
            self.write(node, table, &mut next);
            self.copy(node, table, &mut next);
            if search.lost_disk && !self.lost_disk {
                let mut state = *self;
                let Node { missed, has_acknowledged, .. } = self.nodes[node];
                state.nodes[node] = Node { disk: 1, missed, has_acknowledged, ..Node::default() };
                state.lost_disk = true;
                next.push((format!("{node} loses its disk"), state));
            }
        }
        self.compare(table, &mut next);
        if search.set_back && !self.set_back {
            self.lose_the_map(search, table, &mut next);
        }
        next
    }

    /// The leader's step with the last entry.
    fn lead(&self, search: &Search, table: &mut Table, next: &mut Vec<(String, State)>) {
        if usize::from(self.goal) + 1 < search.goals.len() {
            next.push(("another goal".into(), State { goal: self.goal + 1, ..*self }));
        }
        let (entry, goal) = (self.last(table).clone(), search.goals[usize::from(self.goal)]);
        for (at, slot) in entry.slots.iter().enumerate() {
            let Some(change) = slot.change.as_ref() else { continue };
            let mut settled = entry.clone();
            if self.finished.0 == change.since as u8 + 1 {
                settled.slots[at] = Slot::of(place(number(&change.to), self.finished.1));
                if search.without != Some(Rule::Grow) {
                    settled.quorums = entry.grown(settled.slots.len() - settled.vacant());
                }
                next.extend(self.publish(settled, table).map(|it| ("a commit".into(), it)));
            } else if !slot.is_vacant() {
                settled.slots[at].change = None;
                next.extend(self.publish(settled, table).map(|it| ("a cancel".into(), it)));
            }
        }
        for leaves in 0..NODES {
            let Some(mut step) = self.step(&entry, goal, leaves, search) else { continue };
            let vacant = step.slots.iter().position(|it| it.is_vacant() && it.change.is_none());
            let Some(vacant) = vacant else {
                let text = format!("a step: {:?} {:?}", step.quorums, step.changing);
                next.extend(self.publish(step, table).map(|it| (text, it)));
                continue;
            };
            for target in (0..NODES).filter(|node| !entry.names(&name(*node))) {
                let since = self.count.into();
                step.slots[vacant].change =
                    Some(Change::new(ChangeKind::Failover, name(target), since));
                let text = format!("a replica is added on {target}");
                next.extend(self.publish(step.clone(), table).map(|it| (text, it)));
            }
        }
        self.fail_over(search, &entry, table, next);
    }

    fn step(&self, entry: &Entry, goal: Quorums, leaves: usize, search: &Search) -> Option<Entry> {
        let left_out = |mask: u8| (0..NODES).filter(move |node| mask >> node & 1 != 0).map(name);
        let mut equal = self.equal.checked_sub(1).map(|mask| Vec::from_iter(left_out(mask)));
        if search.without == Some(Rule::Equal) {
            equal = Some(Vec::new());
        }
        let step = entry.toward(goal, equal.as_deref(), &|node| number(node) != leaves)?;
        Some(match search.without {
            Some(Rule::Steps) if entry.slots.len() == goal.replicas => {
                Entry { quorums: goal.sizes(), changing: None, ..entry.clone() }
            }
            Some(Rule::RemovedCounts) if step.slots.len() < entry.slots.len() => {
                Entry { changing: Some(entry.quorums), ..step }
            }
            _ => step,
        })
    }

    fn fail_over(
        &self,
        search: &Search,
        entry: &Entry,
        table: &mut Table,
        next: &mut Vec<(String, State)>,
    ) {
        if entry.slots.iter().any(|slot| slot.change.is_some()) {
            return;
        }
        for (at, slot) in entry.slots.iter().enumerate() {
            let Some(holder) = slot.holder.as_ref() else { continue };
            let from = number(&holder.node);
            let is_lost = self.nodes[from].disk != holder.disk.0 as u8;
            if !is_lost && self.failovers == search.failovers {
                continue;
            }
            let is_free = |to: &usize| (is_lost && *to == from) || !entry.names(&name(*to));
            for to in (0..NODES).filter(is_free) {
                let mut planned = entry.clone();
                let since = self.count.into();
                planned.slots[at].change = Some(Change::new(ChangeKind::Failover, name(to), since));
                let Some(mut state) = self.publish(planned, table) else { continue };
                state.failovers += u8::from(!is_lost);
                next.push((format!("a failover from {from} to {to}"), state));
            }
        }
    }

    fn learn_any(&self, node: usize, table: &Table, next: &mut Vec<(String, State)>) {
        let it = &self.nodes[node];
        for epoch in it.known.max(it.fence)..self.count {
            let mut state = *self;
            state.learn(node, epoch, self.entry(epoch, table));
            next.push((format!("{node} learns {epoch}"), state));
        }
    }

    fn write(&self, node: usize, table: &Table, next: &mut Vec<(String, State)>) {
        let Some(epoch) = self.nodes[node].known.checked_sub(1) else { return };
        let entry = self.entry(epoch, table);
        let is_begun = self.written != 0;
        if self.is_acknowledged
            || is_begun && self.written != epoch + 1
            || self.nodes[node].has_acknowledged
            || !self.executes(node, epoch, entry)
        {
            return;
        }
        let mut state = *self;
        state.written = epoch + 1;
        state.nodes[node].has_record = true;
        state.nodes[node].has_acknowledged = true;
        let count = state.nodes.iter().filter(|node| node.has_acknowledged).count();
        state.is_acknowledged = count >= entry.quorums.write;
        next.push((format!("{node} stores the record in {epoch}"), state));
    }

    /// A target fences a replica and copies it.
    fn copy(&self, node: usize, table: &Table, next: &mut Vec<(String, State)>) {
        let it = &self.nodes[node];
        let Some(epoch) = it.known.checked_sub(1).filter(|_| it.work > 0 && !it.is_whole) else {
            return;
        };
        let entry = self.entry(epoch, table);
        for other in (0..NODES).filter(|other| it.copied >> other & 1 == 0) {
            let from = &self.nodes[other];
            let answers = from.known <= epoch + 1 && from.fence <= epoch;
            if other == node || !answers || !self.is_counted(other, entry) {
                continue;
            }
            let mut state = *self;
            state.learn(other, epoch, entry);
            state.nodes[node].copied |= 1 << other;
            state.nodes[node].has_record |= from.has_record;
            let found = state.nodes[node].copied.count_ones() as usize + entry.vacant();
            if found >= entry.fenced().max(entry.copied()) {
                state.nodes[node].is_whole = true;
                state.finished = (it.work, it.disk);
            }
            next.push((format!("{node} fences and copies {other} in {epoch}"), state));
        }
    }

    /// The replicas of the last entry are made equal, but for one at most.
    fn compare(&self, table: &Table, next: &mut Vec<(String, State)>) {
        let (epoch, entry) = (self.count - 1, self.last(table));
        let is_settled = entry.slots.iter().all(|it| it.change.is_none() && !it.is_vacant());
        if entry.changing.is_none() || !is_settled || self.equal != 0 {
            return;
        }
        let holders: Vec<usize> = entry.counting().map(|(_, it)| number(&it.node)).collect();
        for left_out in holders.iter().map(|node| 1 << node).chain([0_u8]) {
            let others = || holders.iter().filter(|node| left_out >> **node & 1 == 0);
            let answers =
                |node: &usize| self.is_counted(*node, entry) && self.nodes[*node].fence <= epoch;
            if others().count() == 0 || !others().all(answers) {
                continue;
            }
            let mut state = *self;
            let has_record = others().any(|node| self.nodes[*node].has_record);
            for node in others() {
                state.learn(*node, epoch, entry);
                state.nodes[*node].has_record = has_record;
            }
            state.equal = left_out + 1;
            next.push((format!("all but {left_out:04b} are equal in {epoch}"), state));
        }
    }

    /// Consul loses all entries. The newest entry of the nodes that are not silent is put back, when enough have
    /// promised to execute nothing older.
    fn lose_the_map(&self, search: &Search, table: &mut Table, next: &mut Vec<(String, State)>) {
        for silent in 0..1_u8 << NODES {
            let is_silent = |node: usize| silent >> node & 1 != 0;
            let answer = (0..NODES).filter(|node| !is_silent(*node));
            let known = answer.clone().map(|node| self.nodes[node].known).max().unwrap_or(0);
            let Some(epoch) = known.checked_sub(1) else { continue };
            let entry = self.entry(epoch, table).clone();
            if !self.may_put_back(&entry, is_silent, search) {
                continue;
            }
            let Some(mut state) = self.publish(entry.clone(), table) else { continue };
            state.set_back = true;
            for node in answer.filter(|node| entry.names(&name(*node))) {
                state.nodes[node].fence = self.count;
            }
            next.push((format!("without {silent:04b} {epoch} is put back"), state));
        }
    }

    fn may_put_back(
        &self,
        entry: &Entry,
        is_silent: impl Fn(usize) -> bool,
        search: &Search,
    ) -> bool {
        if !entry.members().any(|node| is_silent(number(node))) {
            return true;
        }
        if entry.changing.is_some() && search.without != Some(Rule::AllAnswer) {
            return false;
        }
        let mut count = 0;
        for slot in &entry.slots {
            let Some(node) = slot.holder.as_ref().map(|place| number(&place.node)) else {
                continue;
            };
            match (is_silent(node), &slot.change) {
                (true, Some(_)) => return false,
                (false, None) => count += usize::from(self.is_counted(node, entry)),
                _ => {}
            }
        }
        count >= entry.fenced().max(entry.quorums.least())
    }

    /// Reads with every replica that answers one; whether one of the reads misses the record.
    fn is_missed(&mut self, table: &Table) -> bool {
        if !self.is_acknowledged {
            return false;
        }
        for node in 0..NODES {
            let Some(epoch) = self.nodes[node].known.checked_sub(1) else { continue };
            if !self.nodes[node].has_record && self.executes(node, epoch, self.entry(epoch, table))
            {
                self.nodes[node].missed |= 1 << epoch;
            }
        }
        for epoch in 0..self.count {
            let entry = self.entry(epoch, table);
            let has = |node: &Node| node.missed >> epoch & 1 != 0;
            let missed = self.nodes.iter().filter(|node| has(node)).count();
            if missed >= entry.quorums.read {
                return true;
            }
            // Answers that cannot become a quorum any more.
            let may = |node: usize| {
                let it = &self.nodes[node];
                it.known <= epoch + 1
                    && it.fence <= epoch
                    && entry.counting_at(&name(node)).is_some()
            };
            let possible = (0..NODES).filter(|node| has(&self.nodes[*node]) || may(*node)).count();
            if possible < entry.quorums.read {
                self.nodes.iter_mut().for_each(|node| node.missed &= !(1 << epoch));
            }
        }
        false
    }

    /// Whether the write can have no quorum any more: the trace without it loses as much.
    fn is_useless(&self, table: &Table) -> bool {
        let Some(epoch) = self.written.checked_sub(1).filter(|_| !self.is_acknowledged) else {
            return false;
        };
        let entry = self.entry(epoch, table);
        let may = |node: usize| {
            let it = &self.nodes[node];
            it.has_acknowledged
                || it.known <= epoch + 1
                    && it.fence <= epoch
                    && entry.counting_at(&name(node)).is_some()
        };
        (0..NODES).filter(|node| may(*node)).count() < entry.quorums.write
    }

    /// Forgets all on which nothing depends any more.
    fn forget(&mut self) {
        for node in &mut self.nodes {
            if self.is_acknowledged {
                node.has_acknowledged = false;
            }
            if node.fence < node.known {
                node.fence = 0;
            }
            if node.work == 0 {
                node.copied = 0;
            }
        }
        if self.is_acknowledged {
            self.written = 0;
        }
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    state.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// Searches to the end: the number of states, whether the last goal is reached in one of them, and the steps to a loss.
fn search(search: &Search) -> (usize, bool, Option<Vec<String>>) {
    let mut table = Table::default();
    let first = State::first(search.goals[0], &mut table);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut before: Vec<(usize, String)> = vec![(0, String::new())];
    let mut open = vec![(first, 0)];
    let mut is_reached = false;
    let is_traced = search.without.is_some();
    while let Some((state, at)) = open.pop() {
        let last = state.last(&table);
        let is_last = usize::from(state.goal) + 1 == search.goals.len();
        is_reached |= is_last && last.has(search.goals[usize::from(state.goal)]);
        for (step, mut next) in state.next(search, &mut table) {
            if next.is_missed(&table) {
                let mut steps = vec![step];
                let mut at = at;
                while at > 0 {
                    steps.push(before[at].1.clone());
                    at = before[at].0;
                }
                steps.reverse();
                return (seen.len(), is_reached, Some(steps));
            }
            if next.is_useless(&table) {
                continue;
            }
            next.forget();
            if seen.insert(fingerprint(&next)) {
                if is_traced {
                    before.push((at, step));
                }
                open.push((next, before.len() - 1));
            }
        }
    }
    (seen.len(), is_reached, None)
}

fn goal((replicas, write, read): (usize, usize, usize)) -> Quorums {
    Quorums { replicas, write, read }
}

/// Searches to the end and demands that nothing is lost and the goal is reached.
fn holds(goals: &[(usize, usize, usize)], more: Search) {
    let limits = Search { goals: goals.iter().copied().map(goal).collect(), ..more };
    let begun = std::time::Instant::now();
    let (states, is_reached, loss) = search(&limits);
    println!("{goals:?}: {states} states in {:.1} s", begun.elapsed().as_secs_f64());
    let traced = || search(&Search { without: None, ..limits.clone() }).2;
    assert!(loss.is_none(), "a write is lost: {:#?}", traced());
    assert!(is_reached, "{goals:?} is not reached");
}

#[test]
fn no_acknowledged_write_is_lost_while_the_numbers_change() {
    for goals in [
        &[(2, 2, 2), (3, 2, 2)][..],
        &[(3, 2, 2), (2, 2, 2)],
        &[(3, 1, 3), (3, 3, 1)],
        &[(3, 3, 1), (3, 2, 2)],
        &[(1, 1, 1), (2, 2, 2)],
        &[(2, 2, 2), (1, 1, 1)],
        &[(2, 2, 2), (3, 2, 2), (2, 2, 2)],
    ] {
        holds(goals, Search::default());
    }
    let failover = Search { failovers: 1, ..Search::default() };
    holds(&[(3, 3, 1), (3, 2, 2)], failover);
}

/// With a failover, a disk that is lost and a Consul that is, each at any moment.
#[test]
#[ignore = "takes minutes and 2 GB; `make model` runs it"]
fn no_acknowledged_write_is_lost_while_the_numbers_change_and_nodes_fail() {
    for goals in [
        &[(1, 1, 1), (3, 2, 2)][..],
        &[(3, 2, 2), (1, 1, 1)],
        &[(2, 2, 1), (3, 2, 2), (2, 2, 2)],
        &[(2, 2, 2), (3, 2, 2), (3, 1, 3)],
        &[(4, 3, 3), (3, 2, 2), (4, 3, 2)],
    ] {
        holds(goals, Search::default());
    }
    for more in [
        Search { failovers: 1, ..Search::default() },
        Search { set_back: true, ..Search::default() },
        Search { lost_disk: true, ..Search::default() },
    ] {
        for goals in [
            &[(3, 3, 1), (3, 2, 2)][..],
            &[(1, 1, 1), (2, 2, 2)],
            &[(2, 2, 2), (1, 1, 1)],
            &[(2, 2, 2), (3, 2, 2)],
            &[(3, 2, 2), (2, 2, 2)],
            &[(3, 2, 2), (3, 1, 3)],
        ] {
            holds(goals, more.clone());
        }
    }
}

#[test]
fn each_rule_of_a_change_of_numbers_is_needed() {
    for (rule, goals) in [
        (Rule::Equal, [(3, 2, 2), (3, 3, 1)]),
        (Rule::Steps, [(3, 3, 1), (3, 1, 3)]),
        (Rule::Grow, [(1, 1, 1), (2, 1, 2)]),
    ] {
        is_needed(rule, goals, Search::default());
    }
}

#[test]
#[ignore = "takes minutes; `make model` runs it"]
fn each_rule_of_a_change_of_numbers_is_needed_when_nodes_fail() {
    let failover = Search { failovers: 1, ..Search::default() };
    let set_back = Search { set_back: true, ..failover.clone() };
    is_needed(Rule::AllAnswer, [(3, 2, 3), (3, 1, 3)], set_back);
    is_needed(Rule::RemovedCounts, [(3, 2, 2), (2, 2, 2)], failover);
}

fn is_needed(rule: Rule, goals: [(usize, usize, usize); 2], more: Search) {
    let goals = goals.map(goal).into();
    let (states, _, loss) = search(&Search { goals, without: Some(rule), ..more });
    let loss = loss.unwrap_or_else(|| panic!("nothing is lost without {rule:?}: {states}"));
    println!("without {rule:?}: a loss after {} steps, among {states} states", loss.len());
}
