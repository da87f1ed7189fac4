//! Sockets that block by default and are read and written without blocking by choice.

use libc::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection, with TLS or without. Boxed, so that the code which runs on it is in the module once.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Suppresses SIGPIPE. Systems whose `send` has no such flag set an option when the socket is
/// created.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGPIPE: c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: c_int = 0;

/// The behaviour of [`receive`] when there is nothing to read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// It returns at once.
    NonBlocking,
    /// It waits for the socket's read timeout, unless a signal comes.
    Blocking,
}

/// Reads the available bytes of a socket, up to the size of `room`; returns 0 at the end of the
/// stream.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::Interrupted`] when nothing came.
pub fn receive(socket: impl AsFd, room: &mut [u8], mode: ReceiveMode) -> io::Result<usize> {
    let flags = if mode == ReceiveMode::NonBlocking { libc::MSG_DONTWAIT } else { 0 };
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the room has that size and outlives the call.
    let count = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Whether a socket is open and has nothing to read.
pub fn is_idle(socket: impl AsFd) -> bool {
    let mut byte = 0_u8;
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: the descriptor is open, and the byte outlives the call.
    let count = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    count < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// Writes two texts to a socket, one after the other, without blocking and without SIGPIPE; returns
/// the number of bytes that were written.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when the send buffer is full.
pub fn send(socket: impl AsFd, texts: [&[u8]; 2]) -> io::Result<usize> {
    let (fd, flags) = (socket.as_fd().as_raw_fd(), NO_SIGPIPE | libc::MSG_DONTWAIT);
    let count = if let [text, []] = texts {
        // SAFETY: the descriptor is open, and the text outlives the call.
        unsafe { libc::send(fd, text.as_ptr().cast(), text.len(), flags) }
    } else {
        let mut parts = texts.map(|text| libc::iovec {
            iov_base: text.as_ptr().cast_mut().cast(),
            iov_len: text.len(),
        });
        let mut message = MaybeUninit::<libc::msghdr>::zeroed();
        // SAFETY: all zeros are a valid value too: an empty message without an address.
        let message = unsafe { message.assume_init_mut() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len() as _;
        // SAFETY: the descriptor is open, and the texts, which are only read, outlive the call.
        unsafe { libc::sendmsg(fd, message, flags) }
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Registers a socket with the runtime of this thread.
///
/// # Errors
/// When the system cannot watch more sockets.
pub fn watch(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor stays open and the same while the `Arc` lives.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn two_texts_are_sent_as_one_and_read_as_they_come() {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut room = [0; 3];
        assert!(is_idle(&far));
        for mode in [ReceiveMode::NonBlocking, ReceiveMode::Blocking] {
            let error = receive(&far, &mut room, mode).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(send(&near, [b"ab", b"cd"]).unwrap(), 4);
        assert!(!is_idle(&far));
        let mut receive = || receive(&far, &mut room, ReceiveMode::NonBlocking).map(|n| (n, room));
        assert_eq!(receive().unwrap(), (3, *b"abc"));
        assert_eq!(receive().unwrap(), (1, *b"dbc"));
        assert!(is_idle(&far));
    }
}
