//! The lines that the library logs while a test runs.

use consul_process::clock::Clock;
use consul_process::logs;
use std::io;
use std::sync::{Arc, Mutex};
use tracing::{Dispatch, Level};
use tracing_subscriber::prelude::*;

/// Lines of the log.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }

    /// The number of lines with these words.
    pub fn count(&self, words: &str) -> usize {
        self.text().lines().filter(|line| line.contains(words)).count()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does work on this thread; its lines of this level are collected.
pub fn logged(level: Level, clock: Arc<dyn Clock>, work: impl FnOnce(&Lines)) {
    let lines = Lines::default();
    let written = lines.clone();
    let layer = logs::layer(level, clock, move || written.clone());
    // With a single subscriber, tracing would ask the thread that reaches a line first, which may be that
    // of another test, whether anything ever wants that line.
    let _second = Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || work(&lines));
}
