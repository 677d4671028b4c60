use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::until;

/// Who runs the servers when the tests run as root, which they refuse to be.
const NOBODY: u32 = 65534;

/// Reads its input to the end, which comes when the test process ends, however it ends. Then it
/// kills the folder's process with its children, and removes the folder.
const WATCHER: &str = r#"
read _
if read pid <"$1/pid"; then
  kill -STOP "$pid"
  pkill -KILL -P "$pid"
  kill -KILL "$pid"
fi
for _ in 1 2 3 4 5; do
  rm -rf "$1" && exit
  sleep 0.2
done
"#;

/// A folder for other programs; with what runs in it, it outlives neither this value nor this process.
pub struct Folder {
    path: PathBuf,
    watcher: Child,
}

impl Folder {
    pub fn new() -> Self {
        let path = TempDir::new().unwrap().keep();
        let mut watcher = Command::new("sh");
        watcher.args(["-c", WATCHER, "sh"]).arg(&path).process_group(0);
        watcher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watcher = watcher.spawn().unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { path, watcher }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path.join(name), text).unwrap();
    }

    /// A program to be run in the folder, by its owner.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        if geteuid().is_root() {
            command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
            command.arg(program.as_ref());
        }
        command.current_dir(&self.path);
        command
    }

    /// Makes it a copy of the folder that `make` makes, which is made once for each name.
    pub fn fill(&self, name: &Path, make: impl FnOnce(&Folder)) {
        static TEMPLATES: Mutex<BTreeMap<PathBuf, Folder>> = Mutex::new(BTreeMap::new());
        let mut templates = TEMPLATES.lock();
        if !templates.contains_key(name) {
            let template = Folder::new();
            make(&template);
            templates.insert(name.to_owned(), template);
        }
        run(Command::new("cp").arg("-a").arg(templates[name].path.join(".")).arg(&self.path));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// A program that runs in a folder of its own until it is told to end; it can be started again.
pub struct Process {
    command: Command,
    child: Option<Child>,
    folder: Folder,
}

impl Process {
    pub fn start(folder: Folder, command: Command) -> Self {
        let mut process = Self { command, child: None, folder };
        process.start_again();
        process
    }

    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.folder.path.join("log")).unwrap();
        self.command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.command.spawn().unwrap();
        self.folder.write("pid", &format!("{}\n", child.id()));
        self.child = Some(child);
    }

    /// Waits until it is ready, and panics with its log if it ends before.
    pub fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) {
        until("a server is ready", || {
            assert!(!self.has_ended(), "{:?}\n{}", self.command, self.log());
            is_ready()
        });
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path.join("log")).unwrap()).into_owned()
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
        until("it ends", || self.has_ended());
    }

    /// Ends it and all its children at once, as a crash does.
    pub fn kill(&mut self) {
        self.pause();
        let id = self.id();
        for (child, _) in children(id) {
            let _ = kill_process(child, Signal::KILL);
        }
        until("its children are dead", || children(id).iter().all(|(_, state)| *state == 'Z'));
        kill_process(id, Signal::KILL).unwrap();
        until("it ends", || self.has_ended());
    }

    /// Lets it and its children do nothing more.
    pub fn pause(&self) {
        let id = self.id();
        // First the parent, and until it has stopped: it could start others.
        let _ = kill_process(id, Signal::STOP);
        until("it has stopped", || matches!(state(id), Some(('T' | 'Z', _))));
        for (child, _) in children(id) {
            let _ = kill_process(child, Signal::STOP);
        }
    }

    pub fn resume(&self) {
        for (process, _) in children(self.id()).into_iter().chain([(self.id(), 'T')]) {
            let _ = kill_process(process, Signal::CONT);
        }
    }

    fn id(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended && self.child.take().is_some() {
            std::fs::remove_file(self.folder.path.join("pid")).unwrap();
        }
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {:?}\n{}---", self.command, self.log());
        }
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// The state of a process and its parent's id.
fn state(process: Pid) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(parent: Pid) -> Vec<(Pid, char)> {
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?))
        .filter_map(|process| Some((process, state(process)?)))
        .filter(|(_, (_, of))| *of == parent.as_raw_pid())
        .map(|(process, (state, _))| (process, state))
        .collect()
}

/// Runs a program that ends by itself, and panics with what it says if it fails.
pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}

/// Where a program is. Debian keeps some where only root looks.
pub fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut files =
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).map(|folder| folder.join(program));
    files
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{program} is not installed: tests/run installs it"))
}

/// What `tests/run` installs in the repository, since it isn't in the system's own packages.
pub fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    path
}

/// Runs a program in Node with one argument, beside the drivers that `tests/run` installs.
pub fn node(program: &str, argument: &str) {
    let drivers = installed("tests/drivers/node_modules");
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", program, "--", argument]);
    run(node.current_dir(drivers.parent().unwrap()));
}

/// A port of 127.0.0.1 that is free, and stays so while its server is down: outgoing connections
/// and listeners that leave the choice to the system have higher ones.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(101).wrapping_add(COUNT.fetch_add(1, Relaxed));
        let port = 10_000 + (number % 20_000) as u16;
        // Not by listening there: a process that another thread is starting would have the listener for a moment
        // longer than this one.
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}
