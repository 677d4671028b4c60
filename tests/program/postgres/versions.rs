//! Each version of PostgreSQL that the system or `tests/run` has.

use super::{expect, listen, migrate, publish, row, serve};
use crate::support::postgres;

#[test]
fn newer_versions_work_as_well() {
    for major in [16, 17, 18] {
        let postgres = postgres::version(major).expect("tests/run installs it").start();
        let database = postgres.database();
        assert!(database.sql("SHOW server_version").starts_with(&major.to_string()));
        migrate(&database, &["--fence=staging", "--wake-trigger"]);
        migrate(&database, &["--default-prefix="]);
        let server = serve(&database).start();
        let mut socket = listen(&server);
        let late = database.begin(&publish("1"));
        database.sql(&publish("2"));
        expect(&mut socket, &["2"]);
        late.commit();
        database.sql(&row("s", "3"));
        assert_eq!(server.publish(r#"{"stream":"s","data":4}"#).status, 201);
        expect(&mut socket, &["1", "3", "4"]);
        assert!(!server.log().contains("WARN"), "PostgreSQL {major}: {}\n{}", server.log(), postgres.log());
    }
}
