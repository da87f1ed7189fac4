//! The progress of a wait: a bar on a terminal, lines elsewhere.

use super::output::say;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};

pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    most: usize,
    left: Option<usize>,
    is_quiet: bool,
}

impl Progress {
    pub fn new(what: &str, is_quiet: bool) -> Self {
        let shows = io::stderr().is_terminal() && !is_quiet;
        let bar = shows.then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style).with_message(what.to_owned())
        });
        Progress { bar, what: what.to_owned(), most: 0, left: None, is_quiet }
    }

    /// Tells how many are left now.
    pub fn tell(&mut self, left: usize) {
        self.most = self.most.max(left);
        if let Some(bar) = &self.bar {
            bar.set_length(self.most as u64);
            bar.set_position((self.most - left) as u64);
        } else if self.left != Some(left) && !self.is_quiet {
            say(&format!("{}: {left} left of {}", self.what, self.most));
        }
        self.left = Some(left);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
