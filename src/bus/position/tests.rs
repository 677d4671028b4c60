use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

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
    fn what_is_in_both_is_in_each(one in any_ids(), other in any_ids()) {
        let both = one.and(&other);
        prop_assert_eq!(set_of(&both), &set_of(&one) & &set_of(&other));
        prop_assert!(both.gaps.is_sorted_by(|gap, next| gap.last + 1 < next.first) && both.high <= one.high);
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
    fn probes_hold_all_that_was_missed_and_are_few(
        client in any_ids(), server in any_ids(), most in 0..6usize,
    ) {
        let ids = |ranges: Vec<IdRange>| {
            ranges.iter().flat_map(|range| range.first..=range.last).collect::<BTreeSet<i64>>()
        };
        let probes = client.probes(&server, usize::MAX);
        prop_assert!(probes.iter().filter(|range| range.last > client.high).count() <= 1);
        prop_assert!(probes.windows(2).all(|pair| pair[0].last < pair[1].first));
        prop_assert!(ids(client.missed(&server)).is_subset(&ids(probes.clone())));
        prop_assert!(ids(probes.clone()).is_disjoint(&set_of(&client)));

        let fewer = client.probes(&server, most);
        prop_assert_eq!(fewer.len(), probes.len().min(most.max(1)));
        prop_assert!(fewer.windows(2).all(|pair| pair[0].last < pair[1].first));
        prop_assert!(ids(probes).is_subset(&ids(fewer)));
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
            if let Ok(position) = Position::decode(&word) {
                prop_assert_eq!(position.encode(), Some(word));
                let ids = position.ids;
                prop_assert!(ids.gaps.len() <= MAX_BYTES);
                prop_assert!(ids.gaps.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
                prop_assert!(ids.gaps.iter().all(|gap| 1 <= gap.first && gap.first <= gap.last));
                prop_assert!(ids.gaps.last().is_none_or(|gap| gap.last <= ids.high));
            }
        }
    }
}

#[test]
fn a_position_has_one_word() {
    let word = position(ids(300, &[(7, 9)])).encode().unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&word[1..]).unwrap();
    let again = |bytes: &[u8]| Position::decode(&format!("{FORM}{}", URL_SAFE_NO_PAD.encode(bytes)));
    assert!(again(&bytes).is_ok());
    // A gap that is cut off, one that is below the first id, a number in more bytes than it needs, one too large.
    assert!(again(&bytes[..bytes.len() - 1]).is_err());
    assert!(again(&[&bytes[..], &[7, 0]].concat()).is_err());
    assert!(again(&[&bytes[..], &[0x82, 0]].concat()).is_err());
    assert!(again(&[&bytes[..8], &[0xff; 9], &[1, 1]].concat()).is_err());
    assert!(Position::decode(&format!("{word}=")).is_err());
    assert!(Position::decode(&format!("b{}", &word[1..])).is_err());
}

#[test]
fn a_position_with_no_gap_is_short_and_one_with_too_many_has_no_word() {
    assert!(position(ids(1_000_000_000, &[])).encode().unwrap().len() <= 32);
    let gaps = |count: i64| (1..=count).map(|n| (n * 10_000, n * 10_000)).collect::<Vec<_>>();
    assert!(position(ids(1_000_000, &gaps(40))).encode().is_some());
    assert_eq!(position(ids(100_000_000, &gaps(1000))).encode(), None);
}

/// More than so many needn't be tried.
#[test]
fn of_the_most_gaps_that_are_tried_there_is_no_word_however_short_they_are() {
    let dense = |count: usize| {
        ids(2 * count as i64, &Vec::from_iter((1..=count as i64).map(|n| (2 * n - 1, 2 * n - 1))))
    };
    let shortest = |count| Position { history: 7, time: 0, ids: dense(count) }.encode();
    assert!(shortest(MAX_GAPS - 10).is_some());
    assert_eq!(shortest(MAX_GAPS), None);
    assert_eq!(shortest(MAX_GAPS + 1), None);
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
