//! Publishing by HTTP as fast as the answers come.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::clients::{Publisher, Subscriber, data, message, request, runtime};
use super::process::{Server, now};

const DATA_BYTES: usize = 150;

/// Who publishes: so many connections, with so many messages to a request.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub messages: usize,
}

pub const SINGLE: Load = Load { connections: 32, messages: 1 };
pub const ARRAYS: Load = Load { connections: 4, messages: 64 };

pub struct Throughput {
    pub messages_per_second: f64,
    /// Microseconds of the server's, delivery to one subscriber included.
    pub cpu_per_message: f64,
    /// How long each request waited for its answer.
    pub answers: Vec<i64>,
}

impl Load {
    /// Each connection sends its next request when the last one was answered. All that was
    /// answered, and nothing else, must reach a subscriber.
    pub fn run(self, server: &Server, time: Duration) -> Throughput {
        let mut subscriber = Subscriber::connect(server.public);
        let receiving = thread::spawn(move || subscriber.count_to_last());
        let request = Arc::new(request(server.internal, &self.body()));

        let (cpu, start) = (server.cpu(), Instant::now());
        let answers = runtime().block_on(self.publish(server, request, start + time));
        let elapsed = start.elapsed();
        runtime().block_on(publish_last(server));
        let received = receiving.join().expect("all messages come");
        let cpu = server.cpu() - cpu;

        let messages = answers.len() * self.messages;
        assert_eq!(received, messages as u64, "what was answered is what was received");
        Throughput {
            messages_per_second: messages as f64 / elapsed.as_secs_f64(),
            cpu_per_message: cpu.as_secs_f64() * 1e6 / messages as f64,
            answers,
        }
    }

    fn body(self) -> String {
        let message = message(&data(DATA_BYTES, false));
        if self.messages == 1 { message } else { format!("[{}]", vec![message; self.messages].join(",")) }
    }

    async fn publish(self, server: &Server, request: Arc<Vec<u8>>, end: Instant) -> Vec<i64> {
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            let (mut publisher, request) = (Publisher::connect(server.internal).await, request.clone());
            connections.spawn(async move {
                let mut answers = Vec::new();
                while Instant::now() < end {
                    let sent = now();
                    publisher.publish(&request).await;
                    answers.push(now() - sent);
                }
                answers
            });
        }
        connections.join_all().await.concat()
    }
}

/// Tells subscribers that they have seen all.
pub async fn publish_last(server: &Server) {
    let last = request(server.internal, &message(&data(DATA_BYTES, true)));
    Publisher::connect(server.internal).await.publish(&last).await;
}
