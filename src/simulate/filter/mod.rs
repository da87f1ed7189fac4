//! `filter=`: boolean expressions over the entries of an answer.
//!
//! Consul 1.21 reads them with go-bexpr 0.1.2. The grammar is in [`parse`], and RE2's syntax in
//! [`pattern`].

mod expression;
mod literal;
mod parse;
mod pattern;
mod scan;
