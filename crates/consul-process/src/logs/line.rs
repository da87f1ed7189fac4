//! A log line as data: for JSON, and for the program's log function.

use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;
use std::io::Write;
use std::time::UNIX_EPOCH;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// A line of the log.
#[derive(Debug)]
pub struct Line {
    /// How severe it is.
    pub level: Level,
    /// The event.
    pub message: String,
    /// The values of what happened by name; `left_out`, if lines of its kind before this one were left out.
    pub fields: Map<String, Value>,
    /// The module that wrote it.
    pub target: &'static str,
    /// When it arose, in milliseconds of Unix time.
    pub at_ms: u64,
    /// How many lines after this one were lost.
    pub lost: u64,
    /// When it arose, in words.
    time: String,
    /// The line as text; None: it is JSON.
    text: Option<String>,
}

impl Line {
    /// The line of an event. `text` is the line as text, if it is not JSON.
    pub(super) fn of(event: &Event<'_>, left_out: u64, text: Option<String>) -> Self {
        let mut read = Read::default();
        event.record(&mut read);
        if left_out > 0 {
            read.fields.insert("left_out".to_owned(), left_out.into());
        }
        let mut time = String::new();
        // A clock that cannot be shown leaves an empty text.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let since_1970 = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
        Line {
            level: *event.metadata().level(),
            message: read.message,
            fields: read.fields,
            target: event.metadata().target(),
            at_ms: since_1970.map_or(0, |time| time.as_millis() as u64),
            lost: 0,
            time,
            text,
        }
    }

    /// A line of a test.
    #[cfg(test)]
    pub(super) fn with(level: Level, message: String) -> Self {
        let text = Some(format!("{level} {message}\n"));
        let (fields, target, time) = (Map::new(), module_path!(), String::new());
        Line { level, message, fields, target, at_ms: 0, lost: 0, time, text }
    }

    /// The line as it is written to standard error.
    pub fn written(&self) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            timestamp: &'a str,
            level: &'a str,
            target: &'a str,
            message: &'a str,
            fields: Map<String, Value>,
        }
        if let Some(text) = &self.text {
            let lost = if self.lost > 0 { format!(" lost={}", self.lost) } else { String::new() };
            return format!("{}{lost}\n", text.trim_end());
        }
        let mut fields = self.fields.clone();
        if self.lost > 0 {
            fields.insert("lost".to_owned(), self.lost.into());
        }
        let (timestamp, level) = (self.time.as_str(), self.level.as_str());
        let (target, message) = (self.target, self.message.as_str());
        let json = serde_json::to_string(&Json { timestamp, level, target, message, fields });
        // Names and values are text, numbers and booleans, which JSON can represent.
        json.unwrap_or_default() + "\n"
    }

    /// Writes the line to standard error, as far as that takes it.
    pub fn write(&self) {
        let _ = super::Stderr.write_all(self.written().as_bytes());
    }
}

/// Reads the fields of an event.
#[derive(Default)]
struct Read {
    message: String,
    fields: Map<String, Value>,
}

impl Read {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.set(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock;
    use std::sync::{Arc, Mutex};
    use tracing::Subscriber;
    use tracing_subscriber::layer::{Context, Layer};
    use tracing_subscriber::prelude::*;

    /// Keeps lines as JSON.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Line>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            lock(&self.0).push(Line::of(event, 3, None));
        }
    }

    #[test]
    fn a_line_as_json_has_every_value_with_its_type() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        tracing::subscriber::with_default(subscriber, || {
            let (text, shown) = ("two\n\"lines\"", Some(1));
            tracing::warn!(
                text,
                ?shown,
                whole = -1,
                most = u64::MAX,
                part = 0.5,
                is = true,
                "of {}",
                7
            );
        });
        let mut line = lock(&kept.0).pop().unwrap();
        line.lost = 4;
        let written = line.written();
        assert_eq!(written.matches('\n').count(), 1, "{written}");
        let json: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(
            (json["level"].as_str(), json["message"].as_str()),
            (Some("WARN"), Some("of 7"))
        );
        assert_eq!(json["target"], module_path!());
        let fields = serde_json::json!({
            "text": "two\n\"lines\"", "shown": "Some(1)", "whole": -1, "most": u64::MAX, "part": 0.5,
            "is": true, "left_out": 3, "lost": 4,
        });
        assert_eq!(json["fields"], fields);
        let time = json["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert!(line.at_ms > 1_700_000_000_000, "{}", line.at_ms);
    }

    #[test]
    fn a_line_as_text_ends_with_the_number_of_lines_lost_after_it() {
        let mut line = Line::with(Level::WARN, "said".to_owned());
        assert_eq!(line.written(), "WARN said\n");
        line.lost = 2;
        assert_eq!(line.written(), "WARN said lost=2\n");
    }
}
