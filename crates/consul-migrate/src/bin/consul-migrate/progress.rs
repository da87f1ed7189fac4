//! The progress of a run: a bar on a terminal, lines elsewhere.

use consul_cli::print::{PROGRAM, say};
use consul_migrate::Report;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Progress {
    is_quiet: bool,
    shown: Mutex<Shown>,
}

struct Shown {
    phase: &'static str,
    bar: Option<ProgressBar>,
    begun: Instant,
    first: u64,
    said: Instant,
}

impl Progress {
    pub fn new(is_quiet: bool) -> Self {
        let now = Instant::now();
        let shown = Shown { phase: "", bar: None, begun: now, first: 0, said: now };
        Progress { is_quiet, shown: Mutex::new(shown) }
    }

    /// Removes the bar.
    pub fn end(&self) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if let Some(bar) = shown.bar.take() {
            bar.finish_and_clear();
        }
        shown.phase = "";
    }
}

impl Shown {
    fn begin(&mut self, phase: &'static str, done: u64, of: Option<u64>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let now = Instant::now();
        (self.phase, self.begun, self.said, self.first) = (phase, now, now, done);
        if io::stderr().is_terminal() {
            let template = match of {
                Some(_) => "{msg} [{bar:40}] {human_pos}/{human_len} keys, {per_sec}, {eta} left",
                None => "{msg} {human_pos} keys, {per_sec}",
            };
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = of.map_or_else(ProgressBar::no_length, ProgressBar::new);
            self.bar = Some(bar.with_style(style).with_message(phase));
        }
    }

    fn say(&mut self, done: u64, of: Option<u64>) {
        self.said = Instant::now();
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let rate = (done - self.first.min(done)) as f64 / seconds;
        let of_all = of.map_or(String::new(), |of| {
            let left = of.saturating_sub(done) as f64 / rate.max(1.0);
            format!(" of {of}, {left:.0} s left")
        });
        say(&format!("{PROGRAM}: {} {done}{of_all}, {rate:.0} a second", self.phase));
    }
}

impl Report for Progress {
    fn progress(&self, phase: &'static str, done: u64, of: Option<u64>) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if self.is_quiet {
            return;
        }
        if shown.phase != phase {
            shown.begin(phase, done, of);
        }
        match &shown.bar {
            Some(bar) => bar.set_position(done),
            None if shown.said.elapsed() >= LINE_EVERY => shown.say(done, of),
            None => {}
        }
    }

    fn note(&self, text: &str) {
        self.end();
        say(&format!("{PROGRAM}: {text}"));
    }
}
