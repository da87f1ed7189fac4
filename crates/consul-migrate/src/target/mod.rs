//! Consul's side: reads and writes that are repeated while no server answers.

pub(crate) mod names;
#[cfg(test)]
pub(crate) mod tests;

use crate::Report;
use crate::mapping::shown::shown;
use crate::mapping::spelling::{Spelling, is_plain, simpler, spelling};
use crate::mapping::{JOBS, MAX_OPS, Mapping, Op, fits_url, size_of, within_url};
use crate::silence::Silence;
use bytes::Bytes;
use consul_api::api::{acl, agent, kv, txn};
use consul_api::error::{Error, Kind, RefusedOperation};
use consul_api::request::Args;
use consul_api::response::{Answer, Meta};
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_api::value::shape::check_key;
use consul_client::Client;
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The pauses between attempts.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// How often a name of a list that nothing reads is looked at again: a program may have deleted the key.
const LOOKS: u32 = 5;

/// In Consul's answers the bytes of a name that are not UTF-8.
const NOT_UTF8: char = '\u{fffd}';

/// The keys for which the rights of the token are asked in one request.
const RIGHTS_AT_ONCE: usize = 64;

/// The bytes of a transaction's body that servers take by default.
const MAX_BODY: usize = 524_288;

/// A transaction with fewer bytes of operations is not divided: it is mostly the checks.
const MIN_BYTES: usize = 1024;

/// Consul as the target of a job.
#[derive(Debug)]
pub struct Target {
    client: Arc<Client>,
    silence: Silence,
    /// The operations of a transaction.
    pub max_ops: usize,
    /// The bytes of these operations, as far as a server, or what is before it, has refused more.
    max_bytes: AtomicUsize,
    /// The prefixes under which ACLs are known to hide no keys.
    seen: Mutex<Vec<String>>,
    /// Whether the server takes names with these spellings in a URL, as far as it was asked.
    spellings: Mutex<HashMap<Spelling, bool>>,
    has_token: bool,
    /// Says of an error what the program calls the client's options.
    words: fn(Error) -> Error,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The bytes of its value.
    pub value: Bytes,
    /// Its modify index in Consul.
    pub index: u64,
    /// Its flags, by which a job knows the keys that it has written.
    pub flags: u64,
    /// Whether a session holds it.
    pub is_held: bool,
}

/// How a transaction ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Applied, at this index of Consul.
    Applied(u64),
    /// The operation of this number was refused, from 0, with Consul's reason.
    Refused(usize, String),
    /// Nothing is applied: the server takes fewer bytes in one, as [`Target::room`] knows now.
    Oversized,
}

/// A check that must hold for a transaction.
#[derive(Clone, Debug)]
pub enum Check {
    /// The key has this modify index.
    Index(String, u64),
    /// The key has this modify index (0: it does not exist), and gets this value.
    Swap(String, u64, Vec<u8>),
}

impl Check {
    /// The bytes of its value in the body of a transaction.
    fn in_body(&self) -> usize {
        match self {
            Check::Index(..) => 0,
            Check::Swap(_, _, value) => value.len().div_ceil(3) * 4,
        }
    }
}

impl Target {
    /// Repeats requests for up to `patience` while no server answers; a transaction has up to `max_ops` operations.
    pub fn new(client: Arc<Client>, patience: Duration, max_ops: usize) -> Self {
        let silence = Silence::new("Consul", Arc::clone(client.clock()), patience);
        let (seen, spellings) = (Mutex::default(), Mutex::default());
        let max_bytes = MAX_OPS.into();
        let words: fn(Error) -> Error = |error| error;
        Target { client, silence, max_ops, max_bytes, seen, spellings, has_token: true, words }
    }

    /// Says with a lack of rights that there is no token.
    #[must_use]
    pub fn without_token(self) -> Self {
        Target { has_token: false, ..self }
    }

    /// Has errors of the client name its options as the program calls them.
    #[must_use]
    pub fn in_words(self, words: fn(Error) -> Error) -> Self {
        Target { words, ..self }
    }

    /// Reports while no server answers.
    #[must_use]
    pub fn reporting(mut self, report: Arc<dyn Report>) -> Self {
        self.silence.report_to(report);
        self
    }

    /// From now on repeats requests until a server answers.
    pub fn wait_without_end(&self) {
        self.silence.wait_without_end();
    }

    /// Says something that an operator should know.
    pub(crate) fn note(&self, text: &str) {
        self.silence.note(text);
    }

    /// The client's clock, which also times the pauses between attempts.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.client.clock()
    }

    /// Learns how many operations the server takes in a transaction, if it takes fewer than were wanted.
    ///
    /// # Errors
    /// Consul's.
    pub async fn learn_max_ops(&mut self) -> Result<(), Error> {
        loop {
            let gets = (0..self.max_ops).map(|_| operation("get", JOBS, []));
            let args = Args::new().arg(Value::List(gets.collect()));
            match self.patiently(async || self.call(&txn::TXN, &args).await).await {
                Err(error) if error.kind() == Kind::TooLarge => match limit_in(error.message()) {
                    Some(limit) => {
                        self.max_ops = limit;
                        return Ok(());
                    }
                    // A program before Consul has another limit.
                    None if self.max_ops > 1 => self.max_ops /= 2,
                    None => return Err(error),
                },
                Err(error) if error.kind() != Kind::TxnFailed => return Err(error),
                _ => return Ok(()),
            }
        }
    }

    async fn call(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Answer, Error> {
        // Many futures have it inside.
        Box::pin(self.client.call(endpoint, args)).await.map_err(|error| (self.words)(sized(error)))
    }

    /// Repeats a call that may be repeated.
    async fn patiently<R>(&self, call: impl AsyncFn() -> Result<R, Error>) -> Result<R, Error> {
        let begun = self.clock().now();
        let repeated = async {
            loop {
                let error = match call().await {
                    Ok(result) => return Ok(result),
                    Err(error) => error,
                };
                if !self.may_repeat(&error, begun) {
                    return Err(error);
                }
                self.silence.failed(error.message());
                self.clock().sleep(PAUSE).await;
            }
        };
        self.silence.tell(repeated).await.map_err(|error| self.without_right(error))
    }

    fn without_right(&self, error: Error) -> Error {
        match error.kind() {
            Kind::PermissionDenied if !self.has_token => {
                let why = "no token is given (--token-file or CONSUL_HTTP_TOKEN)";
                Error::new(Kind::PermissionDenied, format!("{}; {why}", error.message()))
            }
            _ => error,
        }
    }

    fn may_repeat(&self, error: &Error, begun: Instant) -> bool {
        let is_transient = error.is_transient()
            || matches!(
                error.kind(),
                Kind::Connect | Kind::Timeout | Kind::NoLeader | Kind::RateLimited
            );
        let is_late = self.clock().now() - begun >= self.silence.patience();
        is_transient && !is_late
    }

    /// A linearizable read of a key.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, Error> {
        if !(is_plain(key) && fits_url(key)) {
            // The server may refuse it in a URL.
            return Ok(self.entries(&[key]).await?.pop().flatten());
        }
        let args = Args::new().arg(key).opt("consistent", true);
        let answer = self.patiently(async || self.call(&kv::GET, &args).await).await?;
        let Answer { value: Value::Bytes(value), meta } = answer else { return Ok(None) };
        let entry = meta.entry;
        Ok(Some(Stored {
            value: value.into(),
            index: entry.as_ref().map_or(0, |entry| entry.modify_index),
            flags: entry.as_ref().map_or(0, |entry| entry.flags),
            is_held: entry.is_some_and(|entry| entry.session.is_some()),
        }))
    }

    /// Writes a key if it has this modify index (0: if it does not exist); returns whether it was written.
    /// Not repeated: an error with [`Error::maybe_applied`] leaves it open.
    ///
    /// # Errors
    /// Consul's.
    pub async fn put(
        &self,
        key: &str,
        value: &[u8],
        flags: u64,
        index: u64,
    ) -> Result<bool, Error> {
        let args = Args::new().arg(key).arg(Value::Bytes(value.to_vec()));
        let args = args.opt("flags", flags).opt("cas", index);
        applied(self.silence.tell(self.call(&kv::PUT, &args)).await)
    }

    /// Writes a key, whatever it has. Not repeated.
    ///
    /// # Errors
    /// Consul's.
    pub async fn put_any(&self, key: &str, value: &[u8], flags: u64) -> Result<(), Error> {
        let args = Args::new().arg(key).arg(Value::Bytes(value.to_vec())).opt("flags", flags);
        self.silence.tell(self.call(&kv::PUT, &args)).await.map(|_| ())
    }

    /// Writes a key, whatever it has, until it is certain.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn put_surely(&self, key: &str, value: &[u8], flags: u64) -> Result<(), Error> {
        self.patiently(async || self.put_any(key, value, flags).await).await
    }

    /// Deletes a key if it has this modify index.
    ///
    /// # Errors
    /// Consul's.
    pub async fn delete(&self, key: &str, index: u64) -> Result<bool, Error> {
        let args = Args::new().arg(key).opt("cas", index);
        applied(self.silence.tell(self.call(&kv::DELETE, &args)).await)
    }

    /// The answer to a request with a name in its URL; `None` if the server does not take that name there.
    async fn named(
        &self,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Option<Answer>, Error> {
        self.patiently(async || match self.call(endpoint, args).await {
            Err(error) if is_of_name(&error) => Ok(None),
            answer => answer.map(Some),
        })
        .await
    }

    /// Whether the server takes a name in a URL: asked once for each spelling.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn takes(&self, name: &str) -> Result<bool, Error> {
        if !fits_url(name) {
            return Ok(false);
        }
        let marks = spelling(name);
        if let Some(takes) = marks.is_empty().then_some(true).or_else(|| self.known(&marks)) {
            return Ok(takes);
        }
        let asked = self.named(&kv::GET, &Args::new().arg(name)).await;
        let takes = match asked {
            // It has looked at the name before.
            Err(error) if error.kind() == Kind::PermissionDenied => true,
            answer => answer?.is_some(),
        };
        lock(&self.spellings).insert(marks, takes);
        Ok(takes)
    }

    fn known(&self, marks: &Spelling) -> Option<bool> {
        lock(&self.spellings).get(marks).copied()
    }

    /// The spellings that the server refuses in the place of a key, if that is not known yet: the fewest marks for
    /// which it does.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn refused_in(&self, mapping: &Mapping, key: &[u8]) -> Result<Vec<Spelling>, Error> {
        let Some(name) = mapping.doubtful(key) else { return Ok(Vec::new()) };
        if self.takes(&name).await? {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        for simpler in simpler(&name) {
            if !self.takes(&simpler).await? {
                refused.push(spelling(&simpler));
            }
        }
        if refused.is_empty() {
            refused.push(spelling(&name));
        }
        Ok(refused)
    }

    /// The keys that begin with a prefix, in bytewise order; with a separator only up to its next one.
    ///
    /// # Errors
    /// Consul's; that ACLs hide some, or may hide some; a key whose name is not UTF-8, which no request of ours reads.
    pub async fn keys(&self, prefix: &str, separator: Option<&str>) -> Result<Vec<String>, Error> {
        let names = self.listed(prefix, separator).await?;
        if names.iter().any(|name| name.contains(NOT_UTF8)) {
            Box::pin(self.check_names(prefix)).await?;
        }
        Ok(names)
    }

    /// Refuses a prefix below which a name is not that of its key, or that of two: the list shows U+FFFD in the place of bytes
    /// that are not UTF-8.
    async fn check_names(&self, prefix: &str) -> Result<(), Error> {
        let mut unread = BTreeSet::new();
        for look in 0..LOOKS {
            if look > 0 {
                self.clock().sleep(PAUSE).await;
            }
            let mut names = self.listed(prefix, None).await?;
            names.retain(|name| name.contains(NOT_UTF8));
            names.sort_unstable();
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = self.entries(&asked).await?;
            let places = 0..names.len();
            let is_unread =
                |at: &usize| found[*at].is_none() || names.get(at + 1) == Some(&names[*at]);
            let now: BTreeSet<String> =
                places.filter(is_unread).map(|at| names[at].clone()).collect();
            unread = if look == 0 { now } else { &unread & &now };
            if unread.is_empty() {
                return Ok(());
            }
        }
        let name = unread.first().map_or("", String::as_str);
        let why = format!(
            "Consul has a key whose name is not UTF-8, \"{}\" in its lists: no request of ours reads or deletes it. Set its value \
             under another name and delete it, with its bytes in a URL, as in /v1/kv/caf%E9",
            shown(name.as_bytes())
        );
        Err(Error::new(Kind::Unsupported, why))
    }

    /// The same names as Consul shows them.
    async fn listed(&self, prefix: &str, separator: Option<&str>) -> Result<Vec<String>, Error> {
        if separator.is_none() && !fits_url(prefix) && size_of(prefix) <= self.max_bytes() {
            return Box::pin(self.keys_of_tree(prefix)).await;
        }
        let mut args = Args::new().arg(prefix).opt("consistent", true);
        if let Some(separator) = separator {
            args = args.opt("separator", separator);
        }
        let answer = match is_plain(prefix) && check_key(prefix).is_ok() {
            _ if !fits_url(prefix) => None,
            true => Some(self.patiently(async || self.call(&kv::KEYS, &args).await).await?),
            false => self.named(&kv::KEYS, &args).await?,
        };
        let Some(answer) = answer else {
            return Box::pin(self.keys_of_directory(prefix, separator)).await;
        };
        self.check_hidden(prefix, &answer.meta).await?;
        let names = answer.value.items().iter().filter_map(Value::as_str);
        Ok(names.map(str::to_owned).collect())
    }

    /// The same of a prefix for which a URL has no room: with their values.
    async fn keys_of_tree(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let ops = Value::List(vec![operation("get-tree", prefix, [])]);
        let args = Args::new().arg(ops).opt("consistent", true);
        let answer = match self.patiently(async || self.call(&txn::TXN, &args).await).await {
            // Older releases refuse a prefix without keys.
            Err(error) if error.kind() == Kind::TxnFailed => return Ok(Vec::new()),
            answer => answer?,
        };
        // Such an answer does not tell whether it is whole.
        self.check_hidden(prefix, &Meta::default()).await?;
        let key = |result: &Value| Some(result.get("KV")?.get("Key")?.as_str()?.to_owned());
        Ok(answer.value.items().iter().filter_map(key).collect())
    }

    /// The same without the prefix in a URL, from the names of the directory around it.
    async fn keys_of_directory(
        &self,
        prefix: &str,
        separator: Option<&str>,
    ) -> Result<Vec<String>, Error> {
        let directory = prefix.rfind('/').map_or("", |at| match prefix.ends_with('/') {
            true => prefix[..at].rfind('/').map_or("", |at| &prefix[..=at]),
            false => &prefix[..=at],
        });
        let mut names = Box::pin(self.listed(directory, None)).await?;
        names.retain(|name| name.starts_with(prefix));
        if let Some(separator) = separator {
            let end = |name: &str| Some(name[prefix.len()..].find(separator)? + separator.len());
            for name in &mut names {
                if let Some(end) = end(name) {
                    name.truncate(prefix.len() + end);
                }
            }
            names.dedup();
        }
        Ok(names)
    }

    /// Refuses a list from which ACLs may have hidden keys.
    async fn check_hidden(&self, prefix: &str, meta: &Meta) -> Result<(), Error> {
        let hidden = |why: &str| {
            let why = format!("ACLs {why} that begin with {prefix:?}");
            Err(self.without_right(Error::new(Kind::PermissionDenied, why)))
        };
        if meta.filtered_by_acl == Some(true) {
            return hidden("hide keys of Consul: the token lacks key:read on some");
        }
        let is_seen = || lock(&self.seen).iter().any(|seen| prefix.starts_with(seen));
        if meta.tells_hidden() || is_seen() {
            return Ok(());
        }
        if !self.may_write_all(prefix).await? {
            return hidden(
                "may hide keys of Consul, and the server does not say: that needs key:write on all",
            );
        }
        lock(&self.seen).push(prefix.to_owned());
        Ok(())
    }

    /// Whether the token may write all keys that begin with a prefix: of the rights that Consul tells, it alone is
    /// restricted by no rule below the prefix.
    ///
    /// # Errors
    /// Consul's.
    pub async fn may_write_all(&self, prefix: &str) -> Result<bool, Error> {
        Ok(self.may_write("write-prefix", &[prefix]).await?.is_none())
    }

    /// The first of these keys that the token may not write.
    ///
    /// # Errors
    /// Consul's.
    pub async fn not_writable<'k>(&self, keys: &[&'k str]) -> Result<Option<&'k str>, Error> {
        for keys in keys.chunks(RIGHTS_AT_ONCE) {
            if let Some(place) = self.may_write("write", keys).await? {
                return Ok(Some(keys[place]));
            }
        }
        Ok(None)
    }

    /// The place of the first of these keys or prefixes for which the token lacks this right.
    async fn may_write(&self, access: &str, keys: &[&str]) -> Result<Option<usize>, Error> {
        let asked = keys.iter().map(|key| {
            let members = [("Resource", "key"), ("Access", access), ("Segment", key)];
            Value::Map(members.map(|(name, text)| (name.to_owned(), text.into())).into())
        });
        let args = Args::new().arg(Value::List(asked.collect()));
        match self.patiently(async || self.call(&acl::AUTHORIZE, &args).await).await {
            Ok(answer) => {
                let allows = |answer: &Value| answer.get("Allow") == Some(&Value::Bool(true));
                let mut answers = answer.value.items().iter().map(allows);
                Ok((0..keys.len()).find(|_| !answers.next().unwrap_or(false)))
            }
            // Without ACLs.
            Err(error) if error.kind() == Kind::Unsupported => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The version of Consul and its datacenter, if the token may ask for them.
    pub async fn about(&self) -> [Option<String>; 2] {
        let asked = self.silence.tell(self.call(&agent::SELF, &Args::new())).await;
        let config = asked.ok().and_then(|answer| answer.value.get("Config").cloned());
        ["Version", "Datacenter"].map(|name| {
            let value = config.as_ref()?.get(name)?.as_str()?;
            Some(value.to_owned())
        })
    }

    /// Keys, read in transactions.
    ///
    /// # Errors
    /// Consul's; that ACLs hide one.
    pub async fn entries(&self, keys: &[&str]) -> Result<Vec<Option<Stored>>, Error> {
        let (mut found, mut rest) = (Vec::with_capacity(keys.len()), keys);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.readable(rest));
            found.extend(self.entries_at_once(now).await?);
            rest = later;
        }
        Ok(found)
    }

    /// How many of these keys or prefixes one transaction reads, and one at least.
    fn readable(&self, keys: &[&str]) -> usize {
        let mut bytes = 0;
        let fits = |key: &&&str| {
            bytes += size_of(key);
            bytes <= self.max_bytes()
        };
        keys.iter().take(self.max_ops).take_while(fits).count().max(1)
    }

    /// The keys that begin with these prefixes, with their values, in transactions. Keys that cannot be read are left out.
    ///
    /// # Errors
    /// Consul's.
    pub async fn trees(&self, prefixes: &[&str]) -> Result<Vec<(String, Bytes)>, Error> {
        let (mut found, mut rest) = (Vec::new(), prefixes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.readable(rest));
            let ops = now.iter().map(|prefix| operation("get-tree", prefix, []));
            let args = Args::new().arg(Value::List(ops.collect())).opt("consistent", true);
            match self.patiently(async || self.call(&txn::TXN, &args).await).await {
                Ok(answer) => found.extend(answer.value.items().iter().filter_map(|result| {
                    let kv = result.get("KV")?;
                    Some((kv.get("Key")?.as_str()?.to_owned(), stored(kv)?.value))
                })),
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::TxnFailed | Kind::PermissionDenied | Kind::TooLarge | Kind::Argument
                    ) => {}
                Err(error) => return Err(error),
            }
            rest = later;
        }
        Ok(found)
    }

    /// Keys, read in one transaction.
    async fn entries_at_once(&self, keys: &[&str]) -> Result<Vec<Option<Stored>>, Error> {
        let mut found = vec![None; keys.len()];
        let mut asked: Vec<usize> = (0..keys.len()).collect();
        while !asked.is_empty() {
            let ops = asked.iter().map(|place| operation("get", keys[*place], []));
            let args = Args::new().arg(Value::List(ops.collect())).opt("consistent", true);
            match self.patiently(async || self.call(&txn::TXN, &args).await).await {
                Ok(answer) => {
                    let mut results = answer.value.items().iter();
                    for place in asked {
                        let kv = results.next().and_then(|result| result.get("KV"));
                        let key = kv.and_then(|kv| kv.get("Key")).and_then(Value::as_str);
                        if key != Some(keys[place]) {
                            return Err(not_read(keys[place]));
                        }
                        found[place] = kv.and_then(stored);
                    }
                    return Ok(found);
                }
                // Absent keys.
                Err(error) if error.kind() == Kind::TxnFailed && !error.refused().is_empty() => {
                    let is_absent = |op: &RefusedOperation| {
                        asked.get(op.index).is_some_and(|place| is_absent(&op.what, keys[*place]))
                    };
                    if !error.refused().iter().all(is_absent) {
                        return Err(error);
                    }
                    let absent: Vec<usize> = error.refused().iter().map(|op| op.index).collect();
                    let mut at = 0..;
                    asked.retain(|_| at.next().is_some_and(|at| !absent.contains(&at)));
                }
                Err(error) if error.kind() == Kind::TooLarge && asked.len() > 1 => {
                    for half in asked.chunks(asked.len().div_ceil(2)) {
                        let names: Vec<_> = half.iter().map(|place| keys[*place]).collect();
                        let read = Box::pin(self.entries_at_once(&names)).await?;
                        half.iter().zip(read).for_each(|(place, stored)| found[*place] = stored);
                    }
                    return Ok(found);
                }
                // Some releases take fewer names in transactions, too, and of none it takes those that are this long.
                Err(error) if matches!(error.kind(), Kind::Argument | Kind::TooLarge) => {
                    for place in asked {
                        found[place] = Box::pin(self.entry_of_tree(keys[place])).await?;
                    }
                    return Ok(found);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// A key, read with all that begin as its name does, up to what a server may refuse, or a URL has no room for.
    async fn entry_of_tree(&self, key: &str) -> Result<Option<Stored>, Error> {
        // It may be shown as the name of another key.
        if key.contains(NOT_UTF8) {
            return Ok(None);
        }
        let mut prefix = within_url(key);
        while !(is_plain(prefix) && check_key(prefix).is_ok()) {
            prefix = &prefix[..prefix.char_indices().next_back().map_or(0, |(at, _)| at)];
        }
        let args = Args::new().arg(prefix).opt("consistent", true);
        let answer = self.patiently(async || self.call(&kv::LIST, &args).await).await?;
        self.check_hidden(prefix, &answer.meta).await?;
        let is_key = |entry: &&Value| entry.get("Key").and_then(Value::as_str) == Some(key);
        Ok(answer.value.items().iter().find(is_key).and_then(stored))
    }

    /// Applies all operations if the checks hold. Not repeated.
    ///
    /// # Errors
    /// Consul's; one with [`Error::maybe_applied`] leaves open whether they were applied.
    pub async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<Outcome, Error> {
        let all = checks.iter().map(check).chain(ops.iter().map(change));
        let args = Args::new().arg(Value::List(all.collect()));
        let request = self.client.request(&txn::TXN, &args)?;
        let answered = self.silence.tell(self.client.execute(&request)).await;
        let success = match answered.map_err(|error| (self.words)(sized(error))) {
            Ok(success) => success,
            Err(error) if error.kind() == Kind::TooLarge => {
                return match self.learn_room(&error, checks, ops) {
                    true => Ok(Outcome::Oversized),
                    false => Err(indivisible(&error, checks, ops)),
                };
            }
            Err(error) => return refused(error),
        };
        let results = success.answer().value;
        let index = results.items().iter().filter_map(|result| {
            let kv = result.get("KV")?;
            kv.get("ModifyIndex")?.as_u64()
        });
        Ok(Outcome::Applied(index.max().unwrap_or(0)))
    }

    /// Applies operations that may be repeated, if the checks hold, until it is certain.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn txn_surely(&self, checks: &[Check], ops: &[Op]) -> Result<Outcome, Error> {
        self.patiently(async || self.txn(checks, ops).await).await
    }

    /// The same operations for several transactions: instead of a tree, only the keys below it that none of them sets are
    /// deleted. A transaction that was repeated and arrives once more, after the next one, would delete what that has set.
    ///
    /// # Errors
    /// Consul's.
    pub async fn divisible(&self, ops: &[Op]) -> Result<Vec<Op>, Error> {
        let is_set =
            |key: &str| ops.iter().any(|op| matches!(op, Op::Set { .. }) && op.key() == key);
        let mut divisible = Vec::new();
        for op in ops {
            if let Op::DeleteTree { prefix } = op {
                let mut old = self.keys(prefix, None).await?;
                // A key with such a name is not a part, and the client sends it in no deletion.
                old.retain(|key| !is_set(key) && check_key(key).is_ok());
                divisible.extend(old.into_iter().map(|key| Op::Delete { key }));
            } else {
                divisible.push(op.clone());
            }
        }
        Ok(divisible)
    }

    /// For how long requests are repeated that are not answered.
    pub(crate) fn patience(&self) -> Duration {
        self.silence.patience()
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes.load(Relaxed)
    }

    /// Learns from the refusal of a transaction that there is less room than was known; whether a smaller one may be taken.
    fn learn_room(&self, refusal: &Error, checks: &[Check], ops: &[Op]) -> bool {
        let size = in_body(checks, ops);
        if size <= MIN_BYTES {
            return false;
        }
        let limit =
            bytes_in(refusal.message()).and_then(|limit| limit.checked_sub(MAX_BODY - MAX_OPS));
        let limit = limit.filter(|limit| (MIN_BYTES..size).contains(limit)).unwrap_or(size / 2);
        self.max_bytes.fetch_min(limit, Relaxed);
        // A key can also be set by a PUT.
        match ops {
            [] => checks.len() > 1,
            [only] => matches!(only, Op::Set { .. }),
            _ => true,
        }
    }

    /// The room of one transaction with this number of checks.
    pub fn room(&self, checks: usize) -> Room {
        Room { bytes: self.max_bytes(), ops: self.max_ops - checks }
    }

    /// How many of the operations fit in one transaction with this number of checks; 0 if the first is too
    /// large for any.
    pub fn fitting<'o>(&self, ops: impl IntoIterator<Item = &'o Op>, checks: usize) -> usize {
        self.room(checks).fitting(ops)
    }
}

/// The room of a transaction.
#[derive(Debug, Default)]
pub struct Room {
    bytes: usize,
    ops: usize,
}

impl Room {
    /// That of a transaction that has nothing else.
    pub(crate) fn whole() -> Room {
        Room { bytes: MAX_OPS, ops: 1 }
    }

    /// Less what a check takes beside the operations, with this many bytes of its own.
    pub fn beside(self, bytes: usize) -> Room {
        Room { bytes: self.bytes.saturating_sub(bytes.div_ceil(3) * 4), ..self }
    }

    /// How many of the operations, from the first on, it takes.
    pub fn fitting<'o>(mut self, ops: impl IntoIterator<Item = &'o Op>) -> usize {
        ops.into_iter().take_while(|op| self.take(op)).count()
    }

    /// Takes the room of an operation. If there is not so much, there is none for those after it either.
    pub fn take(&mut self, op: &Op) -> bool {
        let size = op.in_body();
        let fits = self.ops > 0 && size <= self.bytes && !op.needs_put();
        *self = match fits {
            true => Room { bytes: self.bytes - size, ops: self.ops - 1 },
            false => Room::default(),
        };
        fits
    }
}

/// The status alone tells that a request is too large, whatever has answered, such as a proxy with a page of its own.
fn sized(error: Error) -> Error {
    match error.status() {
        Some(413) if error.kind() != Kind::TooLarge => {
            Error::new(Kind::TooLarge, error.message()).with_status(413)
        }
        _ => error,
    }
}

fn in_body(checks: &[Check], ops: &[Op]) -> usize {
    checks.iter().map(Check::in_body).chain(ops.iter().map(Op::in_body)).sum()
}

/// The refusal of a transaction that cannot be made smaller, with its cure.
fn indivisible(refusal: &Error, checks: &[Check], ops: &[Op]) -> Error {
    let why = format!(
        "{}: Consul, or what is before it, takes no transaction of {} bytes, and this one cannot be smaller: raise the servers' \
         limits.txn_max_req_len, or the limit of what is before them",
        refusal.message(),
        in_body(checks, ops)
    );
    let error = Error::new(Kind::TooLarge, why);
    refusal.status().map_or(error.clone(), |status| error.with_status(status))
}

/// Whether an error of a request with a name in its URL is about that name.
fn is_of_name(error: &Error) -> bool {
    error.kind() == Kind::Argument
        || error.status() == Some(400)
        // 1.12.0 replaces escapes twice.
        || error.message().contains("unescaping path param")
}

/// The limit in a refusal such as `Transaction contains too many operations (128 > 64)`.
fn limit_in(text: &str) -> Option<usize> {
    let (_, limit) = text.split_once(" > ")?;
    limit.split_once(')')?.0.parse().ok()
}

/// The limit in a refusal such as `Request body(492279 bytes) too large, max size: 150000 bytes. See https://…`.
fn bytes_in(text: &str) -> Option<usize> {
    let (_, limit) = text.split_once("max size: ")?;
    limit.split_once(" bytes")?.0.parse().ok()
}

/// The answer to a transaction that reads leaves out what the token may not read.
fn not_read(key: &str) -> Error {
    let why = format!("txn: the token lacks key:read on {key:?}, or the answer is not Consul's");
    Error::new(Kind::PermissionDenied, why)
}

/// Whether the refusal of a read is that the key is absent. A plain name is in it as it is.
fn is_absent(refusal: &str, key: &str) -> bool {
    refusal.contains("doesn't exist") && (!is_plain(key) || refusal.contains(key))
}

fn stored(kv: &Value) -> Option<Stored> {
    let Some(Value::Bytes(value)) = kv.get("Value") else { return None };
    let number = |name| kv.get(name).and_then(Value::as_u64).unwrap_or(0);
    let is_held = kv.get("Session").and_then(Value::as_str).is_some_and(|id| !id.is_empty());
    let (index, flags) = (number("ModifyIndex"), number("Flags"));
    Some(Stored { value: Bytes::copy_from_slice(value), index, flags, is_held })
}

fn applied(answer: Result<Answer, Error>) -> Result<bool, Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

fn refused(error: Error) -> Result<Outcome, Error> {
    match error.refused().first() {
        Some(refused) if error.kind() == Kind::TxnFailed => {
            Ok(Outcome::Refused(refused.index, refused.what.clone()))
        }
        // Each operation may be denied for the same reason.
        Some(_) if error.refused().len() > 1 => {
            let first = error.message().split("; operation ").next().unwrap_or_default();
            let message = format!("{first}; and {} more", error.refused().len() - 1);
            // As an error of its own it would leave open whether they were applied, and be repeated without end.
            Err(Error::new(error.kind(), message).with_maybe_applied(error.maybe_applied()))
        }
        _ => Err(error),
    }
}

fn operation<const N: usize>(verb: &str, key: &str, more: [(&str, Value); N]) -> Value {
    let mut kv = vec![("Verb".to_owned(), verb.into()), ("Key".to_owned(), key.into())];
    kv.extend(more.map(|(name, value)| (name.to_owned(), value)));
    Value::Map(vec![("KV".to_owned(), Value::Map(kv))])
}

fn check(check: &Check) -> Value {
    match check {
        Check::Index(key, index) => operation("check-index", key, [("Index", (*index).into())]),
        Check::Swap(key, index, value) => {
            let value = Value::Bytes(value.clone());
            operation("cas", key, [("Index", (*index).into()), ("Value", value)])
        }
    }
}

fn change(op: &Op) -> Value {
    match op {
        Op::Set { key, value, flags } => {
            let value = Value::Bytes(value.to_vec());
            operation("set", key, [("Value", value), ("Flags", (*flags).into())])
        }
        Op::Delete { key } => operation("delete", key, []),
        Op::DeleteAt { key, index } => operation("delete-cas", key, [("Index", (*index).into())]),
        Op::DeleteTree { prefix } => operation("delete-tree", prefix, []),
    }
}
