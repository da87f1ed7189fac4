//! The rights of this process's token, as Consul tells them.

use crate::client::Client;
use crate::error::{Error, Kind};
use crate::wire::api::acl;
use crate::wire::request::Args;
use crate::wire::value::Value;
use std::fmt;

/// The most rights that one call may ask for.
const MAX_ASKED: usize = 64;

/// A right in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What it is about: `key`, `service`, `node`, `session`.
    pub resource: &'static str,
    /// `read` or `write`.
    pub access: &'static str,
    /// The name, or the common beginning of the names.
    pub name: String,
}

impl Right {
    /// A right to read.
    pub fn read(resource: &'static str, name: &str) -> Self {
        Right { resource, access: "read", name: name.to_owned() }
    }

    /// A right to write.
    pub fn write(resource: &'static str, name: &str) -> Self {
        Right { access: "write", ..Right::read(resource, name) }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} on {:?}", self.resource, self.access, self.name)
    }
}

/// Those of the rights that the token lacks; none if Consul has no ACLs.
///
/// # Errors
/// Those of the call.
pub async fn lacking(client: &Client, rights: Vec<Right>) -> Result<Vec<Right>, Error> {
    let question = |right: &Right| {
        let members = [
            ("Resource", right.resource),
            ("Access", right.access),
            ("Segment", right.name.as_str()),
        ];
        Value::Map(members.map(|(name, text)| (name.to_owned(), text.into())).into())
    };
    let is_allowed = |value: &Value| matches!(value.get("Allow"), Some(Value::Bool(true)));
    let mut lacking = Vec::new();
    for asked in rights.chunks(MAX_ASKED) {
        let args = Args::new().arg(Value::List(asked.iter().map(question).collect()));
        let answer = match client.call(&acl::AUTHORIZE, &args).await {
            Ok(answer) => answer.value,
            Err(error) if error.kind() == Kind::Unsupported => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let refused = asked.iter().zip(answer.items()).filter(|(_, answer)| !is_allowed(answer));
        lacking.extend(refused.map(|(right, _)| right.clone()));
    }
    Ok(lacking)
}
