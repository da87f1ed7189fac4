//! An in-memory Consul agent.
