//! Noticing that another process has committed.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::{SetupError, Wake};
use crate::bus::poll::Flow;

/// How long a change of the file is followed by close looks at the database: what a busy disk may take between the
/// change and the commit that shows it.
const AFTER_REPORT: Duration = Duration::from_secs(10);
/// The first close looks; later ones come at an eighth of the time that has passed.
const CLOSE_LOOK: Duration = Duration::from_micros(100);
/// Close looks that go on although a commit was found.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What says that it is worth looking at the database.
///
/// A commit grows the `-wal` file, which the operating system reports. With
/// `synchronous=FULL`, the default of most writers, the report comes *before* the commit
/// can be seen, while the writer waits for the disk (100 of 100 times when measured). So
/// a report starts a time of close looks; without that, the commit would be noticed at the
/// next poll. They go on, more slowly, when a commit was found, since that may have been
/// an earlier commit than the one that was reported.
pub struct Changes {
    /// None where nothing reports.
    watcher: Option<notify::RecommendedWatcher>,
    look: Arc<Notify>,
    committed: Arc<AtomicBool>,
    own_writes: Arc<Notify>,
    flow: Flow,
}

impl Changes {
    pub fn new(database: &Path, wake: Wake, own_writes: Arc<Notify>) -> Result<Self, SetupError> {
        let (look, committed) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let watcher = match wake {
            Wake::Poll => None,
            Wake::Notify | Wake::Auto => match watch(database, look.clone(), committed.clone()) {
                Ok(watcher) => Some(watcher),
                Err(error) if wake == Wake::Notify => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "the database file can't be watched: the tail polls");
                    None
                }
            },
        };
        Ok(Self { watcher, look, committed, own_writes, flow: Flow::default() })
    }

    /// Waits until the database is worth a look: at the latest, and for no reason,
    /// after `longest`. Cancel-safe.
    pub async fn worth_a_look(&mut self, longest: Duration) {
        let longest = if self.watcher.is_none() { self.flow.pause(longest) } else { longest };
        tokio::select! {
            biased;
            () = self.own_writes.notified() => {}
            () = self.look.notified() => {}
            () = tokio::time::sleep(longest) => {}
        }
    }

    /// Somebody has committed, if only to a table beside.
    pub fn committed(&self) {
        self.committed.store(true, Ordering::Relaxed);
    }

    /// A look found so many rows.
    pub fn looked(&mut self, rows: usize) {
        self.flow.looked(rows);
    }
}

/// Watches the file's folder: `-wal` itself comes and goes.
fn watch(
    database: &Path,
    look: Arc<Notify>,
    committed: Arc<AtomicBool>,
) -> Result<notify::RecommendedWatcher, notify::Error> {
    // Where the path is a link, `-wal` stands beside what it leads to.
    let database = database.canonicalize().map_err(notify::Error::io)?;
    let name = database.file_name().unwrap_or_default();
    let of_interest = ["", "-wal", "-journal"].map(|suffix| {
        let mut name: OsString = name.to_owned();
        name.push(suffix);
        name
    });
    let (report, reports): (Sender<()>, _) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let worth_it = match event {
            Ok(event) => {
                let kinds =
                    [EventKind::is_modify, EventKind::is_create, EventKind::is_remove, EventKind::is_other];
                kinds.iter().any(|is| is(&event.kind))
                    && event
                        .paths
                        .iter()
                        .any(|path| of_interest.iter().any(|name| path.file_name() == Some(name)))
            }
            // The queue overflowed: who knows.
            Err(_) => true,
        };
        if worth_it {
            let _ = report.send(());
        }
    })?;
    let folder = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    // A thread of its own, since the runtime's timer is no finer than a millisecond.
    std::thread::Builder::new()
        .name("close-looks".into())
        .spawn(move || look_closely(&reports, &look, &committed))
        .map_err(notify::Error::io)?;
    Ok(watcher)
}

/// Asks for looks after each report, until the watcher is dropped.
fn look_closely(reports: &Receiver<()>, look: &Notify, committed: &AtomicBool) {
    while reports.recv().is_ok() {
        let mut reported = Instant::now();
        committed.store(false, Ordering::Relaxed);
        while reported.elapsed() < AFTER_REPORT {
            look.notify_one();
            let closely = CLOSE_LOOK.max(reported.elapsed() / 8);
            let pause = if committed.load(Ordering::Relaxed) { closely.max(LOOK_AGAIN) } else { closely };
            match reports.recv_timeout(pause) {
                Ok(()) => {
                    reported = Instant::now();
                    committed.store(false, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}
