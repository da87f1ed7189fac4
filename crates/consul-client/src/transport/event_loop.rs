//! Calls whose bytes a program's event loop sends and receives, on sockets that it watches itself, such as the cosockets of
//! nginx: such a call needs neither a thread nor the wake-up of another one. It is polled, says what it waits for, and is
//! polled again with what came.

use super::http::error;
use super::http1::{RequestHeads, ResponseParser};
use super::plain::{self, Place};
use super::{Cause, Failure, Options, Transport};
use ::http::{Request, Response};
use bytes::Bytes;
use consul_api::error::Error;
use consul_process::clock::{BoxFuture, Clock, Instant};
use consul_process::sync::lock;
use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The needs of a call from its event loop; the transport and the clock add them between two polls.
#[derive(Default)]
struct Turn {
    received: Option<Received>,
    exchange: Option<Exchange>,
    receives: bool,
    until: Option<Instant>,
    can_reuse: bool,
}

thread_local! {
    /// That of the call which this thread polls.
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// An endpoint as an event loop connects to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// An IP address, in brackets if it is of version 6, or `unix:` and a path.
    pub host: String,
    /// The port, unless it is a unix socket.
    pub port: Option<u16>,
    /// The name of the pool of its connections. Connections of another name are not to be used any more.
    pub pool: String,
    /// How many pools were given up before.
    given_up: u64,
}

impl Address {
    fn new(host: String, port: Option<u16>, given_up: u64) -> Arc<Self> {
        let pool = format!("consul_ffi {host} {} {given_up}", port.unwrap_or_default());
        Arc::new(Address { host, port, pool, given_up })
    }
}

/// A request to be sent on a connection, a kept one or a new one.
pub struct Exchange {
    /// Where to.
    pub address: Arc<Address>,
    /// The whole request.
    pub request: Vec<u8>,
}

/// The outcome of an exchange.
pub enum Received {
    /// The next bytes.
    Bytes(Vec<u8>),
    /// The connection was closed.
    End,
    /// It failed, before anything was sent or later.
    Failed {
        /// Why.
        why: Cause,
        /// Whether the agent can have seen the request.
        sent: bool,
    },
}

/// A call between two polls.
pub enum Step<T> {
    /// It is complete; whether its connection can be used for another request.
    Done(T, bool),
    /// It waits for something until this moment at most.
    Waits(Need, Option<Instant>),
}

/// The aim of a call's wait.
pub enum Need {
    /// The answer to this exchange, in place of the one before.
    Exchange(Exchange),
    /// More of the answer.
    More,
    /// The moment.
    Time,
}

/// A call that an event loop runs. A drop ends it.
pub struct LoopCall<T>(BoxFuture<'static, T>);

impl<T> LoopCall<T> {
    /// A call by a client with the transports and the clock of this module.
    pub fn new(call: impl Future<Output = T> + Send + 'static) -> Self {
        LoopCall(Box::pin(call))
    }

    /// Continues it with what came, or because the time has.
    pub fn step(&mut self, received: Option<Received>) -> Step<T> {
        TURN.set(Some(Turn { received, ..Turn::default() }));
        let polled = self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let turn = TURN.take().unwrap_or_default();
        match polled {
            Poll::Ready(done) => Step::Done(done, turn.can_reuse),
            Poll::Pending => {
                let need = match turn.exchange {
                    Some(exchange) => Need::Exchange(exchange),
                    None if turn.receives => Need::More,
                    None => Need::Time,
                };
                Step::Waits(need, turn.until)
            }
        }
    }
}

impl<T> fmt::Debug for LoopCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopCall").finish_non_exhaustive()
    }
}

/// A clock, with the timers of the event loop.
#[derive(Clone, Debug)]
pub struct LoopClock(Arc<dyn Clock>);

impl LoopClock {
    /// The time of this clock, whose own timers are not used.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(clock)
    }
}

impl Clock for LoopClock {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(poll_fn(move |_| {
            if clock.now() >= deadline {
                return Poll::Ready(());
            }
            TURN.with_borrow_mut(|turn| {
                if let Some(turn) = turn {
                    turn.until = Some(turn.until.map_or(deadline, |until| until.min(deadline)));
                }
            });
            Poll::Pending
        }))
    }
}

/// The transport to an agent without TLS whose address needs no lookup.
pub struct LoopTransport {
    endpoint: String,
    address: Mutex<Arc<Address>>,
    heads: RequestHeads,
    max_in_flight: usize,
}

impl LoopTransport {
    /// A transport to this endpoint, `None` if it has TLS or a name instead of an address.
    ///
    /// # Errors
    /// [`consul_api::error::Kind::Config`] when the URL is not valid.
    pub fn new(endpoint: &str, options: &Options) -> Result<Option<Self>, Error> {
        if endpoint.starts_with("https") {
            return Ok(None);
        }
        let (place, heads) = plain::place(endpoint, options)?;
        let (host, port) = match place {
            Place::Unix(path) => match path.into_os_string().into_string() {
                Ok(path) => (format!("unix:{path}"), None),
                Err(_) => return Ok(None),
            },
            Place::Tcp(url) => {
                let host = url.host().unwrap_or_default();
                let inner = host.trim_start_matches('[').trim_end_matches(']');
                if inner.parse::<IpAddr>().is_err() {
                    return Ok(None);
                }
                (host.to_owned(), Some(url.port_u16().unwrap_or(80)))
            }
        };
        Ok(Some(Self {
            endpoint: endpoint.to_owned(),
            address: Mutex::new(Address::new(host, port, 0)),
            heads,
            max_in_flight: options.max_connections,
        }))
    }
}

impl Transport for LoopTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let mut bytes = self.heads.encode(&request);
        bytes.extend_from_slice(request.body());
        let answer = Some(ResponseParser::of_answer_to(&request));
        let mut reading = Reading { answer, rest: Vec::new() };
        let mut unsent = Some(bytes);
        Box::pin(poll_fn(move |_| {
            TURN.with_borrow_mut(|turn| {
                let turn = turn.get_or_insert_default();
                if let Some(request) = unsent.take() {
                    // Anything else that came was for the exchange before.
                    turn.received = None;
                    let address = Arc::clone(&lock(&self.address));
                    turn.exchange = Some(Exchange { address, request });
                    return Poll::Pending;
                }
                turn.receives = true;
                match turn.received.take().map(|received| reading.take(received)) {
                    None | Some(Ok(None)) => Poll::Pending,
                    Some(Ok(Some((answer, can_reuse)))) => {
                        turn.can_reuse = can_reuse;
                        Poll::Ready(Ok(answer))
                    }
                    Some(Err(failure)) => Poll::Ready(Err(error(&self.endpoint, failure))),
                }
            })
        }))
    }

    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    fn close_idle(&self) {
        TURN.with_borrow_mut(|turn| turn.get_or_insert_default().can_reuse = false);
        let mut address = lock(&self.address);
        *address = Address::new(address.host.clone(), address.port, address.given_up + 1);
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl fmt::Debug for LoopTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoopTransport").field(&self.endpoint).finish()
    }
}

/// An answer as it arrives.
struct Reading {
    /// `None` once it is complete.
    answer: Option<ResponseParser>,
    /// Bytes that are not parsed yet.
    rest: Vec<u8>,
}

impl Reading {
    /// Takes what came; returns the answer once it is complete, and whether its connection can be used again.
    fn take(&mut self, received: Received) -> Result<Option<(Response<Bytes>, bool)>, Failure> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let failed = |cause| Failure { cause, sent: true };
        match received {
            Received::Failed { why, sent } => return Err(Failure { cause: why, sent }),
            Received::End => answer.end_of_stream().map_err(failed)?,
            Received::Bytes(bytes) => {
                match self.rest.is_empty() {
                    true => self.rest = bytes,
                    false => self.rest.extend_from_slice(&bytes),
                }
                let taken = answer.parse(&self.rest).map_err(failed)?;
                self.rest.drain(..taken);
            }
        }
        let complete = self.answer.take_if(|answer| answer.is_complete());
        Ok(complete.map(|answer| {
            let (answer, keeps_alive) = answer.finish();
            // Further bytes would be taken for the answer to the next request.
            (answer, keeps_alive && self.rest.is_empty())
        }))
    }
}
