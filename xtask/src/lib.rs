//! Generators of what is derived from the code and its crates.

pub mod notices;
pub mod reference;
