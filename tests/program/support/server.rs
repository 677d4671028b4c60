use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::free_port;
use super::{Answer, Authority, PATIENCE, Pair, Socket, Wire, get, request};

/// The binary, with nothing of this process's environment that it would take for settings.
pub fn tablecast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tablecast"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TABLECAST_")
            || ["DATABASE_URL", "CABLE_PREFIX", "SECRET_KEY_BASE", "RUST_LOG"].contains(&name.as_str())
        {
            command.env_remove(name);
        }
    }
    command
}

/// A server to be started, on a fresh file in a folder of its own and free ports.
pub fn server() -> Builder {
    Builder {
        folder: Arc::new(TempDir::new().unwrap()),
        arguments: Vec::new(),
        ports: free_ports(),
        before: "",
    }
}

/// Ones that stay free while the server that has them is down.
fn free_ports() -> [u16; 2] {
    [free_port(), free_port()]
}

pub struct Builder {
    folder: Arc<TempDir>,
    arguments: Vec<String>,
    ports: [u16; 2],
    /// What a shell does before it becomes the server.
    before: &'static str,
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

    /// Started as a shell's commands leave it: with a signal ignored, or limits.
    pub fn after(mut self, commands: &'static str) -> Self {
        self.before = commands;
        self
    }

    /// It speaks TLS, with files in its folder.
    pub fn with_tls(self, pair: &Pair) -> Self {
        pair.write(self.folder.path());
        self.arg("--tls-cert=cert.pem").arg("--tls-key=key.pem")
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
        if !self.before.is_empty() {
            let script = format!("{}; exec \"$@\"", self.before);
            let binary = command.get_program().to_owned();
            command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(binary);
        }
        // A file and not a pipe: what a server has logged can be read without a delay.
        let log = tempfile::tempfile().unwrap();
        let mut child = command
            .arg("serve")
            .args(["--listen", &format!("127.0.0.1:{}", self.ports[0])])
            .args(["--internal-listen", &format!("127.0.0.1:{}", self.ports[1])])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        for _ in 0..3 {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let _ = child.wait();
                return Err(whole(&log));
            }
            said.push(line.trim_end().to_owned());
        }
        let addresses = said[0].split("://").skip(1);
        let mut addresses = addresses.map(|rest| rest.split(['/', ',']).next().unwrap().parse().unwrap());
        Ok(Server {
            public: addresses.next().unwrap(),
            internal: addresses.next().unwrap(),
            said,
            log,
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
    log: File,
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
        Builder { folder: self.folder.clone(), arguments: Vec::new(), ports: free_ports(), before: "" }
    }

    /// The same server, started again at the same ports and on the same file.
    pub fn again(mut self) -> Server {
        self.kill();
        let ports = [self.public.port(), self.internal.port()];
        let arguments = self.arguments.clone();
        let builder = Builder { folder: self.folder.clone(), arguments, ports, before: "" };
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

    /// A client of the extended protocol that has had its welcome.
    pub fn connect_extended(&self) -> Socket {
        self.extended_over(Wire::plain(self.public))
    }

    /// The same over a wire of one's own.
    pub fn extended_over(&self, wire: Wire) -> Socket {
        let headers = [("Sec-WebSocket-Protocol", "actioncable-v1-ext-json")];
        let mut socket = Socket::try_open_over(wire, self.public, "/cable", &headers);
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
        socket
    }

    /// One of whose messages little is on its way: see [`Wire::narrow`].
    pub fn connect_narrowly(&self) -> Socket {
        let mut socket = Socket::try_open_over(Wire::narrow(self.public), self.public, "/cable", &[]);
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
        socket
    }

    /// The same over TLS, by a client that trusts the authority.
    pub fn connect_over_tls(&self, authority: &Authority) -> Socket {
        let wire = Wire::tls(self.public, authority.client());
        let mut socket = Socket::try_open_over(wire, self.public, "/cable", &[]);
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
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

    /// Messages that go together, in as few requests as it takes.
    pub fn publish_all<'a>(&self, messages: impl IntoIterator<Item = (&'a str, Value)>) {
        let messages = messages.into_iter().map(|(stream, data)| json!({ "stream": stream, "data": data }));
        let messages: Vec<String> = messages.map(|message| message.to_string()).collect();
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|message| {
                bytes += message.len() + 1;
                bytes < 8 << 20
            });
            let (now, later) = rest.split_at(fit.count().min(1000));
            let answer = self.publish(&format!("[{}]", now.join(",")));
            assert_eq!(answer.status, 201, "{}: {}", answer.body, self.log());
            rest = later;
        }
    }

    /// How many requests, connections and subscriptions were refused, by reason.
    pub fn refused(&self, reason: &str) -> f64 {
        self.metric(&format!("tablecast_refusals_total{{reason=\"{reason}\"}}"))
    }

    /// How many connections were closed, by reason.
    pub fn closed(&self, reason: &str) -> f64 {
        self.metric(&format!("tablecast_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    pub fn metric(&self, name: &str) -> f64 {
        let body = get(self.internal, "/metrics").body;
        let line = body.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn log(&self) -> String {
        whole(&self.log)
    }

    /// How many clients that came back were given what they missed, or why not.
    pub fn resumes(&self, result: &str) -> f64 {
        self.metric(&format!("tablecast_resumes_total{{result=\"{result}\"}}"))
    }

    /// The most memory that it has held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub fn signal(&self, signal: &str) {
        super::signal(signal, &self.child.id().to_string());
    }

    /// How large a file it may write, as `prlimit` takes it.
    pub fn limit_file_size(&self, bytes: &str) {
        self.limit(&format!("--fsize={bytes}:"));
    }

    /// How many files it may have open, of those that it could be allowed.
    pub fn limit_descriptors(&self, count: u64) {
        self.limit(&format!("--nofile={count}:"));
    }

    fn limit(&self, what: &str) {
        let arguments = [format!("--pid={}", self.child.id()), what.to_owned()];
        assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
    }

    /// What it may have open, and what it could be allowed.
    pub fn descriptor_limits(&self) -> (u64, u64) {
        let limits = self.proc("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// The processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_secs(ticks.sum()) / rustix::param::clock_ticks_per_second() as u32
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
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

/// All that was written to it. Not read through a cursor, which the child's writes share.
fn whole(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
