use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error as TlsError, InconsistentKeys};
use tokio_rustls::TlsAcceptor;
use webpki::{EndEntityCert, KeyUsage};

/// Where a certificate and its key are, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The server's own certificate, and behind it those that lead to one which clients know.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A certificate and its key, ready to serve with.
pub struct Pair {
    pub acceptor: TlsAcceptor,
    /// The DNS names that it is for.
    names: Vec<String>,
    /// None where the certificate is too odd to tell.
    expires: Option<SystemTime>,
}

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {}: {fault}", path.display())]
pub struct PairError {
    flag: &'static str,
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it is not PEM: {0}")]
    Pem(PemError),
    #[error("there is no certificate in it, which in PEM begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("there is no private key in it, which in PEM begins with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    #[error(
        "the key in it is encrypted, and nobody is here to type its passphrase: `openssl pkey` decrypts it"
    )]
    EncryptedKey,
    #[error("the key in it is of a kind that can't be used: {0}")]
    BadKey(TlsError),
    #[error("the first certificate in it can't be read: {0}")]
    BadCertificate(CertificateError),
    #[error("the key in it is not that of the first certificate in {}", .0.display())]
    OtherKey(PathBuf),
    #[error("TLS can't be set up: {0}")]
    Setup(TlsError),
}

const CERTIFICATE_FLAG: &str = "--tls-cert";
const KEY_FLAG: &str = "--tls-key";

impl Files {
    /// Reads both, and tries whether they fit.
    pub fn load(&self) -> Result<Pair, PairError> {
        let of_certificate = |fault| PairError::new(CERTIFICATE_FLAG, &self.certificate, fault);
        let of_key = |fault| PairError::new(KEY_FLAG, &self.key, fault);
        let chain = read_chain(&self.certificate).map_err(of_certificate)?;
        let key = read_key(&self.key).map_err(of_key)?;

        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            TlsError::InvalidCertificate(error) => of_certificate(Fault::BadCertificate(error)),
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                of_key(Fault::OtherKey(self.certificate.clone()))
            }
            error => of_key(Fault::BadKey(error)),
        })?;
        let about = certified.cert.first().and_then(|certificate| EndEntityCert::try_from(certificate).ok());
        let names = about.as_ref().map(|about| about.valid_dns_names().map(str::to_owned).collect());
        let expires = about.as_ref().and_then(end_of);

        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .map_err(|error| of_certificate(Fault::Setup(error)))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // All clients that come back at once are spared most of a handshake, at no memory of
        // ours. Another pair has another ticketer, so nobody resumes past a new certificate.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| of_certificate(Fault::Setup(error)))?;
        Ok(Pair { acceptor: Arc::new(config).into(), names: names.unwrap_or_default(), expires })
    }
}

impl Pair {
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires < SystemTime::now())
    }
}

/// What the certificate says of itself.
impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names.as_slice() {
            [] => f.write_str("a certificate without DNS names")?,
            names => write!(f, "a certificate for {}", names.join(", "))?,
        }
        match self.expires {
            Some(expires) => {
                let ends = if self.is_expired() { "expired" } else { "good until" };
                write!(f, ", {ends} {}", humantime::format_rfc3339_seconds(expires))
            }
            None => Ok(()),
        }
    }
}

impl PairError {
    fn new(flag: &'static str, path: &Path, fault: Fault) -> Self {
        Self { flag, path: path.to_owned(), fault }
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem = std::fs::read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(Fault::Pem)?;
    if chain.is_empty() { Err(Fault::NoCertificate) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let pem = std::fs::read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        _ if is_encrypted(&pem) => Fault::EncryptedKey,
        PemError::NoItemsFound => Fault::NoKey,
        error => Fault::Pem(error),
    })
}

/// PKCS #8 has a label of its own for it, older formats a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// webpki tells the end of a certificate to whoever comes too late: at the end of time, before
/// it looks at anything else.
fn end_of(certificate: &EndEntityCert<'_>) -> Option<SystemTime> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let usage = KeyUsage::server_auth();
    match certificate.verify_for_usage(&[], &[], &[], end_of_time, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}
