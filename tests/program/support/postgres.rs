use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use rustix::process::Signal;

use super::database::{ADMIN, Builder, Database, DatabaseServer, Engine, PASSWORD};
use super::process::{Folder, run};
use super::until;

/// The server that all tests share.
pub fn shared() -> &'static DatabaseServer {
    static SHARED: LazyLock<DatabaseServer> = LazyLock::new(|| server().start());
    &SHARED
}

/// A server of one's own, in the newest version that the system has.
pub fn server() -> Builder {
    Builder::new(Postgres { programs: system_programs() })
}

/// One in another version, if that is installed.
pub fn version(major: u32) -> Option<Builder> {
    let folder = env!("CARGO_MANIFEST_DIR");
    let places = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("{folder}/tests/postgres-versions/node_modules/postgres-{major}/native/bin"),
    ];
    let mut places = places.into_iter().map(PathBuf::from);
    let programs = places.find(|programs| programs.join("postgres").exists())?;
    Some(Builder::new(Postgres { programs }))
}

fn system_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path())
        .filter(|version| version.join("bin/initdb").exists())
        .max_by_key(|version| version.file_name()?.to_str()?.parse::<u32>().ok())
        .expect("PostgreSQL is not installed: tests/run installs it")
        .join("bin")
}

struct Postgres {
    programs: PathBuf,
}

impl Engine for Postgres {
    fn scheme(&self) -> &'static str {
        "postgres"
    }

    fn first_database(&self) -> &'static str {
        "postgres"
    }

    fn fill(&self, folder: &Folder) {
        folder.fill(&self.programs, |folder| {
            folder.write("password", PASSWORD);
            let mut initdb = folder.command(self.programs.join("initdb"));
            initdb.args(["-D", "data", "-U", ADMIN, "--pwfile=password", "--auth=scram-sha-256"]);
            run(initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8"]));
        });
    }

    fn server(&self, folder: &Folder, port: u16, settings: &[(String, String)]) -> Command {
        let path = folder.path().to_str().unwrap();
        let mut configuration =
            File::options().append(true).open(folder.path().join("data/postgresql.conf")).unwrap();
        let mut set = |name: &str, value: &str| writeln!(configuration, "{name} = '{value}'").unwrap();
        set("listen_addresses", "127.0.0.1");
        set("port", &port.to_string());
        set("unix_socket_directories", path);
        set("fsync", "off");
        set("max_connections", "300");
        for (name, value) in settings {
            set(name, value);
        }
        let mut command = folder.command(self.programs.join("postgres"));
        command.args(["-D", "data"]);
        command
    }

    fn stop_signal(&self) -> Signal {
        Signal::INT
    }

    fn shell(&self, database: &Database) -> Command {
        let mut shell = Command::new(system_programs().join("psql"));
        shell.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &database.url()]);
        shell
    }

    fn create_user(&self, name: &str) -> String {
        format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    }
}

/// What PostgreSQL's servers alone can do here.
impl DatabaseServer {
    /// A hot standby that streams from this server.
    pub fn replica(&self) -> DatabaseServer {
        let folder = Folder::new();
        let mut copy = folder.command(system_programs().join("pg_basebackup"));
        copy.args(["-D", "data", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        run(copy.args(["-d", &self.named("postgres").url()]));
        self.beside(folder)
    }

    /// Waits until a standby shows all that its primary has committed by now.
    pub fn wait_for_replay(&self, primary: &DatabaseServer) {
        // Not what is written by now: others of its processes may not have written what they have inserted.
        let written = primary.sql("SELECT pg_current_wal_insert_lsn()");
        until("the standby has caught up", || {
            self.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) == "t"
        });
    }

    /// Makes a standby a primary, once it knows how far it has the log.
    pub fn promote(&self) {
        until("it has asked for the log", || self.sql("SELECT pg_last_wal_receive_lsn() IS NOT NULL") == "t");
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }
}
