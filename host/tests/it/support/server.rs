//! A running `bennu serve`, in a folder of its own: its configuration, its copies of the plugins, its log.
//!
//! The configuration is `config/test.toml`, changed setting by setting. Dropping the server kills it, dropping the
//! bench removes the folder.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::plugins::Build;
use super::{DEADLINE, within};

/// The secret of all servers here.
pub(crate) const SECRET: &str = "not a secret: the tests' own sixty-four bytes and a few more to spare.";

/// What a server says before the address of its clients.
const LISTENING: &str = "listening on http://";

/// A folder with a configuration and the libraries that it names.
#[derive(Debug)]
pub(crate) struct Bench {
    folder: PathBuf,
}

impl Bench {
    /// `config/test.toml`, and the plugins as they are built without features.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bennu-it-{}-{number}", std::process::id());
        // Without links, so that paths can be compared.
        let folder = std::env::temp_dir().canonicalize().expect("a folder").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let bench = Self { folder };
        bench.put("echo", Build::Echo);
        bench.put("room", Build::Room);
        bench.put("misbehave", Build::Misbehave);
        let template = include_str!("../../../../config/test.toml").replace("../target/debug/", "");
        bench.write_config(&template);
        bench.set("server", "stage_dir", "\"stage\"");
        bench.set("server", "state_dir", "\"state\"");
        bench
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the library of a plugin is.
    pub(crate) fn library(&self, plugin: &str) -> PathBuf {
        self.path(&format!("lib{plugin}.so"))
    }

    /// Puts a build in a plugin's place, whole at once.
    pub(crate) fn put(&self, plugin: &str, build: Build) {
        self.put_bytes(plugin, &build.bytes());
    }

    /// Puts a build there whose bytes are others than those of other `number`s, and whose code is the same.
    pub(crate) fn put_numbered(&self, plugin: &str, build: Build, number: u64) {
        let mut bytes = build.bytes();
        // What follows the last section concerns no loader.
        bytes.extend(number.to_le_bytes());
        self.put_bytes(plugin, &bytes);
    }

    /// Puts any bytes there, whole at once.
    pub(crate) fn put_bytes(&self, plugin: &str, bytes: &[u8]) {
        let place = self.library(plugin);
        let new = place.with_extension("new");
        fs::write(&new, bytes).expect("written");
        fs::rename(new, place).expect("moved");
    }

    /// The configuration's file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("bennu.toml")
    }

    /// What it says.
    pub(crate) fn read_config(&self) -> String {
        fs::read_to_string(self.config()).expect("a configuration")
    }

    /// Replaces it, whole at once.
    pub(crate) fn write_config(&self, text: &str) {
        let new = self.path("bennu.toml.new");
        fs::write(&new, text).expect("written");
        fs::rename(new, self.config()).expect("moved");
    }

    /// Sets a key to a TOML value in the first table that is called so: `set("plugins.room", "shards", "1")`.
    pub(crate) fn set(&self, table: &str, key: &str, value: &str) {
        self.write_config(&with_setting(&self.read_config(), table, key, value));
    }

    /// Adds tables at the end of the configuration.
    pub(crate) fn append(&self, text: &str) {
        self.write_config(&format!("{}\n{text}\n", self.read_config()));
    }

    /// Starts `bennu serve` and waits until it listens.
    pub(crate) async fn serve(&self) -> Server {
        self.serve_with(|command| command).await
    }

    /// Starts `bennu dev` in a workspace that is empty: it has nothing to build, and takes the libraries that are there.
    pub(crate) async fn dev(&self) -> Server {
        self.dev_with(|command| command).await
    }

    /// The same, with a last change to the command.
    pub(crate) async fn dev_with(&self, change: impl FnOnce(&mut Command) -> &mut Command) -> Server {
        let empty = "[package]\nname = \"empty\"\n[lib]\npath = \"empty.rs\"\n";
        fs::write(self.path("Cargo.toml"), empty).expect("written");
        fs::write(self.path("empty.rs"), "").expect("written");
        let mut command = bennu();
        command.args(["dev", "--config"]).arg(self.config());
        change(&mut command);
        Server::start(command).await
    }

    /// The same as [`Bench::serve`], with a last change to the command.
    pub(crate) async fn serve_with(&self, change: impl FnOnce(&mut Command) -> &mut Command) -> Server {
        let mut command = self.command();
        change(&mut command);
        Server::start(command).await
    }

    /// Starts `bennu serve` by another program, which gets the command behind its own arguments: `["nohup"]`.
    pub(crate) async fn serve_by(&self, program: &[&str]) -> Server {
        Server::start(by(program, &self.command())).await
    }

    /// `bennu serve`, which does not run yet.
    pub(crate) fn command(&self) -> Command {
        let mut command = bennu();
        command.args(["serve", "--config"]).arg(self.config());
        command
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn with_setting(config: &str, table: &str, key: &str, value: &str) -> String {
    let headers = [format!("[{table}]"), format!("[[{table}]]")];
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    let start = lines.iter().position(|line| headers.contains(line));
    let start = 1 + start.unwrap_or_else(|| panic!("there is no [{table}]"));
    let is_key = |line: &&String| line.split('=').next().is_some_and(|found| found.trim() == key);
    let known = lines[start..]
        .iter()
        .take_while(|line| !line.starts_with('['))
        .position(|line| is_key(&line));
    let setting = format!("{key} = {value}");
    match known {
        Some(at) => lines[start + at] = setting,
        None => lines.insert(start, setting),
    }
    lines.join("\n") + "\n"
}

/// The program, with a secret and without what the tests' own environment would tell it.
pub(crate) fn bennu() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bennu"));
    command
        .env("BENNU_SECRET_KEY_BASE", SECRET)
        .env_remove("BENNU_ADMIN_SECRET")
        .env_remove("BENNU_LOG");
    command
}

/// The same command, started by another program.
pub(crate) fn by(program: &[&str], command: &Command) -> Command {
    let mut by = Command::new(program[0]);
    by.args(&program[1..])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => by.env(name, value),
            None => by.env_remove(name),
        };
    }
    by
}

/// A command that runs, and what it says.
pub(crate) fn spawned(mut command: Command) -> (Child, Log) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let log = Log::default();
    log.collect(child.stdout.take().expect("a pipe"));
    log.collect(child.stderr.take().expect("a pipe"));
    (child, log)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// What it has said so far.
    pub(crate) log: Log,
}

impl Server {
    /// Runs a command and waits until it listens.
    pub(crate) async fn start(command: Command) -> Self {
        Self::start_within(DEADLINE, command).await
    }

    /// The same for one that builds first.
    pub(crate) async fn start_within(deadline: Duration, command: Command) -> Self {
        let mut server = Self::starting(command);
        server.log.line_within(deadline, &[LISTENING]).await;
        server.listens().await;
        server
    }

    /// Waits until a server that is [starting](Self::starting) accepts clients.
    pub(crate) async fn listens(&mut self) {
        self.address = self.said_address(LISTENING).await;
    }

    /// The names of its threads.
    pub(crate) fn thread_names(&self) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it is running");
        let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
        let names = threads.flatten().filter_map(|thread| name(thread).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    async fn said_address(&self, words: &str) -> SocketAddr {
        let line = self.log.line(&[words]).await;
        line.trim_start_matches(words).parse().expect("an address")
    }

    /// Where the admin pages are.
    pub(crate) async fn admin(&self) -> SocketAddr {
        self.said_address("admin on http://").await
    }

    /// Where the API is.
    pub(crate) async fn api(&self) -> SocketAddr {
        self.said_address("api on http://").await
    }

    /// The admin pages of a server that may still be starting.
    pub(crate) async fn early_admin(&self) -> SocketAddr {
        let line = self.log.line(&["admin listener started"]).await;
        let address = line.rsplit_once("address=").expect("an address").1;
        address.parse().expect("an address")
    }

    /// Its number among the system's processes.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this generation of a plugin is in service.
    pub(crate) async fn in_service(&self, plugin: &str, generation: u64) {
        self.log
            .line(&["plugin in service", &of(plugin), &numbered(generation)])
            .await;
    }

    /// Waits until this generation of a plugin is no longer in memory.
    pub(crate) async fn unloaded(&self, plugin: &str, generation: u64) {
        self.log
            .line(&["generation unloaded", &of(plugin), &numbered(generation)])
            .await;
    }

    /// A server that may still be starting.
    pub(crate) fn starting(command: Command) -> Self {
        let (child, log) = spawned(command);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child, address, log }
    }

    /// Stops it as a paused machine does, for so long, with what `meanwhile` sends to it.
    pub(crate) async fn stand_still(&self, time: Duration, meanwhile: impl Future<Output = ()>) {
        self.signal(Signal::STOP);
        while !self.proc("stat").contains(") T ") {
            tokio::task::yield_now().await;
        }
        // How long it lasts is what the test is about.
        tokio::join!(meanwhile, tokio::time::sleep(time));
        self.signal(Signal::CONT);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there to be told");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        // Both pipes end when the process does.
        within("end of the server", self.log.ended()).await;
        self.child.wait().expect("it is our child")
    }

    /// Ends it as an operator would.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// The most memory that it ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.kilobytes("VmHWM:") * 1024
    }

    /// The memory that it has resident, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.kilobytes("VmRSS:") * 1024
    }

    fn kilobytes(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in\n{status}"))
    }

    /// What `/proc` says of it: `maps`, for example.
    pub(crate) fn proc(&self, file: &str) -> String {
        fs::read_to_string(Path::new("/proc").join(self.pid().to_string()).join(file)).expect("it is running")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[allow(clippy::print_stderr, reason = "a test has failed")]
        if std::thread::panicking() {
            eprintln!("the server had said:\n{}", self.log.text());
        }
    }
}

/// A field of a line of the log.
pub(crate) fn of(plugin: &str) -> String {
    format!("plugin=\"{plugin}\"")
}

fn numbered(generation: u64) -> String {
    format!("generation={generation} ")
}

/// The lines of standard output and standard error, as they come.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    lines: Arc<watch::Sender<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    open_pipes: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            lines: Arc::new(watch::Sender::new(Lines::default())),
        }
    }
}

impl Log {
    fn collect(&self, pipe: impl Read + Send + 'static) {
        let lines = Arc::clone(&self.lines);
        lines.send_modify(|lines| lines.open_pipes += 1);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.send_modify(|lines| lines.all.push(line));
            }
            lines.send_modify(|lines| lines.open_pipes -= 1);
        });
    }

    /// The first line that has all these parts, once it is there.
    pub(crate) async fn line(&self, parts: &[&str]) -> String {
        self.nth_line(0, parts).await
    }

    /// The same where a build comes first.
    pub(crate) async fn line_within(&self, deadline: Duration, parts: &[&str]) -> String {
        self.find(deadline, 0, parts).await
    }

    /// The line that has all these parts behind `before` others that do.
    pub(crate) async fn nth_line(&self, before: usize, parts: &[&str]) -> String {
        self.find(DEADLINE, before, parts).await
    }

    /// The same where `deadline` is another.
    pub(crate) async fn find(&self, deadline: Duration, before: usize, parts: &[&str]) -> String {
        let mut lines = self.lines.subscribe();
        let matching = |lines: &Lines| {
            lines
                .all
                .iter()
                .filter(|line| has_all(line, parts))
                .nth(before)
                .cloned()
        };
        let found = lines.wait_for(|lines| matching(lines).is_some() || lines.open_pipes == 0);
        let Ok(found) = tokio::time::timeout(deadline, found).await else {
            panic!("no line of the log with {parts:?} within {deadline:?}")
        };
        let found = found.ok().and_then(|lines| matching(&lines));
        found.unwrap_or_else(|| panic!("the server ended without saying {parts:?}:\n{}", self.text()))
    }

    /// The first line that has all the parts of one of these.
    pub(crate) async fn line_of_any(&self, any: &[&[&str]]) -> String {
        let mut lines = self.lines.subscribe();
        let matching = |lines: &Lines| {
            let mut all = lines.all.iter();
            all.find(|line| any.iter().any(|parts| has_all(line, parts))).cloned()
        };
        let found = lines.wait_for(|lines| matching(lines).is_some() || lines.open_pipes == 0);
        let found = super::within("one of the lines", found).await;
        let found = found.ok().and_then(|lines| matching(&lines));
        found.unwrap_or_else(|| panic!("the server ended without saying {any:?}:\n{}", self.text()))
    }

    /// How many lines have all these parts so far.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        self.lines
            .borrow()
            .all
            .iter()
            .filter(|line| has_all(line, parts))
            .count()
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.lines.borrow().all.join("\n")
    }

    async fn ended(&self) {
        // The sender is ours: it does not go away while we wait.
        let _ = self.lines.subscribe().wait_for(|lines| lines.open_pipes == 0).await;
    }
}

fn has_all(line: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| line.contains(part))
}
