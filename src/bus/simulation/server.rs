use std::pin::Pin;
use std::sync::Arc;

use super::database::View;
use super::judge::{Fault, Owed};
use super::random::Random;
use super::scene::Barrier;
use super::stage::{MS, Moment, SECOND, Sight, Stage, Time, WRITING};
use crate::bus::barrier::Barriers;
use crate::bus::gaps::{Evidence, Facts, Gaps, Request, Tick};
use crate::bus::position::{Ids, Steps};

/// One that follows the table, as `Tail` does, in ticks whose parts come at different moments.
pub struct Server {
    pub due: Time,
    /// It is stopped then, and comes back a little later.
    pub stops_at: Option<Time>,
    page: usize,
    /// Few gaps are treated as if they were many.
    is_pressed: bool,
    lists_each: Time,
    /// None while it is down.
    pub life: Option<Life>,
}

/// A tail, from the start of its process or of a history to their end.
pub struct Life {
    pub gaps: Gaps,
    pub history: u64,
    /// Made when the database had been restarted so often.
    pub connection: u64,
    pub owed: Owed,
    phase: Phase,
    barriers: Barriers<Ids>,
    began: Time,
    next_list: Time,
}

/// Where the tick is.
enum Phase {
    Idle,
    Begun(Request, bool),
    /// The snapshot was taken.
    Viewed(Request, bool, View),
    /// And the list after it; the answer is on its way.
    Listed(Request, View, Option<Facts>, i64),
}

/// What a server hands on.
pub enum Handed {
    Nothing,
    Messages(Messages),
    NewHistory,
}

pub struct Messages {
    pub messages: Vec<Message>,
    steps: Steps,
}

pub struct Message {
    pub row: usize,
    pub superseded: bool,
    /// So many ids had been released with it.
    count: usize,
}

/// A barrier that was asked for.
pub struct Asked {
    pub answer: Pin<Box<dyn Future<Output = Option<Ids>>>>,
    pub at: Moment,
}

impl Messages {
    pub fn released_with(&self, message: &Message) -> Ids {
        self.steps.after(message.count)
    }
}

impl Server {
    pub fn new(random: &mut Random) -> Self {
        Self {
            due: random.below(4 * SECOND),
            stops_at: random.one_in(3).then(|| random.within(SECOND, WRITING + 3 * SECOND)),
            page: random.any_of(&[3, 10, 100, 1000]),
            is_pressed: random.one_in(2),
            lists_each: random.any_of(&[20 * MS, 150 * MS]),
            life: None,
        }
    }

    pub fn stop(&mut self, stage: &mut Stage) {
        self.stops_at = None;
        self.life = None;
        self.due = stage.now + stage.random.below(2 * SECOND);
    }

    /// Its connection is gone, and with it the tick under way.
    pub fn cut_off(&mut self, stage: &mut Stage) {
        if let Some(life) = &mut self.life {
            life.phase = Phase::Idle;
            life.owed.drop_lost(&stage.database);
            self.due = stage.now + 1 + stage.random.below(300 * MS);
        }
    }

    /// A row was committed. It may hear of that.
    pub fn owe(&mut self, row: usize, stage: &mut Stage) {
        let Some(life) = &mut self.life else { return };
        life.owed.add(row);
        if matches!(life.phase, Phase::Idle) && stage.random.one_in(2) {
            self.due = self.due.min(stage.now + 1 + stage.random.below(2 * MS));
        }
    }

    pub fn is_done(&self) -> bool {
        let has_all = |life: &Life| life.owed.is_empty() && life.gaps.open_ranges() == 0;
        self.stops_at.is_none() && self.life.as_ref().is_some_and(has_all)
    }

    /// The next part of a tick.
    pub fn step(&mut self, stage: &mut Stage) -> Result<Handed, Fault> {
        let Some(life) = &mut self.life else {
            self.life = Some(Life::begin(stage, self.is_pressed));
            self.due += 1;
            return Ok(Handed::Nothing);
        };
        match std::mem::replace(&mut life.phase, Phase::Idle) {
            Phase::Idle => {
                self.due += 1 + stage.random.below(MS);
                life.pass_barriers();
                life.barriers.begin_look();
                if !life.reconnect(stage) {
                    return life.begin_anew(stage, self.is_pressed);
                }
                let lists = match stage.scene.evidence {
                    Evidence::Order | Evidence::Age => false,
                    Evidence::Locks => {
                        life.gaps.wants_list(stage.instant(stage.now)) || stage.random.one_in(4)
                    }
                    Evidence::OpenTransactions => stage.now >= life.next_list,
                };
                if lists {
                    life.next_list = stage.now + self.lists_each;
                }
                life.began = stage.now;
                life.phase = Phase::Begun(life.gaps.request(lists), lists);
            }
            Phase::Begun(request, lists) => {
                let view = stage.database.view(&request, self.page);
                life.phase = Phase::Viewed(request, lists, view);
                // Between the snapshot and the list.
                let slow = stage.random.one_in(3);
                self.due += 1 + stage.random.below(if slow { 100 * MS } else { MS / 2 });
            }
            Phase::Viewed(request, lists, view) => {
                let snapshot = Some(view.snapshot).filter(|_| stage.scene.evidence == Evidence::Locks);
                let facts = lists.then(|| Facts { snapshot, running: stage.writers.running(&view) });
                life.phase = Phase::Listed(request, view, facts, stage.database.last_value());
                self.due += 1 + stage.random.below(MS / 2);
            }
            Phase::Listed(request, view, facts, last_value) => {
                if last_value < request.above {
                    return life.begin_anew(stage, self.is_pressed);
                }
                let (messages, again) = life.observe(stage, &request, view, facts, last_value)?;
                let sleep = if again { 0 } else { stage.random.within(10 * MS, 150 * MS) };
                self.due += 1 + sleep;
                if !messages.messages.is_empty() {
                    return Ok(Handed::Messages(messages));
                }
                if !again {
                    life.pass_barriers();
                }
            }
        }
        Ok(Handed::Nothing)
    }
}

impl Life {
    fn begin(stage: &Stage, is_pressed: bool) -> Self {
        let now = stage.instant(stage.now);
        let mut gaps = Gaps::new(stage.scene.evidence, stage.database.start(), now);
        gaps.rules = stage.scene.gaps;
        if is_pressed {
            (gaps.rules.free_ranges, gaps.rules.probes_at_a_time) = (0, 1);
        }
        Self {
            gaps,
            history: stage.database.history,
            connection: stage.database.restarts,
            owed: Owed::default(),
            phase: Phase::Idle,
            barriers: Barriers::new(Arc::default()),
            began: stage.now,
            next_list: stage.now,
        }
    }

    /// Says whether the table goes on with what was read before.
    fn reconnect(&mut self, stage: &Stage) -> bool {
        let database = &stage.database;
        if self.connection != database.restarts {
            self.connection = database.restarts;
            self.gaps.reconnected();
            let follows = self.history == database.history || !stage.scene.notices_loss;
            if follows {
                self.history = database.history;
            }
            return follows;
        }
        true
    }

    fn begin_anew(&mut self, stage: &Stage, is_pressed: bool) -> Result<Handed, Fault> {
        if self.history == stage.database.history {
            return Err(Fault::ToldWrongly);
        }
        let barriers = std::mem::replace(&mut self.barriers, Barriers::new(Arc::default()));
        *self = Self { barriers, ..Self::begin(stage, is_pressed) };
        self.barriers.end_look();
        Ok(Handed::NewHistory)
    }

    /// What comes of a tick, and whether another one follows at once.
    fn observe(
        &mut self,
        stage: &mut Stage,
        request: &Request,
        view: View,
        facts: Option<Facts>,
        last_value: i64,
    ) -> Result<(Messages, bool), Fault> {
        let database = &stage.database;
        let View { found, new, rows, full, .. } = view;
        let superseded: Vec<bool> = rows[..found.len()]
            .iter()
            .map(|row| stage.scene.marks_superseded && database.supersedes(*row, request.above))
            .collect();
        let before = self.released();
        let thrown_away = self.gaps.counts().thrown_away;
        let release = self.gaps.observe(&Tick {
            began: stage.instant(self.began),
            ended: stage.instant(stage.now),
            found: &found,
            new: &new,
            full,
            last_value,
            facts,
        });
        let mut messages = Vec::new();
        let row_of = |id| rows.binary_search_by_key(&id, |row| database.rows[*row].id);
        for (index, id) in release.ids.iter().enumerate() {
            let at = row_of(*id).map_err(|_| Fault::NeverCommitted(*id))?;
            self.owed.give(rows[at], database)?;
            let superseded = superseded.get(at).is_some_and(|superseded| *superseded);
            if database.rows[rows[at]].stream.is_some() {
                messages.push(Message { row: rows[at], superseded, count: index + 1 });
            }
        }
        self.judge(stage)?;
        if self.gaps.counts().thrown_away > thrown_away {
            stage.saw(Sight::AskedTooLittle);
        }

        if !release.again {
            if stage.scene.barrier == Barrier::AnyLook {
                self.barriers.begin_look();
            }
            self.barriers.end_look();
        }
        let steps = Steps::new(before, release.ids, release.late, self.gaps.high());
        Ok((Messages { messages, steps }, release.again))
    }

    /// What is neither released nor waited for never comes, and a position must not have it.
    fn judge(&self, stage: &Stage) -> Result<(), Fault> {
        if let Some(id) = self.owed.lost_by(&self.passed(), &stage.database) {
            return Err(Fault::Lost(id));
        }
        match self.owed.claimed_by(&self.released(), &stage.database) {
            Some(id) => Err(Fault::Claimed(id)),
            None => Ok(()),
        }
    }

    /// As `Tail` tells it to those who want to resume.
    pub fn released(&self) -> Ids {
        Ids { high: self.gaps.high(), gaps: self.gaps.unresolved().collect() }
    }

    /// All but the gaps, as the trimmer is told it.
    pub fn passed(&self) -> Ids {
        Ids { high: self.gaps.high(), gaps: self.gaps.open().collect() }
    }

    pub fn ask(&self, stage: &Stage) -> Asked {
        let handle = self.barriers.handle();
        let mut asked =
            Asked { answer: Box::pin(async move { handle.wait(|_| ()).await }), at: stage.moment };
        assert!(asked.poll().is_none(), "it waits");
        asked
    }

    fn pass_barriers(&mut self) {
        let released = self.released();
        self.barriers.pass(|| released.clone());
    }
}

impl Asked {
    /// The answer once it is there; in it none, if the server has ended.
    pub fn poll(&mut self) -> Option<Option<Ids>> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match self.answer.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        }
    }
}
