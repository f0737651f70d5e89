//! The arguments of `bennu torture`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::nodes;
use super::plan::Plan;
use crate::args::JsonArg;

/// Arguments of `bennu torture`.
#[derive(Args, Debug)]
pub struct TortureArgs {
    /// Number of clients; half of them connect by WebSocket, half by long polling [default: 1000, or 300 with --nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=20_000))]
    clients: Option<u32>,
    /// Number of topics; clients of both transports join each of them [default: 200, or 60 with --nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    topics: Option<u32>,
    /// Number of the plugin's shards
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Events per second that all clients together push [default: 2000, or 600 with --nodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
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
    /// Run a cluster instead, of so many nodes, through joins, stops, kills, freezes and outages of its broker [default: 3]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", conflicts_with_all = ["part", "kill"],
          value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: Option<u8>,
    /// With --nodes: how often something happens to the cluster
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// With --nodes: the lease of the nodes, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1_000..=60_000))]
    lease_ms: u32,
    /// With --nodes: the program to start as broker [default: that of BENNU_NATS_SERVER, or nats-server]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// With --nodes: folder to keep the logs of the nodes in
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
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
        if self.nodes.is_some() {
            return false;
        }
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

    /// What is to become of a cluster, if there is to be one.
    pub(super) fn cluster(&self) -> Option<nodes::Plan> {
        let named = || std::env::var_os("BENNU_NATS_SERVER").map(PathBuf::from);
        Some(nodes::Plan {
            nodes: self.nodes?.into(),
            clients: self.clients.unwrap_or(300) as usize,
            topics: self.topics.unwrap_or(60) as usize,
            shards: self.shards as usize,
            rate: self.rate.unwrap_or(600),
            rounds: self.rounds,
            lease: Duration::from_millis(self.lease_ms.into()),
            seed: self.seed(),
            broker: { self.nats_server.clone().or_else(named) }.unwrap_or_else(|| "nats-server".into()),
            logs: self.logs.clone(),
        })
    }

    /// The plan of the part `messages`.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            clients: self.clients.unwrap_or(1_000) as usize,
            topics: self.topics.unwrap_or(200) as usize,
            shards: self.shards as usize,
            rate: self.rate.unwrap_or(2_000),
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
        check("--nodes", &[]);
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
    fn a_cluster_has_fewer_clients_unless_one_says_how_many() {
        let torture = |words: &[&str]| Line::try_parse_from(words).expect("arguments").torture;
        let clients = |words: &[&str]| torture(words).cluster().map(|plan| (plan.nodes, plan.clients));
        assert_eq!(clients(&["torture"]), None);
        assert_eq!(clients(&["torture", "--nodes"]), Some((3, 300)));
        assert_eq!(clients(&["torture", "--nodes", "4", "--clients", "20"]), Some((4, 20)));
        assert_eq!(torture(&["torture"]).plan().clients, 1_000);
    }

    #[test]
    fn a_seed_is_chosen_unless_one_is_given() {
        let seed = |words: &[&str]| Line::try_parse_from(words).map(|line| line.torture.plan().seed);
        assert_eq!(seed(&["torture", "--seed", "7"]).ok(), Some(7));
        assert!(seed(&["torture"]).is_ok_and(|seed| seed < 1_000_000));
    }
}
