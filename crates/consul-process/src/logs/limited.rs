//! How lines are written: each kind limited in rate, and where they go.

use super::line::Line;
use super::{IS_JSON, MANAGER, ONCE, queue};
use crate::clock::{Clock, Instant};
use crate::metrics::numbers;
use crate::os::PerProcess;
use crate::sync::lock;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The most lines of one kind, which is one place in the code, within [`WINDOW`].
const MAX_LINES: u64 = 10;
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Where lines go, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the writer, as text.
    Text,
    /// To the program's log function, if it has one; else to the writer, as the process wants it.
    OfProcess,
}

/// Formats no more lines than the limit allows.
pub(super) struct Limited {
    clock: Arc<dyn Clock>,
    way: Way,
    format: Format,
    kinds: PerProcess<Mutex<HashMap<Identifier, Kind>>>,
}

/// The lines of one kind.
struct Kind {
    /// When the window began.
    since: Instant,
    lines: u64,
    left_out: u64,
}

impl Limited {
    pub fn new(clock: Arc<dyn Clock>, way: Way) -> Self {
        let format = Format::default().with_ansi(false);
        Limited { clock, way, format, kinds: PerProcess::new() }
    }

    /// The number of lines left out before this one; none if it is left out too.
    fn pass(&self, metadata: &Metadata) -> Option<u64> {
        if *metadata.level() >= Level::DEBUG || [ONCE, MANAGER].contains(&metadata.target()) {
            return Some(0);
        }
        let now = self.clock.now();
        let mut kinds = lock(self.kinds.get());
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
        let as_text = |mut writer: Writer<'_>| {
            let mut line = String::new();
            self.format.format_event(context, Writer::new(&mut line), event)?;
            let line = one_line(line.trim_end());
            match left_out {
                0 => writeln!(writer, "{line}"),
                _ => writeln!(writer, "{line} left_out={left_out}"),
            }
        };
        let is_of_process = self.way == Way::OfProcess;
        let is_json = is_of_process && IS_JSON.load(Ordering::Relaxed);
        let is_taken = is_of_process && queue::of_process().takes_lines();
        if !is_json && !is_taken {
            return as_text(writer);
        }
        let mut text = String::new();
        if !is_json {
            as_text(Writer::new(&mut text))?;
        }
        let line = Line::of(event, left_out, (!is_json).then_some(text));
        let left = if is_taken { queue::of_process().push(line) } else { Some(line) };
        left.map_or(Ok(()), |line| writer.write_str(&line.written()))
    }
}

/// A text without control characters, which could look like another line.
fn one_line(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && c != '\t';
    if !text.contains(is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match is_control(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.into()
}
