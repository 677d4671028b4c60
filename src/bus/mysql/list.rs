//! When to ask who has a transaction open.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// When lists of open transactions are asked for.
///
/// InnoDB makes a new list only when nobody has asked for one for 100 ms; until then each who asks
/// gets the old one, and lets that live on. So a server alone may ask each 150 ms, but ten that do
/// would never see a new one. Who gets an old one steps back for a while, and by chance, so
/// that a pause comes about.
#[derive(Debug)]
pub struct Lists {
    next: Instant,
    crowded_until: Option<Instant>,
    /// Whether the last ten were new.
    last: VecDeque<bool>,
    wanted_since: Option<Instant>,
    warned: bool,
}

const ALONE: Duration = Duration::from_millis(150);
const CROWDED_FOR: Duration = Duration::from_secs(10);
const COUNTED: usize = 10;
/// Without a new list for so long, and with gaps that wait for one, somebody should know.
const WARN_AFTER: Duration = Duration::from_secs(60);

impl Lists {
    /// `now` one was read, new or not.
    pub fn new(now: Instant) -> Self {
        let last = VecDeque::from([true]);
        Self { next: now + ALONE, crowded_until: None, last, wanted_since: None, warned: false }
    }

    /// Whether to ask for one now.
    pub fn is_due(&mut self, wanted: bool, now: Instant) -> bool {
        if !wanted {
            self.wanted_since = None;
            return false;
        }
        let since = *self.wanted_since.get_or_insert(now);
        if now - since >= WARN_AFTER && !self.warned {
            self.warned = true;
            tracing::warn!(
                "no new list of open transactions for a minute: something reads information_schema.innodb_trx \
                 more often than each 100 ms, or it is too long; ids that were rolled back are waited for"
            );
        }
        now >= self.next
    }

    /// One was read.
    pub fn was_read(&mut self, is_new: bool, now: Instant) {
        if is_new {
            self.wanted_since = None;
            self.warned = false;
        } else {
            self.crowded_until = Some(now + CROWDED_FOR);
        }
        self.last.push_back(is_new);
        if self.last.len() > COUNTED {
            self.last.pop_front();
        }
        let old = self.last.iter().filter(|is_new| !**is_new).count();
        let pause = if self.crowded_until.is_none_or(|until| now >= until) {
            ALONE
        } else {
            let scale = if old * 2 >= COUNTED { 2 } else { 1 };
            Duration::from_millis(rand::random_range(500..=1500)) * scale
        };
        self.next = now + pause;
    }

    /// Whether the next one can be expected to be new.
    pub fn are_new(&self) -> bool {
        self.last.back() == Some(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after a list the next one may be asked for.
    fn pause(lists: &mut Lists, is_new: bool, now: Instant) -> Duration {
        lists.was_read(is_new, now);
        let step = Duration::from_millis(1);
        (0..).map(|n| step * n).find(|pause| lists.is_due(true, now + *pause)).unwrap()
    }

    #[test]
    fn a_server_alone_asks_each_150_ms() {
        let now = Instant::now();
        let mut lists = Lists::new(now);
        assert!(!lists.is_due(false, now + CROWDED_FOR), "nobody wants one");
        assert!(!lists.is_due(true, now) && lists.is_due(true, now + ALONE));
        assert_eq!(pause(&mut lists, true, now), ALONE);
    }

    #[test]
    fn who_gets_an_old_list_steps_back_for_ten_seconds() {
        let now = Instant::now();
        let mut lists = Lists::new(now);
        assert!(pause(&mut lists, false, now) >= Duration::from_millis(500));
        assert!(!lists.are_new());
        assert!(pause(&mut lists, true, now) >= Duration::from_millis(500), "whoever succeeds, too");
        assert_eq!(pause(&mut lists, true, now + CROWDED_FOR), ALONE);
    }

    #[test]
    fn where_most_are_old_all_step_back_further() {
        let now = Instant::now();
        let mut lists = Lists::new(now);
        for _ in 0..COUNTED {
            lists.was_read(false, now);
        }
        assert!(pause(&mut lists, true, now) >= Duration::from_secs(1));
    }
}
