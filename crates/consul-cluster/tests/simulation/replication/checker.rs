//! The condition on a history: no read misses an acknowledged write.

use consul_replication::record::{HybridTime, Record, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A write or a deletion of one record.
#[derive(Clone, Debug)]
struct Write {
    /// The record's bytes; `None`: it is deleted. Bytes differ from any other write's.
    data: Option<Vec<u8>>,
    begun: Duration,
    /// When it was acknowledged.
    acknowledged: Option<Duration>,
    /// When W replicas had stored it in one epoch.
    stored: Option<Duration>,
    versions: BTreeSet<Version>,
    is_overtaken: bool,
    /// The replicas that have stored it, by epoch.
    on: BTreeMap<u64, BTreeSet<usize>>,
}

impl Write {
    /// When it was over: later writes must overtake it.
    fn over(&self) -> Option<Duration> {
        [self.acknowledged, self.stored].into_iter().flatten().min()
    }
}

/// The number of a write.
pub type WriteId = u64;

/// The place of a record: its shard and its id.
pub type Place = (u32, Vec<u8>);

#[derive(Default)]
pub struct Checker {
    writes: BTreeMap<Place, BTreeMap<WriteId, Write>>,
    /// The write that a version belongs to.
    by_version: BTreeMap<(Place, Version), WriteId>,
    next: WriteId,
    /// Whether two writes always meet on a replica. If not, the clocks decide which one is newer.
    writes_meet: bool,
}

impl Checker {
    pub fn new(writes_meet: bool) -> Self {
        Checker { writes_meet, ..Checker::default() }
    }

    pub fn begin(&mut self, place: Place, data: Option<Vec<u8>>, now: Duration) -> WriteId {
        self.next += 1;
        let write = Write {
            data,
            begun: now,
            acknowledged: None,
            stored: None,
            versions: BTreeSet::new(),
            is_overtaken: false,
            on: BTreeMap::new(),
        };
        self.writes.entry(place).or_default().insert(self.next, write);
        self.next
    }

    /// A record was sent for a write. After a newer version has overtaken it, it is sent again above that
    /// one, so it is not over.
    pub fn sent(&mut self, place: &Place, write: WriteId, version: Version) {
        let found = self.writes.get_mut(place).and_then(|all| all.get_mut(&write));
        if let Some(write) = found {
            let is_new = write.versions.insert(version);
            if is_new && write.is_overtaken {
                write.stored = None;
            }
        }
        self.by_version.insert((place.clone(), version), write);
    }

    /// A replica had a newer version.
    pub fn overtaken(&mut self, place: &Place, version: Version) {
        let id = self.by_version.get(&(place.clone(), version));
        let writes = self.writes.get_mut(place);
        if let Some(write) = id.zip(writes).and_then(|(id, all)| all.get_mut(id)) {
            write.is_overtaken = true;
        }
    }

    /// A replica that counts has stored a record in an epoch.
    pub fn stored(
        &mut self,
        place: &Place,
        version: Version,
        (epoch, node): (u64, usize),
        quorum: usize,
        now: Duration,
    ) {
        let Some(id) = self.by_version.get(&(place.clone(), version)) else { return };
        let Some(write) = self.writes.get_mut(place).and_then(|all| all.get_mut(id)) else {
            return;
        };
        let on = write.on.entry(epoch).or_default();
        on.insert(node);
        if on.len() >= quorum {
            write.stored.get_or_insert(now);
        }
    }

    pub fn acknowledge(&mut self, place: &Place, write: WriteId, now: Duration) {
        if let Some(write) = self.writes.get_mut(place).and_then(|all| all.get_mut(&write)) {
            write.acknowledged = Some(now);
        }
    }

    /// The write that a version is of.
    pub fn write_of(&self, place: &Place, version: Version) -> Option<WriteId> {
        self.by_version.get(&(place.clone(), version)).copied()
    }

    /// The ids of a shard that were written.
    pub fn ids(&self, shard: u32) -> Vec<Vec<u8>> {
        let places = self.writes.keys().filter(|(of, _)| *of == shard);
        places.map(|(_, id)| id.clone()).collect()
    }

    /// Checks what a complete read that began at `begun` has found at a place.
    pub fn read(
        &self,
        place: &Place,
        found: Option<&Record>,
        begun: Duration,
    ) -> Result<(), String> {
        let none = BTreeMap::new();
        let writes = self.writes.get(place).unwrap_or(&none);
        let before: Vec<&Write> =
            writes.values().filter(|it| it.acknowledged.is_some_and(|at| at < begun)).collect();
        // The lowest version that each acknowledged write can have had.
        let least = before.iter().filter_map(|write| write.versions.last()).max().copied();
        let is_overwritten = |write: &Write| {
            let over = write.over();
            self.writes_meet
                && before.iter().any(|newer| over.is_some_and(|over| newer.begun > over))
        };
        let shown =
            |write: &Write| format!("{:?}", write.data.as_deref().map(String::from_utf8_lossy));
        match found {
            Some(record) => {
                let write = self.write_of(place, record.version).and_then(|id| writes.get(&id));
                let Some(write) = write.filter(|it| it.data.as_deref() == record.data.as_deref())
                else {
                    return Err(format!("{place:?}: {record:?} was never written"));
                };
                if least.is_some_and(|least| record.version < least) {
                    return Err(format!(
                        "{place:?}: {} is older than an acknowledged one",
                        shown(write)
                    ));
                }
                if is_overwritten(write) {
                    return Err(format!("{place:?}: {} was overwritten before", shown(write)));
                }
                Ok(())
            }
            None => {
                let Some(least) = least else { return Ok(()) };
                let deletes = writes.values().filter(|write| write.data.is_none());
                let explains = |write: &Write| {
                    write.begun < begun + Duration::from_secs(3600)
                        && write.versions.last().is_some_and(|last| *last >= least)
                        && !is_overwritten(write)
                };
                if deletes.into_iter().any(explains) {
                    return Ok(());
                }
                let lost = before.iter().max_by_key(|write| write.versions.last());
                let lost = lost.map(|write| shown(write)).unwrap_or_default();
                Err(format!("{place:?}: {lost} was acknowledged and is missing"))
            }
        }
    }
}

/// Histories that the checker must refuse, and some that it must not.
pub fn refuses_bad_histories() -> Result<(), String> {
    let at = Duration::from_secs;
    let place: Place = (0, b"id".to_vec());
    let version = |time: u64| Version::new(HybridTime::from_ms(time), 1);
    let record = |data: &[u8], time: u64| Record {
        id: b"id".as_slice().into(),
        version: version(time),
        data: Some(data.to_vec().into()),
    };
    // Two writes, acknowledged one after the other; the version of the second one is given.
    let history = |second: Option<&[u8]>, time: u64| {
        let mut checker = Checker::new(true);
        let writes = [(Some(b"one".as_slice()), 10, 1), (second, time, 3)];
        for (data, time, begins) in writes {
            let write = checker.begin(place.clone(), data.map(<[u8]>::to_vec), at(begins));
            checker.sent(&place, write, version(time));
            checker.acknowledge(&place, write, at(begins + 1));
        }
        checker
    };
    let two = history(Some(b"two"), 20);
    let deleted = history(None, 20);
    let behind = history(Some(b"two"), 5);
    let refused = [
        ("a lost write", two.read(&place, None, at(5))),
        ("an older write", two.read(&place, Some(&record(b"one", 10)), at(5))),
        ("bytes of nobody", two.read(&place, Some(&record(b"three", 20)), at(5))),
        ("a deleted record", deleted.read(&place, Some(&record(b"one", 10)), at(5))),
        ("a write by a clock ahead", behind.read(&place, Some(&record(b"one", 10)), at(5))),
    ];
    let accepted = [
        ("the last write", two.read(&place, Some(&record(b"two", 20)), at(5))),
        ("a read that began before", two.read(&place, Some(&record(b"one", 10)), at(3))),
        ("a deletion", deleted.read(&place, None, at(5))),
        ("a record of nobody", two.read(&(0, b"other".to_vec()), None, at(5))),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, checked)| checked.is_ok()) {
        return Err(format!("{what} was not noticed"));
    }
    match accepted.into_iter().find(|(_, checked)| checked.is_err()) {
        Some((what, why)) => Err(format!("{what}: {why:?}")),
        None => Ok(()),
    }
}
