//! Keys of Consul as lines of JSON: a backup, which needs no etcd.
//!
//! A line is `{"key": "app/a", "value": "<base64>", "flags": 1}`; flags of 0 are left out. A key that is
//! encoded in Consul is one line with `etcd_key`, the bytes of its key in base64, its whole value and the flags of
//! its parts. The last line is `{"lines": 2}`, the number of those before it: an export that was cut does not have it.
//!
//! A text with a byte order mark, or in UTF-16, is read too.
//!
//! The other form is that of `consul kv export`: one list of `{"key": "app/a", "flags": 1, "value": "<base64>"}`, in which
//! a key that is encoded in Consul is its parts.

mod encoding;

use super::etcd::Base64;
use super::mapping::{JOBS, Mapping, Op, fits_url, part_of, parts};
use super::names::Names;
use super::rollback::{Joined, joined};
use super::survey::shown;
use super::tally::Tally;
use super::target::{Outcome, Room, Stored, Target};
use super::{Report, Stop};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::value::shape::check_key;
use encoding::{Decoded, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
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

/// The most bytes that are searched for the last line.
const END_SEARCHED: u64 = 256;

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
    let mut export = Export { target, out, form, report, waiting, lines: 0, tally };
    let mut last = None;
    while let Some(name) = names.next().await? {
        let part = name.strip_prefix(&mapping.encoded_prefix()).and_then(part_of);
        let is_first = part.as_ref().is_some_and(|(key, ..)| last.as_ref() != Some(key));
        match part {
            _ if name.starts_with(JOBS) => {}
            None => {
                export.count(false);
                export.add(name).await?;
            }
            Some((key, ..)) => {
                if is_first {
                    export.count(true);
                }
                match form {
                    Form::ConsulKv => export.add(name).await?,
                    Form::Lines if is_first => export.encoded(mapping, &key).await?,
                    Form::Lines => {}
                }
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
    out: &'a mut dyn Write,
    form: Form,
    report: &'a dyn Report,
    waiting: Vec<String>,
    /// How many have been written.
    lines: u64,
    tally: Tally,
}

impl Export<'_> {
    fn count(&mut self, is_encoded: bool) {
        self.tally.moved += 1;
        self.tally.encoded += u64::from(is_encoded);
        self.tally.consul = Some(self.tally.moved);
    }

    /// A key has no line, because it was deleted meanwhile.
    fn uncount(&mut self, is_encoded: bool) {
        self.tally.moved -= 1;
        self.tally.encoded -= u64::from(is_encoded);
        self.tally.consul = Some(self.tally.moved);
    }

    async fn add(&mut self, name: String) -> Result<(), Stop> {
        self.waiting.push(name);
        if self.waiting.len() == self.target.max_ops { self.flush().await } else { Ok(()) }
    }

    /// Writes the keys that wait; those that were deleted meanwhile have no line.
    async fn flush(&mut self) -> Result<(), Stop> {
        let names = std::mem::take(&mut self.waiting);
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        for (key, stored) in asked.iter().zip(self.target.entries(&asked).await?) {
            let Some(Stored { value, flags, .. }) = stored else {
                if self.form == Form::Lines {
                    self.uncount(false);
                }
                continue;
            };
            let key = (*key).to_owned();
            match self.form {
                Form::Lines => {
                    let (key, value) = (Some(key), Base64(value));
                    self.write(&Line { key, etcd_key: None, value, flags })?;
                }
                Form::ConsulKv => self.write(&Entry { key, flags, value: Base64(value) })?,
            }
        }
        Ok(())
    }

    async fn encoded(&mut self, mapping: &Mapping, key: &[u8]) -> Result<(), Stop> {
        // The lines are in the order of the names.
        self.flush().await?;
        let etcd_key = Base64(bytes::Bytes::copy_from_slice(key));
        match joined(self.target, &mapping.encoded(key)).await? {
            Ok(Some(Joined { value, flags })) => {
                let (key, etcd_key) = (None, Some(etcd_key));
                self.write(&Line { key, etcd_key, value: Base64(value), flags })
            }
            Ok(None) => {
                self.uncount(true);
                Ok(())
            }
            Err(part) => Err(Stop::Refused(format!("parts of the key at {part:?} are missing"))),
        }
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

/// Whether a file ends with the last line of an export, or begins a list of `consul kv export`, which is read as a whole. Its
/// position is its start again then.
///
/// # Errors
/// That it cannot be read.
pub fn is_whole(file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let mut begin = Vec::new();
    (&mut *file).take(4).read_to_end(&mut begin)?;
    let (encoding, mark) = Encoding::of(&begin);
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size - size.min(END_SEARCHED)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    file.rewind()?;
    if encoding.decode(&begin[mark..]).starts_with(b"[") {
        return Ok(true);
    }
    let mark = if size <= END_SEARCHED { mark } else { 0 };
    let end = encoding.decode(&end[mark..]);
    let last = end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    Ok(last.is_some_and(|last| serde_json::from_slice::<End>(last).is_ok()))
}

/// The fault of a file without the last line of an export.
pub const CUT: &str = "the export was cut, or the file is not one of `export`: its last line is not \
                       {\"lines\": …} (--partial takes it)";

/// Sets the keys of an export in this form; returns how many they are. Without `is_partial` the last line must be that of
/// an export.
///
/// # Errors
/// See [`Stop`]; a line that is not one, by its number; that the export is not whole.
pub async fn import(
    target: &Target,
    mapping: &Mapping,
    form: Form,
    from: &mut dyn BufRead,
    is_partial: bool,
    report: &dyn Report,
) -> Result<Tally, Stop> {
    let tally = Tally { consul: Some(0), ..Tally::default() };
    let mut import =
        Import { target, report, waiting: Vec::new(), tally, seen: HashSet::new(), again: 0 };
    let mut from = Decoded::new(from).map_err(|error| unread(&error))?;
    if form == Form::ConsulKv {
        return import.list(mapping, &mut from).await;
    }
    let mut count = 0;
    let mut end = None;
    for (at, line) in from.lines().enumerate() {
        let line = line.map_err(|error| unread(&error))?;
        if line.trim().is_empty() {
            continue;
        }
        if end.is_some() {
            return Err(Stop::Refused(format!("line {} is after the end of the export", at + 1)));
        }
        end = serde_json::from_str::<End>(&line).ok();
        if end.is_some() {
            continue;
        }
        if count == 0 && line.starts_with('[') {
            return Err(Stop::Refused(
                "it is not an export of lines; if it is one of `consul kv export`, use --format consul-kv"
                    .to_owned(),
            ));
        }
        import.add(ops(mapping, &line, at + 1)?).await?;
        count += 1;
    }
    import.flush().await?;
    match end {
        Some(End { lines }) if lines == count => Ok(import.end()),
        Some(End { lines }) => Err(Stop::Refused(format!(
            "the export is not whole: it has {count} lines of {lines}, which were set"
        ))),
        None if is_partial => Ok(import.end()),
        None => Err(Stop::Refused(format!("{CUT}: its {count} lines were set"))),
    }
}

struct Import<'a> {
    target: &'a Target,
    report: &'a dyn Report,
    waiting: Vec<Op>,
    tally: Tally,
    /// The hashes of all keys, and how many values replaced an earlier one of the same key.
    seen: HashSet<u64>,
    again: u64,
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

    /// Sets the keys of a list, which is read as a whole first: a list that was cut sets nothing.
    async fn list(mut self, mapping: &Mapping, from: &mut dyn BufRead) -> Result<Tally, Stop> {
        let mut text = Vec::new();
        from.read_to_end(&mut text).map_err(|error| unread(&error))?;
        let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|error| {
            Stop::Refused(format!(
                "nothing was written: it is not an export of `consul kv export`: {error}"
            ))
        })?;
        drop(text);
        for (at, Entry { key, flags, value }) in entries.iter().enumerate() {
            self::op(mapping, key, &value.0, *flags).map_err(|why| {
                Stop::Refused(format!("nothing was written: key {} of the list: {why}", at + 1))
            })?;
        }
        // The keys with parts, wherever these are, and their parts.
        let mut encoded = HashMap::<_, HashSet<String>>::new();
        for Entry { key, flags, value } in entries {
            let part = key.strip_prefix(&mapping.encoded_prefix()).and_then(part_of);
            let name = key.clone();
            let before = (self.tally.moved, self.tally.consul);
            self.add(vec![Op::Set { key, value: value.0, flags }]).await?;
            if let Some((key, ..)) = part {
                let names = encoded.entry(key).or_default();
                match names.is_empty() {
                    true => self.tally.encoded += 1,
                    false => (self.tally.moved, self.tally.consul) = before,
                }
                names.insert(name);
            }
        }
        self.flush().await?;
        // A value that was there may have had another number of parts.
        for (key, names) in encoded {
            let found = self.target.keys(&mapping.encoded(&key), None).await?;
            let others = found.into_iter().filter(|name| !names.contains(name));
            let others: Vec<_> = others.map(|key| Op::Delete { key }).collect();
            write(self.target, &others).await?;
        }
        Ok(self.end())
    }

    /// Sets a key by these operations, soon.
    async fn add(&mut self, ops: Vec<Op>) -> Result<(), Stop> {
        let (target, mut now) = (self.target, ops);
        let fit = |ops: &[&Op]| target.fitting(ops.iter().copied(), 0) == ops.len();
        let is_new = now.first().is_none_or(|op| self.is_new(op.key()));
        self.tally.encoded += u64::from(is_new && now.len() > 1);
        if now.len() > 1 && !fit(&self.waiting.iter().chain(&now).collect::<Vec<_>>()) {
            self.flush().await?;
            if !fit(&now.iter().collect::<Vec<_>>()) {
                now = target.divisible(&now).await?;
            }
        }
        self.waiting.extend(now);
        let bytes: usize = self.waiting.iter().map(|op| op.size() + op.key().len()).sum();
        self.tally.moved += u64::from(is_new);
        self.tally.consul = Some(self.tally.moved);
        if bytes > MAX_BYTES || self.waiting.len() >= target.max_ops {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        write(self.target, &std::mem::take(&mut self.waiting)).await?;
        self.report.progress("imported", self.tally.moved, None);
        Ok(())
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

fn ops(mapping: &Mapping, line: &str, number: usize) -> Result<Vec<Op>, Stop> {
    let invalid = |why: &str| Stop::Refused(format!("line {number} is not of an export: {why}"));
    let line: Line = serde_json::from_str(line).map_err(|error| invalid(&error.to_string()))?;
    let Line { key, etcd_key, value: Base64(value), flags } = line;
    match (key, etcd_key) {
        (Some(key), None) => {
            Ok(vec![op(mapping, &key, &value, flags).map_err(|why| invalid(&why))?])
        }
        (None, Some(Base64(key))) => {
            let prefix = mapping.encoded(&key);
            let all = Op::DeleteTree { prefix: prefix.clone() };
            Ok([all].into_iter().chain(parts(&prefix, &value, flags)).collect())
        }
        _ => Err(invalid("it must have key or etcd_key")),
    }
}

/// Applies operations of any size and number, which may be repeated.
async fn write(target: &Target, ops: &[Op]) -> Result<(), Stop> {
    let mut rest = ops;
    while let [first, others @ ..] = rest {
        let fitting = target.fitting(rest, 0);
        if let (0, Op::Set { key, value, flags }) = (fitting, first) {
            target.put_surely(key, value, *flags).await?;
            rest = others;
            continue;
        }
        let (now, later) = rest.split_at(fitting.max(1));
        match target.txn_surely(&[], now).await? {
            Outcome::Applied(_) => rest = later,
            Outcome::Oversized => {}
            Outcome::Refused(at, why) => return Err(super::job::refused(&now[at], &why)),
        }
    }
    Ok(())
}
