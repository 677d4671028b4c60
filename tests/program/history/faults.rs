use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use rustix::process::{Pid, Signal, kill_process};

use super::{Stage, Time};
use crate::support::{DatabaseServer, until};

/// Something that was done to the database.
#[derive(Debug)]
pub struct Fault {
    pub what: &'static str,
    pub process: Option<i32>,
    pub from: Time,
    pub to: Time,
}

/// Who chooses at random here.
const FAULTS: u64 = 2000;
const STOPS: u64 = 3000;

pub const STOP: &str = "one process stopped";

/// Does one thing after the other to the database until the run is over, and leaves it running.
pub fn cause(server: &mut DatabaseServer, stage: &Stage) -> Vec<Fault> {
    let mut random = stage.random(FAULTS);
    thread::scope(|scope| {
        let stopping = scope.spawn(move || stop_single_processes(stage));
        let mut faults = Vec::new();
        let mut next = stage.now() + random.random_range(3000..10_000);
        while !stage.is_over() {
            thread::sleep(TICK);
            if stage.now() < next {
                continue;
            }
            let from = stage.now();
            let mut process = None;
            let what = match random.random_range(0..4) {
                0 => {
                    server.restart();
                    "restarted"
                }
                1 => {
                    server.kill();
                    server.start_again();
                    "killed"
                }
                2 => {
                    server.pause();
                    thread::sleep(Duration::from_millis(random.random_range(200..8000)));
                    server.resume();
                    "paused"
                }
                // All others end with it.
                _ => {
                    process = some_backend(stage, &mut random);
                    let Some(process) = process else { continue };
                    signal(process, Signal::KILL);
                    "one process killed"
                }
            };
            faults.push(Fault { what, process, from, to: stage.now() });
            next = stage.now() + random.random_range(5000..15_000);
        }
        faults.extend(stopping.join().unwrap());
        let database = server.named(stage.engine.first_database());
        until("the database answers", || database.try_sql("SELECT 1").status.success());
        faults.sort_by_key(|fault| fault.from);
        faults
    })
}

const TICK: Duration = Duration::from_millis(10);
const MOST_STOPPED: usize = 3;

/// Stops what serves a writer in the middle of a transaction, for some time.
fn stop_single_processes(stage: &Stage) -> Vec<Fault> {
    let mut random = stage.random(STOPS);
    let mut faults: Vec<Fault> = Vec::new();
    let mut stopped: Vec<Fault> = Vec::new();
    let mut next = 0;
    while !stage.is_over() || !stopped.is_empty() {
        thread::sleep(TICK);
        let now = stage.now();
        for fault in stopped.extract_if(.., |fault| fault.to <= now || stage.is_over()) {
            signal(fault.process.unwrap(), Signal::CONT);
            faults.push(fault);
        }
        if now < next || stopped.len() == MOST_STOPPED || stage.is_over() {
            continue;
        }
        if let Some(process) = some_backend(stage, &mut random) {
            signal(process, Signal::STOP);
            // Mostly short: who is stopped may hold what all others need.
            let millis = (200.0 * 40_f64.powf(random.random())) as Time;
            stopped.push(Fault { what: STOP, process: Some(process), from: now, to: now + millis });
        }
        next = now + random.random_range(50..2000);
    }
    faults
}

/// A process that serves a writer's open transaction.
fn some_backend(stage: &Stage, random: &mut SmallRng) -> Option<i32> {
    let first = random.random_range(0..stage.backends.len());
    let (before, from) = stage.backends.split_at(first);
    from.iter().chain(before).map(|backend| backend.load(Relaxed)).find(|backend| *backend > 0)
}

fn signal(process: i32, signal: Signal) {
    // It may have ended.
    let _ = kill_process(Pid::from_raw(process).unwrap(), signal);
}
