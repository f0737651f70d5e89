//! `bennu dev` at a terminal: its keys. What it builds and replaces stands in `new.rs`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::new::BUILD;
use crate::support::client::Client;
use crate::support::command::{at_terminal, check_refused, ended, run, said};
use crate::support::http::{get, request};
use crate::support::plugins::Build;
use crate::support::server::{Bench, Server, bennu};

const CONFIG: &str =
    "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[mounts]]\npath = \"/socket\"\n";

#[test]
fn keys_open_the_page_list_routes_and_quit() {
    let bench = Bench::new();
    // Nothing to build.
    fs::create_dir(bench.path("src")).expect("made");
    fs::write(bench.path("src/lib.rs"), "").expect("written");
    fs::write(bench.path("Cargo.toml"), "[package]\nname = \"nothing\"\n[workspace]\n").expect("written");
    bench.write_config(CONFIG);
    // The desktop, as far as it is needed.
    let opener = bench.path("xdg-open");
    fs::write(
        &opener,
        "#!/bin/sh\necho \"$1\" > \"$0.url.new\" && mv \"$0.url.new\" \"$0.url\"\necho opened >/dev/tty\n",
    )
    .expect("written");
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).expect("made to run");
    let path = std::env::var("PATH").expect("a path");
    let mut terminal = at_terminal(|command| {
        let path = format!("{}:{path}", bench.path("").display());
        command.args(["dev", "--config"]).arg(bench.config()).env("PATH", path)
    });
    terminal.exp_string("listening on ").expect("a start");
    let (_, url) = terminal.exp_regex("http://[0-9.:]+").expect("an address");
    terminal.exp_string("o opens the page").expect("the keys");
    terminal.send("o").expect("pressed");
    terminal.flush().expect("pressed");
    terminal.exp_string("opened").expect("a browser");
    let opened = fs::read_to_string(bench.path("xdg-open.url")).expect("an address");
    assert_eq!(opened.trim_end(), url);

    bench.write_config(&format!(
        "{CONFIG}[plugins.gone]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"a:*\"\nplugin = \"gone\"\n"
    ));
    terminal
        .exp_string("rejected")
        .expect("a rejection: the library is echo's");
    bench.write_config(&format!(
        "{CONFIG}[plugins.echo]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"a:*\"\nplugin = \"echo\"\n"
    ));
    terminal.exp_string("configuration replaced").expect("a reload");
    terminal.send("r").expect("pressed");
    terminal.flush().expect("pressed");
    terminal.exp_string("a:*").expect("the route");
    terminal.exp_string("generation 1").expect("its plugin");
    terminal.send("q").expect("pressed");
    terminal.flush().expect("pressed");
    assert_eq!(ended(terminal), 0);
}

#[test]
fn its_help_fits_a_terminal_and_names_each_key() {
    let help = said(0, |command| command.args(["dev", "--help"]));
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for key in ["  o  ", "  r  ", "  h  ", "  q  "] {
        assert!(help.lines().any(|line| line.starts_with(key)), "{key:?} of\n{help}");
    }
}

#[tokio::test]
async fn the_hint_names_a_topic_of_the_first_route() {
    let bench = Bench::new();
    bench.write_config(&format!(
        "{CONFIG}[plugins.echo]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"echo:*\"\nplugin = \"echo\"\n"
    ));
    let server = bench.dev().await;
    let hint = server.log.line(&["bennu call"]).await;
    let call = format!("`bennu call {} echo:1`", server.address);
    assert!(hint.contains(&call), "{hint}");
    let (at, topic) = (server.address.to_string(), "echo:1");
    said(0, |command| command.args(["call", &at, topic, "echo", "{}"]));
}

/// Everything that `dev` says while somebody connects and a library is rejected.
async fn said_by_dev(level: Option<&str>) -> String {
    let bench = Bench::new();
    bench.put_bytes("room", b"not a library\n");
    let server = bench
        .dev_with(|command| match level {
            Some(level) => command.env("BENNU_LOG", level),
            None => command,
        })
        .await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.push("misbehave:1", "log", json!({ "payload": {} })).await;
    server.log.line(&["in a span"]).await;
    server.log.text()
}

#[tokio::test]
async fn the_log_is_short_and_holds_what_must_be_acted_on() {
    let said = said_by_dev(None).await;
    let starts = |with: &str| said.lines().filter(|line| line.starts_with(with)).count();
    assert_eq!(starts("✗ room: plugin not loaded: "), 1, "{said}");
    assert_eq!(
        starts("! misbehave: in a span generation=1 topic=\"misbehave:1\""),
        1,
        "{said}"
    );
    for word in ["INFO", "WARN", "ERROR", "bennu::", "connect connection="] {
        assert!(!said.contains(word), "{word} in\n{said}");
    }
}

#[tokio::test]
async fn a_refused_or_rolled_back_library_is_one_line_that_says_what_holds() {
    let bench = Bench::new();
    let server = bench.dev().await;
    let admin = server.admin().await;
    let load = async |plugin: &str| {
        let answer = request(admin, "PUT", &format!("/plugins/{plugin}/reload"), "", "").await;
        assert_eq!(answer.status, 202);
    };
    let is_said = async |line: &str| assert_eq!(server.log.line(&[line]).await, line);
    bench.put_bytes("echo", b"not a library\n");
    load("echo").await;
    is_said("✗ echo: library rejected; the previous code stays in service: it is not an ELF file").await;

    bench.set("plugins.misbehave", "probation_ms", "60_000");
    server.log.line(&["configuration replaced"]).await;
    bench.put("misbehave", Build::MisbehavePanics);
    load("misbehave").await;
    server.log.line(&["misbehave generation 2"]).await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    for _ in 0..3 {
        client.start("misbehave:1", "count", json!({})).await;
        client.event("misbehave:1", "phx_error").await;
        client.join("misbehave:1", json!({})).await;
    }
    is_said("✗ misbehave: rolled back to generation 1 after 3 panics on probation: no state is lost").await;
}

#[tokio::test]
async fn panics_are_told_with_what_was_called_and_where() {
    let server = Bench::new().dev().await;
    let mut client = Client::joined(&server, "misbehave:1").await;
    client.start("misbehave:1", "thread_panic", json!({})).await;
    server.log.line(&["a spawned thread panicked"]).await;
    for _ in 0..2 {
        client.start("misbehave:1", "panic", json!({})).await;
        client.event("misbehave:1", "phx_error").await;
        client.join("misbehave:1", json!({})).await;
    }
    let line = "✗ misbehave: plugin panicked: handle_in panics (plugins/misbehave/src/asked.rs:";
    server.log.line(&[line]).await;
    let there = get(server.address, "/dev/routes").await.json();
    let plugins = there["plugins"].as_array().expect("a list");
    let misbehave = plugins.iter().find(|plugin| plugin["name"] == "misbehave").expect("it");
    let panics = misbehave["panics"].as_array().expect("a list");
    let part = |part: &str| panics.iter().map(|panic| panic[part].clone()).collect::<Vec<_>>();
    assert_eq!(part("callback"), ["handle_in", "on a thread of its own"]);
    assert_eq!(part("event"), ["panic", ""]);
    assert_eq!(part("topic"), ["misbehave:1", ""]);
    assert_eq!(part("count"), [2, 1]);
    for (said, words) in part("message").iter().zip(["handle_in panics", "a thread panics"]) {
        let said = said.as_str().expect("a text");
        assert!(
            said.starts_with(&format!("{words} (")) && said.contains("asked.rs:"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_level_of_the_configuration_goes_for_the_hosts_warnings_too() {
    for (level, warnings) in [("info", 1), ("error", 0)] {
        let bench = Bench::new();
        bench.set("log", "level", &format!("{level:?}"));
        let server = bench.dev().await;
        bench.set("server", "io_threads", "3");
        server.log.line(&["configuration replaced"]).await;
        assert_eq!(server.log.count(&["restart the server to apply"]), warnings, "{level}");
    }
}

#[tokio::test]
async fn with_bennu_log_the_log_is_in_full() {
    let said = said_by_dev(Some("info")).await;
    for words in [
        "INFO bennu::server::endpoint::connect: connect connection=",
        "ERROR bennu::",
        "WARN misbehave::asked: in a span",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
}

/// A workspace of our own, in which `dev` builds `echo`; of which there is a good library that the configuration names.
pub(crate) fn workspace(source: &str) -> Bench {
    let bench = Bench::new();
    let package =
        |name: &str| format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n");
    for (file, text) in [
        (
            "Cargo.toml",
            package("other") + "path = \"other.rs\"\n[workspace]\nmembers = [\"plugins/*\"]\n",
        ),
        ("other.rs", String::new()),
        ("plugins/echo/Cargo.toml", package("echo")),
        ("plugins/echo/src/lib.rs", source.to_owned()),
    ] {
        let file = bench.path(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, text).expect("written");
    }
    bench.write_config(&format!(
        "{CONFIG}[plugins.echo]\nlibrary = \"libecho.so\"\n[[routes]]\ntopic = \"echo:*\"\nplugin = \"echo\"\n"
    ));
    bench
}

/// `dev` there.
pub(crate) async fn dev(bench: &Bench) -> Server {
    Server::start_within(BUILD, dev_command(bench)).await
}

pub(crate) fn dev_command(bench: &Bench) -> Command {
    let mut command = bennu();
    command.args(["dev", "--config"]).arg(bench.config());
    command
}

#[tokio::test]
async fn ports_that_nobody_has_named_and_that_are_taken_are_exchanged_for_free_ones() {
    let bench = Bench::new();
    let taken: Vec<_> = { [4000, 4001].into_iter() }
        .map(|port| TcpListener::bind(("127.0.0.1", port)))
        .collect();
    bench.write_config("[[mounts]]\npath = \"/socket\"\n");
    let server = bench.dev().await;
    let (clients, admin) = (server.address, server.admin().await);
    for (wanted, got) in [(4000, clients.port()), (4001, admin.port())] {
        assert!(got > 4001, "{got}");
        let taken = format!("port {wanted} is taken, using {got}");
        server.log.line(&[&taken]).await;
    }
    assert_eq!(get(clients, "/").await.status, 200);
    // There it is found by itself: who listens at 4001 may have plugins.
    let plugins = said(0, |command| command.args(["plugins", "--config"]).arg(bench.config()));
    assert_eq!(plugins.lines().count(), 1, "{plugins}");
    let noted = bench.path(".bennu/admin-address");
    assert_eq!(fs::read_to_string(&noted).expect("noted").trim(), admin.to_string());
    // It is none of what has changed since the start.
    bench.append("# changed");
    server.log.line(&["configuration replaced"]).await;
    assert_eq!(server.log.count(&["restart the server to apply"]), 0);

    // One that somebody has named is no other.
    let named = clients.to_string();
    let how = "choose another address with `--listen` or `[server] listen`";
    check_refused(
        |command| {
            let dev = command.args(["dev", "--config"]).arg(bench.config());
            dev.args(["--listen", &named])
        },
        how,
    );
    bench.append(&format!("[server]\nlisten = {named:?}"));
    check_refused(|command| command.args(["dev", "--config"]).arg(bench.config()), how);
    server.stop().await;
    assert!(!noted.exists());
    drop(taken);
}

#[test]
fn without_cargo_or_a_package_that_is_named_by_its_path_it_says_what_to_mend() {
    let bench = workspace("");
    let config = bench.config();
    fn dev<'a>(command: &'a mut Command, config: &Path) -> &'a mut Command {
        command.env_remove("CARGO").args(["dev", "--config"]).arg(config)
    }
    let how = "cannot run cargo: install Rust, or put cargo into PATH";
    check_refused(|command| dev(command, &config).env("PATH", "/nonexistent"), how);
    let manifest = fs::read_to_string(bench.path("Cargo.toml")).expect("read");
    let gone = bench.path("moved");
    let dependency = format!("[dependencies]\nmoved = {{ path = {gone:?} }}\n");
    fs::write(bench.path("Cargo.toml"), manifest + &dependency).expect("written");
    let how = format!(
        "a Cargo.toml of this workspace has the `path` {}, and that folder is gone",
        gone.display()
    );
    let (_, said, complained) = run(|command| dev(command, &config));
    assert!(
        complained.contains(&how) && !complained.contains("bennu new"),
        "{said}{complained}"
    );
    // None of that is mended by another workspace.
    let (_, said, complained) = run(|command| command.env_remove("CARGO").args(["check", "--dev"]).arg(&config));
    let all = said + &complained;
    assert!(all.contains(&how) && !all.contains("bennu new"), "{all}");
}

#[test]
fn a_program_that_asks_at_the_terminal_does_not_hold_it_up_for_ever() {
    let bench = workspace("");
    let cargo = bench.path("cargo");
    fs::write(&cargo, "#!/bin/sh\nread answer </dev/tty\n").expect("written");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("made to run");
    let mut terminal = at_terminal(|command| {
        command
            .args(["dev", "--config"])
            .arg(bench.config())
            .env("CARGO", &cargo)
    });
    terminal.exp_string("run `cargo fetch` yourself").expect("the reason");
    assert_eq!(ended(terminal), 1);
}

#[test]
fn a_cargo_that_is_named_and_a_plugin_that_is_missing_are_told_apart() {
    let bench = workspace("");
    let config = bench.config();
    let how = "cannot run /nonexistent, which the variable CARGO names: unset it";
    let dev = |command: &mut Command| {
        command.args(["dev", "--config"]).arg(&config);
    };
    check_refused(
        |command| {
            dev(command);
            command.env("CARGO", "/nonexistent")
        },
        how,
    );
    fs::write(bench.path("Cargo.toml"), "[workspace]\nmembers = [\"plugins/*\"]\n").expect("written");
    fs::remove_dir_all(bench.path("plugins/echo")).expect("removed");
    let (_, _, complained) = run(|command| {
        dev(command);
        command
    });
    assert!(
        complained.contains("plugins/*: `bennu new NAME` makes one") && !complained.contains("is gone"),
        "{complained}"
    );
}

/// Puts one more package beside those that are there.
fn add_other(bench: &Bench) {
    fs::create_dir_all(bench.path("plugins/other")).expect("made");
    let manifest = "[package]\nname = \"one-more\"\n[lib]\npath = \"lib.rs\"\n";
    fs::write(bench.path("plugins/other/Cargo.toml"), manifest).expect("written");
    fs::write(bench.path("plugins/other/lib.rs"), "").expect("written");
}

#[tokio::test]
async fn a_plugin_whose_folder_goes_is_missed_and_is_built_when_it_is_back() {
    // Without the other one, the workspace is none when the folder is gone.
    for other in [true, false] {
        let bench = workspace("");
        if other {
            add_other(&bench);
        }
        let (place, elsewhere) = (bench.path("plugins/echo"), bench.path("elsewhere"));
        let server = dev(&bench).await;
        // It was built and looked at: it is no plugin.
        server.log.line(&["✗ echo: plugin not loaded"]).await;
        for time in 0..2 {
            fs::rename(&place, &elsewhere).expect("gone");
            let gone = "✗ echo cannot be built: the workspace has no package `echo`; not in service until";
            server.log.nth_line(time, &[gone]).await;
            fs::rename(&elsewhere, &place).expect("back");
            let refused = "✗ echo: library rejected; no code of this plugin is in service";
            server.log.find(BUILD, time, &[refused]).await;
        }
        fs::remove_dir_all(&place).expect("removed");
        server.log.nth_line(2, &["✗ echo cannot be built"]).await;
        for word in ["inotify", "notify", "watch"] {
            assert_eq!(server.log.count(&[word]), 0, "{}", server.log.text());
        }
    }
}

#[tokio::test]
async fn a_plugin_whose_name_is_nearly_that_of_a_package_is_told_so() {
    let bench = workspace("");
    bench.write_config(&format!("{CONFIG}[plugins.ehco]\n"));
    let server = dev(&bench).await;
    server.log.line(&["called ehco. Did you mean [plugins.echo]?"]).await;
}

#[tokio::test]
async fn a_plugin_that_the_configuration_names_is_built_as_soon_as_it_is_made() {
    let bench = workspace("");
    fs::rename(bench.path("plugins"), bench.path("elsewhere")).expect("gone");
    fs::remove_file(bench.library("echo")).expect("removed");
    add_other(&bench);
    let server = dev(&bench).await;
    server
        .log
        .line(&["✗ no package of this workspace is called echo"])
        .await;
    fs::rename(bench.path("elsewhere/echo"), bench.path("plugins/echo")).expect("there");
    let refused = "✗ echo: library rejected; no code of this plugin is in service";
    server.log.line_within(BUILD, &[refused]).await;
}

/// What the page is told of `echo`.
async fn echo(server: &Server) -> Value {
    let there = get(server.address, "/dev/routes").await.json();
    there["plugins"][0].clone()
}

#[tokio::test]
async fn what_does_not_compile_at_first_is_not_served_from_elsewhere_and_its_cause_is_the_compilers() {
    let bench = workspace("fn main( {\n");
    let server = dev(&bench).await;
    server.log.line(&["echo does not compile; not in service until"]).await;
    assert_eq!(server.log.count(&["error: could not compile"]), 1);
    server.log.line(&["No route leads to a plugin in service yet"]).await;
    assert_eq!(server.log.count(&["bennu call"]), 0);
    let check = |echo: Value| {
        assert_eq!(echo["generation"], Value::Null, "{echo}");
        assert_eq!(echo["refusal"]["step"], "build", "{echo}");
        let reason = echo["refusal"]["reason"].as_str().expect("a reason");
        assert!(reason.contains("unclosed delimiter"), "{reason}");
    };
    check(echo(&server).await);
    // Nor when the configuration is read anew.
    bench.append("# changed\n");
    server.log.line(&["configuration replaced"]).await;
    check(echo(&server).await);
    assert_eq!(server.log.count(&["cannot read"]), 0);

    // One that compiles is looked at; this one is no plugin.
    fs::write(bench.path("plugins/echo/src/lib.rs"), "").expect("written");
    server.log.line_within(BUILD, &["echo", "rejected"]).await;
    assert_eq!(echo(&server).await["refusal"]["step"], "manifest");
}

#[tokio::test]
async fn pages_of_other_origins_may_import_its_client() {
    let bench = Bench::new();
    let server = bench.dev().await;
    let client = get(server.address, "/bennu.js").await;
    assert_eq!(
        (client.status, client.header("access-control-allow-origin")),
        (200, Some("*"))
    );
}
