//! One stream with many subscribers: a first look.

use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::clients::{LAST, Publisher, Subscriber, data, is_message, message, request, runtime};
use crate::harness::load::publish_last;
use crate::harness::process::{Server, directory};
use crate::harness::report::{Figure, Report};
use crate::{Scale, start_server};

const DATA_BYTES: usize = 150;
const PER_SECOND: u32 = 100;
/// Longer than a heartbeat's interval, so that each connection has had one.
const IDLE: Duration = Duration::from_secs(4);
/// More than the messages take, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(60);

pub fn run(report: &mut Report, scale: &Scale) {
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit may be raised to its maximum");
    let directory = directory();
    let server = start_server(directory.path(), &[]);
    // What the first connection makes is everybody's.
    drop(Subscriber::connect(server.public));
    let bare = server.memory();
    let subscribers = (0..scale.subscribers).map(|_| Subscriber::connect(server.public)).collect();
    let counting = thread::spawn(|| runtime().block_on(count(subscribers)));
    thread::sleep(IDLE);
    let idle = server.memory();

    let (cpu, start) = (server.cpu(), Instant::now());
    runtime().block_on(publish(&server, scale.fanout_messages));
    let counts = counting.join().expect("all messages come");
    let (cpu, elapsed) = (server.cpu() - cpu, start.elapsed());

    let expected = vec![scale.fanout_messages as u64; scale.subscribers];
    assert_eq!(counts, expected, "every subscriber gets every message");
    let deliveries = (scale.subscribers * (scale.fanout_messages + 1)) as f64;
    report.add(
        Figure::new()
            .with("subscribers", scale.subscribers)
            .with("messages", scale.fanout_messages)
            .with("messages_per_s", PER_SECOND)
            .value("deliveries_per_s", deliveries / elapsed.as_secs_f64())
            .value("server_cpu_us", cpu.as_secs_f64() * 1e6 / deliveries)
            .value("idle_kib", (idle - bare) as f64 / 1024.0 / scale.subscribers as f64),
    );
}

async fn count(subscribers: Vec<Subscriber>) -> Vec<u64> {
    let counting: JoinSet<u64> = subscribers.into_iter().map(count_to_last).collect();
    timeout(LONGEST, counting.join_all()).await.expect("it takes a few seconds")
}

/// How many messages come before the last one, as a task beside many others.
async fn count_to_last(subscriber: Subscriber) -> u64 {
    let Subscriber { socket, mut frames } = subscriber;
    socket.set_nonblocking(true).expect("it is a socket");
    let mut socket = tokio::net::TcpStream::from_std(socket).expect("it is not blocking");
    let (mut chunk, mut count) = (vec![0; 4096], 0);
    loop {
        while let Some(frame) = frames.next() {
            if frame.ends_with(LAST) {
                return count;
            }
            count += u64::from(is_message(frame));
        }
        let length = socket.read(&mut chunk).await.expect("the last message comes");
        assert!(length > 0, "the server closed");
        frames.push(&chunk[..length]);
    }
}

async fn publish(server: &Server, messages: usize) {
    let request = request(server.internal, &message(&data(DATA_BYTES, false)));
    let mut publisher = Publisher::connect(server.internal).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    for _ in 0..messages {
        ticks.tick().await;
        publisher.publish(&request).await;
    }
    publish_last(server).await;
}
