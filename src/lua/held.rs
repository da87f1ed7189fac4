//! Work in the background as a userdata holds it, until it is closed.

use super::background::Job;
use super::hooks;
use super::native::{Failure, Results};
use crate::error::{Error, Kind};
use crate::wire::shape::At;
use crate::wire::value::Value;
use mlua::{Lua, Value as LuaValue};
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

/// A job and what it is called.
pub struct Held<T> {
    /// What kind of thing it is: `handle`.
    what: &'static str,
    /// What it works at: `kv_get "key"`.
    label: String,
    /// None: it was closed.
    job: RefCell<Option<Rc<Job<T>>>>,
}

impl<T> Held<T> {
    /// Holds a job.
    pub fn new(what: &'static str, label: String, job: Job<T>) -> Self {
        Held { what, label, job: RefCell::new(Some(Rc::new(job))) }
    }

    /// The job.
    ///
    /// # Errors
    /// [`Kind::Closed`] when it was closed, or is the work of the process that this one was forked
    /// from, which does not go on here.
    pub fn job(&self) -> Result<Rc<Job<T>>, Error> {
        match &*self.job.borrow() {
            Some(job) if job.is_of_parent() => {
                Err(self.closed("it was started by this process's parent and goes on there"))
            }
            Some(job) => Ok(Rc::clone(job)),
            None => Err(self.closed(&format!("the {} was closed", self.what))),
        }
    }

    /// The error of a thing that is closed, with the reason.
    pub fn closed(&self, why: &str) -> Error {
        closed(&self.label, why)
    }

    /// Waits for news, at most so many milliseconds, unless it is closed; `method` is what the program
    /// called for it.
    ///
    /// # Errors
    /// What is no number of milliseconds; what a hook raised; as [`Job::wait`].
    pub fn wait(&self, lua: &Lua, method: &str, limit_ms: &Value) -> Result<(), Failure> {
        let limit = wait_limit(limit_ms).map_err(|error| error.context(method))?;
        match self.job() {
            Ok(job) => job.wait(limit, hooks::INTERVAL, || hooks::run(lua)),
            Err(_) => Ok(()),
        }
    }

    /// The descriptor that is readable as long as there is news.
    ///
    /// # Errors
    /// As [`Held::job`]; [`Kind::Config`] when the system has no descriptor to give.
    pub fn fd(&self) -> Result<RawFd, Error> {
        self.job()?.fd().map_err(|error| {
            Error::new(Kind::Config, format!("{}: there is no descriptor: {error}", self.label))
        })
    }

    /// What it is, where it is in its life, for `tostring`; `open` says how one reads that goes on.
    pub fn shown(&self, class: &str, open: &str) -> String {
        let state = match &*self.job.borrow() {
            None => "closed",
            Some(job) if job.is_of_parent() => "of the parent process",
            Some(_) => open,
        };
        format!("{class}({}, {state})", self.label)
    }

    /// Ends the work, and a wait for it, in which a hook may have called this. It may be called
    /// again.
    pub fn close(&self) {
        if let Some(job) = self.job.take() {
            job.cancel();
        }
    }
}

/// The error of what is closed, with the reason.
pub fn closed(label: &str, why: &str) -> Error {
    Error::new(Kind::Closed, format!("{label}: {why}"))
}

/// A native function's results when there is one.
pub fn one(result: LuaValue) -> Results {
    (result, LuaValue::Nil, LuaValue::Nil)
}

/// The results of a method that gives true before its value, which may be nil.
pub fn gives(value: LuaValue) -> Results {
    (LuaValue::Boolean(true), value, LuaValue::Nil)
}

/// The results of a method that has nothing to give.
pub fn done() -> Results {
    one(LuaValue::Boolean(true))
}

/// Nothing and infinity are no limit; a time that is over already is none to wait.
pub fn wait_limit(limit_ms: &Value) -> Result<Option<Duration>, Error> {
    let at = At::top("timeout_ms");
    let limit_ms = match limit_ms {
        Value::Null => return Ok(None),
        Value::Int(number) => *number as f64,
        Value::Float(number) if !number.is_nan() => *number,
        _ => return Err(at.wrong_type_text("a number of milliseconds", limit_ms)),
    };
    Ok(Duration::try_from_secs_f64(limit_ms.max(0.0) / 1e3).ok())
}
