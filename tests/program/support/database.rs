use std::io::{Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::process::Signal;

use super::Transaction;
use super::process::{Folder, Process, free_port};

/// Who may do everything, in every server that the tests start.
pub const ADMIN: &str = "admin";
/// The password of everybody.
pub const PASSWORD: &str = "secret";

/// What differs between database systems.
pub trait Engine: Send + Sync {
    /// What their URLs begin with.
    fn scheme(&self) -> &'static str;
    /// The database that is always there.
    fn first_database(&self) -> &'static str;
    /// Fills a server's folder.
    fn fill(&self, folder: &Folder);
    /// The server, to be run in its folder.
    fn server(&self, folder: &Folder, port: u16, settings: &[(String, String)]) -> Command;
    /// What ends it soon and in order.
    fn stop_signal(&self) -> Signal;
    /// The stock shell, reading statements from its input and stopping at the first error.
    fn shell(&self, database: &Database) -> Command;
    /// The statement that makes a user.
    fn create_user(&self, name: &str) -> String;
}

/// A server to be started, with data and a port of its own.
#[derive(Clone)]
pub struct Builder {
    engine: Arc<dyn Engine>,
    settings: Vec<(String, String)>,
}

impl Builder {
    pub fn new(engine: impl Engine + 'static) -> Self {
        Self { engine: Arc::new(engine), settings: Vec::new() }
    }

    /// A setting as the server's own configuration has it.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn start(self) -> DatabaseServer {
        let folder = Folder::new();
        self.engine.fill(&folder);
        self.start_in(folder)
    }

    fn start_in(self, folder: Folder) -> DatabaseServer {
        let port = free_port();
        let command = self.engine.server(&folder, port, &self.settings);
        let process = Process::start(folder, command);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = DatabaseServer { address, builder: self, process };
        server.wait();
        server
    }
}

/// A database server; it is killed when it is dropped.
pub struct DatabaseServer {
    pub address: SocketAddr,
    builder: Builder,
    process: Process,
}

impl DatabaseServer {
    /// A new, empty database.
    pub fn database(&self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Relaxed));
        self.sql(&format!("CREATE DATABASE {name}"));
        self.named(&name)
    }

    /// A database that is there already.
    pub fn named(&self, name: &str) -> Database {
        Database { address: self.address, name: name.to_owned(), engine: self.builder.engine.clone() }
    }

    /// Runs SQL in no database of a test.
    pub fn sql(&self, sql: &str) -> String {
        self.named(self.builder.engine.first_database()).sql(sql)
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it in order; clients are sent away.
    pub fn stop(&mut self) {
        self.process.stop(self.builder.engine.stop_signal());
    }

    /// Ends all its processes at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets all its processes do nothing more, as if the machine were overloaded.
    pub fn pause(&mut self) {
        self.process.pause();
    }

    pub fn resume(&mut self) {
        self.process.resume();
    }

    /// Starts it at the same port and on the same data.
    pub fn start_again(&mut self) {
        self.process.start_again();
        self.wait();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Another one with the same settings, in a folder that is filled already.
    pub(super) fn beside(&self, folder: Folder) -> DatabaseServer {
        self.builder.clone().start_in(folder)
    }

    fn wait(&mut self) {
        let database = self.named(self.builder.engine.first_database());
        self.process.wait_until(|| database.try_sql("SELECT 1").status.success());
    }
}

/// A database, and other processes that use it.
pub struct Database {
    pub address: SocketAddr,
    pub name: String,
    engine: Arc<dyn Engine>,
}

impl Database {
    pub fn url(&self) -> String {
        self.url_as(ADMIN, PASSWORD)
    }

    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("{}://{user}:{password}@{}/{}", self.engine.scheme(), self.address, self.name)
    }

    /// Makes a user of this test's own, who may do nothing yet and has the password of all; gives
    /// its name.
    pub fn user(&self, role: &str) -> String {
        let name = format!("{}_{role}", self.name);
        self.sql(&self.engine.create_user(&name));
        name
    }

    /// Runs SQL in the stock shell, as a worker would, and gives back what it prints.
    pub fn sql(&self, sql: &str) -> String {
        let output = self.try_sql(sql);
        assert!(output.status.success(), "{}\n{sql}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn try_sql(&self, sql: &str) -> Output {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(sql.as_bytes()).unwrap();
        input.rewind().unwrap();
        self.engine.shell(self).stdin(input).output().unwrap()
    }

    /// Begins another process's transaction, and runs SQL in it.
    pub fn begin(&self, sql: &str) -> Transaction {
        Transaction::begin(self.engine.shell(self), "BEGIN", sql)
    }

    /// The same database at another address, as through a proxy.
    pub fn at(&self, address: SocketAddr) -> Database {
        Database { address, name: self.name.clone(), engine: self.engine.clone() }
    }
}
