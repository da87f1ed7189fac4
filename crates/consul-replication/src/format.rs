//! Requests and replies as bytes: the version of the format in one byte, the XXH3 hash of the rest in
//! eight, then the fields in the order in which they are named here.
//!
//! Numbers have a fixed length and are little-endian; bytes, texts and lists begin with their length, what
//! is optional with 0 or 1, and what has several forms with the form's number.

use super::map::{Change, ChangeKind, Disk, Entry, NodeId, Place, Sizes, Slot, StoreId};
use super::message::{Action, NotReady, Outcome, Reply, Request};
use super::record::{HybridTime, Range, Record, Version};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use twox_hash::XxHash3_64;

/// The version of the format. Another one is refused.
const FORMAT: u8 = 3;

const HASH_BYTES: usize = size_of::<u64>();

impl Request {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// The request with these bytes.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for another version of the format, [`Kind::Decode`] for bytes that are not a
    /// request.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode("request", bytes)
    }
}

impl Reply {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// The reply with these bytes.
    ///
    /// # Errors
    /// As [`Request::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode("reply", bytes)
    }
}

fn encode(message: &impl Field) -> Bytes {
    let mut bytes = vec![FORMAT; 1 + HASH_BYTES];
    message.put(&mut bytes);
    let (head, fields) = bytes.split_at_mut(1 + HASH_BYTES);
    head[1..].copy_from_slice(&XxHash3_64::oneshot(fields).to_le_bytes());
    bytes.into()
}

fn decode<T: Field>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    let refuse = |kind, why: &str| {
        Err(Error::new(kind, format!("the {what} about a shard cannot be read: {why}")))
    };
    let rest = match bytes.split_first() {
        Some((&FORMAT, rest)) => rest,
        Some((other, _)) => {
            let why = format!("it has format {other}, this release supports format {FORMAT}");
            return refuse(Kind::Unsupported, &why);
        }
        None => return refuse(Kind::Decode, "it is empty"),
    };
    let Some((hash, mut fields)) = rest.split_first_chunk() else {
        return refuse(Kind::Decode, "it ends early");
    };
    if u64::from_le_bytes(*hash) != XxHash3_64::oneshot(fields) {
        return refuse(Kind::Decode, "its bytes are not those that were sent");
    }
    match T::take(&mut fields) {
        Some(message) if fields.is_empty() => Ok(message),
        _ => refuse(Kind::Decode, "its fields are not those of this format"),
    }
}

/// A value in a message.
trait Field: Sized {
    /// Appends its bytes.
    fn put(&self, to: &mut Vec<u8>);

    /// Takes the value off the front of the bytes; `None`: they do not begin with one.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Field for $number {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

/// Values that are sent as others.
macro_rules! sent_as {
    ($($value:ty: $other:ty, $to:expr, $from:expr;)*) => {$(
        impl Field for $value {
            fn put(&self, to: &mut Vec<u8>) {
                let other: $other = $to(self);
                other.put(to);
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                $from(<$other>::take(from)?)
            }
        }
    )*};
}

macro_rules! structures {
    ($($name:ident { $($field:ident)* })*) => {$(
        impl Field for $name {
            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some($name { $($field: Field::take(from)?),* })
            }
        }
    )*};
}

/// Enumerations: the number of each form, its name, its fields.
macro_rules! forms {
    ($($name:ident { $($number:literal $form:ident { $($field:tt: $value:ident)* })* })*) => {$(
        impl Field for $name {
            fn put(&self, to: &mut Vec<u8>) {
                match self {
                    $($name::$form { $($field: $value),* } => {
                        to.push($number);
                        $($value.put(to);)*
                    })*
                }
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                match u8::take(from)? {
                    $($number => Some($name::$form { $($field: Field::take(from)?),* }),)*
                    _ => None,
                }
            }
        }
    )*};
}

numbers! { u8 u32 u64 u128 }

sent_as! {
    bool: u8, |it: &bool| u8::from(*it), |it| (it <= 1).then_some(it == 1);
    usize: u64, |it: &usize| *it as u64, |it: u64| it.try_into().ok();
    Version: u128, |it: &Version| it.to_bits(), |it| Some(Version::from_bits(it));
    HybridTime: u64, |it: &HybridTime| it.to_bits(), |it| Some(HybridTime::from_bits(it));
    Disk: u64, |it: &Disk| it.0, |it| Some(Disk(it));
    StoreId: u64, |it: &StoreId| it.0, |it| Some(StoreId(it));
}

impl Field for Bytes {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self, to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        take_bytes(from).map(Bytes::copy_from_slice)
    }
}

impl Field for NodeId {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        std::str::from_utf8(take_bytes(from)?).ok().map(Into::into)
    }
}

impl Field for String {
    fn put(&self, to: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        std::str::from_utf8(take_bytes(from)?).ok().map(Into::into)
    }
}

fn put_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    bytes.len().put(to);
    to.extend_from_slice(bytes);
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::take(from)?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match bool::take(from)? {
            true => T::take(from).map(Some),
            false => Some(None),
        }
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.len().put(to);
        self.iter().for_each(|value| value.put(to));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let length = usize::take(from)?;
        // A wrong length ends with the bytes, before the memory.
        (0..length).map(|_| T::take(from)).collect()
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some((A::take(from)?, B::take(from)?))
    }
}

structures! {
    Request { store shard entry action }
    Reply { time outcome }
    Entry { epoch slots quorums changing unproven }
    Sizes { write read }
    Slot { holder change }
    Place { node disk is_first }
    Change { kind to since lost unites }
    Record { id version data }
    Range { from to after }
}

forms! {
    ChangeKind { 0 Move {} 1 Failover {} }
    NotReady { 0 NotAHolder {} 1 NotWhole {} 2 Sealed {} 3 Fenced {} 4 ToRemake {} }
    Action {
        0 Write { 0: records }
        1 Read { range: range limit: limit }
        2 Seal {}
        3 Fence {}
        4 Recover {}
        5 Copy { after: after limit: limit }
        6 Sums { bits: bits horizon: horizon after: after through: through }
        7 Versions { bits: bits buckets: buckets horizon: horizon after: after through: through }
        8 Fetch { 0: ids }
        9 Repair { 0: records }
        10 Floor { below: below }
        11 Purge { below: below }
        12 Ping {}
    }
    Outcome {
        0 Done {}
        1 Stored { overtaken: overtaken }
        2 Page { records: records is_last: is_last horizon: horizon }
        3 Sums { sums: sums horizon: horizon through: through }
        4 Versions { versions: versions is_last: is_last }
        5 Known { entry: entry fence: fence }
        6 Stale { 0: entry }
        7 NotReady { 0: why }
        8 Failed { 0: why }
        9 OtherStore { 0: id }
    }
}
