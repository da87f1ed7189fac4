//! Log lines of this library: on standard error, as text or JSON, or for the program's log functions. Other nodes,
//! servers and strangers can cause lines, so each kind of line is limited in rate: they must not fill a disk.

mod limited;
mod line;
mod queue;

pub use line::Line;
pub use queue::{Delivery, MAX_WAITING, Receiver, delivery, is_due};

use crate::clock::{Clock, SystemClock};
use crate::os;
use crate::sync::lock;
use limited::{Limited, Way};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber, callsite};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// The warnings of [`warn_once`].
static WARNINGS: Mutex<Warnings> =
    Mutex::new(Warnings { written: BTreeSet::new(), pending: Some(Vec::new()) });

/// The targets of our lines begin with it, as the names of our crates do.
const OURS: &str = "consul_";

/// The target of their lines, which need no other limit.
const ONCE: &str = "consul_ffi::once";

/// The target of the lines of [`of_manager`]: what the program's own calls cause needs no limit.
const MANAGER: &str = "consul_ffi::manager";

/// The most texts that are remembered; a further one is not written.
const MAX_WARNINGS: usize = 1000;

struct Warnings {
    written: BTreeSet<String>,
    /// Those from before the first client, which decides about the log; `None` after that.
    pending: Option<Vec<String>>,
}

impl Warnings {
    /// The message, if it is to be written now.
    fn admit(&mut self, message: String) -> Option<String> {
        if self.written.len() >= MAX_WARNINGS || !self.written.insert(message.clone()) {
            return None;
        }
        match &mut self.pending {
            Some(pending) => {
                pending.push(message);
                None
            }
            None => Some(message),
        }
    }
}

/// A program's settings for the log of its process; a `None` changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The lowest level that is written; at first WARN.
    pub level: Option<LevelFilter>,
    /// Whether lines on standard error are JSON; at first they are text.
    pub json: Option<bool>,
}

/// The place in [`LEVELS`] of the lowest level that is written.
static LEVEL: AtomicU8 = AtomicU8::new(2);

const LEVELS: [LevelFilter; 5] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
];

/// Whether lines are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Starts the log of the process, or changes it.
pub fn set(wanted: Wanted) {
    static IS_STARTED: AtomicBool = AtomicBool::new(false);
    if let Some(json) = wanted.json {
        IS_JSON.store(json, Ordering::Relaxed);
    }
    let place = LEVELS.iter().position(|level| Some(*level) == wanted.level);
    let is_other = place.is_some_and(|it| LEVEL.swap(it as u8, Ordering::Relaxed) != it as u8);
    if !IS_STARTED.swap(true, Ordering::Relaxed) {
        // Without memory for it, a child would share its lines with its parent.
        let _ = os::watch_forks();
        let limited = Limited::new(Arc::new(SystemClock::new()), Way::OfProcess);
        let layer = lines(limited, || Stderr).with_filter(OfProcess);
        // A Rust program may have a log of its own.
        let _ = tracing_subscriber::registry().with(layer).try_init();
    } else if is_other {
        callsite::rebuild_interest_cache();
    }
    let pending = lock(&WARNINGS).pending.take();
    pending.into_iter().flatten().for_each(|message| warn(&message));
}

/// Has a program's own function write the lines to standard error.
pub fn written_by(write: fn(String)) {
    let _ = WRITE.set(write);
}

static WRITE: OnceLock<fn(String)> = OnceLock::new();

/// Standard error, as the program writes to it.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match WRITE.get() {
            Some(write) => write(String::from_utf8_lossy(bytes).into_owned()),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes lines of this library at the level of the process.
struct OfProcess;

impl OfProcess {
    fn passes(metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(OURS) && *metadata.level() <= Self::level()
    }

    fn level() -> LevelFilter {
        LEVELS[usize::from(LEVEL.load(Ordering::Relaxed))]
    }
}

impl<S> Filter<S> for OfProcess {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::passes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(Self::level())
    }
}

/// Writes a line of the manager of `lua/consul_production`.
pub fn of_manager(level: &str, message: &str) {
    match level {
        "ERROR" => tracing::error!(target: MANAGER, "{message}"),
        "WARN" => tracing::warn!(target: MANAGER, "{message}"),
        "INFO" => tracing::info!(target: MANAGER, "{message}"),
        _ => tracing::debug!(target: MANAGER, "{message}"),
    }
}

/// Writes a line of level WARN, once in a process for each text; before the first client at its creation.
pub fn warn_once(message: String) {
    let admitted = lock(&WARNINGS).admit(message);
    if let Some(message) = admitted {
        warn(&message);
    }
}

fn warn(message: &str) {
    tracing::warn!(target: ONCE, "{message}");
}

/// Writes lines of this library at this level, and no more than 10 of a kind within 10 s of `clock`. The
/// next one ends with the number of those left out. Lines of level DEBUG are not limited.
pub fn layer<S, W>(level: impl Into<LevelFilter>, clock: Arc<dyn Clock>, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let ours = Targets::new().with_target(OURS, level);
    lines(Limited::new(clock, Way::Text), writer).with_filter(ours)
}

fn lines<S, W>(limited: Limited, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().with_ansi(false).event_format(limited).with_writer(writer)
}

#[cfg(test)]
mod tests {
    use super::limited::WINDOW;
    use super::*;
    use crate::clock::ManualClock;
    use tracing::Level;

    /// Keeps the written bytes.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_warning_is_written_once_and_not_before_the_log() {
        let mut warnings = Warnings { written: BTreeSet::new(), pending: Some(Vec::new()) };
        let mut admits = |message: &str| warnings.admit(message.to_owned()).is_some();
        assert_eq!([admits("early"), admits("early")], [false, false]);
        assert_eq!(warnings.pending.take(), Some(vec!["early".to_owned()]));
        let mut admits = |message: &str| warnings.admit(message.to_owned()).is_some();
        assert_eq!([admits("early"), admits("later"), admits("later")], [false, true, false]);
        assert_eq!(
            (0..2 * MAX_WARNINGS).filter(|n| admits(&n.to_string())).count(),
            MAX_WARNINGS - 2
        );
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let (kept, clock) = (Kept::default(), ManualClock::default());
        let written = kept.clone();
        let layer = layer(Level::DEBUG, Arc::new(clock.clone()), move || written.clone());
        let take = || String::from_utf8(std::mem::take(&mut *lock(&kept.0))).expect("text");
        let count =
            |text: &str, part: &str| text.lines().filter(|line| line.contains(part)).count();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let flood = || {
                for number in 0..1000 {
                    tracing::warn!(number, "one kind");
                    tracing::info!(number, "another kind");
                    tracing::debug!("asked for");
                }
            };
            flood();
            let text = take();
            assert_eq!(
                [count(&text, "one kind"), count(&text, "another kind")],
                [10, 10],
                "{text}"
            );
            assert_eq!([count(&text, "asked for"), count(&text, "left_out")], [1000, 0]);
            clock.advance(WINDOW);
            flood();
            let text = take();
            assert_eq!([count(&text, "one kind"), count(&text, "left_out=990")], [10, 2], "{text}");
            let first = text.lines().next().expect("a line");
            assert!(first.ends_with("one kind number=0 left_out=990"), "{first}");
        });
    }

    /// Texts of servers and other nodes are in lines.
    #[test]
    fn a_text_with_line_breaks_is_one_line() {
        let kept = Kept::default();
        let written = kept.clone();
        let layer = layer(Level::WARN, Arc::new(ManualClock::default()), move || written.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(why = %"it said\r\nERROR forged", "first\nsecond");
        });
        let text = String::from_utf8(std::mem::take(&mut *lock(&kept.0))).expect("text");
        let end = "first\\nsecond why=it said\\r\\nERROR forged\n";
        assert!(text.ends_with(end) && text.lines().count() == 1, "{text}");
    }
}
