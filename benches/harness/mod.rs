//! What the benches share: other processes, cheap clients, loads, and figures.

#![allow(dead_code, reason = "no bench needs all of it")]

pub mod clients;
pub mod load;
pub mod process;
pub mod report;
pub mod series;
