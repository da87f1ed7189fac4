//! A request on its way to the program that answers it.

use super::wire::{Body, Head};
use crate::error::{Error, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What became of a request.
pub(super) type Outcome = Result<Body, Error>;

/// A request that waits for its handler, or is answered by it.
#[derive(Debug)]
pub struct Request {
    /// The node that asks.
    pub from: String,
    /// What is called.
    pub name: String,
    /// What the call carries.
    pub body: Body,
    /// The shard that it is about, and the epoch of the shard map by which the caller says so.
    pub shard: Option<u64>,
    /// That epoch; 0: the caller has no map.
    pub epoch: u64,
    /// The same when the same call is made again.
    pub idempotency_key: String,
    deadline: Instant,
    reply: oneshot::Sender<Outcome>,
    place: Option<Place>,
}

impl Request {
    /// A request that takes `place` in the queue, and where its outcome comes.
    pub(super) fn new(
        head: Head,
        body: Body,
        deadline: Instant,
        place: Place,
    ) -> (Self, oneshot::Receiver<Outcome>) {
        let Head { from, name, shard, epoch, idempotency_key, .. } = head;
        let (reply, outcome) = oneshot::channel();
        let place = Some(place);
        let request =
            Request { from, name, body, shard, epoch, idempotency_key, deadline, reply, place };
        (request, outcome)
    }

    /// Takes it out of the queue, to give it to its handler; none when its time is over or the
    /// caller is gone.
    pub fn begin(mut self) -> Option<Self> {
        self.place = None;
        if self.left().is_zero() {
            let why = "its deadline passed while it waited for its handler";
            let error = Error::new(Kind::Timeout, why).with_status(408).not_sent();
            // Nobody may wait for it any more.
            let _ = self.reply.send(Err(error));
            return None;
        }
        (!self.reply.is_closed()).then_some(self)
    }

    /// How long the caller still waits.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Answers it; the text says why there is no reply.
    pub fn reply(self, reply: Result<Body, String>) {
        let outcome = reply.map_err(|why| Error::new(Kind::Http, why).with_status(500));
        let _ = self.reply.send(outcome);
    }

    /// Answers it without its handler.
    pub fn refuse(self, error: Error) {
        let _ = self.reply.send(Err(error.not_sent()));
    }
}

/// A request's place among those that wait, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, unless `most` are taken.
    pub fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Place(Arc::clone(taken)));
        }
        taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
