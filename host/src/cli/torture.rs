//! `bennu torture`: runs it, and shows the certificate.

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::args::JsonArg;
use super::terminal::say;
use crate::plugin::cargo::Workspace;
use crate::torture::certificate::grouped;
use crate::torture::libraries::{Libraries, Variant};
use crate::torture::plan::Plan;
use crate::torture::plot::Chart;
use crate::torture::report::Report;
use crate::torture::{self, Progress, heartbeats, pauses, saving, unloading};

pub(super) const HELP: &str = "\
Examples:
  bennu torture                                      builds the plugin's versions and takes some minutes
  bennu torture --clients 100 --rate 500 --reloads 10
  bennu torture --libraries target/test-plugins --json
  bennu torture --part all --plots plots             the certificate, and all that is measured

Starts a server of its own. The exit code is 1 when anything was lost,
doubled, reordered or closed, when a state differs, when too little was in
flight, when a library was not taken or refused as it should be, or when more
stays of replaced libraries than may.";

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
    /// What to run, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "messages")]
    part: Vec<Part>,
    /// Libraries that `unloading` replaces
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub unloads: u64,
    /// Where to write a plot of each measurement, as SVG
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

/// A part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The certificate: nothing is lost, doubled or reordered
    Messages,
    /// What stays in memory of libraries with an async runtime
    Unloading,
    /// How long topics are held, by the size of their state
    Pauses,
    /// How long heartbeats take while 10,000 topics move
    Heartbeats,
    /// How long it takes from a saved source to a new answer
    Saving,
    /// All of these
    All,
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

    fn libraries(&self, shown: &Shown) -> anyhow::Result<Libraries> {
        let variants: Vec<Variant> = Variant::GOOD.into_iter().chain(Variant::BAD).collect();
        if let Some(folder) = &self.libraries {
            return Ok(Libraries::read(folder, &variants)?);
        }
        let libraries = Libraries::build(&std::env::current_dir()?, &variants, |variant| {
            shown.step(&format!("building {variant}"));
        });
        Ok(libraries?)
    }
}

/// Runs it.
///
/// # Errors
///
/// If something cannot be run: no libraries, or no server.
pub fn run(args: &TortureArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = Shown::new();
    let mut report = Report::default();
    let done = runtime.block_on(run_parts(args, &shown, &mut report));
    shown.end();
    // What was measured before something went wrong took its time, too.
    if args.json.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        say(report.to_string().trim_end());
    }
    done?;
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all parts, one after the other.
async fn run_parts(args: &TortureArgs, shown: &Shown, report: &mut Report) -> anyhow::Result<()> {
    let wants = |part| args.part.iter().any(|wanted| [part, Part::All].contains(wanted));
    let libraries = if [Part::Messages, Part::Unloading, Part::Pauses, Part::Heartbeats].map(wants) == [false; 4] {
        None
    } else {
        Some(args.libraries(shown)?)
    };
    if let Some(libraries) = &libraries {
        if wants(Part::Messages) {
            let plan = args.plan();
            shown.step(&format!("{} clients connect", plan.clients));
            let progress = |progress: Progress<'_>| shown.progress(|| line(progress));
            report.messages = Some(torture::run(&plan, libraries, progress).await?);
        }
        if wants(Part::Unloading) {
            let done = |reload| shown.progress(|| format!("unloading: reload {reload} of {}", args.unloads));
            let unloading = unloading::run(libraries, args.unloads, done).await?;
            args.plot("unloading", || unloading.chart())?;
            report.unloading = Some(unloading);
        }
        if wants(Part::Pauses) {
            let next = |members, kib| shown.step(&format!("pauses: {members} members, {kib} KiB"));
            report.pauses = pauses::run(libraries, next).await?;
            args.plot("pauses", || pauses::chart(&report.pauses))?;
        }
        if wants(Part::Heartbeats) {
            shown.step("heartbeats: 10,000 topics are joined, and move");
            let heartbeats = heartbeats::run(libraries).await?;
            args.plot("heartbeats", || heartbeats.chart())?;
            report.heartbeats = Some(heartbeats);
        }
    }
    if wants(Part::Saving) {
        shown.step("saving: the first build");
        let checkout = Workspace::find(&std::env::current_dir()?)?;
        report.saving = saving::run(&checkout, |save| shown.step(&format!("saving: {save}"))).await?;
        args.plot("saving", || saving::chart(&report.saving))?;
    }
    Ok(())
}

impl TortureArgs {
    fn plot(&self, name: &str, chart: impl FnOnce() -> Chart) -> io::Result<()> {
        let Some(folder) = &self.plots else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.svg")), chart().svg())
    }
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

/// How far it is, on standard error: one line that is written over, or, where nobody looks at a terminal, lines.
struct Shown {
    is_terminal: bool,
    last: Cell<Instant>,
}

impl Shown {
    /// Between two lines about how far a part is, where they stay.
    const INTERVAL: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            last: Cell::new(Instant::now()),
        }
    }

    /// Something else begins.
    fn step(&self, line: &str) {
        self.last.set(Instant::now());
        let mut out = io::stderr();
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[2K{line}")
        } else {
            writeln!(out, "{line}")
        };
        let _ = out.flush();
    }

    /// It is so far. Not each of these stays.
    fn progress(&self, line: impl FnOnce() -> String) {
        if self.is_terminal || self.last.get().elapsed() >= Self::INTERVAL {
            self.step(&line());
        }
    }

    /// Nothing more comes.
    fn end(&self) {
        if self.is_terminal {
            self.step("");
        }
    }
}
