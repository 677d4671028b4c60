//! Whether a table is the one that was followed.
//!
//! What names a table's life is a row in it, since nothing else goes with DROP and DELETE, and stays
//! with ALTER and VACUUM. The tail reads it in each look, in the look's own snapshot, and never writes
//! it: `migrate`, a server's start and its writer do, where it is missing. A copy of the file has the
//! row too, so that the file counts as well: one that was restored leads a life of its own.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::FileId;
use super::schema::timestamps;
use crate::bus::hash::life_name;

const SQL: &str = include_str!("../../../migrations/sqlite/history.sql");

/// Which life of the table a reader has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub file: FileId,
    /// What the row says; None where it is missing.
    pub life: Option<Vec<u8>>,
}

impl History {
    /// The same for all who read this life of the table.
    pub fn name(&self) -> Option<u64> {
        let life = String::from_utf8_lossy(self.life.as_ref()?);
        Some(life_name(&format!("sqlite {} {life}", self.file.1)))
    }

    /// Whether this is the life that was followed. A row that was missing may have been put back.
    pub fn follows(&self, before: &Self) -> bool {
        self.file == before.file && (before.life.is_none() || self.life == before.life)
    }
}

pub async fn read(connection: &mut SqliteConnection, table: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let sql = format!(r#"SELECT CAST(payload AS BLOB) FROM "{table}" WHERE id = -1"#);
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(connection).await
}

/// The statement that writes a row for a table without one.
pub fn script(table: &str, has_updated_at: bool) -> String {
    let never = "'9999-12-31 00:00:00'";
    SQL.replace("{{table}}", table)
        .replace("{{timestamps}}", timestamps(has_updated_at).0)
        .replace("{{never}}", &if has_updated_at { format!("{never}, {never}") } else { never.to_owned() })
}

/// Sees to it that the row is there.
pub async fn keep(
    connection: &mut SqliteConnection,
    table: &str,
    has_updated_at: bool,
) -> Result<(), sqlx::Error> {
    if read(connection, table).await?.is_none() {
        sqlx::raw_sql(AssertSqlSafe(script(table, has_updated_at))).execute(connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(file: u64, life: &str) -> History {
        History { file: FileId(1, file), life: (!life.is_empty()).then(|| life.into()) }
    }

    #[test]
    fn a_copy_of_the_file_leads_a_life_of_its_own() {
        assert_ne!(history(1, "a").name(), history(2, "a").name());
        assert!(!history(2, "a").follows(&history(1, "a")));
    }

    #[test]
    fn a_life_that_had_no_name_may_have_got_one() {
        assert_eq!(history(1, "").name(), None);
        assert!(history(1, "a").follows(&history(1, "")));
        assert!(!history(1, "").follows(&history(1, "a")), "the row is gone, and perhaps all others");
        assert!(!history(1, "b").follows(&history(1, "a")));
    }
}
