//! What the program consul-guard does.

use super::order::{Errand, Order};
use super::send::{Failure, Sender};
use super::{GREETING, READY};
use crate::os::Process;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

/// How long a Consul that does not answer is asked again. After that the check of the process has
/// expired.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first pause between two attempts; it doubles up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the kernel may take from closing a process's descriptors to its end.
const END_TAKES: Duration = Duration::from_secs(1);

/// Listens to the process at the other end until it is gone, then does what it entrusted.
///
/// # Errors
/// When the process does not speak as it should.
pub fn watch(socket: &UnixStream, process: &Process) -> io::Result<()> {
    let mut lines = BufReader::new(socket);
    let Some(Order::Connect(connection)) = next(&mut lines)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let sender = match Sender::new(connection) {
        Ok(sender) => sender,
        Err(error) => return say(socket, error.message()),
    };
    say(socket, READY)?;
    let mut errands = BTreeMap::new();
    while let Ok(Some(order)) = next(&mut lines) {
        match order {
            Order::Entrust(number, errand) => drop(errands.insert(number, errand)),
            Order::Withdraw(number) => drop(errands.remove(&number)),
            Order::Connect(_) => {}
        }
    }
    if !errands.is_empty() {
        perform(errands.into_values().collect(), &sender, process);
    }
    Ok(())
}

fn say(mut socket: &UnixStream, what: &str) -> io::Result<()> {
    socket.write_all(format!("{GREETING}{what}\n").as_bytes())
}

/// The next order; none at the end, and for a line that the end cut.
fn next(lines: &mut impl BufRead) -> io::Result<Option<Order>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Does it all, in the order of the deeds, so that a key is free before its session is over.
fn perform(mut errands: Vec<Errand>, sender: &Sender, process: &Process) {
    errands.sort_by_key(|errand| errand.deed);
    let mut errands = VecDeque::from(errands);
    if !process.is_gone_within(END_TAKES) {
        // It became another program, or closed a descriptor that is not its own, and may believe in
        // its locks for a while: then others have to wait for the lock delay.
        errands.retain(|errand| !errand.deed.needs_the_end());
    }
    let deadline = Instant::now() + PATIENCE;
    // A name look-up knows no limit of time.
    let _ = thread::Builder::new().spawn(|| {
        thread::sleep(PATIENCE + LONGEST_PAUSE);
        process::exit(1);
    });
    let mut pause = FIRST_PAUSE;
    while let Some(errand) = errands.front() {
        match sender.send(errand, deadline) {
            // What was refused would be refused again.
            Ok(()) | Err(Failure::Refused) => drop(errands.pop_front()),
            Err(Failure::Transient) => {
                if Instant::now() + pause >= deadline {
                    return;
                }
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
