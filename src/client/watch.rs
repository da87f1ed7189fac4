//! `Watch`: the changes of what an endpoint reads.

use super::arguments::named_call;
use super::background::WatchSlot;
use super::consul_client::ConsulClient;
use crate::runtime::closable_job::ClosableJob;
use crate::runtime::native::{self, Call, Class, Method, Returned};
use crate::runtime::stack;
use crate::runtime::value::Outcome;
use crate::runtime::wake;
use consul_api::error::Error;
use consul_api::request::Args;
use consul_api::response::Meta;
use consul_api::table::{Endpoint, Shape};
use consul_api::tape::Tape;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::watch::{Change, WatchOptions, watch};
use mlua::{IntoLua, Lua, Table, Value as LuaValue};
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Poll;

/// The userdata of a watch.
pub struct Watch {
    job: ClosableJob<Result<(Change, Meta), Error>>,
    slot: RefCell<Option<WatchSlot>>,
}

impl Watch {
    fn close(&self) {
        self.job.end();
        self.slot.take();
    }
}

const METHODS: &[Method<Watch>] = &[
    Method::raising("__tostring", |call| {
        native::text(call.lua, &call.object.job.shown("Watch", "open"))
    }),
    Method::new("poll", poll),
    Method::new("next", |call| {
        call.object.job.wait(call.lua, &call.arg(1)?)?;
        poll(call)
    }),
    Method::new("fd", |call| Ok(Returned::Value(call.object.job.fd()?.into_lua(call.lua)?))),
    Method::new("unix_socket", |call| {
        wake::unix_socket(call.lua, &*call.object.job.job()?, 0, || None)
    }),
    Method::new("close", |call| {
        call.object.close();
        Ok(Returned::done())
    }),
];

impl Class for Watch {
    const NAME: &'static str = "Watch";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `client:watch(method, …, options)`
pub fn open(call: &Call<ConsulClient>) -> native::Result {
    let (lua, client) = (call.lua, &*call.object);
    let (endpoint, mut args) = named_call(lua, call.args())?;
    let options = options(endpoint, &mut args).map_err(|error| error.context(endpoint.name))?;
    let label = client.request(endpoint, &args)?.label;
    let background = client.background(&label)?;
    let changes = watch(Arc::clone(background.client()), endpoint, args, options)?;
    let slot = background.watch_slot(lua, &label)?;
    let job = background.start(&label, changes)?;
    let job = ClosableJob::new("watch", label, job);
    let watch = native::object(lua, Watch { job, slot: RefCell::new(Some(slot)) })?;
    Ok(Returned::Value(LuaValue::UserData(watch)))
}

fn options(endpoint: &Endpoint, args: &mut Args) -> Result<WatchOptions, Error> {
    let mut options = WatchOptions::default();
    for (name, value) in args.take(&["rate_per_s", "wait"], endpoint)? {
        let at = ValuePath::top(name);
        match name {
            "wait" => {
                options.wait = Shape::Duration { min_s: 0, max_s: 600 }.duration(&value, &at)?;
            }
            _ => {
                options.rate_per_s = match value {
                    Value::Int(number) => number as f64,
                    Value::Float(number) => number,
                    _ => return Err(at.wrong_type_text("a number above 0", &value)),
                }
            }
        }
    }
    Ok(options)
}

/// `watch:poll()`: true with the next change and its metadata, or without if there is none.
fn poll(call: &Call<Watch>) -> native::Result {
    let watch = &*call.object;
    let next = match watch.job.job()?.next()? {
        Poll::Pending => return Ok(Returned::success(LuaValue::Nil)),
        Poll::Ready(next) => next,
    };
    let (change, meta) = next.unwrap_or_else(|| Err(watch.job.closed("the watch has ended")))?;
    let (change, meta) = to_lua(call.lua, change, &meta)?;
    Ok(Returned::Outcome(Outcome::Success(change, meta)))
}

fn to_lua(lua: &Lua, change: Change, meta: &Meta) -> mlua::Result<(LuaValue, LuaValue)> {
    let (kind, id, value) = match change {
        Change::Initial(value) => ("initial", None, value),
        Change::Put { id, value } => ("put", Some(id), value),
        Change::Delete { id, value } => ("delete", Some(id), value),
        Change::Resynchronised(value) => ("resynchronised", None, value),
    };
    let (value, meta) = stack::value_and_meta(lua, &Tape::from(&value), meta)?;
    let change = lua.create_table_with_capacity(0, 3)?;
    change.raw_set("type", kind)?;
    change.raw_set("id", id.filter(|id| !id.is_empty()))?;
    change.raw_set("value", value)?;
    Ok((LuaValue::Table(change), meta))
}
