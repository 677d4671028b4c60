//! What a subscribe command costs the server whose stream's latest message is given with its confirm, beside a plain
//! one: one client that subscribes, waits for all that it is given, and unsubscribes, in pairs of runs. Asked: 1.3
//! times the plain one's CPU at the most.

use crate::Scale;
use crate::databases::pairs::Pairs;
use crate::harness::clients::{PROTOCOL, Subscriber};
use crate::harness::process::Server;
use crate::harness::report::Report;
use crate::messages;
use crate::rules::{CONFIRM, Rule, subscribe, unsubscribe};
use crate::store::Kind;

const STREAMS: usize = 1000;
/// More than the client can say.
const UNLIMITED: [&str; 4] = ["--rate-limit", "1000000", "--rate-burst", "1000000"];

pub fn run(report: &mut Report, scale: &Scale, kind: Kind) {
    let store = kind.store();
    let server = store.serve(&UNLIMITED);
    messages::publish(&server, "job", STREAMS, 1..2);
    for rule in [Rule::State, Rule::Replay] {
        let mut client = Subscriber::open(server.public, PROTOCOL);
        // Each is remembered from now on.
        cost(&server, &mut client, rule, STREAMS);
        let pairs = Pairs::measure(scale.subscribe_pairs, |with| {
            let rule = if with { rule } else { Rule::Plain };
            [cost(&server, &mut client, rule, scale.subscribes)]
        });
        let figure = kind.figure().with("rule", rule.name()).with("subscribes", scale.subscribes);
        report.add(pairs.compare(0, figure.with("unit", "us")));
    }
}

/// Microseconds of the server's for each.
fn cost(server: &Server, client: &mut Subscriber, rule: Rule, count: usize) -> f64 {
    // A plain one leaves nothing behind, and finds nothing.
    let kind = if rule == Rule::Plain { "new" } else { "job" };
    let cpu = server.cpu();
    for number in 0..count {
        let identifier = rule.identifier(kind, number % STREAMS);
        client.say(&subscribe(&identifier));
        let (_, confirm) = client.message().expect("it is confirmed");
        assert!(confirm.ends_with(CONFIRM), "{}", confirm.escape_ascii());
        if rule != Rule::Plain {
            let (_, frame) = client.message().expect("it is given");
            assert_eq!(messages::number(&frame), 1, "it is the latest");
        }
        client.say(&unsubscribe(&identifier));
    }
    (server.cpu() - cpu).as_secs_f64() * 1e6 / count as f64
}
