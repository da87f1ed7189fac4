//! The agent's log and the stream of its lines. Nothing is kept: a monitor sees what happens while it is connected.

use crate::go;
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// The number of lines that a slow reader can be behind. Source: Consul's agent.
const BEHIND: usize = 512;

/// How important a line is, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub level: Level,
    /// The part of the agent, such as `agent.http`.
    pub module: &'static str,
    pub message: &'static str,
    pub fields: Vec<(&'static str, String)>,
    pub since_1970: Duration,
}

/// The log of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Log(broadcast::Sender<Line>);

impl Default for Log {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Log {
    /// Whether there is a monitor.
    pub fn is_read(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub fn send(&self, line: Line) {
        // Without a monitor it is for nobody.
        let _ = self.0.send(line);
    }
}

/// A reply that goes on with the lines of a log.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    pub log: Log,
    pub level: Level,
    pub as_json: bool,
}

impl Monitor {
    /// The lines from now on, until the log ends.
    pub fn lines(self) -> impl Stream<Item = Bytes> {
        let Monitor { log, level, as_json } = self;
        let receiver = log.0.subscribe();
        drop(log);
        stream::unfold(receiver, move |mut receiver| async move {
            loop {
                let text = match receiver.recv().await {
                    Ok(line) if line.level < level => continue,
                    Ok(line) if as_json => line.json(),
                    Ok(line) => line.text(),
                    Err(RecvError::Lagged(count)) => {
                        format!("[WARN] Dropped {count} logs during monitor request\n")
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Bytes::from(text), receiver));
            }
        })
    }
}

/// Whether a value with this character is quoted, as by the library go-hclog.
fn is_special(char: char) -> bool {
    !char.is_ascii_graphic() || matches!(char, '"' | '=')
}

impl Line {
    /// As Consul writes it.
    fn text(&self) -> String {
        let level = match self.level {
            Level::Debug => "[DEBUG]",
            Level::Info => "[INFO] ",
            Level::Warn => "[WARN] ",
            Level::Error => "[ERROR]",
        };
        let fields = self.fields.iter().map(|(name, value)| match value.contains(is_special) {
            true => format!(" {name}={}", go::quoted(value)),
            false => format!(" {name}={value}"),
        });
        let fields: String = fields.collect();
        let colon = if fields.is_empty() { "" } else { ":" };
        let seconds = go::date_text(Duration::from_secs(self.since_1970.as_secs()));
        let seconds = seconds.trim_end_matches('Z');
        let (millis, module, message) =
            (self.since_1970.subsec_millis(), self.module, self.message);
        format!("{seconds}.{millis:03}Z {level} {module}: {message}{colon}{fields}\n")
    }

    fn json(&self) -> String {
        let level = match self.level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let own = [
            ("@level", level.to_owned()),
            ("@message", self.message.to_owned()),
            ("@module", self.module.to_owned()),
            ("@timestamp", go::date_text(self.since_1970)),
        ];
        let members = own.into_iter().chain(self.fields.iter().cloned());
        let members: Map<String, Value> =
            members.map(|(name, value)| (name.to_owned(), value.into())).collect();
        format!("{}\n", Value::from(members))
    }
}
