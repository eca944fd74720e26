//! A file of 100,000 rows through the real binary.

use std::fmt::Write as _;
use std::process::{Command, Output};

use crate::process::Server;

const ROWS: usize = 100_000;

fn import(server: &Server, file: &std::path::Path) -> Output {
    let endpoint = format!("http://{}", server.client);
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
    command
        .args(["kv", "import", "users"])
        .arg(file)
        .args(["--endpoint", &endpoint]);
    command.output().unwrap()
}

#[test]
fn a_file_of_100_000_rows_is_imported_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let mut rows = String::from("key,value\n");
    for row in 0..ROWS {
        writeln!(rows, "user{row:06}/cart,\"value, {row}\"").unwrap();
    }
    let file = directory.path().join("rows.csv");
    std::fs::write(&file, rows).unwrap();
    let output = import(&server, &file);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");

    // The request ids follow from the file, so a second import finds everything done that is still
    // remembered, and sets the rest to the same values.
    let output = import(&server, &file);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let users = server.connect().keyspace("users");
        for row in (0..ROWS).step_by(997).chain([ROWS - 1]) {
            let entry = users
                .get(format!("user{row:06}/cart"))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(entry.value, format!("value, {row}"));
        }
        assert!(
            users.get("key").await.unwrap().is_none(),
            "the header became a row"
        );
    });
    server.kill();
}

#[test]
fn a_bad_row_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let file = directory.path().join("rows.csv");
    std::fs::write(
        &file,
        format!("good/1,v\n,no key\n{},long\n", "k".repeat(1025)),
    )
    .unwrap();
    let output = import(&server, &file);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "bad rows went unnoticed: {text}");
    assert!(text.contains('2'), "the line is not named: {text}");
    server.kill();
}
