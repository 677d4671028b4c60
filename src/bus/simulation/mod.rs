//! Random histories of a table, of those who write it, of servers that follow it and of clients
//! that hop between them, in simulated time.
//!
//! # What a seed holds
//!
//! - **a database** ([`database`]): a table, snapshots of it, transaction ids, a sequence. It may
//!   crash, lose its last commits with a failover, and have old rows trimmed;
//! - **sessions** ([`writers`]) that write as people's programs do ([`script`]): they stall anywhere,
//!   roll back, prepare, draw ids early;
//! - **servers** ([`server`]), one to three: the product's `Gaps`, `Steps` and `Barriers`, and around
//!   them what `Tail` does, in ticks whose snapshot, list and answer come at different moments.
//!   They start and are stopped when they like;
//! - **clients** ([`client`]), one to four, of one stream or several ([`subscription`]): each loses
//!   its connection now and then, between two messages too, and comes back to any server with the
//!   word that it was given last.
//!
//! After each step all are held against a model of what they are owed ([`judge`]), which knows the
//! table and nothing of gaps. A rule that is left out ([`scene`]) must show as a fault of the kind
//! that it prevents ([`tests`]).
//!
//! # What is not in it
//!
//! - Clients listen to no stream with ids drawn by a SELECT, or above the sequence's last value:
//!   of those, positions promise nothing.
//! - Rows are trimmed as if the retention were longer than any transaction and any client's absence.
//! - Whether a database lost rows is a flag here; how it is found out is each database's `history`.
//! - A tick under way ends with the database: no server hands on what it had read before.
//! - Nothing that was given up is looked at again: no fault is made good.

mod client;
mod database;
mod judge;
mod random;
mod scene;
mod script;
mod server;
mod stage;
mod subscription;
mod tests;
mod world;
mod writers;
