//! Keys of Consul as lines of JSON: a backup, which needs no etcd.
//!
//! A line is `{"key": "app/a", "value": "<base64>", "flags": 1}`; flags of 0 are left out. A key that is
//! encoded in Consul is one line with `etcd_key`, the bytes of its key in base64, its whole value and the flags of
//! its parts. Parts that are not whole have a line each. The last line is `{"lines": 2}`, the number of those before it: an export that was cut does not have it.
//!
//! A text with a byte order mark, or in UTF-16, is read too.
//!
//! The other form is that of `consul kv export`: one list of `{"key": "app/a", "flags": 1, "value": "<base64>"}`, in which
//! a key that is encoded in Consul is its parts.

mod encoding;
#[cfg(test)]
mod tests;

use super::etcd::Base64;
use super::job::{self, Keys, Phase, is_claim};
use super::mapping::{JOBS, Mapping, Op, Problem, fits_url, part_of, parts};
use super::object::Object;
use super::tally::Tally;
use super::target::{Outcome, Room, Stored, Target};
use super::verify::{LOOKS, PAUSE};
use super::{Report, Stop};
use crate::mapping::shown::shown;
use crate::switch::rollback::{Joined, Parts, join, parts_now};
use crate::target::names::Names;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::value::shape::check_key;
use encoding::Decoded;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, Write};
use twox_hash::XxHash3_64;

/// The operations that are written together, and their bytes.
const MAX_BYTES: usize = 300_000;

/// A line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etcd_key: Option<Base64>,
    value: Base64,
    #[serde(default, skip_serializing_if = "is_zero")]
    flags: u64,
}

/// The last line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct End {
    lines: u64,
}

/// A key in the list of `consul kv export`. Newer versions name its namespace and partition too.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    key: String,
    #[serde(default)]
    flags: u64,
    value: Base64,
}

fn is_zero(flags: &u64) -> bool {
    *flags == 0
}

fn unread(error: &std::io::Error) -> Stop {
    Error::new(Kind::Config, format!("the import: {error}")).into()
}

fn unwritten(error: &std::io::Error) -> Stop {
    Stop::Refused(format!("the export cannot be written: {error}"))
}

/// The form of an export, and of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line of JSON for each key.
    Lines,
    /// The list of `consul kv export`.
    ConsulKv,
}

/// The key of etcd with this part in Consul.
fn key_of_part(mapping: &Mapping, name: &str) -> Option<Vec<u8>> {
    let (key, ..) = name.strip_prefix(&mapping.encoded_prefix()).and_then(part_of)?;
    Some(key)
}

/// Writes all keys that begin with the prefix of `mapping`, but jobs' keys; returns how many they are.
///
/// # Errors
/// See [`Stop`]; that it cannot be written.
pub async fn export(
    target: &Target,
    mapping: &Mapping,
    form: Form,
    out: &mut dyn Write,
    report: &dyn Report,
) -> Result<Tally, Stop> {
    // All at once: no URL lists the keys below a directory such as `a//`.
    let mut names = Names::new(target, &mapping.consul_prefix, async |_| Ok(0)).await?;
    let (waiting, tally) = (Vec::new(), Tally { consul: Some(0), ..Tally::default() });
    let mut export =
        Export { target, mapping, out, form, report, waiting, lines: 0, tally, last: None };
    let mut last = None;
    while let Some(name) = names.next().await? {
        if name.starts_with(JOBS) {
            continue;
        }
        match key_of_part(mapping, &name) {
            None => export.add(name).await?,
            Some(key) if last.as_ref() == Some(&key) => {}
            Some(key) => {
                export.encoded(&key).await?;
                last = Some(key);
            }
        }
    }
    export.flush().await?;
    export.end()?;
    Ok(export.tally)
}

struct Export<'a> {
    target: &'a Target,
    mapping: &'a Mapping,
    out: &'a mut dyn Write,
    form: Form,
    report: &'a dyn Report,
    waiting: Vec<String>,
    /// How many have been written.
    lines: u64,
    tally: Tally,
    /// The encoded key in a list whose part was written last.
    last: Option<Vec<u8>>,
}

impl Export<'_> {
    /// A key that no import sets ends an export.
    async fn add(&mut self, name: String) -> Result<(), Stop> {
        if let Err(why) = check_key(&name) {
            let name = shown(name.as_bytes());
            return Err(Stop::Refused(format!("the key \"{name}\" cannot be exported: {why}")));
        }
        self.waiting.push(name);
        if self.waiting.len() == self.target.max_ops { self.flush().await } else { Ok(()) }
    }

    /// Writes the keys that wait; those that were deleted meanwhile have no line.
    async fn flush(&mut self) -> Result<(), Stop> {
        let names = std::mem::take(&mut self.waiting);
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        for (key, stored) in asked.iter().zip(self.target.entries(&asked).await?) {
            if let Some(stored) = self.settled(key, stored).await? {
                self.plain((*key).to_owned(), stored)?;
            }
        }
        Ok(())
    }

    /// Writes the value of a key.
    fn plain(&mut self, key: String, stored: Stored) -> Result<(), Stop> {
        let (value, flags) = (Base64(stored.value), stored.flags);
        match self.form {
            Form::Lines => {
                self.count(false);
                self.write(&Line { key: Some(key), etcd_key: None, value, flags })
            }
            Form::ConsulKv => {
                let of = key_of_part(self.mapping, &key);
                if of.is_none() || of != self.last {
                    self.count(of.is_some());
                }
                self.last = of.or(self.last.take());
                self.write(&Entry { key, flags, value })
            }
        }
    }

    /// The same key when no instance is about to set its value.
    async fn settled(&self, key: &str, mut stored: Option<Stored>) -> Result<Option<Stored>, Stop> {
        for look in 0..LOOKS {
            if !stored.as_ref().is_some_and(|it| is_claim(&it.value)) {
                return Ok(stored);
            }
            if look > 0 {
                self.target.clock().sleep(PAUSE).await;
            }
            // These read an older state than that of the key.
            let writers = Writers::now(self.target).await?;
            stored = self.target.entries(&[key]).await?.pop().flatten();
            if !stored.as_ref().is_some_and(|it| writers.claim(it)) {
                return Ok(stored);
            }
        }
        Err(unfinished(key))
    }

    /// Writes an encoded key. An instance may set its parts at this moment, so that it is looked at again before it has none that
    /// are whole.
    async fn encoded(&mut self, key: &[u8]) -> Result<(), Stop> {
        // The lines are in the order of the names.
        self.flush().await?;
        let prefix = self.mapping.encoded(key);
        let mut is_unfinished = false;
        for look in 0..LOOKS {
            if look > 0 {
                self.target.clock().sleep(PAUSE).await;
            }
            let mut parts = parts_now(self.target, &prefix).await?;
            let has_claim = parts.found.iter().any(|(_, part)| is_claim(&part.value));
            is_unfinished = has_claim || !parts.is_whole || is_mixed(&parts, |_| true);
            if is_unfinished {
                // These read an older state than that of the parts.
                let writers = Writers::now(self.target).await?;
                parts = parts_now(self.target, &prefix).await?;
                let is_new = |part: &Stored| writers.write(part);
                is_unfinished = parts.found.iter().any(|(_, part)| writers.claim(part))
                    || match parts.is_whole {
                        true => is_mixed(&parts, is_new),
                        false => parts.found.iter().any(|(_, part)| is_new(part)),
                    };
            }
            match parts.is_whole && !is_unfinished {
                _ if parts.found.is_empty() => return Ok(()),
                true => return self.parts(key, parts),
                false => {}
            }
        }
        if is_unfinished {
            return Err(unfinished(&prefix));
        }
        self.report.note(&format!(
            "the parts of the key at {} are not whole: each that is there has a line of its own, as a plain key",
            shown(prefix.as_bytes())
        ));
        let mut names = self.target.keys(&prefix, None).await?;
        names.retain(|name| key_of_part(self.mapping, name).is_some());
        for name in names {
            self.add(name).await?;
        }
        self.flush().await
    }

    /// Writes a key by its parts.
    fn parts(&mut self, key: &[u8], parts: Parts) -> Result<(), Stop> {
        if self.form == Form::ConsulKv {
            let mut each = parts.found.into_iter();
            return each.try_for_each(|(name, part)| self.plain(name, part));
        }
        let Joined { value, flags } = join(&parts.found);
        self.count(true);
        let etcd_key = Some(Base64(Bytes::copy_from_slice(key)));
        self.write(&Line { key: None, etcd_key, value: Base64(value), flags })
    }

    /// Counts a key that is written.
    fn count(&mut self, is_encoded: bool) {
        self.tally.moved += 1;
        self.tally.encoded += u64::from(is_encoded);
        self.tally.consul = Some(self.tally.moved);
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), Stop> {
        let text =
            serde_json::to_string(line).map_err(|error| Error::argument(error.to_string()))?;
        let before = match (self.form, self.lines) {
            (Form::Lines, _) => "",
            (Form::ConsulKv, 0) => "[\n\t",
            (Form::ConsulKv, _) => ",\n\t",
        };
        let after = if self.form == Form::Lines { "\n" } else { "" };
        self.text(&format!("{before}{text}{after}"))?;
        self.lines += 1;
        self.report.progress("exported", self.tally.moved, None);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let lines = self.lines;
        match (self.form, lines) {
            (Form::Lines, _) => self.text(&format!("{}\n", json!(End { lines })))?,
            (Form::ConsulKv, 0) => self.text("[]\n")?,
            (Form::ConsulKv, _) => self.text("\n]\n")?,
        }
        self.out.flush().map_err(|error| unwritten(&error))
    }

    fn text(&mut self, text: &str) -> Result<(), Stop> {
        self.out.write_all(text.as_bytes()).map_err(|error| unwritten(&error))
    }
}

/// For the mark of each job the index of Consul up to which it has set values as a whole.
struct Writers(HashMap<u64, u64>);

impl Writers {
    async fn now(target: &Target) -> Result<Self, Error> {
        let mut writers = HashMap::new();
        for (name, _) in job::others(target, &Keys::new("")).await? {
            let Some((record, index)) = job::record(target, &Keys::new(&name)).await? else {
                continue;
            };
            let saved = match record.phase {
                Phase::Load | Phase::Sweep => 0,
                // Each change is whole before its position is saved.
                Phase::Tail => index,
                Phase::Switched => u64::MAX,
            };
            writers.insert(record.mapping.mark, saved);
        }
        // Without a mark these are the flags of programs.
        writers.remove(&0);
        Ok(Writers(writers))
    }

    /// Whether a job may be in the middle of setting this.
    fn write(&self, stored: &Stored) -> bool {
        self.0.get(&stored.flags).is_some_and(|saved| *saved < stored.index)
    }

    /// Whether a job has claimed this key, and its large value is not there yet; programs may set such a text, too.
    fn claim(&self, stored: &Stored) -> bool {
        let is_marked = stored.flags != 0 && !self.0.contains_key(&stored.flags);
        is_claim(&stored.value) && (is_marked || self.write(stored))
    }
}

/// Whether a part is of a later write than the next one: a write sets them in their order.
fn is_mixed(parts: &Parts, is_new: impl Fn(&Stored) -> bool) -> bool {
    parts.found.windows(2).any(|pair| is_new(&pair[0].1) && pair[0].1.index > pair[1].1.index)
}

fn unfinished(name: &str) -> Stop {
    Stop::Refused(format!(
        "the value of {} cannot be exported, because an instance of consul-migrate is setting it, or was killed while it did: \
         export again when its copy or its tail has gone on",
        shown(name.as_bytes())
    ))
}

/// Looks at all lines of an export, as [`import`] reads them, and sets nothing.
///
/// # Errors
/// A wrong line, by its number; that the export is not whole; that it cannot be read.
pub fn check(mapping: &Mapping, from: &mut dyn BufRead, is_partial: bool) -> Result<(), Stop> {
    let mut lines = Lines::new(from, mapping, is_partial)?;
    while lines.next()?.is_some() {}
    Ok(())
}

/// Sets the keys of an export in this form; returns how many they are. Without `is_partial` the last line must be that of
/// an export.
///
/// # Errors
/// See [`Stop`]; a line that is not one, by its number; that the export is not whole. They say how many lines were set.
pub async fn import(
    target: &Target,
    mapping: &Mapping,
    form: Form,
    from: &mut dyn BufRead,
    is_partial: bool,
    report: &dyn Report,
) -> Result<Tally, Stop> {
    let mut import = Import {
        target,
        mapping,
        report,
        waiting: Vec::new(),
        tally: Tally { consul: Some(0), ..Tally::default() },
        seen: HashSet::new(),
        again: 0,
        parts: None,
        lines: 0,
        set: 0,
        is_open: false,
    };
    if form == Form::ConsulKv {
        return import.list(&mut Decoded::new(from).map_err(|error| unread(&error))?).await;
    }
    let done = import.all(&mut Lines::new(from, mapping, is_partial)?).await;
    done.map(|()| import.end())
}

/// A line of an export, as it is set.
enum Given {
    Plain(Op),
    Encoded(Line, Vec<u8>),
}

/// Reads an export line by line.
struct Lines<'a> {
    from: std::io::Split<Decoded<'a>>,
    mapping: &'a Mapping,
    is_partial: bool,
    /// The number of the line that was read last.
    at: u64,
    /// The keys before it.
    count: u64,
    end: Option<u64>,
}

impl<'a> Lines<'a> {
    fn new(
        from: &'a mut dyn BufRead,
        mapping: &'a Mapping,
        is_partial: bool,
    ) -> Result<Self, Stop> {
        let from = Decoded::new(from).map_err(|error| unread(&error))?.split(b'\n');
        Ok(Lines { from, mapping, is_partial, at: 0, count: 0, end: None })
    }

    /// The next key; `None` after the last one of a whole export.
    fn next(&mut self) -> Result<Option<Given>, Stop> {
        for line in self.from.by_ref() {
            let line = line.map_err(|error| unread(&error))?;
            self.at += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            if self.end.is_some() {
                let why = format!("line {} is after the end of the export", self.at);
                return Err(Stop::Refused(why));
            }
            if let Ok(Object(End { lines })) = serde_json::from_slice(&line) {
                self.end = Some(lines);
                continue;
            }
            if self.count == 0 && line.starts_with(b"[") {
                return Err(Stop::Refused(
                    "it is not an export of lines; if it is one of `consul kv export`, use --format consul-kv"
                        .to_owned(),
                ));
            }
            let given = given(self.mapping, &line).map_err(|why| {
                Stop::Refused(format!("line {} is not of an export: {why}", self.at))
            })?;
            self.count += 1;
            return Ok(Some(given));
        }
        let count = self.count;
        match self.end {
            Some(lines) if lines == count => Ok(None),
            Some(lines) => {
                let why = format!("the export is not whole: it has {count} lines of {lines}");
                Err(Stop::Refused(why))
            }
            None if self.is_partial => Ok(None),
            None => Err(Stop::Refused(CUT.to_owned())),
        }
    }
}

/// The fault of a file without the last line of an export.
const CUT: &str = "the export was cut, or the file is not one of `export`: its last line is not {\"lines\": …} (--partial \
                   takes it)";

struct Import<'a> {
    target: &'a Target,
    mapping: &'a Mapping,
    report: &'a dyn Report,
    waiting: Vec<Op>,
    tally: Tally,
    /// The hashes of all keys, and how many values replaced an earlier one of the same key.
    seen: HashSet<u64>,
    again: u64,
    /// The parts that each encoded key has in Consul, once the first such key is set.
    parts: Option<HashMap<Vec<u8>, HashSet<String>>>,
    /// How many lines, or keys of a list, were taken, and how many of these were set.
    lines: u64,
    set: u64,
    /// Whether some of the lines that were not set may be.
    is_open: bool,
}

impl Import<'_> {
    /// The numbers of keys, each counted once.
    fn end(self) -> Tally {
        if self.again > 0 {
            let values = if self.again == 1 { "value" } else { "values" };
            let count = self.again;
            self.report.note(&format!(
                "{count} {values} of the import replaced earlier ones of the same keys"
            ));
        }
        self.tally
    }

    /// Whether a key is the first of this name.
    fn is_new(&mut self, key: &str) -> bool {
        let is_new = self.seen.insert(XxHash3_64::oneshot(key.as_bytes()));
        self.again += u64::from(!is_new);
        is_new
    }

    /// The same error with how far the import is.
    fn so_far(&self, stop: Stop, what: &str) -> Stop {
        let set = counted(self.set, what, "of the import");
        let next = if self.is_open { ", and the next ones may be" } else { "" };
        with(stop, |why| format!("{why}; {set}{next}"))
    }

    /// Sets the keys of all lines. The lines before a wrong one are set, and counted.
    async fn all(&mut self, lines: &mut Lines<'_>) -> Result<(), Stop> {
        loop {
            let next = lines.next();
            let done = match &next {
                Ok(Some(given)) => self.line(given).await,
                _ => self.flush().await,
            };
            done.map_err(|stop| self.so_far(stop, "line"))?;
            match next {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(stop) if self.set == 0 => {
                    return Err(with(stop, |why| format!("nothing was written: {why}")));
                }
                Err(stop) => {
                    let set = counted(self.set, "line", "before it");
                    return Err(with(stop, |why| format!("{why}; {set}")));
                }
            }
        }
    }

    async fn line(&mut self, given: &Given) -> Result<(), Stop> {
        match given {
            Given::Plain(op) => {
                let is_new = self.is_new(op.key());
                self.add(vec![op.clone()], is_new, false).await?;
            }
            Given::Encoded(Line { value, flags, .. }, key) => {
                let prefix = self.mapping.encoded(key);
                let set = parts(&prefix, &value.0, *flags).collect();
                let is_new = self.is_new(&prefix);
                self.encoded(key, set, is_new).await?;
            }
        }
        self.is_taken();
        Ok(())
    }

    /// Sets the parts of an encoded key, and deletes its other ones. The first of several is deleted before and set as the last
    /// one: an import that is killed between them leaves no parts of two values that look whole.
    async fn encoded(&mut self, key: &[u8], set: Vec<Op>, is_counted: bool) -> Result<(), Stop> {
        let names = set.iter().map(|op| op.key().to_owned()).collect();
        let prefix = self.mapping.encoded_prefix();
        let begins_parts = |op: &Op| {
            let part = op.key().strip_prefix(&prefix).and_then(part_of);
            matches!(part, Some((_, 0, 2..)))
        };
        let (firsts, rest): (Vec<Op>, Vec<Op>) = set.into_iter().partition(begins_parts);
        for first in &firsts {
            self.unmake(first.key()).await?;
        }
        let ops = self.others(key, names).await?.chain(rest).chain(firsts).collect();
        self.add(ops, is_counted, true).await
    }

    /// The deletions of the parts that an encoded key has in Consul beside these: its value may have had another number of parts.
    async fn others(
        &mut self,
        key: &[u8],
        names: HashSet<String>,
    ) -> Result<impl Iterator<Item = Op> + use<>, Stop> {
        if self.parts.is_none() {
            let mut parts = HashMap::<_, HashSet<_>>::new();
            for name in self.target.keys(&self.mapping.encoded_prefix(), None).await? {
                if let Some(key) = key_of_part(self.mapping, &name) {
                    parts.entry(key).or_default().insert(name);
                }
            }
            self.parts = Some(parts);
        }
        let parts = self.parts.get_or_insert_default();
        let before = parts.insert(key.to_owned(), names.clone()).unwrap_or_default();
        Ok(before
            .into_iter()
            .filter(move |name| !names.contains(name))
            .map(|key| Op::Delete { key }))
    }

    /// Deletes the first of several parts.
    async fn unmake(&mut self, first: &str) -> Result<(), Stop> {
        self.flush().await?;
        let mut refused: Option<(u64, Stop)> = None;
        while let Some(Stored { index, .. }) = self.target.entries(&[first]).await?.pop().flatten()
        {
            match refused {
                Some((at, stop)) if at == index => return Err(stop),
                _ => {}
            }
            let delete = Op::DeleteAt { key: first.to_owned(), index };
            refused = match self.target.txn_surely(&[], std::slice::from_ref(&delete)).await? {
                Outcome::Refused(_, why) => Some((index, super::job::refused(&delete, &why))),
                _ => None,
            };
            self.is_open |= refused.is_none();
        }
        Ok(())
    }

    /// Sets the keys of a list, which is read as a whole first: a list that was cut sets nothing.
    async fn list(mut self, from: &mut dyn BufRead) -> Result<Tally, Stop> {
        let mut text = Vec::new();
        from.read_to_end(&mut text).map_err(|error| unread(&error))?;
        let entries: Vec<Object<Entry>> = serde_json::from_slice(&text).map_err(|error| {
            Stop::Refused(format!(
                "nothing was written: it is not an export of `consul kv export`: {error}"
            ))
        })?;
        drop(text);
        // Of a key that is there more than once, the last value. The parts of a key are set together, wherever they are.
        let (mut plain, mut encoded) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        for (at, Object(Entry { key, flags, value })) in entries.into_iter().enumerate() {
            let op = self::op(self.mapping, &key, &value.0, flags).map_err(|why| {
                Stop::Refused(format!("nothing was written: key {} of the list: {why}", at + 1))
            })?;
            let ops = match key_of_part(self.mapping, &key) {
                Some(of) => encoded.entry(of).or_default(),
                None => &mut plain,
            };
            self.again += u64::from(ops.insert(key, op).is_some());
        }
        let done = self.sets(plain.into_values(), encoded).await;
        done.map_err(|stop| self.so_far(stop, "key"))?;
        Ok(self.end())
    }

    /// Sets the keys of a list, the plain ones and the parts of each encoded one.
    async fn sets(
        &mut self,
        plain: impl Iterator<Item = Op>,
        encoded: BTreeMap<Vec<u8>, BTreeMap<String, Op>>,
    ) -> Result<(), Stop> {
        for op in plain {
            self.add(vec![op], true, false).await?;
            self.is_taken();
        }
        for (key, ops) in encoded {
            self.encoded(&key, ops.into_values().collect(), true).await?;
            self.is_taken();
        }
        self.flush().await
    }

    /// Counts a line or a key of a list that was taken.
    fn is_taken(&mut self) {
        self.lines += 1;
        if self.waiting.is_empty() {
            self.set = self.lines;
        }
    }

    /// Sets a key by these operations, soon.
    async fn add(&mut self, ops: Vec<Op>, is_counted: bool, is_encoded: bool) -> Result<(), Stop> {
        let target = self.target;
        let is_divided = || {
            let all = self.waiting.iter().chain(&ops);
            target.fitting(all, 0) < self.waiting.len() + ops.len()
        };
        if ops.len() > 1 && is_divided() {
            self.flush().await?;
        }
        self.waiting.extend(ops);
        let bytes: usize = self.waiting.iter().map(|op| op.size() + op.key().len()).sum();
        self.tally.moved += u64::from(is_counted);
        self.tally.encoded += u64::from(is_counted && is_encoded);
        self.tally.consul = Some(self.tally.moved);
        if bytes > MAX_BYTES || self.waiting.len() >= target.max_ops {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let ops = std::mem::take(&mut self.waiting);
        let mut left = &ops[..];
        let done = write(self.target, &mut left).await;
        self.is_open |= left.len() < ops.len()
            || matches!(&done, Err(Stop::Failed(error)) if error.maybe_applied());
        done?;
        self.is_open = false;
        self.set = self.lines;
        self.report.progress("imported", self.tally.moved, None);
        Ok(())
    }
}

fn counted(count: u64, what: &str, more: &str) -> String {
    match count {
        1 => format!("1 {what} {more} was set"),
        count => format!("{count} {what}s {more} were set"),
    }
}

/// The same with another text.
fn with(stop: Stop, text: impl FnOnce(&str) -> String) -> Stop {
    match stop {
        Stop::Refused(why) => Stop::Refused(text(&why)),
        Stop::Failed(error) => Stop::Failed(error.map_message(text)),
        other => other,
    }
}

/// The operation of a plain key, or why it has none.
fn op(mapping: &Mapping, key: &str, value: &Bytes, flags: u64) -> Result<Op, String> {
    if key.starts_with(JOBS) {
        return Err("its key begins with _migrate/, and is that of a job".to_owned());
    }
    if !key.starts_with(&mapping.consul_prefix) {
        return Err("its key does not begin with --consul-prefix".to_owned());
    }
    // The client would say it later, and without its number.
    if key.is_empty() || check_key(key).is_err() {
        let shown = shown(key.as_bytes());
        let why = "a key of Consul is not empty, has no leading slash, no `//`, and no `.` or `..` between slashes";
        return Err(format!("its key \"{shown}\" is not taken: {why}"));
    }
    let op = Op::Set { key: key.to_owned(), value: value.clone(), flags };
    match fits_url(key) || Room::whole().take(&op) {
        true => Ok(op),
        false => Err(format!(
            "its key \"{}\" is too long for a URL, and with its value for a transaction",
            shown(key.as_bytes())
        )),
    }
}

/// The key that a line sets, or why it is not a line of an export.
fn given(mapping: &Mapping, line: &[u8]) -> Result<Given, String> {
    let parsed: Result<Object<Line>, _> = serde_json::from_slice(line);
    let Object(mut line) = parsed.map_err(|error| error.to_string())?;
    match (line.key.take(), line.etcd_key.take()) {
        (Some(key), None) => Ok(Given::Plain(op(mapping, &key, &line.value.0, line.flags)?)),
        (None, Some(Base64(key))) if key.is_empty() => Err("its etcd_key is empty".to_owned()),
        (None, Some(Base64(key))) => match mapping.problem_of_key(&key) {
            Some(Problem::HugeKey) => Err(Problem::HugeKey.meaning().to_owned()),
            _ => Ok(Given::Encoded(line, key.into())),
        },
        _ => Err("it must have key or etcd_key".to_owned()),
    }
}

/// Applies operations of any size and number, which may be repeated. Those that are not applied are left.
async fn write(target: &Target, left: &mut &[Op]) -> Result<(), Stop> {
    while let [first, others @ ..] = *left {
        let fitting = target.fitting(*left, 0);
        if let (0, Op::Set { key, value, flags }) = (fitting, first) {
            target.put_surely(key, value, *flags).await?;
            *left = others;
            continue;
        }
        let (now, later) = left.split_at(fitting.max(1));
        match target.txn_surely(&[], now).await? {
            Outcome::Applied(_) => *left = later,
            Outcome::Oversized => {}
            Outcome::Refused(at, why) => return Err(super::job::refused(&now[at], &why)),
        }
    }
    Ok(())
}
