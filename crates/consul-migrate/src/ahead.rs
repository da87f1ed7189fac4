//! Reads ahead: the next items of one side are read while the present ones are worked on.

use crate::Stop;
use futures_util::future::try_join;
use std::vec::IntoIter;
use tokio::sync::mpsc;

/// Items are handed over in parts of about this size.
const PART_BYTES: usize = 256 << 10;

/// The parts that wait: together about as much as a page of etcd.
const PARTS: usize = 8;

/// The cost of an item besides its own bytes.
const OVERHEAD: usize = 64;

/// Items that are read ahead.
#[derive(Debug)]
pub struct Ahead<T> {
    parts: mpsc::Receiver<Vec<T>>,
    ready: IntoIter<T>,
}

impl<T> Ahead<T> {
    /// The next item; `None` after the last one.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.ready.next() {
                return Some(item);
            }
            self.ready = self.parts.recv().await?.into_iter();
        }
    }
}

/// Does `work` with the items that `read` returns one after the other, each with its size in bytes.
///
/// # Errors
/// Errors of both.
pub async fn ahead<T, R>(
    mut read: impl AsyncFnMut() -> Result<Option<T>, Stop>,
    size: impl Fn(&T) -> usize,
    work: impl AsyncFnOnce(Ahead<T>) -> Result<R, Stop>,
) -> Result<R, Stop> {
    let (sender, parts) = mpsc::channel(PARTS);
    let reads = async move {
        let mut is_last = false;
        while !is_last {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < PART_BYTES && !is_last {
                let item = read().await?;
                bytes += item.as_ref().map_or(0, |item| size(item) + OVERHEAD);
                is_last = item.is_none();
                part.extend(item);
            }
            // Work that has ended needs no more.
            is_last |= sender.send(part).await.is_err();
        }
        Ok(())
    };
    let (_, done) = try_join(reads, work(Ahead { parts, ready: Vec::new().into_iter() })).await?;
    Ok(done)
}
