//! Rows on their way from a writer, in another process, to a subscriber's socket.

use std::io::{BufRead, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::clients::Subscriber;
use super::process::{Process, Server, now};

/// The least and the most that a writer waits between two rows.
#[derive(Clone, Copy)]
pub struct Pause {
    pub least: Duration,
    pub most: Duration,
}

impl Pause {
    pub const fn milliseconds(least: u64, most: u64) -> Self {
        Self { least: Duration::from_millis(least), most: Duration::from_millis(most) }
    }

    pub fn name(self) -> String {
        format!("{}..{}", self.least.as_millis(), self.most.as_millis())
    }
}

/// One row's INSERT, in its writer's eyes.
pub struct Commit {
    begun: i64,
    returned: i64,
}

/// Rows with the times at both ends.
pub struct Series {
    commits: Vec<Commit>,
    received: Vec<i64>,
}

impl Series {
    /// Has a writer commit rows, and a subscriber receive them. The writer is a process that
    /// calls [`write`], and takes the pause and the count as its last arguments.
    pub fn measure(server: &Server, writer: &mut Command, pause: Pause, count: usize) -> Self {
        let mut subscriber = Subscriber::connect(server.public);
        let receiving = thread::spawn(move || receive(&mut subscriber, count));
        let numbers = [pause.least.as_millis(), pause.most.as_millis(), count as u128];
        let mut writer = Process::spawn(writer.args(numbers.map(|number| number.to_string())));
        let lines = writer.stdout().lines();
        let commits: Vec<_> = lines.map(|line| parse(&line.expect("it is text"))).collect();
        assert_eq!(commits.len(), count, "the writer ended early");
        Self { commits, received: receiving.join().expect("all rows come") }
    }

    pub fn since_commit(&self) -> Vec<i64> {
        self.since(|commit| commit.returned)
    }

    pub fn since_insert(&self) -> Vec<i64> {
        self.since(|commit| commit.begun)
    }

    fn since(&self, start: impl Fn(&Commit) -> i64) -> Vec<i64> {
        self.received.iter().zip(&self.commits).map(|(received, commit)| received - start(commit)).collect()
    }
}

fn parse(line: &str) -> Commit {
    let (begun, returned) = line.split_once(' ').expect("two times");
    let number = |text: &str| text.parse().expect("a number");
    Commit { begun: number(begun), returned: number(returned) }
}

/// When each row came, in order and none but these.
fn receive(subscriber: &mut Subscriber, count: usize) -> Vec<i64> {
    let receive = |sequence| {
        let (received, frame) = subscriber.message().expect("the row comes");
        let frame: Value = serde_json::from_slice(&frame).expect("frames are JSON");
        assert_eq!(frame["message"]["sequence"], sequence, "rows come in order, each once");
        received
    };
    (0..count).map(receive).collect()
}

/// What a writer does: has `insert` commit one row after the other, and tells the times.
pub async fn write(numbers: &[String], mut insert: impl AsyncFnMut(String)) {
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [least, most, count] = numbers[..] else { panic!("three numbers") };
    for sequence in 0..count {
        tokio::time::sleep(Duration::from_millis(rand::random_range(least..=most))).await;
        let data = format!(r#"{{"sequence":{sequence},"percent":50,"text":"{}"}}"#, "x".repeat(100));
        let begun = now();
        insert(data).await;
        let returned = now();
        writeln!(std::io::stdout().lock(), "{begun} {returned}").expect("the bench listens");
    }
}
