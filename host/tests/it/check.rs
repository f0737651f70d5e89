//! `bennu check`, for configurations with their libraries and for libraries alone.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::command::{run, said};
use crate::support::plugins::Build;
use crate::support::server::Bench;

fn checked(bench: &Bench, code: i32) -> String {
    said(code, |command| command.arg("check").arg(bench.config()))
}

/// What a check of a library says, as JSON.
fn library(build: Build, settings: &str, code: i32) -> Value {
    let said = said(code, |command| {
        command
            .arg("check")
            .arg(build.path())
            .args(["--json", "--settings", settings])
    });
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let said = checked(&Bench::new(), 0);
    assert!(
        said.contains("good for `bennu serve` (mounts: 3, plugins: 3, routes: 3); --serve also starts the plugins"),
        "{said}"
    );
}

#[test]
fn a_configuration_that_serves_nobody_is_said_to() {
    let bench = Bench::new();
    for (text, lacks, warnings) in [
        (
            "",
            &[
                "there is no mount",
                "there is no plugin",
                "`bennu new NAME --route` makes one",
            ][..],
            2,
        ),
        ("[[mounts]]\npath = \"/socket\"\n", &["there is no plugin"], 1),
        (
            "[[mounts]]\npath = \"/socket\"\nconnect = \"echo\"\n[plugins.echo]\nlibrary = \"libecho.so\"\n",
            &["there is no route: no client can join a topic"],
            1,
        ),
    ] {
        bench.write_config(text);
        let shown = checked(&bench, 0);
        for words in lacks {
            assert!(shown.contains(words), "{words} is missing in\n{shown}");
        }
        let last = shown.lines().last().unwrap_or_default();
        assert!(last.contains(&format!(", {warnings} warning")), "{shown}");
    }
}

#[test]
fn mistakes_in_the_file_and_in_its_libraries_are_shown_together_each_at_its_line() {
    let bench = Bench::new();
    bench.set("server", "io_threads", "0");
    bench.put_bytes("echo", b"not a library\n");
    bench.set("plugins.room", "settings", "{ max_history = \"ten\" }");
    bench
        .append("[[routes]]\ntopic = \"rooms:*\"\nplugin = \"rom\"\n[[routes]]\ntopic = \"room:*\"\nplugin = \"room\"");
    let shown = checked(&bench, 1);
    assert_eq!(shown.lines().last(), Some("5 mistakes"), "{shown}");
    let config = bench.read_config();
    for (line, words) in [
        ("io_threads = 0", "`io_threads` must be from 1 to"),
        (
            "library = \"libecho.so\"",
            "the plugin `echo` is rejected: it is not an ELF file (step `check`)",
        ),
        (
            "settings = { max_history = \"ten\" }",
            "the plugin `room` refuses its settings: `max_history` must be a whole number, 0 or more, not a string",
        ),
        ("plugin = \"rom\"", "did you mean `room`?"),
        ("topic = \"room:*\"", "there are two routes for `room:*`"),
    ] {
        let number = 1 + config.lines().position(|found| found == line).expect(line);
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
        assert!(
            shown.contains(&format!("{number} | {line}")),
            "{line} is missing in\n{shown}"
        );
    }
}

#[test]
fn scripts_get_the_same_as_json() {
    let bench = Bench::new();
    bench.append("[[routes]]\ntopic = \"room:*\"\nplugin = \"room\"");
    let said = said(1, |command| command.arg("check").arg(bench.config()).arg("--json"));
    let verdict: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&verdict["good"], &verdict["for"]), (&json!(false), &json!("serve")));
    let [twice] = verdict["diagnostics"].as_array().expect("a list").as_slice() else {
        panic!("{said}")
    };
    let line_of = |nth: usize| {
        let config = bench.read_config();
        let lines: Vec<_> = config
            .lines()
            .enumerate()
            .filter(|(_, line)| *line == "topic = \"room:*\"")
            .collect();
        lines[nth].0 + 1
    };
    assert_eq!((&twice["level"], &twice["line"]), (&json!("error"), &json!(line_of(1))));
    assert_eq!(
        twice["also"],
        json!({ "line": line_of(0), "column": 9, "label": "the first" })
    );
}

#[test]
fn a_library_is_told_about_and_probed() {
    let shown = said(0, |command| command.arg("check").arg(Build::MisbehaveV2.path()));
    assert!(shown.starts_with("plugin      misbehave "), "{shown}");
    assert!(shown.contains("state       version 2, and reads 1 to 2\n"), "{shown}");
    assert!(shown.contains("probe       passed in "), "{shown}");
    assert!(
        shown.ends_with("libmisbehave-v2.so: good as the library of [plugins.misbehave]\n"),
        "{shown}"
    );
    let room = library(Build::Room, "{\"max_history\": 3}", 0);
    assert_eq!(
        (&room["plugin"], &room["good"], &room["channel"]),
        (&json!("room"), &json!(true), &json!(true))
    );
}

#[test]
fn the_room_shows_what_settings_it_takes() {
    let schema = said(0, |command| {
        command.args(["schema", "--plugin"]).arg(Build::Room.path())
    });
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let known = |settings: Value| jsonschema::is_valid(&schema, &settings);
    assert!(known(json!({ "max_history": 10 })) && known(json!({})));
    assert!(!known(json!({ "max_history": "ten" })) && !known(json!({ "max_histroy": 10 })));
    let says = schema["properties"]["max_history"]["description"].as_str();
    assert!(says.is_some_and(|says| says.contains("Default 50")), "{schema}");
}

#[test]
fn a_library_that_a_host_would_refuse_is_refused() {
    let room = library(Build::Room, "{\"max_histroy\": 3}", 1);
    assert_eq!((&room["step"], &room["code"]), (&json!("probe"), &json!("settings")));
    assert_eq!(room["message"], "it has no setting `max_histroy`");
    let shown = said(1, |command| {
        command
            .arg("check")
            .arg(Build::Room.path())
            .args(["--settings", "{\"max_histroy\": 3}"])
    });
    assert!(
        shown.ends_with(
            "is rejected (step `probe`): it has no setting `max_histroy`\n  = help: did you mean `max_history`?\n"
        ),
        "{shown}"
    );
    let bench = Bench::new();
    bench.put_bytes("echo", b"not a library\n");
    let shown = said(1, |command| command.arg("check").arg(bench.library("echo")));
    assert!(
        shown.contains("is rejected (step `check`): it is not an ELF file"),
        "{shown}"
    );
    let (output, _, complained) = run(|command| command.args(["check", "/no/such/libroom.so"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complained.starts_with("error: there is no library /no/such/libroom.so"),
        "{complained}"
    );
}

#[test]
fn settings_that_are_no_object_are_refused_before_anything_else() {
    let (output, _, complained) = run(|command| command.args(["check", "x.so", "--settings", "3"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(complained.contains("write a JSON object"), "{complained}");
}

/// A workspace with the package `room`, whose configuration names more.
struct Workspace(Bench);

impl Workspace {
    fn new() -> Self {
        let bench = Bench::new();
        bench.write_config(
            "[[mounts]]\npath = \"/socket\"\n\n[[routes]]\ntopic = \"room:*\"\nplugin = \"room\"\n\n[plugins.room]\n",
        );
        let package = "[package]\nname = \"room\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
        fs::create_dir(bench.path("src")).expect("made");
        fs::write(bench.path("Cargo.toml"), package).expect("written");
        fs::write(bench.path("src/lib.rs"), "").expect("written");
        Self(bench)
    }

    /// Puts a library where `bennu dev` builds, with the list of what it is built from, as cargo writes it.
    fn put_built(&self) {
        let (library, folder) = (Build::Room.bytes(), self.0.path("target/debug"));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("libroom.so"), library).expect("written");
        let list = format!("/libroom.so: {}\n", self.0.path("src/lib.rs").display());
        fs::write(folder.join("libroom.d"), list).expect("written");
    }

    fn save_later(&self) {
        let source = fs::File::options().write(true).open(self.0.path("src/lib.rs"));
        let later = SystemTime::now() + Duration::from_secs(60);
        source.and_then(|file| file.set_modified(later)).expect("saved");
    }

    fn checked(&self, code: i32) -> String {
        said(code, |command| {
            command
                .args(["check", "--dev"])
                .arg(self.0.config())
                .env("CARGO_TARGET_DIR", self.0.path("target"))
        })
    }
}

const UNBUILT: &str =
    "note: these plugins were not built since their last change, so they and their settings are not checked: room\n";

#[test]
fn a_plugin_that_dev_finds_no_package_for_is_a_mistake() {
    let workspace = Workspace::new();
    workspace.0.append("[plugins.rooom]\n[plugins.chat]\n");
    let shown = workspace.checked(1);
    for words in [
        "error: no package of this workspace is called `rooom`",
        "[plugins.rooom]\n   |          ^^^^^",
        "help: did you mean `room`? If not, `bennu new rooom` makes it",
        "help: `bennu new chat` makes it",
        UNBUILT,
    ] {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
    assert!(shown.ends_with("2 mistakes, 2 warnings\n"), "{shown}");
    // One that is here as a library alone needs none.
    workspace.0.set("plugins.rooom", "library", "\"libecho.so\"");
    workspace.0.set("plugins.chat", "library", "\"nowhere.so\"");
    let shown = workspace.checked(1);
    assert!(
        shown.contains("the configuration calls it `rooom`, but the library is the plugin `echo`"),
        "{shown}"
    );
    assert!(
        shown.contains("no package of this workspace is called `chat`"),
        "{shown}"
    );
}

#[test]
fn dev_is_checked_with_the_libraries_that_it_has_built_while_their_source_is_as_it_was() {
    let workspace = Workspace::new();
    workspace.0.set("plugins.room", "settings", "{ max_histroy = 3 }");
    let shown = workspace.checked(0);
    assert!(
        shown.starts_with(UNBUILT) && shown.contains("good for `bennu dev`"),
        "{shown}"
    );
    workspace.put_built();
    let shown = workspace.checked(1);
    assert!(
        shown.contains("^^^^^^^^^^^\n") && shown.contains("help: did you mean `max_history`?"),
        "{shown}"
    );
    assert!(!shown.contains("note"), "{shown}");
    workspace.save_later();
    assert!(workspace.checked(0).starts_with(UNBUILT));
    fs::remove_file(workspace.0.path("Cargo.toml")).expect("removed");
    let shown = workspace.checked(1);
    assert!(
        shown.contains("`bennu dev` has no workspace to build: cargo cannot read the workspace"),
        "{shown}"
    );
}

#[test]
fn a_library_that_is_not_built_comes_with_what_builds_it() {
    let bench = Bench::new();
    bench.set("plugins.echo", "library", "\"target/release/libecho.so\"");
    bench.set("plugins.room", "library", "\"target/debug/libroom.so\"");
    bench.set("plugins.misbehave", "library", "\"elsewhere/libmisbehave.so\"");
    let shown = checked(&bench, 1);
    for words in [
        "help: build it with `cargo build --release -p echo`, or check with --dev, which needs no library",
        "help: build it with `cargo build -p room`, or check with --dev, which needs no library",
        "help: put it there, or check with --dev, which needs no library",
    ] {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
}

#[test]
fn what_is_neither_configuration_nor_library_is_said_to_be_so() {
    let workspace = Workspace::new();
    let source = workspace.0.path("src/lib.rs");
    fs::write(&source, "//! A plugin.\nfn main() {}\n").expect("written");
    let (output, _, complained) = run(|command| command.arg("check").arg(&source));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complained.contains("lib.rs is no configuration (TOML) and no library (.so): name one"),
        "{complained}"
    );
}

/// `bennu serve` and `bennu check --serve` with the same surroundings: both refuse, with the same words. With `plain`, so does
/// `bennu check`.
#[track_caller]
fn check_predicted(bench: &Bench, change: impl Fn(&mut Command) -> &mut Command, plain: bool, words: &str) {
    let (output, _, complained) = run(|command| change(command.args(["serve", "--config"]).arg(bench.config())));
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(complained.contains(words), "{words} is missing in\n{complained}");
    let (output, said, _) = run(|command| change(command.args(["check", "--serve"]).arg(bench.config())));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{words} is missing in\n{said}");
    let (output, said, _) = run(|command| change(command.arg("check").arg(bench.config())));
    assert_eq!(output.status.code(), Some(i32::from(plain)), "{said}");
    assert_eq!(said.contains(words), plain, "{said}");
}

#[test]
fn check_refuses_what_serve_refuses_with_the_same_words() {
    fn same(command: &mut Command) -> &mut Command {
        command
    }
    fn without_secret(command: &mut Command) -> &mut Command {
        command.env_remove("BENNU_SECRET_KEY_BASE")
    }
    let bench = Bench::new();
    check_predicted(
        &bench,
        without_secret,
        true,
        "there is no secret_key_base: set BENNU_SECRET_KEY_BASE",
    );
    check_predicted(
        &bench,
        |command| command.env("BENNU_SECRET_KEY_BASE", "short"),
        true,
        "the secret_key_base from BENNU_SECRET_KEY_BASE has 5 bytes, but needs at least 64",
    );
    bench.set("server", "secret_key_base_file", "\"secret\"");
    check_predicted(&bench, without_secret, true, "cannot read the secret_key_base from");
    fs::write(bench.path("secret"), "short\n").expect("written");
    check_predicted(&bench, without_secret, true, "has 5 bytes, but needs at least 64");

    let bench = Bench::new();
    bench.set("admin", "listen", "\"0.0.0.0:0\"");
    check_predicted(&bench, same, true, "the admin listener 0.0.0.0:");
    check_predicted(&bench, same, true, "set BENNU_ADMIN_SECRET, or listen on 127.0.0.1");
    check_predicted(
        &bench,
        |command| command.env("BENNU_ADMIN_SECRET", "short"),
        true,
        "BENNU_ADMIN_SECRET has 5 bytes, but needs at least 16",
    );

    let bench = Bench::new();
    bench.set("plugins.misbehave", "settings", "{ init = \"refuse\" }");
    check_predicted(&bench, same, false, "the plugin did not start: refused on request");
    bench.set("plugins.misbehave", "settings", "{ init = \"panic\" }");
    check_predicted(&bench, same, false, "panics on request");
    bench.set("plugins.misbehave", "settings", "{ init = \"hang\" }");
    bench.set("plugins.misbehave", "deadline_ms", "300");
    check_predicted(&bench, same, false, "the plugin did not start within 300 ms");
    bench.set("plugins.misbehave", "settings", "{ check = \"refuse\" }");
    check_predicted(&bench, same, true, "refuses its settings: refused on request");

    let bench = Bench::new();
    bench.set("server", "stage_dir", "\"bennu.toml\"");
    check_predicted(&bench, same, true, "cannot make a folder for copies of libraries in");

    let bench = Bench::new();
    bench.set("server", "listen", "\"192.0.2.1:4000\"");
    check_predicted(&bench, same, false, "cannot listen on 192.0.2.1:4000");
    let port = free_port();
    bench.set("server", "listen", &format!("\"127.0.0.1:{port}\""));
    bench.set("admin", "listen", &format!("\"127.0.0.1:{port}\""));
    check_predicted(&bench, same, false, &format!("cannot listen on 127.0.0.1:{port}"));
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

#[test]
fn an_address_that_is_taken_is_a_warning_as_the_server_to_be_replaced_may_have_it() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its number");
    bench.set("server", "listen", &format!("\"{address}\""));
    let said = said(0, |command| command.args(["check", "--serve"]).arg(bench.config()));
    let line = 1 + bench
        .read_config()
        .lines()
        .position(|line| line.starts_with("listen"))
        .expect("set");
    for words in [
        &format!("warning: cannot listen on {address}")[..],
        &format!("bennu.toml:{line}:1"),
        "`bennu serve` starts once the address is free",
        "good for `bennu serve` (mounts: 3, plugins: 3, routes: 3), 1 warning",
    ] {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
}

#[test]
fn with_serve_all_plugins_that_do_not_start_are_shown() {
    let bench = Bench::new();
    bench.set("plugins.misbehave", "settings", "{ init = \"refuse\" }");
    bench.put_bytes("echo", b"not a library\n");
    bench.set("plugins.room", "settings", "{ max_history = \"ten\" }");
    let shown = said(1, |command| command.args(["check", "--serve"]).arg(bench.config()));
    for words in [
        "the plugin `misbehave` is rejected: the plugin did not start: refused on request (step `load`)",
        "the plugin `echo` is rejected: it is not an ELF file (step `check`)",
        "the plugin `room` refuses its settings: `max_history` must be a whole number",
        "\n3 mistakes\n",
    ] {
        assert!(shown.contains(words), "{words} is missing in\n{shown}");
    }
    assert!(!bench.path("state/quarantine").exists(), "it only asks");
}
