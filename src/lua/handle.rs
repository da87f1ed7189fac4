//! `Handle`: a call that goes on while the Lua program does something else.

use super::background::{Home, Job};
use super::client::{prepare, this};
use super::hooks;
use super::native::{self, Failure, Results};
use super::standing::Standing;
use super::value;
use crate::client::Client;
use crate::client::coordination::Profile;
use crate::config::Config;
use crate::connect::connect;
use crate::error::{Error, Kind};
use crate::sync::lock;
use crate::wire::request::Request;
use crate::wire::response::Success;
use crate::wire::shape::At;
use crate::wire::value::Value;
use futures_util::future::{Either, select};
use futures_util::stream;
use mlua::{
    AnyUserData, IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::{Cell, RefCell};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

type Outcome = Result<Success, Error>;

/// A client's calls in the background. They have transports of their own, because a connection
/// belongs to the runtime that it was made on.
pub struct Background {
    config: Config,
    client: Arc<Client>,
    home: Home,
    /// Whose turn it is: one for each call that may be in flight.
    turns: Semaphore,
    most: usize,
    is_closed: watch::Sender<bool>,
    /// For locks, by profile.
    standings: Mutex<Vec<Arc<Standing>>>,
}

impl Background {
    /// The background of a client with this configuration.
    ///
    /// # Errors
    /// [`Kind::Config`] when a transport or the background thread cannot be made.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let client = Arc::new(connect(config)?);
        let home = match client.clock().as_manual() {
            Some(clock) => Home::Clock(clock.clone()),
            None => Home::thread()?,
        };
        Ok(Background {
            config: config.clone(),
            client,
            home,
            turns: Semaphore::new(config.http.max_connections),
            most: config.http.max_connections,
            is_closed: watch::Sender::new(false),
            standings: Mutex::default(),
        })
    }

    /// Ends the calls that are still under way, and gives up what is held.
    pub fn close(&self) {
        self.is_closed.send_replace(true);
        let standings = mem::take(&mut *lock(&self.standings));
        standings.iter().for_each(|standing| standing.close());
    }

    /// What holds locks of this client by this profile.
    ///
    /// # Errors
    /// [`Kind::Closed`] when the client is closed, and [`Kind::Config`] as [`Background::new`].
    pub fn standing(&self, profile: &Profile) -> Result<Arc<Standing>, Error> {
        if *self.is_closed.borrow() {
            return Err(Error::new(Kind::Closed, "the client is closed").not_sent());
        }
        let mut standings = lock(&self.standings);
        if let Some(standing) = standings.iter().find(|standing| standing.profile() == profile) {
            return Ok(Arc::clone(standing));
        }
        // Connections of its own: calls that wait must keep no beat from having one.
        let client = Arc::new(connect(&self.config)?);
        let waiting = Arc::clone(&self.client);
        let standing = Standing::new(client, waiting, profile.clone(), self.home.clone())?;
        standings.push(Arc::clone(&standing));
        Ok(standing)
    }

    fn start(self: &Arc<Self>, request: Request) -> Result<Job<Outcome>, Error> {
        let this = Arc::clone(self);
        let call = async move {
            let mut closing = this.is_closed.subscribe();
            let closing = pin!(closing.wait_for(|is_closed| *is_closed));
            match select(pin!(this.perform(&request)), closing).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => Err(closed(&request.label, "the client was closed")),
            }
        };
        Job::start(&self.home, stream::once(call))
    }

    async fn perform(&self, request: &Request) -> Outcome {
        let budget = self.client.budget(request);
        let _turn = match self.turns.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                let limit = self.client.clock().sleep(budget);
                match select(pin!(self.turns.acquire()), limit).await {
                    Either::Left((Ok(turn), _)) => turn,
                    _ => return Err(self.no_turn(request, budget)),
                }
            }
        };
        self.client.perform(request).await
    }

    fn no_turn(&self, request: &Request, budget: Duration) -> Error {
        let message = format!(
            "{}: not sent within {} ms: {} other calls of this client are in flight",
            request.label,
            budget.as_millis(),
            self.most
        );
        Error::new(Kind::Timeout, message).not_sent().transient()
    }
}

fn closed(label: &str, why: &str) -> Error {
    Error::new(Kind::Closed, format!("{label}: {why}"))
}

/// A call as a Lua program holds it.
struct Handle {
    label: String,
    is_done: Cell<bool>,
    /// None: the handle was closed.
    job: RefCell<Option<Rc<Job<Outcome>>>>,
}

impl Handle {
    /// The call's outcome when there is one.
    fn outcome(&self) -> Result<Option<Outcome>, Error> {
        let job = self.job.borrow();
        let closed = |why| Ok(Some(Err(closed(&self.label, why))));
        match &*job {
            None => closed("the handle was closed"),
            Some(job) if job.is_of_parent() => {
                closed("it was started by this process's parent and goes on there")
            }
            Some(job) => match job.next()? {
                Poll::Pending => Ok(None),
                Poll::Ready(Some(outcome)) => {
                    self.is_done.set(true);
                    Ok(Some(outcome))
                }
                Poll::Ready(None) => closed("it was cancelled"),
            },
        }
    }

    /// The job, unless it is closed or the parent's.
    fn own_job(&self) -> Option<Rc<Job<Outcome>>> {
        self.job.borrow().clone().filter(|job| !job.is_of_parent())
    }

    fn state(&self) -> &'static str {
        match &*self.job.borrow() {
            None => "closed",
            Some(job) if job.is_of_parent() => "of the parent process",
            Some(job) if self.is_done.get() || job.has_news() => "done",
            Some(_) => "running",
        }
    }

    fn close(&self) {
        self.job.take();
    }
}

impl UserData for Handle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(format!("Handle({}, {})", this.label, this.state()))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "Handle");
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(INDEX));
    }
}

/// The registry's name for the table of the methods.
const INDEX: &str = "consul_ffi.handle.index";

/// A method. What `poll` and `wait` give has a third result, unless the call still runs.
type Method = fn(&Lua, &AnyUserData, &Value) -> Result<Results, Failure>;

const METHODS: &[(&str, Method)] = &[
    ("poll", poll),
    ("wait", wait),
    ("fd", fd),
    ("cancel", |_, this, _| {
        if let Some(job) = this.borrow::<Handle>()?.own_job() {
            job.cancel();
        }
        Ok(one(LuaValue::Boolean(true)))
    }),
    ("close", |_, this, _| {
        this.borrow::<Handle>()?.close();
        Ok(one(LuaValue::Boolean(true)))
    }),
];

fn one(result: LuaValue) -> Results {
    (result, LuaValue::Nil, LuaValue::Nil)
}

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let methods = METHODS.iter().map(|(name, method)| {
        (*name, move |lua: &Lua, args: MultiValue| invoke(lua, name, *method, &args))
    });
    let native = native::class(lua, INDEX, methods)?;
    native.set("start", native::function(lua, "start", start)?)?;
    Ok(native)
}

fn invoke(lua: &Lua, name: &str, method: Method, args: &MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(LuaValue::as_userdata).filter(|this| this.is::<Handle>());
    let this = this.ok_or_else(|| Error::misuse("call it with a colon"));
    let argument = value::from_lua(lua, args.get(1).unwrap_or(&LuaValue::Nil));
    let called = this.and_then(|this| Ok((this, argument?)));
    let (this, argument) = called.map_err(|error| error.context(name))?;
    method(lua, this, &argument)
}

/// `client:start(method, …)`
fn start(lua: &Lua, mut args: MultiValue) -> Result<Results, Failure> {
    let client = this(&args, "start")?;
    args.pop_front();
    let call = prepare(lua, args).and_then(|(endpoint, args)| {
        let started = client.request(endpoint, &args).and_then(|request| {
            let label = request.label.clone();
            let job = client.background(&label)?.start(request)?;
            Ok((label, job))
        });
        match started {
            Err(error) if error.is_misuse() => Err(error),
            Err(error) => Ok((endpoint.name.to_owned(), Job::over(Err(error)))),
            Ok(started) => Ok(started),
        }
    });
    let (label, job) = call.map_err(|error| error.context("start"))?;
    let job = RefCell::new(Some(Rc::new(job)));
    let handle = lua.create_userdata(Handle { label, is_done: Cell::new(false), job })?;
    Ok(one(LuaValue::UserData(handle)))
}

/// The call's three results, however often it is asked; false while the call runs.
fn poll(lua: &Lua, this: &AnyUserData, _: &Value) -> Result<Results, Failure> {
    // The handle's user value are the results that it gave before.
    if let Ok(results) = this.user_value::<Table>() {
        return Ok((results.raw_get(1)?, results.raw_get(2)?, results.raw_get(3)?));
    }
    let outcome = this.borrow::<Handle>()?.outcome()?;
    let Some(outcome) = outcome else { return Ok(one(LuaValue::Boolean(false))) };
    let (success, response, extra) = value::outcome(lua, outcome)?;
    let results = lua.create_table_with_capacity(3, 0)?;
    results.raw_set(1, &success)?;
    results.raw_set(2, &response)?;
    results.raw_set(3, &extra)?;
    this.set_user_value(results)?;
    Ok((success, response, extra))
}

fn wait(lua: &Lua, this: &AnyUserData, limit: &Value) -> Result<Results, Failure> {
    let limit = wait_limit(limit).map_err(|error| error.context("wait"))?;
    let job = this.borrow::<Handle>()?.own_job();
    if let Some(job) = job {
        job.wait(limit, hooks::INTERVAL, || hooks::run(lua))?;
    }
    poll(lua, this, &Value::Null)
}

/// Nothing and infinity are no limit; a time that is over already is none to wait.
pub fn wait_limit(limit: &Value) -> Result<Option<Duration>, Error> {
    let at = At::top("timeout_ms");
    let limit_ms = match limit {
        Value::Null => return Ok(None),
        Value::Int(number) => *number as f64,
        Value::Float(number) if !number.is_nan() => *number,
        _ => return Err(at.wrong_type_text("a number of milliseconds", limit)),
    };
    Ok(Duration::try_from_secs_f64(limit_ms.max(0.0) / 1e3).ok())
}

fn fd(lua: &Lua, this: &AnyUserData, _: &Value) -> Result<Results, Failure> {
    let handle = this.borrow::<Handle>()?;
    let job = handle.own_job().ok_or_else(|| closed(&handle.label, "the handle was closed"))?;
    let fd = job.fd().map_err(|error| {
        Error::new(Kind::Config, format!("{}: there is no descriptor: {error}", handle.label))
    })?;
    Ok(one(fd.into_lua(lua)?))
}
