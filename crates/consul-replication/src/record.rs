//! Records and their versions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The version of a record: a hybrid logical time and the writer's random number. Versions of different
/// writes differ, and on every node the record of the higher version wins.
///
/// Source of the logical time: Kulkarni and others, "Logical Physical Clocks" (2014).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(u128);

impl Version {
    /// The version of a write at this hybrid logical time by the writer with this random number.
    pub const fn new(time: HybridTime, writer: u64) -> Self {
        Version((time.0 as u128) << u64::BITS | writer as u128)
    }

    /// The lowest version of a time.
    pub const fn first_of(time: HybridTime) -> Self {
        Self::new(time, 0)
    }

    /// Whether it is below all others.
    pub(super) fn is_lowest(&self) -> bool {
        self.0 == 0
    }

    /// Its bits, whose order is that of the versions.
    pub(super) const fn to_bits(self) -> u128 {
        self.0
    }

    /// The version with these bits.
    pub(super) const fn from_bits(bits: u128) -> Self {
        Version(bits)
    }

    /// The next version.
    pub(super) const fn next(self) -> Self {
        Version(self.0.saturating_add(1))
    }

    /// Its hybrid logical time.
    pub const fn time(self) -> HybridTime {
        HybridTime((self.0 >> u64::BITS) as u64)
    }
}

/// 32 hexadecimal digits, whose order as text is that of the versions.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit());
        let number = if is_plain { u128::from_str_radix(text, 16).ok() } else { None };
        number.map(Version).ok_or("a version has 32 hexadecimal digits")
    }
}

/// A hybrid logical time: Unix milliseconds in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HybridTime(u64);

impl HybridTime {
    const COUNTER_BITS: u32 = 16;

    /// The first time of a millisecond.
    pub const fn from_ms(unix_ms: u64) -> Self {
        HybridTime(unix_ms << Self::COUNTER_BITS)
    }

    /// Its bits.
    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// The time with these bits.
    pub(super) const fn from_bits(bits: u64) -> Self {
        HybridTime(bits)
    }

    /// Its Unix milliseconds.
    pub const fn ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The next time.
    pub const fn next(self) -> Self {
        HybridTime(self.0.saturating_add(1))
    }
}

/// About the bytes of a record in a message, without id and data: its version and lengths.
pub(super) const OVERHEAD: usize = 48;

/// A record: bytes under an id, or the deletion of what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id, which is unique within the shard. Records are read in the order of their ids.
    pub id: Bytes,
    /// Its version.
    pub version: Version,
    /// Its bytes; `None`: it is deleted.
    pub data: Option<Bytes>,
}

impl Record {
    /// About the bytes that it takes in a message, not less.
    pub fn size(&self) -> usize {
        OVERHEAD + self.id.len() + self.data.as_ref().map_or(0, Bytes::len)
    }

    /// Whether it replaces another record with its id. Of two writes with equal versions, which only
    /// equal random numbers can cause, the one with the greater bytes wins everywhere.
    pub fn replaces(&self, other: &Record) -> bool {
        (self.version, &self.data) > (other.version, &other.data)
    }
}

/// A range of ids, in the order of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first id.
    pub from: Bytes,
    /// The end, which is not in the range; `None`: no end.
    pub to: Option<Bytes>,
    /// Only ids after this one, to continue after a page.
    pub after: Option<Bytes>,
}

impl Range {
    /// All ids.
    pub fn all() -> Self {
        Self::default()
    }

    /// The rest of the range after an id.
    pub fn after(&self, id: Bytes) -> Self {
        Range { after: Some(id), ..self.clone() }
    }

    /// Whether an id is in it.
    pub fn contains(&self, id: &[u8]) -> bool {
        id >= &self.from[..]
            && self.to.as_ref().is_none_or(|to| id < &to[..])
            && self.after.as_ref().is_none_or(|after| id > &after[..])
    }
}
