//! `LoopCall`: a call whose bytes the program's event loop sends and receives, for the modules of event loops.

use super::consul_client::ConsulClient;
use crate::runtime::native::{self, Call, Class, Failure, Method, Returned};
use crate::runtime::value;
use consul_api::error::Error;
use consul_api::request::Request;
use consul_api::response::Success;
use consul_client::Client;
use consul_client::transport::event_loop::{self, Address, Need, Received, Step};
use consul_config::Config;
use consul_config::connect::connect_in_loop;
use mlua::{IntoLua, Lua, Table, Value as LuaValue};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A client whose calls run in an event loop.
pub struct InLoop {
    client: Arc<Client>,
    in_flight: Rc<Cell<usize>>,
    max_in_flight: usize,
    limits: Limits,
}

/// Of the connections, as a program has set them.
#[derive(Clone, Copy)]
struct Limits {
    connect_timeout_ms: f64,
    idle_timeout_ms: f64,
    max_idle: usize,
}

impl InLoop {
    /// Such a client, `None` if an event loop cannot connect to each endpoint.
    ///
    /// # Errors
    /// As [`connect_in_loop`].
    pub fn new(config: &Config) -> Result<Option<Self>, Error> {
        let client = connect_in_loop(config)?;
        // The background has as many connections for the calls that find none of these.
        let max_in_flight = config.http.max_connections.div_ceil(2);
        Ok(client.map(|client| InLoop {
            client: Arc::new(client),
            in_flight: Rc::default(),
            max_in_flight,
            limits: Limits {
                connect_timeout_ms: config.http.connect_timeout.as_secs_f64() * 1e3,
                idle_timeout_ms: config.http.idle_timeout.as_secs_f64() * 1e3,
                max_idle: config.http.max_idle_connections,
            },
        }))
    }

    /// Whether it can run a request: a read that does not wait for a change, and no more than this many at a time.
    ///
    /// An event loop may take a kept connection before it has seen that this has ended, or that something came on it which
    /// answers no request. A read is repeated then, or shows by what it names that it is wrong; a write could do neither.
    pub fn takes(&self, request: &Request) -> bool {
        request.http.method().as_str() == "GET"
            && !request.waits_for_change()
            && self.in_flight.get() < self.max_in_flight
    }

    /// The call of a request.
    pub fn call(&self, request: Request) -> LoopCall {
        let client = Arc::clone(&self.client);
        let in_flight = InFlight::begin(&self.in_flight);
        let call = async move { client.execute(&request).await };
        LoopCall {
            client: Arc::clone(&self.client),
            running: RefCell::new(Some((event_loop::LoopCall::new(call), in_flight))),
            address: RefCell::default(),
            can_reuse: Cell::new(false),
            limits: self.limits,
        }
    }
}

/// Counts a call.
struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    fn begin(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        InFlight(Rc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A call that is not complete, and its place among those in flight.
type Running = (event_loop::LoopCall<Result<Success, Error>>, InFlight);

/// The userdata of a call.
pub struct LoopCall {
    client: Arc<Client>,
    /// `None` once it is complete.
    running: RefCell<Option<Running>>,
    /// Where its last request goes to.
    address: RefCell<Option<Arc<Address>>>,
    can_reuse: Cell<bool>,
    limits: Limits,
}

const METHODS: &[Method<LoopCall>] = &[
    Method::raising("__tostring", |call| {
        let is_done = call.object.running.borrow().is_none();
        native::text(call.lua, if is_done { "LoopCall(done)" } else { "LoopCall(running)" })
    }),
    Method::new("step", step),
    // Its host and its port.
    Method::raising("address", |call| {
        let address = call.object.address.borrow();
        let Some(address) = address.as_deref() else {
            return Ok(Returned::Value(LuaValue::Nil));
        };
        let host = address.host.as_str().into_lua(call.lua)?;
        Ok(Returned::Pair(host, address.port.into_lua(call.lua)?))
    }),
    // The name of the pool of its connections, and the time limit of a new one in milliseconds.
    Method::raising("pool", |call| {
        let address = call.object.address.borrow();
        let pool = address.as_deref().map(|address| address.pool.as_str());
        Ok(Returned::Pair(
            pool.into_lua(call.lua)?,
            call.object.limits.connect_timeout_ms.into_lua(call.lua)?,
        ))
    }),
    // How long its connection may be kept, in milliseconds, and how many; false if it may not.
    Method::raising("can_reuse", |call| {
        let Limits { idle_timeout_ms, max_idle, .. } = call.object.limits;
        if !call.object.can_reuse.get() || max_idle == 0 {
            return Ok(Returned::Value(LuaValue::Boolean(false)));
        }
        Ok(Returned::Pair(idle_timeout_ms.into_lua(call.lua)?, max_idle.into_lua(call.lua)?))
    }),
];

impl Class for LoopCall {
    const NAME: &'static str = "LoopCall";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        native::class(lua, METHODS)
    }
}

/// `call:step(bytes, why, sent)`: continues with the bytes that came, or with a failure, or because the time has. Returns
/// true and the outcome, or how long to wait in milliseconds and what for: for the answer to a request, which is to be sent in
/// place of the one before; true: for more of the answer; nil: for nothing else.
fn step(call: &Call<LoopCall>) -> native::Result {
    let received = match (call.lua_arg(1), call.lua_arg(2)) {
        (LuaValue::String(bytes), _) => Some(Received::Bytes(bytes.as_bytes().to_vec())),
        (_, LuaValue::String(why)) if why.as_bytes() == b"closed" => Some(Received::End),
        (_, LuaValue::String(why)) => {
            let sent = call.lua_arg(3).as_boolean() == Some(true);
            Some(Received::Failed { why: why.to_string_lossy().into(), sent })
        }
        _ => None,
    };
    let object = &*call.object;
    let mut running = object.running.borrow_mut();
    let Some(step) = running.as_mut().map(|(call, _)| call.step(received)) else {
        return Err(Error::misuse("the call is complete").into());
    };
    match step {
        Step::Waits(need, until) => {
            let now = object.client.clock().now();
            let left_ms = until.map(|until| (until - now).as_secs_f64() * 1e3);
            let wanted = match need {
                Need::Exchange(exchange) => {
                    *object.address.borrow_mut() = Some(exchange.address);
                    LuaValue::String(call.lua.create_string(&exchange.request)?)
                }
                Need::More => LuaValue::Boolean(true),
                Need::Time => LuaValue::Nil,
            };
            Ok(Returned::Pair(left_ms.into_lua(call.lua)?, wanted))
        }
        Step::Done(outcome, can_reuse) => {
            *running = None;
            object.can_reuse.set(can_reuse);
            let done = outcome.map_err(Failure::Error);
            let done = done.and_then(|success| value::success(call.lua, success));
            Ok(Returned::Finished(value::outcome(call.lua, done)?))
        }
    }
}

/// `in_loop(client, method, …)`: begins a call for an event loop, a [`LoopCall`] or, if it cannot be one, a handle.
pub fn begin(lua: &Lua, values: mlua::MultiValue) -> native::Result {
    let (_, client) = native::called_on::<ConsulClient>(&values, "start")?;
    super::begin(lua, &client, values.iter().skip(1), ConsulClient::in_loop)
}
