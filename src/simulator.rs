//! `Simulator`: a simulated agent in a test, with its clock and its faults.

use super::runtime::executor::in_runtime;
use super::runtime::native::{self, Call, Class, Method, Returned};
use super::runtime::value;
use consul_api::error::Error;
use consul_api::table::{DURATION, Shape};
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_process::clock::{Clock, ManualClock, SystemClock};
use consul_sim::{self as simulate, Agent, Fault, KeyNames, Options, Retained};
use mlua::{Lua, MultiValue, Table, Value as LuaValue};
use std::sync::Arc;

/// The userdata of a simulated agent.
pub struct Simulator {
    name: String,
    agent: Arc<Agent>,
}

const METHODS: &[Method<Simulator>] = &[
    Method::raising("__tostring", |call| {
        native::text(call.lua, &format!("Simulator({})", call.object.name))
    }),
    Method::raising("advance", advance),
    Method::raising("now", |call| {
        let now = call.object.agent.clock().now().since_origin();
        Ok(Returned::Value(LuaValue::Number(now.as_secs_f64())))
    }),
    Method::raising("fault", fault),
    Method::raising("clear_faults", |call| {
        call.object.agent.clear_faults();
        Ok(Returned::Value(LuaValue::Nil))
    }),
    Method::raising("restart", restart),
    Method::raising("reset", |call| {
        call.object.agent.reset();
        Ok(Returned::Value(LuaValue::Nil))
    }),
    Method::raising("stats", stats),
];

impl Class for Simulator {
    const NAME: &'static str = "Simulator";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        class.set("open", native::raising(lua, "simulator", new)?)?;
        Ok(class)
    }
}

/// `simulator(name, options)`
fn new(lua: &Lua, values: MultiValue) -> native::Result {
    let given = |place| values.get(place).unwrap_or(&LuaValue::Nil);
    let name = value::from_lua(lua, given(0));
    let opened = name.and_then(|name| open(&name, &value::options(lua, given(1))?));
    let simulator = opened.map_err(|error| error.context("simulator"))?;
    Ok(Returned::Value(LuaValue::UserData(native::object(lua, simulator)?)))
}

/// Opens the agent of this name, or creates it with these options.
fn open(name: &Value, options: &Value) -> Result<Simulator, Error> {
    let name = Shape::Text.text(name, &ValuePath::top("name"))?;
    let mut clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut given = Options::default();
    let (mut is_new, mut names_clock, mut key_names) = (false, false, None);
    for (option, value) in
        Shape::Any.members(options_or_none(options), &ValuePath::top("options"))?
    {
        let at = ValuePath::top(option);
        match option.as_str() {
            "clock" => {
                names_clock = true;
                if Shape::OneOf(&["real", "manual"]).text(value, &at)? == "manual" {
                    clock = Arc::new(ManualClock::new());
                }
            }
            "key_names" => {
                let release = Shape::OneOf(&KeyNames::NAMES).text(value, &at)?;
                key_names = KeyNames::of(&release);
                given.settings.key_names = key_names.unwrap_or_default();
            }
            "seed" => given.seed = Shape::Uint.uint(value, &at)?,
            _ => {
                return Err(Error::misuse(unknown(
                    "option",
                    option,
                    &["clock", "key_names", "seed"],
                )));
            }
        }
    }
    let is_manual = clock.as_manual().is_some();
    let agent = simulate::shared_or(&name, || {
        is_new = true;
        Options { clock, ..given }
    });
    if !is_new && names_clock && is_manual != agent.clock().as_manual().is_some() {
        let clock = if is_manual { "real" } else { "manual" };
        return Err(Error::misuse(format!(
            "the agent {name:?} exists already and its clock is {clock}; \
             call simulator with this clock before the first client uses the name"
        )));
    }
    if key_names.is_some_and(|rules| rules != agent.key_names()) {
        return Err(Error::misuse(format!(
            "the agent {name:?} exists already and takes other names of keys; \
             call simulator with these key_names before the first client uses the name"
        )));
    }
    Ok(Simulator { name, agent })
}

/// Omitted options are an empty table.
fn options_or_none(options: &Value) -> &Value {
    static NONE: Value = Value::Map(Vec::new());
    if *options == Value::Null { &NONE } else { options }
}

fn advance(call: &Call<Simulator>) -> native::Result {
    let duration = DURATION.duration(&call.arg(1)?, &ValuePath::top("seconds"))?;
    let agent = &call.object.agent;
    let Some(clock) = agent.clock().as_manual() else {
        let why = "the clock of this agent is real; \
                   consul_ffi.simulator(name, { clock = \"manual\" }) creates one with a manual clock";
        return Err(Error::misuse(why).into());
    };
    in_runtime(|_| clock.advance(duration))?;
    agent.tick();
    Ok(Returned::Value(LuaValue::Nil))
}

fn fault(call: &Call<Simulator>) -> native::Result {
    let options = call.options(1)?;
    let members = Shape::Any.members(options_or_none(&options), &ValuePath::top("options"))?;
    call.object.agent.add_fault(Fault::from_options(members)?);
    Ok(Returned::Value(LuaValue::Nil))
}

fn restart(call: &Call<Simulator>) -> native::Result {
    let options = call.options(1)?;
    let members = Shape::Any.members(options_or_none(&options), &ValuePath::top("options"))?;
    call.object.agent.restart(Retained::from_options(members)?);
    Ok(Returned::Value(LuaValue::Nil))
}

fn stats(call: &Call<Simulator>) -> native::Result {
    let stats = call.object.agent.stats();
    let count = |number: usize| Value::from(number as u64);
    let members = vec![
        ("requests".to_owned(), stats.requests.into()),
        ("index".to_owned(), stats.index.into()),
        ("keys".to_owned(), count(stats.keys)),
        ("sessions".to_owned(), count(stats.sessions)),
        ("waiting".to_owned(), count(stats.waiting)),
    ];
    Ok(Returned::Value(value::to_lua(call.lua, &Value::Map(members))?))
}
