//! The program as its users meet it: the real binary, real files, other processes, bytes on a
//! socket. Nothing here knows the library, but for `log`.

mod support;

mod cli;
mod docs;
mod fanout;
mod history;
mod limits;
mod log;
mod mariadb;
mod postgres;
mod prefixes;
mod publishing;
mod schema;
mod shutdown;
mod tail;
mod tls;
mod trim;
mod wire;
mod writers;
