//! An answer's value, flat: one node after the other, a table before what is in it.
//!
//! A body is read once, without an allocation for each value. Whoever reads the tape knows the
//! size of a table before its contents and needs no memory of its own, so that a tape can be put
//! on a Lua stack by code that Lua may leave by a jump.

use super::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value and everything in it.
#[derive(Clone, Debug)]
pub struct Tape {
    body: Bytes,
    /// The strings that the body does not have as they are: unescaped or decoded ones.
    text: Vec<u8>,
    nodes: Nodes,
    /// How many tables are open at the deepest place.
    depth: usize,
}

/// A node of the tape. Strings are places, which take half of what slices would.
#[derive(Clone, Copy, Debug)]
enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    WholeBody,
    InBody { at: u32, len: u32 },
    InText { at: u32, len: u32 },
    List(usize),
    Map(usize),
}

/// The nodes of a tape, in memory that the thread's next tape uses again: the system gives fresh memory
/// page by page, which takes a sixth of the time in which a long answer is read.
#[derive(Clone, Debug)]
struct Nodes(Vec<Node>);

/// How many nodes of memory a thread keeps at most: 8 MiB.
const MOST_SPARE: usize = (8 << 20) / size_of::<Node>();

thread_local! {
    static SPARE: Cell<Vec<Node>> = const { Cell::new(Vec::new()) };
}

impl Nodes {
    fn with_capacity(capacity: usize) -> Self {
        let mut nodes = SPARE.try_with(Cell::take).unwrap_or_default();
        nodes.reserve(capacity);
        Nodes(nodes)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let mut nodes = std::mem::take(&mut self.0);
        nodes.clear();
        nodes.shrink_to(MOST_SPARE);
        // At its end a thread has no spare memory any more.
        let _ = SPARE.try_with(|spare| {
            let other = spare.take();
            spare.set(if other.capacity() > nodes.capacity() { other } else { nodes });
        });
    }
}

impl Deref for Nodes {
    type Target = Vec<Node>;
    fn deref(&self) -> &Vec<Node> {
        &self.0
    }
}

impl DerefMut for Nodes {
    fn deref_mut(&mut self) -> &mut Vec<Node> {
        &mut self.0
    }
}

/// A node as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item<'a> {
    /// JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An integer above [`i64::MAX`].
    Uint(u64),
    /// Any other number.
    Float(f64),
    /// A string of bytes.
    Bytes(&'a [u8]),
    /// A list of so many values, which follow.
    List(usize),
    /// A map of so many members, each a name and a value, which follow. When a name comes twice,
    /// the last one counts.
    Map(usize),
}

/// Which strings in a body are base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base64 {
    /// None.
    Nowhere,
    /// `Value` and `Payload` of an entry, of a list of entries, of the `KV` in an entry. There null
    /// is the empty string.
    InEntries,
    /// Those of the entries in the member `Results`.
    InResults,
}

impl Tape {
    /// Reads a JSON text.
    ///
    /// # Errors
    /// Says where it is no JSON, or that a value is not base64.
    pub fn of_json(body: Bytes, base64: Base64) -> Result<Self, serde_json::Error> {
        if i32::try_from(body.len()).is_err() {
            return Err(serde_json::Error::custom("it is larger than 2 GiB"));
        }
        // One value for 16 bytes is what Consul's answers come to.
        let mut writer = Writer::new(&body, body.len() / 16 + 1);
        // Once for the whole text is faster than once for each string.
        let text =
            str::from_utf8(&body).map_err(|_| serde_json::Error::custom("it is not UTF-8"))?;
        let mut input = serde_json::Deserializer::from_str(text);
        Seed { writer: &mut writer, what: What::from(base64) }.deserialize(&mut input)?;
        input.end()?;
        let Writer { text, nodes, depth, .. } = writer;
        Ok(Tape { body, text, nodes, depth })
    }

    /// One string of bytes.
    pub fn of_bytes(body: Bytes) -> Self {
        Self::of_one(Node::WholeBody, body)
    }

    /// Null.
    pub fn null() -> Self {
        Self::of_one(Node::Null, Bytes::new())
    }

    /// True.
    pub fn done() -> Self {
        Self::of_one(Node::Bool(true), Bytes::new())
    }

    /// A list with nothing in it.
    pub fn empty_list() -> Self {
        Tape { depth: 1, ..Self::of_one(Node::List(0), Bytes::new()) }
    }

    fn of_one(node: Node, body: Bytes) -> Self {
        Tape { body, text: Vec::new(), nodes: Nodes(vec![node]), depth: 0 }
    }

    /// The value's nodes, itself first.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.nodes.iter().map(|node| self.item(*node))
    }

    #[inline]
    fn item(&self, node: Node) -> Item<'_> {
        fn part(from: &[u8], at: u32, len: u32) -> &[u8] {
            &from[at as usize..][..len as usize]
        }
        match node {
            Node::WholeBody => Item::Bytes(&self.body),
            Node::Null => Item::Null,
            Node::Bool(value) => Item::Bool(value),
            Node::Int(number) => Item::Int(number),
            Node::Uint(number) => Item::Uint(number),
            Node::Float(number) => Item::Float(number),
            Node::InBody { at, len } => Item::Bytes(part(&self.body, at, len)),
            Node::InText { at, len } => Item::Bytes(part(&self.text, at, len)),
            Node::List(count) => Item::List(count),
            Node::Map(count) => Item::Map(count),
        }
    }

    /// How many tables are open at the deepest place; no more than serde_json reads, which is 127.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// How many values and names of members it holds.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The value itself, without what is in it.
    pub fn top(&self) -> Item<'_> {
        self.item(self.nodes[0])
    }

    /// The first item of a list, null when there is none; `None` for anything else.
    pub fn into_first(self) -> Option<Self> {
        match self.nodes[0] {
            Node::List(0) => Some(Self::null()),
            Node::List(_) => Some(self.into_part(1)),
            _ => None,
        }
    }

    /// The member `name` of a map, or `None`.
    pub fn into_member(self, name: &str) -> Option<Self> {
        let found = self.places().filter(|(found, _)| *found == name.as_bytes()).last();
        let at = found.map(|(_, at)| at);
        at.map(|at| self.into_part(at))
    }

    /// The members of a map, each without what is in it; none for anything else.
    pub fn members(&self) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        self.places().map(|(name, at)| (name, self.item(self.nodes[at])))
    }

    /// The names of a map's members and where the members are.
    fn places(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let mut left = if let Node::Map(count) = self.nodes[0] { count } else { 0 };
        let mut next = 1;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let at = next;
            next = self.end(at + 1);
            match self.item(self.nodes[at]) {
                Item::Bytes(name) => Some((name, at + 1)),
                _ => None,
            }
        })
    }

    fn into_part(mut self, at: usize) -> Self {
        let end = self.end(at);
        self.nodes.truncate(end);
        self.nodes.drain(..at);
        self
    }

    /// Where the value that begins at `at` ends.
    fn end(&self, at: usize) -> usize {
        let mut end = at;
        let mut to_come = 1;
        while to_come > 0 {
            to_come += match self.nodes[end] {
                Node::List(count) => count,
                Node::Map(count) => 2 * count,
                _ => 0,
            };
            to_come -= 1;
            end += 1;
        }
        end
    }

    /// The value on its own.
    pub fn value(&self) -> Value {
        value(&mut self.items())
    }
}

impl From<&Value> for Tape {
    fn from(value: &Value) -> Self {
        let mut writer = Writer::new(&[], 1);
        writer.value(value);
        let Writer { text, nodes, depth, .. } = writer;
        Tape { body: Bytes::new(), text, nodes, depth }
    }
}

fn value<'a>(items: &mut impl Iterator<Item = Item<'a>>) -> Value {
    match items.next() {
        None | Some(Item::Null) => Value::Null,
        Some(Item::Bool(value)) => Value::Bool(value),
        Some(Item::Int(number)) => Value::Int(number),
        Some(Item::Uint(number)) => Value::Uint(number),
        Some(Item::Float(number)) => Value::Float(number),
        Some(Item::Bytes(bytes)) => Value::Bytes(bytes.to_vec()),
        Some(Item::List(count)) => Value::List((0..count).map(|_| value(items)).collect()),
        Some(Item::Map(count)) => {
            let mut members = BTreeMap::new();
            for _ in 0..count {
                if let Some(Item::Bytes(name)) = items.next() {
                    members.insert(String::from_utf8_lossy(name).into_owned(), value(items));
                }
            }
            Value::Map(members.into_iter().collect())
        }
    }
}

/// A tape in the making.
struct Writer<'a> {
    body: &'a [u8],
    text: Vec<u8>,
    nodes: Nodes,
    open: usize,
    depth: usize,
}

impl<'a> Writer<'a> {
    fn new(body: &'a [u8], capacity: usize) -> Self {
        Writer { body, text: Vec::new(), nodes: Nodes::with_capacity(capacity), open: 0, depth: 0 }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Foreign(_) => self.nodes.push(Node::Null),
            Value::Bool(value) => self.nodes.push(Node::Bool(*value)),
            Value::Int(number) => self.nodes.push(Node::Int(*number)),
            Value::Uint(number) => self.nodes.push(Node::Uint(*number)),
            Value::Float(number) => self.nodes.push(Node::Float(*number)),
            Value::Bytes(bytes) => self.copied(bytes),
            Value::List(items) => {
                let at = self.enter();
                items.iter().for_each(|item| self.value(item));
                self.leave(at, Node::List(items.len()));
            }
            Value::Map(members) => {
                let at = self.enter();
                for (name, member) in members {
                    self.copied(name.as_bytes());
                    self.value(member);
                }
                self.leave(at, Node::Map(members.len()));
            }
        }
    }

    fn borrowed(&mut self, text: &'a str) {
        let at = text.as_ptr() as usize - self.body.as_ptr() as usize;
        self.nodes.push(Node::InBody { at: at as u32, len: text.len() as u32 });
    }

    /// The string that was put at the end of `text`.
    fn written_from(&mut self, at: usize) {
        self.nodes.push(Node::InText { at: at as u32, len: (self.text.len() - at) as u32 });
    }

    fn copied(&mut self, text: &[u8]) {
        let at = self.text.len();
        self.text.extend_from_slice(text);
        self.written_from(at);
    }

    /// Puts a table before its contents, and says where it is.
    fn enter(&mut self) -> usize {
        self.open += 1;
        self.depth = self.depth.max(self.open);
        self.nodes.push(Node::Null);
        self.nodes.len() - 1
    }

    fn leave(&mut self, at: usize, table: Node) {
        self.open -= 1;
        self.nodes[at] = table;
    }
}

/// What the next value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Plain,
    Entries,
    Results,
    Encoded,
}

impl From<Base64> for What {
    fn from(base64: Base64) -> Self {
        match base64 {
            Base64::Nowhere => What::Plain,
            Base64::InEntries => What::Entries,
            Base64::InResults => What::Results,
        }
    }
}

/// Reads one value onto the tape.
struct Seed<'w, 'a> {
    writer: &'w mut Writer<'a>,
    what: What,
}

impl<'a> DeserializeSeed<'a> for Seed<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Seed<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        match self.what {
            What::Encoded => self.writer.copied(b""),
            _ => self.writer.nodes.push(Node::Null),
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.writer.nodes.push(Node::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.writer.nodes.push(Node::Int(number));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        let node = i64::try_from(number).map_or(Node::Uint(number), Node::Int);
        self.writer.nodes.push(node);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.writer.nodes.push(Node::Float(number));
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<(), E> {
        if self.what == What::Encoded {
            return self.visit_str(text);
        }
        self.writer.borrowed(text);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.what != What::Encoded {
            self.writer.copied(text.as_bytes());
            return Ok(());
        }
        let at = self.writer.text.len();
        BASE64
            .decode_vec(text, &mut self.writer.text)
            .map_err(|error| E::custom(format_args!("a value is not base64: {error}")))?;
        self.writer.written_from(at);
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut items: S) -> Result<(), S::Error> {
        let Seed { writer, what } = self;
        let at = writer.enter();
        let what = if what == What::Entries { what } else { What::Plain };
        let mut count = 0;
        while items.next_element_seed(Seed { writer, what })?.is_some() {
            count += 1;
        }
        writer.leave(at, Node::List(count));
        Ok(())
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        let Seed { writer, what } = self;
        let at = writer.enter();
        let mut count = 0;
        while let Some(member) = members.next_key_seed(Name { writer, of: what })? {
            members.next_value_seed(Seed { writer, what: member })?;
            count += 1;
        }
        writer.leave(at, Node::Map(count));
        Ok(())
    }
}

/// Reads a member's name onto the tape, and tells what the member is.
struct Name<'w, 'a> {
    writer: &'w mut Writer<'a>,
    of: What,
}

impl Name<'_, '_> {
    fn member(&self, name: &str) -> What {
        match (self.of, name) {
            (What::Entries, "Value" | "Payload") => What::Encoded,
            (What::Entries, "KV") | (What::Results, "Results") => What::Entries,
            _ => What::Plain,
        }
    }
}

impl<'a> DeserializeSeed<'a> for Name<'_, 'a> {
    type Value = What;

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<What, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name<'_, 'a> {
    type Value = What;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<What, E> {
        let member = self.member(name);
        self.writer.borrowed(name);
        Ok(member)
    }

    fn visit_str<E>(self, name: &str) -> Result<What, E> {
        let member = self.member(name);
        self.writer.copied(name.as_bytes());
        Ok(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tape(json: &str, base64: Base64) -> Result<Tape, serde_json::Error> {
        Tape::of_json(Bytes::copy_from_slice(json.as_bytes()), base64)
    }

    fn read(json: &str, base64: Base64) -> Value {
        tape(json, base64).expect("it is JSON").value()
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u64>().prop_map(serde_json::Value::from),
            // Halves, since serde_json reads long fractions to the last digit but one.
            any::<i32>().prop_map(|number| serde_json::Value::from(f64::from(number) / 2.0)),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(5, 50, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..8)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>())
                    .prop_map(serde_json::Value::from),
            ]
        })
    }

    proptest! {
        /// serde_json's own tree is the oracle.
        #[test]
        fn any_json_reads_as_serde_json_reads_it(json in any_json(), pretty in any::<bool>()) {
            let text = if pretty { format!("{json:#}") } else { json.to_string() };
            prop_assert_eq!(read(&text, Base64::Nowhere), Value::from(json));
        }

        #[test]
        fn a_value_on_a_tape_stays_the_same(json in any_json()) {
            let value = Value::from(json);
            prop_assert_eq!(Tape::from(&value).value(), value);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Tape::of_json(Bytes::from(body), Base64::InEntries);
        }

        /// Cut anywhere, a table is not JSON any more.
        #[test]
        fn a_part_of_a_table_is_refused(json in any_json(), cut in any::<prop::sample::Index>()) {
            let text = serde_json::json!([json]).to_string();
            let mut bytes = text.into_bytes();
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(Tape::of_json(Bytes::from(bytes), Base64::Nowhere).is_err());
        }
    }

    #[test]
    fn base64_is_decoded_where_an_entry_has_it_and_nowhere_else() {
        let entry = r#"{"Key": "a", "Value": "AP8=", "Other": {"Value": "AP8="}}"#;
        let decoded = |value: &Value| {
            assert_eq!(value.get("Value"), Some(&Value::from(vec![0, 255])));
            assert_eq!(value.get("Other").and_then(|v| v.get("Value")), Some(&"AP8=".into()));
        };
        decoded(&read(&format!("[{entry}]"), Base64::InEntries).items()[0]);
        let result = format!(r#"{{"Results": [{{"KV": {entry}}}], "KV": {entry}}}"#);
        let result = read(&result, Base64::InResults);
        decoded(result.get("Results").unwrap().items()[0].get("KV").unwrap());
        assert_eq!(result.get("KV").unwrap().get("Value"), Some(&"AP8=".into()));
        assert_eq!(read(entry, Base64::Nowhere).get("Value"), Some(&"AP8=".into()));
        assert_eq!(read(r#"{"Value": null}"#, Base64::InEntries).get("Value"), Some(&"".into()));
        assert_eq!(read(r#"{"Payload": "\u0041A=="}"#, Base64::InEntries), {
            Value::Map(vec![("Payload".into(), Value::from(vec![0]))])
        });
        let error = tape(r#"[{"Value": "%%"}]"#, Base64::InEntries).unwrap_err();
        assert!(error.to_string().contains("not base64"), "{error}");
    }

    #[test]
    fn the_last_of_two_members_with_one_name_counts() {
        let twice = r#"{"a": 1, "b": [{}], "a": [2, {"a": 3}], "c": 0}"#;
        let last = Value::List(vec![2.into(), Value::Map(vec![("a".into(), 3.into())])]);
        assert_eq!(read(twice, Base64::Nowhere).get("a"), Some(&last));
        let member = tape(twice, Base64::Nowhere).unwrap().into_member("a").unwrap();
        assert_eq!(member.value(), last);
        assert_eq!(member.items().count(), 5);
    }

    #[test]
    fn a_part_is_a_tape_of_its_own() {
        let list = |json| tape(json, Base64::Nowhere).unwrap();
        assert_eq!(list(r#"[[1, {"a": []}], 2]"#).into_first().unwrap().items().count(), 5);
        assert_eq!(list("[]").into_first().unwrap().value(), Value::Null);
        assert!(list("{}").into_first().is_none());
        assert!(list(r#"{"a": 1}"#).into_member("b").is_none());
        assert!(list(r#"[["a", 1]]"#).into_member("a").is_none());
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(tape(&nested(127), Base64::Nowhere).unwrap().depth(), 127);
        assert!(tape(&nested(128), Base64::Nowhere).is_err());
        assert!(tape(&nested(100_000), Base64::Nowhere).is_err());
    }

    #[test]
    fn a_string_that_is_not_utf8_is_refused() {
        assert!(Tape::of_json(Bytes::from_static(b"\"\xff\""), Base64::Nowhere).is_err());
    }
}
