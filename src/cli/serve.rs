use std::future::pending;
use std::io::IsTerminal;
use std::sync::Arc;

use axum::Router;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Outcome, finish};
use crate::bus::{Database, DefaultPrefix, Migration, Wake};
use crate::config::{Config, Group, Values, args};
use crate::server::Server;
use crate::telemetry::{LogFormat, install_metrics};
use crate::tls::Certificates;

pub fn command() -> Command {
    Command::new("serve")
        .about("Serve (also without a command)")
        .long_about(
            "Follows the table and delivers its messages to browsers.\n\n\
             A setting is a flag, else an environment variable, else a key of the settings file \
             (poll_interval for --poll-interval), else its default.",
        )
        .args(args(&Group::ALL))
        .arg(
            Arg::new("migrate")
                .long("migrate")
                .action(ArgAction::SetTrue)
                .help("Create or upgrade the table first, as `tablecast migrate` does; on SQLite that is always done")
                .help_heading(Group::Database.heading()),
        )
}

pub async fn run(matches: &ArgMatches, mut values: Values, log: LogFormat) -> Outcome {
    let config = Config::resolve(&mut values);
    finish(values)?;
    if matches.get_flag("migrate") {
        let default_prefix = DefaultPrefix::Initial(config.bus.prefix.clone());
        let notify = (config.bus.wake == Wake::Notify).then_some(true);
        let migration = Migration { default_prefix, notify, ..Migration::default() };
        Database::new(&config.bus).migrate(&migration).await?;
    }
    // It may come while the database is waited for.
    let hangups = signal(SignalKind::hangup())?;
    let server = Server::bind(config, Router::new(), install_metrics()?).await?;
    // Who reads that it listens may end it at once.
    let stop = stop_signal()?;
    let terminal_gone = reload_on_hangup(server.certificates(), hangups);
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = terminal_gone => {}
        }
    };
    for line in server.describe() {
        match log {
            LogFormat::Text => println!("{line}"),
            LogFormat::Json => tracing::info!("{line}"),
        }
    }
    Ok(server.run(stop).await?)
}

/// What SIGHUP asks of a server. It resolves where it says that the terminal was closed that the
/// server was started at: nobody is there who could end it.
fn reload_on_hangup(
    certificates: Option<Arc<Certificates>>,
    mut hangups: Signal,
) -> impl Future<Output = ()> {
    let at_terminal = std::io::stderr().is_terminal();
    async move {
        while hangups.recv().await.is_some() {
            if at_terminal && !std::io::stderr().is_terminal() {
                return;
            }
            match &certificates {
                Some(certificates) => certificates.reload(),
                None => tracing::info!("SIGHUP is ignored: without --tls-cert there is nothing to reload"),
            }
        }
        pending().await
    }
}

/// SIGTERM or SIGINT; the second one doesn't wait for anybody.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    })
}
