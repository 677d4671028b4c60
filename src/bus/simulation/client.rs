use super::database::STREAMS;
use super::judge::Fault;
use super::random::Random;
use super::server::Server;
use super::stage::{HOPPING, MS, SECOND, Stage, Time};
use super::subscription::{Kept, Subscription};
use crate::bus::Messages;

/// A connection that is lost now and then, and made anew to any server.
pub struct Client {
    due: Time,
    /// None while it is away.
    server: Option<usize>,
    pub subscriptions: Vec<Subscription>,
}

impl Client {
    pub fn new(random: &mut Random) -> Self {
        let streams = random.within(1, STREAMS + 1) as usize;
        let subscriptions = (0..streams).map(|stream| Subscription::new(stream, random)).collect();
        Self { due: random.below(5 * SECOND), server: None, subscriptions }
    }

    pub fn next(&self) -> Time {
        self.subscriptions.iter().filter_map(Subscription::reads_at).fold(self.due, Time::min)
    }

    pub fn is_settled(&self) -> bool {
        self.due == Time::MAX && self.subscriptions.iter().all(Subscription::is_settled)
    }

    pub fn step(&mut self, servers: &[Server], stage: &mut Stage) -> Result<(), Fault> {
        let Some(at) = self.server else { return self.come(servers, stage) };
        if stage.now == self.due {
            let reads = self.subscriptions.iter().any(|subscription| subscription.reads_at().is_some());
            if reads && stage.random.one_in(2) {
                self.due += 1 + stage.random.below(4 * SECOND);
            } else if stage.now < HOPPING {
                self.leave(stage);
            } else {
                self.due = Time::MAX;
            }
            return Ok(());
        }
        let life = servers[at].life.as_ref().expect("who was on it has left");
        for subscription in &mut self.subscriptions {
            if subscription.reads_at() == Some(stage.now) && subscription.read(life, stage)? == Kept::No {
                self.leave(stage);
                break;
            }
        }
        Ok(())
    }

    fn come(&mut self, servers: &[Server], stage: &mut Stage) -> Result<(), Fault> {
        let up: Vec<usize> = (0..servers.len()).filter(|at| servers[*at].life.is_some()).collect();
        if up.is_empty() {
            self.due = stage.now + 100 * MS;
            return Ok(());
        }
        let at = stage.random.any_of(&up);
        let life = servers[at].life.as_ref().expect("it is up");
        self.server = Some(at);
        self.due = stage.now + 1 + stage.random.below(4 * SECOND);
        for subscription in &mut self.subscriptions {
            subscription.come(life, stage)?;
        }
        Ok(())
    }

    fn leave(&mut self, stage: &mut Stage) {
        self.server = None;
        let longest = stage.random.any_of(&[50 * MS, 50 * MS, 3 * SECOND, 3 * SECOND, 8 * SECOND]);
        self.due = stage.now + 1 + stage.random.below(longest);
        for subscription in &mut self.subscriptions {
            subscription.leave();
        }
    }

    /// The server has ended, or told of a new history.
    pub fn turned_away(&mut self, at: usize, stage: &mut Stage) {
        if self.server == Some(at) {
            self.leave(stage);
        }
    }

    /// A server may have answered those who wait.
    pub fn hear(&mut self, at: usize, servers: &[Server], stage: &mut Stage) -> Result<(), Fault> {
        if self.server == Some(at)
            && let Some(life) = &servers[at].life
        {
            for subscription in &mut self.subscriptions {
                subscription.hear(life, stage)?;
            }
        }
        Ok(())
    }

    pub fn get(&mut self, at: usize, batch: &Messages, stage: &mut Stage) -> Result<(), Fault> {
        if self.server != Some(at) {
            return Ok(());
        }
        let mut tokens = batch.tokens();
        for (index, message) in batch.messages.iter().enumerate() {
            for subscription in &mut self.subscriptions {
                if subscription.get(message, &mut || tokens.after(index), stage)? == Kept::No {
                    self.leave(stage);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A row was committed.
    pub fn owe(&mut self, row: usize, stage: &Stage) {
        for subscription in &mut self.subscriptions {
            subscription.owe(row, stage);
        }
    }

    pub fn drop_lost(&mut self, stage: &Stage) {
        for subscription in &mut self.subscriptions {
            subscription.drop_lost(stage);
        }
    }

    /// A row is there no more.
    pub fn trimmed(&mut self, row: usize, stage: &mut Stage) {
        for subscription in &mut self.subscriptions {
            subscription.trimmed(row, stage);
        }
    }
}
