//! Files whose paths a configuration names. Nothing here waits, whatever is at the path: opening, reading
//! or writing a pipe or a device can block.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Reads a regular file of up to `limit` bytes.
///
/// # Errors
/// The reason, which never shows the content.
pub fn read_file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    // Before it is opened, since that has an effect on some devices.
    check_regular(&fs::metadata(path)?)?;
    read_opened(without_waiting().read(true).open(path)?, limit)
}

fn read_opened(file: File, limit: usize) -> io::Result<Vec<u8>> {
    // The path may have named another file before.
    check_regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

fn check_regular(found: &fs::Metadata) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let name = name_of(found.file_type());
    Err(io::Error::other(format!("it is not a regular file but {name}")))
}

/// Opens a regular file, which it creates, a character device or a pipe to append to. Writes to it do
/// not wait. `None`: a pipe that no process reads.
///
/// # Errors
/// The reason, also for anything else at this path.
pub fn open_to_append(path: &Path) -> io::Result<Option<File>> {
    let refuse = |found: FileType| {
        if found.is_file() || found.is_char_device() || found.is_fifo() {
            return Ok(());
        }
        let name = name_of(found);
        let why = format!("it is {name}, not a regular file, a character device or a pipe");
        Err(io::Error::other(why))
    };
    let found = match fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    found.map_or(Ok(()), refuse)?;
    match without_waiting().append(true).create(true).open(path) {
        Ok(file) => {
            refuse(file.metadata()?.file_type())?;
            Ok(Some(file))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => match found {
            Some(found) if found.is_fifo() => Ok(None),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Options to open a file whose open, reads and writes do not wait.
pub fn without_waiting() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A terminal does not become the one of this process.
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn name_of(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a pipe"
    } else if found.is_char_device() {
        "a character device"
    } else if found.is_block_device() {
        "a block device"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a file of another type"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    /// A folder with a file of each type that a test can make.
    struct World(PathBuf);

    impl World {
        fn new(name: &str) -> World {
            let folder = format!("consul_ffi-files-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            fs::create_dir_all(folder.join("directory")).unwrap();
            fs::write(folder.join("file"), "text").unwrap();
            let _ = UnixListener::bind(folder.join("socket")).unwrap();
            let pipe = CString::new(folder.join("pipe").as_os_str().as_bytes()).unwrap();
            // SAFETY: the text outlives the call.
            assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
            World(folder)
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let world = World::new("read");
        assert_eq!(read_file(&world.0.join("file"), 4).unwrap(), b"text");
        for (name, why) in [
            ("file", "it has more than 3 bytes"),
            ("directory", "not a regular file but a directory"),
            ("pipe", "not a regular file but a pipe"),
            ("socket", "not a regular file but a socket"),
            ("/dev/zero", "not a regular file but a character device"),
            ("missing", "No such file"),
        ] {
            let error = read_file(&world.0.join(name), 3).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }

    #[test]
    fn what_was_opened_is_looked_at_again_and_read_up_to_the_limit() {
        let world = World::new("opened");
        let error = read_opened(File::open("/dev/zero").unwrap(), 3).unwrap_err().to_string();
        assert!(error.contains("not a regular file but a character device"), "{error}");
        // Larger than the memory of any machine.
        let path = world.0.join("large");
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        assert_eq!(read_file(&path, 3).unwrap_err().to_string(), "it has more than 3 bytes");
    }

    #[test]
    fn a_log_is_a_file_a_character_device_or_a_pipe() {
        let world = World::new("append");
        for name in ["file", "new", "/dev/null"] {
            assert!(open_to_append(&world.0.join(name)).unwrap().is_some(), "{name}");
        }
        assert!(open_to_append(&world.0.join("pipe")).unwrap().is_none());
        for (name, why) in [
            ("directory", "it is a directory, not a regular file"),
            ("socket", "it is a socket, not a regular file"),
            ("no/such/folder", "No such file"),
        ] {
            let error = open_to_append(&world.0.join(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
