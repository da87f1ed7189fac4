//! Checks that the agent runs itself: TCP and HTTP by a [`Prober`], aliases by looking at the
//! checks of another service.
//!
//! A probe runs when it is due and the timers are driven: by a call that waits, by a server, or
//! else by the next call. Checks of other kinds keep the status that they were registered with.

use crate::store::timer::TimerKey;
use consul_process::clock::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The target of a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Whether `host:port` accepts a connection.
    Tcp {
        /// Where to.
        address: String,
        /// For a connection with TLS.
        tls: Option<CheckTls>,
    },
    /// The answer to an HTTP request.
    Http {
        /// The whole URL.
        url: String,
        /// The method.
        method: String,
        /// Headers; a name may repeat.
        headers: Vec<(String, String)>,
        /// The body of the request.
        body: String,
        /// Whether redirects are followed.
        follows: bool,
        /// For `https`.
        tls: CheckTls,
    },
    /// Whether `host:port` answers a datagram.
    Udp(String),
    /// The health service of gRPC.
    Grpc {
        /// `host:port`, or `host:port/service`.
        target: String,
        /// For a connection with TLS.
        tls: Option<CheckTls>,
    },
    /// Whether `host:port` answers a ping of HTTP/2.
    H2Ping {
        /// Where to.
        address: String,
        /// For a connection with TLS.
        tls: Option<CheckTls>,
    },
    /// A program with its arguments, and its exit status.
    Script(Vec<String>),
}

/// How a check uses TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTls {
    /// The name in the server's certificate, if it is not the address's.
    pub server_name: String,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeResult {
    /// A connection was accepted.
    Connected,
    /// An HTTP server answered.
    Answered {
        /// The status code.
        code: u16,
        /// The status code with its reason phrase.
        status: String,
        /// The body.
        body: Vec<u8>,
    },
    /// A request to which a redirect led failed.
    Redirected {
        /// Where it led to.
        url: String,
        /// Why the request failed.
        why: String,
    },
    /// A program ended; without a code by a signal.
    Exited {
        /// The exit status.
        code: Option<i32>,
        /// Its output.
        output: Vec<u8>,
    },
    /// Another result of a probe.
    Said {
        /// The status of the check.
        status: &'static str,
        /// Its output.
        output: String,
    },
    /// The probe failed; the reason, in Go's words.
    Failed(String),
    /// A probe of this kind is not run: the check stays as it is.
    NotRun,
}

/// The I/O of checks.
pub trait Prober: fmt::Debug + Send + Sync {
    /// Runs one probe. The caller applies the timeout.
    fn probe<'a>(&'a self, probe: &'a Probe) -> BoxFuture<'a, ProbeResult>;
}

/// The schedule of a check that the agent runs, and its results so far.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub probe: Arc<Probe>,
    pub interval: Duration,
    pub timeout: Duration,
    pub success_before_passing: i64,
    pub failures_before_warning: i64,
    pub failures_before_critical: i64,
    pub successes: i64,
    pub failures: i64,
    /// Distinguishes the runs of one registration from the runs of an earlier one.
    pub generation: u64,
    pub next: Option<TimerKey>,
}

impl Schedule {
    /// Counts a result; returns the new status of the check once enough results agree.
    pub fn count(&mut self, status: &'static str) -> Option<&'static str> {
        if status == "critical" {
            self.failures += 1;
            self.successes = 0;
            match self.failures {
                failures if failures >= self.failures_before_critical => Some("critical"),
                failures if failures >= self.failures_before_warning => Some("warning"),
                _ => None,
            }
        } else {
            self.successes += 1;
            self.failures = 0;
            (self.successes >= self.success_before_passing).then_some(status)
        }
    }
}

/// A run of a check that is due.
#[derive(Clone, Debug)]
pub(crate) struct DueCheck {
    pub id: String,
    pub generation: u64,
    pub probe: Arc<Probe>,
    pub timeout: Duration,
}
