//! One of the two servers: what is asked of it, byte by byte, and its answers in comparable form.

use crate::support::PATIENCE;
use crate::support::consul::RealConsul;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One request, with ids as `{id0}`.
#[derive(Clone)]
pub struct Step {
    pub method: String,
    pub target: Vec<u8>,
    pub token: Option<String>,
    pub body: Vec<u8>,
}

impl Step {
    fn new(method: &str, target: String, body: &Value) -> Step {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Step {
            method: method.to_owned(),
            target: target.into(),
            token: Some(MANAGEMENT.to_owned()),
            body: body.into(),
        }
    }

    /// The request as a command, for a server in `$S`, with the ids of this side.
    pub fn command(&self, side: &Side) -> String {
        let quoted = |bytes: &[u8]| format!("'{}'", side.filled(bytes).replace('\'', "'\\''"));
        let token = self
            .token
            .as_ref()
            .map(|token| format!(" -H {}", quoted(format!("X-Consul-Token: {token}").as_bytes())));
        let body = if self.body.is_empty() {
            String::new()
        } else {
            format!(" --data-binary {}", quoted(&self.body))
        };
        let method =
            if self.method == "HEAD" { "-I".to_owned() } else { format!("-X{}", self.method) };
        format!(
            "curl -sg {method}{}{body} \"$S\"{}",
            token.unwrap_or_default(),
            quoted(&self.target)
        )
    }
}

const MANAGEMENT: &str = "{management}";
/// An id that nothing has.
const UNKNOWN: &str = "d7a02a1c-0b0b-4b0b-8b0b-000000000000";

/// An answer in comparable form.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// The headers that are not compared: what depends on times, lengths and the cache of Consul's agent.
const OTHER_HEADERS: &[&str] = &[
    "date",
    "content-length",
    "transfer-encoding",
    "age",
    "x-cache",
    "x-consul-lastcontact",
    "x-consul-contenthash",
];

/// The status, the headers and the body of an answer.
type Raw = (u16, Vec<(String, String)>, Vec<u8>);

/// Both have one name.
const CONFIG: &str = "crates/consul-sim/tests/simulated/programs/node.json";

pub struct Side {
    server: RealConsul,
    connection: Option<BufReader<TcpStream>>,
    /// The ids of what a sequence has created.
    ids: Vec<String>,
    /// Parts of texts that each server has of its own, and what takes their place.
    own: Vec<(String, &'static str)>,
}

impl Side {
    pub fn start(version: &str, has_acls: bool) -> Result<Side, String> {
        let server = match has_acls {
            true => RealConsul::run(version, &["--acl", "deny", "--config", CONFIG])?,
            false => RealConsul::start_with_config(version, CONFIG)?,
        };
        let mut side = Side { server, connection: None, ids: Vec::new(), own: Vec::new() };
        let about = side.read("/v1/agent/self");
        for (pointer, symbol) in [("/Config/NodeID", "<node id>"), ("/Member/Tags/port", "<port>")]
        {
            let own =
                about.pointer(pointer).and_then(Value::as_str).expect("an agent describes itself");
            side.own.push((own.to_owned(), symbol));
        }
        while !side.read("/v1/catalog/nodes").to_string().contains("lan_ipv4") {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(side)
    }

    /// The text with this side's ids and token.
    fn filled(&self, bytes: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(bytes).replace(MANAGEMENT, &self.server.token);
        for place in 0..3 {
            let id = self.ids.get(place).map_or(UNKNOWN, String::as_str);
            text = text.replace(&format!("{{id{place}}}"), id);
        }
        text
    }

    /// The status, the headers and the body; `None` if the server closes the connection instead.
    fn ask(&mut self, step: &Step) -> Option<Raw> {
        let body = self.filled(&step.body);
        let token = step.token.as_ref().filter(|_| !self.server.token.is_empty());
        let token = token.map_or_else(String::new, |token| {
            format!("X-Consul-Token: {}\r\n", self.filled(token.as_bytes()))
        });
        let (method, target, length) = (&step.method, self.filled(&step.target), body.len());
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {length}\r\n\r\n{body}"
        );
        loop {
            let is_new = self.connection.is_none();
            match self.exchange(&request, method == "HEAD") {
                Ok(answer) => return Some(answer),
                Err(_) if is_new => return None,
                // The server has closed it meanwhile.
                Err(_) => {}
            }
        }
    }

    fn exchange(&mut self, request: &str, has_no_body: bool) -> io::Result<Raw> {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.server.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = || -> io::Result<String> {
            let mut line = Vec::new();
            match stream.read_until(b'\n', &mut line)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            }
        };
        let status = line()?
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        };
        let mut body = Vec::new();
        if header("transfer-encoding") == Some("chunked") && !has_no_body {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16)
                    .map_err(|_| io::ErrorKind::InvalidData)?;
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk)?;
                body.extend(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if !has_no_body && status != 204 {
            let length =
                header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            body = vec![0; length];
            stream.read_exact(&mut body)?;
        }
        if header("connection") != Some("close") {
            self.connection = Some(stream);
        }
        Ok((status, headers, body))
    }

    /// The answer in comparable form.
    pub fn see(&mut self, step: &Step) -> Option<Seen> {
        let (status, headers, body) = self.ask(step)?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let json: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(created) =
            json.as_ref().filter(|_| status == 200 && matches!(&*step.method, "PUT" | "POST"))
        {
            let id = created.get("AccessorID").or(created.get("ID")).and_then(Value::as_str);
            if let Some(id) =
                id.filter(|id| id.len() == 36 && !self.ids.iter().any(|known| known == id))
            {
                self.ids.push(id.to_owned());
            }
        }
        let mut kept = BTreeMap::new();
        for (name, value) in headers {
            if OTHER_HEADERS.contains(&&*name) {
                continue;
            }
            let value = if name == "x-consul-index" {
                (value != "0").to_string()
            } else {
                self.common(&value)
            };
            kept.insert(name, value);
        }
        let mut body = json.unwrap_or(Value::String(text));
        self.normalise(&mut body, "");
        let is_in_order =
            [b"/v1/kv", b"/v1/tx"].iter().any(|start| step.target.starts_with(*start));
        if !is_in_order {
            sort(&mut body);
        }
        Some(Seen { status, headers: kept, body })
    }

    fn normalise(&self, value: &mut Value, name: &str) {
        match value {
            Value::Object(members) => {
                members.iter_mut().for_each(|(name, member)| self.normalise(member, name))
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.normalise(item, name)),
            Value::Number(number)
                if matches!(
                    name,
                    "CreateIndex" | "ModifyIndex" | "Index" | "LTime" | "LastIndex"
                ) =>
            {
                *value = (number.as_u64() > Some(0)).into();
            }
            Value::Number(number) if name.ends_with("Port") => {
                let is_own = self
                    .own
                    .iter()
                    .any(|(own, symbol)| *symbol == "<port>" && *own == number.to_string());
                if is_own {
                    *value = "<port>".into();
                }
            }
            // In answers of prepared queries Consul has null for a node without checks.
            Value::Null if matches!(name, "Checks" | "ServiceTags") => {
                *value = Value::Array(Vec::new())
            }
            Value::String(_) | Value::Number(_) if matches!(name, "Hash" | "ContentHash") => {
                *value = "<hash>".into()
            }
            Value::String(text) => *text = self.common(text),
            _ => {}
        }
    }

    /// A text without ids, times, indexes and ports.
    fn common(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (own, symbol) in &self.own {
            // A port is part of an address.
            let own = if *symbol == "<port>" { format!(":{own}") } else { own.clone() };
            text = text.replace(&own, symbol);
        }
        for (place, id) in self.ids.iter().enumerate() {
            text = text.replace(id, &format!("<id {place}>"));
        }
        while let Some(at) = position(&text, UUID) {
            text.replace_range(at..at + UUID.len(), "<id>");
        }
        while let Some(at) = position(&text, TIME) {
            let end = text[at + TIME.len()..]
                .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | 'Z' | '+' | ':'));
            text.replace_range(at..end.map_or(text.len(), |end| at + TIME.len() + end), "<time>");
        }
        for before in ["modify index ", "reset index: "] {
            if let Some(at) = text.find(before) {
                let start = at + before.len();
                let end = text[start..]
                    .find(|c: char| !c.is_ascii_digit())
                    .map_or(text.len(), |end| start + end);
                text.replace_range(start..end, "<index>");
            }
        }
        // The tokens that would be valid at the wrong place of a filter.
        // How long a time was, in nanoseconds.
        for before in ["no match found", "(was "] {
            if let Some(at) = text.find(before) {
                text.truncate(at);
            }
        }
        text
    }

    fn read(&mut self, target: &str) -> Value {
        let answer = self.ask(&Step::new("GET", target.to_owned(), &Value::Null));
        answer.and_then(|(.., body)| serde_json::from_slice(&body).ok()).unwrap_or_default()
    }

    fn write(&mut self, method: &str, target: String, body: Value) {
        self.ask(&Step::new(method, target, &body));
    }

    /// Removes what a sequence has written.
    pub fn tidy(&mut self, has_acls: bool) {
        self.write("DELETE", "/v1/kv/?recurse".to_owned(), Value::Null);
        self.write("PUT", "/v1/agent/maintenance?enable=false".to_owned(), Value::Null);
        for (list, target) in [("services", "service"), ("checks", "check")] {
            let ids = self.read(&format!("/v1/agent/{list}"));
            for id in ids.as_object().into_iter().flat_map(Map::keys) {
                self.write(
                    "PUT",
                    format!("/v1/agent/{target}/deregister/{}", escaped(id)),
                    Value::Null,
                );
            }
        }
        let mut lists = vec![
            ("/v1/session/list", "ID", "PUT", "/v1/session/destroy/"),
            ("/v1/query", "ID", "DELETE", "/v1/query/"),
            ("/v1/config/service-resolver", "Name", "DELETE", "/v1/config/service-resolver/"),
            ("/v1/config/service-intentions", "Name", "DELETE", "/v1/config/service-intentions/"),
            ("/v1/config/service-defaults", "Name", "DELETE", "/v1/config/service-defaults/"),
        ];
        if has_acls {
            lists.extend([
                ("/v1/acl/tokens", "AccessorID", "DELETE", "/v1/acl/token/"),
                ("/v1/acl/roles", "ID", "DELETE", "/v1/acl/role/"),
                ("/v1/acl/policies", "ID", "DELETE", "/v1/acl/policy/"),
            ]);
        }
        for (list, member, method, target) in lists {
            for item in self.read(list).as_array().into_iter().flatten() {
                let id = item[member].as_str().unwrap_or_default();
                let is_built_in = id.starts_with("00000000-")
                    || item["SecretID"] == *self.server.token && has_acls;
                if !is_built_in {
                    self.write(method, format!("{target}{}", escaped(id)), Value::Null);
                }
            }
        }
        for node in self.read("/v1/catalog/nodes").as_array().into_iter().flatten() {
            let is_own = self.own.iter().any(|(own, _)| node["ID"] == **own);
            if !is_own {
                self.write(
                    "PUT",
                    "/v1/catalog/deregister".to_owned(),
                    json!({"Node": node["Node"]}),
                );
            }
        }
        self.ids.clear();
    }
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Sorts all lists: Consul keeps most of them in maps, whose order is random, or by random ids.
fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort);
            items.sort_by_cached_key(Value::to_string);
        }
        Value::Object(members) => members.values_mut().for_each(sort),
        _ => {}
    }
}

/// The forms of ids and times: `x` is a hexadecimal digit, `0` a decimal one.
const UUID: &str = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
const TIME: &str = "0000-00-00T00:00:00";

fn position(text: &str, form: &str) -> Option<usize> {
    let fits = |bytes: &[u8]| {
        bytes.iter().zip(form.bytes()).all(|(byte, form)| match form {
            b'x' => byte.is_ascii_hexdigit(),
            b'0' => byte.is_ascii_digit(),
            form => *byte == form,
        })
    };
    text.as_bytes().windows(form.len()).position(fits)
}
