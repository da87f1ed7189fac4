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
    /// All permissions of the role with this first key, if it has several: etcd finds only one of them to replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Permission>,
}

/// The kind of access that a permission allows. The first one is left out of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Allowed {
    #[default]
    Read,
    Write,
    ReadWrite,
}

/// A permission of a role for a key or a range of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub struct Permission {
    /// Its kind.
    #[serde(rename = "permType")]
    pub allowed: Allowed,
    /// The first key.
    pub key: Base64,
    /// As that of a [`Right`].
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
    fn of(role: &str, permission: &Permission, all: &[Permission]) -> Option<Right> {
        let reads = match permission.allowed {
            Allowed::Read => return None,
            Allowed::Write => false,
            Allowed::ReadWrite => true,
        };
        let mut beside: Vec<_> =
            all.iter().filter(|it| it.key == permission.key).cloned().collect();
        if beside.len() == 1 {
            beside.clear();
        }
        let (key, end) = (permission.key.0.to_vec(), permission.range_end.0.to_vec());
        Some(Right { role: role.to_owned(), key, end, reads, beside })
    }

    fn is_of(&self, permission: &Permission) -> bool {
        permission.key.0[..] == self.key[..] && permission.range_end.0[..] == self.end[..]
    }

    /// The kinds of the permissions among these that are for its keys.
    fn kinds(&self, permissions: &[Permission]) -> Vec<Allowed> {
        kinds(&permission(self, Allowed::Read), permissions)
    }

    /// Those that it had.
    fn before(&self) -> Vec<Allowed> {
        match self.beside.is_empty() {
            true if self.reads => vec![Allowed::ReadWrite],
            true => vec![Allowed::Write],
            false => self.kinds(&self.beside),
        }
    }

    /// The permission that is left of it when it is taken.
    fn rest(&self) -> Option<Allowed> {
        self.before().iter().any(|it| *it != Allowed::Write).then_some(Allowed::Read)
    }

    /// Whether it is taken, or partly taken or given back by an instance that was killed, and nobody else has changed it.
    fn is_taken(&self, permissions: &[Permission]) -> bool {
        let (now, before) = (self.kinds(permissions), self.before());
        if self.beside.is_empty() {
            // One permission alone is replaced at once.
            return now != before && now[..] == *self.rest().as_slice();
        }
        let is_halved = now != before
            && (now[..] == *self.rest().as_slice() || is_part(&now, &before))
            || self.beside.iter().any(|it| kinds(it, permissions).is_empty());
        is_halved || between(&self.beside).is_some_and(|it| !kinds(&it, permissions).is_empty())
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
                rights
                    .extend(permissions.iter().filter_map(|it| Right::of(&role, it, &permissions)));
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
        let now = self.permissions(&right.role).await?;
        self.replace(right, right.rest(), &now).await
    }

    /// Which of these rights are taken.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn taken<'r>(&self, rights: &'r [Right]) -> Result<Vec<&'r Right>, Refused> {
        let mut found = self.with_permissions(rights).await?;
        found.retain(|(right, now)| right.is_taken(now));
        Ok(found.into_iter().map(|(right, _)| right).collect())
    }

    /// These rights with the permissions that their roles have now; a role that was removed refuses nothing.
    async fn with_permissions<'r>(
        &self,
        rights: &'r [Right],
    ) -> Result<Vec<(&'r Right, Vec<Permission>)>, Refused> {
        let mut found = Vec::new();
        if rights.is_empty() {
            return Ok(found);
        }
        let roles = self.ask::<Roles>("auth/role/list", &json!({})).await?.roles;
        for right in rights.iter().filter(|right| roles.contains(&right.role)) {
            found.push((right, self.permissions(&right.role).await?));
        }
        Ok(found)
    }

    /// Gives the taken ones of these rights back; returns whether one was.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn give_back(&self, rights: &[Right]) -> Result<bool, Refused> {
        let taken = self.taken(rights).await?;
        for right in &taken {
            let now = self.permissions(&right.role).await?;
            match &right.before()[..] {
                // With another one of the same first key.
                _ if !right.is_taken(&now) => {}
                [before] if right.beside.is_empty() => {
                    self.replace(right, Some(*before), &now).await?;
                }
                _ => {
                    let beside = taken.iter().copied().filter(|it| {
                        it.role == right.role && it.key == right.key && it.is_taken(&now)
                    });
                    self.restore(&right.role, &right.beside, beside.collect(), now).await?;
                }
            }
        }
        Ok(!taken.is_empty())
    }

    /// Which of these rights their roles do not have as they were, because somebody else has changed them.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn not_given_back<'r>(&self, rights: &'r [Right]) -> Result<Vec<&'r Right>, Refused> {
        let may_only_read = |now: &[Permission], right: &Right| {
            right.kinds(now).iter().all(|it| *it == Allowed::Read)
        };
        let mut found = self.with_permissions(rights).await?;
        found.retain(|(right, now)| may_only_read(now, right));
        Ok(found.into_iter().map(|(right, _)| right).collect())
    }

    /// Lets a role have this kind of permission alone for the keys of a right.
    async fn replace(
        &self,
        right: &Right,
        kind: Option<Allowed>,
        now: &[Permission],
    ) -> Result<(), Refused> {
        let kinds = right.kinds(now);
        if kinds[..] == *kind.as_slice() {
            return Ok(());
        }
        // etcd replaces only the permission that its search for the first key finds, and adds one otherwise.
        let found = now.iter().find(|it| it.key.0[..] == right.key[..]);
        let is_replaced = kinds.len() == 1 && found.is_some_and(|it| right.is_of(it));
        if !(kinds.is_empty() || is_replaced && kind.is_some()) {
            self.revoke(&right.role, &permission(right, Allowed::Read)).await?;
        }
        match kind {
            Some(kind) => self.grant(&right.role, &permission(right, kind)).await,
            None => Ok(()),
        }
    }

    /// Makes the permissions of a role with one first key those that they were, in their order. Those that somebody else has
    /// changed stay.
    async fn restore(
        &self,
        role: &str,
        before: &[Permission],
        taken: Vec<&Right>,
        now: Vec<Permission>,
    ) -> Result<(), Refused> {
        let is_own = |it: &&Permission| {
            let found = kinds(it, &now);
            let is_as_before = found == kinds(it, before) || found.is_empty();
            is_as_before || taken.iter().any(|right| right.is_of(it))
        };
        let wanted: Vec<&Permission> = before.iter().filter(is_own).collect();
        let between = between(before);
        let mut ranges: Vec<&Permission> = wanted.iter().copied().chain(&between).collect();
        ranges.sort_by_key(|it| &it.range_end);
        ranges.dedup_by_key(|it| &it.range_end);
        for range in ranges {
            if !kinds(range, &now).is_empty() {
                self.revoke(role, range).await?;
            }
        }
        if let Some(between) = &between {
            self.grant(role, between).await?;
        }
        for permission in wanted {
            self.grant(role, permission).await?;
        }
        match &between {
            Some(between) => self.revoke(role, between).await,
            None => Ok(()),
        }
    }

    async fn permissions(&self, role: &str) -> Result<Vec<Permission>, Refused> {
        Ok(self.ask::<Role>("auth/role/get", &json!({ "role": role })).await?.perm)
    }

    async fn grant(&self, role: &str, permission: &Permission) -> Result<(), Refused> {
        let asked = json!({ "name": role, "perm": permission });
        self.ask::<Changed>("auth/role/grant", &asked).await.map(|_| ())
    }

    /// Takes all permissions of the same keys.
    async fn revoke(&self, role: &str, of: &Permission) -> Result<(), Refused> {
        let asked = json!({ "role": role, "key": of.key, "range_end": of.range_end });
        self.ask::<Changed>("auth/role/revoke", &asked).await.map(|_| ())
    }
}

/// The kinds of the permissions among these that are for the same keys.
fn kinds(of: &Permission, permissions: &[Permission]) -> Vec<Allowed> {
    let is_same = |it: &&Permission| it.key == of.key && it.range_end == of.range_end;
    let mut kinds: Vec<_> = permissions.iter().filter(is_same).map(|it| it.allowed).collect();
    kinds.sort_unstable();
    kinds
}

/// Whether these kinds, which are sorted, are among others.
fn is_part(kinds: &[Allowed], others: &[Allowed]) -> bool {
    let mut others = others.iter();
    kinds.iter().all(|kind| others.any(|other| other == kind))
}

/// With this one before them etcd takes several permissions for the same keys; `None` if these have none such. It is for the
/// first key alone.
fn between(permissions: &[Permission]) -> Option<Permission> {
    let double = permissions.iter().find(|it| kinds(it, permissions).len() > 1)?;
    let mut range_end = double.key.clone();
    while range_end == double.key || permissions.iter().any(|it| it.range_end == range_end) {
        range_end = base64(&[&range_end.0[..], b"\0"].concat());
    }
    Some(Permission { allowed: Allowed::Read, range_end, ..double.clone() })
}

/// A permission for the keys of a right.
fn permission(of: &Right, allowed: Allowed) -> Permission {
    Permission { allowed, key: base64(&of.key), range_end: base64(&of.end) }
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
            beside: Vec::new(),
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
