//! A descriptor that the program can put into its own poll(2).

use std::fs::File;
use std::io::{self, Read, Write};
#[cfg(target_os = "linux")]
use std::os::fd::FromRawFd;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A descriptor that is readable while it is set: an eventfd, or a pipe on systems without.
#[derive(Debug)]
pub struct EventFd {
    readable: File,
    /// The end to write to, if it is another one.
    writable: Option<File>,
    is_set: bool,
}

impl EventFd {
    /// A descriptor that is not set.
    ///
    /// # Errors
    /// When the process has as many descriptors as it may have.
    pub fn new() -> io::Result<EventFd> {
        let (readable, writable) = open()?;
        Ok(EventFd { readable, writable, is_set: false })
    }

    /// Makes it readable until it is cleared.
    pub fn set(&mut self) {
        if !self.is_set {
            let mut writable = self.writable.as_ref().unwrap_or(&self.readable);
            self.is_set = writable.write_all(&1_u64.to_ne_bytes()).is_ok();
        }
    }

    /// Makes it not readable.
    pub fn clear(&mut self) {
        if self.is_set {
            self.is_set = (&self.readable).read_exact(&mut [0; size_of::<u64>()]).is_err();
        }
    }

    /// The descriptor to poll, which stays owned by this.
    pub fn fd(&self) -> RawFd {
        self.readable.as_raw_fd()
    }
}

#[cfg(target_os = "linux")]
fn open() -> io::Result<(File, Option<File>)> {
    // SAFETY: the call gets two numbers and returns a new descriptor or -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so it has no other owner.
    Ok((File::from(unsafe { OwnedFd::from_raw_fd(fd) }), None))
}

#[cfg(not(target_os = "linux"))]
fn open() -> io::Result<(File, Option<File>)> {
    let (readable, writable) = io::pipe()?;
    Ok((File::from(OwnedFd::from(readable)), Some(File::from(OwnedFd::from(writable)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_readable_as_long_as_it_is_set() {
        let is_readable = |event_fd: &EventFd| {
            let mut entry = libc::pollfd { fd: event_fd.fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: there is one entry, which outlives the call.
            unsafe { libc::poll(&mut entry, 1, 0) == 1 }
        };
        let mut event_fd = EventFd::new().unwrap();
        event_fd.clear();
        assert!(!is_readable(&event_fd));
        event_fd.set();
        event_fd.set();
        assert!(is_readable(&event_fd) && is_readable(&event_fd));
        event_fd.clear();
        assert!(!is_readable(&event_fd));
    }
}
