//! The memory of tapes.

use super::Node;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// The nodes of a tape, in memory that the thread's next tape reuses: the system maps fresh memory page
/// by page, which takes a sixth of the time in which a long answer is decoded.
#[derive(Clone, Debug)]
pub(super) struct Nodes(pub Vec<Node>);

/// The largest number of nodes for which a thread keeps memory: 8 MiB.
const MAX_SPARE: usize = (8 << 20) / size_of::<Node>();

thread_local! {
    static SPARE: Cell<Vec<Node>> = const { Cell::new(Vec::new()) };
}

impl Nodes {
    pub fn with_capacity(capacity: usize) -> Self {
        let mut nodes = SPARE.try_with(Cell::take).unwrap_or_default();
        nodes.reserve(capacity);
        Nodes(nodes)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let mut nodes = std::mem::take(&mut self.0);
        nodes.clear();
        nodes.shrink_to(MAX_SPARE);
        // A thread that is ending has no thread-locals.
        let _ = SPARE.try_with(|spare| {
            let other = spare.take();
            spare.set(if other.capacity() > nodes.capacity() { other } else { nodes });
        });
    }
}

impl Deref for Nodes {
    type Target = Vec<Node>;
    fn deref(&self) -> &Vec<Node> {
        &self.0
    }
}

impl DerefMut for Nodes {
    fn deref_mut(&mut self) -> &mut Vec<Node> {
        &mut self.0
    }
}
