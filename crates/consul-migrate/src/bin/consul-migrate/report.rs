//! The file with what a run has done.

use super::failure::Failure;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write};

/// The file of `--report`, if there is one.
pub struct ReportFile<'a>(Option<(&'a str, File)>);

impl<'a> ReportFile<'a> {
    /// Opens it before anything is done. The old content stays until the end.
    pub fn open(name: Option<&'a str>) -> Result<Self, Failure> {
        let Some(name) = name else { return Ok(ReportFile(None)) };
        if name == "-" {
            let why = "--report - is not a file: --json prints it on standard output";
            return Err(Failure::Usage(why.to_owned()));
        }
        let file = File::options().write(true).create(true).truncate(false).open(name);
        let file = file.map_err(|error| Failure::Usage(unwritten(name, &error)))?;
        Ok(ReportFile(Some((name, file))))
    }

    /// Writes it; an error says what has failed.
    pub fn write(&self, done: &Value) -> Result<(), String> {
        let Some((name, file)) = &self.0 else { return Ok(()) };
        replaced(file, done).map_err(|error| unwritten(name, &error))
    }
}

fn replaced(mut file: &File, done: &Value) -> io::Result<()> {
    // A pipe has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(format!("{done}\n").as_bytes())
}

fn unwritten(name: &str, error: &io::Error) -> String {
    format!("--report {name:?} cannot be written: {error}")
}
