//! `ServiceViews`: views of many services, kept up to date by two waiting queries.

use super::background::WatchSlot;
use super::consul_client::ConsulClient;
use super::service_view::ServiceView;
use crate::runtime::closable_job::ClosableJob;
use crate::runtime::native::{self, Call, Class, Failure, Method, Returned};
use crate::runtime::{value, wait, wake};
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::view::EMPTY_HOLD;
use consul_client::views::{LABEL, Views, Wanted, views};
use consul_process::clock::Clock;
use futures_util::StreamExt as _;
use mlua::{Function, IntoLua as _, Lua, Table, Value as LuaValue};
use std::cell::RefCell;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The userdata. Its user value is the function that chooses services, if there is one.
pub struct ServiceViews {
    views: Arc<Views>,
    clock: Arc<dyn Clock>,
    /// Keeps the views up to date; has an item for news.
    job: ClosableJob<Result<(), Error>>,
    slots: RefCell<Option<[WatchSlot; 2]>>,
}

const METHODS: &[Method<ServiceViews>] = &[
    Method::raising("__tostring", |call| {
        native::text(call.lua, &call.object.job.shown("ServiceViews", "open"))
    }),
    Method::new("ready", |call| {
        wait_for(call, |views| views.are_ready().ok())?;
        call.object.views.are_ready()?;
        Ok(Returned::done())
    }),
    Method::new("next", |call| {
        let changed = wait_for(call, Views::next_changed)?;
        Ok(Returned::success(changed.into_lua(call.lua)?))
    }),
    Method::new("names", |call| {
        let names = look(call)?.names().into_iter().map(Value::from).collect();
        Ok(Returned::Value(value::to_lua(call.lua, &Value::List(names))?))
    }),
    Method::new("view", |call| {
        let name = Shape::Text.text(&call.arg(1)?, &ValuePath::top("service"))?;
        Ok(Returned::Value(match look(call)?.view(&name) {
            Some(view) => LuaValue::UserData(native::object(call.lua, ServiceView::of(view))?),
            None => LuaValue::Nil,
        }))
    }),
    Method::new("fd", |call| Ok(Returned::Value(call.object.job.fd()?.into_lua(call.lua)?))),
    Method::new("unix_socket", |call| {
        wake::unix_socket(call.lua, &*call.object.job.job()?, 0, || None)
    }),
    Method::new("close", |call| {
        call.object.job.end();
        call.object.slots.take();
        Ok(Returned::done())
    }),
];

impl Class for ServiceViews {
    const NAME: &'static str = "ServiceViews";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `client:service_views(filter)`
pub fn open(call: &Call<ConsulClient>) -> native::Result {
    let (lua, client) = (call.lua, &*call.object);
    let given = call.args().len();
    if given > 1 {
        return Err(Error::misuse(format!("got {given} arguments: the maximum is 1")).into());
    }
    let (wanted, filter) = match call.lua_arg(1) {
        LuaValue::Function(filter) => (Wanted::Chosen, Some(filter.clone())),
        _ => (Wanted::Named(names(&call.arg(1)?)?), None),
    };
    let background = client.background(LABEL)?;
    let (views, news) = views(Arc::clone(background.client()), wanted, EMPTY_HOLD)?;
    let slots = [background.watch_slot(lua, LABEL)?, background.watch_slot(lua, LABEL)?];
    let clock = Arc::clone(background.client().clock());
    let job = background.start(LABEL, news.map(Ok))?;
    let job = ClosableJob::new("list of views", LABEL.to_owned(), job);
    let views =
        native::object(lua, ServiceViews { views, clock, job, slots: RefCell::new(Some(slots)) })?;
    if let Some(filter) = filter {
        views.set_user_value(filter)?;
    }
    Ok(Returned::Value(LuaValue::UserData(views)))
}

fn names(given: &Value) -> Result<Vec<String>, Error> {
    let at = ValuePath::top("filter");
    match given {
        Value::List(_) => Shape::TextList.texts(given, &at),
        _ => Err(at.wrong_type_text("a function or a list of services' names", given)),
    }
}

/// The views, after the program has chosen among the services that are new.
fn look(call: &Call<ServiceViews>) -> Result<Arc<Views>, Failure> {
    let views = Arc::clone(&call.object.views);
    let job = call.object.job.job()?;
    while let Poll::Ready(news) = job.next()? {
        news.unwrap_or_else(|| Err(call.object.job.closed("the views have ended")))?;
        views.were_told();
    }
    while let Some((name, tags)) = views.next_offered() {
        let filter: Function = call.userdata.user_value()?;
        let is_wanted: LuaValue = filter.call((name.as_str(), tags))?;
        views.choose(name, !matches!(is_wanted, LuaValue::Nil | LuaValue::Boolean(false)));
    }
    job.run_pending()?;
    Ok(views)
}

/// Waits until `find` finds something, up to the limit that is the first argument.
fn wait_for<R>(
    call: &Call<ServiceViews>,
    find: impl Fn(&Views) -> Option<R>,
) -> Result<Option<R>, Failure> {
    let limit = wait::limit(&call.arg(1)?)?;
    let now = || call.object.clock.now();
    let begun = now();
    loop {
        if let Some(found) = find(&*look(call)?) {
            return Ok(Some(found));
        }
        let left = limit.map(|limit| limit.saturating_sub(now() - begun));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        wait::for_job(call.lua, &*call.object.job.job()?, left)?;
    }
}
