//! The lack of file descriptors.

use std::io;

/// What helps against an error of the operating system that a program can mend; `None` for other errors.
pub fn cure_of(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some(
            "this process has no file descriptors left: raise `ulimit -n` (LimitNOFILE in systemd), or close clients that are \
             not used any more",
        ),
        libc::ENFILE => Some("this machine has no file descriptors left: raise fs.file-max"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lack_of_descriptors_has_a_cure() {
        let cure = |code| cure_of(&io::Error::from_raw_os_error(code));
        assert!(cure(libc::EMFILE).is_some_and(|cure| cure.contains("ulimit -n")));
        assert!(cure(libc::ENFILE).is_some_and(|cure| cure.contains("fs.file-max")));
        assert_eq!(cure(libc::ECONNREFUSED), None);
        assert_eq!(cure_of(&io::Error::other("no code")), None);
    }
}
