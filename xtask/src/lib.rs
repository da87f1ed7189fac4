//! Generators of what is derived from the code.

pub mod reference;
