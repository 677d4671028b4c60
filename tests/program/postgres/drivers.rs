//! Publishing by SQL through drivers as people use them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{expect, listening};

/// Made by `tests/run`: drivers aren't in the system's own packages.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(path.exists(), "{} is missing: tests/run installs it", path.display());
    path
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

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
    installed("tests/drivers/node_modules/pg");
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", program, "--", &database.url()]);
    run(node.current_dir(installed("tests/drivers/package.json").parent().unwrap()));
    expect(&mut socket, &["1", r#"{"n":2}"#, "[3]", "4", "5"]);
}
