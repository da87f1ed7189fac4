//! Standard error, written by a thread of its own: a terminal that is held (Ctrl-S), or a pipe whose reader rests, takes nothing for
//! as long as it likes, and the program goes on meanwhile. It may have stopped others.

use crate::print::write_all;
use consul_process::sync::lock;
use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// For how long a line waits until it is taken; while it is not, the next ones do not wait.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);

/// The lines that are kept while none is taken: the last ones.
const MOST: usize = 1000;

static STATE: Mutex<State> = Mutex::new(State::new());
static CHANGED: Condvar = Condvar::new();

type Work = Box<dyn FnOnce() + Send>;

struct State {
    /// The work that waits, and whether it may be left out.
    waiting: VecDeque<(Work, bool)>,
    is_writing: bool,
    is_held: bool,
    has_thread: bool,
}

impl State {
    const fn new() -> State {
        State { waiting: VecDeque::new(), is_writing: false, is_held: false, has_thread: false }
    }

    fn is_busy(&mut self) -> bool {
        self.is_writing || !self.waiting.is_empty()
    }
}

/// Writes a text. Of those that wait only the last ones are kept.
pub fn write(text: String) {
    write_by(move || put(&text));
}

/// Does what writes one.
pub fn write_by(work: impl FnOnce() + Send + 'static) {
    add(true, work);
}

/// Writes a text within such work.
pub fn put(text: &str) {
    // There is nobody to tell that it fails.
    let _ = write_all(&mut io::stderr(), text.as_bytes());
}

/// Does what is not left out, in its order.
pub fn draw(work: impl FnOnce() + Send + 'static) {
    add(false, work);
}

/// Does so, unless what was to be written before still waits.
pub fn draw_if_taken(work: impl FnOnce() + Send + 'static) {
    if !lock(&STATE).is_held {
        draw(work);
    }
}

/// Waits until all is taken, at the end of the program.
pub fn wait() {
    let state = lock(&STATE);
    drop(CHANGED.wait_while(state, |state| state.is_busy()));
}

fn add(may_be_left_out: bool, added: impl FnOnce() + Send + 'static) {
    let mut state = lock(&STATE);
    if !state.has_thread {
        if thread::Builder::new().spawn(work).is_err() {
            drop(state);
            return added();
        }
        state.has_thread = true;
    }
    if state.waiting.len() >= MOST
        && let Some(first) = state.waiting.iter().position(|(_, may_be_left_out)| *may_be_left_out)
    {
        state.waiting.remove(first);
    }
    state.waiting.push_back((Box::new(added), may_be_left_out));
    CHANGED.notify_all();
    if state.is_held {
        return;
    }
    let taken = CHANGED.wait_timeout_while(state, TAKEN_WITHIN, |state| state.is_busy());
    let (mut state, _) = taken.unwrap_or_else(PoisonError::into_inner);
    state.is_held = state.is_busy();
}

/// The work of the thread.
fn work() {
    loop {
        let waited = CHANGED.wait_while(lock(&STATE), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let Some((next, _)) = state.waiting.pop_front() else { continue };
        state.is_writing = true;
        drop(state);
        next();
        let mut state = lock(&STATE);
        state.is_writing = false;
        state.is_held &= state.is_busy();
        CHANGED.notify_all();
    }
}
