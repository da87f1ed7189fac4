//! The userdata of a client.

use super::background::Background;
use super::foreground::Foreground;
use super::loop_call::InLoop;
use super::registered::Registered;
use crate::runtime::native::Failure;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Request};
use consul_api::response::Success;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_client::Client;
use consul_config::{Config, Simulate};
use mlua::Lua;
use std::cell::{OnceCell, RefCell};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

/// A client until it is closed, and its configuration after that.
pub struct ConsulClient {
    pub(super) config: Config,
    /// None: it was closed.
    open: RefCell<Option<Rc<Open>>>,
    registered: RefCell<Registered>,
}

/// The parts of a client until it is closed.
struct Open {
    foreground: Foreground,
    /// Created for the first handle, watch, view or lock.
    background: OnceCell<Arc<Background>>,
    /// Created for the first call in an event loop; `None` if that cannot connect to each endpoint.
    in_loop: OnceCell<Option<Rc<InLoop>>>,
}

impl Open {
    fn new(config: &Config) -> Result<Rc<Self>, Error> {
        let foreground = Foreground::new(config)?;
        Ok(Rc::new(Open { foreground, background: OnceCell::new(), in_loop: OnceCell::new() }))
    }

    fn background(&self, config: &Config) -> Result<Arc<Background>, Error> {
        if let Some(background) = self.background.get() {
            return Ok(Arc::clone(background));
        }
        let background = Arc::new(Background::new(config)?);
        Ok(Arc::clone(self.background.get_or_init(|| background)))
    }

    /// Drops a reference; the last one closes the foreground. Objects of the parent process are leaked,
    /// because a drop would touch its connections.
    fn release(open: Rc<Self>) {
        if open.foreground.belongs_to_parent() {
            mem::forget(open);
        } else if let Some(open) = Rc::into_inner(open) {
            open.foreground.close();
        }
    }
}

impl ConsulClient {
    /// Opens a client; sends nothing.
    ///
    /// # Errors
    /// As [`Foreground::new`].
    pub fn new(config: Config) -> Result<Self, Error> {
        let open = Open::new(&config)?;
        Ok(ConsulClient { config, open: RefCell::new(Some(open)), registered: RefCell::default() })
    }

    /// Makes a call on the calling thread.
    ///
    /// # Errors
    /// Errors of the call, and what a hook raised.
    pub fn call(
        &self,
        lua: &Lua,
        endpoint: &'static Endpoint,
        args: &Args,
    ) -> Result<Success, Failure> {
        let request = self.request(endpoint, args)?;
        let open = self.opened(&request.label)?;
        // A hook may call the client too, or close it.
        let done = open.foreground.run_one(lua, open.foreground.client().execute(&request));
        Open::release(open);
        Ok(done??)
    }

    /// Checks the arguments of a call and builds its request, also on a closed client.
    ///
    /// # Errors
    /// [`Error::misuse`] and [`Kind::Argument`] for wrong arguments.
    pub fn request(&self, endpoint: &'static Endpoint, args: &Args) -> Result<Request, Error> {
        match &*self.open.borrow() {
            Some(open) => {
                let request = open.foreground.client().request(endpoint, args)?;
                self.registered.borrow_mut().note(&request);
                Ok(request)
            }
            None => endpoint.request(args, &self.config.defaults),
        }
    }

    /// The services and checks that this client has registered.
    pub fn registered(&self) -> Value {
        self.registered.borrow().shown()
    }

    /// Runs work on the calling thread; `label` names it in errors.
    ///
    /// # Errors
    /// [`Kind::Closed`] if the client is closed, and what a hook raised.
    pub fn run<R>(
        &self,
        lua: &Lua,
        label: &str,
        work: impl AsyncFnOnce(&Client) -> R,
    ) -> Result<R, Failure> {
        let open = self.opened(label)?;
        // A hook may call the client too, or close it.
        let done = open.foreground.run(lua, work(open.foreground.client()));
        Open::release(open);
        done
    }

    /// The limit of requests to one endpoint at a time.
    pub fn max_connections(&self) -> usize {
        self.config.http.max_connections
    }

    /// Whether the leading slash of a key is removed instead of refused.
    pub fn strips_leading_slash(&self) -> bool {
        self.config.defaults.strip_leading_slash
    }

    /// This client's background, which the first use creates; `label` names the user in errors.
    ///
    /// # Errors
    /// [`Kind::Closed`] if the client is closed, and as [`Background::new`].
    pub fn background(&self, label: &str) -> Result<Arc<Background>, Error> {
        self.opened(label)?.background(&self.config)
    }

    /// The driver of this request in an event loop, if that can run it.
    pub fn in_loop(&self, request: &Request) -> Option<Rc<InLoop>> {
        let open = self.opened(&request.label).ok()?;
        if open.in_loop.get().is_none() {
            // A file that is missing now, such as a token file, is an error of the background, and may come later.
            let in_loop = InLoop::new(&self.config).ok()?.map(Rc::new);
            open.in_loop.get_or_init(|| in_loop);
        }
        let in_loop = open.in_loop.get()?.clone()?;
        in_loop.takes(request).then_some(in_loop)
    }

    /// The state of an open client; a forked child opens the client again.
    fn opened(&self, label: &str) -> Result<Rc<Open>, Error> {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_some_and(|open| open.foreground.belongs_to_parent()) {
            mem::forget(open.replace(Open::new(&self.config)?));
        }
        open.clone().ok_or_else(|| {
            Error::new(Kind::Closed, format!("{label}: the client is closed")).not_sent()
        })
    }

    /// Closes the client and everything it runs in the background. May be called again.
    pub fn close(&self) {
        if let Some(open) = &*self.open.borrow()
            && let Some(background) = open.background.get()
            && !open.foreground.belongs_to_parent()
        {
            background.close();
        }
        self.release();
    }

    /// Drops what the client has; its handles, watches and locks continue.
    fn release(&self) {
        if let Some(open) = self.open.take() {
            Open::release(open);
        }
    }

    /// The client as text.
    pub fn shown(&self) -> String {
        let endpoints = self.config.endpoints.join(",");
        let endpoints = match &self.config.simulate {
            Simulate::No => endpoints,
            Simulate::ForEndpoints => format!("simulate:{endpoints}"),
            Simulate::Named(name) => format!("simulate:{name}"),
        };
        let state = if self.is_open() { "open" } else { "closed" };
        format!("ConsulClient({endpoints}, {state})")
    }

    /// Whether it has not been closed.
    pub fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }
}

impl Drop for ConsulClient {
    fn drop(&mut self) {
        self.release();
    }
}
