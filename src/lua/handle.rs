//! `Handle`: a call that goes on while the Lua program does something else.

use super::background::{Home, Job};
use super::client::{prepare, this};
use super::held::{Held, closed, done, one};
use super::native::{self, Failure, Method, Results};
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
use crate::wire::value::Value;
use futures_util::future::{Either, select};
use futures_util::stream::{self, Stream, StreamExt, unfold};
use mlua::{
    AnyUserData, IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields,
    UserDataMethods, Value as LuaValue,
};
use std::cell::Cell;
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// How many watches there are.
    watches: Arc<AtomicUsize>,
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
            watches: Arc::default(),
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

    /// The client that calls in the background.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Starts work that gives these results until it is done or the client is closed; the last one
    /// then says so. It pauses when nobody takes them. `label` says in errors what it is.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start<T: Send + 'static>(
        self: &Arc<Self>,
        label: &str,
        results: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> Result<Job<Result<T, Error>>, Error> {
        let this = Arc::clone(self);
        let closed = closed(label, "the client was closed");
        let until_closed = unfold(Some(Box::pin(results)), move |results| {
            let (this, closed) = (Arc::clone(&this), closed.clone());
            async move {
                let mut results = results?;
                let mut closing = this.is_closed.subscribe();
                let closing = pin!(closing.wait_for(|is_closed| *is_closed));
                match select(results.next(), closing).await {
                    Either::Left((result, _)) => Some((result?, Some(results))),
                    Either::Right(_) => Some((Err(closed), None)),
                }
            }
        });
        Job::start_paced(&self.home, until_closed)
    }

    /// A place for a watch. Each has a connection, of which an agent takes only so many from one
    /// address.
    ///
    /// # Errors
    /// [`Kind::Config`] when all places are taken.
    pub fn place(&self, lua: &Lua, label: &str) -> Result<Place, Failure> {
        if self.watches.load(Ordering::Relaxed) >= self.most() {
            // Those that the program dropped have theirs until they are collected.
            lua.gc_collect()?;
        }
        let place = Place(Arc::clone(&self.watches));
        if self.watches.fetch_add(1, Ordering::Relaxed) < self.most() {
            return Ok(place);
        }
        let message = format!(
            "{label}: {} watches of this client are open, which is what its max_connections allows",
            self.most()
        );
        Err(Error::new(Kind::Config, message).not_sent().into())
    }

    fn call(self: &Arc<Self>, request: Request) -> Result<Job<Outcome>, Error> {
        let (this, label) = (Arc::clone(self), request.label.clone());
        self.start(&label, stream::once(async move { this.perform(&request).await }))
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

    /// How many calls, and how many watches, there may be at a time.
    fn most(&self) -> usize {
        self.config.http.max_connections
    }

    fn no_turn(&self, request: &Request, budget: Duration) -> Error {
        let message = format!(
            "{}: not sent within {} ms: {} other calls of this client are in flight",
            request.label,
            budget.as_millis(),
            self.most()
        );
        Error::new(Kind::Timeout, message).not_sent().transient()
    }
}

/// The place of a watch among those of its client.
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call as a Lua program holds it.
struct Handle {
    held: Held<Outcome>,
    is_done: Cell<bool>,
}

impl Handle {
    /// The call's outcome when there is one.
    fn outcome(&self) -> Result<Option<Outcome>, Error> {
        let job = match self.held.job() {
            Ok(job) => job,
            Err(closed) => return Ok(Some(Err(closed))),
        };
        Ok(match job.next()? {
            Poll::Pending => None,
            Poll::Ready(Some(outcome)) => {
                self.is_done.set(true);
                Some(outcome)
            }
            Poll::Ready(None) => Some(Err(self.held.closed("it was cancelled"))),
        })
    }

    fn is_done(&self) -> bool {
        self.is_done.get() || self.held.job().is_ok_and(|job| job.has_news())
    }
}

impl UserData for Handle {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.held.shown("Handle", if this.is_done() { "done" } else { "running" }))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.held.close();
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

/// What `poll` and `wait` give has a third result, unless the call still runs.
const METHODS: &[(&str, Method)] = &[
    ("poll", poll),
    ("wait", wait),
    ("fd", fd),
    ("cancel", |_, this, _| {
        if let Ok(job) = this.borrow::<Handle>()?.held.job() {
            job.cancel();
        }
        Ok(done())
    }),
    ("close", |_, this, _| {
        this.borrow::<Handle>()?.held.close();
        Ok(done())
    }),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let native = native::class_of::<Handle>(lua, INDEX, METHODS)?;
    native.set("start", native::function(lua, "start", start)?)?;
    Ok(native)
}

/// `client:start(method, …)`
fn start(lua: &Lua, mut args: MultiValue) -> Result<Results, Failure> {
    let client = this(&args, "start")?;
    args.pop_front();
    let call = prepare(lua, args).and_then(|(endpoint, args)| {
        let started = client.request(endpoint, &args).and_then(|request| {
            let label = request.label.clone();
            let job = client.background(&label)?.call(request)?;
            Ok((label, job))
        });
        match started {
            Err(error) if error.is_misuse() => Err(error),
            Err(error) => Ok((endpoint.name.to_owned(), Job::over(Err(error)))),
            Ok(started) => Ok(started),
        }
    });
    let (label, job) = call.map_err(|error| error.context("start"))?;
    let held = Held::new("handle", label, job);
    let handle = lua.create_userdata(Handle { held, is_done: Cell::new(false) })?;
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

fn wait(lua: &Lua, this: &AnyUserData, limit_ms: &Value) -> Result<Results, Failure> {
    this.borrow::<Handle>()?.held.wait(lua, "wait", limit_ms)?;
    poll(lua, this, &Value::Null)
}

fn fd(lua: &Lua, this: &AnyUserData, _: &Value) -> Result<Results, Failure> {
    Ok(one(this.borrow::<Handle>()?.held.fd()?.into_lua(lua)?))
}
