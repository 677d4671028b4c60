//! What came, while one order was carried out.

use std::collections::VecDeque;

#[derive(Default)]
pub struct Tally {
    /// How long each connection took until its subscription was confirmed.
    pub confirms: Vec<i64>,
    /// How often one was turned away before.
    pub refused: usize,
    pub pings: usize,
    /// The longest that a connection waited for a ping.
    pub longest_gap: i64,
    /// By message, when it came to each of the connections.
    pub arrivals: Vec<Vec<i64>>,
    records: bool,
    connections: usize,
    messages: usize,
    step: usize,
    /// How many connections have got so many steps and one more. Steps that all have got
    /// are no longer in it.
    reached: VecDeque<usize>,
}

impl Tally {
    /// So many messages are to come to each.
    pub fn expecting(messages: usize, connections: usize, step: usize, records: bool) -> Self {
        assert!(messages.is_multiple_of(step), "all have come with the last step");
        Self {
            arrivals: vec![Vec::new(); if records { messages } else { 0 }],
            records,
            connections,
            messages,
            step,
            reached: vec![0; messages / step].into(),
            ..Self::default()
        }
    }

    /// A connection that had got so many before got another. Says how many all have got, where
    /// that has changed.
    pub fn message(&mut self, before: usize, at: i64) -> Option<usize> {
        assert!(before < self.messages, "a message too many");
        if self.records {
            self.arrivals[before].push(at);
        }
        let got = before + 1;
        if !got.is_multiple_of(self.step) {
            return None;
        }
        let steps_of_all = self.messages / self.step - self.reached.len();
        self.reached[got / self.step - 1 - steps_of_all] += 1;
        // No connection is further with a later step than with an earlier one.
        if self.reached[0] < self.connections {
            return None;
        }
        self.reached.pop_front();
        Some((steps_of_all + 1) * self.step)
    }

    pub fn is_complete(&self) -> bool {
        self.reached.is_empty()
    }

    pub fn gap(&mut self, last: i64, at: i64) {
        self.longest_gap = self.longest_gap.max(at - last);
    }
}
