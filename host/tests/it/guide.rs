//! `plugin-api/GUIDE.md`, done as it says: every command is run, every file written, what it promises is looked for.
//!
//! A block of the language `sh` is commands, `rust FILE` a file to write, `text` what the command before has said, line by line;
//! `text dev` and `text watch` what the terminals have said that were left open with these. `…` stands for anything.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::Signal;

use crate::new::{BUILD, target};
use crate::support::server::{Bench, Log, Server, bennu, spawned};

const GUIDE: &str = include_str!("../../../plugin-api/GUIDE.md");

/// A reader who has come to some place in the guide.
struct Reader {
    folder: PathBuf,
    /// `bennu dev`, in the terminal that is left open.
    server: Option<Server>,
    /// `bennu call … --watch`, in another.
    watcher: Option<(Child, Log)>,
    /// How often `bennu dev` has taken up the plugin.
    generation: u32,
    /// What the last command said.
    said: String,
}

#[tokio::test]
async fn every_step_of_the_guide_works() {
    let bench = Bench::new();
    let folder = bench.path("empty");
    fs::create_dir(&folder).expect("made");
    let mut reader = Reader {
        folder,
        server: None,
        watcher: None,
        generation: 1,
        said: String::new(),
    };
    let mut blocks = GUIDE.split("\n```").skip(1).step_by(2);
    let (mut commands, mut files, mut lines) = (0, 0, 0);
    for block in &mut blocks {
        let (language, text) = block.split_once('\n').expect("a block has lines");
        match language.split_once(' ').unwrap_or((language, "")) {
            ("rust", file) => {
                files += 1;
                // The last file of a step makes it whole: only then it compiles.
                fs::write(reader.folder.join(file), text).expect("written");
            }
            ("sh", "") => {
                for command in text.lines() {
                    commands += 1;
                    reader.run(command).await;
                }
            }
            ("text", terminal) => {
                for line in text.lines() {
                    lines += 1;
                    reader.sees(terminal, line).await;
                }
            }
            _ => panic!("no such block: {language}"),
        }
    }
    assert!(
        commands >= 10 && files >= 6 && lines >= 20,
        "{commands} commands, {files} files, {lines} lines"
    );
    reader.survives_a_kill().await;
}

impl Reader {
    async fn run(&mut self, command: &str) {
        match command.split_once(' ').expect("a command and its arguments") {
            ("cd", folder) => {
                self.folder.push(folder);
                self.listen_elsewhere();
            }
            ("cargo", "test") => {
                let mut cargo = Command::new(env!("CARGO"));
                cargo.env("CARGO_TARGET_DIR", target()).arg("test");
                self.said = self.output(cargo);
                assert!(!self.said.contains("warning"), "{}", self.said);
                self.reloaded().await;
            }
            ("bennu", "dev") => self.server = Some(Server::start_within(BUILD, self.bennu("dev")).await),
            ("bennu", arguments) if arguments.ends_with("--watch") => {
                let (watcher, log) = spawned(self.bennu(arguments));
                log.line(&["joined ok"]).await;
                self.watcher = Some((watcher, log));
            }
            ("bennu", arguments) => self.said = self.output(self.bennu(arguments)),
            _ => panic!("no such command: {command}"),
        }
    }

    /// With the line that the guide names, votes are there after `kill -9`.
    async fn survives_a_kill(&mut self) {
        let file = self.folder.join("config/bennu.toml");
        let text = fs::read_to_string(&file).expect("text");
        let durable = "[plugins.poll]\ndurability = \"commit\"";
        assert!(text.contains("[plugins.poll]"), "{text}");
        fs::write(file, text.replacen("[plugins.poll]", durable, 1)).expect("written");
        for (name, choice, counts) in [
            ("ann", "soup", "{\"soup\":1}"),
            ("bob", "rice", "{\"rice\":1,\"soup\":1}"),
        ] {
            let mut killed = self.server.take().expect("a server");
            killed.signal(Signal::KILL);
            killed.ended().await;
            self.server = Some(Server::start_within(BUILD, self.bennu("dev")).await);
            let vote = format!("call localhost:4000 poll:dinner vote {{\"choice\":\"{choice}\"}}");
            let mut call = self.bennu(&vote);
            call.args(["--join", &format!("{{\"name\":\"{name}\"}}")]);
            self.said = self.output(call);
            assert!(self.said.contains(counts), "{}", self.said);
        }
    }

    /// Looks for a line in what the last command has said, or in a terminal that was left open.
    async fn sees(&self, terminal: &str, line: &str) {
        let parts: Vec<&str> = line.split('…').collect();
        match (terminal, &self.server, &self.watcher) {
            ("", ..) => {
                let found = self
                    .said
                    .lines()
                    .any(|said| parts.iter().all(|part| said.contains(part)));
                assert!(found, "{line:?} is not in\n{}", self.said);
            }
            ("dev", Some(server), _) => drop(server.log.line(&parts).await),
            ("watch", _, Some((_, log))) => drop(log.line(&parts).await),
            _ => panic!("there is no terminal: {terminal}"),
        }
    }

    /// A command in the folder that the reader is in, with its builds where those of other tests are.
    fn bennu(&self, arguments: &str) -> Command {
        let mut command = bennu();
        command
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", target())
            .args(self.words(arguments));
        command
    }

    /// The ports of the guide may be taken.
    fn listen_elsewhere(&self) {
        let file = self.folder.join("config/bennu.toml");
        let text = fs::read_to_string(&file).expect("text");
        let ports = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        fs::write(file, text.replacen("[[mounts]]", &format!("{ports}[[mounts]]"), 1)).expect("written");
    }

    /// Waits until `bennu dev`, if it runs, has taken up what was saved since the last tests.
    async fn reloaded(&mut self) {
        if let Some(server) = &self.server {
            self.generation += 1;
            let built = format!("poll generation {}: built in", self.generation);
            server.log.line_within(BUILD, &[&built]).await;
        }
    }

    /// The arguments of a command line that quotes with `'` alone.
    fn words(&self, arguments: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (at, part) in arguments.split('\'').enumerate() {
            match at % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        let server = self.server.as_ref().map(|server| server.address.to_string());
        let address = |word: String| match (&*word, &server) {
            ("localhost:4000", Some(address)) => address.clone(),
            _ => word,
        };
        words.into_iter().map(address).collect()
    }

    fn output(&self, mut command: Command) -> String {
        let output = command.current_dir(&self.folder).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        said.into_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((watcher, _)) = &mut self.watcher {
            // It ends with the server at the latest.
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}
