use super::database::{Database, Row};
use super::judge::{Claim, Fault, Owed, rejected};
use super::random::Random;
use super::reading::{Ask, Reading, unbounded};
use super::scene::Barrier;
use super::server::{Asked, Life};
use super::stage::{HOPPING, Sight, Stage, Time};
use crate::bus::position::{Ids, Position};
use crate::bus::{Cut, Message, Most, Rejection, Replayed, Token};

/// A client's interest in one stream.
pub struct Subscription {
    stream: usize,
    link: Link,
    has: Has,
    /// It has been told of this one.
    history: u64,
}

enum Link {
    Away,
    /// For a barrier.
    Waits(Asked),
    Reads(Past),
    Live,
}

/// What is given before what comes.
struct Past {
    reading: Reading,
    /// What it came with.
    claim: Claim,
    cut: Cut,
    /// The server's, at the cut.
    connection: u64,
    /// Something was given.
    has_begun: bool,
    /// What was released after the cut.
    meanwhile: Vec<Live>,
}

struct Live {
    row: usize,
    superseded: bool,
    token: Token,
}

/// What a client makes of messages.
enum Has {
    Each(Each),
    /// It keeps the latest.
    Latest(Option<usize>),
}

/// It counts each message, and goes on from the word that came with the last.
struct Each {
    owed: Owed,
    /// What was there before its page was made: until it has caught up it may get some of that as well.
    may_come: Owed,
    word: Option<String>,
    /// What the word says.
    ids: Option<Ids>,
    limit: usize,
    newcomer: Newcomer,
}

/// What it asks for without a word.
#[derive(Clone, Copy)]
enum Newcomer {
    Nothing,
    Latest(usize),
    /// What was written since its page was made so many seconds ago, by its own clock, and no fewer than so many.
    Since {
        age: i64,
        at_least: usize,
    },
}

/// Whether the connection outlived a message.
#[derive(PartialEq, Eq)]
pub enum Kept {
    Yes,
    No,
}

impl Subscription {
    pub fn new(stream: usize, random: &mut Random) -> Self {
        let limit = random.any_of(&[4, 1000]);
        let newcomer = match random.below(6) {
            0 | 1 => Newcomer::Nothing,
            2 | 3 => Newcomer::Latest(random.any_of(&[1, 5])),
            _ => {
                let age = random.below(220) as i64 - 80;
                Newcomer::Since { age, at_least: random.any_of(&[0, 5]) }
            }
        };
        let each =
            Each { owed: Owed::default(), may_come: Owed::default(), word: None, ids: None, limit, newcomer };
        let has = if random.one_in(3) { Has::Latest(None) } else { Has::Each(each) };
        Self { stream, link: Link::Away, has, history: 0 }
    }

    pub fn reads_at(&self) -> Option<Time> {
        match &self.link {
            Link::Reads(past) => Some(past.reading.due),
            _ => None,
        }
    }

    pub fn is_settled(&self) -> bool {
        let is_owed = matches!(&self.has, Has::Each(each) if !each.owed.is_empty());
        matches!(self.link, Link::Live) && !is_owed
    }

    pub fn owe(&mut self, row: usize, stage: &Stage) {
        if let Has::Each(each) = &mut self.has
            && stage.database.rows[row].stream == Some(self.stream)
        {
            each.owed.add(row);
        }
    }

    pub fn drop_lost(&mut self, stage: &Stage) {
        if let Has::Each(each) = &mut self.has {
            each.owed.drop_lost(&stage.database);
        }
    }

    /// A row is there no more. It is owed all the same, unless no position could have covered it.
    pub fn trimmed(&mut self, row: usize, stage: &mut Stage) {
        let trimmed = stage.database.rows[row].trimmed.expect("it was trimmed");
        let Has::Each(each) = &mut self.has else { return };
        let position = each.word.as_ref().and_then(|word| Position::decode(word).ok());
        let at_start = |position| stage.database.was_hidden_at_start(row, position);
        if (trimmed.was_hidden || position.as_ref().is_some_and(at_start)) && each.owed.remove(row) {
            stage.saw(Sight::TrimmedUnseen);
        }
    }
}

/// Coming and going.
impl Subscription {
    pub fn leave(&mut self) {
        self.link = Link::Away;
    }

    pub fn come(&mut self, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        if let Has::Each(Each { word: None, newcomer: Newcomer::Nothing, .. }) = &self.has {
            self.begin_anew(life, stage);
            return Ok(());
        }
        match stage.scene.barrier {
            Barrier::None => self.resume(life.cut(), life, stage),
            Barrier::AnyLook | Barrier::LaterLook => {
                self.link = Link::Waits(life.ask(stage));
                Ok(())
            }
        }
    }

    /// Confirmed: from here on nothing is missed.
    fn begin_anew(&mut self, life: &Life, stage: &Stage) {
        self.link = Link::Live;
        self.history = life.history();
        if let Has::Each(each) = &mut self.has {
            let cut = life.cut();
            each.owed = Owed::beyond(&cut.released, self.stream, &stage.database);
            each.may_come = Owed::default();
            each.has_come_to(&cut.token());
        }
    }

    pub fn hear(&mut self, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        let Link::Waits(asked) = &mut self.link else { return Ok(()) };
        let Some(answer) = asked.poll() else { return Ok(()) };
        let cut = answer.expect("a server that has ended has nobody");
        match life.owed.committed_before(asked.at, &stage.database) {
            Some(id) if life.connection == stage.database.restarts => Err(Fault::NotWaitedFor(id)),
            _ => self.resume(cut, life, stage),
        }
    }

    fn resume(&mut self, cut: Cut, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        let (claim, ask) = match &mut self.has {
            Has::Latest(shown) => {
                if self.history != life.history() {
                    *shown = None;
                }
                (Claim::None, Ok(Ask::Latest(1)))
            }
            Has::Each(each) => each.ask(&cut, self.stream, life, stage),
        };
        self.history = life.history();
        let ask = match ask {
            Ok(ask) => ask,
            Err(rejection) => return self.rejected(&rejection, &claim, life, stage),
        };
        let bounds = if stage.scene.bounded_replay { cut.clone() } else { unbounded(&cut, stage) };
        let reading = Reading::new(ask, self.stream, bounds, life, stage);
        let connection = life.connection;
        let meanwhile = Vec::new();
        self.link = Link::Reads(Past { reading, claim, cut, connection, has_begun: false, meanwhile });
        Ok(())
    }

    /// It is told so, and is as if it were new.
    fn rejected(
        &mut self,
        rejection: &Rejection,
        claim: &Claim,
        life: &Life,
        stage: &mut Stage,
    ) -> Result<(), Fault> {
        rejected(rejection, claim, stage)?;
        stage.saw(match rejection {
            Rejection::TooManyGaps => Sight::NoWord,
            Rejection::AnotherHistory => Sight::ToldOfLoss,
            Rejection::TooMany(_) => Sight::TooManyMissed,
            Rejection::SinceAhead => Sight::SinceAhead,
            Rejection::Ahead => Sight::AheadOfTheRows,
            _ => Sight::TooOld,
        });
        self.begin_anew(life, stage);
        Ok(())
    }

    /// Reads on, and gives what was read; at the end, what has come meanwhile.
    pub fn read(&mut self, life: &Life, stage: &mut Stage) -> Result<Kept, Fault> {
        let Link::Reads(mut past) = std::mem::replace(&mut self.link, Link::Live) else {
            unreachable!("it was due")
        };
        if past.connection != stage.database.restarts {
            return Ok(Kept::No);
        }
        let (given, end) = past.reading.step(stage);
        for replayed in given {
            if self.replay(&replayed, &mut past, stage)? == Kept::No {
                return Ok(Kept::No);
            }
        }
        match end {
            None => {
                self.link = Link::Reads(past);
                return Ok(Kept::Yes);
            }
            Some(Err(rejection)) => {
                if rejection == Rejection::TooOld {
                    stage.saw(Sight::SlowlyRead);
                }
                self.rejected(&rejection, &past.claim, life, stage)?;
                return Ok(Kept::Yes);
            }
            Some(Ok(())) => self.has_caught_up(&past, stage)?,
        }
        for Live { row, superseded, token } in past.meanwhile {
            if let Has::Each(each) = &mut self.has {
                each.owe_trimmed(row, &stage.database);
            }
            if self.live(row, superseded, &mut || token.clone(), stage)? == Kept::No {
                return Ok(Kept::No);
            }
        }
        Ok(Kept::Yes)
    }

    fn replay(&mut self, replayed: &Replayed, past: &mut Past, stage: &mut Stage) -> Result<Kept, Fault> {
        let row = number(&replayed.payload);
        match &mut self.has {
            Has::Latest(shown) if *shown == Some(row) => Ok(Kept::Yes),
            Has::Latest(_) => self.show(row, &stage.database).map(|()| Kept::Yes),
            Has::Each(each) => {
                if matches!(past.claim, Claim::None) && !std::mem::replace(&mut past.has_begun, true) {
                    each.begin_before(row, self.stream, past, stage);
                }
                each.owe_trimmed(row, &stage.database);
                let token = match past.claim {
                    Claim::Word(_) => {
                        stage.saw(Sight::Replayed);
                        replayed.token.clone()
                    }
                    Claim::Since(_) => replayed.token.clone(),
                    Claim::None => stage.scene.newcomers_token(replayed),
                };
                each.take(row, &token, stage)
            }
        }
    }

    /// Nothing that was released by the cut is owed any more. The client may be told so.
    fn has_caught_up(&mut self, past: &Past, stage: &mut Stage) -> Result<(), Fault> {
        let Has::Each(each) = &mut self.has else { return Ok(()) };
        let database = &stage.database;
        let sight = match past.claim {
            Claim::Word(_) => Sight::Resumed,
            Claim::Since(_) => Sight::GivenSince,
            Claim::None => Sight::GivenLatest,
        };
        if matches!(past.claim, Claim::None) && !past.has_begun {
            each.owed = Owed::beyond(&past.cut.released, self.stream, database);
        }
        if let Some(id) = each.owed.claimed_by(&past.cut.released, database) {
            return Err(Fault::Lost(id));
        }
        each.may_come = Owed::default();
        stage.saw(sight);
        if stage.random.one_in(2) || !past.has_begun {
            each.has_come_to(&past.cut.token());
        }
        Ok(())
    }
}

/// Messages.
impl Subscription {
    /// One that a server has released; its position is made if it is asked for.
    pub fn get(
        &mut self,
        message: &Message,
        token: &mut dyn FnMut() -> Token,
        stage: &mut Stage,
    ) -> Result<Kept, Fault> {
        let row = number(&message.payload);
        if stage.database.rows[row].stream != Some(self.stream) {
            return Ok(Kept::Yes);
        }
        let superseded = message.superseded;
        match &mut self.link {
            Link::Live => self.live(row, superseded, token, stage),
            Link::Reads(past) => {
                past.meanwhile.push(Live { row, superseded, token: token() });
                Ok(Kept::Yes)
            }
            // It is in the barrier's answer.
            Link::Waits(_) | Link::Away => Ok(Kept::Yes),
        }
    }

    fn live(
        &mut self,
        row: usize,
        superseded: bool,
        token: &mut dyn FnMut() -> Token,
        stage: &mut Stage,
    ) -> Result<Kept, Fault> {
        if stage.database.rows[row].lost {
            return Err(Fault::FromLostHistory(stage.database.rows[row].id));
        }
        match &mut self.has {
            Has::Each(each) => each.take(row, &token(), stage),
            Has::Latest(_) if superseded => {
                stage.saw(Sight::Superseded);
                Ok(Kept::Yes)
            }
            Has::Latest(_) => self.show(row, &stage.database).map(|()| Kept::Yes),
        }
    }

    fn show(&mut self, row: usize, database: &Database) -> Result<(), Fault> {
        let Has::Latest(shown) = &mut self.has else { unreachable!("it keeps the latest") };
        let rows = &database.rows;
        // Of what was trimmed nobody knows that it was newer.
        if let Some(before) = *shown
            && rows[row].id <= rows[before].id
            && rows[before].trimmed.is_none()
        {
            return Err(Fault::WentBack(rows[row].id, rows[before].id));
        }
        *shown = Some(row);
        Ok(())
    }

    /// At the end.
    pub fn verdict(&self, database: &Database) -> Result<(), Fault> {
        let rows = &database.rows;
        match &self.has {
            Has::Each(each) => each.owed.first(database).map_or(Ok(()), |id| Err(Fault::Lost(id))),
            Has::Latest(shown) => {
                let shown = shown.map_or(0, |shown| rows[shown].id);
                let latest = database.latest(self.stream).map_or(0, |latest| rows[latest].id);
                // By one that was trimmed since it may have been superseded.
                let of_stream = rows.iter().filter(|row| row.stream == Some(self.stream));
                let was_latest = |row: &Row| row.trimmed.is_some() && row.id > latest;
                if shown < latest && !of_stream.into_iter().any(was_latest) {
                    return Err(Fault::Lost(latest));
                }
                Ok(())
            }
        }
    }
}

impl Each {
    /// What it asks a server for that has released this.
    fn ask(
        &mut self,
        cut: &Cut,
        stream: usize,
        life: &Life,
        stage: &Stage,
    ) -> (Claim, Result<Ask, Rejection>) {
        let window = stage.window();
        if let Some(word) = &self.word {
            let resumed = cut.accept(&stage.scene.word_of(word, life.history()), window);
            self.ids = resumed.as_ref().ok().map(|resumed| resumed.ids.clone());
            let ask = resumed.map(|resumed| Ask::Missed(resumed, Most::OrNone(self.limit)));
            return (Claim::Word(word.clone()), ask);
        }
        match self.newcomer {
            Newcomer::Nothing => unreachable!("it asks for nothing"),
            Newcomer::Latest(count) => (Claim::None, Ok(Ask::Latest(count))),
            Newcomer::Since { age, at_least } => {
                let since = stage.date() - age;
                let database = &stage.database;
                self.owed = Owed::since(since, &cut.released, stream, database);
                self.may_come = Owed::all_but(&self.owed, stream, database);
                let ask = Ask::Since { since, at_least, max: self.limit };
                (Claim::Since(since), cut.accept_since(since, window).map(|()| ask))
            }
        }
    }

    /// Of a newcomer that is given the last messages that there are, the first of which this is.
    fn begin_before(&mut self, row: usize, stream: usize, past: &Past, stage: &Stage) {
        let before = past.cut.released.up_to(stage.database.rows[row].id - 1);
        self.owed = Owed::beyond(&before, stream, &stage.database);
        self.ids = Some(before);
    }

    /// It was read or released before it was trimmed.
    fn owe_trimmed(&mut self, row: usize, database: &Database) {
        let is_expected = self.owed.contains(row) || self.may_come.contains(row);
        if database.rows[row].trimmed.is_some() && !is_expected {
            self.owed.add(row);
        }
    }

    /// A message, and the position after it: all that the client has, and no more.
    fn take(&mut self, row: usize, token: &Token, stage: &mut Stage) -> Result<Kept, Fault> {
        let database = &stage.database;
        if self.may_come.remove(row) {
            self.owed.add(row);
        }
        self.owed.give(row, database)?;
        let before = self.ids.take();
        self.has_come_to(token);
        if let Some(ids) = &self.ids {
            if let Some(id) = self.owed.claimed_by(ids, database) {
                return Err(Fault::Claimed(id));
            }
            let lacking = before.map(|before| ids.missed(&before)).unwrap_or_default();
            let mut lacking = database.in_ranges(&lacking);
            let stream = database.rows[row].stream;
            if let Some(forgotten) = lacking.find(|row| database.rows[*row].stream == stream) {
                return Err(Fault::Forgotten(database.rows[forgotten].id));
            }
            let id = database.rows[row].id;
            if !ids.contains(id) {
                return Err(Fault::Forgotten(id));
            }
        }
        if stage.now < HOPPING && stage.random.one_in(30) {
            stage.saw(Sight::Cut);
            return Ok(Kept::No);
        }
        Ok(Kept::Yes)
    }

    fn has_come_to(&mut self, token: &Token) {
        self.ids = Position::decode(&token.word).ok().map(|position| position.ids);
        self.word = Some(token.word.to_string());
    }
}

/// Which row a message is.
fn number(payload: &str) -> usize {
    payload.parse().expect("it is a number")
}
