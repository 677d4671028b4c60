//! Publishing by SQL through drivers as people use them.

use sqlx::{Connection, MySql, MySqlConnection, QueryBuilder};

use super::{expect, listening, row};
use crate::support::node;

#[test]
fn mysql2_publishes_with_and_without_prepared_statements() {
    let (database, _server, mut socket) = listening();
    let program = r#"
import assert from "node:assert/strict";
import mysql from "mysql2/promise";
const db = await mysql.createConnection(process.argv.at(-1));
const insert = "INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)";
const lastId = async () => (await db.query("SELECT MAX(id) AS id FROM solid_cable_messages"))[0][0].id;
for (const way of ["query", "execute"]) {
  const [one] = await db[way](insert, ["s", JSON.stringify({ by: `${way} it's \\`, n: "1" })]);
  assert.equal(one.affectedRows, 1);
  assert.equal(one.insertId, await lastId());
  await db[way](insert, ["s", 2]);
  const [several] = await db[way](`${insert}, (?, ?)`, ["s", "3", "s", "4"]);
  assert.equal(several.affectedRows, 2);
  assert.equal(several.insertId, await lastId());
  const numbers = "SELECT ? AS n UNION ALL SELECT '6' ORDER BY n";
  const [selected] = await db[way](`INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM (${numbers}) AS numbers`, ["5"]);
  assert.equal(selected.affectedRows, 2);
  const [[returned]] = await db[way](`${insert} RETURNING id`, ["s", "7"]);
  assert.equal(returned.id, await lastId());
  await assert.rejects(db[way](insert, ["s", "nope"]), { sqlState: "45000", message: /data is not JSON/ });

  await db.beginTransaction();
  await db[way](insert, ["s", '"rolled back"']);
  await db.rollback();
  await db.beginTransaction();
  await db[way](insert, ["s", "8"]);
  await db[way](insert, ["s", "9"]);
  await db.commit();
}
await db.query("INSERT INTO tablecast_publish (stream, data) VALUES ?", [[["s", "10"], ["s", "11"]]]);
await db.end();
"#;
    node(program, &database.url());
    for way in ["query", "execute"] {
        expect(&mut socket, &[&format!(r#"{{"by":"{way} it's \\","n":"1"}}"#)]);
        expect(&mut socket, &["2", "3", "4", "5", "6", "7", "8", "9"]);
    }
    expect(&mut socket, &["10", "11"]);
    socket.nothing_else();
}

const INSERT: &str = "INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)";

async fn last_id(db: &mut MySqlConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT MAX(id) FROM solid_cable_messages").fetch_one(db).await
}

#[tokio::test]
async fn sqlx_publishes_by_the_binary_and_the_text_protocol() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = MySqlConnection::connect(&database.url()).await?;

    for (persistent, data) in [(true, r#"{"n": "\\1"}"#), (false, "2")] {
        let query = sqlx::query(INSERT).bind("s").bind(data).persistent(persistent);
        let done = query.execute(&mut db).await?;
        assert_eq!((done.rows_affected(), done.last_insert_id() as i64), (1, last_id(&mut db).await?));
    }
    let text = "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '3')";
    let done = sqlx::raw_sql(text).execute(&mut db).await?;
    assert_eq!((done.rows_affected(), done.last_insert_id() as i64), (1, last_id(&mut db).await?));
    let returning = "INSERT INTO tablecast_publish (stream, data) VALUES (?, ?) RETURNING id";
    let id: i64 = sqlx::query_scalar(returning).bind("s").bind("4").fetch_one(&mut db).await?;
    assert_eq!(id, last_id(&mut db).await?);
    QueryBuilder::<MySql>::new("INSERT INTO tablecast_publish (stream, data) ")
        .push_values(["5", "6"], |mut row, data| {
            row.push_bind("s").push_bind(data);
        })
        .build()
        .execute(&mut db)
        .await?;
    let select = "INSERT INTO tablecast_publish (stream, data) SELECT ?, seq FROM seq_7_to_8 ORDER BY seq";
    sqlx::query(select).bind("s").execute(&mut db).await?;
    sqlx::raw_sql(
        "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '9');
         INSERT INTO tablecast_publish (stream, data) VALUES ('s', '10'), ('s', '11')",
    )
    .execute(&mut db)
    .await?;

    expect(&mut socket, &[r#"{"n": "\\1"}"#, "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);
    socket.nothing_else();
    Ok(())
}

#[tokio::test]
async fn sqlx_publishes_in_a_transaction_of_its_own() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = MySqlConnection::connect(&database.url()).await?;

    let mut transaction = db.begin().await?;
    sqlx::query(INSERT).bind("s").bind("1").execute(&mut *transaction).await?;
    let mut savepoint = transaction.begin().await?;
    sqlx::query(INSERT).bind("s").bind("\"rolled back\"").execute(&mut *savepoint).await?;
    savepoint.rollback().await?;
    let refused = sqlx::query(INSERT).bind("s").bind("nope").execute(&mut *transaction).await.unwrap_err();
    sqlx::raw_sql("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '2')")
        .execute(&mut *transaction)
        .await?;
    socket.nothing_else();
    transaction.commit().await?;
    let mut dropped = db.begin().await?;
    sqlx::query(INSERT).bind("s").bind("\"dropped\"").execute(&mut *dropped).await?;
    drop(dropped);
    sqlx::query(INSERT).bind("s").bind("3").execute(&mut db).await?;

    assert!(refused.to_string().contains("data is not JSON"), "{refused}");
    expect(&mut socket, &["1", "2", "3"]);
    socket.nothing_else();
    Ok(())
}

#[tokio::test]
async fn sqlx_writes_straight_into_the_table() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = MySqlConnection::connect(&database.url()).await?;
    let bound = "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT channel, payload, UTC_TIMESTAMP(6), CAST(CONV(LEFT(SHA2(channel, 256), 16), 16, -10) AS SIGNED)
         FROM (SELECT ? AS channel, ? AS payload UNION ALL SELECT ?, ?) AS messages RETURNING id";

    for (persistent, [first, second]) in [(true, ["1", "2"]), (false, ["3", "4"])] {
        let query = sqlx::query_scalar(bound).bind("s").bind(first).bind("s").bind(second);
        let ids: Vec<i64> = query.persistent(persistent).fetch_all(&mut db).await?;
        assert_eq!(ids.len(), 2);
    }
    let mut transaction = db.begin().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(row("s", "5"))).execute(&mut *transaction).await?;
    transaction.commit().await?;

    expect(&mut socket, &["1", "2", "3", "4", "5"]);
    socket.nothing_else();
    Ok(())
}
