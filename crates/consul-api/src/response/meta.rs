//! The metadata of an answer: its headers, and the members of an entry besides its value.

use crate::tape::{Item, Tape};
use http::{HeaderMap, HeaderName, header};

/// The metadata of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// The index for a blocking query (`X-Consul-Index`).
    pub index: Option<u64>,
    /// Whether the servers had a leader. It is false for streamed answers, too, so it says nothing about
    /// their quality.
    pub known_leader: Option<bool>,
    /// Milliseconds since the answering server's last contact with the leader.
    pub last_contact_ms: Option<u64>,
    /// The hash for a blocking query of an agent's service.
    pub content_hash: Option<String>,
    /// `HIT` or `MISS` of the agent's cache.
    pub cache: Option<String>,
    /// The age of a cached answer in seconds.
    pub age_s: Option<u64>,
    /// How the server waited: `blocking-query` or `streaming`.
    pub backend: Option<String>,
    /// True if entries were left out for lack of a permission. `None`: the server does not say, as before
    /// 1.11, in streamed answers and to callers without a token.
    pub filtered_by_acl: Option<bool>,
    /// `allow` or `deny`: what a token without a matching rule may do. `None`: the server does not say, as
    /// before 1.9.
    pub default_acl_policy: Option<&'static str>,
    /// For the read of a single key: its entry, without the value.
    pub entry: Option<EntryMeta>,
    /// The duration of the call in milliseconds, all attempts included.
    pub request_ms: f64,
    /// The endpoint that answered.
    pub endpoint: String,
    /// How many times the request was sent.
    pub attempts: u32,
    /// Whether any server may have answered, because the leader did not (`stale_if_error`).
    pub stale: bool,
    /// Whether the request had a token.
    pub has_token: bool,
}

/// A KV entry without key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// The number stored with the value.
    pub flags: u64,
    /// The session that holds the lock.
    pub session: Option<String>,
    /// How many times the lock was acquired.
    pub lock_index: u64,
    /// The index at which the key was created.
    pub create_index: u64,
    /// The index of the last change.
    pub modify_index: u64,
}

/// The headers that the client reads, first those that most answers have. A transport may drop all others.
pub static HEADERS: [HeaderName; 17] = [
    HeaderName::from_static("x-consul-index"),
    HeaderName::from_static("x-consul-knownleader"),
    HeaderName::from_static("x-consul-lastcontact"),
    HeaderName::from_static("x-consul-default-acl-policy"),
    header::CONTENT_TYPE,
    header::VARY,
    HeaderName::from_static("x-consul-contenthash"),
    HeaderName::from_static("x-consul-query-backend"),
    HeaderName::from_static("x-consul-results-filtered-by-acls"),
    HeaderName::from_static("x-consul-reason"),
    HeaderName::from_static("x-cache"),
    header::AGE,
    header::ALLOW,
    header::CONTENT_ENCODING,
    header::LOCATION,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

impl Meta {
    /// The index for the next blocking query, after one with `last`; `None` if there is no index or it went
    /// back, so that the state must be read again.
    ///
    /// Source: "Blocking Queries" in Consul's HTTP API reference.
    pub fn next_index(&self, last: Option<u64>) -> Option<u64> {
        let next = self.index?;
        last.is_none_or(|last| next >= last).then_some(next)
    }

    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut meta = Meta::default();
        let mut has_index = false;
        // One pass over the headers is faster than a look-up of each name.
        for (name, value) in headers {
            let Ok(text) = value.to_str() else { continue };
            match name.as_str() {
                // Consul's are 1 or more; a query with 0 would not wait.
                "x-consul-index" => {
                    let index = text.parse().ok().filter(|index| *index > 0);
                    // Of two that differ neither is believed.
                    meta.index = if has_index && meta.index != index { None } else { index };
                    has_index = true;
                }
                "x-consul-knownleader" => meta.known_leader = Some(text == "true"),
                "x-consul-lastcontact" => meta.last_contact_ms = text.parse().ok(),
                "x-consul-contenthash" => meta.content_hash = Some(text.to_owned()),
                "x-cache" => meta.cache = Some(text.to_owned()),
                "age" => meta.age_s = text.parse().ok(),
                "x-consul-query-backend" => meta.backend = Some(text.to_owned()),
                "x-consul-results-filtered-by-acls" => meta.filtered_by_acl = Some(text == "true"),
                "x-consul-default-acl-policy" => {
                    meta.default_acl_policy =
                        ["allow", "deny"].into_iter().find(|policy| *policy == text);
                }
                _ => {}
            }
        }
        meta
    }

    /// The end of a sentence that begins with what a list has, if ACLs hide or may hide some of it.
    /// Streamed answers ([`Meta::is_streamed`]) do not report it.
    pub fn hidden(&self) -> Option<&'static str> {
        match (self.filtered_by_acl, self.default_acl_policy) {
            (Some(true), _) => {
                Some("are hidden by ACLs: the token lacks a permission to read them")
            }
            (_, Some("deny")) if !self.has_token => {
                Some("may be hidden by ACLs: there is no token, and the default policy is deny")
            }
            _ => None,
        }
    }

    /// Whether [`Meta::filtered_by_acl`] says it if ACLs hide entries of this list.
    pub fn tells_hidden(&self) -> bool {
        match self.default_acl_policy {
            Some("allow") => true,
            Some(_) => self.has_token && self.backend.is_some() && !self.is_streamed(),
            None => false,
        }
    }

    /// Whether the agent streamed the answer from its servers.
    pub fn is_streamed(&self) -> bool {
        self.backend.as_deref() == Some("streaming")
    }
}

impl EntryMeta {
    /// `None` if it is not an entry.
    pub(super) fn of(entry: &Tape) -> Option<Self> {
        let (mut flags, mut lock_index, mut create_index, mut modify_index) = Default::default();
        let mut session = None;
        for (name, member) in entry.members() {
            let number = match member {
                Item::Int(number) => u64::try_from(number).ok(),
                Item::Uint(number) => Some(number),
                _ => None,
            };
            match (name, member) {
                (b"Flags", _) => flags = number,
                (b"LockIndex", _) => lock_index = number,
                (b"CreateIndex", _) => create_index = number,
                (b"ModifyIndex", _) => modify_index = number,
                (b"Session", Item::Bytes(id)) => {
                    session = Some(String::from_utf8_lossy(id).into_owned());
                }
                _ => {}
            }
        }
        Some(EntryMeta {
            flags: flags?,
            session,
            lock_index: lock_index?,
            create_index: create_index?,
            // Consul's indexes begin with 1.
            modify_index: modify_index.filter(|index| *index > 0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_on_from_an_index_that_has_not_gone_back() {
        for (index, last, next) in [
            (Some(7), None, Some(7)),
            (Some(7), Some(6), Some(7)),
            (Some(7), Some(7), Some(7)),
            (Some(7), Some(8), None),
            (None, Some(7), None),
        ] {
            assert_eq!(Meta { index, ..Meta::default() }.next_index(last), next, "{last:?}");
        }
    }

    #[test]
    fn only_a_caller_without_a_token_is_told_of_the_default_policy() {
        let hidden = |filtered_by_acl, default_acl_policy, has_token| {
            let meta = Meta { filtered_by_acl, default_acl_policy, has_token, ..Meta::default() };
            meta.hidden().map(|words| words.split(':').next())
        };
        assert_eq!(hidden(None, Some("deny"), false), Some(Some("may be hidden by ACLs")));
        assert_eq!(hidden(None, Some("deny"), true), None);
        assert_eq!(hidden(None, Some("allow"), false), None);
        assert_eq!(hidden(Some(true), Some("deny"), true), Some(Some("are hidden by ACLs")));
        assert_eq!(hidden(Some(false), Some("deny"), true), None);
    }

    #[test]
    fn an_old_server_a_stream_and_a_caller_without_a_token_are_not_told_what_is_hidden() {
        let tells = |policy, has_token, backend: Option<&str>| {
            let backend = backend.map(str::to_owned);
            let meta = Meta { default_acl_policy: policy, has_token, backend, ..Meta::default() };
            meta.tells_hidden()
        };
        assert!(tells(Some("deny"), true, Some("blocking-query")));
        assert!(tells(Some("allow"), false, Some("blocking-query")));
        assert!(!tells(Some("deny"), true, Some("streaming")));
        assert!(!tells(Some("deny"), false, Some("blocking-query")));
        assert!(!tells(Some("deny"), true, None), "Consul 1.9");
        assert!(!tells(None, true, None), "Consul 1.8");
    }
}
