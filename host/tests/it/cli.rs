//! The command line, as a user types it.

use std::fs;
use std::process::Command;

use bennu_tools::client::Transport;
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::client::Client;
use crate::support::command::{check_refused, run};
use crate::support::http::{get, plugin};
use crate::support::plugins::Build;
use crate::support::server::{Bench, SECRET, bennu};
use crate::support::within;

fn serve<'a>(command: &'a mut Command, bench: &Bench) -> &'a mut Command {
    command.args(["serve", "--config"]).arg(bench.config())
}

#[test]
fn every_command_explains_itself() {
    for (args, words) in [
        (&["--help"][..], "bennu dev"),
        (&["dev", "--help"], "--listen"),
        (&["serve", "--help"], "BENNU_SECRET_KEY_BASE"),
        (&["check", "--help"], "Exit codes"),
        (&["routes", "--help"], "exit code"),
    ] {
        let (output, said, complained) = run(|command| command.args(args));
        assert!(output.status.success(), "{args:?}: {complained}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn an_argument_that_nobody_knows_is_refused() {
    check_refused(|command| command.args(["serve", "--confg", "bennu.toml"]), "--confg");
    check_refused(|command| command.arg("server"), "server");
    check_refused(|command| command.arg("new"), "required");
}

#[test]
fn in_an_empty_folder_one_is_told_what_makes_a_workspace() {
    let bench = Bench::new();
    let empty = bench.path("empty");
    fs::create_dir(&empty).expect("made");
    for command in ["dev", "serve", "check", "routes"] {
        check_refused(|bennu| bennu.current_dir(&empty).arg(command), "`bennu new NAME`");
    }
    // And where there is nothing but a configuration.
    fs::create_dir(bench.path("config")).expect("made");
    fs::copy(bench.config(), bench.path("config/bennu.toml")).expect("copied");
    bench.set("server", "listen", "\"127.0.0.1:0\"");
    let dev = run(|bennu| bennu.current_dir(&empty).args(["dev", "--listen", "127.0.0.1:0"]));
    let (output, _, complained) = dev;
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(
        complained.contains("could not find `Cargo.toml`") && complained.contains("`bennu new NAME`"),
        "{complained}"
    );
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    for args in [&["serve", "--config"][..], &["check"], &["dev", "--config"]] {
        check_refused(
            |command| command.args(args).arg("/no/such/bennu.toml"),
            "/no/such/bennu.toml",
        );
    }
}

#[tokio::test]
async fn a_printed_secret_is_one_that_serves_and_never_the_same() {
    let print = || run(|command| command.arg("secret")).1;
    let (one, other) = (print(), print());
    assert_ne!(one, other);
    let bench = Bench::new();
    let server = bench
        .serve_with(|command| command.env("BENNU_SECRET_KEY_BASE", one.trim_end()))
        .await;
    Client::connect_by(&server, Transport::LongPoll).await;
}

#[test]
fn a_shell_completes_what_the_completions_say() {
    let script = "source <(\"$BENNU\" completions bash) && COMP_WORDS=(bennu comp) COMP_CWORD=1 && _bennu bennu comp bennu \
                  && echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let output = bash
        .env("BENNU", bennu().get_program())
        .args(["-c", script])
        .output()
        .expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "completions\n");
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        let (output, said, _) = run(|command| command.args(["completions", shell]));
        assert!(output.status.success() && said.contains("completions"), "{shell}");
    }
    check_refused(|command| command.args(["completions", "tcsh"]), "tcsh");
}

#[test]
fn a_bad_configuration_is_shown_with_all_its_mistakes() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "0");
    bench.append("[unheard]\nof = 1");
    let (output, _, complained) = run(|command| serve(command, &bench));
    assert_eq!(output.status.code(), Some(1));
    let (output, said, _) = run(|command| command.arg("check").arg(bench.config()));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said.lines().last(), Some("2 mistakes"));
    for shown in [complained, said] {
        assert_eq!(shown.matches("bennu.toml:").count(), 2, "{shown}");
        assert!(
            shown.contains("io_threads = 0") && shown.contains("[unheard]"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("its number").to_string();
    check_refused(|command| serve(command, &bench).args(["--listen", &address]), &address);
    bench.set("admin", "listen", &format!("\"{address}\""));
    check_refused(|command| serve(command, &bench), &address);
}

#[test]
fn without_a_good_secret_nothing_is_served() {
    let bench = Bench::new();
    check_refused(
        |command| serve(command, &bench).env_remove("BENNU_SECRET_KEY_BASE"),
        "BENNU_SECRET_KEY_BASE",
    );
    let short = "short, and not to be shown";
    check_refused(
        |command| serve(command, &bench).env("BENNU_SECRET_KEY_BASE", short),
        "64",
    );
    let (_, _, complained) = run(|command| serve(command, &bench).env("BENNU_SECRET_KEY_BASE", short));
    assert!(!complained.contains(short), "{complained}");
}

#[tokio::test]
async fn a_secret_may_stand_in_a_file() {
    let bench = Bench::new();
    bench.set("server", "secret_key_base_file", "\"secret\"");
    std::fs::write(bench.path("secret"), format!("{SECRET}\n")).expect("written");
    let server = bench
        .serve_with(|command| command.env_remove("BENNU_SECRET_KEY_BASE"))
        .await;
    let mut client = Client::connect_by(&server, Transport::LongPoll).await;
    client.join("echo:1", json!({})).await;
    assert!(!server.log.text().contains(SECRET));
}

#[test]
fn a_library_that_is_bad_at_the_start_is_refused() {
    let bench = Bench::new();
    bench.put_bytes("room", b"not a library\n");
    check_refused(
        |command| serve(command, &bench),
        "plugin `room` is rejected (step `check`): it is not an ELF file",
    );
    let (_, _, complained) = run(|command| command.args(["serve", "--config"]).arg(bench.config()));
    let help = format!(
        "\n  = help: `bennu check --serve {}` shows all that is wrong",
        bench.config().display()
    );
    assert!(complained.contains(&help), "{complained}");
    bench.put_bytes("room", b"");
    check_refused(|command| serve(command, &bench), "plugin `room` is rejected");
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_says_so_to_everyone_and_ends_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let bench = Bench::new();
        let mut server = bench.serve().await;
        let mut clients = Vec::new();
        // More than go at once.
        for number in 0..5 {
            clients.push(Client::joined(&server, &format!("echo:{number}")).await);
        }
        server.signal(signal);
        for client in &mut clients {
            assert_eq!(client.close_code().await, 1012);
        }
        assert!(server.ended().await.success(), "{signal:?}");
        server.log.line(&["stopped"]).await;
    }
}

#[tokio::test]
async fn a_plugin_that_does_not_end_is_cut_off_in_time() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "sleep", json!({ "ms": 60_000 })).await;
    client.rest().await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_reload_that_waits_for_a_stuck_plugin_is_cut_off_too() {
    let bench = Bench::new();
    let mut server = bench.serve().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "sleep", json!({ "ms": 60_000 })).await;
    client.rest().await;
    bench.put("misbehave", Build::MisbehaveV2);
    // It serves new topics; the one there was is waited for.
    let admin = server.admin().await;
    within("new generation", async {
        while plugin(admin, "misbehave").await["generation"] != 2 {}
    })
    .await;
    server.signal(Signal::TERM);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once() {
    let bench = Bench::new();
    bench.set("server", "shutdown_timeout_ms", "60_000");
    bench.set("server", "drain_batch_interval_ms", "30_000");
    let mut server = bench.serve().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::joined(&server, "misbehave:1").await);
    }
    clients[0].start("misbehave:1", "sleep", json!({ "ms": 60_000 })).await;
    clients[0].rest().await;
    server.signal(Signal::TERM);
    server.log.line(&["closing connections"]).await;
    server.signal(Signal::TERM);
    server.ended().await;
    server.log.line(&["stopping at once"]).await;
}

#[tokio::test]
async fn a_server_that_has_ended_leaves_no_files_behind() {
    let bench = Bench::new();
    let temporary = bench.path("temporary");
    std::fs::create_dir(&temporary).expect("made");
    bench.write_config(&bench.read_config().replace("stage_dir = \"stage\"\n", ""));
    let files = || std::fs::read_dir(&temporary).expect("read").count();
    let server = bench.serve_with(|command| command.env("TMPDIR", &temporary)).await;
    assert_eq!(files(), 1, "libraries are staged");
    assert!(server.stop().await.success());
    assert_eq!(files(), 0);
}

#[tokio::test]
async fn serve_has_no_page() {
    let bench = Bench::new();
    let server = bench.serve().await;
    for path in ["/", "/index.html", "/bennu.js", "/socket"] {
        assert_eq!(get(server.address, path).await.status, 404, "{path}");
    }
}
