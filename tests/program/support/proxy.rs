use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::process::free_port;
use super::until;

/// A TCP proxy, which stands in for all that can happen between two machines.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    listener: Mutex<Option<JoinHandle<()>>>,
    runtime: Runtime,
}

#[derive(Clone)]
struct State {
    to: SocketAddr,
    is_frozen: bool,
    delay: Duration,
    /// How often each was asked for; a connection heeds what comes after its beginning.
    resets: u32,
    half_closes: u32,
}

impl Proxy {
    pub fn to(address: SocketAddr) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (state, _) = watch::channel(State {
            to: address,
            is_frozen: false,
            delay: Duration::ZERO,
            resets: 0,
            half_closes: 0,
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let proxy = Self { address, state, listener: Mutex::new(None), runtime };
        proxy.accept_again();
        proxy
    }

    /// A database's URL, by way of this proxy.
    pub fn url(&self, url: &str) -> String {
        let (login, rest) = url.split_once('@').expect("a URL with a user");
        let (_, path) = rest.split_once('/').expect("a URL with a database");
        format!("{login}@{}/{path}", self.address)
    }

    /// Forwards to another server from now on; open connections stay where they are.
    pub fn redirect(&self, address: SocketAddr) {
        self.state.send_modify(|state| state.to = address);
    }

    /// Takes connections and bytes and forwards nothing, as a firewall that drops.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.is_frozen = true);
    }

    /// Forwards what was held, and all that follows.
    pub fn thaw(&self) {
        self.state.send_modify(|state| state.is_frozen = false);
    }

    /// Holds everything for so long on its way, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Resets all connections.
    pub fn reset_all(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Resets all connections, and refuses others.
    pub fn refuse(&self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
            let _ = self.runtime.block_on(listener);
        }
        self.reset_all();
    }

    pub fn accept_again(&self) {
        // A process that another thread was starting when the last listener was closed may have it still.
        let mut listener = None;
        until("the proxy's port is free", || {
            listener = self.runtime.block_on(TcpListener::bind(self.address)).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        let state = self.state.clone();
        let accepting = self.runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let begun = state.borrow().clone();
                tokio::spawn(connection(client, begun, state.subscribe()));
            }
        });
        *self.listener.lock() = Some(accepting);
    }

    /// Ends what open connections say to their clients; what the clients say goes on.
    pub fn half_close(&self) {
        self.state.send_modify(|state| state.half_closes += 1);
    }
}

async fn connection(mut client: TcpStream, begun: State, mut state: watch::Receiver<State>) {
    let mut reset = state.clone();
    let is_reset = |now: &State| now.resets != begun.resets;
    let to = tokio::select! {
        now = unfrozen(&mut state) => Some(now.to),
        _ = reset.wait_for(is_reset) => None,
    };
    let server = match to {
        Some(to) => TcpStream::connect(to).await.ok(),
        None => None,
    };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let is_over = tokio::select! {
        over = forward(&mut client, &mut server, state, begun.half_closes) => over.is_ok(),
        _ = reset.wait_for(is_reset) => false,
    };
    if !is_over {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Forwards both ways until both have ended.
async fn forward(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mut state: watch::Receiver<State>,
    half_closes: u32,
) -> io::Result<()> {
    let (mut questions, mut to_client) = client.split();
    let (mut answers, mut to_server) = server.split();
    let asking = pump(&mut questions, &mut to_server, state.clone());
    let answering = async {
        tokio::select! {
            over = pump(&mut answers, &mut to_client, state.clone()) => over?,
            _ = state.wait_for(|now| now.half_closes != half_closes) => {}
        }
        to_client.shutdown().await
    };
    tokio::try_join!(asking, answering).map(drop)
}

async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut bytes).await?;
        let delay = unfrozen(&mut state).await.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        unfrozen(&mut state).await;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}

/// Waits while the proxy is frozen. That it is gone ends everything anyway.
async fn unfrozen(state: &mut watch::Receiver<State>) -> State {
    let _ = state.wait_for(|now| !now.is_frozen).await;
    state.borrow().clone()
}
