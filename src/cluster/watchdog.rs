//! Tells systemd that the program of this process is alive, from the start of its first node with `notify` to the
//! end of the process: a program that stops its node may go on without it.

use crate::runtime::executor::background_thread;
use consul_api::error::Error;
use consul_cluster::data_plane::DataPlane;
use consul_cluster::observe::systemd::Systemd;
use consul_process::os::PerProcess;
use consul_process::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// The nodes of this process with `notify`.
static NODES: PerProcess<Nodes> = PerProcess::new();

#[derive(Default)]
struct Nodes {
    watched: Mutex<Vec<Weak<Watched>>>,
    is_told: AtomicBool,
}

/// A node whose handlers show that the program is alive, as long as it runs.
pub struct Watched {
    plane: Arc<DataPlane>,
    has_ended: AtomicBool,
}

impl Watched {
    /// Watches a node from now on.
    ///
    /// # Errors
    /// As [`background_thread`].
    pub fn new(plane: Arc<DataPlane>, systemd: &Arc<Systemd>) -> Result<Arc<Self>, Error> {
        let thread = background_thread()?;
        let (node, nodes) = (Watched { plane, has_ended: AtomicBool::new(false) }, NODES.get());
        let node = Arc::new(node);
        {
            let mut watched = lock(&nodes.watched);
            watched.retain(|node| node.strong_count() > 0);
            watched.push(Arc::downgrade(&node));
        }
        if !nodes.is_told.swap(true, Ordering::Relaxed) {
            let systemd = Arc::clone(systemd);
            thread.spawn(async move { systemd.keep_alive(|| nodes.are_alive()).await });
        }
        Ok(node)
    }

    /// Notes that the node does not run any more.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed) || self.plane.is_ready()
    }
}

impl Nodes {
    fn are_alive(&self) -> bool {
        let mut watched = lock(&self.watched);
        watched.retain(|node| node.strong_count() > 0);
        watched.iter().filter_map(Weak::upgrade).all(|node| node.is_alive())
    }
}
