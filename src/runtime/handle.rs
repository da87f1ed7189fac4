//! `Handle`: a call that runs in the background while the program goes on.

use super::closable_job::ClosableJob;
use super::job::Job;
use super::native::{self, Call, Class, Failure, Method, Returned};
use super::value::{self, Outcome};
use super::wake;
use consul_api::error::Error;
use mlua::{IntoLua, Lua, Table, Value as LuaValue};
use std::cell::Cell;
use std::task::Poll;

/// Makes the values of the program from the result of a call.
pub type IntoValues = Box<dyn FnOnce(&Lua) -> Result<Outcome, Failure> + Send>;

/// The result of a call.
pub type CallResult = Result<IntoValues, Error>;

/// The userdata of a call.
pub struct Handle {
    job: ClosableJob<CallResult>,
    is_done: Cell<bool>,
}

impl Handle {
    /// The handle of a call, which `label` names in errors. A call that could not start has failed.
    ///
    /// # Errors
    /// [`Error::misuse`], which the program made before the call.
    pub fn of(lua: &Lua, label: String, started: Result<Job<CallResult>, Error>) -> native::Result {
        let job = match started {
            Err(error) if error.is_misuse() => return Err(error.into()),
            Err(error) => Job::completed(Err(error)),
            Ok(job) => job,
        };
        let job = ClosableJob::new("handle", label, job);
        let handle = native::object(lua, Handle { job, is_done: Cell::new(false) })?;
        Ok(Returned::Value(LuaValue::UserData(handle)))
    }

    /// The result of the call, once it is complete.
    fn result(&self) -> Result<Option<CallResult>, Error> {
        let job = match self.job.job() {
            Ok(job) => job,
            Err(closed) => return Ok(Some(Err(closed))),
        };
        Ok(match job.next()? {
            Poll::Pending => None,
            Poll::Ready(Some(result)) => {
                self.is_done.set(true);
                Some(result)
            }
            Poll::Ready(None) => Some(Err(self.job.closed("it was cancelled"))),
        })
    }

    fn is_done(&self) -> bool {
        self.is_done.get() || self.job.job().is_ok_and(|job| job.is_ready())
    }
}

const METHODS: &[Method<Handle>] = &[
    Method::raising("__tostring", |call| {
        let state = if call.object.is_done() { "done" } else { "running" };
        native::text(call.lua, &call.object.job.shown("Handle", state))
    }),
    Method::new("poll", poll),
    Method::new("wait", |call| {
        call.object.job.wait(call.lua, &call.arg(1)?)?;
        poll(call)
    }),
    Method::new("fd", |call| Ok(Returned::Value(call.object.job.fd()?.into_lua(call.lua)?))),
    Method::new("unix_socket", |call| {
        let job = call.object.job.job()?;
        wake::unix_socket(call.lua, &*job, 0, || job.canceller())
    }),
    Method::new("cancel", |call| {
        if let Ok(job) = call.object.job.job() {
            job.cancel();
        }
        Ok(Returned::done())
    }),
    Method::new("close", |call| {
        call.object.job.close();
        Ok(Returned::done())
    }),
];

impl Class for Handle {
    const NAME: &'static str = "Handle";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `handle:poll()`: the outcome of the call, each time it is asked; false while the call runs.
fn poll(call: &Call<Handle>) -> native::Result {
    // The user value of the handle has the outcome that it returned before.
    if let Ok(values) = call.userdata.user_value::<Table>() {
        let (is_success, second, third) =
            (values.raw_get(1)?, values.raw_get(2)?, values.raw_get(3)?);
        let outcome = if is_success {
            Outcome::Success(second, third)
        } else {
            Outcome::Failure(second, third)
        };
        return Ok(Returned::Finished(outcome));
    }
    let Some(result) = call.object.result()? else {
        return Ok(Returned::Value(LuaValue::Boolean(false)));
    };
    let done = result.map_err(Failure::Error).and_then(|values| values(call.lua));
    let outcome = value::outcome(call.lua, done)?;
    let (is_success, second, third) = match &outcome {
        Outcome::Success(response, meta) => (true, response, meta),
        Outcome::Failure(message, error) => (false, message, error),
    };
    let values = call.lua.create_table_with_capacity(3, 0)?;
    values.raw_set(1, is_success)?;
    values.raw_set(2, second)?;
    values.raw_set(3, third)?;
    call.userdata.set_user_value(values)?;
    Ok(Returned::Finished(outcome))
}
