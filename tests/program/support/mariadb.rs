use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use rustix::process::Signal;

use super::database::{ADMIN, Builder, Database, DatabaseServer, Engine, PASSWORD};
use super::process::{Folder, find, run};

/// The redo log's size is also that of each server's copy.
const LOG_SIZE: &str = "--innodb-log-file-size=32M";

/// The server that all tests share.
pub fn shared() -> &'static DatabaseServer {
    static SHARED: LazyLock<DatabaseServer> = LazyLock::new(|| server().start());
    &SHARED
}

/// A server of one's own.
pub fn server() -> Builder {
    Builder::new(MariaDb)
}

struct MariaDb;

impl Engine for MariaDb {
    fn scheme(&self) -> &'static str {
        "mysql"
    }

    fn first_database(&self) -> &'static str {
        "mysql"
    }

    fn fill(&self, folder: &Folder) {
        folder.fill(Path::new("mariadb"), |folder| {
            let admin = format!(
                "FLUSH PRIVILEGES;
                 CREATE USER {ADMIN}@'%' IDENTIFIED BY '{PASSWORD}';
                 GRANT ALL PRIVILEGES ON *.* TO {ADMIN}@'%' WITH GRANT OPTION;"
            );
            folder.write("admin.sql", &admin);
            let mut install = folder.command(find("mariadb-install-db"));
            install.args(["--no-defaults", "--skip-test-db", LOG_SIZE]);
            install.arg(format!("--datadir={}/data", folder.path().display()));
            run(install.arg(format!("--extra-file={}/admin.sql", folder.path().display())));
        });
    }

    fn server(&self, folder: &Folder, port: u16, settings: &[(String, String)]) -> Command {
        let path = folder.path().display();
        let mut command = folder.command(find("mariadbd"));
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", LOG_SIZE]);
        command.args([format!("--datadir={path}/data"), format!("--socket={path}/socket")]);
        // A server that starts deletes all temporary tables that it finds.
        command.arg(format!("--tmpdir={path}"));
        command.args([format!("--port={port}"), "--max-connections=300".into()]);
        // A commit survives a crash of the process, not of the machine.
        command.arg("--innodb-flush-log-at-trx-commit=2");
        // As Debian has it.
        command.args(["--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"]);
        command.args(settings.iter().map(|(name, value)| format!("--{name}={value}")));
        command
    }

    fn stop_signal(&self) -> Signal {
        Signal::TERM
    }

    fn shell(&self, database: &Database) -> Command {
        let mut shell = Command::new(find("mariadb"));
        let (host, port) = (database.address.ip(), database.address.port());
        shell.args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--unbuffered"]);
        shell.args(["--default-character-set=utf8mb4", "--protocol=tcp"]);
        shell.args([format!("--host={host}"), format!("--port={port}")]);
        shell.args([format!("--user={ADMIN}"), format!("--password={PASSWORD}")]).arg(&database.name);
        shell
    }

    fn create_user(&self, name: &str) -> String {
        format!("CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'")
    }
}
