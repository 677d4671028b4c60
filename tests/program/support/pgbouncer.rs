use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use super::database::{ADMIN, Database, PASSWORD};
use super::process::{Folder, Process, find, free_port};

/// A PgBouncer that pools transactions and knows no prepared statements.
pub struct PgBouncer {
    database: Database,
    _process: Process,
}

impl PgBouncer {
    pub fn in_front_of(database: &Database) -> Self {
        let pgbouncer = find("pgbouncer");
        let port = free_port();
        // Before 1.21 it knew none, and no setting for them.
        let version = String::from_utf8(Command::new(&pgbouncer).arg("--version").output().unwrap().stdout);
        let minor = version.unwrap().split(['.', '\n']).nth(1).unwrap().parse::<u32>().unwrap();
        let no_prepared = if minor >= 21 { "max_prepared_statements = 0" } else { "" };
        let folder = Folder::new();
        folder.write("users", &format!("\"{ADMIN}\" \"{PASSWORD}\"\n"));
        folder.write(
            "pgbouncer.ini",
            &format!(
                "[databases]
                 * = host={} port={} auth_user={ADMIN}
                 [pgbouncer]
                 listen_addr = 127.0.0.1
                 listen_port = {port}
                 unix_socket_dir =
                 auth_type = scram-sha-256
                 auth_file = users
                 pool_mode = transaction
                 ignore_startup_parameters = extra_float_digits
                 {no_prepared}",
                database.address.ip(),
                database.address.port()
            ),
        );
        let mut command = folder.command(pgbouncer);
        command.arg("pgbouncer.ini");
        let mut process = Process::start(folder, command);
        let database = database.at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        process.wait_until(|| database.try_sql("SELECT 1").status.success());
        Self { database, _process: process }
    }

    pub fn url(&self) -> String {
        self.database.url()
    }
}
