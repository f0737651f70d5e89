//! `bennu new`: from an empty folder to a plugin that is tested, served and replaced, as a new user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;

use crate::support::client::Client;
use crate::support::command::{check_refused, run, said};
use crate::support::server::{Bench, Server, bennu};

/// A build of everything that a plugin needs, on a small and busy machine.
pub(crate) const BUILD: Duration = Duration::from_secs(600);

/// Where the new workspaces are built: the same for all runs, so that only the first builds everything.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugin")
}

/// A folder that is empty but for what `bennu new` makes.
struct World(Bench);

impl World {
    fn new() -> Self {
        let world = Self(Bench::new());
        fs::create_dir(world.path("")).expect("made");
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path("empty").join(path)
    }

    /// A command in one of its folders.
    fn at<'a>(&self, folder: &str, command: &'a mut Command, args: &[&str]) -> &'a mut Command {
        command.current_dir(self.path(folder)).args(args)
    }

    /// Makes a plugin in a workspace of its own, listening at ports of its own.
    fn greeter(&self) {
        let made = said(0, |command| self.at("", command, &["new", "greeter"]));
        assert!(made.contains("created") && made.contains("cd greeter"), "{made}");
        let ports = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        self.edit("greeter/config/bennu.toml", "[[mounts]]", &format!("{ports}[[mounts]]"));
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let file = self.path(file);
        let text = fs::read_to_string(&file).expect("text");
        assert!(text.contains(from), "there is no {from:?} in\n{text}");
        fs::write(file, text.replacen(from, to, 1)).expect("written");
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.path(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, text).expect("written");
    }

    /// Runs its tests, with the same target directory as `dev`.
    fn test(&self) -> Output {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(self.path("greeter"))
            .env("CARGO_TARGET_DIR", target())
            .arg("test");
        cargo.output().expect("cargo")
    }

    async fn dev(&self) -> Server {
        let mut command = bennu();
        command
            .current_dir(self.path("greeter"))
            .env("CARGO_TARGET_DIR", target())
            .arg("dev");
        Server::start_within(BUILD, command).await
    }
}

const SOURCE: &str = "greeter/plugins/greeter/src/lib.rs";
const NO_FIELDS: &str = "struct Member {}";
const ONE_FIELD: &str = "struct Member { #[serde(default)] since: u64 }";

#[tokio::test]
async fn a_new_plugin_is_tested_served_and_replaced() {
    let world = World::new();
    world.greeter();

    let tested = world.test();
    let shown = String::from_utf8_lossy(&tested.stdout) + String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success() && shown.contains("1 passed"), "{shown}");
    assert!(!shown.contains("warning"), "{shown}");
    world.edit(SOURCE, "\"Hello, {name}!\"", "\"Goodbye, {name}!\"");
    assert!(
        !world.test().status.success(),
        "its test fails when the answer is wrong"
    );
    world.edit(SOURCE, "\"Goodbye, {name}!\"", "\"Hello, {name}!\"");

    for args in [&["check", "--dev"][..], &["routes", "greeter:1"]] {
        said(0, |command| world.at("greeter/plugins/greeter", command, args));
    }

    let server = world.dev().await;
    let mut client = Client::joined(&server, "greeter:1").await;
    let greeted = |greeting: &str, number| json!({ "greeting": greeting, "number": number });
    let hello = json!({ "name": "ann" });
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Hello, ann!", 1)
    );

    // A change is live on save, and the state is kept.
    world.edit(SOURCE, "\"Hello, {name}!\"", "\"Welcome, {name}!\"");
    let line = server.log.line_within(BUILD, &["greeter generation 2: built in"]).await;
    assert!(
        line.contains("probed in") && line.contains("1 topic moved in"),
        "{line}"
    );
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Welcome, ann!", 2)
    );
    server
        .log
        .line_within(BUILD, &["greeter generation 1 unloaded in"])
        .await;

    // That nothing came of a save is said.
    world.edit(
        SOURCE,
        "export_plugin!(Member);",
        "export_plugin!(Member); // as it was",
    );
    server
        .log
        .line_within(BUILD, &["greeter: built in ", ", nothing changed"])
        .await;

    // What does not compile is shown as cargo shows it, and changes nothing.
    world.edit(SOURCE, "topic.greet(&name)", "topic.greet(&nam)");
    server
        .log
        .line_within(BUILD, &["error[E0425]: cannot find value `nam`"])
        .await;
    server
        .log
        .line_within(BUILD, &["greeter does not compile; the previous code stays in service"])
        .await;
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Welcome, ann!", 3)
    );

    // Its member may get a field, which may go again below.
    world.edit(SOURCE, NO_FIELDS, ONE_FIELD);
    // A package that it comes to need is watched, too.
    world.write(
        "greeter/words/Cargo.toml",
        "[package]\nname = \"words\"\nversion = \"1.0.0\"\nedition = \"2024\"\n",
    );
    world.write(
        "greeter/words/src/lib.rs",
        "pub const WORD: &str = \"Hi\";\nfn idle() {}\n",
    );
    world.edit(
        "greeter/plugins/greeter/Cargo.toml",
        "[dependencies]",
        "[dependencies]\nwords = { path = \"../../words\" }",
    );
    world.edit(SOURCE, "topic.greet(&nam)", "topic.greet(&name)");
    world.edit(
        SOURCE,
        "format!(\"Welcome, {name}!\")",
        "format!(\"{}, {name}!\", words::WORD)",
    );
    server.log.line_within(BUILD, &["greeter generation 3: built in"]).await;
    // What the compiler warns of is shown as cargo shows it.
    server.log.line(&["warning: function `idle` is never used"]).await;
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Hi, ann!", 4)
    );
    world.edit("greeter/words/src/lib.rs", "Hi", "Ho");
    server.log.line_within(BUILD, &["greeter generation 4: built in"]).await;
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Ho, ann!", 5)
    );
    world.edit(SOURCE, ONE_FIELD, NO_FIELDS);
    server
        .log
        .line_within(
            BUILD,
            &["✗ greeter: library rejected", "`since`: dropped", "STATE_VERSION"],
        )
        .await;
    assert_eq!(
        client.push("greeter:1", "hello", hello.clone()).await,
        greeted("Ho, ann!", 6)
    );

    // One more, in the same workspace, is taken up while it runs.
    let made = said(0, |command| {
        world.at("greeter/plugins", command, &["new", "other-one", "--route"])
    });
    assert!(made.contains("added"), "{made}");
    server
        .log
        .line_within(BUILD, &["other-one generation 1: built in"])
        .await;
    client.join("other-one:1", json!({})).await;
    assert_eq!(
        client.push("other-one:1", "hello", hello).await,
        greeted("Hello, ann!", 1)
    );

    // A setting of one plugin has only that one start anew.
    world.edit(
        "greeter/config/bennu.toml",
        "[plugins.other-one]",
        "[plugins.other-one]\nshards = 3",
    );
    server
        .log
        .line_within(BUILD, &["other-one generation 2: probed in"])
        .await;
    assert_eq!(server.log.count(&["greeter generation 6"]), 0);
}

#[test]
fn a_route_is_suggested_and_not_written_unless_asked_for() {
    let world = World::new();
    world.greeter();
    let config = world.path("greeter/config/bennu.toml");
    let before = fs::read_to_string(&config).expect("text");
    fs::write(
        &config,
        format!("{before}\n[[routes]]\ntopic = \"*\"\nplugin = \"greeter\"\n"),
    )
    .expect("written");
    let made = said(0, |command| world.at("greeter", command, &["new", "other"]));
    let route = "(--route does that):\n\n[plugins.other]\nlibrary = \"../target/release/libother.so\"\n\n[[routes]]\ntopic = \"other:*\"\nplugin = \"other\"\n\n";
    assert!(made.contains(route), "{made}");
    assert!(made.contains("\n\nThen:\n\n  cargo test -p other\n"), "{made}");
    assert!(
        made.contains("The route `*` at ") && made.contains("Put the new route above it"),
        "{made}"
    );
    assert!(!fs::read_to_string(&config).expect("text").contains("other"));
    assert!(world.path("greeter/plugins/other/README.md").is_file());
}

#[test]
fn the_readme_of_a_fresh_workspace_leads_to_the_guide() {
    let world = World::new();
    world.greeter();
    let readme = fs::read_to_string(world.path("greeter/README.md")).expect("text");
    let (_, link) = readme.split_once("](<").expect("a link");
    let (guide, _) = link.split_once(">)").expect("its end");
    assert!(guide.ends_with("/GUIDE.md") && Path::new(guide).is_file(), "{readme}");
}

#[test]
fn a_plugin_that_the_configuration_names_already_needs_no_route() {
    let world = World::new();
    world.greeter();
    let config = world.path("greeter/config/bennu.toml");
    let before = fs::read_to_string(&config).expect("text");
    for how in [&["new", "greeter"][..], &["new", "greeter", "--route"]] {
        fs::remove_dir_all(world.path("greeter/plugins/greeter")).expect("removed");
        let made = said(0, |command| world.at("greeter", command, how));
        assert!(
            made.contains("already has [plugins.greeter]") && !made.contains("[[routes]]"),
            "{made}"
        );
        assert_eq!(fs::read_to_string(&config).expect("text"), before);
    }
    // A mistake that is there is shown as one of the file.
    world.edit("greeter/config/bennu.toml", "path =", "pth =");
    let (output, _, complained) = run(|command| world.at("greeter", command, &["new", "other", "--route"]));
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(
        complained.contains("did you mean `path`?") && !complained.contains("error: error"),
        "{complained}"
    );
    assert!(!world.path("greeter/plugins/other").exists());
}

#[test]
fn what_cannot_be_made_is_explained_and_leaves_nothing() {
    let world = World::new();
    let refused = |name: &str, words: &str| check_refused(|command| world.at("", command, &["new", name]), words);
    refused("Chat Room", "`chat-room` would do");
    refused("fn", "`fn-channel` would do");
    assert_eq!(fs::read_dir(world.path("")).expect("read").count(), 0);
    fs::create_dir(world.path("greeter")).expect("made");
    refused("greeter", "exists already");
    check_refused(
        |command| world.at("", command, &["new", "chat", "--kit", "/nowhere"]),
        "--kit",
    );
}

/// Runs `bennu` where no file may be larger than some KiB, as if the disk were full.
fn on_a_small_disk(world: &World, folder: &str, args: &str) -> String {
    let mut shell = Command::new("bash");
    let command = format!(
        "trap '' XFSZ; ulimit -f 24; exec {} {args}",
        bennu().get_program().display()
    );
    let output = shell
        .current_dir(world.path(folder))
        .args(["-c", &command])
        .output()
        .expect("bash");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_written_leaves_nothing_and_changes_nothing() {
    let world = World::new();
    let complained = on_a_small_disk(&world, "", "new greeter");
    assert!(complained.contains("cannot write"), "{complained}");
    assert_eq!(fs::read_dir(world.path("")).expect("read").count(), 0);

    world.greeter();
    let config = world.path("greeter/config/bennu.toml");
    let long = fs::read_to_string(&config).expect("text") + &"# A long comment.\n".repeat(3000);
    fs::write(&config, &long).expect("written");
    let complained = on_a_small_disk(&world, "greeter", "new other --route");
    assert!(complained.contains("cannot write"), "{complained}");
    assert!(!world.path("greeter/plugins/other").exists());
    assert_eq!(fs::read_to_string(&config).expect("text"), long);
    assert_eq!(fs::read_dir(world.path("greeter/config")).expect("read").count(), 2);

    // It is there when the disk is.
    std::os::unix::fs::symlink("nowhere", world.path("other")).expect("linked");
    check_refused(|command| world.at("", command, &["new", "other"]), "exists already");
    said(0, |command| world.at("greeter", command, &["new", "other", "--route"]));
    assert!(fs::read_to_string(&config).expect("text").contains("[plugins.other]"));
}
