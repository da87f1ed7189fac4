//! What the operators' programs share.

pub mod consul;
pub mod print;
