use std::io;

use rustls::{AlertDescription, Error as TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::TlsSocket;

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("it took too long")]
    TooLong,
    #[error("the client does not speak TLS")]
    NotTls,
    #[error("the client left: {0}")]
    Gone(io::Error),
    #[error("the client sent the alert {0:?}: it may not trust the certificate")]
    Alert(AlertDescription),
    #[error("nothing in common: {0}")]
    Incompatible(TlsError),
    #[error("{0}")]
    Violation(TlsError),
}

/// The first byte of each TLS connection: a record of a handshake.
const HANDSHAKE: u8 = 22;

const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
    Content-Length: 43\r\n\r\nThis port speaks TLS: use https: or wss:.\r\n";

/// Shakes hands with a client. Whoever speaks plain HTTP is told so.
pub async fn accept(mut stream: TcpStream, acceptor: TlsAcceptor) -> Result<TlsSocket, HandshakeError> {
    let mut first = [HANDSHAKE];
    stream.peek(&mut first).await.map_err(HandshakeError::Gone)?;
    if first != [HANDSHAKE] {
        // Unread bytes would take the answer back.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(PLAIN_ANSWER).await;
        let _ = stream.shutdown().await;
        return Err(HandshakeError::NotTls);
    }
    acceptor.accept(stream).await.map(Box::new).map_err(HandshakeError::from)
}

impl HandshakeError {
    /// For metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "timeout",
            Self::NotTls => "not_tls",
            Self::Gone(_) => "gone",
            Self::Alert(_) => "alert",
            Self::Incompatible(_) => "incompatible",
            Self::Violation(_) => "violation",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            Some(TlsError::AlertReceived(alert)) => Self::Alert(*alert),
            Some(error @ (TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol)) => {
                Self::Incompatible(error.clone())
            }
            Some(error) => Self::Violation(error.clone()),
            None => Self::Gone(error),
        }
    }
}
