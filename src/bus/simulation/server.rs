use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::database::{Row, Started, View};
use super::judge::{Fault, Owed};
use super::random::Random;
use super::scene::Barrier;
use super::stage::{DATES_A_SECOND, MS, Moment, SECOND, Sight, Stage, Time, WRITING};
use super::start::Starting;
use crate::bus::barrier::{BarrierHandle, Barriers};
use crate::bus::gaps::{Evidence, FREE_RANGES, Facts, Gaps, Request, Start, Tick};
use crate::bus::position::{Era, Ids, Steps};
use crate::bus::{Cut, Mark, Message, Messages};
use crate::stream::{Prefix, Stream};

/// One that follows the table, as `Tail` does, in ticks whose parts come at different moments.
pub struct Server {
    pub due: Time,
    /// It is stopped then, and comes back a little later.
    pub stops_at: Option<Time>,
    page: usize,
    /// Few gaps are treated as if they were many.
    is_pressed: bool,
    lists_each: Time,
    /// It asks about few holes, too.
    sifts: bool,
    starting: Option<Starting>,
    /// None while it is down.
    pub life: Option<Life>,
}

/// A tail, from the start of its process or of a history to their end.
pub struct Life {
    pub gaps: Gaps,
    era: Arc<Era>,
    /// Made when the database had been restarted so often.
    pub connection: u64,
    pub owed: Owed,
    /// Trimmed before it could hear of them, though the look under way may have seen them.
    unheard: Vec<usize>,
    started: Time,
    /// What had been released when it trimmed last.
    settled: Ids,
    phase: Phase,
    barriers: Barriers<Cut>,
    began: Time,
    look_began: i64,
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

/// A barrier that was asked for.
pub struct Asked {
    pub answer: Pin<Box<dyn Future<Output = Option<Cut>>>>,
    pub at: Moment,
}

/// Between two rounds of trimming: a minute, by the clock of dates.
pub const ROUND: Time = 3 * SECOND;

impl Server {
    pub fn new(random: &mut Random) -> Self {
        Self {
            due: random.below(4 * SECOND),
            stops_at: random.one_in(3).then(|| random.within(SECOND, WRITING + 3 * SECOND)),
            page: random.any_of(&[3, 10, 100, 1000]),
            is_pressed: random.one_in(2),
            lists_each: random.any_of(&[20 * MS, 150 * MS]),
            sifts: random.one_in(2),
            starting: None,
            life: None,
        }
    }

    pub fn stop(&mut self, stage: &mut Stage) {
        self.stops_at = None;
        (self.starting, self.life) = (None, None);
        self.due = stage.now + stage.random.below(2 * SECOND);
    }

    /// Its connection is gone, and with it the tick under way.
    pub fn cut_off(&mut self, stage: &mut Stage) {
        self.starting = None;
        if let Some(life) = &mut self.life {
            life.phase = Phase::Idle;
            life.owed.drop_lost(&stage.database);
            self.due = stage.now + 1 + stage.random.below(300 * MS);
        }
    }

    /// A row was committed. It may hear of that.
    pub fn owe(&mut self, row: usize, stage: &mut Stage) {
        if let Some(starting) = &mut self.starting {
            starting.owed.add(row);
        }
        let Some(life) = &mut self.life else { return };
        life.owed.add(row);
        if matches!(life.phase, Phase::Idle) && stage.random.one_in(2) {
            self.due = self.due.min(stage.now + 1 + stage.random.below(2 * MS));
        }
    }

    /// A row is there no more. Of what nobody need have waited for, it may never have heard.
    pub fn trimmed(&mut self, row: usize, stage: &Stage) {
        if stage.database.rows[row].orderly {
            return;
        }
        if let Some(starting) = &mut self.starting {
            starting.owed.remove(row);
        }
        if let Some(life) = &mut self.life
            && life.owed.remove(row)
        {
            life.unheard.push(row);
        }
    }

    /// What is old goes, as far as it has been released here.
    pub fn trim(&mut self, stage: &mut Stage) -> Vec<usize> {
        let (Some(life), Some(retention)) = (&mut self.life, stage.retention) else { return Vec::new() };
        if stage.now < life.started + ROUND && stage.scene.trims_settled {
            return Vec::new();
        }
        let now = Ids::certainly_released(&life.gaps);
        let settled = std::mem::replace(&mut life.settled, now.clone());
        let released = if stage.scene.trims_settled { settled.and(&now) } else { now };
        let (oldest, everything) = (stage.date() - retention, !stage.scene.trims_released);
        let is_old = |row: &Row| row.created < oldest;
        let rows = stage.database.table.iter().filter(|(_, row)| is_old(&stage.database.rows[**row]));
        let old = rows.filter(|(id, _)| everything || released.contains(**id)).map(|(_, row)| *row);
        let old: Vec<usize> = old.collect();
        for row in &old {
            stage.saw(Sight::Trimmed);
            stage.database.trim(*row);
        }
        old
    }

    pub fn is_done(&self) -> bool {
        let has_all = |life: &Life| life.owed.is_empty() && life.gaps.open_ranges() == 0;
        self.stops_at.is_none() && self.life.as_ref().is_some_and(has_all)
    }

    /// The next part of its start, and how long to wait after it.
    fn start(&mut self, stage: &mut Stage) -> Time {
        let lists = stage.scene.evidence == Evidence::OpenTransactions;
        let mut starting = match self.starting.take() {
            None => {
                let starting = Starting::new(stage);
                if lists && (self.sifts || starting.started.holes.len() > FREE_RANGES) {
                    let pause = starting.pause(&stage.scene);
                    self.starting = Some(starting);
                    return pause;
                }
                starting
            }
            Some(mut starting) => {
                if let Some(pause) = starting.step(stage) {
                    self.starting = Some(starting);
                    return pause;
                }
                starting
            }
        };
        let (from, high, to) = (starting.date, starting.started.high, stage.date());
        stage.database.starts.push(Started { from, high, to });
        let history = Some(stage.database.history);
        let era = Era { history, time: starting.date, ..Era::default() };
        let started = std::mem::take(&mut starting.started);
        let life = Life::begin(stage, started, era, self.is_pressed);
        self.life = Some(Life { owed: starting.owed, ..life });
        0
    }

    /// The next part of a tick.
    pub fn step(&mut self, stage: &mut Stage) -> Result<Handed, Fault> {
        let Some(life) = &mut self.life else {
            self.due += 1 + self.start(stage);
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
                (life.began, life.look_began) = (stage.now, stage.date());
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
    pub fn begin(stage: &Stage, start: Start, era: Era, is_pressed: bool) -> Self {
        let now = stage.instant(stage.now);
        let mut gaps = Gaps::new(stage.scene.evidence, start, now);
        gaps.rules = stage.scene.gaps;
        if is_pressed {
            (gaps.rules.free_ranges, gaps.rules.probes_at_a_time) = (0, 1);
        }
        Self {
            started: stage.now,
            settled: Ids::certainly_released(&gaps),
            gaps,
            era: Arc::new(era),
            connection: stage.database.restarts,
            owed: Owed::default(),
            unheard: Vec::new(),
            phase: Phase::Idle,
            barriers: Barriers::new(Arc::default()),
            began: stage.now,
            look_began: stage.date(),
            next_list: stage.now,
        }
    }

    /// Says whether the table goes on with what was read before.
    fn reconnect(&mut self, stage: &Stage) -> bool {
        let database = &stage.database;
        if self.connection != database.restarts {
            self.connection = database.restarts;
            self.gaps.reconnected();
            let follows = self.history() == database.history || !stage.scene.notices_loss;
            if follows {
                let gaps = &self.gaps;
                Arc::make_mut(&mut self.era).goes_on_as(Some(database.history), || Ids::released(gaps));
            }
            return follows;
        }
        true
    }

    fn begin_anew(&mut self, stage: &mut Stage, is_pressed: bool) -> Result<Handed, Fault> {
        if self.history() == stage.database.history {
            return Err(Fault::ToldWrongly);
        }
        let barriers = std::mem::replace(&mut self.barriers, Barriers::new(Arc::default()));
        let (date, start) = (stage.date(), stage.database.start());
        stage.database.starts.push(Started { from: date, high: start.high, to: date });
        let era = self.era.ended(Some(stage.database.history), date);
        *self = Self { barriers, ..Self::begin(stage, start, era, is_pressed) };
        self.barriers.end_look();
        self.date(stage);
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
        let before = Ids::released(&self.gaps);
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
        let (mut messages, mut counts) = (Vec::new(), Vec::new());
        let row_of = |id| rows.binary_search_by_key(&id, |row| database.rows[*row].id);
        for (index, id) in release.ids.iter().enumerate() {
            let at = row_of(*id).map_err(|_| Fault::NeverCommitted(*id))?;
            if let Some(at) = self.unheard.iter().position(|unheard| *unheard == rows[at]) {
                self.owed.add(self.unheard.swap_remove(at));
            }
            self.owed.give(rows[at], database)?;
            let superseded = superseded.get(at).is_some_and(|superseded| *superseded);
            if let Some(stream) = database.rows[rows[at]].stream {
                let (stream, payload) = (name(stream), rows[at].to_string().into());
                messages.push(Message { stream, payload, superseded, mark: Mark(*id) });
                counts.push(index + 1);
            }
        }
        self.judge(stage)?;
        if self.gaps.counts().thrown_away > thrown_away {
            stage.saw(Sight::AskedTooLittle);
        }

        let again = release.again;
        let steps = Steps::new(before, release.ids, release.late, self.gaps.high());
        let messages = Messages { messages, counts, steps, era: self.era.clone() };
        if !again {
            if stage.scene.barrier == Barrier::AnyLook {
                self.barriers.begin_look();
            }
            self.barriers.end_look();
            self.date(stage);
        }
        Ok((messages, again))
    }

    /// What is neither released nor waited for never comes, and a position must not have it.
    fn judge(&self, stage: &Stage) -> Result<(), Fault> {
        if let Some(id) = self.owed.lost_by(&Ids::certainly_released(&self.gaps), &stage.database) {
            return Err(Fault::Lost(id));
        }
        match self.owed.claimed_by(&Ids::released(&self.gaps), &stage.database) {
            Some(id) => Err(Fault::Claimed(id)),
            None => Ok(()),
        }
    }

    /// As `Tail` dates what it has released once a look was complete.
    fn date(&mut self, stage: &Stage) {
        let open_since = self.gaps.unresolved_since().filter(|_| stage.scene.dates_by_open);
        let open_for = open_since.map_or(Duration::ZERO, |since| stage.instant(stage.now) - since);
        self.era.date(self.look_began, (open_for * DATES_A_SECOND as u32).as_secs().cast_signed());
    }

    pub fn history(&self) -> u64 {
        self.era.history.expect("each history has a name")
    }

    pub fn barriers(&self) -> BarrierHandle<Cut> {
        self.barriers.handle()
    }

    pub fn cut(&self) -> Cut {
        Cut::new(Ids::released(&self.gaps), self.era.clone())
    }

    pub fn ask(&self, stage: &Stage) -> Asked {
        let handle = self.barriers.handle();
        let mut asked =
            Asked { answer: Box::pin(async move { handle.wait(|_| ()).await }), at: stage.moment };
        assert!(asked.poll().is_none(), "it waits");
        asked
    }

    fn pass_barriers(&mut self) {
        let cut = self.cut();
        self.barriers.pass(|| cut);
    }
}

/// As it is in the table.
pub fn name(stream: usize) -> Stream {
    Prefix::default().stream(&stream.to_string()).expect("it is a name")
}

impl Asked {
    /// The answer once it is there; in it none, if the server has ended.
    pub fn poll(&mut self) -> Option<Option<Cut>> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match self.answer.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        }
    }
}
