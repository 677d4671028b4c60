//! What the benches share: other processes, cheap clients, loads, and figures.

pub mod clients;
pub mod load;
pub mod process;
pub mod report;
pub mod series;
