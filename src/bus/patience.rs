use std::time::Duration;

use tokio::time::timeout;

/// How long opening a connection may take, and how long a statement of the tail.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Fails what takes too long: a server that is paused, or a network that drops everything,
/// never answers.
pub async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("the database did not answer within {} s", PATIENCE.as_secs());
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
        }
    }
}
