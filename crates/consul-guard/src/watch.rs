//! The side of the guard process: waits for the death of its process, then sends the deferred
//! requests.

use super::message::{DeferredRequest, Message};
use super::send::{Failure, Sender};
use super::{GREETING, PONG, READY};
use consul_process::os::Process;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

/// How long to retry while Consul does not answer. After that the check of the process has expired.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// The first pause between two attempts; it doubles with each pause.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest time from the moment when the kernel closes a process's descriptors to its end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the messages of a process until its death, then sends the requests that it deferred.
pub fn watch(socket: &UnixStream, process: &Process) {
    let mut lines = BufReader::new(socket);
    let mut senders = BTreeMap::new();
    let mut requests = BTreeMap::new();
    let mut ended = Vec::new();
    while let Ok(Some(message)) = next(&mut lines) {
        match message {
            Message::Ping => answer(socket, PONG),
            Message::Connect(client, connection) => match Sender::new(connection) {
                Ok(sender) => {
                    senders.insert(client, sender);
                    answer(socket, &greeting(READY));
                }
                Err(error) => answer(socket, &greeting(error.message())),
            },
            Message::Defer(number, client, request) => {
                requests.insert(number, (client, request));
            }
            Message::Cancel(number) => drop(requests.remove(&number)),
            Message::Disconnect(client) => {
                let left = take_requests(&mut requests, client);
                if let Some(sender) = senders.remove(&client).filter(|_| !left.is_empty()) {
                    // The process lives.
                    let deadline = Instant::now() + RETRY_FOR;
                    let send = move || send_in_order(&left, &sender, false, deadline);
                    ended.extend(thread::Builder::new().spawn(send).ok());
                }
            }
        }
    }
    let groups = senders.into_iter().map(|(client, sender)| {
        let left = take_requests(&mut requests, client);
        (sender, left)
    });
    let groups: Vec<_> = groups.filter(|(_, left)| !left.is_empty()).collect();
    if groups.is_empty() && ended.is_empty() {
        return;
    }
    // Name resolution has no time limit of its own.
    let _ = thread::Builder::new().spawn(|| {
        thread::sleep(EXIT_TIMEOUT + RETRY_FOR + MAX_PAUSE);
        process::exit(1);
    });
    send_all(&groups, process);
    ended.into_iter().for_each(|sending| drop(sending.join()));
}

/// Takes out the requests of a client, in the order of their steps: a key is unlocked before its
/// session ends, because otherwise the lock delay would begin.
fn take_requests(
    requests: &mut BTreeMap<u64, (u64, DeferredRequest)>,
    client: u64,
) -> Vec<DeferredRequest> {
    let (left, kept) = mem::take(requests).into_iter().partition(|(_, (of, _))| *of == client);
    *requests = kept;
    let left: BTreeMap<_, _> = left;
    let mut left: Vec<_> = left.into_values().map(|(_, request)| request).collect();
    left.sort_by_key(|request| request.step);
    left
}

fn greeting(state: &str) -> String {
    format!("{GREETING}{state}\n")
}

fn answer(mut socket: &UnixStream, line: &str) {
    // Without a reader the process is dead, and the next read says so.
    let _ = socket.write_all(line.as_bytes());
}

/// The next message; `None` at the end, and for a line that was cut by the end.
fn next(lines: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Sends the requests of all clients at the same time, since one's Consul may not answer.
fn send_all(groups: &[(Sender, Vec<DeferredRequest>)], process: &Process) {
    // If the process lives, it became another program, or closed a descriptor that was not its own, and
    // may still rely on its locks.
    let is_dead = process.exits_within(EXIT_TIMEOUT);
    let deadline = Instant::now() + RETRY_FOR;
    thread::scope(|scope| {
        for (sender, requests) in groups {
            let send = move || send_in_order(requests, sender, is_dead, deadline);
            if groups.len() == 1 || thread::Builder::new().spawn_scoped(scope, send).is_err() {
                send();
            }
        }
    });
}

/// Sends the requests of a client. While its process lives, those that require its exit are left out,
/// so that others have to wait for the lock delay.
fn send_in_order(requests: &[DeferredRequest], sender: &Sender, is_dead: bool, deadline: Instant) {
    let mut pause = FIRST_PAUSE;
    let is_step = |one: &DeferredRequest, other: &DeferredRequest| one.step == other.step;
    for step in requests.chunk_by(is_step) {
        let mut left: Vec<_> =
            step.iter().filter(|request| is_dead || !request.step.requires_exit()).collect();
        loop {
            // A retry of a refused request would be refused again. Those of the other keys come before it.
            left.retain(|request| sender.send(request, deadline) == Err(Failure::Transient));
            if left.is_empty() {
                break;
            }
            if Instant::now() + pause >= deadline {
                return;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
