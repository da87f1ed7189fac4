//! The overview as server-sent events, whenever it changes.

use crate::observe::overview::Overview;
use crate::observe::report::Overviews;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::Frame;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the overview is compared with the last sent one.
const INTERVAL: Duration = Duration::from_millis(250);

/// After this time without a change a comment is sent, by which both sides notice that the other is gone.
const COMMENT_PAUSE: Duration = Duration::from_secs(15);

/// The last items that a stream has sent.
struct Sent {
    node: Weak<Overviews>,
    last: Option<Overview>,
    at: Instant,
}

/// The events about a node's cluster, which hold `place` and end with the node.
pub(super) fn events(
    node: &Arc<Overviews>,
    place: impl Send + 'static,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    let sent = Sent { node: Arc::downgrade(node), last: None, at: Instant::now() };
    stream::unfold((sent, place), |(mut sent, place)| async move {
        let frame = sent.next().await?;
        Some((Ok(Frame::data(frame)), (sent, place)))
    })
}

impl Sent {
    /// The next event or comment; `None` when the node is gone.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.last.is_some() {
                sleep(INTERVAL).await;
            }
            let overview = self.node.upgrade()?.overview().await;
            let steady = overview.steady();
            if self.last.as_ref() != Some(&steady) {
                (self.last, self.at) = (Some(steady), Instant::now());
                // Numbers and strings can always be encoded.
                let document = serde_json::to_string(&*overview).unwrap_or_default();
                return Some(format!("event: cluster\ndata: {document}\n\n").into());
            }
            if self.at.elapsed() >= COMMENT_PAUSE {
                self.at = Instant::now();
                return Some(Bytes::from_static(b": no change\n\n"));
            }
        }
    }
}
