//! `ServiceView`: a service's instances, without a request for each answer.

use super::client::{positional, this};
use super::handle::Place;
use super::held::{Held, done, one};
use super::native::{self, Failure, Method, Results};
use super::value;
use crate::client::view::{EMPTY_HOLD, Instance, List, View, view};
use crate::error::Error;
use crate::wire::health;
use crate::wire::shape::At;
use crate::wire::table::DURATION;
use crate::wire::value::Value;
use futures_util::StreamExt;
use futures_util::future::ready;
use mlua::{
    AnyUserData, IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::RefCell;
use std::sync::Arc;

/// A view as a Lua program holds it.
struct ServiceView {
    view: Arc<View>,
    /// What keeps the view up to date. It gives one result, after the first answer.
    held: Held<Result<(), Error>>,
    place: RefCell<Option<Place>>,
    /// The list that was asked for last, and its instances as tables.
    tables: RefCell<Option<(Arc<List>, Table)>>,
}

impl ServiceView {
    /// The view, as it is at this moment.
    fn view(&self) -> Result<&View, Error> {
        self.held.job()?.settle()?;
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
        self.held.close();
        self.place.take();
    }
}

impl UserData for ServiceView {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.held.shown("ServiceView", "open"))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "ServiceView");
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(INDEX));
    }
}

/// The registry's name for the table of the methods.
const INDEX: &str = "consul_ffi.view.index";

const METHODS: &[(&str, Method)] = &[
    ("ready", |lua, this, limit_ms| {
        let this = this.borrow::<ServiceView>()?;
        this.held.wait(lua, "ready", limit_ms)?;
        this.view()?.all()?;
        Ok(done())
    }),
    ("all", all),
    ("age_s", |lua, this, _| {
        let age = this.borrow::<ServiceView>()?.view()?.age()?;
        Ok(one(age.as_secs_f64().into_lua(lua)?))
    }),
    ("close", |_, this, _| {
        this.borrow::<ServiceView>()?.close();
        Ok(done())
    }),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = native::class_of::<ServiceView>(lua, INDEX, METHODS)?;
    native.set("pick", native::function(lua, "pick", pick)?)?;
    native.set("open", native::function(lua, "service_view", open)?)?;
    Ok(native)
}

/// `client:service_view(name, options)`
fn open(lua: &Lua, mut args: MultiValue) -> Result<Results, Failure> {
    let client = this(&args, "service_view")?;
    args.pop_front();
    let prepared = positional(lua, &health::SERVICE, args).and_then(|mut args| {
        let mut empty_hold = EMPTY_HOLD;
        for (name, value) in args.take(&["empty_hold_s"], &health::SERVICE)? {
            empty_hold = DURATION.duration(&value, &At::top(name))?;
        }
        let label = client.request(&health::SERVICE, &args)?.label;
        let background = client.background(&label)?;
        let (view, answers) = view(Arc::clone(background.client()), args, empty_hold)?;
        Ok((background, view, answers))
    });
    let (background, view, answers) = prepared.map_err(|error| error.context("service_view"))?;
    let place = background.place(lua, view.label())?;
    let first = answers.enumerate().filter_map(|(n, ())| ready((n == 0).then_some(Ok(()))));
    let job = background.start(view.label(), first)?;
    let held = Held::new("view", view.label().to_owned(), job);
    let (place, tables) = (RefCell::new(Some(place)), RefCell::default());
    let view = lua.create_userdata(ServiceView { view, held, place, tables })?;
    Ok(one(LuaValue::UserData(view)))
}

fn all(lua: &Lua, this: &AnyUserData, _: &Value) -> Result<Results, Failure> {
    let this = this.borrow::<ServiceView>()?;
    let list = this.view()?.all()?;
    let tables = this.tables(lua, &list)?;
    // A program may sort its list.
    let copy = lua.create_sequence_from(
        tables.sequence_values::<Table>().collect::<mlua::Result<Vec<_>>>()?,
    )?;
    Ok(one(LuaValue::Table(copy)))
}

/// `view:pick(key)`, which is called for each request of a gateway.
fn pick(lua: &Lua, args: MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(LuaValue::as_userdata);
    let this = this.and_then(|this| this.borrow::<ServiceView>().ok());
    let this = this.ok_or_else(|| Error::misuse("pick: call it with a colon"))?;
    let picked = match args.get(1) {
        None | Some(LuaValue::Nil) => this.view()?.pick()?,
        Some(LuaValue::String(key)) => this.view()?.pick_by(&key.as_bytes())?,
        Some(other) => {
            let given = value::from_lua(lua, other);
            let error = given.map(|given| At::top("key").wrong_type_text("a string", &given));
            return Err(error.unwrap_or_else(|error| error).context("pick").into());
        }
    };
    Ok(one(this.tables(lua, &picked.list)?.raw_get(picked.place + 1)?))
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
