//! The documentation is true: the layers, the references, and claims about code and tests.

mod architecture;
mod build_script;
mod coordination;
mod decisions;
mod failures;
mod links;
mod monitoring;
mod readme;
mod recipes;
mod reference;
mod release;
mod release_script;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod translations;
mod tree;
