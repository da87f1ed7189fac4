//! Export and import.

use super::arguments::{Export, Import};
use super::common::print::{counted, say};
use super::connection::Session;
use super::failure::Failure;
use super::verbs::{Done, existing};
use consul_ffi::migrate::{self, Stop};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};

pub async fn export(session: &Session, asked: &Export) -> Result<Done, Failure> {
    let mut out: Box<dyn Write> = match &asked.file {
        Some(name) => Box::new(BufWriter::new(File::create_new(name).map_err(unusable(name))?)),
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let report = &*session.progress;
    let count = migrate::export(&session.target, &session.mapping, &mut *out, report).await?;
    let text = format!("exported {}", counted(count as usize, "key"));
    if asked.file.is_none() {
        session.progress.end();
        say(&text);
        return Ok(Done { text: String::new(), json: json!(null), is_well: true });
    }
    Ok(Done { text, json: json!({ "verb": "export", "keys": count }), is_well: true })
}

pub async fn import(session: &Session, asked: &Import) -> Result<Done, Failure> {
    if let (Some(key), false) = (existing(session, &session.mapping).await?, asked.merge) {
        let why = format!(
            "nothing was written: Consul has keys already, such as {key:?}; --merge replaces those of the file"
        );
        return Err(Stop::Refused(why).into());
    }
    let mut from: Box<dyn BufRead> = match &asked.file {
        Some(name) => Box::new(BufReader::new(File::open(name).map_err(unusable(name))?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    let report = &*session.progress;
    let count = migrate::import(&session.target, &session.mapping, &mut *from, report).await?;
    let text = format!("imported {}", counted(count as usize, "key"));
    Ok(Done { text, json: json!({ "verb": "import", "keys": count }), is_well: true })
}

fn unusable(name: &str) -> impl FnOnce(io::Error) -> Failure {
    let name = name.to_owned();
    move |error| Failure::Usage(format!("{name:?}: {error}"))
}
