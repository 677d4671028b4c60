//! Two builds of this server beside each other, `BEFORE` and `AFTER`: what a change costs those who don't use
//! it. Asked of one that adds a feature: no quantity worse by more than a tenth.

use super::{batched, figure, paced, streams};
use crate::Scale;
use crate::harness::report::Report;
use crate::rounds::compare;
use crate::servers::{BUILDS, Server};

/// One stream with many subscribers: a message now and then, and as many as they read.
pub fn run(report: &mut Report, scale: &Scale) {
    for (load, turn) in [
        ("paced", paced::turn as fn(&Server, &Scale) -> _),
        ("flood", |server, scale| batched::turn(server, 1, scale)),
    ] {
        let figure = |server: &Server| figure(server).with("load", load);
        compare(report, scale.build_pairs, &BUILDS, |server| turn(server, scale), figure);
    }
}

/// Many streams with one subscriber each.
pub fn run_streams(report: &mut Report, scale: &Scale) {
    let turn = |server: &Server| streams::turn(server, streams::ARRAY, scale);
    compare(report, scale.build_pairs, &BUILDS, turn, figure);
}
