//! The error type of all layers, with a few documented kinds.

mod kind;

pub use kind::Kind;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One operation of a transaction that the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOperation {
    /// Its index in the list of operations, from 0.
    pub index: usize,
    /// The server's reason.
    pub what: String,
}

/// The error of a call.
#[derive(Clone, Debug)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    kind: Kind,
    message: String,
    misuse: bool,
    maybe_applied: bool,
    status: Option<u16>,
    endpoint: Option<String>,
    attempts: u32,
    retryable: bool,
    refused: Vec<RefusedOperation>,
    /// The subject of the request, as it was sent and in plain text.
    subject: Option<(String, String)>,
}

impl Error {
    /// An error with a message of one line, which names what failed and why.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            message: message.into(),
            misuse: false,
            maybe_applied: true,
            status: None,
            endpoint: None,
            attempts: 0,
            retryable: false,
            refused: Vec::new(),
            subject: None,
        }))
    }

    /// An argument of the right type with an invalid value: the call returns it, and nothing was sent.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Kind::Argument, message).not_sent()
    }

    /// A wrong type, a missing argument or an unknown option, which Lua raises as an error.
    pub fn misuse(message: impl Into<String>) -> Self {
        let mut error = Self::argument(message);
        error.0.misuse = true;
        error
    }

    /// The same error, for a request that the server cannot have seen.
    pub fn not_sent(self) -> Self {
        self.with_maybe_applied(false)
    }

    /// The same error, for a request that may, or cannot, have taken effect.
    pub fn with_maybe_applied(mut self, maybe: bool) -> Self {
        self.0.maybe_applied = maybe;
        self
    }

    /// The same error, for an answer with this HTTP status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// The same error, from this endpoint, which the message then names.
    pub fn with_endpoint(mut self, endpoint: &str) -> Self {
        if !self.0.message.contains(endpoint) {
            self.0.message = format!("{} (from {endpoint})", self.0.message);
        }
        self.0.endpoint = Some(endpoint.to_owned());
        self
    }

    /// The same error, after this many attempts.
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The same error, with the operations that the server refused.
    pub fn with_refused(mut self, refused: Vec<RefusedOperation>) -> Self {
        self.0.refused = refused;
        self
    }

    /// The same error, of a request about this: as it was sent, and in plain text.
    pub fn with_subject(mut self, subject: Option<(String, String)>) -> Self {
        self.0.subject = subject;
        self
    }

    /// The same error, marked as retryable: a later call may not have it.
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// The same error with `context` and a colon before its message.
    pub fn context(mut self, context: &str) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// The same error with a semicolon and `note` after its message.
    pub fn with_note(mut self, note: &str) -> Self {
        self.0.message = format!("{}; {note}", self.0.message);
        self
    }

    /// The same error with another message.
    pub fn map_message(mut self, map: impl FnOnce(&str) -> String) -> Self {
        self.0.message = map(&self.0.message);
        self
    }

    /// The documented kind, for decisions of programs.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// One line for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message for a log line: without what it quotes and what the request was about, which can be a
    /// key or a value of the program.
    pub fn logged(&self) -> String {
        let mut text = without_quoted(self.message());
        if let Some((sent, plain)) = &self.0.subject {
            for subject in [sent, plain] {
                text = without_word(&text, subject);
            }
        }
        text
    }

    /// Whether Lua raises it instead of returning it ([`Error::misuse`]).
    pub fn is_misuse(&self) -> bool {
        self.0.misuse
    }

    /// Whether the request may have taken effect, or still may. False only when it certainly has not.
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The endpoint that failed, if one was asked.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// The number of attempts of the call.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether a later call may succeed without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether a waiter should keep retrying after this error: it is retryable, or the server
    /// failed with a status of 500 or above, after which it may recover, or something else answered
    /// in its place, such as a router that is reloading.
    pub fn is_transient(&self) -> bool {
        self.is_retryable()
            || self.kind() == Kind::Decode && self.endpoint().is_some()
            || self.kind() != Kind::Argument && self.status().is_some_and(|status| status >= 500)
    }

    /// The exit status of a program that ends with it. A server that fails, or something else in its place, does not answer.
    pub fn exit_status(&self) -> u8 {
        match self.kind() {
            Kind::Decode | Kind::Http if self.is_transient() => Kind::Connect.exit_status(),
            kind => kind.exit_status(),
        }
    }

    /// The operations of a transaction that the server refused.
    pub fn refused(&self) -> &[RefusedOperation] {
        &self.0.refused
    }
}

/// Stands for what a log line does not show.
const HIDDEN: &str = "…";

/// A text with [`HIDDEN`] in its double quotes. A quotation that does not end ends with the text.
fn without_quoted(text: &str) -> String {
    let (mut shown, mut is_quoted, mut is_escaped) =
        (String::with_capacity(text.len()), false, false);
    for char in text.chars() {
        match char {
            '"' if !is_escaped => {
                is_quoted = !is_quoted;
                shown.push_str(if is_quoted { "\"…" } else { "\"" });
            }
            _ if !is_quoted => shown.push(char),
            _ => {}
        }
        is_escaped = is_quoted && char == '\\' && !is_escaped;
    }
    shown
}

/// A text with [`HIDDEN`] in place of a word, where it is not a part of a longer one.
fn without_word(text: &str, word: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    let is_part = |char: Option<char>| char.is_some_and(char::is_alphanumeric);
    while let Some((before, after)) = rest.split_once(word).filter(|_| !word.is_empty()) {
        shown.push_str(before);
        let is_whole = !is_part(shown.chars().next_back()) && !is_part(after.chars().next());
        shown.push_str(if is_whole { HIDDEN } else { word });
        rest = after;
    }
    shown + rest
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// Runs `work` and catches a panic.
///
/// # Errors
/// The message of the panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Values that a panic leaves half changed are behind mutexes, whose users tolerate that.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().map_or("a panic", |message| *message).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_error_was_never_sent() {
        assert!(!Error::argument("x").maybe_applied());
        assert!(Error::misuse("x").is_misuse());
        assert!(!Error::argument("x").is_misuse());
    }

    #[test]
    fn a_log_line_shows_neither_what_is_quoted_nor_what_the_request_was_about() {
        let logged = |message: &str| {
            let subject = ("a%20b".to_owned(), "a b".to_owned());
            Error::new(Kind::Http, message).with_subject(Some(subject)).logged()
        };
        for (message, line) in [
            ("kv_get \"a b\": no answer", "kv_get \"…\": no answer"),
            ("\"a \\\"b\\\\\" and \"c", "\"…\" and \"…"),
            ("Cannot GET /v1/kv/a%20b (a b)", "Cannot GET /v1/kv/… (…)"),
            ("lacks 'key:write' on \"x\"; then", "lacks 'key:write' on \"…\"; then"),
            ("aa b, a b", "aa b, …"),
            ("plain", "plain"),
        ] {
            assert_eq!(logged(message), line);
        }
    }

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("fixed")), Err::<(), _>("fixed".to_owned()));
        assert_eq!(caught(|| panic!("with {}", 1)), Err::<(), _>("with 1".to_owned()));
        assert_eq!(caught(|| std::panic::panic_any(1)), Err::<(), _>("a panic".to_owned()));
    }
}
