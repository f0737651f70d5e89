//! The example of a server inside of another program, `host/examples/embed.rs`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::{Bench, SECRET, Server};

#[tokio::test]
async fn the_example_serves_a_plugin_from_a_program_of_its_own() {
    let bench = Bench::new();
    let mut command = Command::new(example("embed"));
    command.arg(bench.config()).env("BENNU_SECRET_KEY_BASE", SECRET);
    let server = Server::start(command).await;
    let mut client = Client::joined(&server, "echo:embedded").await;
    let reply = client.push("echo:embedded", "echo", json!({ "from": "outside" })).await;
    assert_eq!(reply, json!({ "from": "outside" }));
}

#[test]
fn the_example_has_less_than_40_lines() {
    let lines = include_str!("../../examples/embed.rs").lines().count();
    assert!(lines < 40, "{lines} lines");
}

/// `cargo test` builds the examples beside the programs.
fn example(name: &str) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_bennu"));
    program.with_file_name("examples").join(name)
}
