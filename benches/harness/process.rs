//! The processes that are measured, and those that help; none outlives the bench.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// What the bench, run again by itself, is to be.
pub const LAUNCH: &str = "launch";
pub const WRITE: &str = "write";

pub const TABLECAST: &str = env!("CARGO_BIN_EXE_tablecast");

/// Nanoseconds of the clock that all processes of a machine share.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// An empty directory under `target`: a disk like the project's, where /tmp may be memory.
pub fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("target/tmp can be written")
}

/// A child that is killed when it is dropped.
pub struct Process(pub Child);

impl Process {
    /// The bench itself in another role.
    pub fn this(role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.arg(role).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("it is there"))
    }

    pub fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().expect("it is piped, and taken once"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks to be killed with the bench, also where it can't clean up any more.
pub fn die_with_parent() {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .expect("it is a valid signal");
}

/// The role [`LAUNCH`]: becomes the command of its arguments.
pub fn launched(command: &[String]) {
    die_with_parent();
    panic!("{command:?}: {}", Command::new(&command[0]).args(&command[1..]).exec());
}

/// A `tablecast serve` of its own.
pub struct Server {
    process: Process,
    /// Held open: the server may say more.
    _stdout: BufReader<ChildStdout>,
    pub public: SocketAddr,
    pub internal: SocketAddr,
}

impl Server {
    /// Returns once it listens and follows the table.
    pub fn start(directory: &Path, url: &str, settings: &[&str]) -> Self {
        Self::start_build(Path::new(TABLECAST), directory, url, settings)
    }

    /// The same of another build.
    pub fn start_build(program: &Path, directory: &Path, url: &str, settings: &[&str]) -> Self {
        let mut launch = Process::this(LAUNCH);
        launch.arg(program).args(serve(url, "127.0.0.1:0", "127.0.0.1:0")).args(settings);
        isolate(&mut launch, directory);
        let mut process = Process::spawn(&mut launch);
        let mut stdout = process.stdout();
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it says where it listens");
        let address = |scheme: &str| {
            let (_, rest) = line.split_once(scheme).unwrap_or_else(|| panic!("no {scheme} in {line:?}"));
            let end = rest.find(['/', ',']).unwrap_or(rest.len());
            rest[..end].parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
        };
        Self { public: address("ws://"), internal: address("http://"), process, _stdout: stdout }
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        cpu(self.id())
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        memory(self.id())
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }
}

/// User and system time of a process so far.
pub fn cpu(id: u32) -> Duration {
    let stat = proc(id, "stat");
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("it has a name");
    ticks(fields.split_whitespace().skip(11).take(2))
}

/// The kernel's unit of CPU time.
pub fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    let ticks: u64 = fields.map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process in bytes.
pub fn memory(id: u32) -> u64 {
    let status = proc(id, "status");
    kib(&status, "VmRSS:") * 1024
}

/// The number of a line such as `Slab:  123 kB`.
pub fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn proc(id: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{id}/{file}")).expect("it lives")
}

/// The arguments of a server that lets everybody listen to every stream.
pub fn serve(url: &str, public: &str, internal: &str) -> Vec<String> {
    [
        ["serve", "--database-url", url].as_slice(),
        &["--listen", public, "--internal-listen", internal],
        &["--public-streams", "*", "--log-level", "warn"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

/// No settings but those that are given.
pub fn isolate(command: &mut Command, directory: &Path) {
    command.env_clear().current_dir(directory);
}
