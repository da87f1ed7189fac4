//! `StatusServer`: a server for operators in the background of the process.

use super::runtime::executor::Executor;
use super::runtime::job::Job;
use super::runtime::native::{self, Call, Class, Method, Returned};
use super::runtime::value;
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_cluster::observe::status::{DEFAULT_ADDRESS, Nodes, StatusServer};
use consul_process::os::PerProcess;
use futures_util::stream;
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
use std::cell::RefCell;
use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The nodes of this process, of all Lua states.
pub fn nodes() -> Arc<Nodes> {
    static NODES: PerProcess<Arc<Nodes>> = PerProcess::new();
    Arc::clone(NODES.get())
}

/// The userdata of a server.
pub struct Status {
    address: String,
    /// None: it was closed.
    running: RefCell<Option<Running>>,
}

struct Running {
    executor: Executor,
    job: Job<Infallible>,
    /// Ends when the listener is closed.
    closed: oneshot::Receiver<()>,
}

impl Running {
    fn start(address: &str, hosts: &[String]) -> Result<(Self, String), Error> {
        let executor = Executor::thread()?;
        let server = {
            let _entered = match &executor {
                Executor::Thread(thread) => Some(thread.enter()),
                Executor::Clock(_) => None,
            };
            StatusServer::bind(address, hosts, nodes())?
        };
        let address = server.address().to_string();
        let (closing, closed) = oneshot::channel::<()>();
        let work = stream::once(async move {
            // Dropped after the server.
            let _closing = closing;
            server.serve().await
        });
        let job = Job::start(&executor, work)?;
        Ok((Running { executor, job, closed }, address))
    }
}

impl Status {
    fn belongs_to_parent(&self) -> bool {
        self.running.borrow().as_ref().is_some_and(|running| running.job.belongs_to_parent())
    }

    /// Closes the server; its address is free after that. In a forked child it does nothing.
    fn close(&self) {
        if let Some((executor, closed)) = self.end() {
            executor.shut_down(async move { drop(closed.await) });
        }
    }

    fn end(&self) -> Option<(Executor, oneshot::Receiver<()>)> {
        let is_of_parent = self.belongs_to_parent();
        let running = self.running.take()?;
        if is_of_parent {
            mem::forget(running);
            return None;
        }
        let Running { executor, job, closed } = running;
        job.cancel();
        Some((executor, closed))
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some((executor, closed)) = self.end() {
            executor.hand_over(async move { drop(closed.await) });
        }
    }
}

const METHODS: &[Method<Status>] = &[
    Method::raising("__tostring", |call: &Call<Status>| {
        let state = match &*call.object.running.borrow() {
            None => "closed",
            Some(running) if running.job.belongs_to_parent() => "of the parent process",
            Some(_) => "open",
        };
        native::text(call.lua, &format!("StatusServer({}, {state})", call.object.address))
    }),
    Method::new("close", |call| {
        call.object.close();
        Ok(Returned::done())
    }),
];

const FIELDS: &[Method<Status>] =
    &[Method::raising("address", |call| native::text(call.lua, &call.object.address))];

impl Class for Status {
    const NAME: &'static str = "StatusServer";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        class.set("open", native::function(lua, "serve_status", |lua, args| open(lua, &args))?)?;
        class.set("fields", native::functions(lua, FIELDS)?)?;
        Ok(class)
    }
}

/// `serve_status(address, options)`
fn open(lua: &Lua, args: &MultiValue) -> native::Result {
    let named = |error: Error| error.context("serve_status");
    let address = value::argument(lua, args, 0).and_then(|given| match given {
        Value::Null => Ok(DEFAULT_ADDRESS.to_owned()),
        given => Shape::Text.text(&given, &ValuePath::top("address")),
    });
    let hosts = value::argument(lua, args, 1).and_then(|given| hosts(&given));
    let (address, hosts) = (address.map_err(named)?, hosts.map_err(named)?);
    let (running, address) = Running::start(&address, &hosts).map_err(named)?;
    let server = Status { address, running: RefCell::new(Some(running)) };
    Ok(Returned::Value(LuaValue::UserData(native::object(lua, server)?)))
}

fn hosts(given: &Value) -> Result<Vec<String>, Error> {
    let mut hosts = Vec::new();
    if *given == Value::Null {
        return Ok(hosts);
    }
    for (name, value) in Shape::Any.members(given, &ValuePath::top("options"))? {
        if name != "hosts" {
            return Err(Error::misuse(unknown("option", name, &["hosts"])));
        }
        let at = ValuePath::top("hosts");
        hosts = match value {
            Value::Bytes(_) => vec![Shape::Text.text(value, &at)?],
            _ => Shape::TextList.texts(value, &at)?,
        };
        let is_name = |host: &String| !host.is_empty() && !host.contains(['/', ':', '*', ' ']);
        if !hosts.iter().all(is_name) {
            return Err(at.bad_value(value, "each must be the name of a host, without a port"));
        }
    }
    Ok(hosts)
}
