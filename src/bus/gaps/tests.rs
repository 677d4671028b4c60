use super::*;

/// A tail in a quiet world: each look takes no time, and the test says who is running.
struct Table {
    gaps: Gaps,
    now: Instant,
    rows: BTreeSet<i64>,
    running: Vec<u64>,
    xmin: u64,
    xmax: u64,
    last_value: i64,
    listed: bool,
    page: usize,
}

fn table(evidence: Evidence) -> Table {
    let now = Instant::now();
    Table {
        gaps: Gaps::new(evidence, Start::default(), now),
        now,
        rows: BTreeSet::new(),
        running: Vec::new(),
        xmin: 100,
        xmax: 100,
        last_value: i64::MAX,
        listed: evidence != Evidence::Age,
        page: 100_000,
    }
}

impl Table {
    fn commit(&mut self, ids: impl IntoIterator<Item = i64>) -> &mut Self {
        self.rows.extend(ids);
        self
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn look(&mut self) -> Release {
        self.now += Duration::from_millis(1);
        let Request { probes, above, except } = self.gaps.request(self.listed);
        let probed = probes.iter().flat_map(|range| self.rows.range(range.first..=range.last));
        let found: Vec<_> = probed.copied().take(self.page).collect();
        let rest = self.rows.range(above..).filter(|id| **id > above && !except.contains(id));
        let new: Vec<_> = rest.copied().take(self.page - found.len()).collect();
        let facts = Facts {
            snapshot: Some(Snapshot { xmin: self.xmin, xmax: self.xmax }),
            running: self.running.iter().copied().map(Transaction).collect(),
        };
        self.gaps.observe(&Tick {
            began: self.now,
            ended: self.now,
            full: found.len() + new.len() == self.page,
            found: &found,
            new: &new,
            last_value: self.last_value,
            facts: self.listed.then_some(facts),
        })
    }

    fn released(&mut self) -> Vec<i64> {
        self.look().ids
    }

    fn unresolved(&self) -> Vec<(i64, i64)> {
        self.gaps.unresolved().map(|range| (range.first, range.last)).collect()
    }

    fn second_look(&mut self) -> Vec<i64> {
        let ranges = self.gaps.second_look(self.now).unwrap_or_default();
        let rows: Vec<_> =
            ranges.iter().flat_map(|range| self.rows.range(range.first..=range.last)).copied().collect();
        self.gaps.found_again(&rows)
    }
}

#[test]
fn a_late_row_is_released_before_newer_ones() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    assert_eq!(table.commit([1, 3]).released(), [1, 3]);

    table.running = vec![];
    let release = table.commit([2, 4]).look();

    assert_eq!(release, Release { ids: vec![2, 4], late: 1, again: false });
}

#[test]
fn a_gap_lives_until_its_age_its_fences_and_a_later_probe() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    table.xmax = 110;
    table.commit([1, 3]).look();
    table.after(MIN_AGE).look();

    for ends in [|t: &mut Table| t.running.clear(), |t: &mut Table| t.xmin = 110] {
        table.after(Duration::from_secs(60)).look();
        table.look();
        assert_eq!(table.gaps.open_ranges(), 1);
        ends(&mut table);
    }
    table.look();
    assert_eq!(table.gaps.open_ranges(), 1, "the fences are seen to be passed, and a probe must follow");
    table.look();

    assert_eq!(table.gaps.open_ranges(), 0);
    assert_eq!(table.gaps.counts().given_up, 1);
}

#[test]
fn a_position_leaves_a_gap_out_only_once_it_was_probed_after_its_fences() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    table.commit([1, 3]).look();

    table.running = vec![];
    table.look();
    assert_eq!(table.unresolved(), [(2, 2)], "it may have been committed after the snapshot");
    table.look();

    assert_eq!(table.unresolved(), []);
    assert_eq!(table.gaps.open_ranges(), 1, "it waits for its age");
}

#[test]
fn many_gaps_are_asked_for_only_when_one_of_their_transactions_has_ended() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7, 8];
    table.commit((0..1000).map(|id| id * 2)).look();
    table.look();
    assert!(table.gaps.request(true).probes.is_empty());

    table.running = vec![8];
    let first = table.commit([501, 3000]).look();
    let second = table.look();

    assert_eq!(first, Release { ids: vec![], late: 0, again: true }, "3000 may follow from 501");
    assert_eq!(second.ids, [501, 3000]);
    assert_eq!(table.gaps.counts().thrown_away, 1);
}

#[test]
fn of_gaps_that_wait_for_one_transaction_the_oldest_is_known() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    assert_eq!(table.gaps.unresolved_since(), None);
    table.commit([1, 3]).look();
    let oldest = table.now;
    for id in [5, 7, 9] {
        table.after(MIN_AGE).commit([id]).look();
        assert_eq!(table.gaps.unresolved_since(), Some(oldest));
    }
    table.running.clear();
    table.look();
    table.look();
    assert_eq!(table.gaps.unresolved_since(), None, "nothing will come any more");
}

#[test]
fn a_look_that_asked_too_little_is_not_complete_though_it_found_nothing() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    table.commit((0..1000).map(|id| id * 2)).look();
    table.look();

    table.running = vec![];
    let first = table.commit([501]).look();
    let second = table.look();

    assert_eq!(first, Release { ids: vec![], late: 0, again: true }, "a barrier has to wait for 501");
    assert_eq!(second.ids, [501]);
}

#[test]
fn a_page_that_ends_within_the_gaps_releases_nothing_new() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    table.commit([1, 10]).look();
    table.page = 4;

    table.running = vec![];
    table.commit(2..12);

    assert_eq!(table.look(), Release { ids: vec![2, 3, 4, 5], late: 4, again: true });
    assert_eq!(table.look(), Release { ids: vec![6, 7, 8, 9], late: 4, again: true });
    assert_eq!(table.look(), Release { ids: vec![11], late: 0, again: false });
}

#[test]
fn an_id_far_away_is_released_once_and_does_not_move_the_tail() {
    let far = 9_000_000_000_000_000_000;
    let mut table = table(Evidence::Locks);
    table.last_value = 1;
    assert_eq!(table.commit([1, far]).released(), [1, far]);

    table.last_value = 2;
    assert_eq!(table.commit([2]).released(), [2]);

    assert_eq!(table.gaps.high(), 2);
    assert_eq!(table.gaps.counts().strays, 1);
}

#[test]
fn the_sequence_may_come_to_an_id_that_was_far_away() {
    let mut table = table(Evidence::Locks);
    table.last_value = 1;
    assert_eq!(table.commit([1, 5]).released(), [1, 5]);

    table.last_value = 7;
    assert_eq!(table.commit([7]).released(), [7]);
    assert_eq!(table.commit([2, 3, 4, 6]).released(), [2, 3, 4, 6]);
}

#[test]
fn the_highest_id_of_all_is_an_id() {
    let mut table = table(Evidence::OpenTransactions);

    assert_eq!(table.commit([1, i64::MAX]).released(), [1, i64::MAX]);

    assert_eq!(table.unresolved(), [(2, i64::MAX - 1)]);
    assert_eq!(table.commit([i64::MAX - 1, 77]).released(), [77, i64::MAX - 1]);
    assert_eq!(table.gaps.high(), i64::MAX);
}

#[test]
fn without_a_list_a_gap_is_asked_for_until_a_quarter_of_an_hour_has_passed() {
    let mut table = table(Evidence::Age);
    table.commit([1, 4]).look();

    assert_eq!(table.after(BLIND_AGE / 2).commit([2]).released(), [2]);
    table.after(BLIND_AGE / 2).look();

    assert_eq!(table.gaps.open_ranges(), 0);
}

#[test]
fn what_was_given_up_is_looked_at_again_for_an_hour() {
    let mut table = table(Evidence::Locks);
    table.commit([1, 3, 5]).look();
    for _ in 0..4 {
        table.after(MIN_AGE).look();
    }
    assert_eq!(table.gaps.open_ranges(), 0);
    assert!(table.gaps.second_look(table.now).is_none());

    table.after(SECOND_LOOK_INTERVAL).commit([2]);
    assert_eq!(table.second_look(), [2]);
    table.after(SECOND_LOOK_INTERVAL);
    assert_eq!(table.second_look(), [0; 0]);
    table.after(SECOND_LOOKS_FOR).second_look();
    table.after(SECOND_LOOK_INTERVAL).commit([4]);

    assert_eq!(table.second_look(), [0; 0], "nobody looks any more");
    assert_eq!(table.gaps.counts().faults, 1);
}

#[test]
fn too_many_gaps_that_wait_for_the_xid_fence_alone_are_given_up() {
    let mut table = table(Evidence::Locks);
    table.xmax = 110;
    let many = MAX_RANGES as i64 + 10;
    table.commit((0..many).map(|id| id * 2)).look();
    table.look();
    assert_eq!(table.gaps.counts().capped, 0, "too young");

    table.after(MIN_AGE).look();
    table.look();

    assert_eq!(table.gaps.counts().capped, many as u64 - 1);
    table.after(SECOND_LOOK_INTERVAL).commit([5]);
    assert_eq!(table.second_look(), [5], "and looked at again");
}

#[test]
fn gaps_that_wait_for_the_same_transactions_become_one_group() {
    let mut table = table(Evidence::Locks);
    table.running = vec![7];
    for id in 0..100 {
        table.commit([id * 2]).look();
    }

    table.after(MIN_AGE).look();

    assert_eq!((table.gaps.groups.len(), table.gaps.open_ranges()), (1, 99));
}

#[test]
fn holes_of_the_start_are_gaps_until_their_fences() {
    let mut table = table(Evidence::Locks);
    let holes = vec![IdRange { first: 1, last: 4 }, IdRange { first: 6, last: 8 }];
    table.gaps = Gaps::new(Evidence::Locks, Start { high: 9, holes, ..Start::default() }, table.now);
    table.running = vec![7];
    table.commit([5, 9]).look();

    table.running = vec![];
    assert_eq!(table.commit([3, 10]).released(), [3, 10]);
    for _ in 0..4 {
        table.after(MIN_AGE).look();
    }

    assert_eq!(table.gaps.open_ranges(), 0);
    table.after(SECOND_LOOK_INTERVAL);
    assert!(table.gaps.second_look(table.now).is_none(), "they aren't looked at again");
}

#[test]
fn ids_that_will_hardly_be_filled_are_looked_at_again_and_are_no_gaps() {
    let mut table = table(Evidence::OpenTransactions);
    let unlikely = vec![IdRange { first: 1, last: 4 }, IdRange { first: 6, last: 8 }];
    table.gaps =
        Gaps::new(Evidence::OpenTransactions, Start { high: 9, unlikely, ..Start::default() }, table.now);
    assert_eq!((table.gaps.open_ranges(), table.gaps.counts().capped), (0, 2));
    assert_eq!(table.gaps.request(false).probes, []);

    table.after(SECOND_LOOK_INTERVAL).commit([3, 7]);
    assert_eq!(table.second_look(), [3, 7]);
}
