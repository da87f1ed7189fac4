//! The messages of etcd's JSON gateway: bytes are base64, 64-bit numbers are decimal strings, and what is
//! zero, false or empty is left out.

use super::roles::{Role, Roles, Users};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A string of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string in base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                let bytes = BASE64.decode(text).map_err(|_| E::custom("it is not base64"))?;
                Ok(Base64(bytes.into()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A 64-bit number, which some versions send as a number and some as a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Int(pub u64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number or its decimal digits")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Int, E> {
                Ok(Int(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Int, E> {
                // A lease is an int64, whose bits matter alone.
                Ok(Int(number.cast_unsigned()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Int, E> {
                let unsigned = text.parse::<u64>().ok();
                let number = unsigned.or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned));
                number.map(Int).ok_or_else(|| E::custom("it is not a number"))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// The header of each answer about keys; an answer without it is not etcd's, whatever its status says. Its fields may
/// be zero, and are left out then: the line that ends a watch at a compaction has no revision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    pub cluster_id: Int,
    pub revision: Int,
}

/// An answer of a cluster.
pub trait Answer: for<'de> Deserialize<'de> {
    fn header(&self) -> &Header;
}

macro_rules! answers {
    ($($answer:ident),*) => {
        $(impl Answer for $answer {
            fn header(&self) -> &Header {
                &self.header
            }
        })*
    };
}

answers![RangeResponse, Changed, Compared, Alarms, Roles, Role, Users];

/// A key at one revision. A deleted one has only `key` and `mod_revision`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct KeyValue {
    /// The bytes of the key, which need not be text.
    pub key: Base64,
    /// The bytes of the value; empty in a deletion.
    pub value: Base64,
    /// The revision at which the key was created; 0 in a deletion.
    pub create_revision: Int,
    /// The revision of this write or deletion of the key.
    pub mod_revision: Int,
    /// The number of writes since the key was created, that one included; 0 in a deletion.
    pub version: Int,
    /// The ID of the lease with which the key ends; 0 without one.
    pub lease: Int,
}

impl KeyValue {
    /// About what it takes of memory, in bytes.
    pub fn size(&self) -> usize {
        self.key.0.len() + self.value.0.len() + size_of::<Self>()
    }

    /// Whether this write created the key.
    pub fn is_new(&self) -> bool {
        self.create_revision == self.mod_revision
    }
}

#[derive(Debug, Default, Serialize)]
pub struct RangeRequest {
    pub key: Base64,
    pub range_end: Base64,
    pub limit: Int,
    pub revision: Int,
    pub count_only: bool,
    pub min_mod_revision: Int,
    pub keys_only: bool,
}

#[derive(Debug, Deserialize)]
pub struct RangeResponse {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    #[serde(default)]
    pub more: bool,
    #[serde(default)]
    pub count: Int,
}

/// The answer to a change.
#[derive(Debug, Deserialize)]
pub struct Changed {
    pub header: Header,
}

/// The answer to a transaction that compares.
#[derive(Debug, Deserialize)]
pub struct Compared {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchResponse {
    pub header: Header,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: Int,
    pub cancel_reason: String,
    pub fragment: bool,
    pub events: Vec<Event>,
}

/// One line of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchLine {
    pub result: Option<WatchResponse>,
    pub error: Option<Refusal>,
}

/// A change of one key, as a watch reports it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Whether the key was set or deleted.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The key after the change, at the revision of the change.
    pub kv: KeyValue,
}

/// The effect of a change on its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum EventKind {
    /// The key was set, whether it existed or not.
    #[default]
    #[serde(rename = "PUT")]
    Put,
    /// The key was deleted; the event has no value.
    #[serde(rename = "DELETE")]
    Delete,
}

/// An error's body. 3.6 has no `error`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    pub error: String,
    pub message: String,
    pub code: u16,
    pub grpc_code: u16,
}

impl Refusal {
    pub fn text(&self) -> &str {
        if self.message.is_empty() { &self.error } else { &self.message }
    }

    pub fn code(&self) -> u16 {
        self.code.max(self.grpc_code)
    }
}

/// The alarms that are on. etcd sends no header if there was none to lift.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Alarms {
    pub header: Header,
    pub alarms: Vec<Alarm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Alarm {
    #[serde(rename = "memberID")]
    pub member: Int,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenResponse {
    pub token: String,
}

/// Decodes a message, which is an object: serde takes a list for one, too, and what is not in it for zero.
///
/// # Errors
/// Why it is not one.
pub fn decode<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, serde_json::Error> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("it is not an object"));
    }
    let decoded = serde_json::from_slice(text);
    // The part of the text that serde shows can be a secret.
    decoded.map_err(|error| serde_json::Error::custom(format!("byte {}", error.column())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_empty_or_zero() {
        let text = br#"{"header":{"cluster_id":"18446744073709551615","revision":"3"},"kvs":[{"key":"YQ==","mod_revision":"3"}]}"#;
        let range: RangeResponse = decode(text).unwrap();
        assert_eq!(range.header.cluster_id, Int(u64::MAX));
        assert_eq!((range.kvs[0].key.0.as_ref(), range.kvs[0].value.0.len()), (&b"a"[..], 0));
        assert!(!range.more && range.kvs[0].lease == Int(0));
    }

    #[test]
    fn an_answer_without_etcds_header_is_not_that_there_are_no_keys() {
        for text in ["{}", "[]", r#"{"error":"x","code":8}"#, r#"{"header":null}"#] {
            assert!(decode::<RangeResponse>(text.as_bytes()).is_err(), "{text}");
            assert!(decode::<Changed>(text.as_bytes()).is_err(), "{text}");
            assert!(decode::<Compared>(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// Each message as etcd sends it with all fields that are read; what it leaves out is zero, false or empty.
    #[test]
    fn no_message_needs_a_field_that_can_be_zero() {
        const HEADER: &str =
            r#""header":{"cluster_id":"7","member_id":"1","revision":"3","raft_term":"2"}"#;
        const KV: &str = r#"{"key":"YQ==","value":"dg==","create_revision":"2","mod_revision":"3","version":"1","lease":"9"}"#;
        fn check<T: for<'de> Deserialize<'de>>(fields: &str) -> usize {
            let whole: serde_json::Value = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
            let (mut places, mut without) = (Vec::new(), whole.clone());
            zeros(&whole, "", &mut places);
            let decodes = |value: &serde_json::Value| {
                let error = decode::<T>(value.to_string().as_bytes()).err();
                assert!(error.is_none(), "{}: {value}: {error:?}", std::any::type_name::<T>());
            };
            decodes(&whole);
            for place in &places {
                let mut one = whole.clone();
                remove(&mut one, place);
                decodes(&one);
                // All so far, at last all of them; a list is after what is in it.
                remove(&mut without, place);
                decodes(&without);
            }
            places.len()
        }
        let found = [
            check::<RangeResponse>(&format!(r#"{HEADER},"kvs":[{KV}],"more":true,"count":"2""#)),
            check::<Changed>(HEADER),
            check::<Compared>(&format!(r#"{HEADER},"succeeded":true"#)),
            check::<WatchLine>(&format!(
                r#""result":{{{HEADER},"created":true,"canceled":true,"compact_revision":"3","cancel_reason":"x","fragment":true,"events":[{{"type":"DELETE","kv":{KV}}}]}}"#
            )),
            check::<WatchLine>(
                r#""error":{"grpc_code":14,"http_code":503,"message":"x","http_status":"y"}"#,
            ),
            check::<Refusal>(r#""error":"x","message":"x","code":14,"grpc_code":14"#),
            check::<Alarms>(&format!(
                r#"{HEADER},"alarms":[{{"memberID":"1","alarm":"NOSPACE"}}]"#
            )),
            check::<TokenResponse>(&format!(r#"{HEADER},"token":"t""#)),
            check::<Roles>(&format!(r#"{HEADER},"roles":["app","root"]"#)),
            check::<Users>(&format!(r#"{HEADER},"users":["app","root"]"#)),
            check::<Role>(&format!(
                r#"{HEADER},"perm":[{{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}]"#
            )),
        ];
        assert_eq!(found, [13, 4, 5, 17, 4, 4, 7, 5, 5, 5, 8]);
    }

    /// The places of what is left out if it is zero, those inside before those around them.
    fn zeros(value: &serde_json::Value, place: &str, places: &mut Vec<String>) {
        use serde_json::Value;
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    zeros(member, &format!("{place}/{name}"), places);
                }
            }
            Value::Array(items) => {
                // A text of a list stays, also an empty one.
                let objects = items.iter().enumerate().filter(|(_, item)| item.is_object());
                for (at, item) in objects {
                    zeros(item, &format!("{place}/{at}"), places);
                }
                places.push(place.to_owned());
            }
            _ => places.push(place.to_owned()),
        }
    }

    fn remove(value: &mut serde_json::Value, place: &str) {
        let (parent, name) = place.rsplit_once('/').unwrap();
        value.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    }

    #[test]
    fn an_event_without_a_type_is_a_put() {
        let text = br#"{"result":{"events":[{"kv":{"key":"YQ=="}},{"type":"DELETE","kv":{"key":"Yg==","mod_revision":"7"}}]}}"#;
        let line: WatchLine = decode(text).unwrap();
        let events = line.result.unwrap().events;
        assert_eq!(events[0].kind, EventKind::Put);
        assert_eq!((events[1].kind, events[1].kv.mod_revision), (EventKind::Delete, Int(7)));
    }

    #[test]
    fn a_message_that_cannot_be_decoded_is_not_shown() {
        let error = decode::<RangeResponse>(br#"{"kvs":[{"value":"secret!"}]}"#).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
