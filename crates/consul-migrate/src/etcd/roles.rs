//! The rights to write that the roles of a cluster have: taken from them for a while, and given back.

use super::message::{Base64, Changed, Header};
use super::{Etcd, Range, Refused, WITHOUT_USERS};
use crate::mapping::hex;
use crate::mapping::shown::shown;
use consul_api::error::Error;
use consul_process::sync::lock;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The role whose users may do anything, whatever its permissions.
const ROOT: &str = "root";

/// The roles or users that are asked for, or the rights that are taken, at once.
const IN_FLIGHT: usize = 16;

/// The answer to a revoke of what a role does not have.
const NOT_GRANTED: &str = "permission is not granted to the role";

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
    /// All permissions of the role with this first key, if a build before has taken several: a record of such a cut-over has them.
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
        for (at, permission) in self.before().iter().enumerate() {
            let (and, kind) = (if at > 0 { ", " } else { "" }, permission.allowed.word());
            let (role, keys) =
                (pasted(&self.role), Keys(&permission.key.0, &permission.range_end.0));
            write!(f, "{and}`etcdctl role grant-permission {role} {kind}` for {keys}")?;
        }
        Ok(())
    }
}

/// A name as a shell takes it.
fn pasted(name: &str) -> Cow<'_, str> {
    let is_plain = |it: char| it.is_alphanumeric() || "_-./:@".contains(it);
    match !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        true => name.into(),
        false => format!("'{}'", name.replace('\'', r"'\''")).into(),
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.allowed.word(), Keys(&self.key.0, &self.range_end.0))
    }
}

impl Allowed {
    /// That of etcdctl.
    fn word(self) -> &'static str {
        match self {
            Allowed::Read => "read",
            Allowed::Write => "write",
            Allowed::ReadWrite => "readwrite",
        }
    }
}

/// A range of keys, for messages.
struct Keys<'a>(&'a [u8], &'a [u8]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = shown(self.0);
        match self.1 {
            [] => write!(f, "the key {start}"),
            [0] => write!(f, "all keys from {start} on (--from-key)"),
            end => write!(f, "the keys from {start} up to {}", shown(end)),
        }
    }
}

impl Right {
    /// Its role and its keys, for messages.
    pub fn keys(&self) -> String {
        format!("{}, {}", self.role, Keys(&self.key, &self.end))
    }

    fn of(role: &str, permission: &Permission) -> Option<Right> {
        let reads = match permission.allowed {
            Allowed::Read => return None,
            Allowed::Write => false,
            Allowed::ReadWrite => true,
        };
        let (key, end) = (permission.key.0.to_vec(), permission.range_end.0.to_vec());
        Some(Right { role: role.to_owned(), key, end, reads, beside: Vec::new() })
    }

    /// The permissions that the role had before it was taken, each range once.
    fn before(&self) -> Vec<Permission> {
        let mut before: Vec<Permission> = Vec::new();
        for it in &self.beside {
            match before.iter_mut().find(|found| found.is_for_keys_of(it)) {
                Some(found) if found.allowed != it.allowed => found.allowed = Allowed::ReadWrite,
                Some(_) => {}
                None => before.push(it.clone()),
            }
        }
        if before.is_empty() {
            let allowed = if self.reads { Allowed::ReadWrite } else { Allowed::Write };
            before.push(self.permission(allowed));
        }
        before
    }

    /// Whether its role may not write its keys, or lacks one of several permissions that were taken.
    fn is_missing(&self, permissions: &[Permission]) -> bool {
        match self.beside.is_empty() {
            true => !self.permission(Allowed::Write).is_allowed_by(permissions),
            false => self.before().iter().any(|it| !it.is_allowed_by(permissions)),
        }
    }

    /// Whether its role has what the taking has left.
    fn is_taken(&self, permissions: &[Permission]) -> bool {
        let reads = self.permission(Allowed::Read).is_allowed_by(permissions);
        self.is_missing(permissions) && (self.reads == reads || !self.beside.is_empty())
    }

    /// Its permission with this kind.
    fn permission(&self, allowed: Allowed) -> Permission {
        Permission { allowed, key: base64(&self.key), range_end: base64(&self.end) }
    }

    /// Whether it is one of the same role for the same keys.
    pub fn is_for_keys_of(&self, other: &Right) -> bool {
        (&self.role, &self.key, &self.end) == (&other.role, &other.key, &other.end)
    }

    /// Whether it has keys of a range.
    pub fn overlaps(&self, range: &Range) -> bool {
        let ends_after = |end: &[u8], start: &[u8], key: &[u8]| match end {
            [] => start <= key,
            [0] => true,
            end => start < end,
        };
        ends_after(&self.end, &range.start, &self.key)
            && ends_after(&range.end, &self.key, &range.start)
    }
}

impl Permission {
    fn is_for_keys_of(&self, other: &Permission) -> bool {
        self.key == other.key && self.range_end == other.range_end
    }

    /// Whether these allow all that this one allows for its keys.
    fn is_allowed_by(&self, permissions: &[Permission]) -> bool {
        let same = permissions.iter().filter(|it| it.is_for_keys_of(self));
        let kinds: Vec<_> = same.map(|it| it.allowed).collect();
        let has = |kind| kinds.contains(&kind) || kinds.contains(&Allowed::ReadWrite);
        match self.allowed {
            Allowed::ReadWrite => has(Allowed::Read) && has(Allowed::Write),
            kind => has(kind),
        }
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
        let found = self.rights_and_others(range).await?;
        Ok(found.into_iter().map(|(right, _)| right).collect())
    }

    /// The same, or why they cannot be taken: etcd looks for a permission by its first key alone. Of several with the same one it
    /// replaces any, and keeps doubles.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn takable(&self, range: &Range) -> Result<Result<Vec<Right>, String>, Refused> {
        let found = self.rights_and_others(range).await?;
        let Some((right, all)) = found.iter().find(|(_, all)| all.len() > 1) else {
            return Ok(Ok(found.into_iter().map(|(right, _)| right).collect()));
        };
        let all: Vec<_> = all.iter().map(Permission::to_string).collect();
        Ok(Err(format!(
            "--freeze roles is refused: the role {} of etcd has several permissions that begin with {} ({}), and etcd replaces only \
             one of them. Merge them: revoke each, and grant one permission for all their keys; or use --freeze operator, and stop \
             the writers yourself",
            right.role,
            shown(&right.key),
            all.join(", ")
        )))
    }

    /// The same rights with all permissions of their roles that have the same first key.
    async fn rights_and_others(
        &self,
        range: &Range,
    ) -> Result<Vec<(Right, Vec<Permission>)>, Refused> {
        let mut roles = self.ask::<Roles>("auth/role/list", &json!({})).await?.roles;
        roles.retain(|role| role != ROOT);
        let mut found = Vec::new();
        for (role, all) in self.permissions_of(roles).await? {
            for right in all.iter().filter_map(|it| Right::of(&role, it)) {
                let same = all.iter().filter(|it| it.key.0[..] == right.key[..]).cloned();
                let same = same.collect();
                found.push((right, same));
            }
        }
        found.retain(|(right, _)| right.overlaps(range));
        Ok(found)
    }

    /// The users with the role root, from whom no right can be taken.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn root_users(&self) -> Result<Vec<String>, Refused> {
        let users = self.ask::<Users>("auth/user/list", &json!({})).await?.users;
        let looks = users.into_iter().map(async |name| {
            let user: Roles = self.ask("auth/user/get", &json!({ "name": name })).await?;
            Ok::<_, Refused>(user.roles.iter().any(|role| role == ROOT).then_some(name))
        });
        let found: Vec<_> = stream::iter(looks).buffered(IN_FLIGHT).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Takes rights, some at once, if `may_go_on` is well before them.
    ///
    /// # Errors
    /// See [`Refused`]; errors of `may_go_on`.
    pub async fn take_all<E: From<Refused>>(
        &self,
        rights: &[Right],
        may_go_on: impl AsyncFn() -> Result<(), E>,
    ) -> Result<(), E> {
        for some in rights.chunks(IN_FLIGHT) {
            may_go_on().await?;
            // None is on its way after the error of another one.
            for taken in join_all(some.iter().map(|right| self.take(right))).await {
                taken?;
            }
        }
        Ok(())
    }

    /// Takes a right: its role may read as before.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn take(&self, right: &Right) -> Result<(), Refused> {
        match right.reads {
            true => self.grant(&right.role, &right.permission(Allowed::Read)).await,
            false => self.revoke(&right.role, &right.permission(Allowed::Read)).await,
        }
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
        if rights.is_empty() {
            return Ok(Vec::new());
        }
        let mut roles = self.ask::<Roles>("auth/role/list", &json!({})).await?.roles;
        let asked: HashSet<&str> = rights.iter().map(|right| right.role.as_str()).collect();
        roles.retain(|role| asked.contains(role.as_str()));
        let now: HashMap<_, _> = self.permissions_of(roles).await?.into_iter().collect();
        Ok(rights.iter().filter_map(|it| Some((it, now.get(&it.role)?.clone()))).collect())
    }

    /// Gives the taken ones of these rights back, those that this instance may; returns whether one was taken.
    ///
    /// # Errors
    /// See [`Refused`]; errors of `may_go_on`.
    pub async fn give_back<E: From<Refused>>(
        &self,
        rights: &[Right],
        may_go_on: impl AsyncFn(&Right) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let taken = self.taken(rights).await?;
        // One at a time, so that no more are on their way when this instance is held up: each opens the next cut-over.
        for (right, before) in
            taken.iter().flat_map(|it| it.before().into_iter().map(|one| (*it, one)))
        {
            if may_go_on(right).await? {
                self.give_back_one(right, &before).await?;
            }
        }
        Ok(!taken.is_empty())
    }

    /// Whether this process has given a right back.
    pub fn has_given_back(&self) -> bool {
        lock(&self.now).gives_back
    }

    async fn give_back_one(&self, right: &Right, before: &Permission) -> Result<(), Refused> {
        lock(&self.now).gives_back = true;
        if !right.beside.is_empty() {
            let now = self.permissions(&right.role).await?;
            if before.is_allowed_by(&now) {
                return Ok(());
            }
            // Of several with one first key a grant replaces another one, or leaves a double.
            self.revoke(&right.role, before).await?;
        }
        self.grant(&right.role, before).await
    }

    /// Which of these rights their roles do not have, because they are taken or somebody else has changed them.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn not_given_back<'r>(&self, rights: &'r [Right]) -> Result<Vec<&'r Right>, Refused> {
        let mut found = self.with_permissions(rights).await?;
        found.retain(|(right, now)| right.is_missing(now));
        Ok(found.into_iter().map(|(right, _)| right).collect())
    }

    /// The permissions of each of these roles. A large cluster has thousands of roles, and each answer of etcd is a round of its servers.
    async fn permissions_of(
        &self,
        roles: Vec<String>,
    ) -> Result<Vec<(String, Vec<Permission>)>, Refused> {
        let looks = roles.into_iter().map(async |role| {
            let permissions = self.permissions(&role).await?;
            Ok::<_, Refused>((role, permissions))
        });
        stream::iter(looks).buffered(IN_FLIGHT).try_collect().await
    }

    async fn permissions(&self, role: &str) -> Result<Vec<Permission>, Refused> {
        Ok(self.ask::<Role>("auth/role/get", &json!({ "role": role })).await?.perm)
    }

    /// Replaces the only permission with this first key, or adds it: done twice it is as once.
    async fn grant(&self, role: &str, permission: &Permission) -> Result<(), Refused> {
        let asked = json!({ "name": role, "perm": permission });
        self.ask::<Changed>("auth/role/grant", &asked).await.map(|_| ())
    }

    /// Takes all permissions of the same keys, also by a request that is repeated.
    async fn revoke(&self, role: &str, permission: &Permission) -> Result<(), Refused> {
        let Permission { key, range_end, .. } = permission;
        let asked = json!({ "role": role, "key": key, "range_end": range_end });
        match self.ask::<Changed>("auth/role/revoke", &asked).await {
            Err(Refused::Failed(error)) if error.message().contains(NOT_GRANTED) => Ok(()),
            done => done.map(|_| ()),
        }
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

    /// Each name of a role, as the shell that it is pasted into takes it.
    #[test]
    fn a_name_is_pasted_as_one_word() {
        for name in
            ["app", "b c", "it's $(id)", "a;b", "-x", "", "é", "`x`", "a\"b", "*", "~", "a\nb"]
        {
            let printed = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {}", pasted(name)))
                .output();
            assert_eq!(printed.expect("a shell").stdout, name.as_bytes(), "{name:?}");
        }
    }

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
