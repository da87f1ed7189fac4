//! The lines that the library logs in this process, by the tests of all threads.

use crate::support::PATIENCE;
use consul_process::clock::SystemClock;
use consul_process::logs;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Lines from one moment on.
pub struct Log {
    lines: &'static Lines,
    start: usize,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines as programs get them, which are limited in rate, and all warnings about connections.
static LINES: LazyLock<[Lines; 2]> = LazyLock::new(Default::default);

impl Log {
    /// The lines as programs get them, from now on.
    pub fn limited() -> Log {
        Self::of(&Self::start()[0])
    }

    /// All warnings about connections of other nodes, from now on.
    pub fn whole() -> Log {
        Self::of(&Self::start()[1])
    }

    fn start() -> &'static [Lines; 2] {
        let [limited, whole] = &*LINES;
        let clock = Arc::new(SystemClock::new());
        let all = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || whole);
        let of_server = "consul_cluster::data_plane::server";
        let all = all.with_filter(Targets::new().with_target(of_server, LevelFilter::WARN));
        let layers = logs::layer(Level::WARN, clock, move || limited).and_then(all);
        // Traces of all crates would slow the tests down that measure times. The first test of the process
        // has set the subscriber.
        let _ = tracing_subscriber::registry().with(LevelFilter::WARN).with(layers).try_init();
        &LINES
    }

    fn of(lines: &'static Lines) -> Log {
        Log { lines, start: lines.0.lock().expect("no panic").len() }
    }

    pub fn text(&self) -> String {
        let bytes = self.lines.0.lock().expect("no panic");
        String::from_utf8_lossy(&bytes[self.start..]).into_owned()
    }

    /// Waits for a line with these words.
    pub fn says(&self, words: &str) {
        let begun = Instant::now();
        while !self.text().contains(words) {
            assert!(begun.elapsed() < PATIENCE, "{words:?} is not in: {}", self.text());
            sleep(Duration::from_millis(10));
        }
    }
}
