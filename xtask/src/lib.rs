//! Generators of pages and annotations from the code.

pub mod reference;
