use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Answer, PATIENCE, Socket, get, request};

/// The binary, with nothing of this process's environment that it would take for settings.
pub fn tablecast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tablecast"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TABLECAST_")
            || ["DATABASE_URL", "CABLE_PREFIX", "RUST_LOG"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command
}

/// A server to be started, on a fresh file in a folder of its own and free ports.
pub fn server() -> Builder {
    Builder { folder: Arc::new(TempDir::new().unwrap()), arguments: Vec::new(), ports: [0, 0], ignored: "" }
}

pub struct Builder {
    folder: Arc<TempDir>,
    arguments: Vec<String>,
    ports: [u16; 2],
    ignored: &'static str,
}

impl Builder {
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// On another database than the file of its own.
    pub fn database_url(self, url: &str) -> Self {
        self.arg("--database-url").arg(url)
    }

    pub fn with_prefix(self, prefix: &str) -> Self {
        self.arg("--channel-prefix").arg(prefix)
    }

    /// Started with a signal ignored, as a parent process can leave it.
    pub fn ignoring(mut self, signal: &'static str) -> Self {
        self.ignored = signal;
        self
    }

    /// All streams can be subscribed to by name.
    pub fn open(self) -> Self {
        self.arg("--public-streams=*")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("tablecast.db")
    }

    pub fn config(self, toml: &str) -> Self {
        std::fs::write(self.folder.path().join("tablecast.toml"), toml).unwrap();
        self
    }

    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|error| panic!("the server did not start: {error}"))
    }

    /// Starts it, or gives what it says instead.
    pub fn try_start(self) -> Result<Server, String> {
        let mut command = tablecast();
        if !self.ignored.is_empty() {
            let script = format!("trap '' {}; exec \"$@\"", self.ignored);
            let binary = command.get_program().to_owned();
            command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(binary);
        }
        let mut child = command
            .arg("serve")
            .args(["--listen", &format!("127.0.0.1:{}", self.ports[0])])
            .args(["--internal-listen", &format!("127.0.0.1:{}", self.ports[1])])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        for _ in 0..3 {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let mut error = String::new();
                child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                let _ = child.wait();
                return Err(error);
            }
            said.push(line.trim_end().to_owned());
        }
        let address = |after: &str| -> SocketAddr {
            let (_, rest) = said[0].split_once(after).unwrap();
            rest.split(['/', ',']).next().unwrap().parse().unwrap()
        };
        Ok(Server {
            public: address("ws://"),
            internal: address("http://"),
            said,
            log: collect(child.stderr.take().unwrap()),
            child,
            folder: self.folder,
            arguments: self.arguments,
        })
    }
}

/// A server that runs; it is killed when it is dropped.
pub struct Server {
    pub public: SocketAddr,
    pub internal: SocketAddr,
    /// Its first three lines.
    pub said: Vec<String>,
    log: Arc<parking_lot::Mutex<String>>,
    child: Child,
    folder: Arc<TempDir>,
    arguments: Vec<String>,
}

impl Server {
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("tablecast.db")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another server on the same file, with settings of its own.
    pub fn beside(&self) -> Builder {
        Builder { folder: self.folder.clone(), arguments: Vec::new(), ports: [0, 0], ignored: "" }
    }

    /// The same server, started again at the same ports and on the same file.
    pub fn again(mut self) -> Server {
        self.kill();
        let ports = [self.public.port(), self.internal.port()];
        let arguments = self.arguments.clone();
        let builder = Builder { folder: self.folder.clone(), arguments, ports, ignored: "" };
        drop(self);
        builder.start()
    }

    /// A client that has had its welcome.
    pub fn connect(&self) -> Socket {
        let mut socket =
            Socket::open(self.public, "/cable", &[("Sec-WebSocket-Protocol", "actioncable-v1-json")]);
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
        socket
    }

    pub fn sql(&self, sql: &str) -> String {
        super::sqlite3(&self.database(), sql)
    }

    /// An INSERT as the README shows it.
    pub fn insert(&self, stream: &str, data: &str) {
        let quote = |text: &str| text.replace('\'', "''");
        self.sql(&format!(
            "INSERT INTO tablecast_publish (stream, data) VALUES ('{}', '{}')",
            quote(stream),
            quote(data)
        ));
    }

    pub fn publish(&self, body: &str) -> Answer {
        request(self.internal, "POST", "/broadcast", &[("Content-Type", "application/json")], body.as_bytes())
    }

    pub fn metric(&self, name: &str) -> f64 {
        let body = get(self.internal, "/metrics").body;
        let line = body.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// The most memory that it has held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// How large a file it may write, as `prlimit` takes it.
    pub fn limit_file_size(&self, bytes: &str) {
        let arguments = [format!("--pid={}", self.child.id()), format!("--fsize={bytes}:")];
        assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}---", self.log());
        }
    }
}

fn collect(mut stderr: impl Read + Send + 'static) -> Arc<parking_lot::Mutex<String>> {
    let log = Arc::new(parking_lot::Mutex::new(String::new()));
    let writer = log.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stderr.read(&mut bytes) {
            writer.lock().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    log
}
