use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use socket2::{Domain, Type};

use super::PATIENCE;

/// Who vouches for the tests' servers.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// What its clients are told to trust.
    pub pem: String,
    client: Arc<ClientConfig>,
}

/// A certificate for localhost and 127.0.0.1, and its key.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let root = certificate.der().clone();
        let client = Arc::new(trusting(&root, rustls::ALL_VERSIONS));
        Self { issuer: Issuer::new(params, key), root, pem: certificate.pem(), client }
    }

    pub fn issue(&self) -> Pair {
        self.issue_until(4096)
    }

    /// A certificate that is good until a year begins.
    pub fn issue_until(&self, year: i32) -> Pair {
        let mut params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// A client that trusts it; it remembers its sessions as browsers do.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// A client that trusts it, and speaks one version alone.
    pub fn client_of(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        Arc::new(trusting(&self.root, &[version]))
    }

    /// A client that trusts it, and wants these application protocols.
    pub fn client_for(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut client = trusting(&self.root, rustls::ALL_VERSIONS);
        client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    }
}

fn trusting(root: &CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Pair {
    /// As `cert.pem` and `key.pem`.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.certificate).unwrap();
        std::fs::write(folder.join("key.pem"), &self.key).unwrap();
    }
}

/// What a client speaks over.
pub enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    pub fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Plain(stream)
    }

    /// From an address of one's own: all of 127.0.0.0/8 is this machine's.
    pub fn plain_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Plain(stream)
    }

    /// With room for so little on its way that a client that doesn't read is soon seen. On a real
    /// network segments are as small; those of the loopback device fill megabytes.
    pub fn narrow(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_tcp_mss(1000).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::Plain(stream)
    }

    /// Shakes hands when it is first used.
    pub fn tls(address: SocketAddr, client: Arc<ClientConfig>) -> Self {
        let Self::Plain(stream) = Self::plain(address) else { unreachable!() };
        let connection = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        Self::Tls(Box::new(StreamOwned::new(connection, stream)))
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.connection().peer_certificates().unwrap()[0]
    }

    pub fn connection(&self) -> &ClientConnection {
        match self {
            Self::Tls(stream) => &stream.conn,
            Self::Plain(_) => panic!("it is not TLS"),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
