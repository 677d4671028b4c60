//! Publishing by SQL through drivers as people use them.

use std::process::Command;

use sqlx::{Connection, Executor, PgConnection, Postgres, QueryBuilder, Row};

use super::{expect, listening, row};
use crate::support::{installed, node, run};

#[test]
fn psycopg_publishes_in_its_transactions() {
    let (database, _server, mut socket) = listening();
    let program = r#"
import sys, json, psycopg
insert = "INSERT INTO tablecast_publish (stream, data) VALUES (%s, %s)"
with psycopg.connect(sys.argv[1]) as db:
    db.execute(insert, ("s", json.dumps({"n": 1})))
    db.execute(insert, ("s", "2"), prepare=True)
    assert db.execute(insert + " RETURNING id", ("s", "3")).fetchone()[0] > 2
    db.cursor().executemany(insert, [("s", "4"), ("s", "5")])
    with db.pipeline():
        db.execute(insert, ("s", "6"))
        db.execute(insert, ("s", "7"))
    with db.cursor().copy("COPY tablecast_publish (stream, data) FROM STDIN") as copy:
        copy.write_row(("s", "8"))
    try:
        with db.transaction():
            db.execute(insert, ("s", "nope"))
    except psycopg.DataError as error:
        assert "invalid input syntax for type json" in str(error), error
    else:
        raise SystemExit("it was taken")
    db.execute(insert, ("s", "9"))
from psycopg.types.json import Jsonb
with psycopg.connect(sys.argv[1], autocommit=True) as db:
    db.execute(insert, ("s", Jsonb({"n": 10})))
    psycopg.ClientCursor(db).execute(insert, ("s", '"11"'))
"#;
    run(Command::new(installed("target/test-python/bin/python")).args(["-c", program, &database.url()]));
    expect(&mut socket, &[r#"{"n": 1}"#, "2", "3", "4", "5", "6", "7", "8", "9", r#"{"n": 10}"#, r#""11""#]);
}

#[test]
fn sqlalchemy_publishes_with_its_session() {
    let (database, _server, mut socket) = listening();
    let program = r#"
import sys
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, create_engine, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
engine = create_engine(sys.argv[1].replace("postgres://", "postgresql+psycopg://"))
publish = Table("tablecast_publish", MetaData(), Column("stream", Text), Column("data", Text))
class Base(DeclarativeBase): pass
class Message(Base):
    __tablename__ = "tablecast_publish"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    stream: Mapped[str]
    data: Mapped[str]
with Session(engine) as session:
    session.execute(text("INSERT INTO tablecast_publish (stream, data) VALUES (:stream, :data)"), {"stream": "s", "data": "1"})
    session.execute(insert(publish), [{"stream": "s", "data": "2"}, {"stream": "s", "data": "3"}])
    message = Message(stream="s", data="4")
    session.add(message)
    session.flush()
    assert message.id > 3, message.id
    with session.begin_nested() as nested:
        session.execute(insert(publish), {"stream": "s", "data": '"rolled back"'})
        nested.rollback()
    session.commit()
    session.execute(insert(publish), {"stream": "s", "data": '"rolled back, too"'})
    session.rollback()
    session.execute(insert(publish), {"stream": "s", "data": "5"})
    session.commit()
"#;
    run(Command::new(installed("target/test-python/bin/python")).args(["-c", program, &database.url()]));
    expect(&mut socket, &["1", "2", "3", "4", "5"]);
    socket.nothing_else();
}

#[test]
fn node_postgres_publishes_with_and_without_prepared_statements() {
    let (database, _server, mut socket) = listening();
    let program = r#"
import pg from "pg";
const client = new pg.Client(process.argv.at(-1));
await client.connect();
const text = "INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2) RETURNING id";
await client.query("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1')");
await client.query(text, ["s", { n: 2 }]);
const answer = await client.query({ name: "publish", text, values: ["s", JSON.stringify([3])] });
if (!(answer.rows[0].id > 2)) throw new Error(JSON.stringify(answer.rows));
await client.query({ name: "publish", text, values: ["s", 4] });
await client.query("BEGIN");
await client.query(text, ["s", "5"]);
await client.query("COMMIT");
await client.end();
"#;
    node(program, &database.url());
    expect(&mut socket, &["1", r#"{"n":2}"#, "[3]", "4", "5"]);
}

const INSERT: &str = "INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)";

#[tokio::test]
async fn sqlx_publishes_by_the_extended_and_the_simple_protocol() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = PgConnection::connect(&database.url()).await?;

    let published = sqlx::query(INSERT).bind("s").bind(r#"{"n": 1}"#).execute(&mut db).await?;
    sqlx::query(INSERT).bind("s").bind("2").persistent(false).execute(&mut db).await?;
    sqlx::raw_sql(
        "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '3');
         INSERT INTO tablecast_publish (stream, data) VALUES ('s', '4'), ('s', '5')",
    )
    .execute(&mut db)
    .await?;
    let returning = "INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2) RETURNING id";
    let first: i64 = sqlx::query_scalar(returning).bind("s").bind("6").fetch_one(&mut db).await?;
    let second: i64 = db
        .fetch_one("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '7') RETURNING id")
        .await?
        .try_get("id")?;
    QueryBuilder::<Postgres>::new("INSERT INTO tablecast_publish (stream, data) ")
        .push_values(["8", "9"], |mut row, data| {
            row.push_bind("s").push_bind(data);
        })
        .build()
        .execute(&mut db)
        .await?;
    sqlx::query("INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM unnest($1::text[]) AS n")
        .bind(["10", "11"])
        .execute(&mut db)
        .await?;
    let mut copy = db.copy_in_raw("COPY tablecast_publish (stream, data) FROM STDIN").await?;
    copy.send("s\t12\ns\t13\n".as_bytes()).await?;
    copy.finish().await?;

    assert_eq!(published.rows_affected(), 1);
    assert!(6 <= first && first < second, "{first}, {second}");
    expect(&mut socket, &[r#"{"n": 1}"#]);
    expect(&mut socket, &["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"]);
    socket.nothing_else();
    Ok(())
}

#[tokio::test]
async fn sqlx_publishes_in_a_transaction_of_its_own() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = PgConnection::connect(&database.url()).await?;

    let mut transaction = db.begin().await?;
    sqlx::query(INSERT).bind("s").bind("1").execute(&mut *transaction).await?;
    let mut savepoint = transaction.begin().await?;
    let refused = sqlx::query(INSERT).bind("s").bind("nope").execute(&mut *savepoint).await.unwrap_err();
    savepoint.rollback().await?;
    sqlx::raw_sql("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '2')")
        .execute(&mut *transaction)
        .await?;
    socket.nothing_else();
    transaction.commit().await?;
    let mut dropped = db.begin().await?;
    sqlx::query(INSERT).bind("s").bind("\"dropped\"").execute(&mut *dropped).await?;
    drop(dropped);
    sqlx::query(INSERT).bind("s").bind("3").execute(&mut db).await?;

    assert!(refused.to_string().contains("invalid input syntax for type json"), "{refused}");
    expect(&mut socket, &["1", "2", "3"]);
    socket.nothing_else();
    Ok(())
}

#[tokio::test]
async fn sqlx_writes_straight_into_the_table() -> Result<(), sqlx::Error> {
    let (database, _server, mut socket) = listening();
    let mut db = PgConnection::connect(&database.url()).await?;
    let bound = "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT $1, n, timezone('UTC', now()), ('x' || encode(substr(sha256($1), 1, 8), 'hex'))::bit(64)::bigint
         FROM unnest($2::bytea[]) AS n RETURNING id";

    for (persistent, data) in [(true, [b"1", b"2"]), (false, [b"3", b"4"])] {
        let query = sqlx::query_scalar(bound).bind(b"s").bind(data.map(|n| &n[..]));
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
