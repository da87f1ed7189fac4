//! `Lock`: a lock, or a permit of a semaphore, as a Lua program holds it. What keeps it goes on in
//! the background, whatever the program does.

use super::background::{Home, Job};
use super::client::this;
use super::handle::Background;
use super::held::{gives, wait_limit};
use super::hooks;
use super::native::{self, Failure, Results};
use super::standing::{Goal, News, Place, Turn};
use super::value;
use crate::client::coordination::{Event, Lease, Profile, Wait};
use crate::error::{Error, Kind};
use crate::os;
use crate::wire::shape::{At, payload, unknown};
use crate::wire::table::{DURATION, Shape};
use crate::wire::value::Value;
use futures_util::stream;
use mlua::{
    IntoLua, Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields, UserDataMethods,
    Value as LuaValue,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// A lock or a semaphore as a Lua program holds it.
struct Lock {
    goal: Goal,
    profile: Profile,
    /// None: it was closed.
    open: RefCell<Option<Rc<Open>>>,
    /// The process that made this, counted in forks.
    generation: u32,
}

/// What it has until it is closed.
struct Open {
    background: Arc<Background>,
    /// Made when it is first needed.
    place: OnceCell<(Arc<Place>, Job<News>)>,
    /// The last turn, and whether nothing more comes of it.
    turn: Cell<(Turn, bool)>,
}

impl Lock {
    fn new(background: Arc<Background>, goal: Goal, profile: Profile) -> Self {
        let place = OnceCell::new();
        let open = Rc::new(Open { background, place, turn: Cell::new((0, true)) });
        let generation = os::fork_generation();
        Lock { goal, profile, open: RefCell::new(Some(open)), generation }
    }

    /// As it reads in messages: `lock "k"`.
    fn name(&self) -> String {
        match &self.goal {
            Goal::Lock(key, _) => format!("lock {key:?}"),
            Goal::Permit(prefix, ..) => format!("semaphore {prefix:?}"),
        }
    }

    /// Whether this is a forked child and the lock its parent's, of which nothing may be touched.
    fn is_of_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// What it has, unless it is closed or the parent's.
    fn opened(&self) -> Result<Rc<Open>, Error> {
        let closed = |why| Error::new(Kind::Closed, format!("{}: {why}", self.name())).not_sent();
        if self.is_of_parent() {
            return Err(closed("it belongs to this process's parent, and is held only there"));
        }
        self.open.borrow().clone().ok_or_else(|| closed("it was closed"))
    }

    /// Where it waits and holds.
    fn place<'o>(&self, open: &'o Open) -> Result<&'o (Arc<Place>, Job<News>), Error> {
        if let Some(place) = open.place.get() {
            return Ok(place);
        }
        let standing = open.background.standing(&self.profile);
        let place = standing.and_then(|standing| Place::new(standing, self.goal.clone()));
        let place = place.map_err(|error| error.context(&self.name()))?;
        Ok(open.place.get_or_init(|| place))
    }

    /// What was granted last; it may have ended.
    fn lease(&self) -> Option<Arc<Lease>> {
        self.opened().ok()?.place.get()?.0.lease()
    }

    /// What was granted last.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when nothing was, and [`Kind::Closed`] when it is closed.
    fn granted(&self) -> Result<(Home, Arc<Lease>), Error> {
        let open = self.opened()?;
        let granted = open.place.get().and_then(|(place, _)| Some((place.home(), place.lease()?)));
        granted.ok_or_else(|| {
            Error::new(Kind::Conflict, format!("{}: it is not held", self.name())).not_sent()
        })
    }

    /// Begins to wait for it.
    fn begin(&self, open: &Open, wait: Wait) -> Result<Turn, Error> {
        let turn = self.place(open)?.0.begin(wait).map_err(|error| error.context(&self.name()))?;
        open.turn.set((turn, false));
        Ok(turn)
    }

    fn state(&self) -> &'static str {
        let open = match self.opened() {
            Ok(open) => open,
            Err(_) if self.is_of_parent() => return "of the parent process",
            Err(_) => return "closed",
        };
        match open.place.get().map(|(place, _)| (place.waits(), place.lease())) {
            Some((true, _)) => "waiting",
            Some((_, Some(lease))) if lease.is_held() => "held",
            Some((_, Some(lease))) if !lease.has_ended() => "suspended",
            _ => "not held",
        }
    }

    fn close(&self) {
        let open = self.open.take();
        if self.is_of_parent() {
            // To drop it would wake the parent's connections in a copy of its background.
            mem::forget(open);
        } else if let Some((place, _)) = open.as_ref().and_then(|open| open.place.get()) {
            Arc::clone(place).end();
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.close();
    }
}

impl UserData for Lock {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            let (kind, key) = match &this.goal {
                Goal::Lock(key, _) => ("Lock", key),
                Goal::Permit(prefix, ..) => ("Semaphore", prefix),
            };
            Ok(format!("{kind}({key:?}, {})", this.state()))
        });
        #[cfg(feature = "lua54")]
        methods.add_meta_method(MetaMethod::Close, |_, this, _: LuaValue| {
            this.close();
            Ok(())
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "Lock");
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(INDEX));
    }
}

/// The registry's name for the table of the methods.
const INDEX: &str = "consul_ffi.lock.index";

/// A method and its arguments after the lock. Those that are no calls give true before their values.
type Method = fn(&Lua, &Lock, &[Value]) -> Result<Results, Failure>;

const CALLS: &[(&str, Method)] = &[
    ("acquire", acquire),
    ("start", |_, lock, args| {
        let wait = wait_of(argument(args, 0)).map_err(|error| error.context("start"))?;
        lock.begin(&*lock.opened()?, wait)?;
        Ok(gives(LuaValue::Nil))
    }),
    ("fenced_put", fenced_put),
    ("release", release),
    ("fd", fd),
    ("close", |_, lock, _| {
        lock.close();
        Ok(gives(LuaValue::Nil))
    }),
];

const GETTERS: &[(&str, Method)] = &[
    ("is_held", |_, lock, _| {
        Ok(gives(LuaValue::Boolean(lock.lease().is_some_and(|lease| lease.is_held()))))
    }),
    ("token", |lua, lock, _| {
        let lease = lock.lease().filter(|lease| !lease.has_ended());
        let token = lease.map_or(Value::Null, |lease| lease.token().into());
        Ok(gives(value::to_lua(lua, &token)?))
    }),
    ("remaining_ms", |_, lock, _| {
        let remaining = lock.lease().map_or(Duration::ZERO, |lease| lease.remaining());
        Ok(gives(LuaValue::Number(remaining.as_secs_f64() * 1e3)))
    }),
    ("profile", |lua, lock, _| {
        let values = lock.profile.values().into_iter();
        let values = values.map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(gives(value::to_lua(lua, &Value::Map(values))?))
    }),
    ("poll", |lua, lock, _| next(lua, lock, Some(Duration::ZERO))),
    ("next_event", |lua, lock, args| {
        let limit = wait_limit(argument(args, 0)).map_err(|error| error.context("next_event"))?;
        next(lua, lock, limit)
    }),
];

fn argument(args: &[Value], place: usize) -> &Value {
    args.get(place).unwrap_or(&Value::Null)
}

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let method = |(name, method): &(&'static str, Method)| {
        let (name, method) = (*name, *method);
        (name, move |lua: &Lua, args: MultiValue| invoke(lua, name, method, &args))
    };
    let native = native::class(lua, INDEX, CALLS.iter().map(method))?;
    let getters = native::class(lua, INDEX, GETTERS.iter().map(method))?;
    native.set("getters", getters.get::<Table>("methods")?)?;
    native.set("lock", native::function(lua, "lock", new_lock)?)?;
    native.set("semaphore", native::function(lua, "semaphore", new_semaphore)?)?;
    Ok(native)
}

fn invoke(lua: &Lua, name: &str, method: Method, args: &MultiValue) -> Result<Results, Failure> {
    let (this, given) = native::called_on::<Lock>(lua, name, args)?;
    method(lua, &*this.borrow::<Lock>()?, &given)
}

/// `client:lock(key, options)`
fn new_lock(lua: &Lua, args: MultiValue) -> Result<Results, Failure> {
    new(lua, &args, "lock", 1, |given, strip| {
        let key = key(&given[0], &At::top("key"), strip)?;
        let (value, profile) = options(&given[1])?;
        Ok((Goal::Lock(key, value), profile))
    })
}

/// `client:semaphore(prefix, limit, options)`
fn new_semaphore(lua: &Lua, args: MultiValue) -> Result<Results, Failure> {
    new(lua, &args, "semaphore", 2, |given, strip| {
        let prefix = key(&given[0], &At::top("prefix"), strip)?;
        let prefix = prefix.trim_end_matches('/').to_owned();
        let at = At::top("limit");
        let limit = Shape::Uint.uint(&given[1], &at)?;
        if limit == 0 {
            return Err(at.bad_value(&given[1], "it must be at least 1"));
        }
        let (value, profile) = options(&given[2])?;
        Ok((Goal::Permit(prefix, limit, value.unwrap_or_default()), profile))
    })
}

/// Makes a lock of what `read` makes of the arguments, of which there are `count` and the options.
fn new(
    lua: &Lua,
    args: &MultiValue,
    method: &str,
    count: usize,
    read: impl FnOnce(&[Value], bool) -> Result<(Goal, Profile), Error>,
) -> Result<Results, Failure> {
    let client = this(args, method)?;
    let given = (1..=count + 1).map(|place| value::argument(lua, args, place));
    let given = given.collect::<Result<Vec<_>, _>>();
    let made = given.and_then(|given| {
        if args.len() > count + 2 {
            return Err(Error::misuse(format!(
                "takes {count} arguments and a table of options, got {} arguments",
                args.len() - 1
            )));
        }
        let (goal, profile) = read(&given, client.strips_leading_slash())?;
        Ok((client.background(method)?, goal, profile))
    });
    let (background, goal, profile) = made.map_err(|error| error.context(method))?;
    let lock = lua.create_userdata(Lock::new(background, goal, profile))?;
    Ok((LuaValue::UserData(lock), LuaValue::Nil, LuaValue::Nil))
}

fn key(given: &Value, at: &At, strips_leading_slash: bool) -> Result<String, Error> {
    if strips_leading_slash {
        return Shape::Key.text(&Shape::Key.without_leading_slash(given), at);
    }
    Shape::Key.text(given, at)
}

/// The options of both: the value and the profile.
fn options(given: &Value) -> Result<(Option<Vec<u8>>, Profile), Error> {
    let (mut held, mut profile) = (None, Profile::standard());
    if *given != Value::Null {
        for (name, value) in Shape::Any.members(given, &At::top("options"))? {
            let at = At::top(name);
            match name.as_str() {
                "profile" => profile = Profile::from_value(value, &at)?,
                "value" => held = Some(payload(value, &at)?),
                _ => return Err(Error::misuse(unknown("option", name, &["profile", "value"]))),
            }
        }
    }
    Ok((held, profile))
}

/// How long `acquire` and `start` wait.
fn wait_of(given: &Value) -> Result<Wait, Error> {
    let (mut tries_once, mut limit) = (false, None);
    if *given != Value::Null {
        for (name, value) in Shape::Any.members(given, &At::top("options"))? {
            let at = At::top(name);
            match name.as_str() {
                "try" => tries_once = Shape::Bool.boolean(value, &at)?,
                "wait_s" => limit = Some(DURATION.duration(value, &at)?),
                _ => return Err(Error::misuse(unknown("option", name, &["try", "wait_s"]))),
            }
        }
    }
    match limit {
        Some(_) if tries_once => {
            Err(Error::misuse("the options try and wait_s contradict each other"))
        }
        Some(Duration::ZERO) => Ok(Wait::Once),
        Some(limit) => Ok(Wait::For(limit)),
        None if tries_once => Ok(Wait::Once),
        None => Ok(Wait::Forever),
    }
}

/// `lock:acquire(options)`: true and the token.
fn acquire(lua: &Lua, lock: &Lock, args: &[Value]) -> Result<Results, Failure> {
    let wait = wait_of(argument(args, 0)).map_err(|error| error.context("acquire"))?;
    let open = lock.opened()?;
    let turn = lock.begin(&open, wait)?;
    let (place, job) = lock.place(&open)?;
    loop {
        if let Err(failure) = job.wait(None, hooks::INTERVAL, || hooks::run(lua)) {
            place.cancel();
            return Err(failure);
        }
        // What a hook ran may have forked, or closed the lock.
        lock.opened()?;
        match job.next()? {
            Poll::Ready(Some(News::Acquired(of, token))) if of == turn => {
                return Ok(gives(value::to_lua(lua, &token.into())?));
            }
            Poll::Ready(Some(News::Failed(of, error))) if of == turn => return Err(error.into()),
            // Of an earlier turn, which nobody asked about.
            Poll::Ready(Some(_)) | Poll::Pending => {}
            Poll::Ready(None) => return Err(lock.over().into()),
        }
    }
}

/// The next thing that happens, after waiting for it: its name, and what there is to say of it.
fn next(lua: &Lua, lock: &Lock, limit: Option<Duration>) -> Result<Results, Failure> {
    let Ok(open) = lock.opened() else { return Ok(gives(LuaValue::Nil)) };
    let Some((_, job)) = open.place.get() else { return Ok(gives(LuaValue::Nil)) };
    let event =
        |name: &str, detail: LuaValue| Ok((LuaValue::Boolean(true), name.into_lua(lua)?, detail));
    loop {
        let (turn, is_over) = open.turn.get();
        if !is_over || job.has_news() {
            job.wait(limit, hooks::INTERVAL, || hooks::run(lua))?;
            if lock.opened().is_err() {
                return Ok(gives(LuaValue::Nil));
            }
        }
        let Poll::Ready(Some(news)) = job.next()? else { return Ok(gives(LuaValue::Nil)) };
        return match news {
            News::Acquired(_, token) => event("acquired", value::to_lua(lua, &token.into())?),
            News::Failed(_, error) => event("failed", LuaValue::Table(value::error(lua, &error)?)),
            News::Event(Event::Suspended) => event("suspended", LuaValue::Nil),
            News::Event(Event::Resumed) => event("resumed", LuaValue::Nil),
            News::Event(Event::Lost(why)) => event("lost", why.into_lua(lua)?),
            News::Over(of) => {
                if of == turn {
                    open.turn.set((turn, true));
                }
                continue;
            }
        };
    }
}

/// `lock:fenced_put(key, value)`: true and the index of the write.
fn fenced_put(lua: &Lua, lock: &Lock, args: &[Value]) -> Result<Results, Failure> {
    let read = || {
        let key = Shape::Key.text(argument(args, 0), &At::top("key"))?;
        let at = At::top("value");
        match argument(args, 1) {
            Value::Null => Err(at.wrong_type(&Shape::Payload, &Value::Null)),
            value => Ok((key, payload(value, &at)?)),
        }
    };
    let (key, value) = read().map_err(|error: Error| error.context("fenced_put"))?;
    let (home, lease) = lock.granted()?;
    let put = async move { lease.fenced_put(&key, value).await };
    let index = lock.run(lua, &home, put)??;
    Ok(gives(value::to_lua(lua, &index.into())?))
}

/// `lock:release()`; one that waits waits no more.
fn release(lua: &Lua, lock: &Lock, _: &[Value]) -> Result<Results, Failure> {
    let open = lock.opened()?;
    if open.place.get().is_some_and(|(place, _)| place.cancel()) {
        return Ok(gives(LuaValue::Nil));
    }
    let (home, lease) = lock.granted()?;
    lock.run(lua, &home, async move { lease.release().await })??;
    Ok(gives(LuaValue::Nil))
}

impl Lock {
    /// Does something in the background, and waits for it.
    fn run<R: Send + 'static>(
        &self,
        lua: &Lua,
        home: &Home,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Result<R, Failure> {
        let job = Job::start(home, stream::once(work))?;
        job.wait(None, hooks::INTERVAL, || hooks::run(lua))?;
        if !job.is_of_parent()
            && let Poll::Ready(Some(result)) = job.next()?
        {
            return Ok(result);
        }
        Err(self.over().into())
    }

    fn over(&self) -> Error {
        Error::new(Kind::Closed, format!("{}: the background has ended", self.name()))
    }
}

fn fd(lua: &Lua, lock: &Lock, _: &[Value]) -> Result<Results, Failure> {
    let open = lock.opened()?;
    let fd = lock.place(&open)?.1.fd().map_err(|error| {
        Error::new(Kind::Config, format!("{}: there is no descriptor: {error}", lock.name()))
    })?;
    Ok((fd.into_lua(lua)?, LuaValue::Nil, LuaValue::Nil))
}
