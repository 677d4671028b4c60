use super::database::Database;
use super::judge::{Fault, Owed};
use super::random::Random;
use super::scene::Barrier;
use super::server::{Asked, Life, Message, Messages};
use super::stage::{HOPPING, MS, Sight, Stage, Time};
use crate::bus::position::{Ids, Position};

/// A client's interest in one stream.
pub struct Subscription {
    stream: usize,
    link: Link,
    has: Has,
    /// It has been told of this one.
    history: u64,
    /// It had a position that no word was for.
    had_no_word: bool,
}

enum Link {
    Away,
    /// For a barrier.
    Waits(Asked),
    Replays(Replay),
    Live,
}

struct Replay {
    due: Time,
    released: Ids,
    /// The server's, at the barrier's answer.
    connection: u64,
    /// What was released after the answer.
    meanwhile: Vec<Live>,
}

struct Live {
    row: usize,
    superseded: bool,
    released: Ids,
}

/// What a client makes of messages.
enum Has {
    /// It counts each, and goes on from the word that came with the last.
    /// As a newcomer it asks for the last `latest` ones.
    Each { owed: Owed, position: Option<Position>, word: Option<String>, limit: usize, latest: usize },
    /// It keeps the latest.
    Latest(Option<usize>),
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
        let latest = random.any_of(&[0, 1, 5]);
        let each = Has::Each { owed: Owed::default(), position: None, word: None, limit, latest };
        let has = if random.one_in(3) { Has::Latest(None) } else { each };
        Self { stream, link: Link::Away, has, history: 0, had_no_word: false }
    }

    pub fn replays_at(&self) -> Option<Time> {
        match &self.link {
            Link::Replays(replay) => Some(replay.due),
            _ => None,
        }
    }

    pub fn is_settled(&self) -> bool {
        let is_owed = matches!(&self.has, Has::Each { owed, .. } if !owed.is_empty());
        matches!(self.link, Link::Live) && !is_owed
    }

    pub fn owe(&mut self, row: usize, stage: &Stage) {
        if let Has::Each { owed, .. } = &mut self.has
            && stage.database.rows[row].stream == Some(self.stream)
        {
            owed.add(row);
        }
    }

    pub fn drop_lost(&mut self, stage: &Stage) {
        if let Has::Each { owed, .. } = &mut self.has {
            owed.drop_lost(&stage.database);
        }
    }

    pub fn is_owed(&self, row: usize) -> bool {
        matches!(&self.has, Has::Each { owed, .. } if owed.contains(row))
    }
}

/// Coming and going.
impl Subscription {
    pub fn leave(&mut self) {
        self.link = Link::Away;
        if let Has::Each { position, word, .. } = &mut self.has {
            let last = position.take();
            *word = last.as_ref().and_then(Position::encode);
            self.had_no_word = last.is_some() && word.is_none();
        }
    }

    pub fn come(&mut self, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        if std::mem::take(&mut self.had_no_word) {
            stage.saw(Sight::NoWord);
        }
        if let Has::Each { position, word, latest, .. } = &mut self.has {
            *position = word.take().map(|word| Position::decode(&word).expect("a server has made it"));
            if position.is_none() && *latest == 0 {
                self.begin_anew(life, stage);
                return Ok(());
            }
        }
        match stage.scene.barrier {
            Barrier::None => self.resume(life.released(), life, stage),
            Barrier::AnyLook | Barrier::LaterLook => {
                self.link = Link::Waits(life.ask(stage));
                Ok(())
            }
        }
    }

    /// Confirmed: from here on nothing is missed.
    fn begin_anew(&mut self, life: &Life, stage: &Stage) {
        self.link = Link::Live;
        self.history = life.history;
        if let Has::Each { owed, position, .. } = &mut self.has {
            let ids = life.released();
            *owed = Owed::beyond(&ids, self.stream, &stage.database);
            *position = Some(Position { history: life.history, time: stage.now as i64, ids });
        }
    }

    pub fn hear(&mut self, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        let Link::Waits(asked) = &mut self.link else { return Ok(()) };
        let Some(answer) = asked.poll() else { return Ok(()) };
        let released = answer.expect("a server that has ended has nobody");
        match life.owed.committed_before(asked.at, &stage.database) {
            Some(id) if life.connection == stage.database.restarts => Err(Fault::NotWaitedFor(id)),
            _ => self.resume(released, life, stage),
        }
    }

    fn resume(&mut self, released: Ids, life: &Life, stage: &mut Stage) -> Result<(), Fault> {
        if let Has::Each { position: Some(position), .. } = &self.has
            && position.history != life.history
            && stage.scene.compares_histories
        {
            if position.history == stage.database.history {
                return Err(Fault::ToldWrongly);
            }
            stage.saw(Sight::ToldOfLoss);
            self.begin_anew(life, stage);
            return Ok(());
        }
        if self.history != life.history
            && let Has::Latest(shown) = &mut self.has
        {
            *shown = None;
        }
        self.history = life.history;
        let due = stage.now + 1 + stage.random.below(20 * MS);
        let connection = life.connection;
        self.link = Link::Replays(Replay { due, released, connection, meanwhile: Vec::new() });
        Ok(())
    }

    /// Reads the table, later than the barrier's look did, and gives what was missed, then what
    /// has come meanwhile.
    pub fn replay(&mut self, life: &Life, stage: &mut Stage) -> Result<Kept, Fault> {
        let Link::Replays(replay) = std::mem::replace(&mut self.link, Link::Live) else {
            unreachable!("it was due")
        };
        if replay.connection != stage.database.restarts {
            return Ok(Kept::No);
        }
        let released = &replay.released;
        match &mut self.has {
            Has::Latest(shown) => {
                let latest = stage.database.latest(self.stream, released);
                if let Some(row) = latest.filter(|_| latest != *shown) {
                    self.show(row, &stage.database)?;
                }
            }
            Has::Each { owed, position: position @ None, latest, .. } => {
                stage.saw(Sight::GivenLatest);
                let everything = Ids { high: i64::MAX, gaps: Vec::new() };
                let bounds = if stage.scene.bounded_replay { released } else { &everything };
                let rows = stage.database.last(self.stream, bounds, *latest);
                let first = rows.first().map_or(released.high, |row| stage.database.rows[*row].id - 1);
                let before = released.up_to(first);
                *owed = Owed::beyond(&before, self.stream, &stage.database);
                let before =
                    if stage.scene.newcomers_lack { before } else { Ids { high: first, gaps: Vec::new() } };
                *position =
                    Some(Position { history: life.history, time: stage.now as i64, ids: before.clone() });
                for row in rows {
                    let ids = before.replayed_to(stage.database.rows[row].id, released);
                    if self.take(row, ids, stage)? == Kept::No {
                        return Ok(Kept::No);
                    }
                }
                self.has_caught_up(released, stage)?;
            }
            Has::Each { position, limit, .. } => {
                let before = position.clone().expect("it has come with one").ids;
                let wanted = if stage.scene.bounded_replay {
                    before.missed(released)
                } else {
                    before.missed(&Ids { high: i64::MAX, gaps: Vec::new() })
                };
                let rows: Vec<usize> =
                    stage.database.in_ranges(self.stream, &wanted).take(*limit + 1).collect();
                if rows.len() > *limit {
                    stage.saw(Sight::TooManyMissed);
                    self.begin_anew(life, stage);
                    return Ok(Kept::Yes);
                }
                stage.saw(Sight::Resumed);
                for row in rows {
                    stage.saw(Sight::Replayed);
                    let ids = before.replayed_to(stage.database.rows[row].id, released);
                    if self.take(row, ids, stage)? == Kept::No {
                        return Ok(Kept::No);
                    }
                }
                self.has_caught_up(released, stage)?;
            }
        }
        for Live { row, superseded, released } in replay.meanwhile {
            if self.live(row, superseded, released, stage)? == Kept::No {
                return Ok(Kept::No);
            }
        }
        Ok(Kept::Yes)
    }

    /// Nothing that was released by the barrier's answer is owed any more. The client may be told so.
    fn has_caught_up(&mut self, released: &Ids, stage: &mut Stage) -> Result<(), Fault> {
        let Has::Each { owed, position: Some(position), .. } = &mut self.has else { return Ok(()) };
        if let Some(id) = owed.claimed_by(released, &stage.database) {
            return Err(Fault::Lost(id));
        }
        if stage.random.one_in(2) {
            position.ids = released.clone();
        }
        Ok(())
    }
}

/// Messages.
impl Subscription {
    pub fn get(&mut self, batch: &Messages, message: &Message, stage: &mut Stage) -> Result<Kept, Fault> {
        let Message { row, superseded, .. } = *message;
        if stage.database.rows[row].stream != Some(self.stream) {
            return Ok(Kept::Yes);
        }
        match &mut self.link {
            Link::Live => self.live(row, superseded, batch.released_with(message), stage),
            Link::Replays(replay) => {
                replay.meanwhile.push(Live { row, superseded, released: batch.released_with(message) });
                Ok(Kept::Yes)
            }
            // It is in the barrier's answer.
            Link::Waits(_) | Link::Away => Ok(Kept::Yes),
        }
    }

    fn live(&mut self, row: usize, superseded: bool, ids: Ids, stage: &mut Stage) -> Result<Kept, Fault> {
        if stage.database.rows[row].lost {
            return Err(Fault::FromLostHistory(stage.database.rows[row].id));
        }
        match &self.has {
            Has::Each { .. } => self.take(row, ids, stage),
            Has::Latest(_) if superseded => {
                stage.saw(Sight::Superseded);
                Ok(Kept::Yes)
            }
            Has::Latest(_) => self.show(row, &stage.database).map(|()| Kept::Yes),
        }
    }

    /// A message, and the position after it: all that the client has, and no more.
    fn take(&mut self, row: usize, ids: Ids, stage: &mut Stage) -> Result<Kept, Fault> {
        let database = &stage.database;
        let Has::Each { owed, position: Some(position), .. } = &mut self.has else {
            unreachable!("it counts each")
        };
        owed.give(row, database)?;
        if let Some(id) = owed.claimed_by(&ids, database) {
            return Err(Fault::Claimed(id));
        }
        let id = database.rows[row].id;
        let lacking = ids.missed(&position.ids);
        let forgotten = database.in_ranges(self.stream, &lacking).next();
        if let Some(row) = forgotten {
            return Err(Fault::Forgotten(database.rows[row].id));
        }
        if !ids.contains(id) {
            return Err(Fault::Forgotten(id));
        }
        position.ids = ids;
        position.time = stage.now as i64;
        if stage.now < HOPPING && stage.random.one_in(30) {
            stage.saw(Sight::Cut);
            return Ok(Kept::No);
        }
        Ok(Kept::Yes)
    }

    fn show(&mut self, row: usize, database: &Database) -> Result<(), Fault> {
        let Has::Latest(shown) = &mut self.has else { unreachable!("it keeps the latest") };
        let rows = &database.rows;
        if let Some(before) = *shown
            && rows[row].id <= rows[before].id
        {
            return Err(Fault::WentBack(rows[row].id, rows[before].id));
        }
        *shown = Some(row);
        Ok(())
    }

    /// At the end.
    pub fn verdict(&self, database: &Database) -> Result<(), Fault> {
        match &self.has {
            Has::Each { owed, .. } => owed.first(database).map_or(Ok(()), |id| Err(Fault::Lost(id))),
            Has::Latest(shown) => {
                let all = Ids { high: i64::MAX, gaps: Vec::new() };
                match database.latest(self.stream, &all) {
                    Some(latest) if *shown != Some(latest) => Err(Fault::Lost(database.rows[latest].id)),
                    _ => Ok(()),
                }
            }
        }
    }
}
