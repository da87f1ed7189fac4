//! Log lines of this library on standard error. Other nodes, servers and strangers can cause lines, so
//! each kind of line is limited in rate: they must not fill a disk.

use crate::clock::{Clock, Instant, SystemClock};
use crate::metrics::numbers;
use crate::sync::lock;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// The most lines of one kind, which is one place in the code, within [`WINDOW`].
const MAX_LINES: u64 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// The warnings of [`warn_once`].
static WARNINGS: Mutex<Warnings> =
    Mutex::new(Warnings { written: BTreeSet::new(), pending: Some(Vec::new()) });

/// The target of their lines, which need no other limit.
const ONCE: &str = concat!(env!("CARGO_PKG_NAME"), "::once");

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

/// Starts logging at this level. The first client of a process decides: later calls have no effect.
pub fn init(level: Level) {
    let layer = layer(level, Arc::new(SystemClock::new()), std::io::stderr);
    let _ = tracing_subscriber::registry().with(layer).try_init();
    let pending = lock(&WARNINGS).pending.take();
    pending.into_iter().flatten().for_each(|message| warn(&message));
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
pub fn layer<S, W>(level: Level, clock: Arc<dyn Clock>, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let ours = Targets::new().with_target(env!("CARGO_PKG_NAME"), level);
    let limited =
        Limited { clock, format: Format::default().with_ansi(false), kinds: Mutex::default() };
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .event_format(limited)
        .with_writer(writer)
        .with_filter(ours)
}

/// Formats no more lines than the limit allows.
struct Limited {
    clock: Arc<dyn Clock>,
    format: Format,
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

/// The lines of one kind.
struct Kind {
    /// When the window began.
    since: Instant,
    lines: u64,
    left_out: u64,
}

impl Limited {
    /// The number of lines left out before this one; none if it is left out too.
    fn pass(&self, metadata: &Metadata) -> Option<u64> {
        if *metadata.level() >= Level::DEBUG || metadata.target() == ONCE {
            return Some(0);
        }
        let now = self.clock.now();
        let mut kinds = lock(&self.kinds);
        let kind =
            kinds.entry(metadata.callsite()).or_insert(Kind { since: now, lines: 0, left_out: 0 });
        if now - kind.since >= WINDOW {
            (kind.since, kind.lines) = (now, 0);
        }
        kind.lines += 1;
        if kind.lines > MAX_LINES {
            kind.left_out += 1;
            numbers().lines_left_out.add_one();
            return None;
        }
        Some(std::mem::take(&mut kind.left_out))
    }
}

impl<S, N> FormatEvent<S, N> for Limited
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(left_out) = self.pass(event.metadata()) else { return Ok(()) };
        if left_out == 0 {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} left_out={left_out}", line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use std::io;

    /// Keeps what is written.
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
}
