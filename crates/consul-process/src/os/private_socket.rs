//! A unix socket of this process, in a folder that only its user can read.

use super::signals::spawn;
use super::{PerProcess, generator};
use crate::sync::lock;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// How the names of the folders begin.
const FOLDER: &str = "consul_ffi.";

/// The name of the socket in its folder.
const SOCKET: &str = "wake";

/// How old a folder without a listener is before it counts as left over from a process that has crashed. A process
/// makes its folder and listens there in much less.
const LEFT_OVER: Duration = Duration::from_secs(60);

/// Listens at a socket (mode 0600) in a new folder (mode 0700) below the system's folder for temporary files. Both
/// are removed when the process exits; those that crashed processes of this user left are removed in the background.
///
/// # Errors
/// When the folder or the socket cannot be created.
pub fn listen() -> io::Result<(UnixListener, PathBuf)> {
    let parent = std::env::temp_dir();
    let folder = parent.join(format!("{FOLDER}{}.{:08x}", std::process::id(), generator().u32(..)));
    let path = folder.join(SOCKET);
    let listener = listen_in(&folder, &path).inspect_err(|_| remove(&folder))?;
    // On a thread of its own: a process that does not accept would keep a connection waiting.
    let _ = spawn("consul_ffi", move || drop(sweep(&parent, LEFT_OVER)));
    Ok((listener, path))
}

fn listen_in(folder: &Path, path: &Path) -> io::Result<UnixListener> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    remove_at_exit(folder.to_owned())?;
    Ok(listener)
}

/// Removes the folders of this user's processes that no longer listen.
fn sweep(parent: &Path, left_over: Duration) -> io::Result<()> {
    // SAFETY: the call takes nothing and always succeeds.
    let user = unsafe { libc::geteuid() };
    for entry in fs::read_dir(parent)?.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER)) {
            continue;
        }
        let Ok(found) = entry.metadata() else { continue };
        let is_old =
            found.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= left_over));
        if is_old && found.is_dir() && found.uid() == user {
            let socket = entry.path().join(SOCKET);
            let refusal = UnixStream::connect(&socket).err().map(|error| error.kind());
            if let Some(ErrorKind::ConnectionRefused | ErrorKind::NotFound) = refusal {
                remove(&entry.path());
            }
        }
    }
    Ok(())
}

/// Removes a folder with its socket, and nothing else that may be there.
fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(SOCKET));
    let _ = fs::remove_dir(folder);
}

/// The folders of this process.
static FOLDERS: PerProcess<Mutex<Vec<PathBuf>>> = PerProcess::new();

fn remove_at_exit(folder: PathBuf) -> io::Result<()> {
    extern "C" fn at_exit() {
        lock(FOLDERS.get()).iter().for_each(|folder| remove(folder));
    }
    let mut folders = lock(FOLDERS.get());
    if folders.is_empty() {
        // SAFETY: the code stays mapped for as long as the process lives (build.rs).
        let error = unsafe { libc::atexit(at_exit) };
        if error != 0 {
            return Err(io::Error::other("there is no memory for a handler of the exit"));
        }
    }
    folders.push(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    fn parent(name: &str) -> PathBuf {
        let parent =
            std::env::temp_dir().join(format!("private-socket-{name}-{}", std::process::id()));
        fs::create_dir_all(&parent).unwrap();
        parent
    }

    #[test]
    fn only_its_user_reaches_it() {
        let (listener, path) = listen().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        remove(path.parent().unwrap());
    }

    #[test]
    fn what_a_crash_left_is_swept_and_what_is_in_use_is_not() {
        let parent = parent("sweep");
        let make = |name: &str| {
            let folder = parent.join(name);
            fs::create_dir_all(&folder).unwrap();
            (UnixListener::bind(folder.join(SOCKET)).unwrap(), folder)
        };
        let (crashed, left_over) = make("consul_ffi.1.0");
        let (_listener, in_use) = make("consul_ffi.2.0");
        let (other, foreign) = make("else.1.0");
        let (with_more, shared) = make("consul_ffi.3.0");
        drop((crashed, other, with_more));
        let file = shared.join("file");
        fs::write(&file, "").unwrap();
        let empty = parent.join("consul_ffi.4.0");
        fs::create_dir(&empty).unwrap();
        symlink(&foreign, parent.join("consul_ffi.5.0")).unwrap();
        sweep(&parent, LEFT_OVER).unwrap();
        assert!(left_over.exists(), "it may be about to listen");
        // A child of another test has all descriptors between its fork and its exec.
        for _ in 0..1_000 {
            sweep(&parent, Duration::ZERO).unwrap();
            if !left_over.exists() && !shared.join(SOCKET).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!left_over.exists() && in_use.exists() && foreign.join(SOCKET).exists());
        assert!(!empty.exists(), "its process crashed before it listened");
        assert!(file.exists());
        fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn a_process_that_begins_to_listen_sweeps() {
        let left_over = std::env::temp_dir().join(format!("{FOLDER}{}.old", std::process::id()));
        fs::create_dir(&left_over).unwrap();
        let old = SystemTime::now() - 2 * LEFT_OVER;
        File::open(&left_over).unwrap().set_modified(old).unwrap();
        let (_listener, path) = listen().unwrap();
        for _ in 0..1_000 {
            if !left_over.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let is_swept = !left_over.exists();
        let _ = fs::remove_dir(left_over);
        remove(path.parent().unwrap());
        assert!(is_swept);
    }
}
