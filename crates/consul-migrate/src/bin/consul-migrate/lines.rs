//! Export and import.

use super::arguments::{Export, Format, Import};
use super::connection::Session;
use super::failure::Failure;
use super::signals::{Input, Output, has_come};
use super::verbs::{Done, existing};
use consul_cli::print::{self, say};
use consul_migrate::{self as migrate, Form, Stop};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, Write};
use std::path::Path;

pub async fn export(session: &Session, asked: &Export) -> Result<Done, Failure> {
    let (target, mapping, report) = (&session.target, &session.mapping, &*session.progress);
    let form = form(asked.format);
    let done = |text: String, keys| {
        let json = json!({ "verb": "export", "keys": keys });
        Done { text, json, is_well: true }
    };
    let Some(name) = named(asked.file.as_ref()) else {
        if print::is_closed() {
            let why = "the export cannot be written: standard output is closed";
            return Err(Stop::Refused(why.to_owned()).into());
        }
        let output = Output::stdout().map_err(|error| Failure::Usage(error.to_string()))?;
        let mut out = BufWriter::with_capacity(AT_ONCE, output);
        let keys = interrupted(migrate::export(target, mapping, form, &mut out, report).await)?;
        session.progress.end();
        say(&format!("exported {keys}"));
        return Ok(done(String::new(), keys));
    };
    let mut file = Unfinished::create(name).map_err(unusable(name))?;
    let keys = migrate::export(target, mapping, form, &mut file.out, report).await?;
    file.finish().map_err(|error| Stop::Refused(format!("{name:?}: {error}")))?;
    Ok(done(format!("exported {keys}"), keys))
}

fn form(format: Format) -> Form {
    match format {
        Format::Lines => Form::Lines,
        Format::ConsulKv => Form::ConsulKv,
    }
}

/// The name of a file; a dash is standard output or input.
fn named(file: Option<&String>) -> Option<&String> {
    file.filter(|name| *name != "-")
}

/// A file that has another name until it is whole; if it is dropped before, it is removed.
struct Unfinished<'a> {
    name: &'a str,
    part: String,
    out: BufWriter<File>,
}

impl<'a> Unfinished<'a> {
    fn create(name: &'a str) -> io::Result<Self> {
        if fs::exists(name)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let part = format!("{name}.part");
        let out = File::create_new(&part).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let why = "exists: another export writes it, or one was killed: then remove it";
                io::Error::other(format!("{part:?} {why}"))
            }
            _ => error,
        })?;
        Ok(Unfinished { name, part, out: BufWriter::new(out) })
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.part, self.name)?;
        // Its new name, too, is on the disk when the run says that it is done, as far as the folder can be read.
        let folder = Path::new(self.name).parent().filter(|it| !it.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            folder.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

pub async fn import(session: &Session, asked: &Import) -> Result<Done, Failure> {
    if let (Some(key), false) = (existing(session, &session.mapping).await?, asked.merge) {
        let why = format!(
            "nothing was written: Consul has keys already, such as {key:?}; --merge replaces those of the file"
        );
        return Err(Stop::Refused(why).into());
    }
    let form = form(asked.format);
    let named = named(asked.file.as_ref());
    let is_file = |name: &&String| !fs::metadata(name).is_ok_and(|found| !found.is_file());
    let mut from: Box<dyn BufRead> = match named.filter(is_file) {
        Some(name) => {
            let mut file = File::open(name).map_err(|error| {
                let of_consul = name.strip_prefix('@').filter(|other| Path::new(other).exists());
                let hint = of_consul.map_or(String::new(), |name| {
                    format!("; the file of an import is named without @: {name:?}")
                });
                Failure::of_file(format!("{name:?}: {error}{hint}"), &error)
            })?;
            // It can be read twice: all lines are looked at before anything is set.
            if form == Form::Lines {
                let mut lines = BufReader::new(&file);
                migrate::check(&session.mapping, &mut lines, asked.partial).map_err(|stop| {
                    match stop {
                        Stop::Refused(why) => {
                            Stop::Refused(format!("nothing was written: {name:?}: {why}"))
                        }
                        other => other,
                    }
                })?;
                file.rewind().map_err(unusable(name))?;
            }
            Box::new(BufReader::new(file))
        }
        None => {
            let input = Input::of(named.cloned()).map_err(|error| match (has_come(), named) {
                (true, _) => Failure::Interrupted,
                (false, Some(name)) => unusable(name)(error),
                (false, None) => Failure::Usage(format!("standard input: {error}")),
            });
            Box::new(BufReader::with_capacity(AT_ONCE, input?))
        }
    };
    let report = &*session.progress;
    let (target, mapping) = (&session.target, &session.mapping);
    let keys = migrate::import(target, mapping, form, &mut *from, asked.partial, report).await;
    let keys = interrupted(keys)?;
    let text = format!("imported {keys}");
    Ok(Done { text, json: json!({ "verb": "import", "keys": keys }), is_well: true })
}

/// The bytes that are read or written at once.
const AT_ONCE: usize = 65_536;

/// The result, unless a signal has ended what it waited for.
fn interrupted<R>(done: Result<R, Stop>) -> Result<R, Failure> {
    done.map_err(|stop| if has_come() { Failure::Interrupted } else { stop.into() })
}

fn unusable(name: &str) -> impl FnOnce(io::Error) -> Failure {
    let name = name.to_owned();
    move |error| Failure::of_file(format!("{name:?}: {error}"), &error)
}
