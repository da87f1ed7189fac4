//! `Simulator`: a simulated agent as a test holds it, with its clock and its faults.

use super::background::in_runtime;
use super::native::{self, Failure, Results};
use super::value;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::error::Error;
use crate::simulate::{self, Agent, Fault, Keeps, Options};
use crate::wire::shape::{At, unknown};
use crate::wire::table::{DURATION, Shape};
use crate::wire::value::Value;
use mlua::{Lua, MetaMethod, MultiValue, Table, UserData, UserDataFields, UserDataMethods};
use std::sync::Arc;

/// A simulated agent by its name.
struct Simulator {
    name: String,
    agent: Arc<Agent>,
}

impl UserData for Simulator {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(format!("Simulator({})", this.name))
        });
    }

    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", "Simulator");
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(INDEX));
    }
}

/// The registry's name for the table of the methods.
const INDEX: &str = "consul_ffi.simulator.index";

/// A method: what it gives, or the message that `module.lua` raises.
type Method = fn(&Agent, &Value) -> Result<Value, Error>;

const METHODS: &[(&str, Method)] = &[
    ("advance", advance),
    ("now", |agent, _| Ok(agent.clock().now().since_origin().as_secs_f64().into())),
    ("fault", fault),
    ("clear_faults", |agent, _| {
        agent.clear_faults();
        Ok(Value::Null)
    }),
    ("restart", restart),
    ("reset", |agent, _| {
        agent.reset();
        Ok(Value::Null)
    }),
    ("stats", stats),
];

/// The native functions that `module.lua` builds the class from.
pub fn register(lua: &Lua) -> mlua::Result<Table> {
    let methods = METHODS.iter().map(|(name, method)| {
        (*name, move |lua: &Lua, args: MultiValue| invoke(lua, name, *method, &args))
    });
    let native = native::class(lua, INDEX, methods)?;
    native.set(
        "open",
        native::function(lua, "simulator", |lua, args| {
            let arg = |place| value::argument(lua, &args, place);
            let opened = arg(0).and_then(|name| open(&name, &arg(1)?));
            let agent = lua.create_userdata(opened.map_err(raised("simulator"))?)?;
            Ok((mlua::Value::UserData(agent), mlua::Nil, mlua::Nil))
        })?,
    )?;
    Ok(native)
}

/// Runs a method; gives `true, value`.
fn invoke(lua: &Lua, name: &str, method: Method, args: &MultiValue) -> Result<Results, Failure> {
    let this = args.front().and_then(mlua::Value::as_userdata);
    let outcome = match this.and_then(|this| this.borrow::<Simulator>().ok()) {
        Some(this) => {
            value::argument(lua, args, 1).and_then(|argument| method(&this.agent, &argument))
        }
        None => Err(Error::misuse("call it with a colon")),
    };
    let value = value::to_lua(lua, &outcome.map_err(raised(name))?)?;
    Ok((mlua::Value::Boolean(true), value, mlua::Nil))
}

/// Every error of a simulated agent's methods is raised.
fn raised(name: &str) -> impl Fn(Error) -> Error {
    move |error| Error::misuse(format!("{name}: {}", error.message()))
}

/// Opens the agent of this name, which the options make when it is not there yet.
fn open(name: &Value, options: &Value) -> Result<Simulator, Error> {
    let name = Shape::Text.text(name, &At::top("name"))?;
    let mut clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut given = Options::default();
    let mut is_made = false;
    for (option, value) in Shape::Any.members(options_or_none(options), &At::top("options"))? {
        let at = At::top(option);
        match option.as_str() {
            "clock" if Shape::OneOf(&["real", "manual"]).text(value, &at)? == "manual" => {
                clock = Arc::new(ManualClock::new());
            }
            "clock" => {}
            "seed" => given.seed = Shape::Uint.uint(value, &at)?,
            _ => return Err(Error::misuse(unknown("option", option, &["clock", "seed"]))),
        }
    }
    let wants_manual = clock.as_manual().is_some();
    let agent = simulate::shared_or(&name, || {
        is_made = true;
        Options { clock, ..given }
    });
    if !is_made && wants_manual && agent.clock().as_manual().is_none() {
        return Err(Error::misuse(format!(
            "the agent {name:?} exists already and goes by real time; \
             call simulator before the first client uses the name"
        )));
    }
    Ok(Simulator { name, agent })
}

/// Options that were left out are none.
fn options_or_none(options: &Value) -> &Value {
    static NONE: Value = Value::Map(Vec::new());
    if *options == Value::Null { &NONE } else { options }
}

fn advance(agent: &Agent, seconds: &Value) -> Result<Value, Error> {
    let at = At::top("seconds");
    let duration = DURATION.duration(seconds, &at)?;
    let Some(clock) = agent.clock().as_manual() else {
        return Err(Error::misuse(
            "this agent goes by real time; consul_ffi.simulator(name, { clock = \"manual\" }) makes one \
             whose time is moved",
        ));
    };
    in_runtime(|_| clock.advance(duration))?;
    agent.tick();
    Ok(Value::Null)
}

fn fault(agent: &Agent, options: &Value) -> Result<Value, Error> {
    let members = Shape::Any.members(options_or_none(options), &At::top("options"))?;
    agent.add_fault(Fault::from_options(members)?);
    Ok(Value::Null)
}

fn restart(agent: &Agent, options: &Value) -> Result<Value, Error> {
    let mut keeps = Keeps::Disk;
    for (option, value) in Shape::Any.members(options_or_none(options), &At::top("options"))? {
        let is_set = Shape::Bool.boolean(value, &At::top(option))?;
        keeps = match (option.as_str(), is_set) {
            ("wipe", true) => Keeps::Nothing,
            ("lose_sessions", true) if keeps == Keeps::Disk => Keeps::DiskWithoutSessions,
            ("wipe" | "lose_sessions", _) => keeps,
            _ => return Err(Error::misuse(unknown("option", option, &["lose_sessions", "wipe"]))),
        };
    }
    agent.restart(keeps);
    Ok(Value::Null)
}

fn stats(agent: &Agent, _: &Value) -> Result<Value, Error> {
    let stats = agent.stats();
    let count = |number: usize| Value::from(number as u64);
    Ok(Value::Map(vec![
        ("requests".to_owned(), stats.requests.into()),
        ("index".to_owned(), stats.index.into()),
        ("keys".to_owned(), count(stats.keys)),
        ("sessions".to_owned(), count(stats.sessions)),
        ("waiting".to_owned(), count(stats.waiting)),
    ]))
}
