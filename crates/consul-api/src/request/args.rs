//! The arguments of a call, and the client's defaults for them.

use crate::error::Error;
use crate::table::{Endpoint, Param};
use crate::value::Value;
use crate::value::shape::unknown;
use std::borrow::Cow;
use std::fmt;

/// The arguments of a call: positional ones, then options by name.
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) options: Vec<(Cow<'static, str>, Value)>,
}

impl Args {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a positional argument.
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.positional.push(value.into());
        self
    }

    /// Adds an option.
    pub fn opt(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Removes the options with these names, which belong to the caller of the endpoint, such as a watch.
    ///
    /// # Errors
    /// [`Error::misuse`] for an option that is neither the caller's nor the endpoint's.
    pub fn take(
        &mut self,
        own: &[&'static str],
        endpoint: &Endpoint,
    ) -> Result<Vec<(&'static str, Value)>, Error> {
        let mut taken = Vec::new();
        for (name, value) in std::mem::take(&mut self.options) {
            if let Some(own) = own.iter().find(|own| **own == name) {
                taken.push((*own, value));
            } else if endpoint.all_options().any(|param| param.name == name) {
                self.options.push((name, value));
            } else {
                let theirs = endpoint.all_options().map(|param| param.name);
                let known: Vec<_> = own.iter().copied().chain(theirs).collect();
                return Err(Error::misuse(unknown("option", &name, &known)));
            }
        }
        Ok(taken)
    }

    /// The same without the options with these names.
    pub fn without(mut self, names: &[&str]) -> Self {
        self.options.retain(|(name, _)| !names.contains(&&**name));
        self
    }

    /// Whether the option is true.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.options.iter().any(|(given, value)| given == name && *value == Value::Bool(true))
    }

    /// Whether the option is given and not null.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, value)| given == name && *value != Value::Null)
    }
}

/// Options that a client adds to requests that do not set them.
#[derive(Clone, Default)]
pub struct Defaults {
    /// The value of the option `dc`.
    pub dc: Option<String>,
    /// The value of the option `namespace`.
    pub namespace: Option<String>,
    /// The value of the option `partition`.
    pub partition: Option<String>,
    /// The value of the option `token`.
    pub token: Option<String>,
    /// `stale` or `consistent`, for reads with this option.
    pub consistency: Option<&'static str>,
    /// The value of the option `stale_if_error`.
    pub stale_if_error: bool,
    /// Whether one leading slash is removed from keys instead of refused.
    pub strip_leading_slash: bool,
}

impl Defaults {
    pub(super) fn of(&self, param: &Param, args: &Args) -> Option<Value> {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        match param.name {
            "dc" => text(&self.dc),
            "namespace" => text(&self.namespace),
            "partition" => text(&self.partition),
            "token" => text(&self.token),
            "stale_if_error" => self.stale_if_error.then_some(Value::Bool(true)),
            name if Some(name) == self.consistency => {
                let is_set =
                    ["stale", "consistent", "cached"].iter().any(|name| args.is_true(name));
                (!is_set).then_some(Value::Bool(true))
            }
            _ => None,
        }
    }
}

/// Without the token.
impl fmt::Debug for Defaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Defaults")
            .field("dc", &self.dc)
            .field("namespace", &self.namespace)
            .field("partition", &self.partition)
            .field("token", &self.token.as_ref().map(|_| "<hidden>"))
            .field("consistency", &self.consistency)
            .field("stale_if_error", &self.stale_if_error)
            .field("strip_leading_slash", &self.strip_leading_slash)
            .finish()
    }
}
