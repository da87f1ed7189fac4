//! Requests about shards as calls between nodes, and the background tasks of a process.

use super::options::MAX_OF_A_SHARD;
use crate::data_plane::{Body, CallOptions, DataPlane, Service};
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_process::clock::{BoxFuture, Clock};
use consul_replication::holder::Holder;
use consul_replication::map::NodeId;
use consul_replication::message::{Action, Reply, Request};
use consul_replication::peers::{Peers, Runtime};
use consul_replication::storage::PAGE_BYTES;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The bytes of a request that are kept free for its entry: a record that was written is sent again later,
/// when more of the shard's slots may have changes.
const RESERVED_BYTES: usize = 8 << 10;

/// The name under which nodes serve the requests of a store.
pub fn service_name(store: &str) -> String {
    format!("replication/{store}")
}

/// Serves the requests of a store with this number of shards by the node's replicas, for
/// [`DataPlane::set_service`].
pub fn service(holder: Arc<Holder>, shards: u32) -> Service {
    Arc::new(move |body| {
        let holder = Arc::clone(&holder);
        Box::pin(async move {
            let request = Request::decode(&body.bytes)?;
            let (shard, slots) = (request.shard, request.entry.slots.len());
            if shard >= shards || slots > MAX_OF_A_SHARD {
                let why = format!(
                    "the request is about shard {shard} with {slots} replicas: the store has {shards} shards with \
                     {MAX_OF_A_SHARD} replicas at most"
                );
                return Err(Error::new(Kind::Decode, why).not_sent());
            }
            Ok(Body::bytes(holder.serve(request).await.encode()))
        })
    })
}

/// The way to the nodes of a store.
#[derive(Debug)]
pub struct Remote {
    plane: Arc<DataPlane>,
    name: Arc<str>,
    timeout: Duration,
}

impl Remote {
    /// The way to the nodes of a store, with a time limit for each request.
    ///
    /// # Errors
    /// [`Kind::Config`] if the limits of the node's messages are too small for a store.
    pub fn new(plane: Arc<DataPlane>, store: &str, timeout: Duration) -> Result<Self, Error> {
        let (request, reply) = (plane.options().max_request_bytes, plane.options().max_reply_bytes);
        let least = PAGE_BYTES + RESERVED_BYTES;
        if request < least || reply < request {
            let why = format!(
                "max_request_bytes is {request} and max_reply_bytes is {reply}: a replicated store needs at \
                 least {least} for requests, and as much for replies as for requests"
            );
            return Err(Error::new(Kind::Config, why).not_sent());
        }
        Ok(Remote { plane, name: service_name(store).into(), timeout })
    }
}

impl Peers for Remote {
    fn ask(&self, node: &NodeId, request: Request) -> BoxFuture<'static, Result<Reply, Error>> {
        let (plane, name, node) = (Arc::clone(&self.plane), Arc::clone(&self.name), node.clone());
        let options = CallOptions {
            timeout: self.timeout,
            retries: 0,
            of_service: true,
            ..CallOptions::default()
        };
        Box::pin(async move {
            let bytes = request.encode();
            let most = plane.options().max_request_bytes - RESERVED_BYTES;
            if matches!(request.action, Action::Write(_)) && bytes.len() > most {
                let why = format!(
                    "the records have {} bytes, up to {most} fit into a request (max_request_bytes)",
                    bytes.len()
                );
                return Err(Error::new(Kind::TooLarge, why).not_sent());
            }
            let reply = plane.call(&node, &name, &Body::bytes(bytes), &options).await?;
            Reply::decode(&reply.bytes)
        })
    }

    fn check_key(&self, node: &NodeId) -> BoxFuture<'static, Result<(), Error>> {
        let (plane, node) = (Arc::clone(&self.plane), node.clone());
        Box::pin(async move { plane.check_key(&node).await })
    }
}

/// Tasks on a runtime, with a client's clock.
pub struct Background {
    runtime: Handle,
    client: Arc<Client>,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Background {
    /// Tasks on this runtime, with the clock of this client.
    pub fn new(runtime: Handle, client: Arc<Client>) -> Self {
        Background { runtime, client }
    }
}

impl Runtime for Background {
    fn clock(&self) -> &dyn Clock {
        &**self.client.clock()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn fraction(&self) -> f64 {
        self.client.random_fraction()
    }
}
