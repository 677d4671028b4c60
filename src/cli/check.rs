use clap::Command;

use super::{Failure, Outcome, finish};
use crate::bus::Database;
use crate::config::{Config, Group, Values, args};
use crate::identity::lookup::{Lookup, LookupConfig};
use crate::tls::Files;

pub fn command() -> Command {
    Command::new("check")
        .about("Read the settings and the database, and say what is wrong (exit status 1)")
        .args(args(&Group::ALL))
}

pub async fn run(mut values: Values) -> Outcome {
    let config = Config::resolve(&mut values);
    finish(values)?;
    println!("settings: good");
    // At once: the database may not even answer.
    let tls_is_good = config.tls.as_ref().is_none_or(check_tls);
    let combinations = config.facts.unsafe_combinations();
    for combination in &combinations {
        println!("wrong: {combination}");
    }
    let sessions_are_good = match &config.identification.lookup {
        Some(sessions) => check_sessions(sessions).await,
        None => true,
    };

    let database = Database::new(&config.bus);
    let schema = database.inspect().await?;
    println!(
        "{database}: table {} is good, made by {}",
        config.bus.table,
        if schema.made_by_tablecast { "tablecast" } else { "Rails or another" }
    );

    let mut faults = schema.advice;
    if !schema.publishing {
        faults.push("SQL can't publish here: run `tablecast migrate`".to_owned());
    } else if schema.default_prefix != config.bus.prefix {
        // As it should be for all but one of the prefixes that share a table.
        println!(
            "note: an INSERT without a prefix goes to {}, and a server with these settings serves {}: workers name \
             the prefix or have a view of their own (migrate --fence); `tablecast migrate --default-prefix {:?}` would \
             turn those of all workers to it",
            schema.default_prefix,
            config.bus.prefix,
            config.bus.prefix.as_str()
        );
    } else {
        println!("an INSERT without a prefix goes to {}", schema.default_prefix);
    }
    let open = config.channels.describe();
    if open.is_nothing() {
        faults.push(
            "nobody can subscribe to anything: no [[channel]], --public-channel, --public-streams or key for signed names"
                .to_owned(),
        );
    }
    for (whom, what) in [
        ("to everybody", open.everybody),
        ("with a signed name", open.signed),
        ("to who is identified", open.identified),
    ] {
        if !what.is_empty() {
            println!("open {whom}: {}", what.join(", "));
        }
    }
    for fault in &faults {
        println!("wrong: {fault}");
    }
    let is_good = faults.is_empty() && combinations.is_empty() && tls_is_good && sessions_are_good;
    if is_good { Ok(()) } else { Err(Failure::Code(1)) }
}

async fn check_sessions(config: &LookupConfig) -> bool {
    let lookup = Lookup::new(config);
    let columns = lookup.check().await;
    match &columns {
        Ok(columns) => println!("sessions in {lookup}: the query is good, and gives {}", columns.join(", ")),
        Err(error) => println!("wrong: {error}"),
    }
    columns.is_ok()
}

fn check_tls(files: &Files) -> bool {
    let pair = files.load();
    match &pair {
        Ok(pair) if pair.is_expired() => println!("wrong: TLS with {pair}"),
        Ok(pair) => println!("TLS with {pair}"),
        Err(error) => println!("wrong: {error}"),
    }
    pair.is_ok_and(|pair| !pair.is_expired())
}
