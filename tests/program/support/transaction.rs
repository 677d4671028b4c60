use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const DONE: &str = "-- done";

/// Another process's transaction, open in a stock shell until it is ended.
pub struct Transaction {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Transaction {
    /// Begins one, and runs SQL in it.
    pub fn begin(mut shell: Command, begin: &str, sql: &str) -> Self {
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn().unwrap_or_else(|error| panic!("{shell:?}: {error}"));
        let input = shell.stdin.take().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let mut transaction = Self { shell, input, output };
        transaction.run(begin);
        if !sql.is_empty() {
            transaction.run(sql);
        }
        transaction
    }

    /// Runs more SQL in it, waits until that is done, and gives back what it prints.
    pub fn run(&mut self, sql: &str) -> String {
        // A shell that has failed before reads no more, and says why below.
        let _ = writeln!(self.input, "{}\n;\nSELECT '{DONE}';", sql.trim_end().trim_end_matches(';'));
        let mut printed = String::new();
        loop {
            let start = printed.len();
            if self.output.read_line(&mut printed).unwrap() == 0 {
                let stderr = std::io::read_to_string(self.shell.stderr.take().unwrap()).unwrap();
                panic!("{stderr}\n{sql}");
            }
            if printed[start..].trim_end() == DONE {
                printed.truncate(start);
                return printed.trim_end().to_owned();
            }
        }
    }

    /// The process that serves it, in PostgreSQL.
    pub fn backend_pid(&mut self) -> String {
        self.run("SELECT pg_backend_pid()")
    }

    pub fn commit(self) {
        self.end("COMMIT");
    }

    pub fn roll_back(self) {
        self.end("ROLLBACK");
    }

    /// Ends it for this session only: `COMMIT PREPARED` can follow from any, in PostgreSQL.
    pub fn prepare(self, name: &str) {
        self.end(&format!("PREPARE TRANSACTION '{name}'"));
    }

    fn end(mut self, sql: &str) {
        let _ = writeln!(self.input, "{sql};");
        drop(self.input);
        let output = self.shell.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{sql}", String::from_utf8_lossy(&output.stderr));
    }
}
