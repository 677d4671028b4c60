//! What the program tells its operators: logs and metrics.

mod metrics;
mod throttle;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use metrics::{Metrics, install as install_metrics, metrics};
pub use throttle::OnceAMinute;

/// How log lines are written, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging. `filter` is a level (`info`) or directives (`tablecast=debug,sqlx=warn`).
pub fn install_logs(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        // It would be told by a panic: where a terminal is gone, the rest of the server isn't.
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
    Ok(())
}
