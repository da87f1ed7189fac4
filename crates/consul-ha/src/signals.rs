//! The signals that end a wait, which takes back what it has asked.

use super::failure::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not end the program.
    pub fn new() -> Result<Signals, Failure> {
        let heard =
            |kind| signal(kind).map_err(|error| Failure::Usage(format!("no signals: {error}")));
        Ok(Signals {
            interrupt: heard(SignalKind::interrupt())?,
            terminate: heard(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
