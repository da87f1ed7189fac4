//! The names of the keys in Consul in bytewise order, without all of them in memory: where there are many,
//! directory by directory.

use super::target::Target;
use crate::error::Error;
use std::vec::IntoIter;

/// As many names are read at once.
const AT_ONCE: u64 = 20_000;

/// Walks through the names that begin with a prefix.
pub struct Names<'a, Count> {
    target: &'a Target,
    /// How many keys a prefix has, as far as that is known.
    count: Count,
    /// The directories on the way to the next name, with their names that are left.
    open: Vec<Directory>,
}

struct Directory {
    prefix: String,
    left: IntoIter<String>,
    is_whole: bool,
}

impl<'a, Count: AsyncFn(&str) -> Result<u64, super::Stop>> Names<'a, Count> {
    pub async fn new(target: &'a Target, prefix: &str, count: Count) -> Result<Self, super::Stop> {
        let mut names = Names { target, count, open: Vec::new() };
        names.enter(prefix.to_owned()).await?;
        Ok(names)
    }

    async fn enter(&mut self, prefix: String) -> Result<(), super::Stop> {
        let is_whole = (self.count)(&prefix).await? <= AT_ONCE;
        let names = self.read(&prefix, is_whole).await?;
        self.open.push(Directory { prefix, left: names.into_iter(), is_whole });
        Ok(())
    }

    async fn read(&self, prefix: &str, is_whole: bool) -> Result<Vec<String>, Error> {
        self.target.keys(prefix, (!is_whole).then_some("/")).await
    }

    /// The next name; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<String>, super::Stop> {
        while let Some(directory) = self.open.last_mut() {
            match directory.left.next() {
                None => _ = self.open.pop(),
                // A key may end with the separator, as the name of its directory does.
                Some(name)
                    if directory.is_whole || name == directory.prefix || !name.ends_with('/') =>
                {
                    return Ok(Some(name));
                }
                Some(name) => self.enter(name).await?,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stop;
    use super::super::mapping::Op;
    use super::*;
    use crate::client::{Client, Settings};
    use crate::clock::ManualClock;
    use crate::simulate::{Agent, Options, SimTransport};
    use crate::wire::request::Defaults;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn directory_by_directory_the_names_are_the_same_as_all_at_once() {
        let wanted = ["a", "d/", "d/a", "d/e/", "d/e/f", "d/e/g/h", "d0", "z/"];
        let clock = ManualClock::new();
        let shared: Arc<dyn crate::clock::Clock> = Arc::new(clock.clone());
        let agent = Agent::new(Options { clock: Arc::clone(&shared), ..Options::default() });
        let transport = Arc::new(SimTransport::new(Arc::new(agent), "simulated"));
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let client = Client::new(vec![transport], settings, shared, fastrand::Rng::with_seed(1));
        let target = Target::new(Arc::new(client), Duration::ZERO, 64);
        let ops: Vec<Op> =
            wanted.iter().map(|key| Op::set((*key).to_owned(), "v".into())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(clock.drive(async {
            target.txn_surely(&[], &ops).await.unwrap();
            for count in [AT_ONCE, AT_ONCE + 1] {
                let count = async |_: &str| Ok::<_, Stop>(count);
                let mut names = Names::new(&target, "", count).await.unwrap();
                let mut found = Vec::new();
                while let Some(name) = names.next().await.unwrap() {
                    found.push(name);
                    assert!(found.len() <= wanted.len(), "{found:?}");
                }
                assert_eq!(found, wanted);
            }
        }));
    }
}
