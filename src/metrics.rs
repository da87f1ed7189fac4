//! `metrics`: the numbers of the process as text.

use super::runtime::native::{self, Returned};
use super::runtime::value;
use consul_api::error::Error;
use consul_api::table::Shape;
use consul_api::value::Value;
use consul_api::value::shape::{ValuePath, unknown};
use consul_process::metrics::{self, Format};
use mlua::{Function, IntoLua, Lua};

const FORMATS: &[(&str, Format)] =
    &[("prometheus", Format::Prometheus), ("openmetrics", Format::OpenMetrics)];

/// The native function.
pub fn register(lua: &Lua) -> mlua::Result<Function> {
    native::raising(lua, "metrics", |lua, args| {
        let given = value::argument(lua, &args, 0)?;
        let format = format(&given).map_err(|error| error.context("metrics"))?;
        Ok(Returned::Pair(
            metrics::text(format).into_lua(lua)?,
            format.content_type().into_lua(lua)?,
        ))
    })
}

fn format(given: &Value) -> Result<Format, Error> {
    let mut format = Format::Prometheus;
    if *given == Value::Null {
        return Ok(format);
    }
    for (name, value) in Shape::Any.members(given, &ValuePath::top("options"))? {
        if name != "format" {
            return Err(Error::misuse(unknown("option", name, &["format"])));
        }
        let found = FORMATS.iter().find(|(name, _)| value.as_str() == Some(name));
        let why = "it must be prometheus or openmetrics";
        format = found.ok_or_else(|| ValuePath::top("format").bad_value(value, why))?.1;
    }
    Ok(format)
}
