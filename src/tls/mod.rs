//! TLS on the public listener.
//!
//! [`Files::load`] makes a [`Pair`] of the two files, or says what is wrong with which. The
//! [`Certificates`] hold the pair in use: a connection takes it when its handshake begins and
//! keeps it, so a new one meets newcomers alone. A pair that can't be loaded replaces nothing.
//! [`accept`] shakes hands, and gives a [`TlsSocket`], which is a socket like another.

mod certificates;
mod handshake;
mod pair;

pub use certificates::Certificates;
pub use handshake::{HandshakeError, accept};
pub use pair::{Files, Pair, PairError};

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Boxed: what holds one for a moment should not be as large as it for ever.
pub type TlsSocket = Box<TlsStream<TcpStream>>;
