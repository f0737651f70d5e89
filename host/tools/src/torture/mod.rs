//! `bennu torture`: reloads a plugin again and again while clients use it, and proves that no message is lost.
//!
//! The parts of the command, each on a server of its own:
//!
//! - [`messages`]: clients push numbered events, the plugin numbers all that it sends, and every client checks the
//!   numbers. Meanwhile good and bad variants of the library replace each other. The result is the [`certificate`].
//! - [`kills`]: servers are killed while clients use topics that outlive them.
//! - [`nodes`]: a cluster goes through joins, stops, kills, freezes and outages of its broker while clients use it.
//! - [`sleeping`], [`unloading`], [`pauses`], [`heartbeats`], [`saving`]: measurements.
//!
//! The plugin is `plugins/ledger`. A server runs as a child process. Nothing here reaches into it: all results come
//! from sockets, the log and `/proc`.

mod args;
mod cargo;
mod certificate;
mod clients;
mod heartbeats;
mod kills;
mod libraries;
mod log;
mod member;
mod memory;
mod messages;
mod nodes;
mod pauses;
mod plan;
mod progress;
mod report;
mod saving;
mod sequence;
mod server;
mod sleeping;
mod tally;
mod topic;
mod unloading;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub use args::TortureArgs;

use args::Part;
use cargo::Workspace;
use libraries::{Libraries, Variant};
use nodes::BrokerError;
use progress::Progress;
use report::Report;
use server::ServerError;

use crate::client::ClientError;
use crate::plot::Chart;
use crate::terminal::say;

/// The end of the command's help.
pub const HELP: &str = "\
Examples:
  bennu torture                                      builds the plugin's variants and takes some minutes
  bennu torture --clients 100 --rate 500 --reloads 10
  bennu torture --libraries target/test-plugins --json
  bennu torture --kill 200                           kills servers under load: what was acknowledged is there
  bennu torture --nodes 3                            torments a cluster: nothing is lost silently
  bennu torture --part all --plots plots             the certificate and all measurements

Starts its own server. The exit code is 1 if a message was lost, doubled or
reordered, if a connection closed, if a state differs, if too few events were
in flight, if the server accepted a bad library or rejected a good one, if too
many replaced libraries stay in memory, or if a killed server has lost more
than the durability of its topics allows. With --nodes, also if a client missed
a message and was not told that its channel ended, if state is gone although
its node lived on, if a node answers for topics that it has lost, or if topics
were silent for more than twice the lease. That needs nats-server 2.10 or newer,
and a build with the feature `cluster`.";

/// How long the server may take to accept or reject a library, or to answer a client of a measurement.
const OUTCOME: Duration = Duration::from_secs(60);

/// Why a part has no result.
#[derive(Debug, thiserror::Error)]
enum TortureError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the operating system refused a resource that the test needs")]
    System(#[from] io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("after {waited:?}, only {joined} of {all} joins had a reply")]
    Joining { waited: Duration, joined: i64, all: i64 },
}

/// Runs the command. The exit code says whether all requirements are met.
///
/// # Errors
///
/// If a part cannot run: there are no libraries, or its server does not start.
pub fn run(args: &TortureArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let progress = Progress::new();
    let mut report = Report::default();
    let done = runtime.block_on(run_parts(args, &progress, &mut report));
    progress.end();
    // If a part fails, the results of those before it are still worth showing.
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

/// Runs the wanted parts one after the other.
async fn run_parts(args: &TortureArgs, progress: &Progress, report: &mut Report) -> anyhow::Result<()> {
    let with_libraries = [
        Part::Messages,
        Part::Kills,
        Part::Sleeping,
        Part::Unloading,
        Part::Pauses,
        Part::Heartbeats,
    ];
    if let Some(plan) = args.cluster() {
        let libraries = libraries(args.libraries.as_deref(), &[Variant::V1], progress)?;
        progress.step(&format!(
            "{} nodes start, and {} clients connect",
            plan.nodes, plan.clients
        ));
        report.nodes = Some(nodes::run(&plan, &libraries, |line| progress.step(&line)).await?);
    }
    if with_libraries.into_iter().any(|part| args.wants(part)) {
        let all: Vec<Variant> = Variant::GOOD.into_iter().chain(Variant::BAD).collect();
        let libraries = libraries(args.libraries.as_deref(), &all, progress)?;
        run_with_libraries(args, &libraries, progress, report).await?;
    }
    if args.wants(Part::Saving) {
        progress.step("saving: the first build");
        let checkout = Workspace::find(&std::env::current_dir()?)?;
        report.saving = saving::run(&checkout, |save| progress.step(&format!("saving: {save}"))).await?;
        plot(args, "saving", || saving::chart(&report.saving))?;
    }
    Ok(())
}

async fn run_with_libraries(
    args: &TortureArgs,
    libraries: &Libraries,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    if args.wants(Part::Messages) {
        let plan = args.plan();
        progress.step(&format!("{} clients connect", plan.clients));
        let update = |reloads: &_, tally: &_| progress.update(|| messages::line(&plan, reloads, tally));
        report.messages = Some(messages::run(&plan, libraries, update).await?);
    }
    if args.wants(Part::Kills) {
        let (all, seed) = (args.kills(), args.seed());
        progress.step("kills: the first server starts");
        let update = |kills: &_| progress.update(|| kills::line(all, kills));
        report.kills = Some(kills::run(all, seed, libraries, update).await?);
    }
    if args.wants(Part::Sleeping) {
        let step = |what: &str| progress.step(&format!("sleeping: {what}"));
        report.sleeping = Some(sleeping::run(libraries, args.sleepers(), step).await?);
    }
    if args.wants(Part::Unloading) {
        let update = |reload| progress.update(|| format!("unloading: reload {reload} of {}", args.unloads));
        let unloading = unloading::run(libraries, args.unloads, update).await?;
        plot(args, "unloading", || unloading.chart())?;
        report.unloading = Some(unloading);
    }
    if args.wants(Part::Pauses) {
        let step = |members, kib| progress.step(&format!("pauses: {members} members, {kib} KiB"));
        report.pauses = pauses::run(libraries, step).await?;
        plot(args, "pauses", || pauses::chart(&report.pauses))?;
    }
    if args.wants(Part::Heartbeats) {
        progress.step("heartbeats: clients join 10,000 topics, which then move");
        let heartbeats = heartbeats::run(libraries).await?;
        plot(args, "heartbeats", || heartbeats.chart())?;
        report.heartbeats = Some(heartbeats);
    }
    Ok(())
}

/// Reads variants of the plugin from a folder, or builds them in the workspace that this runs in.
fn libraries(folder: Option<&Path>, variants: &[Variant], progress: &Progress) -> anyhow::Result<Libraries> {
    if let Some(folder) = folder {
        return Ok(Libraries::read(folder, variants)?);
    }
    let libraries = Libraries::build(&std::env::current_dir()?, variants, |variant| {
        progress.step(&format!("building {variant}"));
    });
    Ok(libraries?)
}

fn plot(args: &TortureArgs, name: &str, chart: impl FnOnce() -> Chart) -> io::Result<()> {
    let Some(folder) = &args.plots else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{name}.svg")), chart().svg())
}
