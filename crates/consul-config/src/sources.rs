//! Which options are configured, and by what: the program, or else the environment.

use super::cluster::CLUSTER_OPTIONS;
use super::conflicts::contradiction;
use super::options::{OPTIONS, Setting};
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_api::value::shape::{nearest, unknown, unknown_but};
use std::borrow::Cow;

/// An option that is configured.
pub(super) struct Source<'a> {
    pub option: &'static Setting,
    /// One of the option's names, or its environment variable's.
    pub name: &'a str,
    pub value: Cow<'a, Value>,
    from_program: bool,
}

/// Every option that is configured, in the order of [`OPTIONS`].
pub(super) struct Sources<'a>(Vec<Source<'a>>);

impl<'a> Sources<'a> {
    pub fn new(given: &'a [(String, Value)], env: impl Fn(&str) -> Option<Vec<u8>>) -> Self {
        let find = |option: &Setting| {
            given.iter().find(|(name, value)| option.is_called(name) && *value != Value::Null)
        };
        let is_given =
            |name: &str| OPTIONS.iter().any(|option| option.name == name && find(option).is_some());
        let sources = OPTIONS.iter().filter_map(|option| {
            if let Some((name, value)) = find(option) {
                let value = Cow::Borrowed(value);
                return Some(Source { option, name, value, from_program: true });
            }
            if option.instead.iter().any(|other| is_given(other)) {
                return None;
            }
            let name = option.env?;
            let text = env(name).filter(|text| !text.is_empty())?;
            let value = Cow::Owned(option.takes.from_env(text));
            Some(Source { option, name, value, from_program: false })
        });
        Sources(sources.collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Source<'a>> {
        self.0.iter()
    }

    fn find(&self, option: &str) -> Option<&Source<'a>> {
        self.iter().find(|source| source.option.name == option)
    }

    /// The name by which this option is configured.
    pub fn name(&self, option: &str) -> Option<&'a str> {
        self.find(option).map(|source| source.name)
    }

    /// The name by which the program itself, not the environment, configures this option.
    pub fn program_name(&self, option: &str) -> Option<&'a str> {
        self.find(option).filter(|source| source.from_program).map(|source| source.name)
    }
}

/// Refuses names that no option has, and an option under two of its names.
pub(super) fn check_names(given: &[(String, Value)]) -> Result<(), Error> {
    for (name, _) in given {
        let Some(option) = OPTIONS.iter().find(|option| option.is_called(name)) else {
            return Err(unknown_option(name, &names_of(OPTIONS)));
        };
        only_once(option, name, given)?;
    }
    Ok(())
}

/// The error for a name that none of these options has.
pub(super) fn unknown_option(name: &str, known: &[&'static str]) -> Error {
    let meant = mistaken_for(name).filter(|option| known.contains(option));
    let message = match meant {
        Some(option) => unknown_but("option", name, option),
        None => unknown("option", name, known),
    };
    Error::new(Kind::Config, message).not_sent()
}

/// All names of options.
pub(super) fn names_of<C>(options: &'static [Setting<C>]) -> Vec<&'static str> {
    options.iter().flat_map(Setting::names).collect()
}

/// The option for which this name is often written.
fn mistaken_for(name: &str) -> Option<&'static str> {
    fn find<C>(options: &'static [Setting<C>], name: &str) -> Option<&'static str> {
        options.iter().find(|option| option.mistaken.contains(&name)).map(|option| option.name)
    }
    find(CLUSTER_OPTIONS, name).or_else(|| find(OPTIONS, name))
}

/// The probable meaning of a name in the configuration of a program: one of the program's own names, or the
/// option of a client or of a node; and whether it is exactly that.
pub fn option_like(name: &str, own: &[&str]) -> Option<(String, bool)> {
    /// Other words of a program's configuration are less like an option.
    const NEAR_ENOUGH: f64 = 0.8;
    fn option<C>(options: &'static [Setting<C>], name: &str) -> Option<&'static str> {
        options.iter().find(|option| option.is_called(name)).map(|option| option.name)
    }
    let option = |name: &str| option(CLUSTER_OPTIONS, name).or_else(|| option(OPTIONS, name));
    if own.contains(&name) {
        return Some((name.to_owned(), true));
    }
    if let Some(option) = option(name) {
        return Some((option.to_owned(), true));
    }
    let known = [own, &names_of(CLUSTER_OPTIONS), &names_of(OPTIONS)].concat();
    let meant = mistaken_for(name).or_else(|| nearest(name, &known, NEAR_ENOUGH))?;
    let is_own = own.contains(&meant);
    Some((option(meant).filter(|_| !is_own).unwrap_or(meant).to_owned(), false))
}

/// Refuses an option under two of its names.
pub(super) fn only_once<C>(
    option: &Setting<C>,
    name: &str,
    given: &[(String, Value)],
) -> Result<(), Error> {
    match given.iter().find(|(other, _)| other != name && option.is_called(other)) {
        Some((twin, _)) => {
            contradiction(&format!("{name} and {twin} are the same option; set one of them"))
        }
        None => Ok(()),
    }
}
