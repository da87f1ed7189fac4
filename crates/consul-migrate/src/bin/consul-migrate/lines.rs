//! Export and import.

use super::arguments::{Export, Import};
use super::connection::Session;
use super::failure::Failure;
use super::verbs::{Done, existing};
use consul_cli::print::{counted, say};
use consul_migrate::{self as migrate, CUT, Stop};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};

pub async fn export(session: &Session, asked: &Export) -> Result<Done, Failure> {
    let (target, mapping, report) = (&session.target, &session.mapping, &*session.progress);
    let Some(name) = &asked.file else {
        let mut out = BufWriter::new(io::stdout());
        let count = migrate::export(target, mapping, &mut out, report).await?;
        session.progress.end();
        say(&exported(count));
        return Ok(Done { text: String::new(), json: json!(null), is_well: true });
    };
    let unusable = || unusable(name);
    let mut file = Unfinished::create(name).map_err(unusable())?;
    let count = migrate::export(target, mapping, &mut file.out, report).await?;
    file.finish().map_err(unusable())?;
    let text = exported(count);
    Ok(Done { text, json: json!({ "verb": "export", "keys": count }), is_well: true })
}

fn exported(count: u64) -> String {
    format!("exported {}", counted(count as usize, "key"))
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
        fs::rename(&self.part, self.name)
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
    let mut from: Box<dyn BufRead> = match &asked.file {
        Some(name) => {
            let mut file = File::open(name).map_err(unusable(name))?;
            let is_file = file.metadata().map_err(unusable(name))?.is_file();
            let is_cut = is_file && !migrate::is_whole(&mut file).map_err(unusable(name))?;
            if is_cut && !asked.partial {
                return Err(Stop::Refused(format!("nothing was written: {name:?}: {CUT}")).into());
            }
            Box::new(BufReader::new(file))
        }
        None => Box::new(BufReader::new(io::stdin())),
    };
    let report = &*session.progress;
    let (target, mapping) = (&session.target, &session.mapping);
    let count = migrate::import(target, mapping, &mut *from, asked.partial, report).await?;
    let text = format!("imported {}", counted(count as usize, "key"));
    Ok(Done { text, json: json!({ "verb": "import", "keys": count }), is_well: true })
}

fn unusable(name: &str) -> impl FnOnce(io::Error) -> Failure {
    let name = name.to_owned();
    move |error| Failure::Usage(format!("{name:?}: {error}"))
}
