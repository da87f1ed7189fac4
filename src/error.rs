//! The one error type: what went wrong, in which of a few documented kinds.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What kind of failure an [`Error`] is. The names are part of the public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An argument has a value that is not acceptable; nothing was sent.
    Argument,
    /// The configuration is not acceptable.
    Config,
    /// No connection could be made or it broke: refused, unreachable, name not found, cut off; also
    /// an agent that has no connection to its servers.
    Connect,
    /// No answer within the time allowed.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The server answered with an error that has no kind of its own.
    Http,
    /// The thing that a change was meant for does not exist, or there is no instance to pick.
    NotFound,
    /// The token lacks a permission.
    PermissionDenied,
    /// The token is unknown to the server.
    AclNotFound,
    /// The server or its agent refuses for the number of requests or connections.
    RateLimited,
    /// The servers have no leader at the moment.
    NoLeader,
    /// The node's program takes no requests of other nodes at the moment.
    NotReady,
    /// Consul answered `false`: a compare-and-set lost, a lock is held by another.
    Conflict,
    /// A transaction was refused as a whole.
    TxnFailed,
    /// The session does not exist (any more).
    SessionInvalid,
    /// The request is larger than the server accepts, or the answer than the client does.
    TooLarge,
    /// The server's answer could not be understood.
    Decode,
    /// The client was closed.
    Closed,
    /// The server or this build does not know the operation.
    Unsupported,
}

impl Kind {
    /// Every kind, in the order of the reference.
    pub const ALL: &'static [Kind] = &[
        Kind::Argument,
        Kind::Config,
        Kind::Connect,
        Kind::Timeout,
        Kind::Tls,
        Kind::Http,
        Kind::NotFound,
        Kind::PermissionDenied,
        Kind::AclNotFound,
        Kind::RateLimited,
        Kind::NoLeader,
        Kind::NotReady,
        Kind::Conflict,
        Kind::TxnFailed,
        Kind::SessionInvalid,
        Kind::TooLarge,
        Kind::Decode,
        Kind::Closed,
        Kind::Unsupported,
    ];

    /// The name that Lua programs compare with.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Argument => "argument",
            Kind::Config => "config",
            Kind::Connect => "connect",
            Kind::Timeout => "timeout",
            Kind::Tls => "tls",
            Kind::Http => "http",
            Kind::NotFound => "not_found",
            Kind::PermissionDenied => "permission_denied",
            Kind::AclNotFound => "acl_not_found",
            Kind::RateLimited => "rate_limited",
            Kind::NoLeader => "no_leader",
            Kind::NotReady => "not_ready",
            Kind::Conflict => "conflict",
            Kind::TxnFailed => "txn_failed",
            Kind::SessionInvalid => "session_invalid",
            Kind::TooLarge => "too_large",
            Kind::Decode => "decode",
            Kind::Closed => "closed",
            Kind::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One operation of a transaction that the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedOperation {
    /// The operation's place in the list, counted from 0.
    pub index: usize,
    /// The server's reason.
    pub what: String,
}

/// Why a call failed.
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
}

impl Error {
    /// An error of `kind`; `message` says what happened and to what, in one line.
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
        }))
    }

    /// A right type with an unacceptable value: the call returns it, nothing was sent.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Kind::Argument, message).not_sent()
    }

    /// A programming error (wrong type, missing argument, unknown option): Lua raises it.
    pub fn misuse(message: impl Into<String>) -> Self {
        let mut error = Self::argument(message);
        error.0.misuse = true;
        error
    }

    /// The same error, with the knowledge that the server cannot have seen the request.
    pub fn not_sent(self) -> Self {
        self.with_maybe_applied(false)
    }

    /// The same error, which leaves open, or not, whether the request took effect.
    pub fn with_maybe_applied(mut self, maybe: bool) -> Self {
        self.0.maybe_applied = maybe;
        self
    }

    /// The same error, for an answer with this HTTP status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// The same error, as met on this endpoint, which its message then names.
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

    /// The same error, marked as one that may go away when the call is made again.
    pub fn transient(mut self) -> Self {
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

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What happened, in one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether it is a programming error, which Lua raises instead of returning.
    pub fn is_misuse(&self) -> bool {
        self.0.misuse
    }

    /// Whether the request can have taken effect, or still can: false only when that is certain.
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied
    }

    /// The HTTP status of the answer, when there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The endpoint that failed, when one was asked.
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// How many times the call was tried.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether the cause may go away by itself, so that the caller can try again later.
    pub fn retryable(&self) -> bool {
        self.0.retryable
    }

    /// The operations of a transaction that the server refused.
    pub fn refused(&self) -> &[RefusedOperation] {
        &self.0.refused
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

// A library that ends the process of its host on a defect would be worse than the defect.
const _: () = assert!(
    cfg!(panic = "unwind") || !cfg!(feature = "binding"),
    "consul_ffi must be built with panic = \"unwind\""
);

/// Runs `work`; a panic in it becomes its message.
///
/// # Errors
/// The panic's message.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves half done stays behind locks, whose users do not mind.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().map_or("a panic", |message| *message).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_of_kinds_are_distinct() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn an_argument_error_was_never_sent() {
        assert!(!Error::argument("x").maybe_applied());
        assert!(Error::misuse("x").is_misuse());
        assert!(!Error::argument("x").is_misuse());
    }

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("fixed")), Err::<(), _>("fixed".to_owned()));
        assert_eq!(caught(|| panic!("with {}", 1)), Err::<(), _>("with 1".to_owned()));
        assert_eq!(caught(|| std::panic::panic_any(1)), Err::<(), _>("a panic".to_owned()));
    }
}
