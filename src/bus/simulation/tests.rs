use std::ops::Range;

use super::database::Row;
use super::judge::Fault;
use super::reading::{Ask, Reading};
use super::scene::{Barrier, Scene};
use super::server::Life;
use super::stage::{
    FIRST_DATE, Seen,
    Sight::{self, *},
    Stage,
};
use super::world::World;
use crate::bus::gaps::Rules;
use crate::bus::position::{Era, Ids, Position};
use crate::bus::{Most, Rejection};

/// Wherever seeds go.
const ALL: [Sight; 11] = [
    Resumed,
    Replayed,
    GivenLatest,
    GivenSince,
    SinceAhead,
    Cut,
    TooManyMissed,
    TooOld,
    ToldOfLoss,
    Trimmed,
    TrimmedUnseen,
];
/// Where rows may come late.
const WITH_GAPS: [Sight; 4] = [NoWord, AheadOfTheRows, Superseded, AskedTooLittle];

/// `SEEDS` are so many, from 0; `SEED` is one.
fn seeds() -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(1000),
    }
}

#[test]
fn all_promises_hold_on_postgresql() {
    holds("all_promises_hold_on_postgresql", Scene::POSTGRES, &WITH_GAPS);
}

#[test]
fn all_promises_hold_on_innodb() {
    holds(
        "all_promises_hold_on_innodb",
        Scene::INNODB,
        &[&WITH_GAPS[..], &[Sifted, WaitedForWriters]].concat(),
    );
}

#[test]
fn all_promises_hold_on_sqlite() {
    holds("all_promises_hold_on_sqlite", Scene::SQLITE, &[]);
}

fn holds(test: &str, scene: Scene, sights: &[Sight]) {
    let mut seen = Seen::new();
    for seed in seeds() {
        match World::new(seed, scene).run() {
            Ok(more) => more.into_iter().for_each(|(sight, times)| *seen.entry(sight).or_default() += times),
            Err(failure) => panic!(
                "{failure}; again: SEED={seed} cargo test --lib bus::simulation::tests::{test} -- --exact"
            ),
        }
    }
    println!("{test}: {seen:?}");
    let unseen: Vec<_> = ALL.iter().chain(sights).filter(|sight| !seen.contains_key(sight)).collect();
    assert!(unseen.is_empty() || seeds().count() < 1000, "no seed came by {unseen:?}");
}

#[test]
fn a_sequence_with_a_cache_loses_rows() {
    loses_rows(Scene { cache: 10, ..Scene::POSTGRES });
}

#[test]
fn dropping_the_lock_fence_loses_rows() {
    loses_rows(postgres(Rules { lock_fence: false, ..Rules::ALL }));
}

#[test]
fn dropping_the_xid_fence_loses_rows() {
    loses_rows(postgres(Rules { xid_fence: false, ..Rules::ALL }));
}

#[test]
fn giving_up_young_gaps_loses_rows() {
    loses_rows(postgres(Rules { min_age: false, ..Rules::ALL }));
}

#[test]
fn deciding_by_the_first_fence_loses_rows() {
    loses_rows(postgres(Rules { second_fence: false, ..Rules::ALL }));
}

#[test]
fn giving_up_without_a_later_probe_loses_rows() {
    loses_rows(postgres(Rules { later_probe: false, ..Rules::ALL }));
}

#[test]
fn keeping_fences_across_a_crash_loses_rows() {
    loses_rows(postgres(Rules { fences_anew: false, ..Rules::ALL }));
}

#[test]
fn letting_high_pass_the_sequence_looks_like_another_history() {
    let scene = postgres(Rules { bounded_high: false, ..Rules::ALL });
    goes_wrong(scene, |fault| matches!(fault, Fault::ToldWrongly));
}

#[test]
fn going_on_where_a_failover_lost_rows_loses_rows() {
    loses_rows(Scene { notices_loss: false, ..Scene::POSTGRES });
}

#[test]
fn resuming_from_a_position_of_another_history_loses_rows() {
    loses_rows(Scene { compares_histories: false, ..Scene::POSTGRES });
}

#[test]
fn releasing_gaps_after_new_rows_breaks_order() {
    breaks_order(postgres(Rules { gaps_first: false, ..Rules::ALL }));
}

#[test]
fn keeping_a_tick_that_asked_too_little_breaks_order() {
    breaks_order(postgres(Rules { throw_away: false, ..Rules::ALL }));
}

#[test]
fn being_patient_before_all_have_ended_breaks_order() {
    breaks_order(postgres(Rules { patient_once_silent: false, ..Rules::ALL }));
}

#[test]
fn counting_transactions_as_running_until_they_unlock_breaks_order() {
    breaks_order(Scene { until_unlock: true, ..Scene::POSTGRES });
}

#[test]
fn trusting_the_first_list_of_innodb_breaks_order() {
    breaks_order(Scene { gaps: Rules { settle: false, ..Rules::ALL }, ..Scene::INNODB });
}

#[test]
fn resuming_without_a_barrier_gives_rows_twice() {
    goes_wrong(Scene { barrier: Barrier::None, ..Scene::POSTGRES }, |fault| matches!(fault, Fault::Twice(_)));
}

#[test]
fn a_look_that_was_under_way_is_no_barrier() {
    let scene = Scene { barrier: Barrier::AnyLook, ..Scene::POSTGRES };
    goes_wrong(scene, |fault| matches!(fault, Fault::NotWaitedFor(_)));
}

#[test]
fn replaying_more_than_was_released_gives_rows_twice() {
    let scene = Scene { bounded_replay: false, ..Scene::POSTGRES };
    goes_wrong(scene, |fault| matches!(fault, Fault::Twice(_)));
}

#[test]
fn counting_what_is_below_the_latest_as_given_loses_rows() {
    let scene = Scene { newcomers_lack: false, ..Scene::POSTGRES };
    goes_wrong(scene, |fault| matches!(fault, Fault::Lost(_) | Fault::Claimed(_)));
}

#[test]
fn without_the_mark_who_keeps_the_latest_goes_back() {
    let scene = Scene { marks_superseded: false, ..Scene::POSTGRES };
    goes_wrong(scene, |fault| matches!(fault, Fault::WentBack(..)));
}

#[test]
fn trimming_what_was_not_released_loses_rows() {
    loses_rows(Scene { trims_released: false, ..Scene::POSTGRES });
}

#[test]
fn trimming_a_row_as_it_comes_loses_it_for_others() {
    loses_rows(Scene { trims_settled: false, ..Scene::POSTGRES });
}

#[test]
fn a_window_longer_than_the_retention_loses_rows() {
    goes_wrong(Scene { margin_secs: -60, ..Scene::SQLITE }, is_missing);
}

#[test]
fn a_position_that_is_younger_than_what_was_open_loses_rows() {
    // A transaction must end just before its rows are trimmed, while a client is away that comes back in time.
    goes_wrong_among(2500..3500, Scene { dates_by_open: false, ..Scene::INNODB }, is_missing);
}

#[test]
fn asking_about_holes_before_all_have_written_loses_rows() {
    loses_rows(Scene { asks_late: false, ..Scene::INNODB });
}

#[test]
fn dropping_holes_with_locks_loses_rows() {
    loses_rows(Scene { keeps_locked: false, ..Scene::INNODB });
}

/// What comes of a page's clock, or of an empty position, where rows of these streams were written one after the
/// other, and `meanwhile` happens before their payloads are read.
fn read_back(
    rows: impl Iterator<Item = usize>,
    since: Option<i64>,
    meanwhile: fn(&mut Stage),
) -> Option<Result<(), Rejection>> {
    let mut stage = Stage::new(1, Scene::SQLITE);
    for stream in rows {
        let id = stage.database.draw()[0];
        let row = Row { id, stream: Some(stream), created: FIRST_DATE, ..Row::default() };
        let row = stage.database.insert(row);
        stage.database.commit(&[row], 1, FIRST_DATE);
    }
    let era = Era { history: Some(1), time: FIRST_DATE, ..Era::default() };
    let life = Life::begin(&stage, stage.database.start(), era, false);
    let word = Position { history: 1, time: FIRST_DATE, ids: Ids::default() }.encode().unwrap();
    let ask = match since {
        Some(since) => Ask::Since { since, at_least: 0, max: 100 },
        None => Ask::Missed(life.cut().accept(&word, None).unwrap(), Most::OrNone(100)),
    };
    let mut reading = Reading::new(ask, 0, life.cut(), &life, &mut stage);
    for _ in 0..2 {
        assert_eq!(reading.step(&mut stage).1, None, "it asks for rows, then for payloads");
    }
    meanwhile(&mut stage);
    (0..1000).find_map(|_| reading.step(&mut stage).1)
}

#[test]
fn a_row_that_is_trimmed_before_it_is_read_is_not_passed_in_silence() {
    let one_in_four_is_large = || [0; 8].into_iter();
    let trim = |stage: &mut Stage| (0..8).for_each(|row| stage.database.trim(row));
    for since in [None, Some(FIRST_DATE)] {
        assert_eq!(read_back(one_in_four_is_large(), since, |_| ()), Some(Ok(())));
        assert_eq!(read_back(one_in_four_is_large(), since, trim), Some(Err(Rejection::TooOld)));
    }
}

#[test]
fn behind_too_many_rows_of_others_nobody_is_told_that_there_is_nothing() {
    let behind = |others| std::iter::once(0).chain(std::iter::repeat_n(1, others));
    assert_eq!(read_back(behind(1000), Some(FIRST_DATE), |_| ()), Some(Ok(())));
    for since in [None, Some(FIRST_DATE)] {
        assert_eq!(read_back(behind(15_000), since, |_| ()), Some(Err(Rejection::TooMany(100))));
    }
}

fn postgres(gaps: Rules) -> Scene {
    Scene { gaps, ..Scene::POSTGRES }
}

fn loses_rows(scene: Scene) {
    goes_wrong(scene, |fault| matches!(fault, Fault::Lost(_)));
}

/// A row isn't given, which shows at the end, by a position, or by a later row.
fn is_missing(fault: &Fault) -> bool {
    matches!(fault, Fault::Lost(_) | Fault::Claimed(_) | Fault::Reordered(..))
}

fn breaks_order(scene: Scene) {
    goes_wrong(scene, |fault| matches!(fault, Fault::Reordered(..)));
}

/// Some seed shows what a rule is for, and by a fault of the kind that it prevents.
fn goes_wrong(scene: Scene, expected: fn(&Fault) -> bool) {
    goes_wrong_among(seeds(), scene, expected);
}

fn goes_wrong_among(mut seeds: Range<u64>, scene: Scene, expected: fn(&Fault) -> bool) {
    let shows = |seed: u64| World::new(seed, scene).run().err().filter(|failure| expected(&failure.fault));
    let shown = seeds.find_map(|seed| Some((seed, shows(seed)?)));
    let (seed, failure) = shown.expect("some seed shows what this rule is for");
    println!("shown by seed {seed}: {failure}");
}
