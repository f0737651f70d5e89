//! The arguments of `bennu torture`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::plan::Plan;
use crate::args::JsonArg;

/// Arguments of `bennu torture`.
#[derive(Args, Debug)]
pub struct TortureArgs {
    /// Number of clients; half of them connect by WebSocket, half by long polling
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    clients: u32,
    /// Number of topics; clients of both transports join each of them
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: u32,
    /// Number of the plugin's shards
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Events per second that all clients together push
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Number of good libraries to load; a bad one follows every third
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    reloads: u64,
    /// Number of events that must be in flight during every reload
    #[arg(long, value_name = "N", default_value_t = 100)]
    in_flight: u32,
    /// Random seed [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder with the plugin's variants, already built: libledger.so, libledger-v2.so, …
    #[arg(long, value_name = "FOLDER")]
    pub(super) libraries: Option<PathBuf>,
    /// Parts to run, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "messages")]
    part: Vec<Part>,
    /// Run the part `kills` alone, with so many kills [default: 200]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "200", conflicts_with = "part")]
    kill: Option<NonZeroU64>,
    /// Number of libraries that the part `unloading` replaces
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) unloads: u64,
    /// Number of topics that the part `sleeping` has
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(40..))]
    sleepers: u32,
    /// Folder to write a plot of each measurement to, as SVG
    #[arg(long, value_name = "FOLDER")]
    pub(super) plots: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: JsonArg,
}

/// A part of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// The certificate: no message is lost, doubled or reordered
    Messages,
    /// Servers are killed under load, and nothing that was acknowledged is lost
    Kills,
    /// What topics cost that are stored and not in memory, and how they wake
    Sleeping,
    /// Memory that replaced libraries with an async runtime leave behind
    Unloading,
    /// How long a reload holds topics, by the size of their state
    Pauses,
    /// Latency of heartbeats while 10,000 topics move
    Heartbeats,
    /// Time from a saved source file to a reply of the new code
    Saving,
    /// All parts
    All,
}

impl TortureArgs {
    /// Whether to run this part.
    pub(super) fn wants(&self, part: Part) -> bool {
        if self.kill.is_some() {
            return part == Part::Kills;
        }
        self.part.iter().any(|wanted| [part, Part::All].contains(wanted))
    }

    /// How many topics the part `sleeping` has.
    pub(super) fn sleepers(&self) -> usize {
        self.sleepers as usize
    }

    /// How many kills the part `kills` has.
    pub(super) fn kills(&self) -> u64 {
        self.kill.map_or(200, NonZeroU64::get)
    }

    /// The seed: the given one, or a new one.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000))
    }

    /// The plan of the part `messages`.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            clients: self.clients as usize,
            topics: self.topics as usize,
            shards: self.shards as usize,
            rate: self.rate,
            reloads: self.reloads,
            in_flight: self.in_flight,
            seed: self.seed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        torture: TortureArgs,
    }

    #[track_caller]
    fn check(line: &str, expected: &[Part]) {
        let words = ["torture"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let parts = Part::value_variants().iter().filter(|part| **part != Part::All);
        let wanted: Vec<Part> = parts.copied().filter(|part| line.torture.wants(*part)).collect();
        assert_eq!(wanted, expected);
    }

    #[test]
    fn parts_are_run_as_they_are_named_or_all() {
        check("", &[Part::Messages]);
        check("--part pauses,saving", &[Part::Pauses, Part::Saving]);
        check("--kill", &[Part::Kills]);
        check("--kill 3", &[Part::Kills]);
        check(
            "--part all",
            &[
                Part::Messages,
                Part::Kills,
                Part::Sleeping,
                Part::Unloading,
                Part::Pauses,
                Part::Heartbeats,
                Part::Saving,
            ],
        );
    }

    #[test]
    fn a_seed_is_chosen_unless_one_is_given() {
        let seed = |words: &[&str]| Line::try_parse_from(words).map(|line| line.torture.plan().seed);
        assert_eq!(seed(&["torture", "--seed", "7"]).ok(), Some(7));
        assert!(seed(&["torture"]).is_ok_and(|seed| seed < 1_000_000));
    }
}
