//! A request that another node has sent, until the program answers it.

use super::wire::{Body, Head};
use consul_api::error::{Error, Kind};
use consul_process::clock::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The reply to a request, or the error.
pub(super) type Outcome = Result<Body, Error>;

/// Serves the requests of a name in the background.
pub type Service = Arc<dyn Fn(Body) -> BoxFuture<'static, Result<Body, Error>> + Send + Sync>;

/// A request that waits for its handler or is being answered.
#[derive(Debug)]
pub struct Request {
    /// The id of the calling node.
    pub from: String,
    /// The name of the handler.
    pub name: String,
    /// The payload.
    pub body: Body,
    /// The shard that the request is about.
    pub shard: Option<u64>,
    /// The epoch of the caller's shard map; 0: it has none.
    pub epoch: u64,
    /// A string that is the same for all attempts of one call.
    pub idempotency_key: String,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
    slot: Arc<QueueSlot>,
}

/// The outcome of a request for its caller. Dropping it gives a request to the program up, which frees its
/// place in the queue at once.
pub(super) struct Awaited {
    outcome: oneshot::Receiver<Outcome>,
    slot: Option<Arc<QueueSlot>>,
}

impl Awaited {
    /// The outcome of a service, which runs to its end and holds `slot` until then.
    pub fn of_service(service: BoxFuture<'static, Outcome>, slot: QueueSlot) -> Self {
        let (reply, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let _ = reply.send(service.await);
            drop(slot);
        });
        Awaited { outcome, slot: None }
    }
}

impl Future for Awaited {
    type Output = Result<Outcome, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(context)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.free();
        }
    }
}

impl Request {
    /// A request that holds `slot` in the queue, and its outcome.
    pub(super) fn new(
        head: Head,
        body: Body,
        deadline: Instant,
        slot: QueueSlot,
    ) -> (Self, Awaited) {
        let Head { from, name, shard, epoch, idempotency_key, .. } = head;
        let (reply, outcome) = oneshot::channel();
        let slot = Arc::new(slot);
        let awaited = Awaited { outcome, slot: Some(Arc::clone(&slot)) };
        let request =
            Request { from, name, body, shard, epoch, idempotency_key, deadline, reply, slot };
        (request, awaited)
    }

    /// Takes the request out of the queue for its handler; `None` if its deadline has passed or the
    /// caller is gone.
    pub fn begin(self) -> Option<Self> {
        self.slot.free();
        if self.left().is_zero() {
            let why = "its deadline passed while it waited for its handler";
            let error = Error::new(Kind::Timeout, why).with_status(408).not_sent();
            // The caller may be gone.
            let _ = self.reply.send(Err(error));
            return None;
        }
        (!self.is_given_up()).then_some(self)
    }

    /// Whether the caller is gone or no longer waits, so that no handler needs to see the request.
    pub fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    /// The time until the caller's deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Answers with the handler's reply, or with its error text.
    pub fn reply(self, reply: Result<Body, String>) {
        let outcome = reply.map_err(|why| Error::new(Kind::Http, why).with_status(500));
        let _ = self.reply.send(outcome);
    }

    /// Answers with an error because the handler does not run.
    pub fn refuse(self, error: Error) {
        let _ = self.reply.send(Err(error.not_sent()));
    }
}

/// A place in the queue of waiting requests, freed once: when the request begins, is given up or dropped.
#[derive(Debug)]
pub(super) struct QueueSlot {
    taken: Arc<AtomicUsize>,
    is_free: AtomicBool,
}

impl QueueSlot {
    /// Takes a slot unless `limit` are taken.
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(QueueSlot { taken: Arc::clone(taken), is_free: AtomicBool::new(false) });
        }
        taken.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn free(&self) {
        if !self.is_free.swap(true, Ordering::Relaxed) {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.free();
    }
}
