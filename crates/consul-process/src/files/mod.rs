//! Values from files that other programs replace, such as tokens and certificates.

pub mod pem;

use crate::clock::{Clock, Instant};
use crate::sync::lock;
use consul_api::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How old the last read of the files may be when their value is used.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How long files may not fit each other before that is reported: other programs replace one after the other.
const REPLACED_WITHIN: Duration = Duration::from_secs(3);

/// How long the last read of a value counts: a value that is not used is not read either, and says nothing of its files.
const COUNTS_FOR: Duration = Duration::from_secs(15);

/// Why a value has the last content of its files, when they were read, and by which clock.
type Unusable = (String, Instant, Arc<dyn Clock>);

/// All such values of this process, by number.
static UNUSABLE: Mutex<BTreeMap<u64, Unusable>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The files of this process that cannot be used, each with why; `None`: all can.
pub fn unusable() -> Option<String> {
    let all = lock(&UNUSABLE);
    let counts = |(_, read_at, clock): &&Unusable| clock.now() - *read_at < COUNTS_FOR;
    let all: BTreeSet<&str> = all.values().filter(counts).map(|(why, ..)| why.as_str()).collect();
    (!all.is_empty()).then(|| Vec::from_iter(all).join("; "))
}

type Read<C> = Box<dyn Fn() -> Result<C, Error> + Send + Sync>;
type Make<C, V> = Box<dyn Fn(&C) -> Result<V, Error> + Send + Sync>;

/// A value made from files. They are read again at most once a second; while they cannot be used, the
/// last value stays.
pub struct FromFiles<C, V> {
    number: u64,
    /// A noun for log lines.
    name: &'static str,
    read: Read<C>,
    make: Make<C, V>,
    clock: Arc<dyn Clock>,
    last: Mutex<Last<C, V>>,
}

struct Last<C, V> {
    content: C,
    value: V,
    read_at: Instant,
    /// Since when the files cannot be used.
    unusable_since: Option<Instant>,
}

impl<C: PartialEq, V: Clone> FromFiles<C, V> {
    /// Reads the files for the first time, and makes the value of their content.
    ///
    /// # Errors
    /// Errors of `read` and `make`.
    pub fn open(
        name: &'static str,
        clock: Arc<dyn Clock>,
        read: impl Fn() -> Result<C, Error> + Send + Sync + 'static,
        make: impl Fn(&C) -> Result<V, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let content = read()?;
        let value = make(&content)?;
        let (read_at, unusable_since) = (clock.now(), None);
        let last = Mutex::new(Last { content, value, read_at, unusable_since });
        let (read, make) = (Box::new(read), Box::new(make));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(FromFiles { number, name, read, make, clock, last })
    }

    /// The value; reads the files if the last read is too old.
    pub fn current(&self) -> V {
        let mut last = lock(&self.last);
        self.read_if_old(&mut last);
        last.value.clone()
    }

    /// The value in the files as they are now.
    pub fn newest(&self) -> V {
        let mut last = lock(&self.last);
        self.read_again(&mut last);
        last.value.clone()
    }

    /// Looks at the content; reads the files if the last read is too old.
    pub fn look<R>(&self, at: impl FnOnce(&C) -> R) -> R {
        let mut last = lock(&self.last);
        self.read_if_old(&mut last);
        at(&last.content)
    }

    /// Makes the value again, of the last content.
    pub fn renew(&self) {
        let mut last = lock(&self.last);
        if let Ok(value) = (self.make)(&last.content) {
            last.value = value;
        }
    }

    fn read_if_old(&self, last: &mut Last<C, V>) {
        if self.clock.now() - last.read_at >= MAX_AGE {
            self.read_again(last);
        }
    }

    fn read_again(&self, last: &mut Last<C, V>) {
        last.read_at = self.clock.now();
        let changed = (self.read)().and_then(|content| {
            let changed = (content != last.content).then_some(content);
            changed.map(|content| Ok(((self.make)(&content)?, content))).transpose()
        });
        if changed.is_ok() && last.unusable_since.take().is_some() {
            lock(&UNUSABLE).remove(&self.number);
        }
        match changed {
            Ok(None) => {}
            Ok(Some((value, content))) => {
                (last.value, last.content) = (value, content);
                tracing::info!("the {} changed", self.name);
            }
            Err(why) => {
                let (name, why) = (self.name, why.message());
                if last.unusable_since.is_none() {
                    tracing::warn!(%why, "the {name} cannot be used; the last content stays in use");
                }
                let since = *last.unusable_since.get_or_insert(last.read_at);
                if last.read_at - since >= REPLACED_WITHIN {
                    let why = (format!("{name}: {why}"), last.read_at, Arc::clone(&self.clock));
                    lock(&UNUSABLE).insert(self.number, why);
                }
            }
        }
    }
}

impl<C, V> Drop for FromFiles<C, V> {
    fn drop(&mut self) {
        lock(&UNUSABLE).remove(&self.number);
    }
}

impl<C, V> fmt::Debug for FromFiles<C, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFiles").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use consul_api::error::Kind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_change_is_noticed_a_second_later_and_a_broken_one_changes_nothing() {
        let (clock, text) = (ManualClock::new(), Arc::new(Mutex::new("1")));
        let (written, made) = (Arc::clone(&text), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&made);
        let files = FromFiles::open(
            "number file",
            Arc::new(clock.clone()),
            move || Ok(*lock(&written)),
            move |text: &&str| {
                count.fetch_add(1, Ordering::Relaxed);
                text.parse::<u32>().map_err(|error| Error::new(Kind::Config, error.to_string()))
            },
        );
        let files = files.expect("a number");
        *lock(&text) = "2";
        clock.advance(MAX_AGE - Duration::from_nanos(1));
        assert_eq!(files.current(), 1);
        clock.advance(Duration::from_nanos(1));
        assert_eq!((files.current(), files.newest(), files.newest()), (2, 2, 2));
        assert_eq!(made.load(Ordering::Relaxed), 2, "an unchanged content is used again");
        *lock(&text) = "half-writ";
        assert_eq!(files.newest(), 2);
        *lock(&text) = "3";
        assert_eq!(files.newest(), 3);
    }

    #[test]
    fn files_that_stay_unusable_are_reported_until_they_are_replaced_or_nobody_uses_them() {
        let (clock, text) = (ManualClock::new(), Arc::new(Mutex::new("1")));
        let written = Arc::clone(&text);
        let files = FromFiles::open(
            "file of this test",
            Arc::new(clock.clone()),
            move || Ok(*lock(&written)),
            |text: &&str| text.parse::<u32>().map_err(|_| Error::new(Kind::Config, "no number")),
        );
        let files = files.expect("a number");
        // Other tests have files, too.
        let is_told = || unusable().is_some_and(|it| it.contains("file of this test: no number"));
        let after = |content: &'static str, passed: Duration| {
            *lock(&text) = content;
            clock.advance(passed);
            files.newest();
            is_told()
        };
        assert!(!after("half-writ", Duration::ZERO));
        assert!(!after("half-writ", REPLACED_WITHIN - Duration::from_nanos(1)), "one of two files");
        assert!(after("another half", Duration::from_nanos(1)));
        assert!(!after("2", Duration::from_secs(60)));
        assert!(!after("half-writ", Duration::from_secs(60)), "it is another time");
        assert!(after("half-writ", REPLACED_WITHIN));
        clock.advance(COUNTS_FOR);
        assert!(!is_told(), "nobody has used them since");
        assert!(after("half-writ", Duration::ZERO));
        drop(files);
        assert!(!is_told());
    }
}
