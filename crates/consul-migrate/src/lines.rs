//! Keys of Consul as lines of JSON: a backup, which needs no etcd.
//!
//! A line is `{"key": "app/a", "value": "<base64>", "flags": 1}`; flags of 0 are left out. A key that is
//! encoded in Consul is one line with `etcd_key`, the bytes of its key in base64, its whole value and the flags of
//! its parts. The last line is `{"lines": 2}`, the number of those before it: an export that was cut does not have it.

use super::etcd::Base64;
use super::mapping::{JOBS, Mapping, Op, part_of, parts};
use super::names::Names;
use super::rollback::{Joined, joined};
use super::target::{Outcome, Stored, Target};
use super::{Report, Stop};
use consul_api::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};

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

/// The most bytes that are searched for the last line.
const END_SEARCHED: u64 = 256;

fn is_zero(flags: &u64) -> bool {
    *flags == 0
}

fn failed(doing: &str, error: &std::io::Error) -> Stop {
    Error::new(Kind::Config, format!("{doing}: {error}")).into()
}

/// Writes all keys that begin with the prefix of `mapping`, but those of jobs; returns how many they are.
///
/// # Errors
/// See [`Stop`]; that it cannot be written.
pub async fn export(
    target: &Target,
    mapping: &Mapping,
    out: &mut dyn Write,
    report: &dyn Report,
) -> Result<u64, Stop> {
    // All at once: no URL lists the keys below a directory such as `a//`.
    let mut names = Names::new(target, &mapping.consul_prefix, async |_| Ok(0)).await?;
    let mut export = Export { target, out, report, waiting: Vec::new(), lines: 0 };
    let mut last = None;
    while let Some(name) = names.next().await? {
        let part = name.strip_prefix(&mapping.encoded_prefix()).and_then(part_of);
        match part {
            _ if name.starts_with(JOBS) => {}
            Some((key, ..)) if last.as_ref() != Some(&key) => {
                export.encoded(mapping, &key).await?;
                last = Some(key);
            }
            Some(_) => {}
            None => export.add(name).await?,
        }
    }
    export.flush().await?;
    export.line(&End { lines: export.lines })?;
    export.out.flush().map_err(|error| failed("the export", &error))?;
    Ok(export.lines)
}

struct Export<'a> {
    target: &'a Target,
    out: &'a mut dyn Write,
    report: &'a dyn Report,
    waiting: Vec<String>,
    lines: u64,
}

impl Export<'_> {
    async fn add(&mut self, name: String) -> Result<(), Stop> {
        self.waiting.push(name);
        if self.waiting.len() == self.target.max_ops { self.flush().await } else { Ok(()) }
    }

    /// Writes the keys that wait; those that were deleted meanwhile have no line.
    async fn flush(&mut self) -> Result<(), Stop> {
        let names = std::mem::take(&mut self.waiting);
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        for (key, stored) in asked.iter().zip(self.target.entries(&asked).await?) {
            let Some(Stored { value, flags, .. }) = stored else { continue };
            let key = Some((*key).to_owned());
            self.write(&Line { key, etcd_key: None, value: Base64(value), flags })?;
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
            Ok(None) => Ok(()),
            Err(part) => Err(Stop::Refused(format!("parts of the key at {part:?} are missing"))),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), Stop> {
        let text =
            serde_json::to_string(line).map_err(|error| Error::argument(error.to_string()))?;
        writeln!(self.out, "{text}").map_err(|error| failed("the export", &error))
    }

    fn write(&mut self, line: &Line) -> Result<(), Stop> {
        self.line(line)?;
        self.lines += 1;
        self.report.progress("exported", self.lines, None);
        Ok(())
    }
}

/// Whether a file ends with the last line of an export. Its position is its start again then.
///
/// # Errors
/// That it cannot be read.
pub fn is_whole(file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size - size.min(END_SEARCHED)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    file.rewind()?;
    let last = end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    Ok(last.is_some_and(|last| serde_json::from_slice::<End>(last).is_ok()))
}

/// What a file is without the last line of an export.
pub const CUT: &str = "the export was cut, or the file is not one of `export`: its last line is not \
                       {\"lines\": …} (--partial takes it)";

/// Sets the keys of all lines; returns how many they are. Without `is_partial` the last line must be that of an
/// export.
///
/// # Errors
/// See [`Stop`]; a line that is not one, by its number; that the export is not whole.
pub async fn import(
    target: &Target,
    mapping: &Mapping,
    from: &mut dyn BufRead,
    is_partial: bool,
    report: &dyn Report,
) -> Result<u64, Stop> {
    let (mut waiting, mut count) = (Vec::<Op>::new(), 0);
    let mut end = None;
    for (at, line) in from.lines().enumerate() {
        let line = line.map_err(|error| failed("the import", &error))?;
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
        let mut now = ops(mapping, &line, at + 1)?;
        let fit = |ops: &[&Op]| target.fitting(ops.iter().copied(), 0) == ops.len();
        if now.len() > 1 && !fit(&waiting.iter().chain(&now).collect::<Vec<_>>()) {
            write(target, &std::mem::take(&mut waiting)).await?;
            if !fit(&now.iter().collect::<Vec<_>>()) {
                now = target.divisible(&now).await?;
            }
        }
        waiting.extend(now);
        let bytes: usize = waiting.iter().map(|op| op.size() + op.key().len()).sum();
        count += 1;
        if bytes > MAX_BYTES || waiting.len() >= target.max_ops {
            write(target, &std::mem::take(&mut waiting)).await?;
            report.progress("imported", count, None);
        }
    }
    write(target, &waiting).await?;
    match end {
        Some(End { lines }) if lines == count => Ok(count),
        Some(End { lines }) => Err(Stop::Refused(format!(
            "the export is not whole: it has {count} lines of {lines}, which were set"
        ))),
        None if is_partial => Ok(count),
        None => Err(Stop::Refused(format!("{CUT}: its {count} lines were set"))),
    }
}

fn ops(mapping: &Mapping, line: &str, number: usize) -> Result<Vec<Op>, Stop> {
    let invalid = |why: &str| Stop::Refused(format!("line {number} is not of an export: {why}"));
    let line: Line = serde_json::from_str(line).map_err(|error| invalid(&error.to_string()))?;
    let Line { key, etcd_key, value: Base64(value), flags } = line;
    match (key, etcd_key) {
        (Some(key), None) if key.starts_with(JOBS) => {
            Err(invalid("its key begins with _migrate/, and is that of a job"))
        }
        (Some(key), None) if key.starts_with(&mapping.consul_prefix) => {
            Ok(vec![Op::Set { key, value, flags }])
        }
        (Some(_), None) => Err(invalid("its key does not begin with --consul-prefix")),
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
            Outcome::Refused(at, why) => return Err(super::job::refused(&now[at], &why)),
        }
    }
    Ok(())
}
