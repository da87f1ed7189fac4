//! Shared by the tests. No binary uses all of it.

#![allow(dead_code, unused_imports, unused_macros)]

#[cfg(feature = "server")]
pub mod agent;
pub mod answering;
pub mod authority;
pub mod between;
pub mod browser;
pub mod cluster;
pub mod consul;
pub mod disk;
pub mod dns;
pub mod golden;
pub mod holder;
pub mod islands;
pub mod lines;
pub mod outside;
pub mod pages;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod recipes;
pub mod trials;
pub mod world;
