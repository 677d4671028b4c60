use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::replayer::{Line, Replayer};
use super::server::{Life, name};
use super::stage::{MS, SECOND, Stage, Time};
use crate::bus::position::Ids;
use crate::bus::{Cut, Log, Most, Rejection, Replayed, Resumed, database};
use crate::stream::Stream;

/// The product's log, read back for a client statement by statement, each when its turn comes.
pub struct Reading {
    pub due: Time,
    line: Line,
    given: Given,
    work: Pin<Box<dyn Future<Output = Result<(), Rejection>>>>,
}

/// What is asked for.
pub enum Ask {
    Missed(Resumed, Most),
    Latest(usize),
    Since { since: i64, at_least: usize, max: usize },
}

/// What has been read and not yet given.
type Given = Rc<RefCell<Vec<Replayed>>>;

impl Reading {
    pub fn new(ask: Ask, stream: usize, cut: Cut, life: &Life, stage: &mut Stage) -> Self {
        let replayer = Replayer::default();
        let (line, given) = (replayer.line(), Given::default());
        let log = Log::of(database::Replayer::Simulated(replayer), life.barriers());
        let due = stage.now + 1 + stage.random.below(20 * MS);
        Self { due, line, work: Box::pin(read(log, ask, name(stream), cut, given.clone())), given }
    }

    /// The next statement: what came of it, and in the end how that was.
    pub fn step(&mut self, stage: &mut Stage) -> (Vec<Replayed>, Option<Result<(), Rejection>>) {
        self.line.run(&stage.database);
        let end = match self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        };
        // A client takes what it is given as slowly as it likes.
        let slow = self.line.waits_for_payloads() && stage.random.one_in(3);
        self.due += 1 + stage.random.below(if slow { 10 * SECOND } else { 20 * MS });
        (self.given.take(), end)
    }
}

async fn read(log: Log, ask: Ask, stream: Stream, cut: Cut, given: Given) -> Result<(), Rejection> {
    let streams = vec![stream.clone()];
    let mut replay = match ask {
        Ask::Missed(from, most) => log.missed(streams, from, cut, most).await?,
        Ask::Since { since, at_least, max } => log.since(streams, since, at_least, cut, max).await?,
        Ask::Latest(count) => {
            *given.borrow_mut() = log.latest(&stream, &cut, count, usize::MAX).await?;
            return Ok(());
        }
    };
    loop {
        let page = replay.page(usize::MAX).await?;
        if page.is_empty() {
            return Ok(());
        }
        given.borrow_mut().extend(page);
    }
}

/// What counts as released although it isn't, where a replay isn't bounded.
pub fn unbounded(cut: &Cut, stage: &Stage) -> Cut {
    let mut ids = Ids::clone(&cut.released);
    ids.high = ids.high.max(stage.database.table.keys().next_back().copied().unwrap_or_default());
    ids.gaps.clear();
    Cut::new(ids, cut.era.clone())
}
