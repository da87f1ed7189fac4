//! How native functions wait: with pauses, in which Lua's debug hooks and the handlers of requests run.

use super::executor::Executor;
use super::job::Job;
use super::log;
use super::native::Failure;
use super::nginx;
use consul_api::error::Error;
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use futures_util::stream;
use mlua::Lua;
use std::future::Future;
use std::task::Poll;
use std::time::Duration;

/// The time between two pauses.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// The function that runs in a pause besides the hooks.
type InPause = fn(&Lua) -> Result<(), Failure>;

/// Sets what runs in each pause of this Lua state besides its hooks.
pub fn set_in_pause(lua: &Lua, in_pause: InPause) {
    lua.set_app_data(in_pause);
}

/// Runs the hooks, then what [`set_in_pause`] set.
///
/// # Errors
/// An error that either of them raised.
pub fn pause(lua: &Lua) -> Result<(), Failure> {
    run_hooks(lua)?;
    let in_pause = lua.app_data_ref::<InPause>().map(|in_pause| *in_pause);
    in_pause.map_or(Ok(()), |in_pause| in_pause(lua))
}

/// Calls an empty function, because hooks run at calls. The stand-alone interpreters handle Ctrl-C by
/// such a hook, which raises "interrupted!". Before that, the program gets its lines of the log.
///
/// # Errors
/// The error that a hook raised.
pub fn run_hooks(lua: &Lua) -> Result<(), Failure> {
    log::deliver(lua);
    Ok(lua.load("").set_name("=consul_ffi").exec()?)
}

/// Waits until a job is ready or the limit is over.
///
/// # Errors
/// As [`pause`] and [`Job::wait`].
pub fn for_job<T>(lua: &Lua, job: &Job<T>, limit: Option<Duration>) -> Result<(), Failure> {
    for_job_unless(lua, job, limit, || false)
}

/// Waits as [`for_job`]; ends too after a pause in which other code has made the wait needless, as by taking the result.
///
/// # Errors
/// As [`for_job`].
pub fn for_job_unless<T>(
    lua: &Lua,
    job: &Job<T>,
    limit: Option<Duration>,
    is_needless: impl Fn() -> bool,
) -> Result<(), Failure> {
    if limit != Some(Duration::ZERO) {
        nginx::before_block(lua);
    }
    job.wait(limit, INTERVAL, || pause(lua).map(|()| is_needless()))
}

/// Runs work in the background and waits for its result; returns None in a child that was forked
/// meanwhile, where the work does not continue.
///
/// # Errors
/// As [`pause`] and [`Job::start`].
pub fn for_result<R: Send + 'static>(
    lua: &Lua,
    executor: &Executor,
    work: impl Future<Output = R> + Send + 'static,
) -> Result<Option<R>, Failure> {
    let job = Job::start(executor, stream::once(work))?;
    for_job(lua, &job, None)?;
    if job.belongs_to_parent() {
        return Ok(None);
    }
    Ok(match job.next()? {
        Poll::Ready(result) => result,
        Poll::Pending => None,
    })
}

/// The limit of a wait in milliseconds: none for nil and infinity, zero for a negative one.
///
/// # Errors
/// [`Error::misuse`] for anything but a number.
pub fn limit(limit_ms: &Value) -> Result<Option<Duration>, Error> {
    let at = ValuePath::top("timeout_ms");
    let limit_ms = match limit_ms {
        Value::Null => return Ok(None),
        Value::Int(number) => *number as f64,
        Value::Float(number) if !number.is_nan() => *number,
        _ => return Err(at.wrong_type_text("a number of milliseconds", limit_ms)),
    };
    Ok(Duration::try_from_secs_f64(limit_ms.max(0.0) / 1e3).ok())
}
