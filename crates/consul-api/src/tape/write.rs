//! Writes tapes: from JSON, and from values.

use super::nodes::Nodes;
use super::{Node, NotTheAnswer, Tape};
use crate::table::{Form, Member};
use crate::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{
    DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use std::fmt;

impl Tape {
    /// Decodes a JSON text.
    ///
    /// # Errors
    /// Where the text is not JSON, or that it is larger than 2 GiB.
    pub fn of_json(body: Bytes) -> Result<Self, serde_json::Error> {
        let mut writer = Writer::new(&body, body.len() / 16 + 1);
        writer.json(&Form::Any)?;
        let Writer { text, nodes, depth, .. } = writer;
        Ok(Tape { body, text, nodes, depth })
    }

    /// Decodes a JSON text of this form, about what has the name or key `subject`. `given` are the parameters of the
    /// request.
    ///
    /// # Errors
    /// That it is about another one; else where it has another form.
    pub fn of_answer(
        body: Bytes,
        form: &Form,
        subject: &[u8],
        given: &dyn Fn(&str) -> Vec<String>,
    ) -> Result<Self, NotTheAnswer> {
        // Consul's answers have about one value per 16 bytes.
        let mut writer = Writer::new(&body, body.len() / 16 + 1);
        (writer.subject, writer.given) = (subject, given);
        let written = writer.json(form);
        if let Some(other) = writer.other {
            return Err(NotTheAnswer::AboutAnother(other));
        }
        written.map_err(|error| NotTheAnswer::Invalid(error.to_string()))?;
        let Writer { text, nodes, depth, .. } = writer;
        Ok(Tape { body, text, nodes, depth })
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
    /// The name or key that the answer is to be about.
    subject: &'a [u8],
    /// The parameters of the request.
    given: &'a dyn Fn(&str) -> Vec<String>,
    /// Its subject instead.
    other: Option<String>,
    /// Whether this is an item of a list whose items may have another form.
    is_tolerant: bool,
    /// Whether the item of that list has another form.
    is_wrong: bool,
}

impl<'a> Writer<'a> {
    fn new(body: &'a [u8], capacity: usize) -> Self {
        Writer {
            body,
            text: Vec::new(),
            nodes: Nodes::with_capacity(capacity),
            open: 0,
            depth: 0,
            subject: &[],
            given: &|_| Vec::new(),
            other: None,
            is_tolerant: false,
            is_wrong: false,
        }
    }

    /// Writes the JSON text of the body.
    fn json(&mut self, form: &Form) -> Result<(), serde_json::Error> {
        if i32::try_from(self.body.len()).is_err() {
            return Err(serde_json::Error::custom("it is larger than 2 GiB"));
        }
        // One check of the whole text is faster than one of each string.
        let text =
            str::from_utf8(self.body).map_err(|_| serde_json::Error::custom("it is not UTF-8"))?;
        let mut input = serde_json::Deserializer::from_str(text);
        Seed { writer: self, form }.deserialize(&mut input)?;
        input.end()
    }

    /// Refuses a value of another form, unless it is in a list where some may have one.
    fn mismatch<E: Error>(&mut self, error: impl FnOnce() -> E) -> Result<(), E> {
        self.is_wrong = true;
        if self.is_tolerant { Ok(()) } else { Err(error()) }
    }

    /// Refuses a string that names another subject.
    fn name<E: Error>(&mut self, name: &str, form: &Form) -> Result<(), E> {
        let is_subject = match form {
            Form::Key => name.as_bytes() == self.subject,
            Form::Under => name.as_bytes().starts_with(self.subject),
            Form::Given(parameter) | Form::ByGiven(parameter, _) => {
                let given = (self.given)(parameter);
                given.is_empty() || given.iter().any(|it| is_same_name(name, it.as_bytes()))
            }
            Form::NameOrId => is_same_name(name, self.subject) || is_of_id(self.subject),
            _ => is_same_name(name, self.subject),
        };
        if is_subject {
            return Ok(());
        }
        self.other = Some(name.to_owned());
        Err(E::custom("it is about another subject"))
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

    fn base64<E: Error>(&mut self, text: &str) -> Result<(), E> {
        let at = self.text.len();
        BASE64
            .decode_vec(text, &mut self.text)
            .map_err(|error| E::custom(format_args!("a value is not base64: {error}")))?;
        self.written_from(at);
        Ok(())
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

/// Whether two names are the same for Consul, which ignores their case.
fn is_same_name(name: &str, subject: &[u8]) -> bool {
    name.as_bytes().eq_ignore_ascii_case(subject)
        || !name.is_ascii()
            && str::from_utf8(subject).is_ok_and(|it| it.to_lowercase() == name.to_lowercase())
}

impl Expected for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Any => "any value",
            Form::Nothing => "nothing",
            Form::Text | Form::Name | Form::NameOrId | Form::Given(_) => "a string",
            Form::Address => "an address",
            Form::Some(form) => return form.fmt(f),
            Form::Key | Form::Under => "a key",
            Form::Bool => "true or false",
            Form::Number => "a number",
            Form::Bytes => "base64",
            Form::OrNull(form) => return form.fmt(f),
            Form::List(_) | Form::Entries(_) => "a list",
            Form::Map(_) | Form::ByGiven(..) | Form::Object(_) => "an object",
        })
    }
}

/// Deserializes one value onto the tape.
struct Seed<'w, 'a, 'f> {
    writer: &'w mut Writer<'a>,
    form: &'f Form,
}

impl Seed<'_, '_, '_> {
    /// Checks that the form of the value, which is not null, is one of these.
    fn check<E: Error>(
        &mut self,
        value: Unexpected,
        is_right: impl FnOnce(&Form) -> bool,
    ) -> Result<(), E> {
        if let Form::OrNull(form) | Form::Some(form) = self.form {
            self.form = form;
        }
        let form = self.form;
        if *form == Form::Any || is_right(form) {
            return Ok(());
        }
        self.form = &Form::Any;
        self.writer.mismatch(|| E::invalid_type(value, form))
    }

    fn number<E: Error>(mut self, node: Node) -> Result<(), E> {
        self.check(Unexpected::Other("number"), |form| *form == Form::Number)?;
        self.writer.nodes.push(node);
        Ok(())
    }

    /// Checks a string; returns whether it is base64.
    fn string<E: Error>(&mut self, text: &str) -> Result<bool, E> {
        let needs_one = matches!(self.form, Form::Some(_));
        self.check(Unexpected::Other("string"), |form| match form {
            _ if needs_one && text.is_empty() => false,
            Form::Text
            | Form::Bytes
            | Form::Name
            | Form::NameOrId
            | Form::Given(_)
            | Form::Key
            | Form::Under => true,
            Form::Address => text.is_empty() || is_address(text),
            _ => false,
        })?;
        if matches!(
            self.form,
            Form::Name | Form::NameOrId | Form::Given(_) | Form::Key | Form::Under
        ) {
            self.writer.name(text, self.form)?;
        }
        Ok(*self.form == Form::Bytes)
    }
}

/// Whether a text can be the beginning of a node's id; Consul takes two characters and more of it.
fn is_of_id(text: &[u8]) -> bool {
    text.len() >= 2 && text.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some() && !text.contains(char::is_whitespace)
}

impl<'a> DeserializeSeed<'a> for Seed<'_, 'a, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Seed<'_, 'a, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.form.fmt(f)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        match self.form {
            Form::Bytes => self.writer.copied(b""),
            form => {
                if !matches!(form, Form::Any | Form::OrNull(_)) {
                    self.writer.mismatch(|| E::invalid_type(Unexpected::Other("null"), form))?;
                }
                self.writer.nodes.push(Node::Null);
            }
        }
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.check(Unexpected::Other("boolean"), |form| *form == Form::Bool)?;
        self.writer.nodes.push(Node::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.number(Node::Int(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.number(i64::try_from(number).map_or(Node::Uint(number), Node::Int))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.number(Node::Float(number))
    }

    fn visit_borrowed_str<E: Error>(mut self, text: &'a str) -> Result<(), E> {
        match self.string(text)? {
            true => self.writer.base64(text),
            false => {
                self.writer.borrowed(text);
                Ok(())
            }
        }
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        match self.string(text)? {
            true => self.writer.base64(text),
            false => {
                self.writer.copied(text.as_bytes());
                Ok(())
            }
        }
    }

    fn visit_seq<S: SeqAccess<'a>>(mut self, mut items: S) -> Result<(), S::Error> {
        let needs_one = matches!(self.form, Form::Some(_));
        let is_list = |form: &Form| matches!(form, Form::List(_) | Form::Entries(_));
        self.check(Unexpected::Seq, is_list)?;
        let Seed { writer, form } = self;
        let item = match form {
            Form::List(item) | Form::Entries(item) => item,
            _ => &Form::Any,
        };
        let is_tolerant = matches!(form, Form::Entries(_));
        writer.is_tolerant |= is_tolerant;
        let at = writer.enter();
        let (mut count, mut wrong) = (0, 0);
        loop {
            writer.is_wrong &= !is_tolerant;
            if items.next_element_seed(Seed { writer, form: item })?.is_none() {
                break;
            }
            count += 1;
            wrong += usize::from(writer.is_wrong);
        }
        writer.is_tolerant &= !is_tolerant;
        writer.leave(at, Node::List(count));
        let is_below_all = *item == Form::Under && writer.subject.is_empty();
        if needs_one && count == 0 && !is_below_all {
            writer.mismatch(|| S::Error::custom("it is empty"))?;
        }
        if is_tolerant && count > 0 && wrong == count {
            return Err(S::Error::custom("no item of the list has the expected members"));
        }
        Ok(())
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut members: M) -> Result<(), M::Error> {
        let needs_one = matches!(self.form, Form::Some(_));
        self.check(Unexpected::Map, |form| {
            matches!(form, Form::Map(_) | Form::ByGiven(..) | Form::Object(_))
        })?;
        let Seed { writer, form } = self;
        let at = writer.enter();
        let (mut count, mut seen) = (0, 0_u32);
        while let Some((member, place)) = members.next_key_seed(Name { writer, parent: form })? {
            let bit = place.map_or(0, |place| 1 << place);
            if seen & bit != 0 {
                writer.mismatch(|| M::Error::custom("it has a member twice"))?;
            }
            seen |= bit;
            let other = match form {
                Form::ByGiven(..) => writer.other.take(),
                _ => None,
            };
            members.next_value_seed(Seed { writer, form: member })?;
            if other.is_some() {
                writer.other = other;
                return Err(M::Error::custom("it is about another subject"));
            }
            count += 1;
        }
        if let Form::Object(wanted) = form {
            let is_missing = |(place, member): &(usize, &Member)| {
                !member.is_optional && seen & (1 << place) == 0
            };
            if let Some((_, Member { name, .. })) = wanted.iter().enumerate().find(is_missing) {
                writer.mismatch(|| M::Error::custom(format_args!("it has no {name}")))?;
            }
        }
        writer.leave(at, Node::Map(count));
        if needs_one && count == 0 {
            writer.mismatch(|| M::Error::custom("it is empty"))?;
        }
        Ok(())
    }
}

/// Deserializes a member's name onto the tape, and returns the form of the member and its place among the declared
/// ones.
struct Name<'w, 'a, 'f> {
    writer: &'w mut Writer<'a>,
    parent: &'f Form,
}

impl<'f> Name<'_, '_, 'f> {
    fn member(&mut self, name: &str) -> (&'f Form, Option<usize>) {
        match self.parent {
            Form::ByGiven(_, each) => {
                // The form of the member is checked first: it tells the answer of another program.
                let _ = self.writer.name::<serde_json::Error>(name, self.parent);
                (each, None)
            }
            Form::Map(each) => (each, None),
            Form::Object(members) => {
                let place = members.iter().position(|member| member.name == name);
                (place.map_or(&Form::Any, |place| &members[place].form), place)
            }
            _ => (&Form::Any, None),
        }
    }
}

impl<'a, 'f> DeserializeSeed<'a> for Name<'_, 'a, 'f> {
    type Value = (&'f Form, Option<usize>);

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'a, 'f> Visitor<'a> for Name<'_, 'a, 'f> {
    type Value = (&'f Form, Option<usize>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(mut self, name: &'a str) -> Result<Self::Value, E> {
        let member = self.member(name);
        self.writer.borrowed(name);
        Ok(member)
    }

    fn visit_str<E>(mut self, name: &str) -> Result<Self::Value, E> {
        let member = self.member(name);
        self.writer.copied(name.as_bytes());
        Ok(member)
    }
}
