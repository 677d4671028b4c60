use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::*;
use crate::bus::gaps::{Evidence, Facts, Gaps, Snapshot, Start, Tick, Transaction};

fn range(first: i64, last: i64) -> IdRange {
    IdRange { first, last }
}

fn ids(high: i64, gaps: &[(i64, i64)]) -> Ids {
    Ids { high, gaps: gaps.iter().map(|(first, last)| range(*first, *last)).collect() }
}

fn position(ids: Ids) -> Position {
    Position { history: 7, time: 1_795_000_000_000, ids }
}

/// Which of the ids up to 40 are in it.
fn set_of(ids: &Ids) -> BTreeSet<i64> {
    (1..=40).filter(|id| ids.contains(*id)).collect()
}

fn any_ids() -> impl Strategy<Value = Ids> {
    proptest::collection::vec(any::<bool>(), 1..30).prop_map(|present| {
        let high = present.iter().rposition(|there| *there).map_or(0, |last| last as i64 + 1);
        let missing = (1..=high).filter(|id| !present[*id as usize - 1]);
        let gaps = joined(missing.map(|id| range(id, id)).collect());
        Ids { high, gaps }
    })
}

proptest! {
    #[test]
    fn a_word_gives_back_its_position(ids in any_ids()) {
        let position = position(ids);
        let word = position.encode().unwrap();
        prop_assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        prop_assert_eq!(Position::decode(&word).unwrap(), position);
    }

    #[test]
    fn what_is_missed_is_what_the_server_has_and_the_client_has_not(
        client in any_ids(), server in any_ids(),
    ) {
        let missed: BTreeSet<i64> =
            client.missed(&server).iter().flat_map(|range| range.first..=range.last).collect();
        prop_assert_eq!(missed, &set_of(&server) - &set_of(&client));
    }

    #[test]
    fn a_client_that_has_been_replayed_to_an_id_has_all_that_was_missed_up_to_it(
        client in any_ids(), server in any_ids(), number: usize,
    ) {
        let missed = Vec::from_iter(&set_of(&server) - &set_of(&client));
        if missed.is_empty() {
            return Ok(());
        }
        let number = number % missed.len();
        let after = client.replayed_to(missed[number], &server);
        let replayed: BTreeSet<i64> = missed[..=number].iter().copied().collect();
        prop_assert_eq!(set_of(&after), &set_of(&client) | &replayed);
        let position = position(after);
        prop_assert_eq!(Position::decode(&position.encode().unwrap()).unwrap(), position);
    }

    #[test]
    fn whatever_a_client_sends_is_a_position_or_none(word in ".{0,300}", bytes: Vec<u8>) {
        for word in [word, format!("{FORM}{}", URL_SAFE_NO_PAD.encode(bytes))] {
            if let Ok(Position { ids, .. }) = Position::decode(&word) {
                prop_assert!(ids.gaps.len() <= MAX_BYTES);
                prop_assert!(ids.gaps.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
                prop_assert!(ids.gaps.iter().all(|gap| 1 <= gap.first && gap.first <= gap.last));
                prop_assert!(ids.gaps.last().is_none_or(|gap| gap.last <= ids.high));
            }
        }
    }
}

#[test]
fn a_position_with_no_gap_is_short_and_one_with_too_many_has_no_word() {
    assert!(position(ids(1_000_000_000, &[])).encode().unwrap().len() <= 32);
    let gaps = |count: i64| (1..=count).map(|n| (n * 10_000, n * 10_000)).collect::<Vec<_>>();
    assert!(position(ids(1_000_000, &gaps(40))).encode().is_some());
    assert_eq!(position(ids(100_000_000, &gaps(1000))).encode(), None);
}

#[test]
fn the_steps_of_a_batch_are_the_positions_after_its_messages() {
    // 4 was a gap and comes late; 9 and 12 are new.
    let steps = Steps::new(ids(6, &[(2, 2), (4, 5)]), vec![4, 9, 12], 1, 12);
    let after = [
        ids(6, &[(2, 2), (4, 5)]),
        ids(6, &[(2, 2), (5, 5)]),
        ids(9, &[(2, 2), (5, 5), (7, 8)]),
        ids(12, &[(2, 2), (5, 5), (7, 8), (10, 11)]),
    ];
    for (count, expected) in after.into_iter().enumerate() {
        assert_eq!(steps.after(count), expected, "after {count}");
    }
}

/// A client that hops between servers, each of which follows the table by itself, gets each row
/// that was committed once.
#[test]
fn a_client_that_hops_gets_everything_once() {
    for seed in 0..2000 {
        if let Err(fault) = hops(seed, Rules { barrier: true }) {
            panic!("seed {seed}: {fault}");
        }
    }
}

#[test]
fn without_the_barrier_it_gets_rows_twice() {
    let seed = (0..2000).find(|seed| hops(*seed, Rules { barrier: false }).is_err());
    println!("shown by seed {}", seed.expect("some seed shows what the barrier is for"));
}

struct Rules {
    barrier: bool,
}

struct Table {
    /// When each id commits; none: it is rolled back, at the time of its number.
    commits: BTreeMap<i64, Option<u64>>,
}

struct Server {
    gaps: Gaps,
    clock: Instant,
}

const ROWS: i64 = 16;
const END: u64 = ROWS as u64 + 12;

fn hops(seed: u64, rules: Rules) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let commits = (1..=ROWS).map(|id| {
        let latest = id as u64 + [0, 1, 2, 8][random.random_range(0..4)];
        (id, (random.random_range(0..7) > 0).then(|| random.random_range(id as u64..=latest)))
    });
    let table = Table { commits: commits.collect() };
    let page = if random.random() { 100 } else { 2 };
    let now = Instant::now();
    let server = || Server { gaps: Gaps::new(Evidence::Locks, Start::default(), now), clock: now };
    let mut servers = [server(), server()];
    let mut at = 0;
    let mut client = servers[0].released();
    let mut got = Vec::new();

    for time in 1..END + 20 {
        for (number, server) in servers.iter_mut().enumerate() {
            if time > END || random.random_range(0..5) < 3 {
                let (ids, steps) = server.tick(&table, time, page);
                if number == at {
                    for (index, id) in ids.iter().enumerate() {
                        got.push(*id);
                        client = steps.after(index + 1);
                    }
                }
            }
        }
        if time < END && random.random_range(0..10) < 3 {
            // It goes to the other one, with the word that it has.
            let word = position(client).encode().ok_or("no word")?;
            client = Position::decode(&word).map_err(|error| error.to_string())?.ids;
            at = 1 - at;
            let server = &mut servers[at];
            if rules.barrier {
                while !server.tick(&table, time, page).0.is_empty() {}
            }
            let released = server.released();
            for missed in client.clone().missed(&released) {
                for id in missed.first..=missed.last {
                    if table.shows(id, time) {
                        got.push(id);
                        client = client.replayed_to(id, &released);
                    }
                }
            }
            client = released;
        }
    }

    let committed: Vec<i64> = table.commits.iter().filter_map(|(id, at)| at.map(|_| *id)).collect();
    let mut sorted = got.clone();
    sorted.sort_unstable();
    if sorted == committed { Ok(()) } else { Err(format!("got {got:?} of {committed:?}")) }
}

impl Table {
    fn shows(&self, id: i64, time: u64) -> bool {
        self.commits.get(&id).is_some_and(|at| at.is_some_and(|at| at <= time))
    }
}

impl Server {
    fn released(&self) -> Ids {
        Ids { high: self.gaps.high(), gaps: self.gaps.unresolved().collect() }
    }

    fn tick(&mut self, table: &Table, time: u64, page: usize) -> (Vec<i64>, Steps) {
        let before = self.released();
        let request = self.gaps.request(true);
        let shown = |id: &i64| table.shows(*id, time);
        let mut found: Vec<i64> =
            request.probes.iter().flat_map(|range| range.first..=range.last).filter(shown).collect();
        let probed = found.len();
        found.truncate(page);
        let mut new: Vec<i64> =
            if probed > page { Vec::new() } else { (request.above + 1..=ROWS).filter(shown).collect() };
        let rows = probed + new.len();
        new.truncate(page - found.len());
        // A row's transaction has its number for a name, and runs until its row commits.
        let drawn = |id: &i64| *id as u64 <= time;
        let running = (1..=ROWS).filter(drawn).filter(|id| match table.commits[id] {
            Some(at) => at > time,
            None => *id as u64 == time,
        });
        let running: Vec<u64> = running.map(|id| id as u64).collect();
        let xmin = running.first().copied().unwrap_or(time + 1);
        let facts = Facts {
            snapshot: Some(Snapshot { xmin, xmax: time + 1 }),
            running: running.into_iter().map(Transaction).collect(),
        };
        self.clock += Duration::from_secs(1);
        let release = self.gaps.observe(&Tick {
            began: self.clock,
            ended: self.clock,
            found: &found,
            new: &new,
            full: rows > page,
            last_value: time as i64,
            facts: Some(facts),
        });
        let steps = Steps::new(before, release.ids.clone(), release.late, self.gaps.high());
        (release.ids, steps)
    }
}
