//! The rights to write that the roles of a cluster have: taken from them for a while, and given back.

use super::message::{Base64, Changed, Header};
use super::{Etcd, Range, Refused, WITHOUT_USERS};
use crate::mapping::hex;
use crate::survey::shown;
use consul_api::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt;

/// The role whose users may do anything, whatever its permissions.
const ROOT: &str = "root";

/// A permission of a role that lets it write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Right {
    /// The name of the role.
    pub role: String,
    /// The first key of the permission.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
    /// The first key beyond it; empty for one key, a zero byte for all from the first one on.
    #[serde(with = "hex")]
    pub end: Vec<u8>,
    /// Whether it lets the role read, too, and still does when it is taken.
    pub reads: bool,
}

/// The kind of access that a permission allows. The first one is left out of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Allowed {
    #[default]
    Read,
    Write,
    ReadWrite,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Permission {
    #[serde(rename = "permType")]
    pub allowed: Allowed,
    pub key: Base64,
    pub range_end: Base64,
}

#[derive(Debug, Deserialize)]
pub struct Roles {
    pub header: Header,
    #[serde(default)]
    pub roles: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Role {
    pub header: Header,
    #[serde(default)]
    pub perm: Vec<Permission>,
}

#[derive(Debug, Deserialize)]
pub struct Users {
    pub header: Header,
    #[serde(default)]
    pub users: Vec<String>,
}

/// How an operator gives it back.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.reads { "readwrite" } else { "write" };
        write!(f, "`etcdctl role grant-permission {} {kind}` for ", self.role)?;
        let start = shown(&self.key);
        match &self.end[..] {
            [] => write!(f, "the key {start}"),
            [0] => write!(f, "all keys from {start} on (--from-key)"),
            end => write!(f, "the keys from {start} up to {}", shown(end)),
        }
    }
}

impl Right {
    fn of(role: &str, permission: &Permission) -> Option<Right> {
        let reads = match permission.allowed {
            Allowed::Read => return None,
            Allowed::Write => false,
            Allowed::ReadWrite => true,
        };
        let (key, end) = (permission.key.0.to_vec(), permission.range_end.0.to_vec());
        Some(Right { role: role.to_owned(), key, end, reads })
    }

    fn is_of(&self, permission: &Permission) -> bool {
        permission.key.0[..] == self.key[..] && permission.range_end.0[..] == self.end[..]
    }

    /// Whether it has keys of a range.
    fn overlaps(&self, range: &Range) -> bool {
        let ends_after = |end: &[u8], start: &[u8], key: &[u8]| match end {
            [] => start <= key,
            [0] => true,
            end => start < end,
        };
        ends_after(&self.end, &range.start, &self.key)
            && ends_after(&range.end, &self.key, &range.start)
    }
}

impl Etcd {
    /// Whether the cluster has access control.
    ///
    /// # Errors
    /// See [`Refused`]; that it is not known.
    pub async fn has_users(&self) -> Result<bool, Refused> {
        // Each version tells it to everybody so, also where only some users may ask for the status.
        let nobody = json!({ "name": "", "password": "" });
        match self.ask::<Changed>("auth/authenticate", &nobody).await {
            Err(Refused::Failed(error)) if error.message().contains(WITHOUT_USERS) => Ok(false),
            Err(Refused::Failed(error)) if is_unknown(&error) => Err(error.into()),
            _ => Ok(true),
        }
    }

    /// The permissions of all roles but root's that let them write keys of a range.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn rights_to_write(&self, range: &Range) -> Result<Vec<Right>, Refused> {
        let mut rights = Vec::new();
        for role in self.ask::<Roles>("auth/role/list", &json!({})).await?.roles {
            if role != ROOT {
                let permissions = self.permissions(&role).await?;
                rights.extend(permissions.iter().filter_map(|it| Right::of(&role, it)));
            }
        }
        rights.retain(|right| right.overlaps(range));
        Ok(rights)
    }

    /// The users with the role root, from whom no right can be taken.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn root_users(&self) -> Result<Vec<String>, Refused> {
        let mut found = Vec::new();
        for name in self.ask::<Users>("auth/user/list", &json!({})).await?.users {
            let user: Roles = self.ask("auth/user/get", &json!({ "name": name })).await?;
            if user.roles.iter().any(|role| role == ROOT) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Takes a right: its role may read as before.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn take(&self, right: &Right) -> Result<(), Refused> {
        match right.reads {
            true => self.grant(right, Allowed::Read).await,
            false => {
                let (key, end) = (base64(&right.key), base64(&right.end));
                let asked = json!({ "role": right.role, "key": key, "range_end": end });
                self.ask::<Changed>("auth/role/revoke", &asked).await.map(|_| ())
            }
        }
    }

    /// Which of these rights are taken.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn taken<'r>(&self, rights: &'r [Right]) -> Result<Vec<&'r Right>, Refused> {
        let mut taken = Vec::new();
        if rights.is_empty() {
            return Ok(taken);
        }
        let roles = self.ask::<Roles>("auth/role/list", &json!({})).await?.roles;
        for right in rights.iter().filter(|right| roles.contains(&right.role)) {
            let permissions = self.permissions(&right.role).await?;
            let now = permissions.iter().find(|it| right.is_of(it)).map(|it| it.allowed);
            if now == right.reads.then_some(Allowed::Read) {
                taken.push(right);
            }
        }
        Ok(taken)
    }

    /// Gives the taken ones of these rights back; returns whether one was.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn give_back(&self, rights: &[Right]) -> Result<bool, Refused> {
        let taken = self.taken(rights).await?;
        for right in &taken {
            let allowed = if right.reads { Allowed::ReadWrite } else { Allowed::Write };
            self.grant(right, allowed).await?;
        }
        Ok(!taken.is_empty())
    }

    async fn permissions(&self, role: &str) -> Result<Vec<Permission>, Refused> {
        Ok(self.ask::<Role>("auth/role/get", &json!({ "role": role })).await?.perm)
    }

    async fn grant(&self, right: &Right, allowed: Allowed) -> Result<(), Refused> {
        let (key, range_end) = (base64(&right.key), base64(&right.end));
        let perm = Permission { allowed, key, range_end };
        let asked = json!({ "name": right.role, "perm": perm });
        self.ask::<Changed>("auth/role/grant", &asked).await.map(|_| ())
    }
}

/// Whether an error leaves open if there is access control: another one is that of a login.
fn is_unknown(error: &Error) -> bool {
    error.is_retryable() || error.kind() != consul_api::error::Kind::PermissionDenied
}

fn base64(bytes: &[u8]) -> Base64 {
    Base64(bytes::Bytes::copy_from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_overlaps_the_keys_of_a_job() {
        let right = |key: &str, end: &str| Right {
            role: "r".to_owned(),
            key: key.into(),
            end: end.into(),
            reads: true,
        };
        for (key, end, overlaps) in [
            ("/app/", "/app0", true),
            ("/", "0", true),
            ("\0", "\0", true),
            ("/app/x", "", true),
            ("/app/x", "/b", true),
            ("/a", "/app/a", true),
            ("/app0", "\0", false),
            ("/app0", "", false),
            ("/a", "/app/", false),
            ("/app", "", false),
            ("/b", "/c", false),
        ] {
            let found = right(key, end).overlaps(&Range::prefix(b"/app/"));
            assert_eq!(found, overlaps, "{key:?} {end:?}");
            assert!(right(key, end).overlaps(&Range::prefix(b"")), "{key:?} {end:?}");
        }
    }
}
