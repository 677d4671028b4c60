//! Several streams at once, for a client that has one position for all of them.

use super::log::{Most, oldest};
use super::position::Token;
use super::{Cut, Log, Mark, Rejection, Replay, Resumed};
use crate::stream::Stream;

impl Log {
    /// What these streams have up to the cut that a client hasn't which goes on from there: of `events` each
    /// message, of `states` the latest, in the order of the table. An error if that is more than `max` messages.
    pub async fn missed_together(
        &self,
        events: Vec<Stream>,
        states: Vec<Stream>,
        from: Resumed,
        cut: &Cut,
        max: usize,
    ) -> Result<Replay, Rejection> {
        let latest: Vec<(Stream, usize)> = states.iter().map(|stream| (stream.clone(), 1)).collect();
        let mut latest = self.latest_for_later(&latest, cut).await?;
        latest.retain(|row| !from.has(Mark(row.id)));
        let mut replay = self.missed(events, from, cut.clone(), Most::OrNone(max)).await?;
        // A position says what a client has of all streams: so their messages must come in one order.
        replay.mix_in(states, latest);
        Ok(replay)
    }

    /// The last messages of each of these streams up to the cut, in the order of the table, for a newcomer; and
    /// what it has before the first of them. If it is more than `max` messages, fewer of each stream, and at least one.
    pub async fn latest_together(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
        max: usize,
    ) -> Result<(Token, Replay), Rejection> {
        let most = (max / streams.len().max(1)).max(1);
        let asked: Vec<(Stream, usize)> =
            streams.iter().map(|(stream, count)| (stream.clone(), *count.min(&most))).collect();
        let latest = self.latest_for_later(&asked, cut).await?;
        // It has all but these, and gets one after the other.
        let ids: Vec<i64> = latest.iter().map(|row| row.id).collect();
        let has = cut.released.lacking(&ids);
        let time = oldest(latest.iter().map(|row| row.created), cut);
        let before = cut.token_of(time, &has);
        let names = asked.into_iter().map(|(stream, _)| stream).collect();
        Ok((before, self.replay(names, latest, has, time, cut.clone(), |_| false)))
    }
}

#[cfg(test)]
mod tests {
    use crate::bus::gaps::IdRange;
    use crate::bus::position::Ids;

    #[test]
    fn a_newcomer_has_all_but_what_it_is_to_be_given() {
        let gaps = vec![IdRange { first: 4, last: 5 }];
        let ids = Ids { high: 9, gaps };
        let lacking = ids.lacking(&[3, 6, 9]);
        assert_eq!((1..=9).filter(|id| lacking.contains(*id)).collect::<Vec<_>>(), [1, 2, 7, 8]);
        assert_eq!(lacking.replayed_to(6, &ids).replayed_to(9, &ids), ids);
    }
}
