//! The server runs itself to probe a library, whatever has become of its file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, bennu};

#[tokio::test]
async fn a_library_is_probed_by_the_running_program_though_another_is_in_its_place() {
    let bench = Bench::new();
    let program = bench.path("program");
    fs::copy(bennu().get_program(), &program).expect("copied");
    let mut command = Command::new(&program);
    command.envs(bennu().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["serve", "--config"]).arg(bench.config());
    let server = Server::start(command).await;
    server.in_service("echo", 1).await;

    // An update puts the next version in the place of the one that runs: this one notes that it was run.
    let (next, noted) = (bench.path("next"), bench.path("was-run"));
    fs::write(&next, format!("#!/bin/sh\ntouch '{}'\n", noted.display())).expect("written");
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).expect("made to run");
    fs::rename(&next, &program).expect("replaced");
    bench.put_numbered("echo", Build::Echo, 2);
    server.in_service("echo", 2).await;
    assert!(!noted.exists(), "the other program was run as the probe");
}
