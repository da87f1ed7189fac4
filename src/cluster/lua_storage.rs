//! A storage that the program implements: a table with functions, which are called on the thread of its
//! Lua state whenever that polls or waits.

use super::inbox::{Inbox, NodeNumber};
use super::serving::without_positions;
use crate::runtime::native::{Failure, pcall, text_of};
use crate::runtime::value;
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_process::clock::BoxFuture;
use consul_process::os;
use consul_replication::record::{Range, Record, Version};
use consul_replication::storage::Storage;
use mlua::{IntoLua, IntoLuaMulti, Lua, Table, Value as LuaValue};
use std::mem;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// The functions of a storage.
pub const FUNCTIONS: [&str; 6] = ["apply", "scan", "drop", "purge", "keep", "kept"];

/// The optional function of a storage.
const FLUSH: &str = "flush";

/// The most calls of one storage that wait for the program.
const MAX_WAITING: usize = 64;

/// The storage of a store in one start of a node.
pub struct LuaStorage {
    store: Arc<str>,
    inbox: Arc<Inbox>,
    node: NodeNumber,
    places: Arc<Semaphore>,
}

/// A call of a storage's function, which waits for the program.
pub struct StorageCall {
    /// The name of the store.
    pub store: Arc<str>,
    run: Run,
    generation: u32,
}

/// Calls the function of a storage, if its table is still there, and sends the result.
type Run = Box<dyn FnOnce(&Lua, Option<Table>) -> Result<(), Failure> + Send>;

impl StorageCall {
    /// Makes the call.
    ///
    /// # Errors
    /// Errors of Lua outside of the function.
    pub fn run(self, lua: &Lua, storage: Option<Table>) -> Result<(), Failure> {
        if self.generation == os::fork_generation() {
            return (self.run)(lua, storage);
        }
        // To answer in a forked child would wake the parent's background in a copy of it.
        mem::forget(self);
        Ok(())
    }
}

impl LuaStorage {
    /// The storage of a store, whose functions the state of this queue calls for a node.
    pub fn new(store: &str, inbox: Arc<Inbox>, node: NodeNumber) -> Self {
        let places = Arc::new(Semaphore::new(MAX_WAITING));
        LuaStorage { store: store.into(), inbox, node, places }
    }

    /// Calls a function on the thread of the Lua state. `read` reads its first result; the error of it is
    /// a sentence about the function.
    fn ask<A: IntoLuaMulti, R: Send + 'static>(
        &self,
        function: &'static str,
        args: impl FnOnce(&Lua) -> mlua::Result<A> + Send + 'static,
        read: impl FnOnce(&Lua, &LuaValue) -> Result<R, String> + Send + 'static,
    ) -> BoxFuture<'_, Result<R, Error>> {
        Box::pin(async move {
            let stopped = |_| Error::new(Kind::Closed, "the node was stopped");
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.map_err(|_| stopped(()))?;
            let (reply, outcome) = oneshot::channel();
            let label = Arc::clone(&self.store);
            let run: Run = Box::new(move |lua, storage| {
                let _place = place;
                // A caller that is gone may have promised something else since.
                if !reply.is_closed() {
                    let result = match storage {
                        Some(storage) => called(lua, &storage, &label, function, args, read)?,
                        None => Err("the program has dropped the storage".to_owned()),
                    };
                    _ = reply.send(result);
                }
                Ok(())
            });
            let store = Arc::clone(&self.store);
            let call = StorageCall { store, run, generation: os::fork_generation() };
            self.inbox.push_storage(self.node, call);
            let result = outcome.await.map_err(|_| stopped(()))?;
            result.map_err(|why| {
                let store = &self.store;
                let why = format!("store {store:?}: the storage's function {function:?}: {why}");
                Error::new(Kind::Http, why)
            })
        })
    }
}

/// A member of a storage; the error is what its metatable has raised.
pub fn member(storage: &Table, name: &str) -> Result<LuaValue, String> {
    storage.get(name).map_err(|error| match Failure::from(error) {
        Failure::Lua(text) => text,
        Failure::Error(error) => error.message().to_owned(),
    })
}

/// Calls a function of the storage of a store. The inner error is a sentence about it.
fn called<A: IntoLuaMulti, R>(
    lua: &Lua,
    storage: &Table,
    store: &str,
    name: &str,
    args: impl FnOnce(&Lua) -> mlua::Result<A>,
    read: impl FnOnce(&Lua, &LuaValue) -> Result<R, String>,
) -> Result<Result<R, String>, Failure> {
    let function = match member(storage, name) {
        Ok(LuaValue::Function(function)) => function,
        Ok(LuaValue::Nil) if name == FLUSH => return Ok(read(lua, &LuaValue::Nil)),
        Ok(other) => return Ok(Err(format!("it is {}, not a function", shown(&other)))),
        Err(error) => {
            tracing::warn!(store, function = name, error, "a storage raised an error");
            let error = without_positions(&error, None);
            return Ok(Err(format!("reading it raised an error: {error}")));
        }
    };
    let own_name = function.info().short_src;
    let mut given = args(lua)?.into_lua_multi(lua)?;
    given.push_front(storage.into_lua(lua)?);
    given.push_front(LuaValue::Function(function));
    let (ran, first, second): (bool, LuaValue, LuaValue) = pcall(lua)?.call(given)?;
    let failed = match (&first, &second) {
        (raised, _) if !ran => {
            let error = text_of(raised);
            tracing::warn!(store, function = name, error, "a storage raised an error");
            Some(raised)
        }
        (LuaValue::Nil | LuaValue::Boolean(false), message) if !message.is_nil() => Some(message),
        _ => None,
    };
    Ok(match failed {
        Some(error) => Err(without_positions(&text_of(error), own_name.as_deref())),
        None => read(lua, &first),
    })
}

fn shown(value: &LuaValue) -> String {
    match value {
        LuaValue::Nil => "nil".to_owned(),
        LuaValue::Boolean(value) => value.to_string(),
        LuaValue::Integer(_) => "a number".to_owned(),
        other => format!("a {}", other.type_name()),
    }
}

/// The result of a function that reports nothing but its success.
fn done(_: &Lua, first: &LuaValue) -> Result<(), String> {
    match first {
        LuaValue::Boolean(true) => Ok(()),
        other => Err(format!("it returned {}: it must be true", shown(other))),
    }
}

/// The records of a call as Lua has them.
fn to_lua(lua: &Lua, records: Vec<Record>) -> mlua::Result<LuaValue> {
    let record = |Record { id, version, data }| {
        let mut members = vec![
            ("id".to_owned(), Value::Bytes(id.into())),
            ("version".to_owned(), Value::Bytes(version.to_string().into())),
        ];
        members.extend(data.map(|data| ("data".to_owned(), Value::Bytes(data.into()))));
        Value::Map(members)
    };
    value::to_lua(lua, &Value::List(records.into_iter().map(record).collect()))
}

/// The result of `apply` for this many records: the records that lost against kept ones.
fn kept_instead(
    lua: &Lua,
    first: &LuaValue,
    count: usize,
) -> Result<Vec<(usize, Version)>, String> {
    let wanted = "it must be true or a list of { index, version }";
    let list = match first {
        LuaValue::Boolean(true) => return Ok(Vec::new()),
        LuaValue::Table(_) => value::from_lua(lua, first),
        other => return Err(format!("it returned {}: {wanted}", shown(other))),
    };
    let list = match list.map_err(|error| error.message().to_owned())? {
        Value::List(list) => list,
        Value::Map(members) if members.is_empty() => Vec::new(),
        other => return Err(format!("it returned {}: {wanted}", other.type_name())),
    };
    let pair = |given: &Value| match given.items() {
        [index, version] => {
            let index = usize::try_from(index.as_u64()?).ok()?.checked_sub(1)?;
            let version = version.as_str()?.parse().ok()?;
            (index < count).then_some((index, version))
        }
        _ => None,
    };
    let pairs = list.iter().enumerate().map(|(at, given)| {
        pair(given).ok_or_else(|| {
            let place = at + 1;
            format!(
                "item {place} of its result is not the index (1 to {count}) and version of a record"
            )
        })
    });
    pairs.collect()
}

/// The page that `scan` returned.
fn page(first: &LuaValue, range: &Range, limit: usize) -> Result<Vec<Record>, String> {
    let LuaValue::Table(list) = first else {
        return Err(format!("it returned {}: it must be a list of records", shown(first)));
    };
    let mut records: Vec<Record> = Vec::new();
    // Items behind a hole would be lost.
    let mut last = 0;
    let key = |key: LuaValue, _: LuaValue| {
        if key.is_number() || key.is_integer() {
            last = last.max(value::place(&key));
        }
        Ok(())
    };
    list.for_each(key).map_err(|error| error.to_string())?;
    for at in 0..last {
        let given = list.raw_get::<LuaValue>(at + 1).map_err(|error| error.to_string());
        let checked = given.and_then(|given| record(&given)).and_then(|record| {
            let is_next = records.last().is_none_or(|last| last.id < record.id);
            match () {
                () if at >= limit => Err(format!("up to {limit} records were asked for")),
                () if !is_next => Err("its id is not after that of the one before".to_owned()),
                () if !range.contains(&record.id) => Err("its id is not in the range".to_owned()),
                () => Ok(record),
            }
        });
        let place = at + 1;
        records.push(checked.map_err(|why| format!("record {place} of its result: {why}"))?);
    }
    Ok(records)
}

fn record(given: &LuaValue) -> Result<Record, String> {
    let LuaValue::Table(given) = given else {
        return Err(format!("it is {}: it must be a table", shown(given)));
    };
    let member = |name: &str| {
        let member = given.raw_get(name).map_err(|error| error.to_string())?;
        text(&member)
            .ok_or_else(|| format!("its {name} is {}: it must be a string", shown(&member)))
    };
    let version = member("version")?.ok_or("it has no version")?;
    let version = std::str::from_utf8(&version).map_err(|_| "its version is not text")?;
    Ok(Record {
        id: member("id")?.ok_or("it has no id")?,
        version: version.parse()?,
        data: member("data")?,
    })
}

/// A string or nil; the outer `None`: it is neither.
fn text(value: &LuaValue) -> Option<Option<Bytes>> {
    match value {
        LuaValue::String(text) => Some(Some(Bytes::copy_from_slice(&text.as_bytes()))),
        LuaValue::Nil => Some(None),
        _ => None,
    }
}

impl Storage for LuaStorage {
    fn apply(
        &self,
        shard: u32,
        records: Vec<Record>,
    ) -> BoxFuture<'_, Result<Vec<(usize, Version)>, Error>> {
        let count = records.len();
        self.ask(
            "apply",
            move |lua| Ok((shard, to_lua(lua, records)?)),
            move |lua, first| kept_instead(lua, first, count),
        )
    }

    fn scan(
        &self,
        shard: u32,
        range: Range,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let Range { from, to, after } = range.clone();
        self.ask(
            "scan",
            move |lua| {
                let text = |bytes: Bytes| lua.create_string(&bytes);
                let (to, after) = (to.map(text).transpose()?, after.map(text).transpose()?);
                Ok((shard, lua.create_string(&from)?, to, after, limit))
            },
            move |_, first| page(first, &range, limit),
        )
    }

    fn purge(&self, shard: u32, below: Version) -> BoxFuture<'_, Result<(), Error>> {
        self.ask("purge", move |_| Ok((shard, below.to_string())), done)
    }

    fn drop_shard(&self, shard: u32) -> BoxFuture<'_, Result<(), Error>> {
        self.ask("drop", move |_| Ok(shard), done)
    }

    fn keep(&self, name: &str, value: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let name = name.to_owned();
        self.ask("keep", move |lua| Ok((name, lua.create_string(&value)?)), done)
    }

    fn kept(&self, name: &str) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let name = name.to_owned();
        let read = |_: &Lua, first: &LuaValue| {
            text(first)
                .ok_or_else(|| format!("it returned {}: it must be a string or nil", shown(first)))
        };
        self.ask("kept", move |_| Ok(name), read)
    }

    fn flush(&self) -> BoxFuture<'_, Result<bool, Error>> {
        let read = |lua: &Lua, first: &LuaValue| match first {
            LuaValue::Nil => Ok(false),
            first => done(lua, first).map(|()| true),
        };
        self.ask(FLUSH, |_| Ok(()), read)
    }
}
