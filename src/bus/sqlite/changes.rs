//! Noticing that another process has committed.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{SetupError, Wake};

/// How long a change of the file is followed by close looks at the database.
const AFTER_EVENT: Duration = Duration::from_millis(50);
const CLOSE_LOOK: Duration = Duration::from_millis(1);

/// Where nothing signals: how closely, and how long, a table is polled that flowed.
const FLOWING_POLL: Duration = Duration::from_millis(5);
const STILL_FLOWING: Duration = Duration::from_secs(1);

/// What says that it is worth looking at the database.
///
/// A commit grows the `-wal` file, which the operating system reports. With
/// `synchronous=FULL`, the default of most writers, the report comes *before* the commit
/// can be seen, while the writer waits for the disk (100 of 100 times when measured). So
/// a report only starts a time of close looks, one each millisecond; without that, the
/// commit would be noticed at the next poll.
pub struct Changes {
    /// The file's folder: `-wal` itself comes and goes.
    watcher: Option<notify::RecommendedWatcher>,
    file_changed: Arc<Notify>,
    own_writes: Arc<Notify>,
    look_closely_until: Instant,
    flowing_until: Instant,
}

impl Changes {
    pub fn new(database: &Path, wake: Wake, own_writes: Arc<Notify>) -> Result<Self, SetupError> {
        let file_changed = Arc::new(Notify::new());
        let watcher = match wake {
            Wake::Poll => None,
            Wake::Notify => Some(watch(database, file_changed.clone())?),
            Wake::Auto => watch(database, file_changed.clone())
                .inspect_err(
                    |error| tracing::warn!(%error, "the database file can't be watched: the tail polls"),
                )
                .ok(),
        };
        let now = Instant::now();
        Ok(Self { watcher, file_changed, own_writes, look_closely_until: now, flowing_until: now })
    }

    /// Waits until the database is worth a look: at the latest, and for no reason,
    /// after `longest`. Cancel-safe.
    pub async fn worth_a_look(&mut self, longest: Duration) {
        let now = Instant::now();
        let longest = if now < self.look_closely_until {
            longest.min(CLOSE_LOOK)
        } else if self.watcher.is_none() && now < self.flowing_until {
            longest.min(FLOWING_POLL)
        } else {
            longest
        };
        tokio::select! {
            biased;
            () = self.own_writes.notified() => {}
            () = self.file_changed.notified() => self.look_closely_until = Instant::now() + AFTER_EVENT,
            () = tokio::time::sleep(longest) => {}
        }
    }

    /// There was something. What the report announced may have been this.
    pub fn found(&mut self) {
        let now = Instant::now();
        self.look_closely_until = now;
        self.flowing_until = now + STILL_FLOWING;
    }
}

fn watch(database: &Path, changed: Arc<Notify>) -> Result<notify::RecommendedWatcher, notify::Error> {
    let name = database.file_name().unwrap_or_default().to_owned();
    let of_interest = ["", "-wal", "-journal"].map(|suffix| {
        let mut name: OsString = name.clone();
        name.push(suffix);
        name
    });
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let worth_it = match event {
            Ok(event) => {
                matches!(
                    event.kind,
                    EventKind::Modify(_) | EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any
                ) && event
                    .paths
                    .iter()
                    .any(|path| of_interest.iter().any(|name| path.file_name() == Some(name)))
            }
            // The queue overflowed: who knows.
            Err(_) => true,
        };
        if worth_it {
            changed.notify_one();
        }
    })?;
    let folder = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
