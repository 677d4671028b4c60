//! Asking InnoDB whether a transaction has its hands on some ids.

use super::Database;
use super::connect::{Purpose, Session, code};
use super::holes::Answer;
use super::read::{required, within};
use crate::bus::gaps::IdRange;
use crate::bus::patience::in_time;

/// By a connection beside the one that holds the start's snapshot: there locks would stay.
pub struct Locks {
    session: Session,
    table: String,
}

impl Locks {
    pub async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let session = Session::open(&database.0.options, Purpose::Tail).await?;
        Ok(Self { session, table: database.0.table.clone() })
    }

    pub async fn ask(&mut self, holes: &[IdRange]) -> Result<Answer, sqlx::Error> {
        let lock = if self.session.server.is_mariadb { "LOCK IN SHARE MODE" } else { "FOR SHARE" };
        let (table, ids) = (&self.table, within(holes));
        let sql = format!("SELECT m.id FROM `{table}` AS m FORCE INDEX (PRIMARY) WHERE {ids} {lock} NOWAIT");
        match in_time(self.session.rows(sql)).await {
            Ok(rows) => Ok(Answer::Rows(rows.iter().map(|row| required(row, 0)).collect::<Result<_, _>>()?)),
            // MariaDB's answer and MySQL's.
            Err(error) if matches!(code(&error), Some(1205 | 3572)) => Ok(Answer::Locked),
            Err(error) => Err(error),
        }
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}
