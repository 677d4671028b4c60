//! Whether a table is the one that was followed, with all that was read of it.
//!
//! What a crash or a failover may lose is the end of the write-ahead log. Commits that were
//! seen lie below a place in it that was read after the snapshot; once the log has been flushed
//! up to there they are *settled*: no crash loses them, and a replica that was promoted has
//! them if its log reaches as far. Of rows that were seen and are not settled yet each one is
//! looked for, by its id and its transaction.

use std::collections::VecDeque;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;

use crate::bus::hash::life_name;

/// Which life of the table a reader has seen, and up to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The cluster's. A replica has its primary's.
    system: i64,
    /// Each promotion and each restore to a point in time begins one.
    timeline: i32,
    /// Dropping and making the table anew changes it.
    table: Oid,
    /// TRUNCATE … RESTART IDENTITY changes the file of the table's sequence. (So does any ALTER
    /// SEQUENCE, which counts as a new history too.)
    filenode: Oid,
    /// All that was seen was committed below here in the log, but for what is unsettled.
    pub settled_to: u64,
    /// Rows that were seen when the log was inserted up to a place, and not flushed.
    unsettled: VecDeque<(u64, Rows)>,
}

/// Rows, by id and transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub ids: Vec<i64>,
    pub xids: Vec<u32>,
}

impl Rows {
    pub fn push(&mut self, id: i64, xid: u32) {
        self.ids.push(id);
        self.xids.push(xid);
    }
}

/// What a server says of its own past.
#[derive(Debug, Clone)]
pub struct Past {
    /// Where its log ended when it was promoted. None if it hasn't been, or was restarted since:
    /// then nobody tells.
    promoted_at: Option<u64>,
    /// The end of its log now.
    log_end: u64,
}

impl History {
    /// What [`read`](Self::read) takes. A standby refuses it.
    ///
    /// `pg_last_wal_replay_lsn()` keeps telling the length of the log that was replayed after a
    /// promotion. A crash's recovery sets it too, but then `pg_last_wal_receive_lsn()` is NULL.
    pub const SQL: &str = "
        SELECT s.system_identifier,
               ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int4,
               (pg_current_wal_insert_lsn() - '0/0')::text,
               CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL
                    THEN (pg_last_wal_replay_lsn() - '0/0')::text END,
               extract(epoch FROM clock_timestamp())::int8
        FROM pg_control_system() AS s";

    pub fn read(row: &PgRow, table: Oid, filenode: Oid) -> Result<(Self, Past), sqlx::Error> {
        let log_end = lsn(row.try_get(2)?)?;
        let promoted_at = row.try_get::<Option<&str>, _>(3)?.map(lsn).transpose()?;
        let history = Self {
            system: row.try_get(0)?,
            timeline: row.try_get(1)?,
            table,
            filenode,
            settled_to: 0,
            unsettled: VecDeque::new(),
        };
        Ok((history, Past { promoted_at, log_end }))
    }

    /// The same for all who read this life of the table.
    pub fn name(&self) -> Option<u64> {
        let Self { system, timeline, table, filenode, .. } = self;
        Some(life_name(&format!("postgresql {system} {timeline} {} {}", table.0, filenode.0)))
    }

    /// A look has shown `rows`, and then the log was inserted and flushed up to here.
    pub fn saw(&mut self, rows: Rows, inserted_to: u64, flushed_to: u64) {
        if !rows.ids.is_empty() {
            self.unsettled.push_back((inserted_to, rows));
        }
        while let Some((place, _)) = self.unsettled.pop_front_if(|(place, _)| *place <= flushed_to) {
            self.settled_to = place;
        }
    }

    /// Rows that a table must have to go on with this.
    pub fn unsettled(&self) -> Rows {
        let mut all = Rows::default();
        for (_, rows) in &self.unsettled {
            all.ids.extend(&rows.ids);
            all.xids.extend(&rows.xids);
        }
        all
    }

    /// Whether this, of a server with this `past`, goes on with what was settled before.
    pub fn follows(&self, past: &Past, before: &Self) -> bool {
        let same_table =
            self.system == before.system && self.table == before.table && self.filenode == before.filenode;
        let same_log = if self.timeline == before.timeline {
            // A disk that was set back has the timeline, and an earlier end.
            past.log_end >= before.settled_to
        } else {
            self.timeline == before.timeline + 1
                && past.promoted_at.is_some_and(|end| end >= before.settled_to)
        };
        same_table && same_log
    }
}

/// A place in the write-ahead log, from what `lsn - '0/0'` gives.
pub fn lsn(text: &str) -> Result<u64, sqlx::Error> {
    text.parse().map_err(|error: std::num::ParseIntError| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(timeline: i32, settled_to: u64) -> History {
        let unsettled = VecDeque::new();
        History { system: 1, timeline, table: Oid(2), filenode: Oid(3), settled_to, unsettled }
    }

    fn past(promoted_at: Option<u64>, log_end: u64) -> Past {
        Past { promoted_at, log_end }
    }

    #[test]
    fn rows_are_settled_once_the_log_was_flushed_as_far_as_they_were_seen() {
        let mut history = history(1, 0);
        let mut rows = Rows::default();
        rows.push(7, 99);

        history.saw(rows.clone(), 100, 90);
        assert_eq!((history.settled_to, history.unsettled()), (0, rows));

        history.saw(Rows::default(), 120, 100);
        assert_eq!((history.settled_to, history.unsettled()), (100, Rows::default()));
    }

    #[test]
    fn a_restart_goes_on_and_a_disk_that_was_set_back_does_not() {
        let before = history(1, 100);
        assert!(history(1, 0).follows(&past(None, 100), &before));
        assert!(!history(1, 0).follows(&past(None, 99), &before));
    }

    #[test]
    fn a_replica_that_had_every_row_goes_on() {
        let before = history(1, 100);
        assert!(history(2, 0).follows(&past(Some(100), 200), &before));
        assert!(!history(2, 0).follows(&past(Some(99), 200), &before), "it lost rows");
        assert!(!history(2, 0).follows(&past(None, 200), &before), "nobody can tell");
        assert!(!history(3, 0).follows(&past(Some(150), 200), &before), "two promotions");
    }

    #[test]
    fn another_cluster_another_table_or_another_sequence_is_another_history() {
        let before = history(1, 100);
        for other in [
            History { system: 9, ..before.clone() },
            History { table: Oid(9), ..before.clone() },
            History { filenode: Oid(9), ..before.clone() },
        ] {
            assert!(!other.follows(&past(None, 200), &before), "{other:?}");
        }
    }
}
