//! The command line: one file a command.
//!
//! Exit codes: 0 done; 1 it failed, and standard error says why; 2 the command line or a
//! setting is wrong. `watch` has two more of its own.

mod check;
mod demo;
mod migrate;
mod publish;
mod serve;
mod sign;
mod token;
mod verify_cookie;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::config::{LogConfig, Values};
use crate::telemetry;

/// How a command that didn't succeed ends.
pub enum Failure {
    /// It failed.
    Failed(anyhow::Error),
    /// It was asked for in a way that can't be done.
    Usage(anyhow::Error),
    /// It has said why, and wants this exit code.
    Code(u8),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Outcome = Result<(), Failure>;

pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    // `tablecast --listen …` is `tablecast serve --listen …`.
    let first = arguments.get(1).and_then(|first| first.to_str()).unwrap_or("-");
    if first.starts_with('-') && !matches!(first, "-h" | "--help" | "-V" | "--version") {
        arguments.insert(1, "serve".into());
    }
    let matches = command().get_matches_from(arguments);
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    match run(name, matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            eprintln!("tablecast: {error:#}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(error)) => {
            eprintln!("tablecast: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Code(code)) => ExitCode::from(code),
    }
}

fn command() -> Command {
    Command::new("tablecast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Background jobs' progress to browsers: Action Cable over a database table, beside workers in any language")
        .after_help("Without a command it serves. `tablecast serve --help` lists every setting.")
        .override_usage("tablecast [COMMAND]")
        .subcommand_required(true)
        .arg_required_else_help(false)
        .subcommands([
            serve::command(),
            demo::command(),
            publish::command(),
            watch::command(),
            sign::command(),
            token::command(),
            migrate::command(),
            check::command(),
            verify_cookie::command(),
            demo::jobs_command(),
        ])
}

fn run(name: &str, matches: &ArgMatches) -> Outcome {
    // The demo touches nothing but its own, whatever the environment and the folder say.
    let is_demo = [demo::DEMO, demo::JOBS].contains(&name);
    let mut values = if is_demo { Values::isolated(matches) } else { Values::gather(matches) };
    let logs = LogConfig::resolve(&mut values);
    telemetry::install_logs(logs.format, &logs.filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match name {
            "serve" => serve::run(matches, values, logs.format).await,
            demo::DEMO => demo::run(matches, values).await,
            "publish" => publish::run(matches, values).await,
            "watch" => watch::run(matches, values).await,
            "sign" => sign::run(matches, values),
            "token" => token::run(matches, values),
            "migrate" => migrate::run(matches, values).await,
            "check" => check::run(values).await,
            "verify-cookie" => verify_cookie::run(matches, values),
            demo::JOBS => demo::run_jobs(matches).await,
            _ => unreachable!("clap knows the commands"),
        }
    });
    // A read of standard input that nobody waits for any more must not hold the end.
    runtime.shutdown_background();
    outcome
}

/// Settings that are wrong are told all at once.
fn finish(values: Values) -> Outcome {
    values.finish().map_err(|error| Failure::Usage(error.into()))
}
