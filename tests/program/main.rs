//! The program as its users meet it: the real binary, real files, other processes, bytes on a
//! socket. Nothing here knows the library, but for `log`, `lookup`, and `signing` where it judges JWTs.

mod support;

mod addresses;
mod cli;
mod cookies;
mod disconnect;
mod docs;
mod fanout;
mod history;
mod hostile;
mod identity;
mod keys;
mod limits;
mod log;
mod lookup;
mod mariadb;
mod postgres;
mod prefixes;
mod publishing;
mod resume;
mod schema;
mod shutdown;
mod signing;
mod streams;
mod tail;
mod tls;
mod trim;
mod watch;
mod wire;
mod writers;
