//! Processes: the file of this code, a daemon, and the end of another process.

use libc::c_int;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

/// The file that this code was loaded from: the module, or a program that contains it.
pub fn module_path() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let here = module_path as fn() -> Option<PathBuf>;
    // SAFETY: the address is one of a function, and the structure outlives the call.
    let known = unsafe { libc::dladdr(here as *const libc::c_void, found.as_mut_ptr()) };
    // SAFETY: all zeros are a valid value too.
    let name = unsafe { found.assume_init() }.dli_fname;
    if known == 0 || name.is_null() {
        return None;
    }
    // SAFETY: the text belongs to the loader and stays as long as this code is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    std::path::absolute(Path::new(OsStr::from_bytes(name.to_bytes()))).ok()
}

/// Makes this process a daemon: in a session of its own, in the root directory, with no descriptors
/// but standard input, output and error, and without a reaction to SIGHUP, SIGINT and SIGTERM. The
/// calling process ends here, and the call returns in a child that nobody has to wait for.
///
/// Call it before there are threads.
///
/// # Errors
/// When the system cannot create a process.
pub fn daemonize() -> io::Result<()> {
    // SAFETY: there are no other threads, so the child has all that this process has.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        _ => process::exit(0),
    }
    // SAFETY: the calls get no memory. setsid cannot fail, because a child does not lead a group.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    std::env::set_current_dir("/")?;
    close_from(3);
    Ok(())
}

/// Ends all processes of a group, at once.
pub fn kill_group(leader: u32) {
    if let Ok(leader @ 2..) = libc::pid_t::try_from(leader) {
        // SAFETY: the call has no memory; a group that is gone is an error that does not matter.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Keeps the memory and the environment of this process, and of its children, from other processes of
/// the same user, and out of core dumps. Only root can still read them.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call gets numbers alone. It fails for none of the two that are allowed.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)
    };
}

/// Closes all descriptors from this number on.
fn close_from(first: RawFd) {
    #[cfg(target_os = "linux")]
    // SAFETY: the call gets no memory, and nothing in this process owns one of them yet.
    if unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) } == 0 {
        return;
    }
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the structure outlives the call, and all zeros are a valid value too.
    let limit = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr());
        limit.assume_init()
    };
    let last = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX).min(1 << 16);
    for fd in first..last {
        // SAFETY: as above; a number without a file is refused.
        unsafe { libc::close(fd) };
    }
}

/// Another process, whose end can be waited for.
#[derive(Debug)]
pub struct Process {
    id: libc::pid_t,
    /// Readable once the process has ended; `None` on systems without such a descriptor.
    end: Option<OwnedFd>,
}

impl Process {
    /// The process with this id, which must be alive.
    pub fn new(id: u32) -> Process {
        let id = id.cast_signed();
        Process { id, end: open_end(id) }
    }

    /// Waits for the end of the process, up to `limit`; returns whether it has ended. A process
    /// that executed another program has not.
    pub fn exits_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.has_ended(left.min(Duration::from_millis(10))) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    fn has_ended(&self, wait: Duration) -> bool {
        let wait_ms = wait.as_millis() as c_int;
        match &self.end {
            Some(end) => {
                let mut entry =
                    libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: there is one entry, which outlives the call.
                unsafe { libc::poll(&mut entry, 1, wait_ms) == 1 }
            }
            None => {
                thread::sleep(wait);
                // SAFETY: the call gets no memory, and signal 0 only checks for the process.
                let refused = unsafe { libc::kill(self.id, 0) == -1 };
                refused && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn open_end(id: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: the call gets two numbers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor is new, so it has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(not(target_os = "linux"))]
fn open_end(_: libc::pid_t) -> Option<OwnedFd> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_code_is_of_the_file_of_the_tests() {
        assert_eq!(module_path(), std::env::current_exe().ok());
    }

    #[test]
    fn an_ended_process_is_gone_before_it_is_waited_for() {
        let mut child =
            process::Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
        let watched = Process::new(child.id());
        assert!(!watched.exits_within(Duration::from_millis(20)));
        drop(child.stdin.take());
        assert!(watched.exits_within(Duration::from_secs(20)));
        child.wait().unwrap();
    }
}
