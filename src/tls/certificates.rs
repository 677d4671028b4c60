use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::pair::{Files, Pair, PairError};

/// The pair that newcomers are served with: the last one that could be loaded.
pub struct Certificates {
    files: Files,
    /// The files as they were before they were first loaded.
    first: Stamps,
    acceptor: Mutex<TlsAcceptor>,
    asked: Notify,
}

/// What tells a file from another in its place: device, inode, time of change. A missing file is
/// a state like others.
type Stamp = Option<(u64, u64, i64, i64)>;
type Stamps = [Stamp; 2];

/// Two files aren't replaced at one instant: unchanged for so long, they are taken for a pair.
const SETTLED: Duration = Duration::from_millis(250);
/// Nothing reports changes on a network's file system, nor those of a link halfway along a path,
/// as Kubernetes' `..data` can be.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl Certificates {
    pub fn load(files: Files) -> Result<Self, PairError> {
        let first = stamps(&files);
        let pair = files.load()?;
        warn_if_expired(&pair);
        Ok(Self { files, first, acceptor: Mutex::new(pair.acceptor), asked: Notify::new() })
    }

    /// What a new connection is to be accepted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.lock().clone()
    }

    /// Asks for the files to be read again, changed or not.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// Reads the files again when they have changed or that was asked for, for ever.
    pub async fn follow(self: Arc<Self>) {
        let changed = Arc::new(Notify::new());
        let watcher = watch(&self.files, changed.clone());
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the certificate's folder can't be watched: it is looked at every ten seconds");
        }
        let mut tried = self.first;
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                // However much goes on in the folder, it costs a few looks a second.
                () = async { changed.notified().await; sleep(SETTLED).await } => false,
                () = sleep(LOOK_INTERVAL) => false,
            };
            let files = self.files.clone();
            let read = spawn_blocking(move || read_again(&files, tried, asked)).await;
            let Some((stamps, loaded)) = read.expect("reading does not panic") else { continue };
            tried = stamps;
            match loaded {
                Ok(pair) => {
                    tracing::info!("new connections get {pair}");
                    warn_if_expired(&pair);
                    *self.acceptor.lock() = pair.acceptor;
                }
                Err(error) => tracing::error!(%error, "the certificate stays as it was"),
            }
        }
    }
}

/// Loads the files once they have settled; none if they are what was tried before.
fn read_again(files: &Files, tried: Stamps, asked: bool) -> Option<(Stamps, Result<Pair, PairError>)> {
    let mut now = stamps(files);
    if now == tried && !asked {
        return None;
    }
    loop {
        std::thread::sleep(SETTLED);
        let then = std::mem::replace(&mut now, stamps(files));
        if then == now {
            return Some((now, files.load()));
        }
    }
}

fn stamps(files: &Files) -> Stamps {
    [&files.certificate, &files.key].map(|file| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.dev(), about.ino(), about.ctime(), about.ctime_nsec()))
    })
}

/// Watches the folders where the files, or links to them, are replaced.
fn watch(files: &Files, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    for folder in folders(files) {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Of the paths as they were given, and of what they lead to.
fn folders(files: &Files) -> BTreeSet<PathBuf> {
    let given = [&files.certificate, &files.key];
    let leads_to = given.into_iter().filter_map(|file| file.canonicalize().ok());
    let folder = |file: &Path| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    given.into_iter().cloned().chain(leads_to).map(|file| folder(&file)).collect()
}

fn warn_if_expired(pair: &Pair) {
    if pair.is_expired() {
        tracing::warn!("clients will refuse {pair}");
    }
}
