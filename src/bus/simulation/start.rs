use super::judge::Owed;
use super::scene::Scene;
use super::stage::{MS, Sight, Stage, Time};
use crate::bus::gaps::{IdRange, Start};
use crate::bus::mysql::holes::{Answer, LIST_INTERVAL, LISTS, Sieve, Writing};

/// A server that has taken a snapshot, and asks which of the ids that are missing may yet be committed: as
/// `mysql::Reader::start` does.
pub struct Starting {
    pub started: Start,
    /// What has been committed since.
    pub owed: Owed,
    /// When the snapshot was taken.
    pub date: i64,
    lists: usize,
    writing: Writing,
    sieve: Option<Sieve>,
}

impl Starting {
    pub fn new(stage: &Stage) -> Self {
        Self {
            started: stage.database.start(),
            owed: Owed::default(),
            date: stage.date(),
            lists: 0,
            writing: Writing::default(),
            sieve: None,
        }
    }

    /// How long to wait for the next list.
    pub fn pause(&self, scene: &Scene) -> Time {
        if scene.asks_late { LIST_INTERVAL.as_micros() as Time } else { 0 }
    }

    /// The next list, or question. None: all is known.
    pub fn step(&mut self, stage: &mut Stage) -> Option<Time> {
        let Some(sieve) = &mut self.sieve else {
            let writing = if stage.scene.asks_late { stage.writers.writing() } else { Vec::new() };
            if !writing.is_empty() {
                stage.saw(Sight::WaitedForWriters);
            }
            self.lists += 1;
            let have_ended = self.writing.ended(writing);
            if !have_ended && self.lists < LISTS {
                return Some(self.pause(&stage.scene));
            }
            let mut sieve = Sieve::new(have_ended);
            sieve.take_in(std::mem::take(&mut self.started.holes));
            self.sieve = Some(sieve);
            return Some(stage.random.below(MS));
        };
        let Some(holes) = sieve.asks() else {
            self.sieve.take()?.finish(&mut self.started);
            return None;
        };
        let missing = |holes: &[IdRange]| holes.len() as u64;
        let asked = missing(holes);
        let answer = match stage.database.answer(holes, &stage.writers) {
            Answer::Locked if !stage.scene.keeps_locked => Answer::Rows(Vec::new()),
            answer => answer,
        };
        if let Answer::Rows(rows) = &answer {
            *stage.seen.entry(Sight::Sifted).or_default() += asked - (rows.len() as u64).min(asked);
        }
        sieve.answered(answer);
        Some(stage.random.below(5 * MS))
    }
}
