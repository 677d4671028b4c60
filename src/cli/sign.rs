use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tablecast_protocol::signed::StreamKeys;

use super::{Failure, Outcome, finish};
use crate::config::{Group, RailsSecrets, Values, args, signed_names};
use crate::stream::Prefix;

pub fn command() -> Command {
    Command::new("sign")
        .about("Sign a stream's name as Turbo or AnyCable does, and print it")
        .long_about(
            "Signs a stream's name: who has the signed name may listen to the stream. Turbo's key is derived from \
             the first --secret-key-base with the first --rails-key-digest, or is --secret where there is none; \
             AnyCable's is --secret. Where both are there --turbo or --anycable says which.",
        )
        .arg(
            Arg::new("stream")
                .value_name("STREAM")
                .required(true)
                .help("The stream, without a prefix: progress:42"),
        )
        .arg(
            Arg::new("expires")
                .long("expires")
                .value_name("TIME")
                .value_parser(|text: &str| humantime::parse_duration(text))
                .help("How long it may be subscribed with, such as 1h [default: for ever]"),
        )
        .arg(
            Arg::new("turbo")
                .long("turbo")
                .action(ArgAction::SetTrue)
                .conflicts_with("anycable")
                .help("For Turbo::StreamsChannel"),
        )
        .arg(
            Arg::new("anycable")
                .long("anycable")
                .action(ArgAction::SetTrue)
                .help("For $pubsub, the channel of AnyCable's clients"),
        )
        .args(args(&[Group::Connecting, Group::Publishing, Group::Operation]))
}

pub fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let secrets = RailsSecrets::resolve(&mut values);
    let keys = signed_names(&mut values, &secrets);
    finish(values)?;
    let stream = matches.get_one::<String>("stream").expect("it is required");
    Prefix::default().stream(stream).map_err(|error| Failure::Usage(error.into()))?;
    let expires = matches.get_one::<Duration>("expires").map(|lasts| {
        SystemTime::now().checked_add(*lasts).ok_or_else(|| Failure::Usage(anyhow!("--expires is too long")))
    });
    let expires = expires.transpose()?;
    let sign = |keys: &StreamKeys| keys.sign(stream, expires);
    let kind = (matches.get_flag("turbo"), matches.get_flag("anycable"));
    let signed = match (kind, sign(&keys.turbo), sign(&keys.anycable)) {
        ((true, _), turbo, _) => turbo.ok_or(
            "--turbo signs with --secret-key-base (SECRET_KEY_BASE), or with --secret (TABLECAST_SECRET), and \
             neither is set",
        ),
        ((_, true), _, anycable) => {
            anycable.ok_or("--anycable signs with --secret (TABLECAST_SECRET), and it isn't set")
        }
        // Under one key there is nothing to choose.
        (_, Some(turbo), Some(anycable)) if turbo == anycable => Ok(turbo),
        (_, Some(_), Some(_)) => Err("sign with which key? --turbo with what is derived from --secret-key-base \
                                      (SECRET_KEY_BASE), --anycable with --secret (TABLECAST_SECRET)"),
        (_, turbo, anycable) => turbo.or(anycable).ok_or(
            "a name is signed with a key: --secret-key-base (SECRET_KEY_BASE) for Turbo, --secret \
             (TABLECAST_SECRET) for AnyCable",
        ),
    };
    println!("{}", signed.map_err(|reason| Failure::Usage(anyhow!(reason)))?);
    Ok(())
}
