//! The side of the guard process: waits for the death of its process, then sends the deferred
//! requests.

use super::message::{DeferredRequest, Message};
use super::send::{Failure, Sender, TIMEOUT};
use super::{GREETING, PONG, READY};
use consul_process::os::Process;
use consul_process::sync::lock;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long to retry while Consul does not answer. After that the check of the process has expired.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// The first pause between two attempts; it doubles with each pause.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How many requests of a client are on their way at a time.
const AT_A_TIME: usize = 16;

/// The shortest time limit of a request while many others wait.
const SHORTEST_LIMIT: Duration = Duration::from_millis(250);

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
            // A retry of a refused request would be refused again. The requests of the other keys come before it.
            left = send_once(&left, sender, deadline, TIMEOUT);
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

/// Sends each request once, several at a time, with a time limit that is shorter the more wait, so that those without an answer
/// delay the others less. Returns those that a retry may help.
fn send_once<'a>(
    requests: &[&'a DeferredRequest],
    sender: &Sender,
    deadline: Instant,
    longest: Duration,
) -> Vec<&'a DeferredRequest> {
    let (sent, again) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((request, after)) =
            requests[sent.fetch_add(1, Ordering::Relaxed).min(requests.len())..].split_first()
        {
            let share = AT_A_TIME as f64 / (after.len() + 1) as f64;
            let limit = (longest * 2).mul_f64(share).clamp(SHORTEST_LIMIT, longest);
            if sender.send(request, limit, deadline) == Err(Failure::Transient) {
                lock(&again).push(*request);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_A_TIME.min(requests.len()) {
            // Without another thread those that run send the rest.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    again.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Connection;
    use bytes::Bytes;
    use consul_client::coordination::ReleaseStep;
    use consul_client::transport::Options;
    use http::Request;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// Answers the requests without `silent` in their path, then the others.
    fn serve(listener: &TcpListener, count: usize, silent_count: usize) {
        let (mut silent, mut answered) = (Vec::new(), 0);
        let reply = |mut stream: &TcpStream| {
            let text = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\ntrue";
            let _ = stream.write_all(text);
        };
        while answered < count || silent.len() < silent_count {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).expect("a request") == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            match String::from_utf8_lossy(&head).contains("silent") {
                true => silent.push(stream),
                false => {
                    reply(&stream);
                    answered += 1;
                }
            }
        }
        silent.iter().for_each(reply);
    }

    #[test]
    fn requests_without_answers_delay_no_other() {
        for (silent, healthy) in [(1, 19), (3, 17), (15, 40)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let server = thread::spawn(move || serve(&listener, healthy, silent));
            let http = Options::default();
            let sender = Sender::new(Connection { endpoints: vec![url], token_file: None, http });
            let sender = sender.expect("a sender");
            let requests: Vec<_> = (0..silent + healthy)
                .map(|number| {
                    let name = if number < silent { "silent" } else { "healthy" };
                    let path = format!("/v1/session/destroy/{name}-{number}");
                    let request = Request::put(path).body(Bytes::new()).expect("a request");
                    DeferredRequest::new(ReleaseStep::Unlock, 0, &request)
                })
                .collect();
            let requests: Vec<_> = requests.iter().collect();
            let hour = Duration::from_secs(3600);
            let left = send_once(&requests, &sender, Instant::now() + hour, hour);
            assert!(left.is_empty(), "{silent}, {healthy}: {}", left.len());
            server.join().expect("no panic");
        }
    }
}
