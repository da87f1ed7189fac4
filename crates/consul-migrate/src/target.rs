//! Consul's side: reads and writes that are repeated while no server answers.

use super::mapping::{JOBS, Op};
use bytes::Bytes;
use consul_api::api::{acl, kv, txn};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::{Answer, Meta};
use consul_api::value::Value;
use consul_client::Client;
use consul_process::clock::{Clock, Instant};
use consul_process::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The pauses between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// The size of a transaction's body that servers take is 524,288 bytes.
const MAX_BODY: usize = 500_000;

/// Consul as the target of a job.
#[derive(Debug)]
pub struct Target {
    client: Arc<Client>,
    /// For how long a request is repeated while no server answers.
    patience: Duration,
    /// The operations of a transaction.
    pub max_ops: usize,
    /// The prefixes of which it is known that ACLs hide no keys.
    seen: Mutex<Vec<String>>,
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
}

/// A check that must hold for a transaction.
#[derive(Clone, Debug)]
pub enum Check {
    /// The key has this modify index.
    Index(String, u64),
    /// The key has this modify index (0: it does not exist), and gets this value.
    Swap(String, u64, Vec<u8>),
}

impl Target {
    /// Repeats requests for up to `patience` while no server answers; a transaction has up to `max_ops` operations.
    pub fn new(client: Arc<Client>, patience: Duration, max_ops: usize) -> Self {
        Target { client, patience, max_ops, seen: Mutex::default() }
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
        let gets = (0..self.max_ops).map(|_| operation("get", JOBS, []));
        let args = Args::new().arg(Value::List(gets.collect()));
        match self.patiently(async || self.client.call(&txn::TXN, &args).await).await {
            Err(error) if error.kind() == Kind::TooLarge => {
                self.max_ops = limit_in(error.message()).ok_or(error)?;
                Ok(())
            }
            Err(error) if error.kind() != Kind::TxnFailed => Err(error),
            _ => Ok(()),
        }
    }

    /// Repeats a call that may be repeated.
    async fn patiently<R>(&self, call: impl AsyncFn() -> Result<R, Error>) -> Result<R, Error> {
        let deadline = self.clock().now() + self.patience;
        loop {
            let error = match call().await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            if !self.may_repeat(&error, deadline) {
                return Err(error);
            }
            self.clock().sleep(PAUSE).await;
        }
    }

    fn may_repeat(&self, error: &Error, deadline: Instant) -> bool {
        let is_transient = error.is_transient()
            || matches!(
                error.kind(),
                Kind::Connect | Kind::Timeout | Kind::NoLeader | Kind::RateLimited
            );
        is_transient && error.kind() != Kind::Config && self.clock().now() < deadline
    }

    /// A linearizable read of a key.
    ///
    /// # Errors
    /// Consul's, when it has not answered for long.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, Error> {
        if !key.is_ascii() {
            // Consul may not know a character as printable, and refuses such a URL.
            return Ok(self.entries(&[key]).await?.pop().flatten());
        }
        let args = Args::new().arg(key).opt("consistent", true);
        let answer = self.patiently(async || self.client.call(&kv::GET, &args).await).await?;
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
        applied(self.client.call(&kv::PUT, &args).await)
    }

    /// Writes a key, whatever it has. Not repeated.
    ///
    /// # Errors
    /// Consul's.
    pub async fn put_any(&self, key: &str, value: &[u8], flags: u64) -> Result<(), Error> {
        let args = Args::new().arg(key).arg(Value::Bytes(value.to_vec())).opt("flags", flags);
        self.client.call(&kv::PUT, &args).await.map(|_| ())
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
        applied(self.client.call(&kv::DELETE, &args).await)
    }

    /// The keys that begin with a prefix, in bytewise order; with a separator only up to its next one.
    ///
    /// # Errors
    /// Consul's; that ACLs hide some, or may hide some.
    pub async fn keys(&self, prefix: &str, separator: Option<&str>) -> Result<Vec<String>, Error> {
        let mut args = Args::new().arg(prefix).opt("consistent", true);
        if let Some(separator) = separator {
            args = args.opt("separator", separator);
        }
        let answer = self.patiently(async || self.client.call(&kv::KEYS, &args).await).await?;
        self.check_hidden(prefix, &answer.meta).await?;
        let names = answer.value.items().iter().filter_map(Value::as_str);
        Ok(names.map(str::to_owned).collect())
    }

    /// Refuses a list of which ACLs may have hidden keys.
    async fn check_hidden(&self, prefix: &str, meta: &Meta) -> Result<(), Error> {
        let hidden = |why: &str| {
            let why = format!("ACLs {why} that begin with {prefix:?}");
            Err(Error::new(Kind::PermissionDenied, why))
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

    /// Of these prefixes those below which the token may not write all keys.
    ///
    /// # Errors
    /// Consul's.
    pub async fn not_writable<'p>(&self, prefixes: &'p [String]) -> Result<Vec<&'p str>, Error> {
        let mut found = Vec::new();
        for prefix in prefixes {
            if !self.may_write_all(prefix).await? {
                found.push(prefix.as_str());
            }
        }
        Ok(found)
    }

    /// Whether the token may write all keys that begin with a prefix: of the rights that Consul tells it is the only
    /// one that no rule below the prefix restricts.
    async fn may_write_all(&self, prefix: &str) -> Result<bool, Error> {
        let members = [("Resource", "key"), ("Access", "write-prefix"), ("Segment", prefix)];
        let members = members.map(|(name, text)| (name.to_owned(), text.into()));
        let args = Args::new().arg(Value::List(vec![Value::Map(members.into())]));
        match self.patiently(async || self.client.call(&acl::AUTHORIZE, &args).await).await {
            Ok(answer) => {
                let allows = |answer: &Value| answer.get("Allow") == Some(&Value::Bool(true));
                Ok(answer.value.items().first().is_some_and(allows))
            }
            // Without ACLs.
            Err(error) if error.kind() == Kind::Unsupported => Ok(true),
            Err(error) => Err(error),
        }
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
            bytes <= MAX_BODY
        };
        keys.iter().take(self.max_ops).take_while(fits).count().max(1)
    }

    /// The keys that begin with these prefixes, with their values, in transactions. What cannot be read is left out.
    ///
    /// # Errors
    /// Consul's.
    pub async fn trees(&self, prefixes: &[&str]) -> Result<Vec<(String, Bytes)>, Error> {
        let (mut found, mut rest) = (Vec::new(), prefixes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.readable(rest));
            let ops = now.iter().map(|prefix| operation("get-tree", prefix, []));
            let args = Args::new().arg(Value::List(ops.collect())).opt("consistent", true);
            match self.patiently(async || self.client.call(&txn::TXN, &args).await).await {
                Ok(answer) => found.extend(answer.value.items().iter().filter_map(|result| {
                    let kv = result.get("KV")?;
                    Some((kv.get("Key")?.as_str()?.to_owned(), stored(kv)?.value))
                })),
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::TxnFailed | Kind::PermissionDenied | Kind::TooLarge
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
            match self.patiently(async || self.client.call(&txn::TXN, &args).await).await {
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
                    let absent: Vec<usize> = error.refused().iter().map(|op| op.index).collect();
                    let mut at = 0..;
                    asked.retain(|_| at.next().is_some_and(|at| !absent.contains(&at)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Applies all operations if the checks hold. Not repeated.
    ///
    /// # Errors
    /// Consul's; one with [`Error::maybe_applied`] leaves open whether they were applied.
    pub async fn txn(&self, checks: &[Check], ops: &[Op]) -> Result<Outcome, Error> {
        let all = checks.iter().map(check).chain(ops.iter().map(change));
        let args = Args::new().arg(Value::List(all.collect()));
        let success = match self.client.execute(&self.client.request(&txn::TXN, &args)?).await {
            Ok(success) => success,
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
                let old = self.keys(prefix, None).await?.into_iter().filter(|key| !is_set(key));
                divisible.extend(old.map(|key| Op::Delete { key }));
            } else {
                divisible.push(op.clone());
            }
        }
        Ok(divisible)
    }

    /// The room of one transaction with this number of checks.
    pub fn room(&self, checks: usize) -> Room {
        Room { bytes: MAX_BODY - 2048, ops: self.max_ops - checks }
    }

    /// How many of the operations fit in one transaction with this number of checks; 0 if the first is too
    /// large for any.
    pub fn fitting<'o>(&self, ops: impl IntoIterator<Item = &'o Op>, checks: usize) -> usize {
        let mut room = self.room(checks);
        ops.into_iter().take_while(|op| room.take(op)).count()
    }
}

/// What a transaction has room for.
#[derive(Debug, Default)]
pub struct Room {
    bytes: usize,
    ops: usize,
}

impl Room {
    /// Takes the room of an operation. If there is not so much, there is none for those after it either.
    pub fn take(&mut self, op: &Op) -> bool {
        let size = op.size().div_ceil(3) * 4 + size_of(op.key());
        let fits = self.ops > 0 && size <= self.bytes && !op.needs_put();
        *self = match fits {
            true => Room { bytes: self.bytes - size, ops: self.ops - 1 },
            false => Room::default(),
        };
        fits
    }
}

/// The limit in a refusal such as `Transaction contains too many operations (128 > 64)`.
fn limit_in(text: &str) -> Option<usize> {
    let (_, limit) = text.split_once(" > ")?;
    limit.split_once(')')?.0.parse().ok()
}

/// The size of an operation on a key in a transaction's body, without a value.
fn size_of(key: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        _ if byte.is_ascii_control() => 6,
        _ => 1,
    };
    key.bytes().map(escaped).sum::<usize>() + 120
}

/// The answer to a transaction that reads leaves out what the token may not read.
fn not_read(key: &str) -> Error {
    let why = format!("txn: the token lacks key:read on {key:?}, or the answer is not Consul's");
    Error::new(Kind::PermissionDenied, why)
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
            Err(Error::new(error.kind(), message))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ::http::{Request, Response};
    use consul_api::request::Defaults;
    use consul_client::Settings;
    use consul_client::transport::Transport;
    use consul_process::clock::{BoxFuture, SystemClock};

    /// A target with this server, which is asked once.
    pub fn target_of(server: impl Transport + 'static) -> Target {
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::with_seed(1));
        let client = Client::new(vec![Arc::new(server)], settings, clock, rng);
        Target::new(Arc::new(client), Duration::ZERO, 64)
    }

    /// A server that answers all with a success that has nothing.
    #[derive(Debug)]
    struct Proxy;

    impl Transport for Proxy {
        fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
            Box::pin(async {
                Ok(Response::new(Bytes::from_static(br#"{"Results":[],"Errors":null}"#)))
            })
        }

        fn endpoint(&self) -> &str {
            "proxy"
        }
    }

    #[test]
    fn an_answer_without_results_is_not_that_of_a_transaction() {
        let target = target_of(Proxy);
        let set = Op::set("a".to_owned(), "v".into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let written = runtime.block_on(target.txn(&[], &[set])).unwrap_err();
        assert_eq!((written.kind(), written.maybe_applied()), (Kind::Decode, true), "{written}");
        let read = runtime.block_on(target.entries(&["a"])).unwrap_err();
        assert_eq!(read.kind(), Kind::PermissionDenied, "{read}");
    }
}
