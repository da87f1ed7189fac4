//! Native functions as `module.lua` calls them. They raise nothing themselves, because an error
//! that leaves mlua is a userdata: they give nil, a message and the level to raise it at.

use super::value;
use crate::error::{Error, caught};
use crate::wire::value as wire;
use mlua::{AnyUserData, Function, IntoLua, Lua, MultiValue, Table, Value};

/// The level at which Lua's `error` adds no position.
const AS_IT_IS: i32 = 0;

/// Why a native function gives no values of its own.
pub enum Failure {
    /// Misuse, which is raised at the caller's line, or a call's failure, which is returned.
    Error(Error),
    /// An error of Lua's own, which is raised as it is.
    Lua(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<mlua::Error> for Failure {
    fn from(error: mlua::Error) -> Failure {
        Failure::Lua(match &error {
            mlua::Error::CallbackError { cause, .. } => return cause.as_ref().clone().into(),
            // As the engines word it.
            mlua::Error::MemoryError(_) => "not enough memory".to_owned(),
            mlua::Error::RuntimeError(text) => match text.rsplit_once("\nstack traceback:") {
                Some((message, _)) => message.to_owned(),
                None => text.clone(),
            },
            _ => error.to_string(),
        })
    }
}

/// What a native function gives: its results, or nil, a message and perhaps a level.
pub type Results = (Value, Value, Value);

/// A native function. A panic in it is a defect of this library, and an error in Lua.
pub fn function(
    lua: &Lua,
    name: &'static str,
    body: impl Fn(&Lua, MultiValue) -> Result<Results, Failure> + 'static,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, args| {
        let failure = match caught(|| body(lua, args)) {
            Ok(Ok(results)) => return Ok(results),
            Ok(Err(failure)) => failure,
            Err(panic) => {
                Failure::Lua(format!("{name}: a defect of consul_ffi, please report it: {panic}"))
            }
        };
        // An engine without memory has none for a message either; `module.lua` has that one.
        Ok(results(lua, failure).unwrap_or((Value::Nil, Value::Nil, Value::Nil)))
    })
}

/// The native part of a class for `module.lua`: its methods by name, and `set_index`, which keeps in
/// the registry, under `index`, where members are looked up.
pub fn class<F>(
    lua: &Lua,
    index: &'static str,
    methods: impl IntoIterator<Item = (&'static str, F)>,
) -> mlua::Result<Table>
where
    F: Fn(&Lua, MultiValue) -> Result<Results, Failure> + 'static,
{
    let by_name = lua.create_table()?;
    for (name, method) in methods {
        by_name.set(name, function(lua, name, method)?)?;
    }
    let native = lua.create_table()?;
    native.set("methods", by_name)?;
    let set_index = move |lua: &Lua, members: Value| lua.set_named_registry_value(index, members);
    native.set("set_index", lua.create_function(set_index)?)?;
    Ok(native)
}

/// A method of an object: it is given the object and its argument.
pub type Method = fn(&Lua, &AnyUserData, &wire::Value) -> Result<Results, Failure>;

/// As [`class`], for the methods of the userdata `T`.
pub fn class_of<T: 'static>(
    lua: &Lua,
    index: &'static str,
    methods: &'static [(&'static str, Method)],
) -> mlua::Result<Table> {
    let methods = methods.iter().map(|(name, method)| {
        let call = move |lua: &Lua, args: MultiValue| {
            let (this, given) = called_on::<T>(lua, name, &args)?;
            method(lua, this, given.first().unwrap_or(&wire::Value::Null))
        };
        (*name, call)
    });
    class(lua, index, methods)
}

/// The object of class `T` that a method is called on, and the arguments.
pub fn called_on<'a, T: 'static>(
    lua: &Lua,
    method: &str,
    args: &'a MultiValue,
) -> Result<(&'a AnyUserData, Vec<wire::Value>), Error> {
    let this = args.front().and_then(Value::as_userdata).filter(|this| this.is::<T>());
    let this = this.ok_or_else(|| Error::misuse("call it with a colon"));
    let given: Result<_, Error> =
        args.iter().skip(1).map(|arg| value::from_lua(lua, arg)).collect();
    this.and_then(|this| Ok((this, given?))).map_err(|error| error.context(method))
}

fn results(lua: &Lua, failure: Failure) -> mlua::Result<Results> {
    match failure {
        Failure::Error(error) if error.is_misuse() => {
            Ok((Value::Nil, error.message().into_lua(lua)?, Value::Nil))
        }
        Failure::Error(error) => value::outcome(lua, Err(error)),
        Failure::Lua(message) => Ok((Value::Nil, message.into_lua(lua)?, AS_IT_IS.into_lua(lua)?)),
    }
}
