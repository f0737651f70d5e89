//! What `bennu dev` builds and when, and what it leaves when it ends.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::dev::{dev, dev_command, workspace};
use crate::new::BUILD;
use crate::support::DEADLINE;
use crate::support::server::{Bench, Log, Server, spawned};

/// A build script that names itself and its parent, cargo, in the pipe `running`, and then never ends.
const ENDLESS: &str = r#"fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
    std::fs::write("running", format!("{own} {parent}")).unwrap();
    loop { std::thread::park() }
}"#;

fn write(bench: &Bench, file: &str, text: &str) {
    let file = bench.path(file);
    fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    // As editors do: whole at once.
    let new = file.with_extension("new~");
    fs::write(&new, text).expect("written");
    fs::rename(new, file).expect("saved");
}

/// Puts a build script that never ends into `echo`. The pipe tells which processes run then.
fn hold_builds_up(bench: &Bench) -> PathBuf {
    let running = bench.path("plugins/echo/running");
    mknodat(CWD, &running, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    write(bench, "plugins/echo/build.rs", ENDLESS);
    running
}

/// The processes of the build: whoever reads the pipe waits for its writer.
async fn processes(running: &Path) -> Vec<Pid> {
    let running = running.to_owned();
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(running).expect("told"));
    let told = tokio::time::timeout(BUILD, read)
        .await
        .expect("the build script runs")
        .expect("read");
    let ids = told.split(' ').map(|id| id.parse().expect("a number"));
    ids.map(|id| Pid::from_raw(id).expect("not 0")).collect()
}

/// Waits until processes that are not ours have ended.
fn until_gone(processes: &[Pid]) {
    let deadline = Instant::now() + DEADLINE;
    for process in processes {
        let folder = format!("/proc/{}", process.as_raw_nonzero());
        // One that nobody has reaped yet has ended all the same.
        let runs = || fs::read_to_string(format!("{folder}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            assert!(Instant::now() < deadline, "{folder} is left");
            std::thread::yield_now();
        }
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it runs");
}

#[tokio::test]
async fn a_signal_during_the_first_build_ends_cargo_and_all_that_it_has_started() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let bench = workspace("");
        let running = hold_builds_up(&bench);
        let (mut child, _log) = spawned(dev_command(&bench));
        let processes = processes(&running).await;
        send(&child, signal);
        assert!(child.wait().expect("it ends").success(), "{signal:?}");
        until_gone(&processes);
    }
}

#[tokio::test]
async fn a_signal_during_a_later_build_ends_it_while_the_server_still_drains() {
    let bench = workspace("");
    let mut server = dev(&bench).await;
    let running = hold_builds_up(&bench);
    write(&bench, "plugins/echo/src/lib.rs", "//! Saved.\n");
    let processes = processes(&running).await;
    server.signal(Signal::INT);
    until_gone(&processes);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_build_that_waits_for_another_cargo_says_so() {
    let bench = workspace("");
    let server = dev(&bench).await;
    let lock = File::open(bench.path("target/debug/.cargo-lock")).expect("cargo's");
    lock.lock().expect("locked");
    write(&bench, "plugins/echo/src/lib.rs", "pub fn saved() {}\n");
    let waits = ["! waiting for cargo's lock on the", "directory: another cargo runs"];
    server.log.line_within(BUILD, &waits).await;
    lock.unlock().expect("unlocked");
    nth_result(&server.log, 1).await;
}

#[tokio::test]
async fn a_second_dev_in_one_workspace_says_that_there_is_another() {
    let bench = workspace("");
    let first = dev(&bench).await;
    let second = dev(&bench).await;
    let other = format!("another `bennu dev` (process {}) builds this workspace", first.pid());
    second.log.line(&[&other]).await;
    assert_eq!(first.log.count(&["another `bennu dev`"]), 0);
}

/// Waits for the result of one more build of `echo`, which is no plugin, so that each library is rejected: after `before` others.
async fn nth_result(log: &Log, before: usize) {
    log.find(BUILD, before, &["✗ echo"]).await;
}

/// Saves files one by one; each save must have a result.
async fn each_has_a_result(bench: &Bench, server: &Server, saves: &[(&str, &str)]) {
    for (file, text) in saves {
        let before = server.log.count(&["✗ echo"]);
        write(bench, file, text);
        nth_result(&server.log, before).await;
    }
}

#[tokio::test]
async fn what_cargo_and_the_compiler_name_is_a_source_wherever_it_is() {
    let bench = workspace(
        "pub mod target;\npub mod linked;\n#[path = \".hidden/deep.rs\"]\npub mod deep;\n\
         pub const TEXT: &str = include_str!(\"../../../texts/outside.txt\");\n",
    );
    let saved = [
        ("plugins/echo/src/target/mod.rs", "pub const N: u8 = 1;\n"),
        ("elsewhere/mod.rs", "pub mod more;\n"),
        ("elsewhere/more.rs", "pub const N: u8 = 1;\n"),
        ("plugins/echo/src/.hidden/deep.rs", "pub const N: u8 = 1;\n"),
        ("texts/outside.txt", "one\n"),
        ("texts/of the script.txt", "one\n"),
        (
            "plugins/echo/build.rs",
            "fn main() { println!(\"cargo::rerun-if-changed=../../texts/of the script.txt\"); }\n",
        ),
    ];
    for (file, text) in saved {
        write(&bench, file, text);
    }
    symlink(bench.path("elsewhere"), bench.path("plugins/echo/src/linked")).expect("linked");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    for (file, text) in saved {
        each_has_a_result(&bench, &server, &[(file, &format!("{text}\n\n"))]).await;
    }
    // What the folder of the plugin does not hold and nobody names is none.
    let before = server.log.count(&["✗ echo"]);
    write(&bench, "texts/unused.txt", "one\n");
    each_has_a_result(&bench, &server, &[("texts/outside.txt", "three\n")]).await;
    assert_eq!(server.log.count(&["✗ echo"]), before + 1);
}

#[tokio::test]
async fn a_file_that_the_compiler_misses_is_a_source_before_it_exists() {
    let bench = workspace("pub const TEXT: &str = include_str!(\"../../../texts/outside.txt\");\n");
    fs::create_dir(bench.path("texts")).expect("made");
    let server = dev(&bench).await;
    server
        .log
        .line(&["✗ echo does not compile; not in service until you fix and save it"])
        .await;
    each_has_a_result(&bench, &server, &[("texts/outside.txt", "one\n")]).await;
    server.log.line(&["✗ echo: library rejected"]).await;
}

#[tokio::test]
async fn cargos_settings_count_for_all_plugins_and_are_quiet_if_they_change_nothing() {
    let bench = workspace("#[cfg(broken)]\ncompile_error!(\"as the settings say\");\n");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    write(
        &bench,
        ".cargo/config.toml",
        "[build]\nrustflags = [\"--cfg\", \"broken\"]\n",
    );
    server.log.line_within(BUILD, &["as the settings say"]).await;
    server.log.line_within(BUILD, &["✗ echo does not compile"]).await;
    let before = server.log.count(&["✗ echo"]);
    // Cargo compiles nothing for a comment.
    write(
        &bench,
        ".cargo/config.toml",
        "# Nothing.\n[build]\nrustflags = [\"--cfg\", \"broken\", \"--cfg\", \"more\"]\n",
    );
    nth_result(&server.log, before).await;
}

#[tokio::test]
async fn what_another_cargo_builds_meanwhile_is_not_served() {
    let bench = workspace("#[unsafe(no_mangle)]\npub static LOUD: bool = cfg!(feature = \"loud\");\n");
    let manifest = fs::read_to_string(bench.path("plugins/echo/Cargo.toml")).expect("read");
    write(
        &bench,
        "plugins/echo/Cargo.toml",
        &format!("{manifest}[features]\nloud = []\n"),
    );
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    let ours = fs::read(bench.path("target/debug/libecho.dev-1.so")).expect("a copy");
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo
        .current_dir(bench.path(""))
        .args(["build", "-q", "-p", "echo", "--features", "loud"]);
    assert!(cargo.status().expect("cargo").success());
    assert!(fs::read(bench.path("target/debug/libecho.so")).expect("a library") != ours);
    // A save that changes nothing finds that nothing has changed.
    let source = fs::read_to_string(bench.path("plugins/echo/src/lib.rs")).expect("read");
    write(&bench, "plugins/echo/src/lib.rs", &source);
    server
        .log
        .line_within(
            BUILD,
            &[
                "echo: built in",
                "this library was rejected before; no code of this plugin",
            ],
        )
        .await;
    // In one line.
    assert_eq!(server.log.count(&["rejected before"]), 1);
    assert_eq!(server.log.count(&["has not changed since it was rejected"]), 0);
    assert!(fs::read(bench.path("target/debug/libecho.dev-1.so")).expect("a copy") == ours);
}

/// A build script that writes into its own package; cargo therefore runs it for each build.
const WRITES: &str = r#"fn main() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    std::fs::write("src/made.rs", format!("pub const N: u128 = {};", now.as_nanos())).unwrap();
}"#;

#[tokio::test]
async fn what_builds_write_themselves_starts_no_builds_without_end() {
    let bench = workspace("pub mod made;\n");
    write(&bench, "plugins/echo/build.rs", WRITES);
    let server = dev(&bench).await;
    let made = ["! echo: each build writes", "plugins/echo/src/made.rs"];
    server.log.line_within(BUILD, &made).await;
    nth_result(&server.log, 2).await;
    let before = server.log.count(&["✗ echo"]);
    // Whoever saves something has it built, once.
    each_has_a_result(&bench, &server, &[("plugins/echo/src/lib.rs", "pub mod made;\n\n")]).await;
    each_has_a_result(&bench, &server, &[("plugins/echo/build.rs", "fn main() {}\n")]).await;
    each_has_a_result(&bench, &server, &[("plugins/echo/src/made.rs", "")]).await;
    assert_eq!(server.log.count(&["✗ echo"]), before + 3);
}

#[tokio::test]
async fn a_file_that_is_put_back_is_built() {
    let bench = workspace("fn main( {\n");
    fs::rename(bench.path("plugins/echo/src/lib.rs"), bench.path("kept")).expect("kept");
    write(&bench, "plugins/echo/src/lib.rs", "");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    fs::rename(bench.path("kept"), bench.path("plugins/echo/src/lib.rs")).expect("back");
    server.log.line_within(BUILD, &["✗ echo does not compile"]).await;
}

#[tokio::test]
async fn a_package_that_has_another_name_is_missed() {
    let bench = workspace("");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    let manifest = fs::read_to_string(bench.path("plugins/echo/Cargo.toml")).expect("read");
    write(&bench, "plugins/echo/Cargo.toml", &manifest.replace("echo", "hello"));
    let missed = "✗ echo cannot be built: the workspace has no package `echo`";
    server.log.line_within(BUILD, &[missed]).await;
    // A plugin may get the package, in whichever folder.
    let config = fs::read_to_string(bench.config()).expect("read");
    bench.write_config(&config.replace("echo", "greeter"));
    server
        .log
        .line(&["no package of this workspace is called greeter"])
        .await;
    write(&bench, "plugins/echo/Cargo.toml", &manifest.replace("echo", "greeter"));
    server.log.line_within(BUILD, &["✗ greeter: library rejected"]).await;
}

#[tokio::test]
async fn a_workspace_that_cargo_cannot_read_is_said_once_for_all() {
    let bench = workspace("");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    let manifest = fs::read_to_string(bench.path("Cargo.toml")).expect("read");
    write(&bench, "Cargo.toml", &format!("{manifest}mistake = [\n"));
    server.log.line_within(BUILD, &["✗ echo does not compile"]).await;
    assert_eq!(server.log.count(&["error: unclosed array"]), 1, "{}", server.log.text());
    // That it is mended is said as well, though cargo has nothing to compile.
    write(&bench, "Cargo.toml", &manifest);
    server.log.line_within(BUILD, &["✗ echo: library rejected"]).await;
}

#[tokio::test]
async fn a_relative_target_directory_is_where_a_cargo_in_the_same_folder_has_it() {
    let bench = workspace("pub const TEXT: &str = include_str!(\"../../../texts/outside.txt\");\n");
    write(&bench, "texts/outside.txt", "one\n");
    let mut command = dev_command(&bench);
    command
        .current_dir(bench.path("texts"))
        .env("CARGO_TARGET_DIR", "built");
    let server = Server::start_within(BUILD, command).await;
    nth_result(&server.log, 0).await;
    assert!(bench.path("texts/built/debug/libecho.dev-1.so").exists());
    each_has_a_result(&bench, &server, &[("texts/outside.txt", "two\n")]).await;
}

#[tokio::test]
async fn sources_are_found_in_a_target_directory_that_is_set_meanwhile() {
    let bench = workspace("pub const TEXT: &str = include_str!(\"../../../texts/outside.txt\");\n");
    write(&bench, "texts/outside.txt", "one\n");
    let server = dev(&bench).await;
    nth_result(&server.log, 0).await;
    let elsewhere = "[build]\ntarget-dir = \"elsewhere\"\n";
    each_has_a_result(&bench, &server, &[(".cargo/config.toml", elsewhere)]).await;
    fs::remove_dir_all(bench.path("target")).expect("removed");
    for text in ["two\n", "three\n"] {
        each_has_a_result(&bench, &server, &[("texts/outside.txt", text)]).await;
    }
}
