//! `bennu torture`: runs it, and shows the certificate.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::args::JsonArg;
use super::terminal::say;
use crate::torture::certificate::grouped;
use crate::torture::libraries::{Libraries, Variant};
use crate::torture::plan::Plan;
use crate::torture::{self, Progress};

pub(super) const HELP: &str = "\
Examples:
  bennu torture                                      builds the plugin's versions and takes some minutes
  bennu torture --clients 100 --rate 500 --reloads 10
  bennu torture --libraries target/test-plugins --json

Starts a server of its own. The exit code is 1 when anything was lost, doubled, reordered or
closed, when a state differs, or when a library was not taken or refused as it should be.";

/// `bennu torture`
#[derive(Args, Debug)]
pub struct TortureArgs {
    /// Clients, half of them by WebSocket, half by long polling
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    pub clients: u32,
    /// Topics, each with clients of both transports
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub topics: u32,
    /// Shards of the plugin
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: u32,
    /// Events that all clients together push in a second
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Libraries that are to come into service; a bad one is tried after every third
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub reloads: u64,
    /// Events that are to be without an answer at any time
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub in_flight: u32,
    /// What chance is made from [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// A folder with the plugin's versions, built already: libledger.so, libledger-v2.so, …
    #[arg(long, value_name = "FOLDER")]
    pub libraries: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl TortureArgs {
    fn plan(&self) -> Plan {
        Plan {
            clients: self.clients as usize,
            topics: self.topics as usize,
            shards: self.shards as usize,
            rate: self.rate,
            reloads: self.reloads,
            in_flight: self.in_flight,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        }
    }

    fn libraries(&self) -> anyhow::Result<Libraries> {
        let variants: Vec<Variant> = Variant::GOOD.into_iter().chain(Variant::BAD).collect();
        if let Some(folder) = &self.libraries {
            return Ok(Libraries::read(folder, &variants)?);
        }
        let libraries = Libraries::build(&std::env::current_dir()?, &variants, |variant| {
            show(&format!("building {variant}"));
        });
        Ok(libraries?)
    }
}

/// Runs it.
///
/// # Errors
///
/// If there is no certificate: no libraries, or no server.
pub fn run(args: &TortureArgs) -> anyhow::Result<ExitCode> {
    let (plan, libraries) = (args.plan(), args.libraries()?);
    show(&format!("{} clients connect", plan.clients));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let certificate = runtime.block_on(torture::run(&plan, &libraries, |progress| show(&line(progress))));
    show("");
    let certificate = certificate?;
    if args.json.json {
        say(&serde_json::to_string_pretty(&certificate)?);
    } else {
        say(&certificate.to_string());
    }
    Ok(if certificate.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn line(progress: Progress<'_>) -> String {
    let Progress {
        reloads,
        planned,
        tally,
    } = progress;
    format!(
        "reload {} of {planned}, {} refused: {} sent, {} received, {} in flight, {} lost",
        reloads.done,
        reloads.refused,
        grouped(tally.sent.get()),
        grouped(tally.received.get()),
        tally.in_flight.get(),
        tally.lost.get(),
    )
}

/// One line that replaces the one before, where somebody sees it.
fn show(line: &str) {
    let mut out = io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[2K{line}");
        let _ = out.flush();
    }
}
