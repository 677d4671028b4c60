//! From the hub to many sockets: what shares a write, who is slow, who goes, and crowds.

mod batches;
mod beat;
mod crowds;
mod goodbyes;
mod slow;
mod states;
