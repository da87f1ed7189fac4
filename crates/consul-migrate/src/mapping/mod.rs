//! The form of each key of etcd in Consul. A pure function of the key, the size of its value and its lease:
//! so the same event results in the same operations again after a restart.

pub mod shown;
pub mod spelling;

use crate::etcd::{Event, EventKind, KeyValue};
use crate::mapping::spelling::{Spelling, is_plain, spelling};
use bytes::Bytes;
use consul_api::value::shape::{check_key, is_printable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The keys of jobs, which are not the programs' own.
pub const JOBS: &str = "_migrate/";

/// The keys of etcd that mark the end of the changes, after the prefix of the job's keys in etcd.
const SENTINELS: &[u8] = b"_migrate.sentinel/";

/// The prefix of encoded keys, after the prefix of the job's keys in Consul.
pub const ENCODED: &str = "_etcd/";

/// No key of a program is below these.
pub const RESERVED: [&str; 2] = [JOBS, ENCODED];

/// The largest value of an operation in a transaction, whose JSON body has up to 524,288 bytes.
pub const MAX_IN_TXN: usize = 380_000;

/// The largest value of a key, which a PUT sets.
pub const MAX_VALUE: usize = 524_288;

/// The size of the parts of a larger value.
const PART: usize = 360_000;

/// The most bytes of a transaction's operations; servers take 524,288 with the checks.
pub(crate) const MAX_OPS: usize = 497_952;

/// The longest name in a URL, with its escapes: clients take no URL of 65,535 bytes, and it has other members.
const MAX_IN_URL: usize = 64_000;

/// The longest name of an encoded key, so that a transaction has room for a part of its value.
const MAX_ENCODED: usize = 400_000;

/// The characters of a part's name after its prefix.
const PART_NAME: usize = 9;

/// Why Consul does not take a key as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The key is `/`, which would be empty in Consul.
    EmptyKey,
    /// The key exists with a leading slash and without, and Consul has one key for both.
    Collision,
    /// The key has a character that is not printable, such as NUL.
    ControlKey,
    /// The key has `//`, or a segment `.` or `..`, which Consul takes in no URL, or in a spelling that clients do not use.
    PathKey,
    /// The server refuses the name of the key in a URL, as those from 1.21.5 on do with some.
    UrlKey,
    /// The bytes of the key are not UTF-8.
    NotUtf8,
    /// In Consul the key would be below a prefix that this program uses, see [`RESERVED`].
    ReservedKey,
    /// The name of the key is too long for a URL.
    LongKey,
    /// The name of the key is too long for any request, also for the form in which others are encoded.
    HugeKey,
    /// The value has more than [`MAX_VALUE`] bytes.
    LargeValue,
    /// The key has a lease, and its owner sets it again.
    Leased,
}

impl Problem {
    /// In the order of the report.
    pub const ALL: [Problem; 11] = [
        Problem::EmptyKey,
        Problem::Collision,
        Problem::ControlKey,
        Problem::PathKey,
        Problem::UrlKey,
        Problem::NotUtf8,
        Problem::ReservedKey,
        Problem::LongKey,
        Problem::HugeKey,
        Problem::LargeValue,
        Problem::Leased,
    ];

    /// The word for it in `--on` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Problem::EmptyKey => "empty-key",
            Problem::Collision => "collision",
            Problem::ControlKey => "control-key",
            Problem::PathKey => "path-key",
            Problem::UrlKey => "url-key",
            Problem::NotUtf8 => "not-utf8",
            Problem::ReservedKey => "reserved-key",
            Problem::LongKey => "long-key",
            Problem::HugeKey => "huge-key",
            Problem::LargeValue => "large-value",
            Problem::Leased => "leased",
        }
    }

    /// Whether keys that have it can get another form.
    pub fn has_other_form(self) -> bool {
        self != Problem::HugeKey
    }

    /// Its meaning, in a line.
    pub const fn meaning(self) -> &'static str {
        match self {
            Problem::EmptyKey => "the key is `/`, which would be empty in Consul",
            Problem::Collision => "`/a` beside `a`: Consul has one key for both",
            Problem::ControlKey => {
                "the key has a character that is not printable, such as NUL, and no URL of Consul reads it"
            }
            Problem::PathKey => {
                "the key has `//`, or a segment `.` or `..`: Consul takes it in no URL, or in a spelling that clients do not use"
            }
            Problem::UrlKey => {
                "this Consul refuses the name of the key in a URL, as those from 1.21.5 on do with some"
            }
            Problem::NotUtf8 => "the key is not UTF-8",
            Problem::ReservedKey => {
                "the key begins with _etcd/ or _migrate/ in Consul, which consul-migrate uses"
            }
            Problem::LongKey => {
                "the name has more than 64,000 bytes in a URL, and our clients read no key with such a name"
            }
            Problem::HugeKey => {
                "the name has more than some 199,900 bytes, and no request to Consul takes it, encoded or not"
            }
            Problem::LargeValue => "the value has more than 524,288 bytes",
            Problem::Leased => "the key has a lease: its owner sets it again",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The treatment of keys that have a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// They are left out.
    Skip,
    /// They get another form in Consul, from which they come back exactly. A leased key becomes a plain one.
    Encode,
    /// Nothing is copied while there is one.
    Refuse,
}

impl Choice {
    /// The word for it in `--on`.
    pub const fn name(self) -> &'static str {
        match self {
            Choice::Skip => "skip",
            Choice::Encode => "encode",
            Choice::Refuse => "refuse",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The form of most keys: a leading slash or none. Consul has no leading slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// With a leading slash, such as `/app/a`.
    Slashed,
    /// Without a leading slash, such as `app/a`.
    Bare,
}

/// Which keys of etcd become which keys of Consul. A job keeps it to its end.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Only the keys of etcd that begin with this.
    #[serde(with = "hex")]
    pub etcd_prefix: Vec<u8>,
    /// The beginning of the keys in Consul.
    pub consul_prefix: String,
    /// The treatment of each problem; for an omitted one the default of [`Mapping::choice`] applies.
    pub on: BTreeMap<Problem, Choice>,
    /// The form that keys get on the way back; `None` until the keys were counted.
    pub form: Option<Form>,
    /// The flags of all keys that the job writes, by which it knows them again. 0: there is none.
    #[serde(default)]
    pub mark: u64,
    /// The spellings in names that the server refuses in a URL, as far as it was asked.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refused: BTreeSet<Spelling>,
}

/// The place of a key in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key of Consul that has the whole value.
    Plain(String),
    /// The prefix of its parts.
    Encoded(String),
    /// The key is not copied because of this problem.
    Nowhere(Problem),
    /// A sentinel, which is not a key of the programs.
    Sentinel,
}

/// A change of Consul's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the key, whether it exists or not.
    Set {
        /// The key in Consul.
        key: String,
        /// The new value.
        value: Bytes,
        /// The new flags.
        flags: u64,
    },
    /// Deletes the key, whatever its modify index.
    Delete {
        /// The key in Consul.
        key: String,
    },
    /// Deletes the key if it has this modify index.
    DeleteAt {
        /// The key in Consul.
        key: String,
        /// The modify index that the key must have.
        index: u64,
    },
    /// Deletes all keys that begin with the prefix.
    DeleteTree {
        /// The first characters of the keys in Consul.
        prefix: String,
    },
}

impl Op {
    /// Sets a key without flags.
    pub fn set(key: String, value: Bytes) -> Op {
        Op::Set { key, value, flags: 0 }
    }

    /// The key in Consul that it changes; for a tree the prefix.
    pub fn key(&self) -> &str {
        match self {
            Op::Set { key, .. }
            | Op::Delete { key }
            | Op::DeleteAt { key, .. }
            | Op::DeleteTree { prefix: key } => key,
        }
    }

    /// The size of its value.
    pub fn size(&self) -> usize {
        if let Op::Set { value, .. } = self { value.len() } else { 0 }
    }

    /// The bytes of its key and its value.
    pub fn bytes(&self) -> usize {
        self.key().len() + self.size()
    }

    /// The bytes that it has in the body of a transaction.
    pub fn in_body(&self) -> usize {
        self.size().div_ceil(3) * 4 + size_of(self.key())
    }

    /// Whether its value is too large for a transaction.
    pub fn needs_put(&self) -> bool {
        self.size() > MAX_IN_TXN
    }
}

impl Mapping {
    /// The treatment of keys that have this problem: by default leased ones are skipped and others refused.
    pub fn choice(&self, problem: Problem) -> Choice {
        let default = if problem == Problem::Leased { Choice::Skip } else { Choice::Refuse };
        match self.on.get(&problem).copied().unwrap_or(default) {
            // They have no other form.
            Choice::Encode if !problem.has_other_form() => Choice::Refuse,
            choice => choice,
        }
    }

    /// The problem of a key, whatever its value.
    pub fn problem_of_key(&self, key: &[u8]) -> Option<Problem> {
        let encoded = self.consul_prefix.len() + ENCODED.len() + 2 * key.len() + 1 + PART_NAME;
        if encoded > MAX_ENCODED {
            return Some(Problem::HugeKey);
        }
        let key = stripped(key);
        let Ok(key) = std::str::from_utf8(key) else { return Some(Problem::NotUtf8) };
        if key.is_empty() {
            Some(Problem::EmptyKey)
        } else if !is_printable(key) {
            Some(Problem::ControlKey)
        } else if check_key(key).is_err() {
            Some(Problem::PathKey)
        } else if self.is_reserved(key) {
            Some(Problem::ReservedKey)
        } else if in_url(&self.consul_prefix) + in_url(key) > MAX_IN_URL {
            Some(Problem::LongKey)
        } else if self.is_refused(key) {
            Some(Problem::UrlKey)
        } else {
            None
        }
    }

    /// Whether it is known that the server refuses the place of a key in a URL.
    fn is_refused(&self, key: &str) -> bool {
        if self.refused.is_empty() || is_plain(key) && is_plain(&self.consul_prefix) {
            return false;
        }
        let marks = spelling(&format!("{}{key}", self.consul_prefix));
        self.refused.iter().any(|refused| refused.is_subset(&marks))
    }

    /// The place of a key if only the server knows whether it takes it in a URL; `None` if each one does, or the key is
    /// not copied there.
    pub fn doubtful(&self, key: &[u8]) -> Option<String> {
        if self.is_sentinel(key) || self.problem_of_key(key).is_some() {
            return None;
        }
        Some(self.plain(key)).filter(|place| !is_plain(place))
    }

    /// Whether the place of a key would be among the keys of jobs, or those that this job or one without a prefix encodes.
    fn is_reserved(&self, key: &str) -> bool {
        let below = |reserved: &str| {
            let rest = reserved.strip_prefix(self.consul_prefix.as_str());
            rest.is_some_and(|rest| key.starts_with(rest))
        };
        key.starts_with(ENCODED) || RESERVED.into_iter().any(below)
    }

    /// The prefix of the sentinels in etcd.
    pub fn sentinels(&self) -> Vec<u8> {
        [&self.etcd_prefix, SENTINELS].concat()
    }

    /// Also that of a job whose prefix is within this one.
    fn is_sentinel(&self, key: &[u8]) -> bool {
        let is_of_job = |at: &[u8]| {
            at.strip_prefix(SENTINELS).is_some_and(|job| job.starts_with(JOBS.as_bytes()))
        };
        key.strip_prefix(&self.etcd_prefix[..]).is_some_and(|rest| {
            rest.starts_with(SENTINELS) || (0..rest.len()).any(|at| is_of_job(&rest[at..]))
        })
    }

    /// The first problem of an entry of etcd.
    pub fn problem(&self, kv: &KeyValue) -> Option<Problem> {
        if self.is_sentinel(&kv.key.0) {
            return None;
        }
        let is_leased = kv.lease.0 != 0 && self.choice(Problem::Leased) != Choice::Encode;
        if is_leased {
            return Some(Problem::Leased);
        }
        let is_large = kv.value.0.len() > MAX_VALUE;
        self.problem_of_key(&kv.key.0).or_else(|| is_large.then_some(Problem::LargeValue))
    }

    /// The place of an entry of etcd in Consul.
    pub fn place(&self, kv: &KeyValue) -> Place {
        let key = &kv.key.0;
        match self.problem(kv) {
            None if self.is_sentinel(key) => Place::Sentinel,
            None if self.is_encoded_for_its_form(key) => Place::Encoded(self.encoded(key)),
            None if self.is_skipped_for_its_form(key) => Place::Nowhere(Problem::Collision),
            None => Place::Plain(self.plain(key)),
            Some(Problem::Leased) => Place::Nowhere(Problem::Leased),
            Some(problem) => match self.choice(problem) {
                Choice::Encode => Place::Encoded(self.encoded(key)),
                Choice::Skip | Choice::Refuse => Place::Nowhere(problem),
            },
        }
    }

    fn is_encoded_for_its_form(&self, key: &[u8]) -> bool {
        self.choice(Problem::Collision) == Choice::Encode && !self.has_form(key)
    }

    fn is_skipped_for_its_form(&self, key: &[u8]) -> bool {
        self.choice(Problem::Collision) == Choice::Skip && !self.has_form(key)
    }

    /// Whether a key has the form of most keys.
    fn has_form(&self, key: &[u8]) -> bool {
        self.form.is_none_or(|form| form == form_of(key))
    }

    /// The key in Consul of a key without a problem.
    fn plain(&self, key: &[u8]) -> String {
        format!("{}{}", self.consul_prefix, String::from_utf8_lossy(stripped(key)))
    }

    /// The prefix of the parts of an encoded key. Their order is that of the keys.
    pub fn encoded(&self, key: &[u8]) -> String {
        format!("{}{ENCODED}{}/", self.consul_prefix, hex::text(key))
    }

    /// The prefix of all encoded keys.
    pub fn encoded_prefix(&self) -> String {
        format!("{}{ENCODED}", self.consul_prefix)
    }

    /// Whether any key can be encoded.
    pub fn may_encode(&self) -> bool {
        let encodes = |problem: &&Problem| {
            **problem != Problem::Leased && self.choice(**problem) == Choice::Encode
        };
        Problem::ALL.iter().any(|problem| encodes(&problem))
    }

    /// The prefix in Consul of all plain keys that the job can have.
    pub fn plain_prefix(&self) -> String {
        let below = stripped(&self.etcd_prefix);
        let text = std::str::from_utf8(below).unwrap_or_else(|error| {
            std::str::from_utf8(&below[..error.valid_up_to()]).unwrap_or_default()
        });
        format!("{}{text}", self.consul_prefix)
    }

    /// Whether two jobs can have the same keys of Consul.
    pub fn shares_keys(&self, other: &Mapping) -> bool {
        let (one, other) = (self.plain_prefix(), other.plain_prefix());
        one.starts_with(&other) || other.starts_with(&one)
    }

    /// Whether a key of Consul is one of the tool's own and not a plain copy.
    pub fn is_own(&self, key: &str) -> bool {
        key.starts_with(JOBS) || key.starts_with(&self.encoded_prefix())
    }

    /// Whether a key of Consul is a part of an encoded key of this job: others may have the same `--consul-prefix`.
    pub fn is_own_part(&self, key: &str) -> bool {
        let part = key.strip_prefix(&self.encoded_prefix()).and_then(part_of);
        part.is_some_and(|(key, ..)| key.starts_with(&self.etcd_prefix))
    }

    /// The operations of an entry that has been set: the whole state of its key, so that they can be
    /// repeated.
    pub fn set(&self, kv: &KeyValue) -> Vec<Op> {
        let mut ops = self.unset(&kv.key.0);
        match self.place(kv) {
            Place::Nowhere(_) | Place::Sentinel => {}
            Place::Plain(key) => {
                ops.retain(|op| !matches!(op, Op::Delete { .. }));
                ops.push(self.marked(key, kv.value.0.clone()));
            }
            Place::Encoded(prefix) => ops.extend(parts(&prefix, &kv.value.0, self.mark)),
        }
        ops
    }

    fn marked(&self, key: String, value: Bytes) -> Op {
        Op::Set { key, value, flags: self.mark }
    }

    /// The operations of a key that has been deleted.
    pub fn unset(&self, key: &[u8]) -> Vec<Op> {
        let mut ops = Vec::new();
        if self.is_sentinel(key) {
            return ops;
        }
        let is_plain = self.problem_of_key(key).is_none()
            && !self.is_encoded_for_its_form(key)
            && !self.is_skipped_for_its_form(key);
        if is_plain {
            ops.push(Op::Delete { key: self.plain(key) });
        }
        let may_be_encoded = match self.problem_of_key(key) {
            Some(problem) => self.choice(problem) == Choice::Encode,
            None => {
                self.choice(Problem::LargeValue) == Choice::Encode
                    || self.is_encoded_for_its_form(key)
            }
        };
        if may_be_encoded {
            ops.push(Op::DeleteTree { prefix: self.encoded(key) });
        }
        ops
    }

    /// The operations of an event.
    pub fn ops(&self, event: &Event) -> Vec<Op> {
        match event.kind {
            EventKind::Put => self.set(&event.kv),
            EventKind::Delete => self.unset(&event.kv.key.0),
        }
    }

    /// Only the entry's new state, for a range of Consul that has nothing of it.
    pub fn load(&self, kv: &KeyValue) -> Vec<Op> {
        match self.place(kv) {
            Place::Nowhere(_) | Place::Sentinel => Vec::new(),
            Place::Plain(key) => vec![self.marked(key, kv.value.0.clone())],
            Place::Encoded(prefix) => parts(&prefix, &kv.value.0, self.mark).collect(),
        }
    }

    /// The keys of etcd that can be the source of a plain key of Consul.
    pub fn sources(&self, key: &str) -> Vec<Bytes> {
        let Some(key) = key.strip_prefix(&self.consul_prefix) else { return Vec::new() };
        let both = [format!("/{key}"), key.to_owned()].map(Bytes::from);
        both.into_iter().filter(|source| source.starts_with(&self.etcd_prefix)).collect()
    }
}

/// Refuses a beginning of the keys in Consul that no key there has, or that no URL has room for.
///
/// # Errors
/// The rule that it breaks.
pub fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    // It may end within a segment.
    let key = format!("{prefix}x");
    if key.starts_with('/') {
        Err("keys of Consul do not begin with `/`")
    } else if !is_printable(prefix) {
        Err("keys of Consul have printable characters only")
    } else if check_key(&key).is_err() {
        Err("keys of Consul have no `//`, and no `.` or `..` between slashes")
    } else if !fits_url(&key) {
        Err("keys of Consul have up to 64,000 bytes in a URL")
    } else {
        Ok(())
    }
}

/// The other key of etcd that has the same key in Consul.
pub fn counterpart(key: &[u8]) -> Bytes {
    match key.strip_prefix(b"/") {
        Some(bare) => Bytes::copy_from_slice(bare),
        None => [b"/", key].concat().into(),
    }
}

/// A key without one leading slash.
fn stripped(key: &[u8]) -> &[u8] {
    key.strip_prefix(b"/").unwrap_or(key)
}

/// Whether a key of etcd has a leading slash.
pub fn form_of(key: &[u8]) -> Form {
    if key.starts_with(b"/") { Form::Slashed } else { Form::Bare }
}

/// A value under a prefix: `0-1` is all of it, `0-3`, `1-3` and `2-3` are its thirds.
pub fn parts<'a>(prefix: &'a str, value: &'a Bytes, flags: u64) -> impl Iterator<Item = Op> + 'a {
    let size = size_of_parts(prefix);
    let count = value.len().div_ceil(size).max(1);
    (0..count).map(move |place| {
        let end = value.len().min((place + 1) * size);
        let key = format!("{prefix}{place:04}-{count:04}");
        Op::Set { key, value: value.slice(place * size..end), flags }
    })
}

/// The size of the parts below a prefix: what no PUT takes, because the name is too long for a URL, a transaction takes.
fn size_of_parts(prefix: &str) -> usize {
    match in_url(prefix) + PART_NAME <= MAX_IN_URL {
        true => PART,
        false => (MAX_OPS.saturating_sub(size_of(prefix) + PART_NAME) / 4 * 3).clamp(1, PART),
    }
}

/// The size of an operation on a key in a transaction's body, without a value.
pub(crate) fn size_of(key: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        _ if byte.is_ascii_control() => 6,
        _ => 1,
    };
    key.bytes().map(escaped).sum::<usize>() + 120
}

/// Whether a URL has room for a name.
pub(crate) fn fits_url(name: &str) -> bool {
    in_url(name) <= MAX_IN_URL
}

/// The beginning of a name for which a URL has room, found in one pass.
pub(crate) fn within_url(name: &str) -> &str {
    if fits_url(name) {
        return name;
    }
    let mut size = 0;
    let end = name.char_indices().find(|(_, character)| {
        size += character.encode_utf8(&mut [0; 4]).bytes().map(in_url_of).sum::<usize>();
        size > MAX_IN_URL
    });
    &name[..end.map_or(name.len(), |(at, _)| at)]
}

/// The size of a name in a URL, or more if it is small.
fn in_url(name: &str) -> usize {
    let most = 3 * name.len();
    if most <= MAX_IN_URL / 2 { most } else { name.bytes().map(in_url_of).sum() }
}

fn in_url_of(byte: u8) -> usize {
    if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) { 1 } else { 3 }
}

/// The key of etcd, the place and the count of an encoded part, from its key after the prefix of all; `None` of a name that
/// [`parts`] does not give.
pub fn part_of(name: &str) -> Option<(Vec<u8>, usize, usize)> {
    let (key, part) = name.split_once('/')?;
    let (place, count) = part.split_once('-')?;
    let (key, place, count) = (hex::bytes(key)?, place.parse().ok()?, count.parse().ok()?);
    let is_one = place < count && name == format!("{}/{place:04}-{count:04}", hex::text(&key));
    is_one.then_some((key, place, count))
}

/// Bytes as hexadecimal digits, whose order is that of the bytes.
pub mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Write as _;

    /// Two lower-case digits for each byte.
    pub fn text(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The bytes that the digits, in either case, stand for; `None` if the text is not pairs of digits.
    pub fn bytes(text: &str) -> Option<Vec<u8>> {
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect()
    }

    /// Writes bytes as a string of digits, for the attribute `with` of serde.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(bytes))
    }

    /// Reads a string of digits as bytes, for the attribute `with` of serde.
    ///
    /// # Errors
    /// The deserializer's; that the text is not hexadecimal.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        bytes(&text).ok_or_else(|| D::Error::custom("it is not hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_api::api::kv;
    use consul_api::request::{Args, Defaults};
    use proptest::prelude::*;

    fn mapping(on: &[(Problem, Choice)]) -> Mapping {
        Mapping {
            etcd_prefix: Vec::new(),
            consul_prefix: String::new(),
            on: on.iter().copied().collect(),
            form: Some(Form::Slashed),
            mark: 0,
            refused: BTreeSet::new(),
        }
    }

    fn entry(key: &[u8], size: usize) -> KeyValue {
        let mut kv = KeyValue::default();
        kv.key.0 = Bytes::copy_from_slice(key);
        kv.value.0 = vec![b'v'; size].into();
        kv
    }

    #[test]
    fn a_name_is_a_part_as_parts_are_named_alone() {
        for key in [&b""[..], b"\0", b"/app/\xff", b"a"] {
            let value = Bytes::from(vec![0; 3 * PART]);
            let prefix = format!("{}/", hex::text(key));
            for (at, op) in parts(&prefix, &value, 0).enumerate() {
                assert_eq!(part_of(op.key()), Some((key.to_vec(), at, 3)), "{}", op.key());
            }
        }
        assert_eq!(part_of("61/12345-12346"), Some((b"a".to_vec(), 12345, 12346)));
        for other in [
            "FF/0000-0001",
            "6/0000-0001",
            "61/0-1",
            "61/00000-00001",
            "61/0001-0001",
            "61/+000-0001",
            "61/0000-0001/",
            "61/0000",
            "61",
            "x/0000-0001",
        ] {
            assert_eq!(part_of(other), None, "{other}");
        }
    }

    #[test]
    fn encoded_keys_of_another_job_are_not_own() {
        let mut mapping = mapping(&[]);
        mapping.etcd_prefix = b"/a/".into();
        let part = |key: &[u8]| format!("_etcd/{}/0000-0001", hex::text(key));
        assert!(mapping.is_own_part(&part(b"/a/\0")));
        for other in [part(b"/b/\0"), "_etcd/x".to_owned(), "a".to_owned()] {
            assert!(!mapping.is_own_part(&other), "{other}");
        }
    }

    #[test]
    fn each_problem_is_found() {
        let mapping = mapping(&[]);
        for (key, problem) in [
            (&b"/"[..], Problem::EmptyKey),
            (b"a\0b", Problem::ControlKey),
            (b"a\x7f", Problem::ControlKey),
            ("a\u{200b}".as_bytes(), Problem::ControlKey),
            ("\u{a0}".as_bytes(), Problem::ControlKey),
            (b"/a//b", Problem::PathKey),
            (b"//a", Problem::PathKey),
            (b"a/../b", Problem::PathKey),
            (b"a/.", Problem::PathKey),
            (b"\xff\xfe", Problem::NotUtf8),
            (b"/_etcd/x", Problem::ReservedKey),
            (b"_migrate/x", Problem::ReservedKey),
        ] {
            assert_eq!(mapping.place(&entry(key, 1)), Place::Nowhere(problem), "{key:?}");
        }
        assert_eq!(mapping.problem(&entry(b"a", MAX_VALUE)), None);
        assert_eq!(mapping.problem(&entry(b"a", MAX_VALUE + 1)), Some(Problem::LargeValue));
        let mut leased = entry(b"a", 1);
        leased.lease.0 = 7;
        assert_eq!(mapping.place(&leased), Place::Nowhere(Problem::Leased));
    }

    #[test]
    fn no_prefix_makes_a_key_one_of_a_job() {
        let place = |prefix: &str, key: &[u8]| {
            let consul_prefix = prefix.to_owned();
            Mapping { consul_prefix, ..mapping(&[]) }.place(&entry(key, 1))
        };
        let reserved = Place::Nowhere(Problem::ReservedKey);
        assert_eq!(place("_m", b"/igrate/etcd"), reserved);
        assert_eq!(place("_migrate", b"//x"), Place::Nowhere(Problem::PathKey));
        assert_eq!(place("_e", b"tcd/2f61/0000-0001"), reserved);
        assert_eq!(place("app/", b"/_etcd/x"), reserved);
        assert_eq!(place("_m", b"/a"), Place::Plain("_ma".to_owned()));
        assert_eq!(place("app/", b"/_migrate/x"), Place::Plain("app/_migrate/x".to_owned()));
    }

    #[test]
    fn a_sentinel_is_not_a_key_of_the_programs() {
        let mapping = Mapping { etcd_prefix: b"/app/".to_vec(), ..mapping(&[]) };
        let sentinel = [&mapping.sentinels()[..], b"job/1"].concat();
        assert!(sentinel.starts_with(b"/app/"));
        let sentinel = entry(&sentinel, 1);
        assert_eq!(mapping.place(&sentinel), Place::Sentinel);
        assert_eq!(mapping.problem(&sentinel), None);
        assert_eq!((mapping.set(&sentinel), mapping.unset(&sentinel.key.0)), (vec![], vec![]));
        // Sentinels of other jobs, with prefixes before, within and beside this one.
        for (etcd_prefix, is_within) in [
            ("", false),
            ("/", false),
            ("/app/", true),
            ("/app/in", true),
            ("/app/in/", true),
            ("/b", false),
        ] {
            let other = Mapping { etcd_prefix: etcd_prefix.into(), ..mapping.clone() };
            let sentinel =
                entry(&[&other.sentinels()[..], b"_migrate/other/rollback/1"].concat(), 1);
            let is_sentinel = mapping.place(&sentinel) == Place::Sentinel;
            assert_eq!(is_sentinel, is_within, "{etcd_prefix:?}");
        }
        let of_program = entry(b"/app/in/_migrate.sentinel/x", 1);
        assert!(matches!(mapping.place(&of_program), Place::Plain(_)));
        assert_eq!(
            mapping.place(&entry(b"/app/_migrate/x", 1)),
            Place::Plain("app/_migrate/x".to_owned())
        );
    }

    #[test]
    fn below_a_prefix_in_consul_the_keys_of_jobs_are_not_in_the_way() {
        let mapping = Mapping { consul_prefix: "x/".to_owned(), ..mapping(&[]) };
        let place = |key: &[u8]| mapping.place(&entry(key, 1));
        assert_eq!(place(b"_migrate/x"), Place::Plain("x/_migrate/x".to_owned()));
        assert_eq!(place(b"_etcd/x"), Place::Nowhere(Problem::ReservedKey));
    }

    #[test]
    fn a_key_of_consul_has_no_source_outside_of_the_prefix_in_etcd() {
        let mapping = Mapping { etcd_prefix: b"/d".to_vec(), ..mapping(&[]) };
        assert_eq!(mapping.sources("d/new"), ["/d/new"]);
        assert!(mapping.sources("other").is_empty());
    }

    #[test]
    fn a_large_value_is_several_parts_that_together_are_the_value() {
        let mapping = mapping(&[(Problem::LargeValue, Choice::Encode)]);
        let ops = mapping.set(&entry(b"/a", 1_500_000));
        assert_eq!(ops[0], Op::Delete { key: "a".to_owned() });
        assert_eq!(ops[1], Op::DeleteTree { prefix: "_etcd/2f61/".to_owned() });
        assert_eq!(ops[2..].iter().map(Op::size).sum::<usize>(), 1_500_000);
        assert!(ops.iter().all(|op| !op.needs_put()));
        let names = ops[2..].iter().map(|op| part_of(&op.key()[ENCODED.len()..]).unwrap());
        let wanted = (0..5).map(|place| (b"/a".to_vec(), place, 5));
        assert_eq!(names.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        // A small value ends the parts of an earlier large one.
        let ops = mapping.set(&entry(b"/a", 1));
        assert_eq!(ops[0], Op::DeleteTree { prefix: "_etcd/2f61/".to_owned() });
        assert_eq!(ops.len(), 2);
    }

    #[test]
    fn with_encoded_collisions_no_two_keys_have_one_place() {
        let mapping = mapping(&[(Problem::Collision, Choice::Encode)]);
        let place = |key: &[u8]| mapping.place(&entry(key, 1));
        assert_eq!(place(b"/a"), Place::Plain("a".to_owned()));
        assert_eq!(place(b"a"), Place::Encoded("_etcd/61/".to_owned()));
        assert_eq!(mapping.unset(b"a"), [Op::DeleteTree { prefix: "_etcd/61/".to_owned() }]);
    }

    #[test]
    fn the_beginning_that_fits_a_url_is_the_longest() {
        for of in ["n", "\u{fc}", " n\u{1f600}"] {
            for count in [1, MAX_IN_URL / 12, MAX_IN_URL / 3, MAX_IN_URL, MAX_IN_URL * 3] {
                let name = of.repeat(count);
                let begins = within_url(&name);
                assert!(name.starts_with(begins) && fits_url(begins), "{of} {count}");
                let next = name[begins.len()..].chars().next();
                assert!(
                    next.is_none_or(|next| !fits_url(&format!("{begins}{next}"))),
                    "{of} {count}"
                );
            }
        }
    }

    #[test]
    fn each_operation_is_taken_by_a_transaction_or_a_put() {
        let mapping = mapping(&Problem::ALL.map(|it| (it, Choice::Encode)));
        let limits = [
            1,
            MAX_IN_URL / 6,
            MAX_IN_URL / 3,
            MAX_IN_URL / 2,
            MAX_IN_URL,
            MAX_ENCODED / 2,
            MAX_OPS,
        ];
        let beside =
            |limit: usize| [-20, -7, -3, -2, -1, 0, 1, 2].map(|by| limit.saturating_add_signed(by));
        for length in limits.into_iter().flat_map(beside) {
            let sizes =
                [0, 1, PART + 1, MAX_IN_TXN, MAX_IN_TXN + 1, MAX_VALUE, MAX_VALUE + 1, 2_000_000];
            for (first, size) in
                ["/", "a", "/\u{fc}", "/\0"].into_iter().zip(sizes.iter().cycle().skip(length % 8))
            {
                let kv = entry(format!("{first}{}", "n".repeat(length)).as_bytes(), *size);
                let ops = mapping.set(&kv);
                let is_huge = 2 * kv.key.0.len() + 16 > MAX_ENCODED;
                assert_eq!(mapping.problem(&kv) == Some(Problem::HugeKey), is_huge, "{length}");
                assert_eq!(ops.is_empty(), is_huge, "{length}");
                for op in &ops {
                    let in_body = size_of(op.key()) + op.size().div_ceil(3) * 4;
                    let is_taken = in_body <= MAX_OPS && !op.needs_put()
                        || fits_url(op.key()) && op.size() <= MAX_VALUE;
                    assert!(is_taken && size_of(op.key()) <= MAX_OPS, "{first}{length}, {size}");
                }
            }
        }
    }

    #[test]
    fn consul_takes_every_limit_of_a_value() {
        assert!(MAX_IN_TXN.div_ceil(3) * 4 + 4096 < MAX_VALUE);
        const { assert!(PART <= MAX_IN_TXN) };
    }

    proptest! {
        #[test]
        fn a_key_has_a_place_that_our_client_accepts(key in prop::collection::vec(any::<u8>(), 1..12)) {
            let all = |choice| mapping(&Problem::ALL.iter().map(|it| (*it, choice)).collect::<Vec<_>>());
            for op in all(Choice::Encode).set(&entry(&key, 3)) {
                if let Op::Set { key, .. } = &op {
                    let args = Args::new().arg(key.as_str()).arg("v");
                    prop_assert!(kv::PUT.request(&args, &Defaults::default()).is_ok(), "{key:?}");
                }
            }
        }

        #[test]
        fn hexadecimal_keeps_the_order(a in prop::collection::vec(any::<u8>(), 0..6), b in prop::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(hex::text(&a).cmp(&hex::text(&b)), a.cmp(&b));
            prop_assert_eq!(hex::bytes(&hex::text(&a)), Some(a));
        }
    }
}
