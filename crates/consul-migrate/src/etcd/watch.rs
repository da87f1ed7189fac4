//! The changes of a range from a revision on.

use super::message::{Base64, Int, WatchLine, WatchResponse, decode};
use super::streaming::Parts;
use super::{Etcd, Event, Range, Refused, encoded, is_compacted, shown};
use bytes::{Buf as _, BytesMut};
use consul_api::error::{Error, Kind};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use serde_json::json;
use std::time::Duration;

/// The longest line; etcd divides what is larger than a request may be.
pub(super) const MAX_LINE: usize = 64 << 20;

/// Within this time etcd says that a watch has begun.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// The message of one line of a watch.
#[derive(Debug)]
pub struct Changes {
    /// In the order of their revisions.
    pub events: Vec<Event>,
    /// Whether further events of the last revision may follow in the next line.
    pub is_part: bool,
    /// Without events: all of them up to this revision were told. etcd says so from time to time.
    pub told_up_to: u64,
}

/// A watch. Dropping it ends it.
pub struct Watch<'a> {
    etcd: &'a Etcd,
    /// The server that tells it.
    at: usize,
    parts: Parts,
    unread: BytesMut,
    /// How much of `unread` has no newline.
    searched: usize,
    /// The message of a line that was read while it began.
    first: Option<Changes>,
    received: u64,
}

impl Etcd {
    /// Watches a range from a revision on, and waits until etcd says that this has begun: something between that holds answers
    /// back would let no change through either.
    ///
    /// # Errors
    /// See [`Refused`]. That the revision is compacted is known only from the first changes.
    pub async fn watch(&self, range: &Range, from: u64) -> Result<Watch<'_>, Refused> {
        if self.login.is_some() {
            // With a token that has expired a watch is denied as without the right; a read renews the token.
            self.revision(&range.start).await?;
        }
        let asked = json!({ "create_request": {
            "key": Base64(range.start.clone()),
            "range_end": Base64(range.end.clone()),
            "start_revision": Int(from),
            "fragment": true,
            "progress_notify": true,
        } });
        let asked = encoded(&asked)?;
        let at = self.at();
        let begins = async {
            let answer = self.open(at, "watch", &asked).await?;
            let (parts, unread) = (answer.into_body(), BytesMut::new());
            let (searched, first, received) = (0, None, 0);
            let mut watch = Watch { etcd: self, at, parts, unread, searched, first, received };
            watch.begin().await?;
            Ok(watch)
        };
        let begun = async {
            // It is large, and within others.
            match select(Box::pin(begins), self.clock.sleep(BEGINS_WITHIN)).await {
                Either::Left((begun, _)) => begun,
                Either::Right(_) => {
                    let error = self.held_back(at);
                    self.silence.failed(error.message());
                    Err(error.into())
                }
            }
        };
        let begun = self.silence.tell(begun).await;
        if begun.is_err() {
            self.forget_token();
        }
        begun
    }

    fn held_back(&self, at: usize) -> Error {
        let seconds = BEGINS_WITHIN.as_secs();
        let message = format!(
            "{}: watch: nothing for {seconds} s, not even that it has begun: a proxy that holds answers back, as nginx does \
             without `proxy_buffering off`, lets no change through",
            self.endpoint(at)
        );
        Error::new(Kind::Timeout, message).retryable()
    }

    /// Lets the next request go to another server.
    pub fn leave_server(&self) {
        self.leave(self.at());
    }
}

impl Watch<'_> {
    /// The next changes. May be dropped at any time without loss.
    ///
    /// # Errors
    /// [`Refused::Compacted`]; a retryable error if the connection has ended; another one if etcd has ended
    /// the watch.
    pub async fn next(&mut self) -> Result<Changes, Refused> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            if let Some(changes) = self.told().await? {
                return Ok(changes);
            }
        }
    }

    /// How many bytes have come, also of a line that is not whole.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Reads the first line.
    async fn begin(&mut self) -> Result<(), Refused> {
        self.first = self.told().await?;
        Ok(())
    }

    /// The message of the next line; `None` if that is only that the watch has begun.
    async fn told(&mut self) -> Result<Option<Changes>, Refused> {
        loop {
            while let Some(line) = self.line() {
                if !line.trim_ascii().is_empty() {
                    return self.changes(&line);
                }
            }
            match self.parts.next().await {
                Some(part) => {
                    let part = part?;
                    self.received += part.len() as u64;
                    self.unread.extend_from_slice(&part);
                }
                None => {
                    return Err(self
                        .error(Kind::Connect, "the watch has ended")
                        .retryable()
                        .into());
                }
            }
            if self.unread.len() > self.etcd.longest_line {
                return Err(Refused::TooLarge);
            }
        }
    }

    fn line(&mut self) -> Option<BytesMut> {
        let found = self.unread[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.unread.len();
            return None;
        };
        let line = self.unread.split_to(self.searched + at);
        self.unread.advance(1);
        self.searched = 0;
        Some(line)
    }

    fn changes(&self, line: &[u8]) -> Result<Option<Changes>, Refused> {
        let foreign = |why: &str| {
            self.error(Kind::Decode, &format!("a line of the watch is not etcd's: {why}"))
        };
        let line: WatchLine = decode(line).map_err(|error| {
            // The answer of another program has more lines.
            let whole = [line, b" ", &self.unread].concat();
            foreign(&format!("{error}{}", shown(&whole)))
        })?;
        if let Some(refusal) = line.error {
            return Err(match is_compacted(refusal.text()) {
                true => Refused::Compacted,
                false => self.error(Kind::NoLeader, refusal.text()).retryable().into(),
            });
        }
        let Some(response) = line.result else { return Err(foreign("it has no result").into()) };
        self.etcd.check_cluster(self.at, &response.header)?;
        self.check(&response)?;
        // Without events it tells nothing but how far etcd is.
        if response.events.is_empty() && response.header.cluster_id == Int(0) {
            return Err(foreign("it has no cluster_id").into());
        }
        // The line that begins a watch says only how far etcd is.
        let tells = !response.created && (!response.events.is_empty() || !response.fragment);
        let (told_up_to, events) = (response.header.revision.0, response.events);
        Ok(tells.then_some(Changes { events, is_part: response.fragment, told_up_to }))
    }

    /// A watch that etcd refuses or ends is a success of HTTP.
    fn check(&self, response: &WatchResponse) -> Result<(), Refused> {
        if !response.canceled {
            return Ok(());
        }
        let why = &response.cancel_reason;
        if response.compact_revision != Int(0) || is_compacted(why) {
            return Err(Refused::Compacted);
        }
        let (kind, why) =
            match why.contains("permission denied") || why.contains("auth") || why.is_empty() {
                true => {
                    let lacks = self.etcd.lacks("watch");
                    (Kind::PermissionDenied, format!("the watch is denied: {why}{lacks}"))
                }
                false => (Kind::Http, format!("etcd has ended the watch: {why}")),
            };
        Err(self.error(kind, &why).into())
    }

    fn error(&self, kind: Kind, why: &str) -> Error {
        Error::new(kind, format!("{}: {why}", self.etcd.endpoint(self.at)))
    }
}
