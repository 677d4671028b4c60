//! How late honest clients get their messages alone, and beside every kind of hostile client that the tests
//! know (`tests/program/hostile`), in turns on one server.
//!
//! A time counts from the publish, or from when that was due where the one before it took longer, to when
//! each client's read has returned. The attacks come from this machine too, by threads that give way to all others:
//! elsewhere they would take none of the server's cores.

#[path = "../../tests/program/hostile/kinds.rs"]
mod kinds;
#[path = "../../tests/program/hostile/target.rs"]
mod target;

use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::Scale;
use crate::harness::clients::{Frames, LAST, Publisher, data, is_message, runtime};
use crate::harness::process::now;
use crate::harness::report::{Figure, Report, Times};
use crate::support::{Server, Wire, pubsub};
use kinds::KINDS;
use target::*;

const CLIENTS: usize = 100;
const EACH: Duration = Duration::from_millis(10);
const FAT_EACH: Duration = Duration::from_millis(100);
const FAT_BYTES: usize = 100_000;
const LONGEST: Duration = Duration::from_secs(60);

pub fn run(report: &mut Report, scale: &Scale) {
    let server = guarded();
    let (mut alone, mut beside, mut seen) = (Vec::new(), Vec::new(), 0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| runtime().block_on(publish_fat(&server, &is_over)));
        for _ in 0..scale.hostile_rounds {
            alone.extend(deliver(&server, scale.hostile_time));
            let (times, attacks) = attacked(&server, || deliver(&server, scale.hostile_time));
            beside.extend(times);
            seen += attacks;
        }
        is_over.store(true, Relaxed);
    });
    let (alone, beside) = (Times::new(alone), Times::new(beside));
    let figure = |whom: &str| Figure::new().with("clients", CLIENTS).with("beside", whom);
    report.add(figure("nobody").spread(&alone));
    let ratio = beside.at(0.99) / alone.at(0.99);
    let kinds = format!("{} kinds", KINDS.len());
    report.add(figure(&kinds).spread(&beside).value("refused", seen as f64).value("p99_ratio", ratio));
}

/// Has every kind attack meanwhile, each from an address of its own, and gives how often they were refused.
fn attacked<T>(server: &Server, honest: impl FnOnce() -> T) -> (T, usize) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attack = |(index, kind): (usize, &'static kinds::Kind)| {
            let target = Target { server, from: IpAddr::from([127, 0, 2, 1 + index as u8]) };
            let is_over = &is_over;
            scope.spawn(move || {
                rustix::process::nice(19).expect("anybody may be nicer");
                let mut seen = 0;
                while !is_over.load(Relaxed) {
                    seen += (kind.attack)(&target);
                    thread::sleep(Duration::from_millis(500));
                }
                assert!(seen > 0, "{} ({}) was not seen", kind.name, kind.counted);
                seen
            })
        };
        let attacks: Vec<_> = KINDS.iter().enumerate().map(attack).collect();
        let times = honest();
        is_over.store(true, Relaxed);
        (times, attacks.into_iter().map(|attack| attack.join().expect("it is refused as it should be")).sum())
    })
}

/// Publishes for so long, and gives how late each client got each message.
fn deliver(server: &Server, time: Duration) -> Vec<i64> {
    let clients: Vec<_> = (0..CLIENTS).map(|index| honest_client(server, index)).collect();
    let receiving = thread::spawn(|| {
        runtime().block_on(async {
            let receiving: JoinSet<_> = clients.into_iter().map(receive).collect();
            timeout(LONGEST, receiving.join_all()).await.expect("the last message comes")
        })
    });
    let count = runtime().block_on(publish(server, time));
    let times = receiving.join().expect("all messages come");
    assert!(times.iter().all(|times| times.len() == count), "each client gets each message");
    times.concat()
}

/// Ten of each address.
fn honest_client(server: &Server, index: usize) -> TcpStream {
    let from = IpAddr::from([127, 0, 1, 1 + (index / 10) as u8]);
    let mut client = Target { server, from }.connect();
    client.subscribe(&pubsub(HONEST));
    let Wire::Plain(stream) = client.wire() else { unreachable!("it came without TLS") };
    stream.try_clone().expect("it is a socket")
}

async fn receive(stream: TcpStream) -> Vec<i64> {
    stream.set_nonblocking(true).expect("it is a socket");
    let mut stream = tokio::net::TcpStream::from_std(stream).expect("it is not blocking");
    let (mut chunk, mut frames, mut times) = (vec![0; 4096], Frames::default(), Vec::new());
    loop {
        let length = stream.read(&mut chunk).await.expect("the last message comes");
        let received = now();
        assert!(length > 0, "the server closed");
        frames.push(&chunk[..length]);
        while let Some(frame) = frames.next() {
            if frame.ends_with(LAST) {
                return times;
            }
            if is_message(frame) {
                let frame: serde_json::Value = serde_json::from_slice(frame).expect("frames are JSON");
                times.push(received - frame["message"].as_i64().expect("it is a time"));
            }
        }
    }
}

/// How many it has published.
async fn publish(server: &Server, time: Duration) -> usize {
    let mut publisher = Publisher::connect(server.internal).await;
    let (begun, at) = (now(), Instant::now());
    let count = (time.as_nanos() / EACH.as_nanos()) as u32;
    for number in 1..=count {
        let due = at + EACH * number;
        let is_late = Instant::now() > due;
        sleep_until(due).await;
        // The timer rounds milliseconds up, which is nobody's delay.
        let counts_from = if is_late { begun + (EACH * number).as_nanos() as i64 } else { now() };
        publisher.publish(&request(server, HONEST, &counts_from.to_string())).await;
    }
    publisher.publish(&request(server, HONEST, &data(0, true))).await;
    count as usize
}

/// Who doesn't read it is given up.
async fn publish_fat(server: &Server, is_over: &AtomicBool) {
    let request = request(server, FAT, &data(FAT_BYTES, false));
    let (mut publisher, mut ticks) = (Publisher::connect(server.internal).await, interval(FAT_EACH));
    while !is_over.load(Relaxed) {
        ticks.tick().await;
        publisher.publish(&request).await;
    }
}

fn request(server: &Server, stream: &str, data: &str) -> Vec<u8> {
    let body = format!(r#"{{"stream":"{stream}","data":{data}}}"#);
    format!(
        "POST /broadcast HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        server.internal,
        body.len()
    )
    .into_bytes()
}
