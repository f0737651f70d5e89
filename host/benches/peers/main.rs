//! Bennu beside servers that come from registries: same work, same client, same pinning, one after the other.
//!
//! `cargo bench --package bennu --bench peers` runs every row of [`rows::ROWS`] several times, the servers taking turns, and
//! keeps the run that was disturbed least. It prints a table with ratios, and writes it beside a chart for the README.

mod chart;
mod floor;
mod rows;
mod servers;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use serde_json::Value;

use rows::{Place, ROWS, Row};
use servers::Peer;

/// Runs Bennu and others side by side.
#[derive(Debug, Parser)]
struct Line {
    /// How often each is run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each is measured
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these rows, with a comma between
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(ROWS.iter().map(|row| row.name)))]
    rows: Vec<String>,
    /// Only these servers, with a comma between
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Peer::Bennu, Peer::Socketioxide, Peer::SocketIo, Peer::Floor])]
    peers: Vec<Peer>,
    /// The CPU of the servers, and of the generator where it has one of its own
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [0, 1])]
    cpus: Vec<usize>,
    /// Writes host/benches/peers.md and host/benches/peers.svg
    #[arg(long)]
    keep: bool,
    /// What cargo says when it runs a bench, and not when it tests
    #[arg(long, hide = true)]
    bench: bool,
}

/// All runs: of each row, of each server.
type Runs = BTreeMap<(&'static str, &'static str), Vec<Value>>;

fn main() -> ExitCode {
    if let Ok(task) = std::env::var(floor::CHILD) {
        return finish(floor::child(&task));
    }
    let line = Line::parse();
    if !line.bench {
        return ExitCode::SUCCESS;
    }
    finish(run(&line))
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(line: &Line) -> io::Result<()> {
    let mut peers = Vec::new();
    for peer in &line.peers {
        match peer.prepare() {
            Ok(()) => peers.push(*peer),
            Err(error) if *peer == Peer::Bennu => return Err(error),
            Err(error) => say(&format!("without {}: {error}", peer.name())),
        }
    }
    let mut runs = Runs::new();
    for round in 1..=line.rounds {
        for row in ROWS
            .iter()
            .filter(|row| line.rows.is_empty() || line.rows.iter().any(|name| name == row.name))
        {
            for peer in &peers {
                say(&format!(
                    "round {round} of {}: {}, {}",
                    line.rounds,
                    row.name,
                    peer.name()
                ));
                if let Some(report) = measure(line, row, *peer)? {
                    runs.entry((row.name, peer.name())).or_default().push(report);
                }
            }
        }
    }
    let table = table::table(&peers, &runs);
    writeln!(io::stdout(), "\n{table}")?;
    if line.keep {
        std::fs::write(servers::benches().join("peers.md"), table)?;
        std::fs::write(servers::benches().join("peers.svg"), chart::bars(&peers, &runs))?;
    }
    Ok(())
}

/// One run of one row. Returns what `bennu load` says of it; none where a peer has no such row.
fn measure(line: &Line, row: &Row, peer: Peer) -> io::Result<Option<Value>> {
    let [server_cpu, generator_cpu] = [line.cpus[0], line.cpus[1]];
    if peer == Peer::Floor {
        if row.place == Place::Apart {
            return Ok(None);
        }
        return floor::measure(row.load, server_cpu, line.seconds);
    }
    let server = peer.start(&server_cpu.to_string(), &servers::checkout().join("config/bench.toml"))?;
    let cpu = if row.place == Place::Shared {
        server_cpu
    } else {
        generator_cpu
    };
    let mut load = Command::new("taskset");
    load.args(["--cpu-list", &cpu.to_string(), env!("CARGO_BIN_EXE_bennu"), "load"]);
    load.args(row.load.split(' ')).args(peer.protocol(server.address));
    load.args(["--json", "--pid", &server.pid().to_string()]);
    if row.lasts {
        load.args(["--duration-s", &line.seconds.to_string()]);
    }
    let output = load.stderr(Stdio::inherit()).output()?;
    // It fails if something was lost, which the table tells.
    serde_json::from_slice(&output.stdout)
        .map(Some)
        .map_err(|_| io::Error::other(format!("{}: no result", row.name)))
}

fn say(text: &str) {
    // Nobody to tell if this fails.
    let _ = writeln!(io::stderr(), "{text}");
}
