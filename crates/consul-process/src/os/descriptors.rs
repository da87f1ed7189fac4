//! The lack of file descriptors.

use crate::metrics::numbers;
use crate::sync::lock;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// For how long an operator sees a lack.
const RECENT: Duration = Duration::from_secs(60);

const OF_PROCESS: &str = "this process has no file descriptors left: raise `ulimit -n` (LimitNOFILE in systemd), or close clients \
                          that are not used any more";
const OF_MACHINE: &str = "this machine has no file descriptors left: raise fs.file-max";

/// The last lack, and when it was.
static LAST: Mutex<Option<(Instant, &'static str)>> = Mutex::new(None);

/// The cure of an error of the operating system that a program can mend, which is noted; `None` for other errors.
pub fn cure_of(error: &io::Error) -> Option<&'static str> {
    let cure = match error.raw_os_error()? {
        libc::EMFILE => OF_PROCESS,
        libc::ENFILE => OF_MACHINE,
        _ => return None,
    };
    numbers().no_descriptors.add_one();
    *lock(&LAST) = Some((Instant::now(), cure));
    Some(cure)
}

/// The lack of this process within the last minute, and the cure.
pub fn lacking() -> Option<&'static str> {
    let last = *lock(&LAST);
    last.filter(|(at, _)| at.elapsed() < RECENT).map(|(_, cure)| cure)
}

/// Whether a text, such as the output of a check, is what a process says that lacks file descriptors.
pub fn is_lack(text: &str) -> bool {
    [OF_PROCESS, OF_MACHINE].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lack_of_descriptors_has_a_cure() {
        let cure = |code| cure_of(&io::Error::from_raw_os_error(code));
        assert!(cure(libc::EMFILE).is_some_and(|cure| cure.contains("ulimit -n")));
        assert!(cure(libc::ENFILE).is_some_and(|cure| cure.contains("fs.file-max")));
        assert!(lacking().is_some_and(|cure| cure.contains("fs.file-max") && is_lack(cure)));
        assert_eq!(cure(libc::ECONNREFUSED), None);
        assert_eq!(cure_of(&io::Error::other("no code")), None);
    }
}
