//! The documentation is true: the references, and claims about code and tests.

mod build_script;
mod classes;
mod coordination;
mod decisions;
mod failures;
mod help;
mod links;
mod monitoring;
mod readme;
mod recipes;
mod reference;
mod release;
mod release_script;
mod runs;
mod test_script;
use consul_test_support as support;
mod translations;
mod tree;
