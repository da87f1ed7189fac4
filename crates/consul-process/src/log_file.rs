//! A program's log file, rotated by size: `path`, then `path.1` (the newest) up to `path.N`. The path may
//! also name a character device or a pipe. Nothing here waits: lines that a pipe does not take are counted.
//!
//! If another program has renamed or removed the file, the next line goes to a new one. Of a symbolic link, the
//! file that it names is rotated.

use crate::os::{self, NoSigpipe};
use std::borrow::Cow;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
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
    /// The path without symbolic links, which is rotated.
    target: PathBuf,
    limits: Limits,
    /// `None`: a pipe that no process reads.
    file: Option<File>,
    /// Device and number of a regular file; others are not rotated.
    identity: Option<(u64, u64)>,
    /// Whether the path names another file, which cannot be opened.
    is_away: bool,
    /// The number of lines that the pipe has refused since it last took one.
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
            target: path.to_owned(),
            limits,
            file: None,
            identity: None,
            is_away: false,
            left_out: 0,
            is_torn: false,
        };
        log.open_again().map_err(|error| format!("{}: {error}", path.display()))?;
        log.remove_old();
        Ok(log)
    }

    fn open_again(&mut self) -> io::Result<()> {
        let file = os::open_to_append(&self.path)?;
        let found = file.as_ref().map(File::metadata).transpose()?;
        let identity = found.filter(Metadata::is_file).as_ref().map(identity);
        if identity.is_some() {
            self.target = fs::canonicalize(&self.path)?;
        }
        (self.file, self.identity, self.is_away) = (file, identity, false);
        Ok(())
    }

    /// Opens the file again if its path does not name it any more; returns the size of a regular file that is to be
    /// rotated. A file that cannot be opened again takes further lines.
    fn follow(&mut self) -> Option<u64> {
        self.identity?;
        let size = self.size();
        if size.is_some() {
            return size;
        }
        match self.open_again() {
            Ok(()) => self.size(),
            Err(error) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    let path = self.path.display();
                    tracing::warn!(
                        %path, %error,
                        "the log file was moved and cannot be opened again: lines go to the old file"
                    );
                }
                None
            }
        }
    }

    /// The size of the regular file if its path names it.
    fn size(&self) -> Option<u64> {
        let found = fs::metadata(&self.path).ok()?;
        (self.identity == Some(identity(&found))).then_some(found.len())
    }

    /// Writes a line, which includes its line break; others in it are escaped. A pipe takes a line of up to 4096 bytes
    /// as a whole, or not at all: then the line is counted, and the next line that it takes ends with the count.
    ///
    /// # Errors
    /// When the line cannot be written for another reason.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        let line = &*one_line(line);
        let size = self.follow();
        if size.is_some_and(|size| size > 0 && size + line.len() as u64 > self.limits.max_bytes) {
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
        let _no_sigpipe = self.identity.is_none().then(NoSigpipe::new);
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
        Ok(())
    }

    /// The rotated files, the newest first, and the next path that is free. A folder or anything else with such a
    /// path is passed over and stays.
    fn backups(&self) -> (Vec<PathBuf>, PathBuf) {
        let mut found = Vec::new();
        let mut number = 1;
        loop {
            let mut path = self.target.clone().into_os_string();
            path.push(format!(".{number}"));
            let path = PathBuf::from(path);
            match fs::symlink_metadata(&path) {
                Ok(it) if it.is_file() => found.push(path),
                Ok(_) => {}
                Err(_) => return (found, path),
            }
            number += 1;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (mut paths, free) = self.backups();
        paths.truncate(self.limits.max_backups as usize);
        paths.push(free);
        paths.insert(0, self.target.clone());
        for pair in paths.windows(2).rev() {
            fs::rename(&pair[0], &pair[1])?;
        }
        self.remove_old();
        self.open_again()
    }

    /// Removes rotated files beyond `max_backups` and `max_age`. A file that cannot be removed stays.
    fn remove_old(&self) {
        for (number, path) in self.backups().0.into_iter().enumerate() {
            let written = fs::metadata(&path).and_then(|found| found.modified());
            let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if number >= self.limits.max_backups as usize
                || age.is_some_and(|age| age > self.limits.max_age)
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

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// A line without line breaks but the last one.
fn one_line(line: &str) -> Cow<'_, str> {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    match text.contains(['\n', '\r']) {
        true => (text.replace('\n', "\\n").replace('\r', "\\r") + end).into(),
        false => line.into(),
    }
}

/// Whether a pipe is full, or no process reads it.
fn is_unread(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
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
    fn what_is_not_a_rotated_file_is_passed_over() {
        let world = World::new();
        let inside = world.0.join("log.1/kept");
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::create_dir_all(world.0.join("log.3")).unwrap();
        fs::write(&inside, "kept").unwrap();
        let mut log = LogFile::open(&world.path(), LIMITS).unwrap();
        for number in 0..5 {
            log.line(&format!("{number} {}\n", "x".repeat(60))).unwrap();
        }
        let starts = ["log", "log.2", "log.4"]
            .map(|name| fs::read_to_string(world.0.join(name)).unwrap().chars().next().unwrap());
        assert_eq!(starts, ['4', '3', '2']);
        assert_eq!(fs::read_to_string(inside).unwrap(), "kept");
        assert!(world.0.join("log.3").is_dir() && !world.0.join("log.5").exists());
    }

    #[test]
    fn of_a_symbolic_link_the_file_that_it_names_is_rotated() {
        let (world, other) = (World::new(), World::new());
        symlink(other.path(), world.path()).unwrap();
        let mut log = LogFile::open(&world.path(), LIMITS).unwrap();
        for number in 0..3 {
            log.line(&format!("{number} {}\n", "x".repeat(60))).unwrap();
        }
        assert_eq!(fs::read_link(world.path()).unwrap(), other.path());
        assert_eq!((world.texts().len(), other.texts().len()), (1, 3));
    }

    /// As logrotate does it, which creates the file again or leaves that to the program.
    #[test]
    fn a_file_that_another_program_renames_or_removes_is_followed() {
        let world = World::new();
        let mut log = LogFile::open(&world.path(), LIMITS).unwrap();
        log.line("one\n").unwrap();
        fs::rename(world.path(), world.0.join("log.1")).unwrap();
        log.line("two\n").unwrap();
        assert_eq!(world.texts(), ["two\n", "one\n"]);
        fs::rename(world.path(), world.0.join("other")).unwrap();
        fs::write(world.path(), "created\n").unwrap();
        log.line("three\n").unwrap();
        assert_eq!(world.texts(), ["created\nthree\n", "one\n"]);
        // Its size is that of the file, not of the lines.
        File::options().write(true).open(world.path()).unwrap().set_len(0).unwrap();
        log.line(&format!("{}\n", "x".repeat(95))).unwrap();
        assert_eq!(world.texts().len(), 2, "it was not rotated");
        fs::remove_file(world.path()).unwrap();
        fs::create_dir(world.path()).unwrap();
        log.line("to the removed file\n").unwrap();
        fs::remove_dir(world.path()).unwrap();
        log.line("four\n").unwrap();
        assert_eq!(world.texts(), ["four\n", "one\n"]);
    }

    #[test]
    fn a_record_is_one_line() {
        let world = World::new();
        let mut log = LogFile::open(&world.path(), LIMITS).unwrap();
        log.line("INFO key=a\r\nERROR forged\n").unwrap();
        log.line("end\n").unwrap();
        assert_eq!(world.texts(), ["INFO key=a\\r\\nERROR forged\nend\n"]);
    }

    #[test]
    fn a_device_is_written_and_not_rotated() {
        let mut log = LogFile::open(Path::new("/dev/null"), LIMITS).unwrap();
        (0..100).for_each(|_| log.line("a line\n").unwrap());
        assert!(!Path::new("/dev/null.1").exists());
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
