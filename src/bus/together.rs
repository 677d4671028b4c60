//! Several streams at once, for a client that has one position for all of them.

use std::collections::VecDeque;

use super::gaps::IdRange;
use super::log::Most;
use super::position::{Ids, Token, without};
use super::{Cut, Log, Rejection, Replay, Replayed, Resumed};
use crate::stream::Stream;

/// What a client missed of several streams, read page by page, in the order of the table.
pub struct Together {
    events: Replay,
    /// The latest of each state that it hasn't.
    states: VecDeque<Replayed>,
}

impl Together {
    /// The next messages; none at the end.
    pub async fn page(&mut self) -> Result<Vec<Replayed>, Rejection> {
        let mut page = self.events.page().await?;
        let count = match page.last() {
            Some(last) => self.states.partition_point(|state| state.mark < last.mark),
            None => self.states.len(),
        };
        // A position says what a client has of all streams: so their messages must come in one order.
        page.extend(self.states.drain(..count));
        page.sort_by_key(|replayed| replayed.mark);
        Ok(page)
    }
}

impl Log {
    /// What these streams have up to the cut that a client hasn't which goes on from there: of `events` each
    /// message, of `states` the latest. An error if that is more than `max` messages.
    pub async fn missed_together(
        &self,
        events: Vec<Stream>,
        states: Vec<Stream>,
        from: Resumed,
        cut: &Cut,
        max: usize,
    ) -> Result<Together, Rejection> {
        let latest: Vec<(Stream, usize)> = states.into_iter().map(|stream| (stream, 1)).collect();
        let latest = self.latest_of(&latest, cut).await?;
        let mut states: Vec<Replayed> =
            latest.into_iter().flatten().filter(|replayed| !from.has(replayed.mark)).collect();
        states.sort_by_key(|replayed| replayed.mark);
        for state in &mut states {
            // It may stand before events that are missing too.
            state.token = cut.token_of(from.time, &from.ids.replayed_to(state.mark.0, &cut.released));
        }
        let events = self.missed(events, from, cut.clone(), Most::OrNone(max)).await?;
        Ok(Together { events: events.in_part(), states: states.into() })
    }

    /// The last messages of each of these streams up to the cut, in the order of the table, for a newcomer; and
    /// what it has before the first of them.
    pub async fn latest_together(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
    ) -> Result<(Token, Vec<Replayed>), Rejection> {
        let mut all: Vec<Replayed> = self.latest_of(streams, cut).await?.into_iter().flatten().collect();
        all.sort_by_key(|replayed| replayed.mark);
        // It has all but these, and gets one after the other.
        let ids: Vec<i64> = all.iter().map(|replayed| replayed.mark.0).collect();
        let mut has = cut.released.lacking(&ids);
        let time = all.iter().map(|replayed| replayed.created).min().unwrap_or(cut.era.written_by());
        let before = cut.token_of(time, &has);
        for replayed in &mut all {
            has = has.with(replayed.mark.0);
            replayed.token = cut.token_of(time, &has);
        }
        Ok((before, all))
    }
}

impl Ids {
    /// These and one of their gaps.
    fn with(&self, id: i64) -> Self {
        Self { high: self.high, gaps: without(self.gaps.clone(), &[IdRange { first: id, last: id }]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_has_all_but_what_it_is_to_be_given() {
        let gaps = vec![IdRange { first: 4, last: 5 }];
        let ids = Ids { high: 9, gaps };
        let lacking = ids.lacking(&[3, 6, 9]);
        assert_eq!((1..=9).filter(|id| lacking.contains(*id)).collect::<Vec<_>>(), [1, 2, 7, 8]);
        assert_eq!(lacking.with(3).with(6).with(9), ids);
    }
}
