//! The background job of a userdata, until the program closes it.

use super::job::Job;
use super::native::Failure;
use super::wait;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use mlua::Lua;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

/// A job, named in errors, that can be closed.
pub struct ClosableJob<T> {
    /// The kind of object: `handle`.
    object: &'static str,
    /// The name of the job's work: `kv_get "key"`.
    label: String,
    /// None: it was closed.
    job: RefCell<Option<Rc<Job<T>>>>,
    /// The job after [`ClosableJob::end`], while an event loop may have to learn of that.
    awaited: RefCell<Option<Rc<Job<T>>>>,
}

impl<T> ClosableJob<T> {
    /// Takes a job that was started for a kind of object, such as `handle`.
    pub fn new(object: &'static str, label: String, job: Job<T>) -> Self {
        ClosableJob {
            object,
            label,
            job: RefCell::new(Some(Rc::new(job))),
            awaited: RefCell::default(),
        }
    }

    /// The job, if it can be used.
    ///
    /// # Errors
    /// [`Kind::Closed`] if it was closed or belongs to the parent of this process.
    pub fn job(&self) -> Result<Rc<Job<T>>, Error> {
        match &*self.job.borrow() {
            Some(job) if job.belongs_to_parent() => {
                Err(self.closed("it belongs to the parent of this process and continues there"))
            }
            Some(job) => Ok(Rc::clone(job)),
            None => Err(self.closed(&format!("the {} was closed", self.object))),
        }
    }

    /// The error of an object that is closed, with the reason.
    pub fn closed(&self, why: &str) -> Error {
        closed(&self.label, why)
    }

    /// Waits for up to `limit_ms` milliseconds until the job is ready; returns at once if it is closed.
    ///
    /// # Errors
    /// [`Error::misuse`] for an invalid limit; what a hook raised; as [`Job::wait`].
    pub fn wait(&self, lua: &Lua, limit_ms: &Value) -> Result<(), Failure> {
        let limit = wait::limit(limit_ms)?;
        match self.job() {
            Ok(job) => wait::for_job(lua, &job, limit),
            Err(_) => Ok(()),
        }
    }

    /// The descriptor that is readable while the job is ready.
    ///
    /// # Errors
    /// As [`ClosableJob::job`]; [`Kind::Config`] if the descriptor cannot be created.
    pub fn fd(&self) -> Result<RawFd, Error> {
        self.job()?.fd().map_err(|error| {
            Error::new(Kind::Config, format!("{}: cannot create a descriptor: {error}", self.label))
        })
    }

    /// The text for `tostring`: class, label and state; `open` is the state of a usable job.
    pub fn shown(&self, class: &str, open: &str) -> String {
        let state = match &*self.job.borrow() {
            None => "closed",
            Some(job) if job.belongs_to_parent() => "of the parent process",
            Some(_) => open,
        };
        format!("{class}({}, {state})", self.label)
    }

    /// Cancels the job and ends a wait for it, in which a hook may call this. May be called again.
    pub fn close(&self) {
        if let Some(job) = self.job.take() {
            job.cancel();
        }
    }

    /// As [`ClosableJob::close`], but a descriptor for which another coroutine may wait stays open, and readable, until
    /// this is called again or the object is collected.
    pub fn end(&self) {
        let job = self.job.borrow().clone();
        self.close();
        self.awaited.replace(job.filter(|job| job.is_awaited()));
    }
}

/// The error of an object that is closed, with the reason.
pub fn closed(label: &str, why: &str) -> Error {
    Error::new(Kind::Closed, format!("{label}: {why}"))
}
