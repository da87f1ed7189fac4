//! A decoded answer as one flat list of nodes: each table precedes its contents.
//!
//! A body is read once, without an allocation per value. The reader of a tape knows the size of a table
//! before its contents and needs no memory of its own, so that the code that puts a tape on a Lua stack
//! can be left by Lua's longjmp.

mod nodes;
mod write;

use super::value::Value;
use bytes::Bytes;
use nodes::Nodes;
use std::collections::BTreeMap;

/// A value with everything in it.
#[derive(Clone, Debug)]
pub struct Tape {
    body: Bytes,
    /// Strings that are not in the body as they are: unescaped, or decoded from base64.
    text: Vec<u8>,
    nodes: Nodes,
    depth: usize,
}

/// A node of a tape. A string is an offset and a length, half the size of a slice.
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

/// A node as a reader sees it.
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
    /// A list of n values, which follow.
    List(usize),
    /// A map of n members, each a name and a value, which follow. If a name occurs twice, the last one
    /// counts.
    Map(usize),
}

/// The reason why a body is not the answer that was asked for.
#[derive(Debug)]
pub enum NotTheAnswer {
    /// It is about what has this name or key.
    AboutAnother(String),
    /// It has another form.
    Invalid(String),
}

impl Tape {
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

    /// The nesting depth of tables, up to serde_json's limit of 127.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The number of values and names of members.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The objects of the list, each with the name and the index of its first member; `None` if it is not a list of
    /// objects with one member each.
    pub fn tagged(&self) -> Option<Vec<(&[u8], usize)>> {
        let Node::List(count) = self.nodes[0] else { return None };
        let mut at = 1;
        let next = |_| {
            let only = self.offsets(at).next().filter(|_| matches!(self.nodes[at], Node::Map(1)));
            at = self.end(at);
            only
        };
        (0..count).map(next).collect()
    }

    /// The string at the end of a path of members, from the index of a map.
    pub fn text_at(&self, at: usize, path: &[&str]) -> Option<&[u8]> {
        let end = path.iter().try_fold(at, |at, name| self.member(at, name.as_bytes()))?;
        match self.item(self.nodes[end]) {
            Item::Bytes(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the value at this index is the empty string.
    pub fn is_empty_at(&self, at: usize) -> bool {
        self.item(self.nodes[at]) == Item::Bytes(b"")
    }

    /// Makes the string at this index null.
    pub fn set_null(&mut self, at: usize) {
        self.nodes[at] = Node::Null;
    }

    /// The value itself, without its contents.
    pub fn top(&self) -> Item<'_> {
        self.item(self.nodes[0])
    }

    /// The first item of a list, null if it is empty; `None` for any other value.
    pub fn into_first(self) -> Option<Self> {
        match self.nodes[0] {
            Node::List(0) => Some(Self::null()),
            Node::List(_) => Some(self.into_part(1)),
            _ => None,
        }
    }

    /// The member `name` of a map, or `None`.
    pub fn into_member(self, name: &str) -> Option<Self> {
        let at = self.member(0, name.as_bytes());
        at.map(|at| self.into_part(at))
    }

    /// The index of the member `name` of the map at `at`.
    pub fn member(&self, at: usize, name: &[u8]) -> Option<usize> {
        let found = self.offsets(at).filter(|(found, _)| *found == name).last();
        found.map(|(_, at)| at)
    }

    /// The members of a map, each without its contents; no members for any other value.
    pub fn members(&self) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        self.offsets(0).map(|(name, at)| (name, self.item(self.nodes[at])))
    }

    /// The names of the members of the map at `at`, and the index of each member.
    fn offsets(&self, at: usize) -> impl Iterator<Item = (&[u8], usize)> {
        let mut left = if let Node::Map(count) = self.nodes[at] { count } else { 0 };
        let mut next = at + 1;
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

    /// The index behind the value at `at`.
    fn end(&self, at: usize) -> usize {
        let mut end = at;
        let mut missing = 1;
        while missing > 0 {
            missing += match self.nodes[end] {
                Node::List(count) => count,
                Node::Map(count) => 2 * count,
                _ => 0,
            };
            missing -= 1;
            end += 1;
        }
        end
    }

    /// The value as a tree.
    pub fn value(&self) -> Value {
        value(&mut self.items())
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

#[cfg(test)]
mod tests;
