//! The progress of a run: a bar on a terminal, lines elsewhere.

use consul_cli::print::{PROGRAM, line, say};
use consul_cli::stderr;
use consul_migrate::Report;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::collections::VecDeque;
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
    /// Whether a question waits on the terminal, which a bar would hide.
    is_asking: bool,
    phase: &'static str,
    bar: Option<ProgressBar>,
    rate: Rate,
    behind: Option<(u64, Duration)>,
    said: Instant,
    /// The text of the last line.
    line: String,
}

impl Progress {
    pub fn new(is_quiet: bool) -> Self {
        let shown = Shown {
            is_asking: false,
            phase: "",
            bar: None,
            rate: Rate::default(),
            behind: None,
            said: Instant::now(),
            line: String::new(),
        };
        Progress { is_quiet, shown: Mutex::new(shown) }
    }

    /// Shows nothing from a question on until its answer.
    pub fn ask(&self, is_asking: bool) {
        self.end();
        if let Ok(mut shown) = self.shown.lock() {
            shown.is_asking = is_asking;
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        let Ok(mut shown) = self.shown.lock() else { return };
        shown.clear();
        shown.phase = "";
    }
}

impl Shown {
    /// Removes the bar.
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            stderr::draw(move || bar.finish_and_clear());
        }
    }

    fn begin(&mut self, phase: &'static str, done: u64, of: Option<u64>) {
        self.clear();
        if self.phase != phase {
            (self.rate, self.behind) = (Rate::default(), None);
        }
        (self.phase, self.said) = (phase, Instant::now());
        if io::stderr().is_terminal() {
            let template = match of {
                Some(_) => "{msg} [{bar:40}] {human_pos}/{human_len} keys{prefix}",
                None => "{msg} {human_pos} keys{prefix}",
            };
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = of.map_or_else(ProgressBar::no_length, ProgressBar::new);
            self.bar = Some(bar.with_style(style).with_message(phase).with_position(done));
        }
    }

    /// The rate, the time that is left, and how far Consul is behind, as far as they are known.
    fn rest(&self, done: u64, of: Option<u64>) -> String {
        let mut rest = String::new();
        if let Some(rate) = self.rate.each_second().filter(|rate| *rate >= 1.0) {
            rest += &format!(", {}/s", HumanCount(rate as u64));
            if let Some(of) = of {
                rest += &format!(", {:.0} s left", of.saturating_sub(done) as f64 / rate);
            }
        }
        if let Some((revisions, time)) = self.behind {
            let seconds = time.as_secs_f64();
            rest += &format!(", {} revisions ({seconds:.1} s) behind", HumanCount(revisions));
        }
        rest
    }

    fn show(&mut self, done: u64, of: Option<u64>) {
        let rest = self.rest(done, of);
        match self.bar.clone() {
            Some(bar) => stderr::draw_if_taken(move || {
                bar.set_prefix(rest);
                bar.set_position(done);
            }),
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                let of_all = of.map_or(String::new(), |of| format!(" of {of}"));
                let line = format!("{} {done}{of_all} keys{rest}", self.phase);
                // A tail at rest says so once.
                if line != self.line {
                    say(&format!("{PROGRAM}: {line}"));
                    self.line = line;
                }
            }
            None => {}
        }
    }
}

impl Report for Progress {
    fn progress(&self, phase: &'static str, done: u64, of: Option<u64>) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if self.is_quiet || shown.is_asking {
            return;
        }
        if shown.phase != phase || (shown.bar.is_none() && io::stderr().is_terminal()) {
            shown.begin(phase, done, of);
        }
        shown.rate.add(Instant::now(), done);
        shown.show(done, of);
    }

    fn behind(&self, revisions: u64, time: Duration) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if self.is_quiet || shown.phase.is_empty() {
            return;
        }
        shown.behind = Some((revisions, time));
        let done = shown.rate.last();
        shown.rate.add(Instant::now(), done);
        shown.show(done, None);
    }

    fn note(&self, text: &str) {
        let text = format!("{PROGRAM}: {text}");
        let Some(bar) = self.shown.lock().ok().and_then(|shown| shown.bar.clone()) else {
            return say(&text);
        };
        // The bar is there again below it.
        stderr::write_by(move || bar.suspend(|| stderr::put(&format!("{}\n", line(&text)))));
    }
}

/// How fast the work of this run is: over the last seconds, and nothing of what was done before it.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

/// The time over which a rate is taken, and the least of it.
const OVER: Duration = Duration::from_secs(10);
const LEAST: Duration = Duration::from_millis(50);

/// A look that is sooner after the one before takes its place.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Rate {
    fn add(&mut self, now: Instant, done: u64) {
        // A phase that begins again, as a rollback's rounds do.
        if self.last() > done {
            self.0.clear();
        }
        let before = self.0.len().checked_sub(2).and_then(|place| self.0.get(place));
        if before.is_some_and(|(at, _)| now - *at < LOOK_EVERY) {
            self.0.pop_back();
        }
        self.0.push_back((now, done));
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= OVER) {
            self.0.pop_front();
        }
    }

    fn last(&self) -> u64 {
        self.0.back().map_or(0, |(_, done)| *done)
    }

    fn each_second(&self) -> Option<f64> {
        let ((begun, first), (now, last)) = (self.0.front()?, self.0.back()?);
        let time = *now - *begun;
        (time >= LEAST).then(|| (last - first) as f64 / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at 1000 a second for 30 s, after what was done before, then at 50 a second.
    #[test]
    fn a_rate_is_that_of_this_run_and_of_now() {
        let begun = Instant::now();
        let mut rate = Rate::default();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        rate.add(at(0), 1_000_000);
        assert_eq!(rate.each_second(), None);
        rate.add(at(20), 1_000_020);
        assert_eq!(rate.each_second(), None, "it is not known so soon");
        for ms in (40..30_000).step_by(20) {
            rate.add(at(ms), 1_000_000 + ms);
        }
        let about = |rate: &Rate, wanted: f64| {
            let found = rate.each_second().unwrap();
            assert!((found / wanted - 1.0).abs() < 0.05, "{found} instead of {wanted}");
        };
        about(&rate, 1000.0);
        for ms in (30_000..45_000).step_by(20) {
            rate.add(at(ms), 1_030_000 + (ms - 30_000) / 20);
        }
        about(&rate, 50.0);
        rate.add(at(46_000), 7);
        assert_eq!((rate.each_second(), rate.last()), (None, 7));
    }

    /// A tail at rest goes on with the same phase after an outage.
    #[test]
    fn a_note_ends_no_phase() {
        let progress = Progress::new(false);
        progress.progress("followed", 1, None);
        progress.note("etcd answers again");
        progress.behind(3, Duration::from_secs(1));
        let shown = progress.shown.lock().unwrap();
        assert_eq!((shown.phase, shown.behind), ("followed", Some((3, Duration::from_secs(1)))));
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut shown = Shown {
            is_asking: false,
            phase: "copied",
            bar: None,
            rate: Rate::default(),
            behind: None,
            said: Instant::now(),
            line: String::new(),
        };
        let begun = Instant::now();
        shown.rate.add(begun, 256);
        assert_eq!(shown.rest(256, Some(49_772)), "");
        shown.rate.add(begun + Duration::from_secs(2), 256);
        assert_eq!(shown.rest(256, Some(49_772)), "");
        shown.rate.add(begun + Duration::from_secs(4), 30_256);
        assert_eq!(shown.rest(30_256, Some(49_772)), ", 7,500/s, 3 s left");
        shown.behind = Some((1234, Duration::from_millis(2560)));
        assert_eq!(shown.rest(30_256, None), ", 7,500/s, 1,234 revisions (2.6 s) behind");
    }
}
