//! Contestants in turns, so that a machine that changes meanwhile changes all of them.

use crate::harness::report::{Figure, Report, median};

/// What a turn came to: some quantities, by name, always the same.
pub type Turn = Vec<(&'static str, f64)>;

/// Has each contestant take a turn in each round, there and back again (ABC, CBA, …). The others
/// are compared with the first: what counts is the median of the rounds' quotients, and all of
/// them are printed.
pub fn compare<T>(
    report: &mut Report,
    rounds: usize,
    contestants: &[T],
    turn: impl Fn(&T) -> Turn,
    figure: impl Fn(&T) -> Figure,
) {
    let mut turns: Vec<Vec<Turn>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            turns[number].push(turn(&contestants[number]));
        }
    }
    for (contestant, own) in contestants.iter().zip(&turns) {
        for (quantity, (name, _)) in own[0].iter().enumerate() {
            let values: Vec<f64> = own.iter().map(|turn| turn[quantity].1).collect();
            let ratios: Vec<f64> =
                values.iter().zip(&turns[0]).map(|(value, first)| value / first[quantity].1).collect();
            let mut figure =
                figure(contestant).with("quantity", *name).value("median", median(values.clone()));
            let has_ratios = ratios.iter().all(|ratio| ratio.is_finite());
            if has_ratios && !std::ptr::eq(own, &turns[0]) {
                figure = figure.value("ratio", median(ratios.clone())).value("ratios", ratios.as_slice());
            }
            report.add(figure.value("values", values.as_slice()));
        }
    }
}
