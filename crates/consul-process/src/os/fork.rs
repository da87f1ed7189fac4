//! Forks of the process, and descriptors that a forked child must not have.

use crate::sync::lock;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The number of forks between this process and the first caller of [`watch_forks`].
///
/// Objects of another generation belong to the parent: a runtime would hang and a connection would
/// be shared, so they must be forgotten, neither used nor dropped.
pub fn fork_generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Counts forks from now on. Call it before creating anything that depends on [`fork_generation`].
///
/// # Errors
/// When there is no memory to register the handler.
pub fn watch_forks() -> io::Result<()> {
    static IS_WATCHED: Mutex<bool> = Mutex::new(false);
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        for entry in &CLOSED_ON_FORK {
            let fd = entry.swap(FREE, Ordering::Relaxed);
            if fd != FREE {
                // SAFETY: the child has a copy of its own of each descriptor, and the owner that it
                // had in the parent is never used or dropped in the child.
                unsafe { libc::close(fd) };
            }
        }
    }
    let mut is_watched = lock(&IS_WATCHED);
    if !*is_watched {
        // SAFETY: the handler only changes atomics and closes descriptors, which any child may do,
        // and the code stays mapped for as long as the process lives (build.rs).
        let error = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        *is_watched = true;
    }
    Ok(())
}

static CLOSED_ON_FORK: [AtomicI32; 64] = [const { AtomicI32::new(FREE) }; 64];

/// An entry without a descriptor.
const FREE: RawFd = -1;

/// A descriptor that a forked child closes before it does anything else. A child made by `vfork` or
/// `posix_spawn` has it until it executes another program, or ends.
#[derive(Debug)]
pub struct CloseOnFork<T: AsRawFd> {
    owner: Option<T>,
    index: usize,
    generation: u32,
}

impl<T: AsRawFd> CloseOnFork<T> {
    /// Keeps the descriptor from children that are forked from now on.
    ///
    /// # Errors
    /// When the process has 64 of these already, or as [`watch_forks`].
    pub fn new(owner: T) -> io::Result<Self> {
        watch_forks()?;
        let fd = owner.as_raw_fd();
        let take = |entry: &AtomicI32| {
            entry.compare_exchange(FREE, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let index = CLOSED_ON_FORK.iter().position(take).ok_or_else(|| {
            let max = CLOSED_ON_FORK.len();
            io::Error::other(format!(
                "the process has {max} descriptors that are closed on fork, the maximum"
            ))
        })?;
        Ok(Self { owner: Some(owner), index, generation: fork_generation() })
    }

    /// The owner of the descriptor; `None` in a child.
    pub fn get(&self) -> Option<&T> {
        self.owner.as_ref().filter(|_| self.generation == fork_generation())
    }
}

impl<T: AsRawFd> Drop for CloseOnFork<T> {
    fn drop(&mut self) {
        let owner = self.owner.take();
        if self.generation == fork_generation() {
            // Before the descriptor is closed, so that a child forked in between does not close its
            // number, which may be another file's by then.
            CLOSED_ON_FORK[self.index].store(FREE, Ordering::Relaxed);
        } else {
            // It is closed, and its number may be another file's.
            std::mem::forget(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::PerProcess;
    use libc::c_int;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// The exit status of a forked child that only runs `work`, which must not take a lock.
    fn status_of_child(work: impl FnOnce() -> c_int) -> c_int {
        // SAFETY: the child runs `work` and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = work();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status: c_int = 0;
        // SAFETY: the child is ours, and the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        libc::WEXITSTATUS(status)
    }

    fn is_true_in_child(check: impl FnOnce() -> bool) -> bool {
        status_of_child(|| c_int::from(check())) == 1
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: the call gets no memory.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    #[test]
    fn a_child_has_no_descriptor_of_its_parent_alone() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        assert!(is_true_in_child(|| is_open(fd)), "it has none at all, so this tests nothing");
        let kept = CloseOnFork::new(ours).unwrap();
        assert!(is_true_in_child(|| !is_open(fd) && kept.get().is_none()));
        assert!(kept.get().is_some() && is_open(fd));
        drop(kept);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "it is closed");
    }

    #[test]
    fn a_child_has_values_of_its_own_whatever_its_parent_has_locked() {
        watch_forks().unwrap();
        let values = PerProcess::<Mutex<u32>>::new();
        let mut held = lock(values.get());
        *held = 7;
        assert!(is_true_in_child(|| values.get().try_lock().is_ok_and(|value| *value == 0)));
        drop(held);
        assert_eq!(*lock(values.get()), 7);
    }

    #[test]
    fn a_child_is_another_generation_and_its_parent_is_not() {
        watch_forks().unwrap();
        watch_forks().unwrap();
        let before = fork_generation();
        let in_child = status_of_child(|| (fork_generation() - before) as c_int);
        assert_eq!(in_child, 1, "registered twice, or not at all");
        assert_eq!(fork_generation(), before);
    }
}
