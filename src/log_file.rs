//! A program's log file, rotated by size: `path`, then `path.1` (the newest) up to `path.N`. The path may
//! also name a character device or a pipe. Nothing here waits: lines that a pipe does not take are counted.

use crate::os::{self, NoSigpipe};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The limits of a file and of its rotated files.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The size at which the file is rotated.
    pub max_bytes: u64,
    /// How many rotated files are kept.
    pub max_backups: u32,
    /// How old the last line of a rotated file may be.
    pub max_age: Duration,
}

/// A log file. Only one process may write it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limits: Limits,
    /// `None`: a pipe that no process reads, or a file that could not be opened again.
    file: Option<File>,
    /// Of a regular file; others are not rotated.
    size: Option<u64>,
    /// The number of lines that the pipe did not take since the last one that it took.
    left_out: u64,
    /// Whether the last line was written in part.
    is_torn: bool,
}

impl LogFile {
    /// Opens a regular file, a character device or a pipe, and removes old rotated files.
    ///
    /// # Errors
    /// The reason, with the path.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, String> {
        let mut log = LogFile {
            path: path.to_owned(),
            limits,
            file: None,
            size: None,
            left_out: 0,
            is_torn: false,
        };
        log.open_again().map_err(|error| format!("{}: {error}", path.display()))?;
        log.remove_old();
        Ok(log)
    }

    fn open_again(&mut self) -> io::Result<()> {
        self.file = os::open_to_append(&self.path)?;
        let found = self.file.as_ref().map(File::metadata).transpose()?;
        self.size = found.filter(|found| found.is_file()).map(|found| found.len());
        Ok(())
    }

    /// Writes a line, which includes its line break. A pipe takes a line of up to 4096 bytes as a whole,
    /// or not at all: then the line is counted, and the next one that it takes ends with the count.
    ///
    /// # Errors
    /// When the line cannot be written for another reason.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        if self
            .size
            .is_some_and(|size| size > 0 && size + line.len() as u64 > self.limits.max_bytes)
        {
            self.rotate()?;
        }
        let start = if self.is_torn { "\n" } else { "" };
        let text = match self.left_out {
            0 => format!("{start}{line}"),
            left_out => format!("{start}{} left_out={left_out}\n", line.trim_end()),
        };
        match self.write(&text) {
            Err(error) if is_unread(&error) => {
                if self.left_out == 0 {
                    let path = self.path.display();
                    tracing::warn!(%path, "the pipe is not read: lines are left out");
                }
                self.left_out += 1;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.left_out = 0;
                Ok(())
            }
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.file.is_none() {
            self.open_again()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let _no_sigpipe = self.size.is_none().then(NoSigpipe::new);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_torn |= rest.len() < text.len();
                    if error.kind() == io::ErrorKind::BrokenPipe {
                        // Another process may read it later.
                        self.file = None;
                    }
                    return Err(error);
                }
            }
        }
        self.is_torn = false;
        self.size = self.size.map(|size| size + text.len() as u64);
        Ok(())
    }

    fn backup(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut last = 1;
        while last <= self.limits.max_backups && exists(&self.backup(last)) {
            last += 1;
        }
        for number in (2..=last).rev() {
            fs::rename(self.backup(number - 1), self.backup(number))?;
        }
        fs::rename(&self.path, self.backup(1))?;
        self.remove_old();
        self.open_again()
    }

    /// Removes rotated files beyond `max_backups` and `max_age`. One that cannot be removed stays.
    fn remove_old(&self) {
        let paths = (1..).map(|number| (number, self.backup(number)));
        for (number, path) in paths.take_while(|(_, path)| exists(path)) {
            let written = fs::symlink_metadata(&path).and_then(|found| found.modified());
            let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if number > self.limits.max_backups || age.is_some_and(|age| age > self.limits.max_age)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if self.left_out > 0 {
            let (path, left_out) = (self.path.display(), self.left_out);
            tracing::warn!(%path, left_out, "the pipe was not read: lines were left out");
        }
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a pipe is full, or no process reads it.
fn is_unread(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LIMITS: Limits =
        Limits { max_bytes: 100, max_backups: 2, max_age: Duration::from_secs(3600) };

    /// A folder for a log file.
    struct World(PathBuf);

    impl World {
        fn new() -> World {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("consul_ffi-log-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            World(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("log")
        }

        /// The content of the log and its rotated files.
        fn texts(&self) -> Vec<String> {
            let names = ["log", "log.1", "log.2", "log.3"];
            names.iter().map_while(|name| fs::read_to_string(self.0.join(name)).ok()).collect()
        }

        fn pipe(&self) -> PathBuf {
            assert!(Command::new("mkfifo").arg(self.path()).status().unwrap().success());
            self.path()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Opens a pipe to read from it.
    fn reader(pipe: &Path) -> File {
        os::without_waiting().read(true).open(pipe).unwrap()
    }

    /// The lines in a pipe.
    fn lines(mut reader: &File) -> Vec<String> {
        let mut text = Vec::new();
        // It ends with an error while the other end is open.
        let _ = reader.read_to_end(&mut text);
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_file_is_rotated_by_size_and_the_oldest_ones_go() {
        let world = World::new();
        for number in 0..5 {
            let mut log = LogFile::open(&world.path(), LIMITS).unwrap();
            log.line(&format!("{number} {}\n", "x".repeat(60))).unwrap();
        }
        let starts: Vec<_> = world.texts().iter().map(|text| text[..2].to_owned()).collect();
        assert_eq!(starts, ["4 ", "3 ", "2 "]);
    }

    #[test]
    fn rotated_files_go_by_their_age() {
        let world = World::new();
        for (name, age_s) in [("log.1", 60), ("log.2", 7200)] {
            let file = File::create(world.0.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        LogFile::open(&world.path(), LIMITS).unwrap();
        assert_eq!(world.texts().len(), 2);
    }

    #[test]
    fn a_device_is_written_and_not_rotated() {
        let mut log = LogFile::open(Path::new("/dev/null"), LIMITS).unwrap();
        (0..100).for_each(|_| log.line("a line\n").unwrap());
        assert!(!exists(Path::new("/dev/null.1")));
        let mut full = LogFile::open(Path::new("/dev/full"), LIMITS).unwrap();
        assert_eq!(full.line("a line\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_pipe_that_is_not_read_delays_nothing_and_its_lines_are_counted() {
        let world = World::new();
        let pipe = world.pipe();
        let mut log = LogFile::open(&pipe, LIMITS).unwrap();
        log.line("nobody reads it\n").unwrap();
        let first = reader(&pipe);
        log.line("one\n").unwrap();
        assert_eq!(lines(&first), ["one left_out=1"]);
        // A pipe holds 64 KiB.
        let long = format!("{}\n", "x".repeat(1023));
        (0..100).for_each(|_| log.line(&long).unwrap());
        let taken = lines(&first);
        assert!(taken.iter().all(|line| line.len() == 1023), "{taken:?}");
        log.line("after\n").unwrap();
        let missing = 100 - taken.len();
        assert!(missing > 0);
        assert_eq!(lines(&first), [format!("after left_out={missing}")]);
        // No SIGPIPE, and the next reader gets the next line.
        drop(first);
        log.line("gone\n").unwrap();
        let second = reader(&pipe);
        log.line("two\n").unwrap();
        assert_eq!(lines(&second), ["two left_out=1"]);
    }

    #[test]
    fn anything_else_is_refused_with_its_path() {
        let world = World::new();
        let why = LogFile::open(&world.0, LIMITS).unwrap_err();
        let path = world.0.display().to_string();
        assert!(why.starts_with(&path) && why.contains("it is a directory, not"), "{why}");
    }
}
