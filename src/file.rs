//! `read_file` and `log_file`: files whose paths a configuration names.

use super::runtime::native::{self, Call, Class, Method, Returned};
use super::runtime::value;
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_process::log_file::{Limits, LogFile as Log};
use consul_process::os;
use mlua::{IntoLua, Lua, MultiValue, Table, Value as LuaValue};
use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

/// The largest file that `read_file` reads, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The userdata of a log file; `None` once it is closed.
pub struct LogFile(RefCell<Option<Log>>);

const METHODS: &[Method<LogFile>] = &[
    Method::raising("__tostring", |call| {
        let state = if call.object.0.borrow().is_some() { "open" } else { "closed" };
        native::text(call.lua, &format!("LogFile({state})"))
    }),
    Method::new("write", write),
    Method::new("close", |call| {
        call.object.0.take();
        Ok(Returned::done())
    }),
];

fn write(call: &Call<LogFile>) -> native::Result {
    let Value::Bytes(line) = call.arg(1)? else {
        return Err(Error::misuse("line must be a string").into());
    };
    let mut log = call.object.0.borrow_mut();
    let written = match log.as_mut() {
        Some(log) => log.line(&String::from_utf8_lossy(&line)).map_err(|error| error.to_string()),
        None => Err("the log file is closed".to_owned()),
    };
    match written {
        Ok(()) => Ok(Returned::done()),
        Err(why) => failed(call.lua, &why),
    }
}

/// A failure as Lua's own library returns it: nil and a message.
fn failed(lua: &Lua, why: &dyn Display) -> native::Result {
    Ok(Returned::Pair(LuaValue::Nil, why.to_string().into_lua(lua)?))
}

fn path(lua: &Lua, args: &MultiValue, function: &str) -> Result<PathBuf, native::Failure> {
    match value::argument(lua, args, 0)? {
        Value::Bytes(path) => Ok(OsString::from_vec(path).into()),
        other => {
            let why = format!("{function}: path must be a string, got {}", other.type_name());
            Err(Error::misuse(why).into())
        }
    }
}

fn read(lua: &Lua, args: &MultiValue) -> native::Result {
    let path = path(lua, args, "read_file")?;
    match os::read_file(&path, MAX_BYTES) {
        Ok(text) => Ok(Returned::Value(LuaValue::String(lua.create_string(&text)?))),
        Err(error) => failed(lua, &format!("{}: {error}", path.display())),
    }
}

/// `log_file(path, limits)`
fn open(lua: &Lua, args: &MultiValue) -> native::Result {
    let path = path(lua, args, "log_file")?;
    let limits = value::argument(lua, args, 1).and_then(|given| limits(&given));
    match Log::open(&path, limits.map_err(|error| error.context("log_file"))?) {
        Ok(log) => {
            let file = native::object(lua, LogFile(RefCell::new(Some(log))))?;
            Ok(Returned::Value(LuaValue::UserData(file)))
        }
        Err(why) => failed(lua, &why),
    }
}

fn limits(given: &Value) -> Result<Limits, Error> {
    const NAMES: &[&str] = &["max_bytes", "max_backups", "max_age_s"];
    let mut limits = Limits { max_bytes: u64::MAX, max_backups: 0, max_age: Duration::MAX };
    if *given == Value::Null {
        return Ok(limits);
    }
    for (name, value) in Shape::Any.members(given, &ValuePath::top("limits"))? {
        let number = match value {
            Value::Int(number) => *number as f64,
            Value::Float(number) => *number,
            _ => return Err(ValuePath::top(name).wrong_type_text("a number", value)),
        };
        if number.is_nan() || number < 0.0 {
            return Err(ValuePath::top(name).bad_value(value, "it must not be below 0"));
        }
        // Larger numbers become the largest one.
        match name.as_str() {
            "max_bytes" => limits.max_bytes = number as u64,
            "max_backups" => limits.max_backups = number as u32,
            "max_age_s" => {
                limits.max_age = Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX);
            }
            _ => return Err(Error::misuse(unknown("limit", name, NAMES))),
        }
    }
    Ok(limits)
}

impl Class for LogFile {
    const NAME: &'static str = "LogFile";

    fn register(lua: &Lua) -> mlua::Result<Table> {
        let class = native::class(lua, METHODS)?;
        class.set("open", native::raising(lua, "log_file", |lua, args| open(lua, &args))?)?;
        class.set("read", native::raising(lua, "read_file", |lua, args| read(lua, &args))?)?;
        Ok(class)
    }
}
