//! Where a watch stands: what it says when it comes back, and what a script gives to the next one.
//!
//! A message's position is that of its own subscription. Of the others it says nothing while any is given what
//! it missed, or what a newcomer is given: what was published meanwhile is still held for them, and comes behind. So a
//! watch's position is those of all its subscriptions, in their order. One that has had no message takes that of a
//! message which another has once all have been given what they were to be, since the server releases all
//! streams in one order; before that it has only the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tablecast_protocol::stream_id;

/// Where each subscription stands.
pub struct Places {
    all: Vec<Place>,
    /// The server's clock less ours, in seconds.
    ahead: i64,
}

struct Place {
    identifier: String,
    known: Known,
    /// What the server has been asked to go on from, until it answers: then all that it gives of the past is here.
    asked: Option<Known>,
}

/// What a subscription has had.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    /// It has never been confirmed.
    Nothing,
    /// No message, and none that was due before this second of the server's clock.
    Since(i64),
    At(Position),
}

/// As it came with a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    pub stream_id: String,
    pub epoch: String,
    pub offset: Value,
}

/// What the server doesn't go on from.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// The word of it.
    Position(String),
    Clock,
}

/// A transaction may commit so long after it wrote its rows' times, and two clocks may be apart by as much.
const SLACK: i64 = 60; // seconds

const SEPARATOR: char = ',';
const CLOCK: char = '@';

impl Places {
    pub fn new(identifiers: impl IntoIterator<Item = String>) -> Self {
        let place = |identifier| Place { identifier, known: Known::Nothing, asked: None };
        Self { all: identifiers.into_iter().map(place).collect(), ahead: 0 }
    }

    /// All begin where another watch was, or where one message was.
    pub fn begin_from(&mut self, words: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = words.split(SEPARATOR).map(str::trim).collect();
        let count = self.all.len();
        match &words[..] {
            [""] => anyhow::bail!("--from names no position"),
            [_] => {}
            words if words.len() == count => {}
            words => anyhow::bail!(
                "--from holds {} positions and there are {count} subscriptions: give it to a watch of the same ones, in their order",
                words.len()
            ),
        }
        for (place, word) in self.all.iter_mut().zip(words.into_iter().cycle()) {
            place.known = match (word, word.strip_prefix(CLOCK).map(str::parse)) {
                ("", _) => Known::Nothing,
                (_, Some(Ok(since))) => Known::Since(since),
                _ => place.at(word.to_owned(), json!(0)), // the word says it all
            };
        }
        Ok(())
    }

    /// The position of the watch, to begin another one from. None: this server's are for no other watch.
    pub fn word(&self) -> Option<String> {
        let words: Option<Vec<String>> = self.all.iter().map(Place::word).collect();
        let words = words?;
        Some(match words.iter().all(|word| *word == words[0]) {
            true => words.into_iter().next()?,
            false => words.join(&SEPARATOR.to_string()),
        })
    }

    /// There is a new connection, on which nothing has been asked.
    pub fn reconnected(&mut self) {
        for place in &mut self.all {
            place.asked = None;
        }
    }

    /// What the subscribe command says of the past.
    pub fn history(&mut self, index: usize) -> Value {
        let place = &mut self.all[index];
        place.asked = Some(place.known.clone());
        match &place.known {
            Known::Nothing => json!({ "streams": {} }),
            Known::Since(since) => json!({ "since": since, "streams": {} }),
            Known::At(Position { stream_id, epoch, offset }) => {
                json!({ "streams": { stream_id: { "epoch": epoch, "offset": offset } } })
            }
        }
    }

    /// From here on it gets all.
    pub fn confirmed(&mut self, index: usize) {
        if self.all[index].known == Known::Nothing {
            self.all[index].known = Known::Since(self.now());
        }
    }

    pub fn history_confirmed(&mut self, index: usize) {
        self.all[index].asked = None;
    }

    /// None: it hadn't asked to go on from anything.
    pub fn history_refused(&mut self, index: usize) -> Option<Refused> {
        let since = Known::Since(self.now());
        let place = &mut self.all[index];
        let asked = place.asked.take()?;
        // A state's latest message may have come before this answer.
        if place.known == asked {
            place.known = since;
        }
        match asked {
            Known::At(Position { epoch, .. }) => Some(Refused::Position(epoch)),
            Known::Since(_) => Some(Refused::Clock),
            Known::Nothing => None,
        }
    }

    /// A message with a position has come; one without moves nothing.
    pub fn received(&mut self, index: usize, position: Position) {
        let is_portable = self.all[index].is_its_own(&position);
        self.all[index].known = Known::At(position.clone());
        let is_given_more = self.all.iter().any(|place| place.asked.is_some());
        if is_given_more || !is_portable {
            return;
        }
        for place in &mut self.all {
            if matches!(place.known, Known::Since(_)) {
                place.known = place.beside(&position);
            }
        }
    }

    /// All that was due has come, but for what is still on its way: a heartbeat says so, with the server's time.
    pub fn heard(&mut self, server_time: Option<i64>) {
        if let Some(server_time) = server_time {
            self.ahead = server_time - unix_time();
        }
        let since = self.now() - SLACK;
        for place in &mut self.all {
            if let (Known::Since(before), None) = (&mut place.known, &place.asked) {
                *before = since.max(*before);
            }
        }
    }

    /// By the server's clock.
    fn now(&self) -> i64 {
        unix_time() + self.ahead
    }
}

impl Place {
    fn at(&self, epoch: String, offset: Value) -> Known {
        Known::At(Position { stream_id: stream_id(&self.identifier), epoch, offset })
    }

    /// Where another subscription is.
    fn beside(&self, Position { epoch, offset, .. }: &Position) -> Known {
        self.at(epoch.clone(), offset.clone())
    }

    /// Whether it is one of tablecast's, whose word alone says which moment of a table it is.
    fn is_its_own(&self, position: &Position) -> bool {
        position.stream_id == stream_id(&self.identifier)
    }

    fn word(&self) -> Option<String> {
        match &self.known {
            Known::Nothing => Some(String::new()),
            Known::Since(since) => Some(format!("{CLOCK}{since}")),
            Known::At(position) => self.is_its_own(position).then(|| position.epoch.clone()),
        }
    }
}

fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places::new(["a".to_owned(), "b".to_owned()])
    }

    fn position(identifier: &str, epoch: &str) -> Position {
        Position { stream_id: stream_id(identifier), epoch: epoch.to_owned(), offset: json!(7) }
    }

    fn word(places: &Places) -> String {
        places.word().unwrap()
    }

    /// The subscribe commands of a new watch.
    fn asked() -> Places {
        let mut places = places();
        for index in [0, 1] {
            assert_eq!(places.history(index), json!({ "streams": {} }));
        }
        places
    }

    #[test]
    fn one_that_has_had_nothing_stands_where_another_does() {
        let mut places = asked();
        places.confirmed(0);
        places.history_confirmed(0);
        places.received(0, position("a", "p1"));
        assert_eq!(word(&places), "p1,", "the other one is due nothing yet");

        places.confirmed(1);
        places.history_confirmed(1);
        places.received(0, position("a", "p2"));
        assert_eq!(word(&places), "p2");
        places.received(0, position("a", "p3"));
        assert_eq!(word(&places), "p3,p2");
    }

    #[test]
    fn what_a_newcomer_to_one_is_given_says_nothing_of_another() {
        let mut places = asked();
        places.heard(Some(1_000_000_000));
        for index in [0, 1] {
            places.confirmed(index);
        }
        places.history_confirmed(0);
        places.received(1, position("b", "p1"));
        places.heard(Some(1_000_000_100));
        places.history_confirmed(1);
        assert_eq!(word(&places), "@1000000040,p1");

        places.received(1, position("b", "p2"));
        assert_eq!(word(&places), "p2");
    }

    #[test]
    fn what_is_replayed_to_one_says_nothing_of_another() {
        let mut places = places();
        places.begin_from("p1").unwrap();
        for index in [0, 1] {
            let stream_id = stream_id(["a", "b"][index]);
            assert_eq!(
                places.history(index),
                json!({ "streams": { stream_id: { "epoch": "p1", "offset": 0 } } })
            );
            places.confirmed(index);
        }
        places.received(0, position("a", "p2"));
        places.history_confirmed(0);
        assert_eq!(word(&places), "p2,p1");

        let mut next = self::places();
        next.begin_from("p2,p1").unwrap();
        assert_eq!(word(&next), "p2,p1");
    }

    #[test]
    fn without_a_message_there_is_the_clock_until_one_comes() {
        let mut places = asked();
        places.heard(Some(1_000_000_000));
        for index in [0, 1] {
            places.confirmed(index);
            places.history_confirmed(index);
        }
        places.heard(Some(1_000_000_030));
        assert_eq!(places.all[0].known, Known::Since(1_000_000_000), "not before it was there");
        places.heard(Some(1_000_000_100));
        assert_eq!(places.history(0), json!({ "since": 1_000_000_040, "streams": {} }));
        places.heard(Some(1_000_000_200));
        assert_eq!(word(&places), "@1000000040,@1000000140", "while it is asked for it stays");

        places.received(0, position("a", "p1"));
        assert_eq!(word(&places), "p1,@1000000140");
        places.history_confirmed(0);
        places.received(0, position("a", "p2"));
        assert_eq!(word(&places), "p2");
    }

    #[test]
    fn what_is_refused_is_forgotten_and_what_came_since_is_not() {
        let mut places = places();
        places.begin_from("p1").unwrap();
        places.history(0);
        places.history(1);
        places.received(1, position("b", "p2"));

        for index in [0, 1] {
            assert_eq!(places.history_refused(index), Some(Refused::Position("p1".into())));
        }

        assert!(matches!(places.all[0].known, Known::Since(_)));
        assert_eq!(places.all[1].word().unwrap(), "p2");
        places.history(0);
        assert_eq!(places.history_refused(0), Some(Refused::Clock));
        assert_eq!(places.history_refused(0), None);
        let mut new = asked();
        new.confirmed(0);
        assert_eq!(new.history_refused(0), None);
    }

    #[test]
    fn another_servers_position_is_its_own_affair() {
        let mut places = places();
        places.confirmed(0);
        places.confirmed(1);
        let theirs = Position { stream_id: "chat:1".into(), epoch: "e,".into(), offset: json!("9") };
        places.received(0, theirs);

        assert_eq!(places.word(), None);
        assert_eq!(places.history(0), json!({ "streams": { "chat:1": { "epoch": "e,", "offset": "9" } } }));
    }

    #[test]
    fn positions_of_other_subscriptions_are_a_mistake() {
        for words in ["", " ", "p1,p2,p3"] {
            assert!(places().begin_from(words).is_err(), "{words:?}");
        }
    }
}
