//! `Lock`: a lock, or a permit of a semaphore. It is kept in the background, independent of what the
//! program does.

use super::worker::{AttemptEvent, AttemptId, LockHandle, LockSpec};
use crate::client::arguments::check_count;
use crate::client::background::Background;
use crate::client::consul_client::ConsulClient;
use crate::runtime::executor::Executor;
use crate::runtime::handle::{CallResult, Handle, IntoValues};
use crate::runtime::job::Job;
use crate::runtime::native::{self, Call, Class, Method, Returned};
use crate::runtime::value::Outcome;
use crate::runtime::{value, wait, wake};
use consul_api::error::{Error, Kind};
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, payload, unknown};
use consul_client::coordination::{Event, Lease, Profile, Wait};
use consul_process::os;
use futures_util::stream;
use mlua::{IntoLua, Lua, Table, Value as LuaValue};
use std::cell::{Cell, OnceCell, RefCell};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The userdata of a lock or a semaphore.
pub struct Lock {
    spec: LockSpec,
    profile: Profile,
    /// None: it was closed.
    open: RefCell<Option<Rc<Open>>>,
    /// The job of a closed lock, while an event loop may have to learn of that.
    awaited: RefCell<Option<Rc<Job<AttemptEvent>>>>,
    /// The process that created this, counted in forks.
    generation: u32,
}

/// The parts of a lock until it is closed.
struct Open {
    /// Keeps the worker of the handle.
    background: Arc<Background>,
    /// Created for the first attempt, or for the descriptor.
    handle: OnceCell<(Arc<LockHandle>, Rc<Job<AttemptEvent>>)>,
    /// The last attempt, and whether its last event was reported.
    attempt: Cell<(AttemptId, bool)>,
    /// The last outcome that a call has taken, with its attempt: another call may wait for it.
    outcome: RefCell<(AttemptId, Result<u64, Error>)>,
}

impl Open {
    /// Notes an outcome that is taken, which the program knows then.
    fn note(&self, handle: &LockHandle, event: &AttemptEvent) {
        let (attempt, outcome) = match event {
            AttemptEvent::Acquired(attempt, token) => (*attempt, Ok(*token)),
            AttemptEvent::Failed(attempt, error) => (*attempt, Err(error.clone())),
            AttemptEvent::Lease(..) | AttemptEvent::Ended(_) => return,
        };
        handle.record_known(attempt);
        *self.outcome.borrow_mut() = (attempt, outcome);
    }

    /// Whether the outcome of an attempt was taken, or that of a later one.
    fn is_taken(&self, attempt: AttemptId) -> bool {
        self.outcome.borrow().0 >= attempt
    }
}

impl Lock {
    fn new(background: Arc<Background>, spec: LockSpec, profile: Profile) -> Self {
        let handle = OnceCell::new();
        let outcome = RefCell::new((0, Ok(0)));
        let open = Rc::new(Open { background, handle, attempt: Cell::new((0, true)), outcome });
        let generation = os::fork_generation();
        Lock {
            spec,
            profile,
            open: RefCell::new(Some(open)),
            awaited: RefCell::default(),
            generation,
        }
    }

    /// The name in messages: `lock "k"`.
    fn name(&self) -> String {
        match &self.spec {
            LockSpec::Lock { key, .. } => format!("lock {key:?}"),
            LockSpec::Permit { prefix, .. } => format!("semaphore {prefix:?}"),
        }
    }

    /// Whether this process is a forked child of the lock's creator. Nothing of it may be
    /// touched here.
    fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }

    /// # Errors
    /// [`Kind::Closed`] if the lock is closed or belongs to the parent.
    fn opened(&self) -> Result<Rc<Open>, Error> {
        let closed = |why| Error::new(Kind::Closed, format!("{}: {why}", self.name())).not_sent();
        if self.belongs_to_parent() {
            return Err(closed("it belongs to the parent of this process and is held only there"));
        }
        self.open.borrow().clone().ok_or_else(|| closed("it was closed"))
    }

    fn handle<'o>(
        &self,
        open: &'o Open,
    ) -> Result<&'o (Arc<LockHandle>, Rc<Job<AttemptEvent>>), Error> {
        if let Some(handle) = open.handle.get() {
            return Ok(handle);
        }
        let worker = open.background.worker(&self.profile);
        let handle = worker.and_then(|worker| LockHandle::new(&worker, self.spec.clone()));
        let (handle, job) = handle.map_err(|error| error.context(&self.name()))?;
        Ok(open.handle.get_or_init(|| (handle, Rc::new(job))))
    }

    /// The last lease, which may have ended.
    fn lease(&self) -> Option<Arc<Lease>> {
        self.opened().ok()?.handle.get()?.0.lease()
    }

    /// The last lease and what runs its requests.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the lock was never held, [`Kind::Closed`] if it is closed.
    fn granted(&self) -> Result<(Executor, Arc<Lease>), Error> {
        let open = self.opened()?;
        let handle = open.handle.get().map(|(handle, _)| handle);
        let granted = handle.and_then(|handle| Some((handle.executor().clone(), handle.lease()?)));
        granted.ok_or_else(|| {
            Error::new(Kind::Conflict, format!("{}: it is not held", self.name())).not_sent()
        })
    }

    fn start_attempt(&self, open: &Open, wait: Wait) -> Result<AttemptId, Error> {
        let attempt = self.handle(open)?.0.start_attempt(wait);
        let attempt = attempt.map_err(|error| error.context(&self.name()))?;
        open.attempt.set((attempt, false));
        Ok(attempt)
    }

    fn state(&self) -> &'static str {
        let open = match self.opened() {
            Ok(open) => open,
            Err(_) if self.belongs_to_parent() => return "of the parent process",
            Err(_) => return "closed",
        };
        match open.handle.get().map(|(handle, _)| (handle.is_waiting(), handle.lease())) {
            Some((true, _)) => "waiting",
            Some((_, Some(lease))) if lease.is_held() => "held",
            Some((_, Some(lease))) if !lease.has_ended() => "suspended",
            _ => "not held",
        }
    }

    fn close(&self, end: impl FnOnce(Arc<LockHandle>)) {
        let open = self.open.take();
        if self.belongs_to_parent() {
            // To drop it would wake the parent's connections in a copy of its background.
            mem::forget(open);
            return;
        }
        let opened = open.as_ref().and_then(|open| open.handle.get());
        let awaited = opened.map(|(_, job)| Rc::clone(job)).filter(|job| job.is_awaited());
        if let Some((handle, _)) = opened {
            end(Arc::clone(handle));
        }
        if let Some(job) = &awaited {
            job.cancel();
        }
        self.awaited.replace(awaited);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.close(|handle| handle.give_up());
    }
}

const METHODS: &[Method<Lock>] = &[
    Method::raising("__tostring", |call| {
        let (kind, key) = match &call.object.spec {
            LockSpec::Lock { key, .. } => ("Lock", key),
            LockSpec::Permit { prefix, .. } => ("Semaphore", prefix),
        };
        native::text(call.lua, &format!("{kind}({key:?}, {})", call.object.state()))
    }),
    Method::new("acquire", acquire),
    Method::new("start", start),
    Method::new("fenced_put", fenced_put),
    Method::new("release", release),
    Method::new("fd", fd),
    Method::new("unix_socket", |call| {
        let lock = &*call.object;
        let open = lock.opened()?;
        let (handle, job) = lock.handle(&open)?;
        wake::unix_socket(call.lua, job, open.attempt.get().0, || Some(handle.abandoner()))
    }),
    Method::new("close", |call| {
        call.object.close(LockHandle::shut_down);
        Ok(Returned::success(LuaValue::Nil))
    }),
    Method::raising("is_held", |call| {
        let is_held = call.object.lease().is_some_and(|lease| lease.is_held());
        Ok(Returned::Value(LuaValue::Boolean(is_held)))
    }),
    Method::raising("token", |call| {
        let lease = call.object.lease().filter(|lease| !lease.has_ended());
        let token = lease.map_or(Value::Null, |lease| lease.token().into());
        Ok(Returned::Value(value::to_lua(call.lua, &token)?))
    }),
    Method::raising("remaining_ms", |call| {
        let remaining = call.object.lease().map_or(Duration::ZERO, |lease| lease.remaining());
        Ok(Returned::Value(LuaValue::Number(remaining.as_secs_f64() * 1e3)))
    }),
    Method::raising("profile", |call| {
        let values = call.object.profile.values().into_iter();
        let values = values.map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Returned::Value(value::to_lua(call.lua, &Value::Map(values))?))
    }),
    Method::raising("poll", |call| next_event(call, Some(Duration::ZERO))),
    Method::raising("next_event", |call| next_event(call, wait::limit(&call.arg(1)?)?)),
];

impl Class for Lock {
    const NAME: &'static str = "Lock";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `client:lock(key, options)`
pub fn new_lock(call: &Call<ConsulClient>) -> native::Result {
    check_count(call.args().len(), 1)?;
    let key = key(call, "key")?;
    let (value, profile) = options(&call.options(2)?)?;
    create(call, "lock", LockSpec::Lock { key, value }, profile)
}

/// `client:semaphore(prefix, limit, options)`
pub fn new_semaphore(call: &Call<ConsulClient>) -> native::Result {
    check_count(call.args().len(), 2)?;
    let prefix = key(call, "prefix")?.trim_end_matches('/').to_owned();
    let (at, given) = (ValuePath::top("limit"), call.arg(2)?);
    let limit = Shape::Uint.uint(&given, &at)?;
    if limit == 0 {
        return Err(at.bad_value(&given, "it must be at least 1").into());
    }
    let (value, profile) = options(&call.options(3)?)?;
    let value = value.unwrap_or_default();
    create(call, "semaphore", LockSpec::Permit { prefix, limit, value }, profile)
}

fn create(
    call: &Call<ConsulClient>,
    method: &str,
    spec: LockSpec,
    profile: Profile,
) -> native::Result {
    let background = call.object.background(method)?;
    let lock = native::object(call.lua, Lock::new(background, spec, profile))?;
    Ok(Returned::Value(LuaValue::UserData(lock)))
}

/// The first argument, which is a key or the prefix of keys.
fn key(call: &Call<ConsulClient>, name: &str) -> Result<String, Error> {
    let (at, given) = (ValuePath::top(name), call.arg(1)?);
    if call.object.strips_leading_slash() {
        return Shape::Key.text(&Shape::Key.without_leading_slash(&given), &at);
    }
    Shape::Key.text(&given, &at)
}

/// The options of locks and semaphores: the value and the profile.
fn options(given: &Value) -> Result<(Option<Vec<u8>>, Profile), Error> {
    let (mut held, mut profile) = (None, Profile::standard());
    if *given != Value::Null {
        for (name, value) in Shape::Any.members(given, &ValuePath::top("options"))? {
            let at = ValuePath::top(name);
            match name.as_str() {
                "profile" => profile = Profile::from_value(value, &at)?,
                "value" => held = Some(payload(value, &at)?),
                _ => return Err(Error::misuse(unknown("option", name, &["profile", "value"]))),
            }
        }
    }
    Ok((held, profile))
}

/// The options of `acquire` and `start`.
fn wait_of(given: &Value) -> Result<Wait, Error> {
    let (mut tries_once, mut limit) = (false, None);
    if *given != Value::Null {
        for (name, value) in Shape::Any.members(given, &ValuePath::top("options"))? {
            let at = ValuePath::top(name);
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
fn acquire(call: &Call<Lock>) -> native::Result {
    let (lua, lock) = (call.lua, &*call.object);
    let wait = wait_of(&call.options(1)?)?;
    let open = lock.opened()?;
    let attempt = lock.start_attempt(&open, wait)?;
    let (handle, job) = lock.handle(&open)?;
    while !open.is_taken(attempt) {
        // A hook may take the outcome.
        if let Err(failure) = wait::for_job_unless(lua, job, None, || open.is_taken(attempt)) {
            handle.abandon(attempt);
            return Err(failure);
        }
        // A hook may have forked the process, or closed the lock.
        lock.opened()?;
        if open.is_taken(attempt) {
            break;
        }
        match job.next()? {
            // An event that is not an outcome is of an earlier attempt, for which the program did not ask.
            Poll::Ready(Some(event)) => open.note(handle, &event),
            Poll::Pending => {}
            Poll::Ready(None) => return Err(lock.background_ended().into()),
        }
    }
    match &*open.outcome.borrow() {
        (of, outcome) if *of == attempt => {
            let token = outcome.clone()?;
            Ok(Returned::success(value::to_lua(lua, &token.into())?))
        }
        _ => {
            let why = "the attempt was cancelled, and another one has begun";
            Err(Error::new(Kind::Closed, format!("{}: {why}", lock.name())).into())
        }
    }
}

/// Waits for the next event: its name and its detail.
fn next_event(call: &Call<Lock>, limit: Option<Duration>) -> native::Result {
    let (lua, lock) = (call.lua, &*call.object);
    let none = || Ok(Returned::Value(LuaValue::Nil));
    let named = |name: &str, detail| Ok(Returned::Pair(name.into_lua(lua)?, detail));
    let Ok(open) = lock.opened() else { return none() };
    let Some((handle, job)) = open.handle.get() else { return none() };
    loop {
        if !open.attempt.get().1 || job.is_ready() {
            // A hook may take the last event.
            wait::for_job_unless(lua, job, limit, || open.attempt.get().1)?;
            if lock.opened().is_err() {
                return none();
            }
        }
        // A hook may have begun another one.
        let (attempt, has_ended) = open.attempt.get();
        let Poll::Ready(Some(event)) = job.next()? else { return none() };
        open.note(handle, &event);
        if handle.is_abandoned(event.attempt()) {
            open.attempt.set((attempt, has_ended || event.attempt() >= attempt));
            continue;
        }
        return match event {
            AttemptEvent::Acquired(_, token) => {
                named("acquired", value::to_lua(lua, &token.into())?)
            }
            AttemptEvent::Failed(_, error) => named("failed", value::error(lua, &error)?),
            AttemptEvent::Lease(_, Event::Suspended) => named("suspended", LuaValue::Nil),
            AttemptEvent::Lease(_, Event::Resumed) => named("resumed", LuaValue::Nil),
            AttemptEvent::Lease(_, Event::Lost(why)) => named("lost", why.into_lua(lua)?),
            AttemptEvent::Ended(id) => {
                if id == attempt {
                    open.attempt.set((attempt, true));
                }
                continue;
            }
        };
    }
}

/// The arguments of `fenced_put`; the first has this number.
pub fn key_and_value<T>(call: &Call<T>, first: usize) -> Result<(String, Vec<u8>), Error> {
    let key = Shape::Key.text(&call.arg(first)?, &ValuePath::top("key"))?;
    let at = ValuePath::top("value");
    match call.arg(first + 1)? {
        Value::Null => Err(at.wrong_type(&Shape::Payload, &Value::Null)),
        value => Ok((key, payload(&value, &at)?)),
    }
}

/// `lock:start(options)` starts an attempt. `lock:start("release")` and `lock:start("fenced_put", key, value)`
/// return a handle.
fn start(call: &Call<Lock>) -> native::Result {
    let (lua, lock) = (call.lua, &*call.object);
    let LuaValue::String(method) = call.lua_arg(1) else {
        lock.start_attempt(&*lock.opened()?, wait_of(&call.options(1)?)?)?;
        return Ok(Returned::success(LuaValue::Nil));
    };
    let started = match &*method.as_bytes() {
        b"release" => lock.release(),
        b"fenced_put" => {
            let (key, value) = key_and_value(call, 2)?;
            lock.fenced_put(key, value)
        }
        _ => {
            let known = ["fenced_put", "release"];
            return Err(Error::misuse(unknown("method", &method.to_string_lossy(), &known)).into());
        }
    };
    Handle::of(lua, lock.name(), started)
}

/// `lock:fenced_put(key, value)`: true and the index of the write.
fn fenced_put(call: &Call<Lock>) -> native::Result {
    let (key, value) = key_and_value(call, 1)?;
    call.object.finish(call.lua, call.object.fenced_put(key, value)?)
}

/// `lock:release()`; also cancels an attempt that waits.
fn release(call: &Call<Lock>) -> native::Result {
    call.object.finish(call.lua, call.object.release()?)
}

impl Lock {
    fn fenced_put(&self, key: String, value: Vec<u8>) -> Result<Job<CallResult>, Error> {
        let (executor, lease) = self.granted()?;
        let put = async move {
            let index = lease.fenced_put(&key, value).await?;
            let values: IntoValues = Box::new(move |lua| {
                Ok(Outcome::Success(value::to_lua(lua, &index.into())?, LuaValue::Nil))
            });
            Ok(values)
        };
        Job::start(&executor, stream::once(put))
    }

    /// Releases it, or cancels the attempt that waits, and closes the descriptor.
    fn release(&self) -> Result<Job<CallResult>, Error> {
        let done: IntoValues = Box::new(|_| Ok(Outcome::Success(LuaValue::Nil, LuaValue::Nil)));
        if let Some((handle, job)) = self.opened()?.handle.get() {
            job.close_fd();
            if handle.cancel() {
                return Ok(Job::completed(Ok(done)));
            }
        }
        let (executor, lease) = self.granted()?;
        let release = async move { lease.release().await.map(|()| done) };
        Job::start(&executor, stream::once(release))
    }

    /// Waits for work of the background.
    fn finish(&self, lua: &Lua, job: Job<CallResult>) -> native::Result {
        wait::for_job(lua, &job, None)?;
        let next = if job.belongs_to_parent() { Poll::Pending } else { job.next()? };
        match next {
            Poll::Ready(Some(result)) => Ok(Returned::Outcome(result?(lua)?)),
            _ => Err(self.background_ended().into()),
        }
    }

    fn background_ended(&self) -> Error {
        Error::new(Kind::Closed, format!("{}: the background work has ended", self.name()))
    }
}

/// `lock:fd()`
fn fd(call: &Call<Lock>) -> native::Result {
    let lock = &*call.object;
    let open = lock.opened()?;
    let fd = lock.handle(&open)?.1.fd().map_err(|error| {
        Error::new(Kind::Config, format!("{}: cannot create a descriptor: {error}", lock.name()))
    })?;
    Ok(Returned::Value(fd.into_lua(call.lua)?))
}
