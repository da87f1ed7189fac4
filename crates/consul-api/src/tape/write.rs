//! Writes tapes: from JSON, and from values.

use super::nodes::Nodes;
use super::{Base64, Keys, Node, NotEntries, Tape};
use crate::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use std::fmt;

impl Tape {
    /// Decodes a JSON text.
    ///
    /// # Errors
    /// Where the text is not JSON or a value not base64, or that it is larger than 2 GiB.
    pub fn of_json(body: Bytes, base64: Base64) -> Result<Self, serde_json::Error> {
        // Consul's answers have about one value per 16 bytes.
        let mut writer = Writer::new(&body, body.len() / 16 + 1);
        writer.json(base64)?;
        let Writer { text, nodes, depth, .. } = writer;
        Ok(Tape { body, text, nodes, depth })
    }

    /// Decodes a list of KV entries, whose values become bytes.
    ///
    /// # Errors
    /// An entry of another key; else that it is not a list of entries.
    pub fn of_entries(body: Bytes, keys: Keys) -> Result<Self, NotEntries> {
        let mut writer = Writer::new(&body, body.len() / 16 + 1);
        writer.keys = Some(keys);
        let written = writer.json(Base64::InEntries);
        if let Some(key) = writer.other_key {
            return Err(NotEntries::OtherKey(key));
        }
        written.map_err(|error| NotEntries::Invalid(error.to_string()))?;
        let Writer { text, nodes, depth, key_count, .. } = writer;
        match nodes[0] {
            Node::List(count) if count == key_count => Ok(Tape { body, text, nodes, depth }),
            _ => Err(NotEntries::Invalid("expected a list of entries with keys".to_owned())),
        }
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

/// An unfinished tape.
struct Writer<'a> {
    body: &'a [u8],
    text: Vec<u8>,
    nodes: Nodes,
    /// The number of tables that are not complete.
    open: usize,
    depth: usize,
    /// The keys that entries may have.
    keys: Option<Keys<'a>>,
    /// The first other key.
    other_key: Option<String>,
    key_count: usize,
}

impl<'a> Writer<'a> {
    fn new(body: &'a [u8], capacity: usize) -> Self {
        Writer {
            body,
            text: Vec::new(),
            nodes: Nodes::with_capacity(capacity),
            open: 0,
            depth: 0,
            keys: None,
            other_key: None,
            key_count: 0,
        }
    }

    /// Writes the JSON text of the body.
    fn json(&mut self, base64: Base64) -> Result<(), serde_json::Error> {
        if i32::try_from(self.body.len()).is_err() {
            return Err(serde_json::Error::custom("it is larger than 2 GiB"));
        }
        // One check of the whole text is faster than one of each string.
        let text =
            str::from_utf8(self.body).map_err(|_| serde_json::Error::custom("it is not UTF-8"))?;
        let mut input = serde_json::Deserializer::from_str(text);
        Seed { writer: self, part: Part::from(base64) }.deserialize(&mut input)?;
        input.end()
    }

    /// Notes the key of an entry.
    fn key(&mut self, key: &str) {
        self.key_count += 1;
        if self.keys.is_some_and(|keys| !keys.include(key.as_bytes())) && self.other_key.is_none() {
            self.other_key = Some(key.to_owned());
        }
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

    /// Adds the string that `text` has from `at` to its end.
    fn written_from(&mut self, at: usize) {
        self.nodes.push(Node::InText { at: at as u32, len: (self.text.len() - at) as u32 });
    }

    fn copied(&mut self, text: &[u8]) {
        let at = self.text.len();
        self.text.extend_from_slice(text);
        self.written_from(at);
    }

    /// Begins a table, and returns its index.
    fn enter(&mut self) -> usize {
        self.open += 1;
        self.depth = self.depth.max(self.open);
        self.nodes.push(Node::Null);
        self.nodes.len() - 1
    }

    /// Completes the table at this index.
    fn leave(&mut self, at: usize, table: Node) {
        self.open -= 1;
        self.nodes[at] = table;
    }
}

/// Which part of an answer a value is, by which base64 is decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Plain,
    /// One entry, or a list of them.
    Entries,
    /// An entry of a list.
    Entry,
    Results,
    Encoded,
    Key,
}

impl Part {
    /// Refuses a value that is never this part.
    fn refuse<E: Error>(self, value: Unexpected) -> Result<(), E> {
        match self {
            Part::Plain => Ok(()),
            Part::Entries => Err(E::invalid_type(value, &"entries")),
            Part::Entry => Err(E::invalid_type(value, &"an entry")),
            Part::Results => Err(E::invalid_type(value, &"results")),
            Part::Encoded => Err(E::invalid_type(value, &"base64")),
            Part::Key => Err(E::invalid_type(value, &"a key")),
        }
    }
}

impl From<Base64> for Part {
    fn from(base64: Base64) -> Self {
        match base64 {
            Base64::Nowhere => Part::Plain,
            Base64::InEntries => Part::Entries,
            Base64::InResults => Part::Results,
        }
    }
}

/// Deserializes one value onto the tape.
struct Seed<'w, 'a> {
    writer: &'w mut Writer<'a>,
    part: Part,
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
        match self.part {
            Part::Encoded => self.writer.copied(b""),
            _ => self.writer.nodes.push(Node::Null),
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.part.refuse(Unexpected::Other("boolean"))?;
        self.writer.nodes.push(Node::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.part.refuse(Unexpected::Other("number"))?;
        self.writer.nodes.push(Node::Int(number));
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.part.refuse(Unexpected::Other("number"))?;
        let node = i64::try_from(number).map_or(Node::Uint(number), Node::Int);
        self.writer.nodes.push(node);
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.part.refuse(Unexpected::Other("number"))?;
        self.writer.nodes.push(Node::Float(number));
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<(), E> {
        match self.part {
            Part::Encoded => return self.visit_str(text),
            Part::Key => self.writer.key(text),
            part => part.refuse(Unexpected::Other("string"))?,
        }
        self.writer.borrowed(text);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.part {
            Part::Encoded => {}
            Part::Key => self.writer.key(text),
            part => part.refuse(Unexpected::Other("string"))?,
        }
        if self.part != Part::Encoded {
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
        let Seed { writer, part } = self;
        let part = match part {
            Part::Entries => Part::Entry,
            part => {
                part.refuse(Unexpected::Seq)?;
                part
            }
        };
        let at = writer.enter();
        let mut count = 0;
        while items.next_element_seed(Seed { writer, part })?.is_some() {
            count += 1;
        }
        writer.leave(at, Node::List(count));
        Ok(())
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        let Seed { writer, part } = self;
        if !matches!(part, Part::Entries | Part::Entry | Part::Results) {
            part.refuse(Unexpected::Map)?;
        }
        let at = writer.enter();
        let (mut count, mut has_value) = (0, false);
        while let Some(member) = members.next_key_seed(Name { writer, parent: part })? {
            if member == Part::Encoded && std::mem::replace(&mut has_value, true) {
                return Err(M::Error::custom("an entry has two values"));
            }
            members.next_value_seed(Seed { writer, part: member })?;
            count += 1;
        }
        writer.leave(at, Node::Map(count));
        Ok(())
    }
}

/// Deserializes a member's name onto the tape, and returns which part the member is.
struct Name<'w, 'a> {
    writer: &'w mut Writer<'a>,
    parent: Part,
}

impl Name<'_, '_> {
    fn member(&self, name: &str) -> Part {
        match (self.parent, name) {
            (Part::Entries | Part::Entry, "Value" | "Payload") => Part::Encoded,
            (Part::Entries | Part::Entry, "Key") => Part::Key,
            (Part::Entries | Part::Entry, "KV") => Part::Entry,
            (Part::Results, "Results") => Part::Entries,
            _ => Part::Plain,
        }
    }
}

impl<'a> DeserializeSeed<'a> for Name<'_, 'a> {
    type Value = Part;

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<Part, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name<'_, 'a> {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Part, E> {
        let member = self.member(name);
        self.writer.borrowed(name);
        Ok(member)
    }

    fn visit_str<E>(self, name: &str) -> Result<Part, E> {
        let member = self.member(name);
        self.writer.copied(name.as_bytes());
        Ok(member)
    }
}
