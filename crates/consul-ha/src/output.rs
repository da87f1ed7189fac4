//! The output of the program: tables for people, JSON for programs.

use super::arguments::Watched;
use super::connection::Session;
use super::failure::Failure;
use consul_cli::print::{IS_UNREAD, inert};
pub use consul_cli::print::{counted, failed, line, print, print_json, say, table};
use serde_json::Value;
use std::io::{self, IsTerminal};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Clears a terminal, for the next look.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Whether nobody reads the output any more.
pub fn is_unread() -> bool {
    IS_UNREAD.load(Relaxed)
}

/// One look at something: the same as text and as JSON, and whether it is well.
pub struct Shown {
    pub text: String,
    pub json: Value,
    pub is_well: bool,
}

impl Shown {
    pub fn well(text: String, json: Value) -> Self {
        Shown { text, json, is_well: true }
    }
}

#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints one look.
    pub fn show(self, shown: &Shown) -> Result<(), Failure> {
        if self.json {
            print_json(&shown.json);
        } else {
            print(&inert(shown.text.trim_end()));
        }
        if shown.is_well { Ok(()) } else { Err(Failure::NotWell) }
    }

    /// Looks once, or again and again if asked to.
    pub async fn repeated<F: Future<Output = Result<Shown, Failure>>>(
        self,
        session: &Session,
        watched: &Watched,
        mut look: impl FnMut() -> F,
    ) -> Result<(), Failure> {
        let Some(seconds) = watched.watch else { return self.show(&look().await?) };
        let clears = !self.json && io::stdout().is_terminal();
        loop {
            let shown = look().await;
            if clears {
                print(CLEAR);
            }
            let is_well = match shown {
                Ok(shown) => self.show(&shown),
                Err(failure) => {
                    let failure = session.explained(failure).await;
                    self.failure(&failure);
                    Err(failure)
                }
            };
            if is_unread() {
                return is_well;
            }
            if !self.json && !clears {
                print("");
            }
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    }

    /// Says that there was nothing to do, for which no right is needed.
    pub fn unchanged(self, text: &str, mut json: Value, is_dry: bool) -> Result<(), Failure> {
        json["dry_run"] = is_dry.into();
        self.show(&Shown::well(line(text), json))
    }

    /// Says what was done, or would be: what the token may not do would not.
    pub async fn done(
        self,
        session: &Session,
        text: &str,
        mut json: Value,
        is_dry: bool,
    ) -> Result<(), Failure> {
        if is_dry {
            session.check_rights(&session.changes).await?;
        }
        if self.json {
            json["dry_run"] = is_dry.into();
            print_json(&json);
        } else if is_dry {
            print(&format!("would be done: {}", line(text)));
        } else {
            print(&line(text));
        }
        Ok(())
    }

    pub fn failure(self, failure: &Failure) {
        let text = failure.to_string();
        if text.is_empty() {
            return;
        }
        if self.json {
            print_json(&failed(failure.kind(), &text));
        }
        say(&format!("consul-ha: {text}"));
    }
}

/// A number for people: not with hundreds of digits.
pub fn number(number: f64) -> String {
    match number == 0.0 || (1e-6..1e16).contains(&number.abs()) {
        true => number.to_string(),
        false => format!("{number:e}"),
    }
}

/// How long ago this moment was, in words for people.
pub fn ago(at_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| (now.as_millis() as u64).saturating_sub(at_ms) / 1000);
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn no_number_has_hundreds_of_digits() {
        let cases = [(0.0, "0"), (2.0, "2"), (0.5, "0.5"), (1e-320, "1e-320"), (1e300, "1e300")];
        for (given, shown) in cases {
            assert_eq!(number(given), shown);
        }
    }

    #[test]
    fn how_long_ago_it_was_has_a_unit_that_fits() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let said = |seconds: u64| ago((now - seconds) * 1000);
        assert!(said(60).ends_with(" s ago"), "{}", said(60));
        // The test itself takes some seconds on a busy machine.
        assert_eq!(said(125), "2 min ago");
        assert_eq!(said(3 * 3600 + 5), "3 h ago");
        assert_eq!(said(3 * 86_400 + 5), "3 days ago");
        assert_eq!(ago((now + 3600) * 1000), "0 s ago", "by a clock that is ahead");
    }
}
