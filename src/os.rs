//! What a library must see to inside another program's process: forks, signals, threads, event
//! loops, the clock of the machine; and what a program needs that looks after such a process.
//!
//! The process's own state (signal dispositions, masks, threads that handle signals) is left as it
//! was found.

#![allow(unsafe_code)]

use crate::sync::lock;
use libc::c_int;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that called [`watch_forks`] first.
///
/// What was made in another generation belongs to the parent: a runtime would hang and a connection
/// would be shared, so it is to be forgotten, neither used nor dropped.
pub fn fork_generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Counts forks from now on; to be called before anything that [`fork_generation`] guards is made.
///
/// # Errors
/// When there is no memory to register the handler.
pub fn watch_forks() -> io::Result<()> {
    static IS_WATCHED: Mutex<bool> = Mutex::new(false);
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        for entry in &OF_PARENT_ALONE {
            let fd = entry.swap(NONE, Ordering::Relaxed);
            if fd != NONE {
                // SAFETY: the child has a copy of its own of each descriptor, and what owned it in
                // the parent is never used or dropped in the child.
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

/// Descriptors that forked children must not have.
static OF_PARENT_ALONE: [AtomicI32; 64] = [const { AtomicI32::new(NONE) }; 64];

const NONE: RawFd = -1;

/// A descriptor that a forked child closes before it does anything else. A child of another kind has
/// it until it becomes another program, or ends.
#[derive(Debug)]
pub struct NotInChildren<T: AsRawFd> {
    owner: Option<T>,
    place: usize,
    generation: u32,
}

impl<T: AsRawFd> NotInChildren<T> {
    /// Keeps the descriptor from children that are forked from now on.
    ///
    /// # Errors
    /// When there are too many of them, or as [`watch_forks`].
    pub fn new(owner: T) -> io::Result<Self> {
        watch_forks()?;
        let fd = owner.as_raw_fd();
        let is_free = |entry: &AtomicI32| {
            entry.compare_exchange(NONE, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let place = OF_PARENT_ALONE.iter().position(is_free).ok_or_else(|| {
            io::Error::other(format!("the process has {} of them already", OF_PARENT_ALONE.len()))
        })?;
        Ok(Self { owner: Some(owner), place, generation: fork_generation() })
    }

    /// What owns the descriptor; none in a child.
    pub fn get(&self) -> Option<&T> {
        self.owner.as_ref().filter(|_| self.generation == fork_generation())
    }
}

impl<T: AsRawFd> Drop for NotInChildren<T> {
    fn drop(&mut self) {
        let owner = self.owner.take();
        if self.generation == fork_generation() {
            // First, so that a child which is forked in between closes nothing else.
            OF_PARENT_ALONE[self.place].store(NONE, Ordering::Relaxed);
        } else {
            // It is closed, and its number may be another's.
            std::mem::forget(owner);
        }
    }
}

/// The file that this code was loaded from: the module, or the program that it is part of.
pub fn own_file() -> Option<PathBuf> {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    let here = own_file as fn() -> Option<PathBuf>;
    // SAFETY: the address is one of a function, and the structure outlives the call.
    let known = unsafe { libc::dladdr(here as *const libc::c_void, found.as_mut_ptr()) };
    // SAFETY: all zeros are a value of it too.
    let name = unsafe { found.assume_init() }.dli_fname;
    if known == 0 || name.is_null() {
        return None;
    }
    // SAFETY: it is a text of the loader's, which stays as long as this code is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    std::path::absolute(Path::new(OsStr::from_bytes(name.to_bytes()))).ok()
}

/// Leaves the process that started this program: a session of its own, in the root folder, with no
/// descriptors but those of standard input, output and error, and deaf to signals that ask it to
/// end. The process that was started ends here; the caller goes on as another one, whose parent is
/// not the one that started it, so that nobody has to wait for its end.
///
/// To be called before there are threads.
///
/// # Errors
/// When the system has no process to give.
pub fn detach() -> io::Result<()> {
    // SAFETY: there are no other threads, so the child has all that this process has.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        _ => process::exit(0),
    }
    // SAFETY: no memory is concerned. setsid cannot fail, because a child leads no group.
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

/// Closes every descriptor from this number on.
fn close_from(first: RawFd) {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is concerned, and nothing in this process owns one of them yet.
    if unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) } == 0 {
        return;
    }
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the structure outlives the call, and all zeros are a value of it too.
    let limit = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr());
        limit.assume_init()
    };
    let last = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX).min(1 << 16);
    for fd in first..last {
        // SAFETY: as above; a number that is none is refused.
        unsafe { libc::close(fd) };
    }
}

/// Another process, of which it can be told when it is gone.
#[derive(Debug)]
pub struct Process {
    id: libc::pid_t,
    /// Readable once the process is gone; none on systems that have no such thing.
    end: Option<OwnedFd>,
}

impl Process {
    /// The process with this id, which lives.
    pub fn new(id: u32) -> Process {
        let id = id.cast_signed();
        Process { id, end: end_of(id) }
    }

    /// Whether it is gone, or will be within this time. One that became another program is not.
    pub fn is_gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.is_gone(left.min(Duration::from_millis(10))) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    fn is_gone(&self, wait: Duration) -> bool {
        let wait_ms = wait.as_millis() as c_int;
        match &self.end {
            Some(end) => {
                let mut entry =
                    libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: the entry is one and outlives the call.
                unsafe { libc::poll(&mut entry, 1, wait_ms) == 1 }
            }
            None => {
                thread::sleep(wait);
                // SAFETY: no memory is concerned, and signal 0 is none.
                let refused = unsafe { libc::kill(self.id, 0) == -1 };
                refused && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn end_of(id: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: it takes two numbers, and gives a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor is new, so it has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(not(target_os = "linux"))]
fn end_of(_: libc::pid_t) -> Option<OwnedFd> {
    None
}

/// Starts a thread in which no signal handler of the program runs: a handler may belong to an
/// engine that is not safe there (Lua's own for Ctrl-C is not).
///
/// # Errors
/// When the system has no thread to give.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // The new thread inherits the mask.
    let _mask = Mask::block(&asynchronous_signals());
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Keeps signal handlers of the program out of this thread from now on; for threads that others
/// start for us.
pub fn block_signals() {
    set_mask(libc::SIG_BLOCK, &asynchronous_signals());
}

/// Until it is dropped, a write to a connection that the other side closed is an error in this
/// thread and no SIGPIPE, which would end the process.
pub struct NoSigpipe {
    _mask: Mask,
    /// Whether one waited already, which is the program's own.
    was_pending: bool,
}

impl NoSigpipe {
    /// Begins.
    #[allow(clippy::new_without_default)] // it does something, it is no empty value
    pub fn new() -> Self {
        let mask = Mask::block(&signal_set(&[libc::SIGPIPE]));
        // One that was not blocked cannot wait.
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
        // Then the mask is dropped, and signals may come again.
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

/// The clock that goes on while the machine is suspended: what was promised for two seconds is over
/// after them, whether anybody was awake or not.
#[cfg(target_os = "linux")]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// The time since some moment before this process, which never goes back. On Linux it goes on
/// while the machine is suspended.
pub fn uptime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is one and outlives the call, which cannot fail: the clock exists.
    unsafe { libc::clock_gettime(CLOCK, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// No write of ours raises SIGPIPE: where a call cannot say so, whoever made the socket has.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGPIPE: c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: c_int = 0;

/// What [`receive`] does when nothing has come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It says so at once.
    None,
    /// It waits as long as the socket's read timeout says, unless a signal comes.
    ReadTimeout,
}

/// Reads what has come on a socket, as much as there is room for; 0 when the other side has ended.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::Interrupted`] when nothing came.
pub fn receive(socket: impl AsFd, room: &mut [u8], patience: Patience) -> io::Result<usize> {
    let flags = if patience == Patience::None { libc::MSG_DONTWAIT } else { 0 };
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the room is as large as is said and outlives the call.
    let count = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Whether nothing can be read from a socket at present, not even its end.
pub fn is_silent(socket: impl AsFd) -> bool {
    let mut byte = 0_u8;
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: the descriptor is open, and the byte outlives the call.
    let count = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    count < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// Writes two texts to a socket, one after the other, as far as there is room now; gives how many
/// bytes. It raises no SIGPIPE.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is no room.
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
        // SAFETY: all zeros are a value of it too: nothing, to nobody in particular.
        let message = unsafe { message.assume_init_mut() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len() as _;
        // SAFETY: the descriptor is open, and the texts, which are only read, outlive the call.
        unsafe { libc::sendmsg(fd, message, flags) }
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Has the runtime of this thread watch a socket.
///
/// # Errors
/// When the system cannot watch so many.
pub fn watch(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the socket stays open and the same for as long as somebody owns it.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// A descriptor that is readable as long as it rings, for somebody's poll(2).
#[derive(Debug)]
pub struct Bell {
    readable: File,
    /// Where it is rung, unless it is the same.
    writable: Option<File>,
    rings: bool,
}

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// When the process has as many descriptors as it may have.
    pub fn new() -> io::Result<Bell> {
        let (readable, writable) = bell_ends()?;
        Ok(Bell { readable, writable, rings: false })
    }

    /// Rings until it is silenced.
    pub fn ring(&mut self) {
        if !self.rings {
            let mut writable = self.writable.as_ref().unwrap_or(&self.readable);
            self.rings = writable.write_all(&1_u64.to_ne_bytes()).is_ok();
        }
    }

    /// Ends the ringing.
    pub fn silence(&mut self) {
        if self.rings {
            self.rings = (&self.readable).read_exact(&mut [0; size_of::<u64>()]).is_err();
        }
    }

    /// The descriptor; it is this bell's own.
    pub fn fd(&self) -> RawFd {
        self.readable.as_raw_fd()
    }
}

#[cfg(target_os = "linux")]
fn bell_ends() -> io::Result<(File, Option<File>)> {
    // SAFETY: it takes two numbers, and gives a new descriptor or -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so it has no other owner.
    Ok((File::from(unsafe { OwnedFd::from_raw_fd(fd) }), None))
}

#[cfg(not(target_os = "linux"))]
fn bell_ends() -> io::Result<(File, Option<File>)> {
    let (readable, writable) = io::pipe()?;
    Ok((File::from(OwnedFd::from(readable)), Some(File::from(OwnedFd::from(writable)))))
}

/// Every signal but those that tell a thread of its own fault: these cannot wait.
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

/// Changes this thread's mask; gives what it was.
fn set_mask(how: c_int, signals: &libc::sigset_t) -> libc::sigset_t {
    let mut before = signal_set(&[]);
    // SAFETY: both sets are initialised, and `how` is one that exists, so that this cannot fail.
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
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    fn mask() -> libc::sigset_t {
        set_mask(libc::SIG_BLOCK, &signal_set(&[]))
    }

    /// Writes to a connection whose other side is closed, the way that raises SIGPIPE.
    fn write_to_nobody() -> io::Error {
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
            assert_eq!(write_to_nobody().kind(), io::ErrorKind::BrokenPipe);
            assert!(sigpipe_is_pending(), "the write raised none, so this tests nothing");
            drop(guard);
            assert!(!sigpipe_is_pending());
            assert!(!is_member(&mask(), libc::SIGPIPE));
        });
    }

    #[test]
    fn what_is_sent_to_nobody_is_refused_without_a_sigpipe() {
        in_a_thread(|| {
            set_mask(libc::SIG_BLOCK, &signal_set(&[libc::SIGPIPE]));
            let (near, far) = UnixStream::pair().unwrap();
            drop(far);
            assert_eq!(send(&near, [b"a", b"b"]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            assert!(!sigpipe_is_pending());
            assert!(!is_silent(&near));
            assert_eq!(receive(&near, &mut [0; 9], Patience::ReadTimeout).unwrap(), 0);
        });
    }

    #[test]
    fn two_texts_are_sent_as_one_and_read_as_they_come() {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut room = [0; 3];
        assert!(is_silent(&far));
        for patience in [Patience::None, Patience::ReadTimeout] {
            let error = receive(&far, &mut room, patience).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(send(&near, [b"ab", b"cd"]).unwrap(), 4);
        assert!(!is_silent(&far));
        assert_eq!((receive(&far, &mut room, Patience::None).unwrap(), &room), (3, b"abc"));
        assert_eq!((receive(&far, &mut room, Patience::None).unwrap(), room[0]), (1, b'd'));
        assert!(is_silent(&far));
    }

    #[test]
    fn a_sigpipe_that_waited_before_still_waits() {
        in_a_thread(|| {
            set_mask(libc::SIG_BLOCK, &signal_set(&[libc::SIGPIPE]));
            write_to_nobody();
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

    #[test]
    #[cfg(target_os = "linux")]
    fn the_uptime_is_the_systems_own_suspensions_included() {
        let told = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
        };
        // The system tells hundredths of a second.
        let (before, ours, after) = (told(), uptime(), told() + Duration::from_millis(10));
        assert!((before..=after).contains(&ours), "{before:?} {ours:?} {after:?}");
    }

    #[test]
    fn a_bell_is_readable_as_long_as_it_rings() {
        let is_readable = |bell: &Bell| {
            let mut entry = libc::pollfd { fd: bell.fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the entry is one and outlives the call.
            unsafe { libc::poll(&mut entry, 1, 0) == 1 }
        };
        let mut bell = Bell::new().unwrap();
        bell.silence();
        assert!(!is_readable(&bell));
        bell.ring();
        bell.ring();
        assert!(is_readable(&bell) && is_readable(&bell));
        bell.silence();
        assert!(!is_readable(&bell));
    }

    /// Whether a check holds in a forked child, which calls nothing that a lock could hold up.
    fn holds_in_child(check: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does what `check` does, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = c_int::from(check());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status: c_int = 0;
        // SAFETY: the child is ours, and the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        libc::WEXITSTATUS(status) == 1
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: no memory is concerned.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    #[test]
    fn a_child_has_no_descriptor_of_its_parent_alone() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        assert!(holds_in_child(|| is_open(fd)), "it has none at all, so this tests nothing");
        let kept = NotInChildren::new(ours).unwrap();
        assert!(holds_in_child(|| !is_open(fd) && kept.get().is_none()));
        assert!(kept.get().is_some() && is_open(fd));
        drop(kept);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "it is closed");
    }

    #[test]
    fn this_code_is_of_the_file_of_the_tests() {
        assert_eq!(own_file(), std::env::current_exe().ok());
    }

    #[test]
    fn a_process_is_gone_when_it_has_ended_though_nobody_waited_for_it() {
        let mut child =
            process::Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
        let watched = Process::new(child.id());
        assert!(!watched.is_gone_within(Duration::from_millis(20)));
        drop(child.stdin.take());
        assert!(watched.is_gone_within(Duration::from_secs(20)));
        child.wait().unwrap();
    }

    #[test]
    fn a_child_is_another_generation_and_its_parent_is_not() {
        watch_forks().unwrap();
        watch_forks().unwrap();
        let before = fork_generation();
        // SAFETY: the child only reads an atomic and ends without running anything else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let difference = fork_generation() - before;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(difference as c_int) };
        }
        let mut status: c_int = 0;
        // SAFETY: the child is ours, and the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 1, "registered twice, or not at all");
        assert_eq!(fork_generation(), before);
    }
}
