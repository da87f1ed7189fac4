//! Histories in which everything happens that a rule guards against: random ones do so too seldom.

use super::nodes::{name, number};
use super::{CLIENTS, Scenario};
use crate::world::{ENVIRONMENT, Node};
use consul_process::clock::Instant;
use consul_replication::map::{ChangeKind, Disk, Entry, Quorums, Slot, StoreId};
use consul_replication::peers::Entries;
use consul_replication::quorum::Router;
use consul_replication::record::Range;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// When they begin: after the moves that follow the first map.
const BEGINS: Duration = Duration::from_secs(15);

/// The client whose knowledge a history needs; the random ones have lower numbers.
const CLIENT: Node = CLIENTS + 4;

/// The id of a record that only this client writes.
const OWN_ID: u64 = 99;

/// The store before, of the same name.
const EARLIER: StoreId = StoreId(2);

/// An event in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// A disk is lost while another replica lacks writes, and the third replica dies when the lost one is
    /// whole again.
    LossBesideAGap,
    /// A replica that nobody else reaches has a write; its disk is lost, and another replica gets the write
    /// from the same try of the client after the failover.
    LossBetweenTries,
    /// A client and two replicas of four do not learn of a failover, which has replaced one of the two.
    LateReader,
    /// A process knows only an earlier store of the same name, whose epochs are higher and whose disks were
    /// others.
    EarlierStore,
}

impl Story {
    pub const ALL: [Story; 4] =
        [Story::LossBesideAGap, Story::LossBetweenTries, Story::LateReader, Story::EarlierStore];

    pub fn quorums(self) -> Quorums {
        match self {
            Story::LateReader => Quorums { replicas: 4, write: 3, read: 2 },
            _ => Quorums { replicas: 3, write: 2, read: 2 },
        }
    }
}

impl Scenario {
    /// Makes a history happen.
    pub async fn tell(self: &Rc<Self>, story: Story) {
        self.world.sleep(BEGINS).await;
        let Some(entry) = self.whole_entry() else { return };
        let nodes: Vec<Node> = entry.counting().map(|(_, place)| number(&place.node)).collect();
        match story {
            Story::LossBesideAGap => self.lose_beside_a_gap(&nodes).await,
            Story::LossBetweenTries => self.lose_between_tries(&nodes).await,
            Story::LateReader => self.read_late(&nodes).await,
            Story::EarlierStore => self.call_by_an_earlier_store(&entry).await,
        }
    }

    fn entry(&self) -> Option<Entry> {
        self.register.borrow().map().map(|map| map.shards[0].clone())
    }

    /// The entry of the shard if all of its replicas count.
    fn whole_entry(&self) -> Option<Entry> {
        let is_whole = |slot: &Slot| slot.change.is_none() && slot.counting().is_some();
        self.entry().filter(|entry| entry.slots.iter().all(is_whole))
    }

    /// Waits until the entry is so; false after a time.
    async fn wait_for_entry(&self, is_so: impl Fn(&Entry) -> bool) -> bool {
        let end = self.world.now() + Duration::from_secs(30);
        while self.world.now() < end {
            if self.entry().is_some_and(|entry| is_so(&entry)) {
                return true;
            }
            self.world.sleep(Duration::from_millis(1)).await;
        }
        false
    }

    fn cut(&self, one: Node, others: impl IntoIterator<Item = Node>) {
        self.cuts.borrow_mut().extend(others.into_iter().map(|other| (one, other)));
    }

    /// Ends all cuts of a process but those from these.
    fn join(&self, one: Node, but: &[Node]) {
        let is_other = |a: Node, b: Node| a == one && !but.contains(&b);
        self.cuts.borrow_mut().retain(|(a, b)| !is_other(*a, *b) && !is_other(*b, *a));
    }

    fn all_but(&self, some: &[Node]) -> Vec<Node> {
        let all = (0..self.processes.borrow().len()).chain(CLIENTS..=CLIENT);
        all.filter(|it| !some.contains(it)).collect()
    }

    fn in_seconds(&self, seconds: u64) -> Instant {
        Instant::from_origin(self.world.now() + Duration::from_secs(seconds))
    }

    /// A client that knows the map of this moment.
    fn knowing_client(&self) -> Router {
        let router = Router {
            entries: Arc::new(Entries::default()),
            peers: Arc::new(self.way(CLIENT)),
            runtime: Arc::new(self.way(CLIENT)),
            clock: self.version_clock(0),
            times: Arc::default(),
            rules: self.rules,
        };
        self.learn_map(&router.entries);
        router
    }

    /// Waits until a node with a new disk is whole.
    async fn is_whole_again(&self, node: Node) -> bool {
        let disk = self.processes.borrow()[node].disk;
        let is_so = move |entry: &Entry| entry.counting().any(|(_, place)| place.disk == disk);
        self.wait_for_entry(is_so).await
    }

    async fn lose_beside_a_gap(self: &Rc<Self>, nodes: &[Node]) {
        // The slots of the others in the order in which a failover asks them.
        let [behind, lost, other] = nodes else { return };
        self.cut(*behind, self.all_but(&[*behind]));
        self.world.sleep(Duration::from_secs(3)).await;
        self.world.count("lost disks", 1);
        self.lose_disk_now(*lost);
        // Only the node whose disk was lost reaches it: neither clients nor the other one fill the gap.
        self.join(*behind, &[vec![*other], (CLIENTS..=CLIENT).collect()].concat());
        self.start(*lost);
        if self.is_whole_again(*lost).await {
            self.kill(*other);
            self.join(*behind, &[]);
            self.world.sleep(Duration::from_secs(4)).await;
            self.start(*other);
        }
        self.join(*behind, &[]);
    }

    async fn lose_between_tries(self: &Rc<Self>, nodes: &[Node]) {
        let [lost, gets_it, other] = nodes else { return };
        let router = self.knowing_client();
        // The client reaches one replica, and nobody else does.
        self.cut(*lost, self.all_but(&[*lost, CLIENT]));
        self.cut(CLIENT, [*gets_it, *other]);
        let has_ended = Rc::new(Cell::new(false));
        let (writing, ended) = (Rc::clone(self), Rc::clone(&has_ended));
        let deadline = self.in_seconds(20);
        self.world.spawn(CLIENT, async move {
            // A newer version of another client would make it begin again.
            writing.write_ids(CLIENT, &router, 0, BTreeSet::from([OWN_ID]), deadline).await;
            ended.set(true);
        });
        self.world.sleep(Duration::from_millis(1500)).await;
        self.world.count("lost disks", 1);
        self.lose_disk_now(*lost);
        self.cut(CLIENT, [*lost]);
        self.join(*lost, &[CLIENT]);
        self.start(*lost);
        if self.is_whole_again(*lost).await {
            // Nobody else reads what it gets before the write is over.
            self.cut(*gets_it, self.all_but(&[*gets_it, CLIENT]));
            self.join(CLIENT, &[*lost, *other]);
            let end = self.world.now() + Duration::from_secs(8);
            while !has_ended.get() && self.world.now() < end {
                self.world.sleep(Duration::from_millis(1)).await;
            }
            // Long enough for reads by the two others.
            self.world.sleep(Duration::from_secs(3)).await;
        }
        for node in [*gets_it, *lost, CLIENT] {
            self.join(node, &[]);
        }
    }

    /// The process goes on as if its store were still there.
    async fn call_by_an_earlier_store(&self, entry: &Entry) {
        let router = self.knowing_client();
        let epoch = entry.epoch + 1_000_000;
        let mut slots = entry.slots.clone();
        for place in slots.iter_mut().filter_map(|slot| slot.holder.as_mut()) {
            place.disk = Disk(self.world.number(1..u64::MAX));
        }
        let earlier = Entry::new(epoch, slots);
        router.entries.adopt(Some(EARLIER), [(0, &earlier)].into_iter());
        for _ in 0..20 {
            let range = Range::all();
            let outcome = router.read(0, &range, 10, self.in_seconds(1)).await;
            if outcome.is_ok() {
                self.world.violation(|| "a request about another store was executed".to_owned());
            }
        }
    }

    async fn read_late(self: &Rc<Self>, nodes: &[Node]) {
        // The last one is the last that the failover of the first one asks.
        let [gone, _, _, late] = nodes else { return };
        let router = self.knowing_client();
        let is_failover = |slot: &Slot| {
            slot.change.as_ref().is_some_and(|change| change.kind == ChangeKind::Failover)
        };
        for node in [*gone, *late] {
            self.cut(node, self.all_but(&[*gone, *late, CLIENT]));
        }
        self.cut(CLIENT, self.all_but(&[*gone, *late, CLIENT]));
        self.cut_from_consul.borrow_mut().insert(*gone);
        // So late that it does not count as gone too, and before the failover that it must not learn of.
        self.world.sleep(self.replace_after - Duration::from_secs(2)).await;
        self.cut_from_consul.borrow_mut().insert(*late);
        let gone_name = name(*gone);
        let is_replaced = |entry: &Entry| {
            !entry.slots.iter().any(|slot| slot.counting().is_some_and(|it| it.node == gone_name))
        };
        let begins = |entry: &Entry| entry.slots.iter().any(is_failover);
        if self.wait_for_entry(begins).await
            && self.wait_for_entry(|entry| is_replaced(entry) && !begins(entry)).await
        {
            let reading = Rc::clone(self);
            self.world.spawn(ENVIRONMENT, async move {
                for _ in 0..8 {
                    reading.world.sleep(Duration::from_millis(500)).await;
                    reading.read(&router, 0, reading.in_seconds(2)).await;
                }
            });
            self.world.sleep(Duration::from_secs(5)).await;
        }
        for node in [*gone, *late, CLIENT] {
            self.join(node, &[]);
            self.cut_from_consul.borrow_mut().remove(&node);
        }
    }
}
