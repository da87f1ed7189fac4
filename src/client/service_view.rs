//! `ServiceView`: the instances of a service, kept up to date by a watch.

use super::arguments::positional;
use super::background::WatchSlot;
use super::consul_client::ConsulClient;
use crate::runtime::closable_job::ClosableJob;
use crate::runtime::job::Job;
use crate::runtime::native::{self, Call, Class, Method, Returned};
use crate::runtime::{value, wake};
use consul_api::api::health;
use consul_api::error::Error;
use consul_api::table::DURATION;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::view::{EMPTY_HOLD, Instance, List, View, view};
use futures_util::StreamExt;
use futures_util::future::ready;
use mlua::{IntoLua as _, Lua, Table, Value as LuaValue};
use std::cell::RefCell;
use std::sync::Arc;

/// The userdata of a view.
pub struct ServiceView {
    view: Arc<View>,
    /// Keeps the view up to date. Its one result comes after the first answer.
    job: ClosableJob<Result<(), Error>>,
    slot: RefCell<Option<WatchSlot>>,
    /// The last list that the program asked for, and its instances as tables.
    tables: RefCell<Option<(Arc<List>, Table)>>,
}

impl ServiceView {
    /// A view that something else keeps up to date, and for which nothing waits.
    pub fn of(view: Arc<View>) -> Self {
        let job = ClosableJob::new("view", view.label().to_owned(), Job::completed(Ok(())));
        ServiceView { view, job, slot: RefCell::default(), tables: RefCell::default() }
    }

    /// The view at this moment.
    fn view(&self) -> Result<&View, Error> {
        self.job.job()?.run_pending()?;
        Ok(&self.view)
    }

    fn tables(&self, lua: &Lua, list: &Arc<List>) -> mlua::Result<Table> {
        if let Some((made_from, tables)) = &*self.tables.borrow()
            && Arc::ptr_eq(made_from, list)
        {
            return Ok(tables.clone());
        }
        let instances = list.instances().iter().map(to_value).collect();
        let tables: Table = lua.convert(value::to_lua(lua, &Value::List(instances))?)?;
        self.tables.replace(Some((Arc::clone(list), tables.clone())));
        Ok(tables)
    }

    fn close(&self) {
        self.job.end();
        self.slot.take();
    }
}

const METHODS: &[Method<ServiceView>] = &[
    Method::raising("__tostring", |call| {
        native::text(call.lua, &call.object.job.shown("ServiceView", "open"))
    }),
    Method::new("ready", |call| {
        let view = &*call.object;
        view.job.wait(call.lua, &call.arg(1)?)?;
        let job = view.job.job()?;
        if job.is_ready() {
            job.end_wait();
        }
        view.view()?.all()?;
        Ok(Returned::done())
    }),
    Method::new("all", all),
    Method::new("pick", pick),
    Method::new("age_s", |call| {
        let age = call.object.view()?.age()?;
        Ok(Returned::Value(LuaValue::Number(age.as_secs_f64())))
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

impl Class for ServiceView {
    const NAME: &'static str = "ServiceView";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `client:service_view(name, options)`
pub fn open(call: &Call<ConsulClient>) -> native::Result {
    let (lua, client) = (call.lua, &*call.object);
    let mut args = positional(lua, &health::SERVICE, call.args())?;
    let mut empty_hold = EMPTY_HOLD;
    for (name, value) in args.take(&["empty_hold_s"], &health::SERVICE)? {
        empty_hold = DURATION.duration(&value, &ValuePath::top(name))?;
    }
    let label = client.request(&health::SERVICE, &args)?.label;
    let background = client.background(&label)?;
    let (view, answers) = view(Arc::clone(background.client()), args, empty_hold)?;
    let slot = background.watch_slot(lua, view.label())?;
    let first = answers.enumerate().filter_map(|(n, ())| ready((n == 0).then_some(Ok(()))));
    let job = background.start(view.label(), first)?;
    let job = ClosableJob::new("view", view.label().to_owned(), job);
    let (slot, tables) = (RefCell::new(Some(slot)), RefCell::default());
    let view = native::object(lua, ServiceView { view, job, slot, tables })?;
    Ok(Returned::Value(LuaValue::UserData(view)))
}

/// `view:all()`
fn all(call: &Call<ServiceView>) -> native::Result {
    let list = call.object.view()?.all()?;
    let tables = call.object.tables(call.lua, &list)?;
    // A copy, because the program may sort its list.
    let copy = call.lua.create_table_with_capacity(tables.raw_len(), 0)?;
    for index in 1..=tables.raw_len() {
        copy.raw_seti(index, tables.raw_get::<LuaValue>(index)?)?;
    }
    Ok(Returned::Value(LuaValue::Table(copy)))
}

/// `view:pick(key)`; a gateway calls it for each request.
fn pick(call: &Call<ServiceView>) -> native::Result {
    let view = &*call.object;
    let picked = match call.lua_arg(1) {
        LuaValue::Nil => view.view()?.pick()?,
        LuaValue::String(key) => view.view()?.pick_by(&key.as_bytes())?,
        _ => return Err(ValuePath::top("key").wrong_type_text("a string", &call.arg(1)?).into()),
    };
    Ok(Returned::Value(view.tables(call.lua, &picked.list)?.raw_get(picked.index + 1)?))
}

fn to_value(instance: &Instance) -> Value {
    let Instance { id, name, address, port, tags, meta, node, warns, weight } = instance;
    let text = |text: &String| Value::from(text.as_str());
    let members = [
        ("id", text(id)),
        ("name", text(name)),
        ("address", text(address)),
        ("port", u64::from(*port).into()),
        ("tags", Value::List(tags.iter().map(text).collect())),
        (
            "meta",
            Value::Map(meta.iter().map(|(name, value)| (name.clone(), text(value))).collect()),
        ),
        ("node", text(node)),
        ("status", if *warns { "warning" } else { "passing" }.into()),
        ("weight", u64::from(*weight).into()),
    ];
    Value::Map(members.map(|(name, value)| (name.to_owned(), value)).into())
}
