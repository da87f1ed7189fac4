//! Generators from the code and its crates: pages, annotations, licences.

pub mod notices;
pub mod reference;
