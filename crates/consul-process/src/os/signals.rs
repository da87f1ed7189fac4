//! Signals: threads in which no handler of the program runs, and writes without SIGPIPE.

use libc::c_int;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::thread::{self, JoinHandle};

/// Starts a thread in which no signal handler of the program runs: a handler may belong to an
/// engine that is not safe there, such as Lua's own handler of Ctrl-C.
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // The new thread inherits the mask.
    let _mask = Mask::block(&asynchronous_signals());
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Keeps signal handlers of the program out of the calling thread from now on, for threads that
/// [`spawn`] has not started.
pub fn block_signals() {
    set_mask(libc::SIG_BLOCK, &asynchronous_signals());
}

/// Makes a write of this thread to a closed connection an error instead of a SIGPIPE, which would
/// end the process, until it is dropped.
pub struct NoSigpipe {
    _mask: Mask,
    /// Whether one was pending before, which is the program's own.
    was_pending: bool,
}

impl NoSigpipe {
    /// Blocks SIGPIPE in this thread.
    #[allow(clippy::new_without_default)] // it has an effect
    pub fn new() -> Self {
        let mask = Mask::block(&signal_set(&[libc::SIGPIPE]));
        // A signal that was not blocked cannot be pending.
        let was_pending = is_member(&mask.before, libc::SIGPIPE) && sigpipe_is_pending();
        NoSigpipe { _mask: mask, was_pending }
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        if !self.was_pending && sigpipe_is_pending() {
            let mut taken: c_int = 0;
            // SAFETY: the set is initialised; the signal is pending in this thread and blocked, so
            // this takes it and does not wait.
            unsafe { libc::sigwait(&signal_set(&[libc::SIGPIPE]), &mut taken) };
        }
        // The mask is dropped after this.
    }
}

/// Blocks signals in this thread until it is dropped.
struct Mask {
    before: libc::sigset_t,
    /// A mask belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl Mask {
    fn block(signals: &libc::sigset_t) -> Mask {
        let before = set_mask(libc::SIG_BLOCK, signals);
        Mask { before, _not_send: PhantomData }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        set_mask(libc::SIG_SETMASK, &self.before);
    }
}

/// All signals except those that report a fault of the thread itself, which cannot be blocked.
fn asynchronous_signals() -> libc::sigset_t {
    let mut set = signal_set(&[]);
    // SAFETY: the set is initialised, and the numbers are signals.
    unsafe {
        libc::sigfillset(&mut set);
        for fault in [
            libc::SIGABRT,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGSEGV,
            libc::SIGSYS,
            libc::SIGTRAP,
        ] {
            libc::sigdelset(&mut set, fault);
        }
    }
    set
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and the numbers are signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Changes this thread's mask; returns the previous one.
fn set_mask(how: c_int, signals: &libc::sigset_t) -> libc::sigset_t {
    let mut before = signal_set(&[]);
    // SAFETY: both sets are initialised, and `how` is valid, so this cannot fail.
    unsafe { libc::pthread_sigmask(how, signals, &mut before) };
    before
}

fn is_member(set: &libc::sigset_t, signal: c_int) -> bool {
    // SAFETY: the set is initialised, and the number is a signal.
    unsafe { libc::sigismember(set, signal) == 1 }
}

fn sigpipe_is_pending() -> bool {
    let mut pending = signal_set(&[]);
    // SAFETY: the set is initialised and outlives the call.
    unsafe { libc::sigpending(&mut pending) };
    is_member(&pending, libc::SIGPIPE)
}

#[cfg(test)]
mod tests {
    use super::super::{ReceiveMode, is_idle, receive, send};
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    fn mask() -> libc::sigset_t {
        set_mask(libc::SIG_BLOCK, &signal_set(&[]))
    }

    /// Writes to a connection whose other side is closed, in the way that raises SIGPIPE.
    fn write_without_reader() -> io::Error {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        // SAFETY: the descriptor is open, and the byte outlives the call.
        let written = unsafe { libc::write(near.as_raw_fd(), b"x".as_ptr().cast(), 1) };
        assert_eq!(written, -1);
        io::Error::last_os_error()
    }

    fn in_a_thread(work: impl FnOnce() + Send + 'static) {
        thread::spawn(work).join().unwrap();
    }

    #[test]
    fn a_broken_connection_raises_no_sigpipe_and_leaves_none_behind() {
        in_a_thread(|| {
            let guard = NoSigpipe::new();
            assert_eq!(write_without_reader().kind(), io::ErrorKind::BrokenPipe);
            assert!(sigpipe_is_pending(), "the write raised none, so this tests nothing");
            drop(guard);
            assert!(!sigpipe_is_pending());
            assert!(!is_member(&mask(), libc::SIGPIPE));
        });
    }

    #[test]
    fn a_write_without_a_reader_is_refused_without_a_sigpipe() {
        in_a_thread(|| {
            set_mask(libc::SIG_BLOCK, &signal_set(&[libc::SIGPIPE]));
            let (near, far) = UnixStream::pair().unwrap();
            drop(far);
            assert_eq!(send(&near, [b"a", b"b"]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            assert!(!sigpipe_is_pending());
            assert!(!is_idle(&near));
            assert_eq!(receive(&near, &mut [0; 9], ReceiveMode::Blocking).unwrap(), 0);
        });
    }

    #[test]
    fn a_sigpipe_that_waited_before_still_waits() {
        in_a_thread(|| {
            set_mask(libc::SIG_BLOCK, &signal_set(&[libc::SIGPIPE]));
            write_without_reader();
            drop(NoSigpipe::new());
            assert!(sigpipe_is_pending());
            assert!(is_member(&mask(), libc::SIGPIPE));
        });
    }

    #[test]
    fn a_thread_of_ours_takes_no_signal_but_its_own_faults() {
        let (send, receive) = mpsc::channel();
        let thread = spawn("a name", move || {
            let mask = mask();
            send.send((thread::current().name().map(str::to_owned), mask)).unwrap();
        });
        let (name, inside) = receive.recv().unwrap();
        thread.unwrap().join().unwrap();
        assert_eq!(name.as_deref(), Some("a name"));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGPIPE, libc::SIGPROF, libc::SIGCHLD] {
            assert!(is_member(&inside, signal), "{signal}");
            assert!(!is_member(&mask(), signal), "{signal} in the thread that starts it");
        }
        assert!(!is_member(&inside, libc::SIGSEGV));
    }

    #[test]
    fn a_thread_of_others_can_block_its_signals() {
        in_a_thread(|| {
            block_signals();
            assert!(is_member(&mask(), libc::SIGINT));
        });
    }
}
