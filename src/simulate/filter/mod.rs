//! `filter=`: boolean expressions over the entries of an answer.
//!
//! Consul 1.21 reads them with go-bexpr 0.1.2. RE2's syntax is in [`pattern`].

mod pattern;
