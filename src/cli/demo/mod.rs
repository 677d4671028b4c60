//! `tablecast demo`: the whole way, from a job in another process to a page.

mod jobs;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::serve::stop_signal;
use super::{Failure, Outcome, finish};
use crate::bus::DatabaseUrl;
use crate::bus::sqlite::Location;
use crate::channels::{Channels, Doors, Pattern, Rule};
use crate::config::{Config, Values};
use crate::http::App;
use crate::server::Server;
use crate::telemetry::install_metrics;

pub use jobs::{JOBS, jobs_command, run_jobs};

pub const DEMO: &str = "demo";

pub fn command() -> Command {
    Command::new(DEMO)
        .about("A server on a throw-away database, make-believe jobs in their own process, and a page that shows them")
        .args(["listen", "internal-listen"].map(|flag| {
            Arg::new(flag).long(flag).value_name("ADDRESS").help(
                "A loopback address [default: as for serve, or another port where that is taken]",
            )
        }))
}

const INDEX: &str = include_str!("../../../web/demo/index.html");
const STYLE: &str = include_str!("../../../web/demo/demo.css");
const SCRIPT: &str = include_str!("../../../web/demo/demo.js");
const CLIENT: &str = include_str!("../../../web/tablecast.js");

pub async fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let mut config = Config::resolve(&mut values);
    finish(values)?;
    for (flag, address) in [("listen", &mut config.listen), ("internal-listen", &mut config.internal_listen)]
    {
        if !address.ip().is_loopback() {
            return Err(Failure::Usage(anyhow!(
                "--{flag} {address}: the demo is open to everybody, so it listens on loopback addresses alone"
            )));
        }
        if !matches.contains_id(flag) {
            free_port(address);
        }
    }

    let folder =
        tempfile::Builder::new().prefix("tablecast-demo-").tempdir().context("a folder for the demo")?;
    let database = folder.path().join("demo.db");
    config.bus.url = DatabaseUrl::Sqlite(Location {
        path: database.clone(),
        busy_timeout: std::time::Duration::from_secs(5),
    });
    let stream = "progress:{job_id}".parse().expect("a valid template");
    let doors = Doors {
        rules: vec![Rule::public("ProgressChannel", stream)?],
        public_streams: vec![Pattern::new("progress:*")],
        ..Doors::default()
    };
    config.channels = Channels::new(doors, config.bus.prefix.clone())?;

    let about = json!({ "database": database, "version": env!("CARGO_PKG_VERSION") }).to_string();
    let server = Server::bind(config, pages(about), install_metrics()?).await?;
    let stopped = stop_signal()?;
    // Its standard input ends with this process, however that ends, and then so does it.
    let jobs = tokio::process::Command::new(std::env::current_exe()?)
        .arg(JOBS)
        .arg(&database)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the jobs' process")?;
    println!("open http://{}/", server.public_address());
    println!(
        "database {}; the jobs publish into it from process {}",
        database.display(),
        jobs.id().unwrap_or_default()
    );
    println!(
        "workers may POST to http://{}/broadcast; Ctrl-C ends the demo and removes its database",
        server.internal_address()
    );
    let served = server.run(stopped).await;
    drop(jobs);
    Ok(served?)
}

/// Another port, where the usual one is somebody's.
fn free_port(address: &mut SocketAddr) {
    if TcpListener::bind(*address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse) {
        address.set_port(0);
    }
}

fn pages(about: String) -> Router<Arc<App>> {
    let file = |content_type: &'static str, body: String| {
        get(move || {
            let body = body.clone();
            async move {
                let headers = [
                    (CONTENT_TYPE, content_type),
                    (CACHE_CONTROL, "no-cache"),
                    (
                        CONTENT_SECURITY_POLICY,
                        "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'",
                    ),
                ];
                (headers, body).into_response()
            }
        })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", INDEX.into()))
        .route("/demo.css", file("text/css; charset=utf-8", STYLE.into()))
        .route("/demo.js", file("text/javascript; charset=utf-8", SCRIPT.into()))
        .route("/tablecast.js", file("text/javascript; charset=utf-8", CLIENT.into()))
        .route("/demo.json", file("application/json", about))
}
