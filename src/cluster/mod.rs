//! Many processes that share work: who has which part of it.

pub mod rebalancer;
