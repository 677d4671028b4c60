//! tablecast: background jobs' progress to browsers, over a database table.
//!
//! A row on its way to a browser passes five rooms, each once: [`bus`] (read, released),
//! [`hub`] (looked up, encoded), [`connection`] (queued, written). A subscribe command:
//! [`connection`] (parsed, in order), [`channels`] (allowed, named), [`hub`] (entered,
//! confirmed). `ARCHITECTURE.md` has the map.

pub mod bus;
pub mod channels;
pub mod cli;
pub mod config;
pub mod connection;
pub mod http;
pub mod hub;
pub mod identity;
pub mod server;
pub mod stream;
pub mod telemetry;
pub mod tls;
