//! The file with what a run has done.

use super::failure::Failure;
use consul_migrate::Stop;
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// The file of `--report`, if there is one.
#[derive(Clone)]
pub struct ReportFile(Option<Arc<(String, File)>>);

impl ReportFile {
    pub fn none() -> Self {
        ReportFile(None)
    }

    /// Opens it before anything is done. The old content stays until the end.
    pub fn open(name: Option<&str>) -> Result<Self, Failure> {
        let Some(name) = name else { return Ok(ReportFile::none()) };
        if name == "-" {
            let why = "--report - is not a file: --json prints it on standard output";
            return Err(Failure::Usage(why.to_owned()));
        }
        let file = File::options().write(true).create(true).truncate(false).open(name);
        let file = file.map_err(|error| Failure::of_file(unwritten(name, &error), &error))?;
        Ok(ReportFile(Some(Arc::new((name.to_owned(), file)))))
    }

    /// Writes it, unless the file has a report that this one must not replace; an error says what has failed.
    pub fn write(&self, done: &Value) -> Result<(), Unwritten> {
        let Some((name, file)) = self.0.as_deref() else { return Ok(()) };
        let failed = |error: io::Error| Unwritten::Failed(unwritten(name, &error));
        let before = present(name, file).map_err(failed)?;
        if let Some(kept) = kept(&before, done) {
            let why = format!("--report {name:?} has the report of {kept}, and keeps it");
            return Err(Unwritten::Kept(why));
        }
        replaced(file, &before, done).map_err(failed)
    }

    /// Writes what is about to be done, so that it is there if this process is killed; returns why the file keeps what it has. A
    /// pipe gets the report of the end alone.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self, doing: &Value) -> Result<Option<String>, Stop> {
        let Some((_, file)) = self.0.as_deref() else { return Ok(None) };
        if !file.metadata().is_ok_and(|it| it.is_file()) {
            return Ok(None);
        }
        match self.write(doing) {
            Ok(()) => Ok(None),
            Err(Unwritten::Kept(why)) => Ok(Some(why)),
            Err(Unwritten::Failed(why)) => {
                Err(Stop::Refused(format!("{why}; no writer of etcd was stopped")))
            }
        }
    }
}

/// Why a report is not in its file.
#[derive(Debug)]
pub enum Unwritten {
    /// The file has a report that stays.
    Kept(String),
    Failed(String),
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unwritten::Kept(why) | Unwritten::Failed(why)) = self;
        f.write_str(why)
    }
}

/// The present content of the file; nothing of a pipe.
fn present(name: &str, file: &File) -> io::Result<Vec<u8>> {
    if file.metadata()?.is_file() { std::fs::read(name) } else { Ok(Vec::new()) }
}

/// The subject of the present report, if it stays: a failure replaces no report of a success, and nothing replaces that of a
/// cut-over that has succeeded but another such.
fn kept(before: &[u8], done: &Value) -> Option<String> {
    let before: Value = serde_json::from_slice(before).ok()?;
    let (verb, time) = (before["verb"].as_str()?, before["time"].as_str()?);
    if !before["error"].is_null() {
        return None;
    }
    let is_kept = if is_cut_over(&before) { !is_cut_over(done) } else { !done["error"].is_null() };
    let what = if is_cut_over(&before) { "the cut-over" } else { verb };
    is_kept.then(|| format!("{what} of {time}"))
}

fn is_cut_over(report: &Value) -> bool {
    let is_equal = ["missing", "extra", "different"].iter().all(|name| report[name] == 0);
    report["verb"] == "cutover" && is_equal
}

/// Over what the file has, which is there again if not all can be written.
fn replaced(mut file: &File, before: &[u8], done: &Value) -> io::Result<()> {
    let text = format!("{done}\n");
    // A pipe has no length.
    if !file.metadata()?.is_file() {
        return file.write_all(text.as_bytes());
    }
    let written = file.write_all_at(text.as_bytes(), 0);
    if written.is_err() {
        file.write_all_at(before, 0)?;
    }
    let length = if written.is_ok() { text.len() } else { before.len() };
    file.set_len(length as u64)?;
    written.and_then(|()| stays(file))
}

/// Waits until the file is on its disk. Only there do some file systems say that it is full.
fn stays(file: &File) -> io::Result<()> {
    match file.sync_all() {
        // A disk that cannot tell has it all the same.
        Err(error) if [ErrorKind::InvalidInput, ErrorKind::Unsupported].contains(&error.kind()) => {
            Ok(())
        }
        synced => synced,
    }
}

fn unwritten(name: &str, error: &io::Error) -> String {
    format!("--report {name:?} cannot be written: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(verb: &str, more: Value) -> Value {
        let mut report = json!({ "verb": verb, "time": "2026-01-02T03:04:05Z" });
        super::super::document::add(&mut report, more);
        report
    }

    /// Each kind of report after each other one.
    #[test]
    fn a_failure_replaces_no_success_and_nothing_a_cut_over_but_another_one() {
        let cut = |count| json!({ "missing": 0, "extra": 0, "different": count });
        let (failure, cut_over) = (json!({ "error": {} }), report("cutover", cut(0)));
        let failures: Vec<_> = ["cutover", "copy"].map(|verb| report(verb, failure.clone())).into();
        let mut others = vec![report("cutover", cut(1))];
        others.extend(["copy", "verify", "finish"].map(|verb| report(verb, json!({}))));
        let folder = std::env::temp_dir();
        let name = folder.join(format!("migrate-report-{}", std::process::id()));
        let name = name.to_str().expect("text");
        let is_replaced = |before: &str, done: &Value| {
            std::fs::write(name, before).expect("a file");
            let file = ReportFile::open(Some(name)).unwrap_or_else(|_| panic!("{name}"));
            let written = file.write(done);
            let found = std::fs::read_to_string(name).expect("a file");
            let wanted = if written.is_ok() { format!("{done}\n") } else { before.to_owned() };
            assert_eq!(found, wanted);
            written.inspect_err(|why| {
                assert!(why.to_string().contains("of 2026-01-02T03:04:05Z, and keeps it"))
            })
        };
        let all = failures.iter().chain(&others).chain([&cut_over]);
        for done in all {
            for before in ["", "no report", "{}", "[]", "{\"verb\":1,\"time\":2}"] {
                is_replaced(before, done).expect(before);
            }
            for before in &failures {
                is_replaced(&before.to_string(), done).expect("a failure is replaced");
            }
            for before in &others {
                let is_failure = failures.contains(done);
                let before = format!("{before}\n");
                assert_eq!(is_replaced(&before, done).is_err(), is_failure, "{before}: {done}");
            }
            let before = cut_over.to_string();
            assert_eq!(is_replaced(&before, done).is_ok(), *done == cut_over, "{done}");
        }
        std::fs::remove_file(name).expect("a file");
    }
}
