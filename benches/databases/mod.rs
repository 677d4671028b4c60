//! What the benches of databases share: servers of their own, connections to them, and rows.

#![allow(dead_code, reason = "no bench needs all of it")]

pub mod connection;
pub mod engine;
pub mod pairs;
pub mod server;
