//! Two settings in turns, so that a machine that changes meanwhile changes both.

use crate::harness::report::{Figure, median};

/// Each of `N` quantities, with and without what is looked at.
pub struct Pairs<const N: usize>(Vec<[[f64; N]; 2]>);

impl<const N: usize> Pairs<N> {
    /// With, without, without, with, and so on.
    pub fn measure(count: usize, mut measure: impl FnMut(bool) -> [f64; N]) -> Self {
        let pair = |number| {
            if number % 2 == 0 {
                let with = measure(true);
                [with, measure(false)]
            } else {
                let without = measure(false);
                [measure(true), without]
            }
        };
        Self((0..count).map(pair).collect())
    }

    /// The medians of one quantity, and the median of the quotients of all pairs.
    pub fn compare(&self, quantity: usize, figure: Figure) -> Figure {
        let all = |which: usize| self.0.iter().map(move |pair| pair[which][quantity]).collect();
        let ratios: Vec<f64> =
            self.0.iter().map(|[with, without]| with[quantity] / without[quantity]).collect();
        figure
            .value("with", median(all(0)))
            .value("without", median(all(1)))
            .value("ratio", median(ratios.clone()))
            .value("ratios", ratios.as_slice())
    }
}
