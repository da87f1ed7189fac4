//! HTTP as Consul speaks it: from the bytes of a request to a handler, and back.

pub(super) mod decode;
pub(super) mod fields;
pub(super) mod handler;
pub mod listen;
pub(super) mod reply;
pub(super) mod request;
pub(super) mod route;
pub mod serve;
