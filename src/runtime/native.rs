//! Native functions: how they are called and what they return. They raise nothing themselves, because
//! an error that leaves mlua is a userdata, which interpreters do not print; `module.lua` wraps each
//! of them and raises its errors as strings.

use super::log;
use super::value::{self, Outcome};
use consul_api::error::{Error, Kind, caught};
use consul_api::table::Shape;
use consul_api::value as wire;
use consul_api::value::shape::{self, ValuePath};
use mlua::{
    AnyUserData, Function, IntoLua, Lua, MultiValue, Table, UserData, UserDataFields, UserDataRef,
    Value,
};
use std::ops::Deref;

/// The result of a native function. `module.lua` gets it as a kind and two values.
#[derive(Debug)]
pub enum Returned {
    /// One value, which may be nil.
    Value(Value),
    /// Two values, which may be nil.
    Pair(Value, Value),
    /// The outcome of a call.
    Outcome(Outcome),
    /// True, then the outcome of a call that ran in the background.
    Finished(Outcome),
    /// The message of an error that is raised at the line of the caller.
    Misuse(Value),
    /// The message of an error of Lua's own, which is raised as it is; nil if there is no memory.
    LuaError(Value),
}

impl Returned {
    /// The result of a function without a value: true.
    pub fn done() -> Self {
        Self::Value(Value::Boolean(true))
    }

    /// The outcome of a successful call without metadata.
    pub fn success(response: Value) -> Self {
        Self::Outcome(Outcome::Success(response, Value::Nil))
    }

    fn into_values(self) -> Values {
        match self {
            Self::Outcome(Outcome::Success(response, meta)) => (SUCCESS, response, meta),
            Self::Outcome(Outcome::Failure(message, error)) => (FAILURE, message, error),
            Self::Finished(Outcome::Success(response, meta)) => (FINISHED_SUCCESS, response, meta),
            Self::Finished(Outcome::Failure(message, error)) => (FINISHED_FAILURE, message, error),
            Self::Value(value) => (VALUE, value, Value::Nil),
            Self::Pair(first, second) => (PAIR, first, second),
            Self::Misuse(message) => (MISUSE, message, Value::Nil),
            Self::LuaError(message) => (LUA_ERROR, message, Value::Nil),
        }
    }
}

/// The kind of the result, and its values.
type Values = (i32, Value, Value);

const SUCCESS: i32 = 1;
const FAILURE: i32 = 2;
const FINISHED_SUCCESS: i32 = 3;
const FINISHED_FAILURE: i32 = 4;
const VALUE: i32 = 5;
const PAIR: i32 = 6;
const MISUSE: i32 = 7;
const LUA_ERROR: i32 = 8;

/// The kinds by name, for `module.lua`. It raises anything of another kind.
pub fn kinds(lua: &Lua) -> mlua::Result<Table> {
    lua.create_table_from([
        ("success", SUCCESS),
        ("failure", FAILURE),
        ("finished_success", FINISHED_SUCCESS),
        ("finished_failure", FINISHED_FAILURE),
        ("value", VALUE),
        ("pair", PAIR),
        ("misuse", MISUSE),
    ])
}

/// `nearest(name, known)`: the known names that a name may mean, the nearest first.
pub fn nearest(lua: &Lua) -> mlua::Result<Function> {
    raising(lua, "nearest", |lua, args| {
        let texts = |place: usize, name| {
            Shape::TextList.texts(&value::argument(lua, &args, place)?, &ValuePath::top(name))
        };
        let (name, known) = (texts(0, "name")?, texts(1, "known")?);
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        let near = name.first().map(|name| nearest_names(name, &known)).unwrap_or_default();
        Ok(Returned::Value(Value::Table(lua.create_sequence_from(near)?)))
    })
}

/// The names that a mistaken one may mean: one of the same words in another order, then those that are like it; without
/// such ones those that it is a part of.
fn nearest_names<'k>(name: &str, known: &[&'k str]) -> Vec<&'k str> {
    const MOST: usize = 3;
    const NEAR_ENOUGH: f64 = 0.6;
    const SHORTEST_PART: usize = 3;
    let words = |name: &str| {
        let mut words: Vec<_> = name.split('_').map(str::to_lowercase).collect();
        words.sort_unstable();
        words
    };
    let given = words(name);
    let mut found: Vec<_> =
        known.iter().copied().filter(|known| words(known) == given).take(MOST).collect();
    let mut rest: Vec<_> = known.iter().copied().filter(|known| !found.contains(known)).collect();
    while let Some(near) = shape::nearest(name, &rest, NEAR_ENOUGH).filter(|_| found.len() < MOST) {
        found.push(near);
        rest.retain(|known| *known != near);
    }
    if found.is_empty() && name.len() >= SHORTEST_PART {
        let name = name.to_lowercase();
        found.extend(known.iter().copied().filter(|known| known.contains(&name)).take(MOST));
    }
    found
}

/// Returns a text.
pub fn text(lua: &Lua, text: &str) -> Result {
    Ok(Returned::Value(text.into_lua(lua)?))
}

/// Why a native function failed.
pub enum Failure {
    /// Misuse, which is raised at the line of the caller, or the failure of a call, which is returned.
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
            // The text of the engines.
            mlua::Error::MemoryError(_) => "not enough memory".to_owned(),
            mlua::Error::RuntimeError(text) => match text.rsplit_once("\nstack traceback:") {
                Some((message, _)) => message.to_owned(),
                None => text.clone(),
            },
            _ => error.to_string(),
        })
    }
}

/// The registry's name for Lua's `pcall`.
const PCALL: &str = "consul_ffi.pcall";

/// Prepares a Lua state.
pub fn register(lua: &Lua) -> mlua::Result<()> {
    lua.set_named_registry_value(PCALL, lua.globals().get::<Function>("pcall")?)
}

/// Lua's `pcall`, for functions of the program: called from here, they cannot yield.
pub fn pcall(lua: &Lua) -> mlua::Result<Function> {
    lua.named_registry_value(PCALL)
}

/// An error that a program has raised, as text; of an object without a text of its own the type, since its address is
/// nobody else's business.
pub fn text_of(raised: &Value) -> String {
    let is_address = |text: &str| {
        let address =
            text.split_once(": 0x").filter(|(name, _)| !name.contains(char::is_whitespace));
        address.is_some_and(|(_, digits)| digits.chars().all(|c| c.is_ascii_hexdigit()))
    };
    match raised.to_string() {
        Ok(text) if matches!(raised, Value::String(_)) || !is_address(&text) => text,
        _ => format!("an error object of type {}", raised.type_name()),
    }
}

/// The result of a native function's body.
pub type Result = std::result::Result<Returned, Failure>;

/// How the errors of a function, other than misuse, reach the program.
#[derive(Clone, Copy, Debug)]
enum Errors {
    /// As `false, message, error`.
    Returned,
    /// Raised, because false and nil are values that the function returns.
    Raised,
}

/// A function that returns `false, message, error` if it fails.
pub fn function(
    lua: &Lua,
    name: &'static str,
    body: impl Fn(&Lua, MultiValue) -> Result + 'static,
) -> mlua::Result<Function> {
    create(lua, name, Errors::Returned, body)
}

/// A function that raises all of its errors.
pub fn raising(
    lua: &Lua,
    name: &'static str,
    body: impl Fn(&Lua, MultiValue) -> Result + 'static,
) -> mlua::Result<Function> {
    create(lua, name, Errors::Raised, body)
}

fn create(
    lua: &Lua,
    name: &'static str,
    errors: Errors,
    body: impl Fn(&Lua, MultiValue) -> Result + 'static,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, args| {
        log::adopt(lua);
        let returned = match caught(|| body(lua, args)) {
            Ok(Ok(returned)) => returned,
            Ok(Err(failure)) => failed(lua, errors, failure),
            Err(panic) => lua_error(
                lua,
                &format!("{name}: a defect of consul_ffi, please report it: {panic}"),
            ),
        };
        log::deliver(lua);
        Ok(returned.into_values())
    })
}

fn failed(lua: &Lua, errors: Errors, failure: Failure) -> Returned {
    let returned = match (&failure, errors) {
        (Failure::Lua(message), _) => return lua_error(lua, message),
        (Failure::Error(error), Errors::Returned) if !error.is_misuse() => {
            value::failure(lua, error).map(Returned::Outcome)
        }
        (Failure::Error(error), _) => error.message().into_lua(lua).map(Returned::Misuse),
    };
    returned.unwrap_or(Returned::LuaError(Value::Nil))
}

fn lua_error(lua: &Lua, message: &str) -> Returned {
    Returned::LuaError(message.into_lua(lua).unwrap_or(Value::Nil))
}

/// A method of the class whose objects are the userdata `T`.
pub struct Method<T: 'static> {
    name: &'static str,
    errors: Errors,
    body: fn(&Call<T>) -> Result,
}

impl<T: 'static> Method<T> {
    /// A method that returns `false, message, error` if it fails.
    pub const fn new(name: &'static str, body: fn(&Call<T>) -> Result) -> Self {
        Method { name, errors: Errors::Returned, body }
    }

    /// A method that raises all of its errors.
    pub const fn raising(name: &'static str, body: fn(&Call<T>) -> Result) -> Self {
        Method { name, errors: Errors::Raised, body }
    }
}

/// A call of a method.
pub struct Call<'a, T: 'static> {
    /// The state that makes the call.
    pub lua: &'a Lua,
    /// The object.
    pub object: Borrowed<T>,
    /// The object as Lua has it.
    pub userdata: &'a AnyUserData,
    /// The object, then the arguments.
    values: &'a MultiValue,
}

impl<T> Call<'_, T> {
    /// The arguments as Lua has them.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.values.iter().skip(1)
    }

    /// An argument as Lua has it, nil if it was omitted; the first is 1.
    pub fn lua_arg(&self, place: usize) -> &Value {
        self.values.get(place).unwrap_or(&Value::Nil)
    }

    /// An argument, null if it was omitted; the first is 1.
    ///
    /// # Errors
    /// As [`value::from_lua`].
    pub fn arg(&self, place: usize) -> std::result::Result<wire::Value, Error> {
        value::from_lua(self.lua, self.lua_arg(place))
    }

    /// An argument that is a table of options, null if it was omitted.
    ///
    /// # Errors
    /// As [`value::options`].
    pub fn options(&self, place: usize) -> std::result::Result<wire::Value, Error> {
        value::options(self.lua, self.lua_arg(place))
    }

    /// The options of such a table by name, none if it was omitted.
    ///
    /// # Errors
    /// As [`value::options`], and `argument` if it is a list.
    pub fn named_options(
        &self,
        place: usize,
    ) -> std::result::Result<Vec<(String, wire::Value)>, Error> {
        match self.options(place)? {
            wire::Value::Null => Ok(Vec::new()),
            wire::Value::Map(options) => Ok(options),
            other => Err(ValuePath::top("options").wrong_type_text("a table", &other)),
        }
    }
}

/// A class, whose objects are the userdata [`Object`].
pub trait Class: Sized + 'static {
    /// The name of the class in programs.
    const NAME: &'static str;

    /// The native part of the class for `module.lua`: [`class`], and what else it needs.
    fn register(lua: &Lua) -> mlua::Result<Table>;
}

/// A class as the module has it.
pub struct Registration {
    /// The name of the native part in `module.lua`.
    pub part: &'static str,
    /// [`Class::register`].
    pub register: fn(&Lua) -> mlua::Result<Table>,
    /// Creates the metatable, for which `module.lua` must have set the metamethods. mlua would create it
    /// with the first object, and a Lua without memory would end the process there.
    pub create_metatable: fn(&Lua) -> mlua::Result<()>,
}

impl Registration {
    /// Registers a class under the name of its native part.
    pub const fn of<T: Class>(part: &'static str) -> Self {
        Registration { part, register: T::register, create_metatable: create_metatable::<T> }
    }
}

fn create_metatable<T: Class>(lua: &Lua) -> mlua::Result<()> {
    lua.create_userdata(Object::<T>(None)).map(drop)
}

/// The userdata of an object; None in those that exist only to create a metatable.
pub struct Object<T>(Option<T>);

/// The metamethods that a class can have; see `class_of` in `module.lua`.
const METAMETHODS: &[&str] = &["__index", "__tostring", "__len", "__close", "__pairs"];

/// The registry's name for the table of a class's metamethods.
fn metamethods_of<T: Class>() -> String {
    format!("consul_ffi.metamethods.{}", T::NAME)
}

impl<T: Class> UserData for Object<T> {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field("__name", T::NAME);
        for name in METAMETHODS {
            fields.add_meta_field_with(*name, move |lua| {
                let metamethods: Table = lua.named_registry_value(&metamethods_of::<T>())?;
                metamethods.raw_get::<Value>(*name)
            });
        }
    }
}

/// Creates an object.
pub fn object<T: Class>(lua: &Lua, object: T) -> mlua::Result<AnyUserData> {
    lua.create_userdata(Object(Some(object)))
}

/// An object that is in use.
pub struct Borrowed<T: 'static>(UserDataRef<Object<T>>);

impl<T> Borrowed<T> {
    /// None if the userdata is not an object of the class.
    pub fn of(userdata: &AnyUserData) -> Option<Self> {
        userdata.borrow::<Object<T>>().ok().filter(|object| object.0.is_some()).map(Borrowed)
    }
}

impl<T> Deref for Borrowed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.0.as_ref().expect("it was looked at when the object was borrowed")
    }
}

/// The functions of methods, or of fields, by name.
pub fn functions<T: Class>(
    lua: &Lua,
    methods: impl IntoIterator<Item = &'static Method<T>>,
) -> mlua::Result<Table> {
    let by_name = lua.create_table()?;
    for method in methods {
        let Method { name, errors, body } = *method;
        let call = move |lua: &Lua, values: MultiValue| invoke(lua, name, body, &values);
        by_name.set(name, create(lua, name, errors, Box::new(call))?)?;
    }
    Ok(by_name)
}

/// The native part of a class for `module.lua`: its name, its methods by name, `is_object`, and `set_metamethods`,
/// which takes the table of its metamethods.
pub fn class<T: Class>(
    lua: &Lua,
    methods: impl IntoIterator<Item = &'static Method<T>>,
) -> mlua::Result<Table> {
    let by_name = functions(lua, methods)?;
    let class = lua.create_table()?;
    class.set("methods", by_name)?;
    class.set("name", T::NAME)?;
    let is_object = |_: &Lua, value: Value| {
        Ok(value.as_userdata().is_some_and(|userdata| Borrowed::<T>::of(userdata).is_some()))
    };
    class.set("is_object", lua.create_function(is_object)?)?;
    let set_metamethods = |lua: &Lua, metamethods: Table| {
        lua.set_named_registry_value(&metamethods_of::<T>(), metamethods)
    };
    class.set("set_metamethods", lua.create_function(set_metamethods)?)?;
    Ok(class)
}

fn invoke<T>(lua: &Lua, name: &str, body: fn(&Call<T>) -> Result, values: &MultiValue) -> Result {
    let (userdata, object) = called_on::<T>(values, name)?;
    body(&Call { lua, object, userdata, values }).map_err(|failure| match failure {
        Failure::Error(error) if error.is_misuse() || error.kind() == Kind::Argument => {
            Failure::Error(error.context(name))
        }
        failure => failure,
    })
}

/// The object of class `T` that a method is called on.
///
/// # Errors
/// [`Error::misuse`] for any other value.
pub fn called_on<'a, T: 'static>(
    values: &'a MultiValue,
    method: &str,
) -> std::result::Result<(&'a AnyUserData, Borrowed<T>), Error> {
    let userdata = values.front().and_then(Value::as_userdata);
    userdata.and_then(|userdata| Some((userdata, Borrowed::of(userdata)?))).ok_or_else(|| {
        Error::misuse(format!("{method}: call it with a colon, as in object:{method}(…)"))
    })
}
