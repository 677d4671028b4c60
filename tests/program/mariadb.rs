//! MariaDB: the server of the tests.

use crate::support::mariadb;

#[test]
fn its_server_answers_in_a_transaction_of_another_process() {
    let database = mariadb::shared().database();
    database.sql("CREATE TABLE t (n INT)");
    let mut transaction = database.begin("INSERT INTO t VALUES (1)");
    assert_eq!(transaction.run("SELECT n FROM t"), "1");
    assert_eq!(database.sql("SELECT count(*) FROM t"), "0");
    transaction.commit();
    assert_eq!(database.sql("SELECT count(*) FROM t"), "1");
}
