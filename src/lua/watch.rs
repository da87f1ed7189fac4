//! `Watch`: what becomes of what an endpoint reads, change by change.

use super::client::{prepare, this};
use super::handle::Place;
use super::held::{Held, done, one};
use super::native::{self, Failure, Method, Results};
use super::stack;
use crate::client::watch::{Change, WatchOptions, watch};
use crate::error::Error;
use crate::wire::request::Args;
use crate::wire::response::Meta;
use crate::wire::shape::At;
use crate::wire::table::{Endpoint, Shape};
use crate::wire::tape::Tape;
use crate::wire::value::Value;
use mlua::{
    AnyUserData, IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Poll;

/// A watch as a Lua program holds it.
struct Watch {
    held: Held<Result<(Change, Meta), Error>>,
    place: RefCell<Option<Place>>,
}

impl Watch {
    fn close(&self) {
        self.held.close();
        self.place.take();
    }
}

impl UserData for Watch {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.held.shown("Watch", "open"))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "Watch");
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(INDEX));
    }
}

/// The registry's name for the table of the methods.
const INDEX: &str = "consul_ffi.watch.index";

const METHODS: &[(&str, Method)] = &[
    ("poll", |lua, this, _| take(lua, this)),
    ("next", |lua, this, limit_ms| {
        this.borrow::<Watch>()?.held.wait(lua, "next", limit_ms)?;
        take(lua, this)
    }),
    ("fd", |lua, this, _| Ok(one(this.borrow::<Watch>()?.held.fd()?.into_lua(lua)?))),
    ("close", |_, this, _| {
        this.borrow::<Watch>()?.close();
        Ok(done())
    }),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = native::class_of::<Watch>(lua, INDEX, METHODS)?;
    native.set("open", native::function(lua, "watch", open)?)?;
    Ok(native)
}

/// `client:watch(method, …, options)`
fn open(lua: &Lua, mut args: MultiValue) -> Result<Results, Failure> {
    let client = this(&args, "watch")?;
    args.pop_front();
    let prepared = prepare(lua, args).and_then(|(endpoint, mut args)| {
        let options = options(endpoint, &mut args).map_err(|error| error.context(endpoint.name))?;
        let label = client.request(endpoint, &args)?.label;
        let background = client.background(&label)?;
        let changes = watch(Arc::clone(background.client()), endpoint, args, options)?;
        Ok((label, background, changes))
    });
    let (label, background, changes) = prepared.map_err(|error| error.context("watch"))?;
    let place = background.place(lua, &label)?;
    let job = background.start(&label, changes)?;
    let held = Held::new("watch", label, job);
    let watch = lua.create_userdata(Watch { held, place: RefCell::new(Some(place)) })?;
    Ok(one(LuaValue::UserData(watch)))
}

fn options(endpoint: &Endpoint, args: &mut Args) -> Result<WatchOptions, Error> {
    let mut options = WatchOptions::default();
    for (name, value) in args.take(&["rate_per_s", "wait"], endpoint)? {
        let at = At::top(name);
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

/// `true, change, meta`; true alone when there is nothing yet; else as a call's failure.
fn take(lua: &Lua, this: &AnyUserData) -> Result<Results, Failure> {
    let this = this.borrow::<Watch>()?;
    let next = match this.held.job()?.next()? {
        Poll::Pending => return Ok(one(LuaValue::Boolean(true))),
        Poll::Ready(next) => next,
    };
    let (change, meta) = next.unwrap_or_else(|| Err(this.held.closed("the watch has ended")))?;
    let (change, meta) = to_lua(lua, change, &meta)?;
    Ok((LuaValue::Boolean(true), LuaValue::Table(change), LuaValue::Table(meta)))
}

fn to_lua(lua: &Lua, change: Change, meta: &Meta) -> mlua::Result<(Table, Table)> {
    let (kind, id, value) = match change {
        Change::Initial(value) => ("initial", None, value),
        Change::Put { id, value } => ("put", Some(id), value),
        Change::Delete { id, value } => ("delete", Some(id), value),
        Change::Resynchronised(value) => ("resynchronised", None, value),
    };
    let (value, meta) = stack::results(lua, &Tape::from(&value), meta)?;
    let change = lua.create_table_with_capacity(0, 3)?;
    change.raw_set("type", kind)?;
    change.raw_set("id", id.filter(|id| !id.is_empty()))?;
    change.raw_set("value", value)?;
    Ok((change, meta))
}
