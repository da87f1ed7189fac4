//! Limits of what clients can hold: places for connections, and the time of a write.

use crate::data_plane::Busiest;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

/// A number of places.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub fn new(count: usize) -> Self {
        Places(Arc::new(Semaphore::new(count)))
    }

    /// A place until it is dropped, if one is free.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// The connections of a server, up to a number. One whose request is not being answered makes room for
/// a new one: the oldest from the address with the most of these. If all are being answered, so does the oldest from an
/// address that has more than half of them. So no client keeps the others out.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// In the order in which they came.
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// The place of a connection.
#[derive(Debug)]
pub(super) struct Seat {
    address: IpAddr,
    evicted: Notify,
    /// The requests that are being answered.
    answers: AtomicUsize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    connections: Arc<Connections>,
    number: u64,
    pub seat: Arc<Seat>,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Answering(Arc<Seat>);

impl Connections {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Connections { most, open: Mutex::default() })
    }

    /// A place for a connection from an address; `None`: all that are there are being answered, and are of several clients.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Taken> {
        let mut open = lock(&self.open);
        if open.seats.len() >= self.most {
            open.evict()?;
        }
        let (number, answers) = (open.next, AtomicUsize::new(0));
        open.next += 1;
        let seat = Arc::new(Seat { address, evicted: Notify::new(), answers });
        open.seats.insert(number, Arc::clone(&seat));
        Some(Taken { connections: Arc::clone(self), number, seat })
    }
}

impl Open {
    fn evict(&mut self) -> Option<()> {
        let waiting =
            self.seats.iter().filter(|(_, seat)| seat.answers.load(Ordering::Relaxed) == 0);
        let of_all = || {
            let busiest =
                Busiest::of(self.seats.iter().map(|(number, seat)| (*number, seat.address)));
            busiest.filter(|it| it.count * 2 > self.seats.len())
        };
        let busiest = Busiest::of(waiting.map(|(number, seat)| (*number, seat.address)));
        let busiest = busiest.or_else(of_all)?;
        self.seats.remove(&busiest.oldest)?.evicted.notify_one();
        Some(())
    }
}

impl Seat {
    /// Completes when the connection has to make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    pub fn answering(self: &Arc<Self>) -> Answering {
        self.answers.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.connections.open).seats.remove(&self.number);
    }
}

/// A stream whose writes fail when the other side reads nothing for some time.
pub(super) struct Timed<S> {
    stream: S,
    limit: Duration,
    /// When the write that waits fails; `None`: none waits.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Timed { stream, limit, end: None }
    }

    fn within_limit<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.end = None;
            return written;
        }
        let limit = self.limit;
        let end = self.end.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within_limit(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.within_limit(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.within_limit(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn is_open(taken: &Taken) -> bool {
        lock(&taken.connections.open).seats.contains_key(&taken.number)
    }

    #[test]
    fn the_oldest_that_waits_of_the_busiest_address_makes_room() {
        let connections = Connections::new(4);
        let take = |last| connections.take(address(last));
        let quiet = take(1).expect("a place");
        let busy: Vec<Taken> = (0..3).filter_map(|_| take(2)).collect();
        let answered = busy[0].seat.answering();
        let next = take(3).expect("a place");
        assert!(is_open(&quiet) && is_open(&busy[0]) && !is_open(&busy[1]) && is_open(&busy[2]));
        drop(answered);
        let last = take(3).expect("a place");
        assert!(is_open(&quiet) && !is_open(&busy[0]) && is_open(&next) && is_open(&last));
    }

    #[test]
    fn a_client_with_most_of_the_places_makes_room_although_it_is_being_answered() {
        let connections = Connections::new(5);
        let take = |last| connections.take(address(last)).expect("a place");
        let others = [1, 2].map(take);
        let greedy = [3, 3, 3].map(take);
        let all = others.iter().chain(&greedy);
        let _answered: Vec<_> = all.map(|taken| taken.seat.answering()).collect();
        let next = take(4);
        let _next = next.seat.answering();
        assert!(others.iter().all(is_open) && is_open(&next));
        assert_eq!(greedy.each_ref().map(is_open), [false, true, true]);
        // It has no longer more than half of them.
        assert!(connections.take(address(5)).is_none());
    }

    #[test]
    fn none_makes_room_while_all_are_being_answered() {
        let connections = Connections::new(2);
        let taken = [1, 2].map(|last| connections.take(address(last)).expect("a place"));
        let answered = taken.each_ref().map(|taken| taken.seat.answering());
        assert!(connections.take(address(3)).is_none());
        drop(answered);
        assert!(connections.take(address(3)).is_some());
        drop(taken);
        assert_eq!(lock(&connections.open).seats.len(), 0);
    }
}
