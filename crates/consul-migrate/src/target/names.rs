//! The names of the keys in Consul in bytewise order, without all of them in memory: where there are many,
//! directory by directory.

use crate::target::Target;
use consul_api::error::Error;
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

impl<'a, Count: AsyncFn(&str) -> Result<u64, crate::Stop>> Names<'a, Count> {
    pub async fn new(target: &'a Target, prefix: &str, count: Count) -> Result<Self, crate::Stop> {
        let mut names = Names { target, count, open: Vec::new() };
        names.enter(prefix.to_owned()).await?;
        Ok(names)
    }

    async fn enter(&mut self, prefix: String) -> Result<(), crate::Stop> {
        let is_whole = (self.count)(&prefix).await? <= AT_ONCE;
        let names = self.read(&prefix, is_whole).await?;
        self.open.push(Directory { prefix, left: names.into_iter(), is_whole });
        Ok(())
    }

    /// Reads all names of the present directory that are not before this one: a directory in it whose name no URL has would
    /// be read from the beginning of this one, one after the other.
    async fn read_whole(&mut self, prefix: &str, from: &str) -> Result<(), crate::Stop> {
        let mut left = self.read(prefix, true).await?;
        left.retain(|name| &**name >= from);
        if let Some(directory) = self.open.last_mut() {
            (directory.left, directory.is_whole) = (left.into_iter(), true);
        }
        Ok(())
    }

    async fn read(&self, prefix: &str, is_whole: bool) -> Result<Vec<String>, Error> {
        self.target.keys(prefix, (!is_whole).then_some("/")).await
    }

    /// The next name; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<String>, crate::Stop> {
        while let Some(directory) = self.open.last_mut() {
            match directory.left.next() {
                None => _ = self.open.pop(),
                // A key may end with the separator, as the name of its directory does.
                Some(name)
                    if directory.is_whole || name == directory.prefix || !name.ends_with('/') =>
                {
                    return Ok(Some(name));
                }
                Some(name) => {
                    let around = directory.prefix.clone();
                    match self.target.takes(&name).await? {
                        true => self.enter(name).await?,
                        false => self.read_whole(&around, &name).await?,
                    }
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stop;
    use crate::target::tests::target_of;
    use ::http::{HeaderValue, Request, Response};
    use bytes::Bytes;
    use consul_api::error::Error;
    use consul_client::transport::Transport;
    use consul_process::clock::BoxFuture;
    use std::collections::BTreeSet;

    const KEYS: [&str; 8] = ["a", "d/", "d/a", "d/e/", "d/e/f", "d/e/g/h", "d0", "z/"];

    /// A server that has these keys, and answers with their names as Consul does.
    #[derive(Debug)]
    struct Keys;

    impl Transport for Keys {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
            let prefix = request.uri().path().trim_start_matches("/v1/kv/").to_owned();
            let is_cut = request.uri().query().is_some_and(|query| query.contains("separator"));
            let cut = |key: &'static str| match key[prefix.len()..].find('/') {
                Some(at) if is_cut => &key[..=prefix.len() + at],
                _ => key,
            };
            let keys = KEYS.into_iter().filter(|key| key.starts_with(&prefix)).map(cut);
            let names = format!("{:?}", Vec::from_iter(BTreeSet::from_iter(keys)));
            let mut answer = Response::new(names.into());
            let policy = HeaderValue::from_static("allow");
            answer.headers_mut().insert("x-consul-default-acl-policy", policy);
            Box::pin(async { Ok(answer) })
        }

        fn endpoint(&self) -> &str {
            "keys"
        }
    }

    #[test]
    fn directory_by_directory_the_names_are_the_same_as_all_at_once() {
        let target = target_of(Keys);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for count in [AT_ONCE, AT_ONCE + 1] {
                let count = async |_: &str| Ok::<_, Stop>(count);
                let mut names = Names::new(&target, "", count).await.unwrap();
                let mut found = Vec::new();
                while let Some(name) = names.next().await.unwrap() {
                    found.push(name);
                    assert!(found.len() <= KEYS.len(), "{found:?}");
                }
                assert_eq!(found, KEYS);
            }
        });
    }
}
