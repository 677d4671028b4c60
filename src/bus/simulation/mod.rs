//! Random histories of a table, of those who write it, of servers that follow it and of clients
//! that hop between them, in simulated time.
//!
//! # What a seed holds
//!
//! - **a database** ([`database`]): a table, snapshots of it, transaction ids, a sequence. It may
//!   crash, and lose its last commits with a failover;
//! - **sessions** ([`writers`]) that write as people's programs do ([`script`]): they stall anywhere,
//!   roll back, prepare, draw ids early;
//! - **servers** ([`server`]), one to three: the product's `Gaps`, `Steps` and `Barriers`, and around
//!   them what `Tail` does, in ticks whose snapshot, list and answer come at different moments.
//!   They start ([`start`]: on InnoDB with the product's `Sieve`) and are stopped when they like, and
//!   trim old rows;
//! - **clients** ([`client`]), one to four, of one stream or several ([`subscription`]): each loses
//!   its connection now and then, between two messages too, and comes back to any server with the
//!   word that it was given last. Newcomers ask for the last messages, for those since their page was
//!   made, or for nothing. What a word is worth says the product's `Cut`, and its `Log` reads back
//!   ([`reading`]), statement by statement: rows come, and are trimmed, in between.
//!
//! Who comes back gets all that was committed, once and in order, or is turned away for a reason that
//! holds. Rows are dated by a clock that runs twenty times as fast as the others, so that a minute's
//! margin is three seconds.
//!
//! After each step all are held against a model of what they are owed ([`judge`]), which knows the
//! table and nothing of gaps. A rule that is left out ([`scene`]) must show as a fault of the kind
//! that it prevents ([`tests`]).
//!
//! # What is not in it
//!
//! - Clients listen to no stream with ids drawn by a SELECT, or above the sequence's last value:
//!   of those, positions promise nothing.
//! - Rows that are trimmed although no position could cover them: their transaction was open for long
//!   before a later row showed that there was one, or before a server started (`Trimmed::was_hidden`).
//!   They are owed to nobody.
//! - Rows whose ids were drawn by a SELECT and that were trimmed before a server looked for them: it may do so only when
//!   it gives their gap up.
//! - The first round of a server that has just started, which trims what is old of all that was there.
//! - A log's first statement waits for no connection. What was trimmed before it isn't noticed.
//! - The hub's memories: newcomers are given what the log has.
//! - Whether a database lost rows is a flag here; how it is found out is each database's `history`.
//! - A tick under way ends with the database: no server hands on what it had read before.
//! - Nothing that was given up is looked at again: no fault is made good.

mod client;
mod database;
mod judge;
mod random;
mod reading;
mod replayer;
mod scene;
mod script;
mod server;
mod stage;
mod start;
mod subscription;
mod tests;
mod world;
mod writers;

pub(super) use replayer::Replayer;
