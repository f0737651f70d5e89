//! What it costs that topics outlive the process: echoes of 64 clients whose topics change with each, under each `durability`.
//!
//! `cargo bench --package bennu --bench durable`. The servers take turns with a loop that does nothing but write and sync as many
//! bytes as a group of changes has, so that the ratios hold on a busy machine, too. ` -- ROUNDS` says how many rounds there are.

#[path = "../peers/servers.rs"]
mod servers;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::Value;

use servers::{Peer, Server};

const DURABILITIES: [&str; 3] = ["none", "checkpoint", "commit"];
const CLIENTS: u32 = 64;
const SECONDS: u64 = 5;
/// The bare loop writes into so many bytes of a file, again and again, as a log that is allocated beforehand does.
const LOG_BYTES: u64 = 64 << 20;

/// A row of the table: its name, and where its figure is.
type Row = (&'static str, fn(&Figures) -> f64);

/// What one server took in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    echoes_per_second: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    /// Bytes that it had the kernel write to the disk, for each echo.
    disk_bytes: f64,
    /// The store's: topics in a sync, bytes of each.
    group: f64,
    capsule_bytes: f64,
    /// Syncs a second that a bare loop reached with the same bytes.
    bare_syncs_per_second: f64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        return ExitCode::SUCCESS;
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(5);
    match run(rounds) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the bars hold.
fn run(rounds: usize) -> io::Result<bool> {
    Peer::Bennu.prepare()?;
    let mut all = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for (figures, durability) in all.iter_mut().zip(DURABILITIES) {
            let measured = measure(durability)?;
            writeln!(io::stdout(), "round {}, {durability}: {measured:.1?}", round + 1)?;
            figures.push(measured);
        }
    }
    table(&all)
}

fn table([none, checkpoint, commit]: &[Vec<Figures>; 3]) -> io::Result<bool> {
    let mut out = io::stdout();
    writeln!(
        out,
        "\n| echo, {CLIENTS} clients, each in a topic of its own | none | checkpoint | commit |"
    )?;
    writeln!(out, "|---|---|---|---|")?;
    let rows: [Row; 7] = [
        ("echoes a second", |figures| figures.echoes_per_second),
        ("server CPU for each, µs", |figures| figures.cpu_us),
        ("latency p50, µs", |figures| figures.p50_us),
        ("latency p99, µs", |figures| figures.p99_us),
        ("bytes to the disk for each", |figures| figures.disk_bytes),
        ("bytes of a stored topic", |figures| figures.capsule_bytes),
        ("topics in a sync", |figures| figures.group),
    ];
    for (name, figure) in rows {
        let [none, checkpoint, commit] = [none, checkpoint, commit].map(|rounds| median(rounds, figure));
        writeln!(out, "| {name} | {none:.1} | {checkpoint:.1} | {commit:.1} |")?;
    }
    let cpu = ratios(none, checkpoint, |none, checkpoint| checkpoint.cpu_us / none.cpu_us);
    let rate = ratios(commit, commit, |commit, _| {
        commit.echoes_per_second / (commit.group * commit.bare_syncs_per_second)
    });
    writeln!(out, "\ncheckpoint ÷ none, CPU: {cpu:.3} (bar: at most 1.1)")?;
    writeln!(
        out,
        "commit ÷ a bare loop of the same syncs, rate: {rate:.3} (bar: at least 0.8)"
    )?;
    Ok(cpu <= 1.1 && rate >= 0.8)
}

/// The median of a ratio of the rounds.
fn ratios(left: &[Figures], right: &[Figures], ratio: fn(&Figures, &Figures) -> f64) -> f64 {
    middle(left.iter().zip(right).map(|(left, right)| ratio(left, right)).collect())
}

fn median(rounds: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    middle(rounds.iter().map(figure).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn measure(durability: &str) -> io::Result<Figures> {
    let folder = folder();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let admin = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let config = folder.join("bench.toml");
    fs::write(&config, configuration(durability, admin)?)?;
    let server = Peer::Bennu.start("0", &config)?;
    let before = (written(&server)?, Store::of(admin)?);
    let report = load(&server)?;
    let after = (written(&server)?, Store::of(admin)?);
    let store = after.1.since(before.1);
    let at = |place: &str| report.pointer(place).and_then(Value::as_f64).unwrap_or_default();
    let echoes = at("/events/received");
    let mut figures = Figures {
        echoes_per_second: at("/events/measured/per_second"),
        cpu_us: at("/events/measured/server_us_each"),
        p50_us: at("/events/measured/latency/p50_us"),
        p99_us: at("/events/measured/latency/p99_us"),
        disk_bytes: (after.0 - before.0) / echoes,
        ..Figures::default()
    };
    if store.syncs > 0.0 {
        figures.group = store.writes / store.syncs;
        figures.capsule_bytes = store.bytes / store.writes;
        figures.bare_syncs_per_second = bare((store.bytes / store.syncs) as usize)?;
    }
    Ok(figures)
}

fn configuration(durability: &str, admin: SocketAddr) -> io::Result<String> {
    let text = fs::read_to_string(servers::checkout().join("config/bench.toml"))?;
    let library = servers::checkout().canonicalize()?.join("target/release/libledger.so");
    let text = text
        .replace("../target/release/libecho.so", &library.to_string_lossy())
        .replace("echo", "ledger")
        .replace("[server]\n", "[server]\nstate_dir = \"state\"\n");
    let more = format!(
        "durability = \"{durability}\"\nsettings = {{ keep = 0, tick_ms = 0 }}\n\n[admin]\nlisten = \"{admin}\"\n\n[[routes]]\n"
    );
    Ok(text.replace("\n[[routes]]\n", &more))
}

fn load(server: &Server) -> io::Result<Value> {
    let mut load = Command::new("taskset");
    load.args(["--cpu-list", "1", env!("CARGO_BIN_EXE_bennu"), "load", "echo"]);
    load.args(["--clients", &CLIENTS.to_string(), "--duration-s", &SECONDS.to_string()]);
    load.args([
        "--topic-prefix",
        "ledger:",
        "--json",
        "--pid",
        &server.pid().to_string(),
    ]);
    let output = load.args(Peer::Bennu.protocol(server.address)).output()?;
    serde_json::from_slice(&output.stdout)
        .ok()
        .filter(|_| output.status.success())
        .ok_or_else(|| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Bytes that the server has had the kernel write to a disk.
fn written(server: &Server) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/io", server.pid()))?;
    let value = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or_default())
}

/// What the store has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Store {
    writes: f64,
    bytes: f64,
    syncs: f64,
}

impl Store {
    fn of(admin: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(admin)?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            writes: value("bennu_store_writes_total"),
            bytes: value("bennu_store_write_bytes_total"),
            syncs: value("bennu_store_syncs_total"),
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            bytes: self.bytes - before.bytes,
            syncs: self.syncs - before.syncs,
        }
    }
}

/// How often a second so many bytes can be written and synced.
fn bare(bytes: usize) -> io::Result<f64> {
    let path = folder().join("bare");
    let mut file = File::create(&path)?;
    file.write_all(&vec![1; LOG_BYTES as usize])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let (group, begin, mut syncs) = (vec![2; bytes.max(1)], Instant::now(), 0_u32);
    let time = Duration::from_secs(SECONDS);
    while begin.elapsed() < time {
        if file.stream_position()? + bytes as u64 > LOG_BYTES {
            file.seek(SeekFrom::Start(0))?;
        }
        file.write_all(&group)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

fn folder() -> PathBuf {
    servers::checkout().join("target/durable")
}
