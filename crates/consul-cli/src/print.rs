//! The output of the programs: lines and tables for people, JSON for programs.

use crate::stderr;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The name of this program, once its command line is parsed.
pub static PROGRAM: Program = Program(OnceLock::new());

/// The name of a program, which it prints before its messages.
#[derive(Debug)]
pub struct Program(OnceLock<String>);

impl Program {
    /// Sets the name.
    pub(crate) fn set(&self, name: &str) {
        let _ = self.0.set(name.to_owned());
    }
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get().map_or("", String::as_str))
    }
}

/// A failure for programs.
pub fn failed(kind: &str, message: &str) -> Value {
    json!({ "error": { "kind": kind, "message": message } })
}

/// The exit status when the output cannot be written.
const UNWRITTEN: u8 = 1;

/// Whether the reader of the output has ended, as `head` does, or it cannot be written.
pub static IS_UNREAD: AtomicBool = AtomicBool::new(false);

static IS_UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Prints a line. That nobody reads any more does not change what the program does or its exit status, and that it
/// cannot be written only the latter.
pub fn print(line: &str) {
    match write_all(&mut io::stdout(), format!("{line}\n").as_bytes()) {
        Ok(()) => {}
        Err(error) => {
            IS_UNREAD.store(true, Relaxed);
            if error.kind() != io::ErrorKind::BrokenPipe && !IS_UNWRITTEN.swap(true, Relaxed) {
                say(&format!("{PROGRAM}: the output cannot be written: {error}"));
            }
        }
    }
}

/// So often what takes nothing at this moment is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Writes all of a text, also to a pipe or a terminal that another program has made non-blocking: it is waited for as for others.
///
/// # Errors
/// That it cannot be written.
pub fn write_all(to: &mut dyn Write, text: &[u8]) -> io::Result<()> {
    let mut rest = text;
    loop {
        let written = match rest {
            [] => to.flush().map(|()| 0),
            _ => to.write(rest),
        };
        match written {
            Ok(0) if rest.is_empty() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether standard output was closed when the program began: then Rust's runtime has opened `/dev/null` in its place, also
/// for reading, which `>/dev/null` of a shell is not. A parent may have opened it so, too; what it is given is lost either way.
pub fn is_closed() -> bool {
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return true };
    let mut stdout = File::from(stdout);
    let is_null = match (stdout.metadata(), fs::metadata("/dev/null")) {
        (Ok(one), Ok(null)) => one.file_type().is_char_device() && one.rdev() == null.rdev(),
        _ => false,
    };
    is_null && stdout.read(&mut [0]).is_ok()
}

/// The exit status of the program when this is that of what it has done. All lines are written then.
pub fn status(done: ExitCode) -> ExitCode {
    stderr::wait();
    if IS_UNWRITTEN.load(Relaxed) { ExitCode::from(UNWRITTEN) } else { done }
}

/// Prints a document, without characters that a terminal acts on.
pub fn print_json(json: &Value) {
    let mut text = String::new();
    for c in json.to_string().chars() {
        match acts(c) {
            // Such a character is within a string.
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    print(&text);
}

/// Prints a line for people on standard error.
pub fn say(text: &str) {
    stderr::write(line(text) + "\n");
}

/// Whether a terminal acts on a character instead of showing it: it is a control character, or changes the
/// direction of what follows.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of others as a part of one line.
pub fn line(text: &str) -> String {
    let shown = |c: char| if acts(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A text of several inert lines.
pub fn inert(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A table without borders; the columns of numbers are aligned to the right.
pub fn table(
    header: &[&str],
    numbers: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| line(cell)));
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A count with its noun.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte in three, and is not ready in the meantime; full after some.
    struct Slow {
        taken: Vec<u8>,
        asked: usize,
        room: usize,
    }

    impl Slow {
        fn answer(&mut self, count: usize) -> io::Result<usize> {
            self.asked += 1;
            match self.asked % 3 {
                0 if self.taken.len() >= self.room => Err(io::ErrorKind::StorageFull.into()),
                0 => Ok(count.min(1)),
                1 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.answer(bytes.len())?;
            self.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.answer(0).map(|_| ())
        }
    }

    #[test]
    fn what_is_not_ready_gets_all_of_a_text() {
        let text = "all of it\n";
        for room in [0, 4, text.len() + 1] {
            let mut slow = Slow { taken: Vec::new(), asked: 0, room };
            let written = write_all(&mut slow, text.as_bytes());
            assert_eq!(written.is_ok(), room > text.len(), "{room}");
            assert_eq!(slow.taken, &text.as_bytes()[..room.min(text.len())]);
        }
    }

    const HOSTILE: &str = "\u{1b}[2J\u{202e}live\nFORGED";

    #[test]
    fn what_others_wrote_stays_one_line_that_a_terminal_only_shows() {
        let shown = r"\u{1b}[2J\u{202e}live\nFORGED";
        assert_eq!(line(HOSTILE), shown);
        assert_eq!(line("größe 東京 'x'"), "größe 東京 'x'");
        let table = table(&["A", "B"], &[], [vec![HOSTILE.to_owned(), "x".to_owned()]]);
        assert_eq!(table.lines().nth(1), Some(format!("{shown}  x").as_str()));
        assert_eq!(inert("a\n\u{7}b"), "a\n\\u{7}b");
    }
}
