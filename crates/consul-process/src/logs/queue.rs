//! The lines for the program's log functions. They arise on any thread; a function belongs to a Lua state, and is
//! called on the thread of a call of that state, which takes them from here.

use super::line::Line;
use crate::os::{self, PerProcess};
use crate::sync::lock;
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// The most lines that wait; further ones are lost, and counted.
pub const MAX_WAITING: usize = 1000;

/// The fork generation of the process in which no line waits, or [`LINES_WAIT`]. In a forked child it is another
/// one, so that the child's first call looks.
static QUIET: AtomicU32 = AtomicU32::new(0);

const LINES_WAIT: u32 = u32::MAX;

/// The queue of the process.
static QUEUE: PerProcess<Queue> = PerProcess::new();

thread_local! {
    /// Whether a log function runs on this thread.
    static IS_DELIVERING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a call is to look at [`delivery`].
pub fn is_due() -> bool {
    QUIET.load(Ordering::Relaxed) != os::fork_generation()
}

/// The queue of this process.
pub(super) fn of_process() -> &'static Queue {
    QUEUE.get()
}

/// The lines that wait at this moment, for a log function; None in a call that such a function makes.
pub fn delivery() -> Option<Delivery> {
    if IS_DELIVERING.replace(true) {
        return None;
    }
    let state = lock(&of_process().0);
    state.show();
    Some(Delivery { left: state.lines.len() })
}

/// Takes lines. Until it is dropped, lines of this thread, which the log function causes, do not wait for one.
#[derive(Debug)]
pub struct Delivery {
    left: usize,
}

impl Iterator for Delivery {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        self.left = self.left.checked_sub(1)?;
        of_process().take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        IS_DELIVERING.set(false);
    }
}

/// A place that takes lines, until it is dropped. A forked child has none of its parent's.
#[derive(Debug)]
pub struct Receiver {
    generation: u32,
}

impl Receiver {
    /// One more place, in this process.
    pub fn new() -> Self {
        of_process().open();
        Receiver { generation: os::fork_generation() }
    }

    /// Whether this process is a forked child of its maker.
    pub fn belongs_to_parent(&self) -> bool {
        self.generation != os::fork_generation()
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver::new()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if !self.belongs_to_parent() {
            of_process().close().iter().for_each(Line::write);
        }
    }
}

/// The lines of a process that wait for a log function.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of places that take lines.
    receivers: usize,
    lines: VecDeque<Line>,
}

impl State {
    fn show(&self) {
        let quiet = if self.lines.is_empty() { os::fork_generation() } else { LINES_WAIT };
        QUIET.store(quiet, Ordering::Relaxed);
    }
}

impl Queue {
    /// Whether lines of this thread come here.
    pub fn takes_lines(&self) -> bool {
        !IS_DELIVERING.get() && lock(&self.0).receivers > 0
    }

    /// Adds a line, and returns it if nothing takes it any more.
    pub fn push(&self, line: Line) -> Option<Line> {
        let mut state = lock(&self.0);
        if state.receivers == 0 {
            return Some(line);
        }
        if state.lines.len() < MAX_WAITING {
            state.lines.push_back(line);
        } else if let Some(last) = state.lines.back_mut() {
            last.lost += 1;
        }
        state.show();
        None
    }

    fn open(&self) {
        let mut state = lock(&self.0);
        state.receivers += 1;
        state.show();
    }

    /// Takes a place away; the lines that no other place takes.
    fn close(&self) -> VecDeque<Line> {
        let mut state = lock(&self.0);
        state.receivers = state.receivers.saturating_sub(1);
        let lines =
            if state.receivers == 0 { std::mem::take(&mut state.lines) } else { VecDeque::new() };
        state.show();
        lines
    }

    fn take(&self) -> Option<Line> {
        let mut state = lock(&self.0);
        let line = state.lines.pop_front();
        state.show();
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn line(number: usize) -> Line {
        Line::with(Level::WARN, number.to_string())
    }

    fn push(queue: &Queue, number: usize) {
        assert!(queue.push(line(number)).is_none());
    }

    #[test]
    fn lines_beyond_the_limit_are_lost_and_counted_where_they_are_missing() {
        let queue = Queue::default();
        queue.open();
        (0..MAX_WAITING + 5).for_each(|number| push(&queue, number));
        assert_eq!(queue.take().map(|line| (line.message, line.lost)), Some(("0".to_owned(), 0)));
        push(&queue, 7777);
        push(&queue, 8888);
        let rest: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(rest.len(), MAX_WAITING);
        let lost: Vec<_> = rest.iter().filter(|line| line.lost > 0).collect();
        let told: Vec<_> = lost.iter().map(|line| (line.message.as_str(), line.lost)).collect();
        assert_eq!(told, [("999", 5), ("7777", 1)]);
    }

    #[test]
    fn nothing_waits_for_a_place_that_is_gone() {
        let queue = Queue::default();
        assert!(!queue.takes_lines());
        assert!(queue.push(line(1)).is_some());
        queue.open();
        queue.open();
        assert!(queue.takes_lines());
        push(&queue, 1);
        assert!(queue.close().is_empty(), "another place takes it");
        assert_eq!(queue.close().len(), 1);
        assert!(!queue.takes_lines() && queue.take().is_none());
        assert!(queue.push(line(2)).is_some());
    }

    #[test]
    fn a_call_of_a_log_function_delivers_nothing_and_its_lines_do_not_wait() {
        let queue = Queue::default();
        queue.open();
        let delivery = delivery();
        assert!(delivery.is_some() && super::delivery().is_none());
        assert!(!queue.takes_lines());
        drop(delivery);
        assert!(queue.takes_lines() && super::delivery().is_some());
    }
}
