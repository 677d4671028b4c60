//! A client that was there before: how late its messages come, whatever else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::harness::clients::{Publisher, Subscriber, message, request, runtime};
use crate::harness::process::{Server, now};
use crate::harness::report::Times;

/// Between two messages.
const PACE: Duration = Duration::from_millis(10);

pub struct Established {
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<()>,
    receiving: JoinHandle<Vec<Delivery>>,
}

/// When a message was due, and how long it took to the client's `read`.
pub struct Delivery {
    due: i64,
    took: i64,
}

pub struct Deliveries(Vec<Delivery>);

impl Established {
    pub fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let subscriber = Subscriber::connect(server.public);
        let receiving = thread::spawn(|| receive(subscriber));
        let (internal, stopped) = (server.internal, stop.clone());
        let publishing = thread::spawn(move || {
            runtime().block_on(async {
                let mut publisher = Publisher::connect(internal).await;
                let mut due = now();
                loop {
                    let is_last = stopped.load(Ordering::Relaxed);
                    // A server that is late with its answers would delay the question and not be seen to, but it
                    // isn't its fault when we wake up late.
                    let early = due - now();
                    if early > 0 {
                        thread::sleep(Duration::from_nanos(early as u64));
                    }
                    let sent = if early > 0 { now() } else { due };
                    let body = message(&format!(r#"{{"due":{sent},"last":{is_last}}}"#));
                    publisher.publish(&request(internal, &body)).await;
                    due += PACE.as_nanos() as i64;
                    if is_last {
                        return;
                    }
                }
            });
        });
        Self { stop, publishing, receiving }
    }

    pub fn end(self) -> Deliveries {
        self.stop.store(true, Ordering::Relaxed);
        self.publishing.join().expect("all is published");
        Deliveries(self.receiving.join().expect("all comes"))
    }
}

impl Deliveries {
    /// Of what was due in this time.
    pub fn between(&self, time: (i64, i64)) -> Times {
        Times::new(self.within(time).map(|delivery| delivery.took).collect())
    }

    /// How long after its beginning the slowest of them was due, in nanoseconds.
    pub fn slowest_at(&self, time: (i64, i64)) -> i64 {
        let slowest = self.within(time).max_by_key(|delivery| delivery.took);
        slowest.expect("something was due").due - time.0
    }

    fn within(&self, (begin, end): (i64, i64)) -> impl Iterator<Item = &Delivery> {
        self.0.iter().filter(move |delivery| (begin..end).contains(&delivery.due))
    }
}

fn receive(mut subscriber: Subscriber) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    loop {
        let (at, frame) = subscriber.message().expect("it comes");
        let frame: Value = serde_json::from_slice(&frame).expect("frames are JSON");
        let due = frame["message"]["due"].as_i64().expect("it says when");
        deliveries.push(Delivery { due, took: at - due });
        if frame["message"]["last"] == true {
            return deliveries;
        }
    }
}
