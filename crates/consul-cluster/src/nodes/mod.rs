//! The nodes of a cluster: what each says of itself in its key, which of them are live, and what operators ask of them.

mod contest;
pub mod kept_mode;
pub(crate) mod membership;
pub(crate) mod node;
pub mod operate;
pub mod pause;
pub(crate) mod registered;
pub(crate) mod request;
pub mod rights;
pub(crate) mod settings;
pub mod start;
pub mod weights;
