//! Database servers of the bench's own, on fresh data below `target/tmp`, which is a disk.
//!
//! Every setting that decides when a commit is durable has its default: a COMMIT returns when
//! the log has been synced. Of the others MariaDB's buffer pool alone is set, since it doesn't
//! use the system's cache and 128 MiB would measure the disk.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::databases::connection::Session;
use crate::databases::engine::Engine;
use crate::harness::process::{LAUNCH, Process, Server, TABLECAST, directory, isolate};

/// The bench as the one who removes a folder when all is over.
pub const CLEAN: &str = "clean";

/// Whose the servers are when the bench runs as root, which they refuse to be.
const NOBODY: u32 = 65534;

/// A folder for gigabytes: it goes even where the bench was interrupted.
struct Folder {
    path: PathBuf,
    cleaner: Child,
}

impl Folder {
    fn new() -> Self {
        let path = directory().keep();
        // In a process group of its own, which Ctrl-C doesn't reach.
        let mut cleaner = Process::this(CLEAN);
        let cleaner = cleaner.arg(&path).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let cleaner = cleaner.spawn().expect("the bench is there");
        if geteuid().is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        Self { path, cleaner }
    }

    /// A program to be run in the folder by its owner. It dies with the bench.
    fn command(&self, program: &Path) -> Command {
        let mut command = Process::this(LAUNCH);
        if geteuid().is_root() {
            command.args(["setpriv", "--clear-groups", "--pdeathsig=KILL"]);
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("the folder is there");
        command.arg(program).current_dir(&self.path);
        command.stdout(log.try_clone().expect("there are descriptors")).stderr(log);
        command
    }

    fn run(&self, program: &Path, arguments: &[&str]) {
        let status = self.command(program).args(arguments).status().expect("the bench is there");
        assert!(status.success(), "{}: {}", program.display(), self.said());
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ = self.cleaner.wait();
    }
}

/// The role [`CLEAN`]: waits until whoever started it is done or dead.
pub fn clean(folder: &[String]) {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // Who works in it may need a moment to die.
    for _ in 0..20 {
        if std::fs::remove_dir_all(&folder[0]).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(250));
    }
}

/// A database server that runs.
pub struct DatabaseServer {
    pub engine: Engine,
    port: u16,
    process: Process,
    /// After the process, which works in it.
    folder: Folder,
}

impl DatabaseServer {
    pub fn start(engine: Engine) -> Self {
        let folder = Folder::new();
        let port = free_port();
        let mut command = match engine {
            Engine::Postgres => postgres(&folder, port),
            Engine::MariaDb => mariadb(&folder, port),
        };
        let mut server = Self { engine, port, process: Process::spawn(&mut command), folder };
        let first = server.url(server.first_database());
        for _ in 0..200 {
            if Session::try_open(&first).is_ok() {
                return server;
            }
            let ended = server.process.0.try_wait().expect("it is a child");
            assert!(ended.is_none(), "{}", server.folder.said());
            thread::sleep(Duration::from_millis(100));
        }
        panic!("it doesn't answer: {}", server.folder.said());
    }

    /// A new database named `bench` with the table and all that `tablecast migrate` adds.
    pub fn database(&self) -> Database {
        self.administration().run("CREATE DATABASE bench");
        let database = Database { engine: self.engine, url: self.url("bench"), directory: directory() };
        migrate(&database.url, database.directory());
        database
    }

    /// In no database that is measured.
    pub fn administration(&self) -> Session {
        Session::open(&self.url(self.first_database()))
    }

    fn first_database(&self) -> &'static str {
        match self.engine {
            Engine::Postgres => "postgres",
            Engine::MariaDb => "mysql",
        }
    }

    fn url(&self, database: &str) -> String {
        let scheme = match self.engine {
            Engine::Postgres => "postgres",
            Engine::MariaDb => "mysql",
        };
        format!("{scheme}://bench:secret@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for DatabaseServer {
    /// PostgreSQL gives its shared memory back only if it is asked to end.
    fn drop(&mut self) {
        if self.engine == Engine::Postgres {
            let process = Pid::from_child(&self.process.0);
            if kill_process(process, Signal::QUIT).is_ok() {
                let _ = self.process.0.wait();
            }
        }
    }
}

/// The database that is measured.
pub struct Database {
    pub engine: Engine,
    pub url: String,
    /// Where the servers that use it run.
    directory: TempDir,
}

impl Database {
    pub fn session(&self) -> Session {
        Session::open(&self.url)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn serve(&self, settings: &[&str]) -> Server {
        Server::start(self.directory.path(), &self.url, settings)
    }

    /// Leaves no row, and nothing that a database would do about the last ones in its own time.
    pub fn empty(&self) {
        let mut session = self.session();
        session.run("TRUNCATE TABLE solid_cable_messages");
        if self.engine == Engine::MariaDb {
            // What the publishing trigger leaves has the messages' ids, which now start anew.
            session.run("TRUNCATE TABLE tablecast_publish");
        }
        self.settle();
    }

    pub fn settle(&self) {
        if self.engine == Engine::Postgres {
            self.session().run("CHECKPOINT");
        }
    }
}

/// Makes the table and all that belongs to it.
pub fn migrate(url: &str, directory: &Path) {
    let mut migrate = Command::new(TABLECAST);
    migrate.args(["migrate", "--database-url", url]).stdout(Stdio::null());
    isolate(&mut migrate, directory);
    assert!(migrate.status().expect("it is built").success(), "the table can't be made");
}

fn postgres(folder: &Folder, port: u16) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions
        .map(|version| version.path())
        .filter(|version| version.join("bin/initdb").exists())
        .max_by_key(|version| version.file_name()?.to_str()?.parse::<u32>().ok())
        .expect("PostgreSQL is not installed: tests/run installs it")
        .join("bin");
    folder.run(
        &programs.join("initdb"),
        &["-D", "data", "-U", "bench", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync"],
    );
    let mut command = folder.command(&programs.join("postgres"));
    command.args(["-D", "data", "-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
    command
}

fn mariadb(folder: &Folder, port: u16) -> Command {
    let user = "FLUSH PRIVILEGES;
        CREATE USER bench@'%' IDENTIFIED BY 'secret';
        GRANT ALL PRIVILEGES ON *.* TO bench@'%' WITH GRANT OPTION;";
    std::fs::write(folder.path.join("user.sql"), user).expect("the folder is there");
    let path = folder.path.display();
    let [data, extra, socket] = [
        format!("--datadir={path}/data"),
        format!("--extra-file={path}/user.sql"),
        format!("--socket={path}/socket"),
    ];
    folder.run(&find("mariadb-install-db"), &["--no-defaults", "--skip-test-db", &data, &extra]);
    let mut command = folder.command(&find("mariadbd"));
    command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
    command.args([data, socket, format!("--port={port}")]).arg("--innodb-buffer-pool-size=1G");
    // As Debian has it.
    command.args(["--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"]);
    command
}

/// Debian keeps some programs where only root looks.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{program} is not installed: tests/run installs it"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound").port()
}
