use std::io::Write;

use anyhow::anyhow;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Failure, Outcome, finish};
use crate::bus::{BusConfig, Database, DefaultPrefix, Migration, Wake};
use crate::config::{Group, Values, args};
use crate::stream::Prefix;

pub fn command() -> Command {
    Command::new("migrate")
        .about("Create or upgrade the table, and what publishing by SQL needs")
        .args(args(&[Group::Database, Group::Operation]))
        .arg(
            Arg::new("default-prefix")
                .long("default-prefix")
                .value_name("PREFIX")
                .help("From now on an INSERT without a prefix goes to this one; an empty one is none [default: what it was, at first --channel-prefix]"),
        )
        .arg(
            Arg::new("fence")
                .long("fence")
                .value_name("PREFIX")
                .action(ArgAction::Append)
                .help("Make tablecast_publish_PREFIX, which publishes under this prefix alone: for roles that may write no other"),
        )
        .arg(
            Arg::new("wake-trigger")
                .long("wake-trigger")
                .action(ArgAction::SetTrue)
                .help("PostgreSQL: let rows that Rails writes wake servers too, by a trigger on its table"),
        )
        .arg(
            Arg::new("notify")
                .long("notify")
                .value_name("SWITCH")
                .value_parser(["on", "off"])
                .help("PostgreSQL: whether publishing wakes servers, with which PREPARE TRANSACTION fails [default: as it is; at first on where max_prepared_transactions is 0]"),
        )
        .arg(Arg::new("print").long("print").action(ArgAction::SetTrue).help("Print the SQL instead of running it"))
        .arg(
            Arg::new("uninstall")
                .long("uninstall")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["print", "default-prefix"])
                .help("Drop what was created beside the table of messages"),
        )
}

pub async fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let config = BusConfig::resolve(&mut values);
    finish(values)?;
    let default_prefix = match matches.get_one::<String>("default-prefix") {
        Some(text) => {
            let prefix = Prefix::new(text);
            DefaultPrefix::Set(
                prefix.map_err(|error| Failure::Usage(anyhow!("--default-prefix {text:?}: {error}")))?,
            )
        }
        None => DefaultPrefix::Initial(config.prefix.clone()),
    };
    let database = Database::new(&config);
    let fences = matches.get_many::<String>("fence").unwrap_or_default();
    let fences: Result<Vec<Prefix>, Failure> = fences
        .map(|text| match Prefix::new(text) {
            Ok(prefix) if prefix.is_none() => Err(Failure::Usage(anyhow!("--fence wants a prefix"))),
            prefix => prefix.map_err(|error| Failure::Usage(anyhow!("--fence {text:?}: {error}"))),
        })
        .collect();
    let migration = Migration {
        default_prefix,
        fences: fences?,
        notify: match matches.get_one::<String>("notify") {
            Some(switch) => Some(switch == "on"),
            None => (config.wake == Wake::Notify).then_some(true),
        },
        wake_trigger: matches.get_flag("wake-trigger"),
    };
    if matches.get_flag("print") {
        match database.plan(&migration).await?.as_str() {
            "" => eprintln!("{database}: nothing to do"),
            // Whoever reads only its beginning is no failure.
            sql => drop(writeln!(std::io::stdout(), "{sql}")),
        }
    } else if matches.get_flag("uninstall") {
        database.uninstall().await?;
        println!(
            "{database}: the views, triggers and tables named tablecast_* are gone; the rows of table {} are as they were",
            config.table
        );
    } else {
        let schema = database.migrate(&migration).await?;
        println!(
            "{database}: table {} is ready; an INSERT without a prefix goes to {}",
            config.table, schema.default_prefix
        );
        for prefix in &migration.fences {
            let view = format!("tablecast_publish_{}", prefix.as_str());
            println!(
                "{view} publishes under prefix {} alone: grant INSERT on it (docs/sql.md)",
                prefix.as_str()
            );
        }
        if !config.prefix.is_none() && config.prefix != schema.default_prefix {
            let prefix = config.prefix.as_str();
            println!("(not to prefix {prefix}: --default-prefix {prefix} changes that)");
        }
    }
    Ok(())
}
