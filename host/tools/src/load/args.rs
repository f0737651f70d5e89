//! The arguments of `bennu load`, and the plan that they make.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::dialect::Dialect;
use super::herd::HerdArgs;
use super::publish::PublishArgs;
use super::work::{Kind, Pace};
use crate::args::{JsonArg, TrustArgs};

/// Arguments of `bennu load`.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct LoadArgs {
    #[command(subcommand)]
    pub(super) work: WorkArgs,
}

/// Who does what.
#[derive(Debug, Subcommand)]
pub(super) enum WorkArgs {
    #[command(flatten)]
    Clients(ClientsArgs),
    /// Backends publish to topics through the server's API, each over a connection that stays open
    Publish(PublishArgs),
    /// All clients lose their connections at once and come back as phoenix.js does, without jitter: shows how long that takes
    Herd(HerdArgs),
}

/// What the clients do.
#[derive(Debug, Subcommand)]
pub(super) enum ClientsArgs {
    /// Connect and join: measures how fast, and how much memory each client takes
    Connect {
        #[command(flatten)]
        common: CommonArgs,
        /// Topics per client
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        topics_per_client: u32,
        /// Close all clients and connect them again, N times in all; shows the memory after each
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        cycles: u32,
        /// Seconds that the clients stay connected
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        hold_s: u64,
    },
    /// Each client pushes `echo` on a topic of its own and waits for the reply
    Echo {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        sending: SendingArgs,
    },
    /// All clients join one topic; one of them pushes `shout`, which the server broadcasts to all
    Fanout {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        sending: SendingArgs,
        #[command(flatten)]
        lagging: LaggingArgs,
    },
    /// The same as fanout, in many topics at once
    Rooms {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        sending: SendingArgs,
    },
}

/// Arguments of all subcommands.
#[derive(Args, Clone, Debug)]
pub(super) struct CommonArgs {
    /// WebSocket URL of the server [default: ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0; for Socket.IO, port 3000]
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Token that each client shows, as phoenix.js shows its `authToken`: for a mount with `[mounts.auth]`
    #[arg(long, value_name = "TOKEN")]
    pub(super) token: Option<String>,
    /// Protocol of the server
    #[arg(long, value_enum, default_value_t = Dialect::Phoenix)]
    pub(super) protocol: Dialect,
    /// Number of clients
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) clients: u32,
    /// Number of topics, which clients join in turn [default: fanout 1, rooms one for 10 clients, otherwise one for
    /// each join]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) topics: Option<u32>,
    /// Start of every topic name; a number follows
    #[arg(long, default_value = "echo:", value_name = "TEXT")]
    pub(super) topic_prefix: String,
    /// Maximum number of clients that connect or join at the same time
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) connecting: u32,
    /// Number of source addresses, from 127.0.0.10 on: each has ports for about 28,000 connections; 0 lets the system
    /// choose
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u8).range(..=200))]
    pub(super) sources: u8,
    /// Process of the server: shows the CPU time and memory of it and its children; may be repeated
    #[arg(long, value_name = "PID")]
    pub(super) pid: Vec<u32>,
    /// Seconds without any join or reply after which the missing ones count as lost
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub(super) timeout_s: u64,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    #[command(flatten)]
    pub(super) json: JsonArg,
}

/// Arguments of the subcommands that send.
#[derive(Args, Clone, Debug)]
pub(super) struct SendingArgs {
    /// Event to push [default: `echo` or `shout`]
    #[arg(long, value_name = "NAME")]
    pub(super) event: Option<String>,
    /// Size of the JSON payload in bytes, at least 40
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=200_000))]
    pub(super) payload: u32,
    /// Maximum number of messages in flight per sender: a closed loop
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) window: u32,
    /// Messages per second of all senders together, sent without waiting: an open loop
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    pub(super) duration_s: f64,
    /// Seconds to send before measuring
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    pub(super) warmup_s: f64,
}

/// Additional clients that do not keep up.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Additional clients that do not keep up; counted separately")]
pub(super) struct LaggingArgs {
    /// Number of clients that read slowly once they have joined
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) slow: u32,
    /// How fast slow clients read
    #[arg(long, default_value_t = 10_000, value_name = "BYTES", requires = "slow", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) slow_bytes_per_s: u32,
    /// Number of clients that stop reading once they have joined
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) stuck: u32,
}

/// What to do, with the defaults of the subcommand filled in.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) command: &'static str,
    pub(super) common: CommonArgs,
    pub(super) kind: Kind,
    pub(super) pace: Pace,
    pub(super) event: String,
    pub(super) payload_bytes: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) topics: usize,
    pub(super) topics_per_client: usize,
    pub(super) cycles: u32,
    pub(super) hold: Duration,
    pub(super) lagging: LaggingArgs,
}

impl ClientsArgs {
    pub(super) fn plan(&self) -> Plan {
        match self {
            Self::Connect {
                common,
                topics_per_client,
                cycles,
                hold_s,
            } => Plan {
                topics: common.topics.unwrap_or(common.clients * topics_per_client) as usize,
                topics_per_client: *topics_per_client as usize,
                cycles: *cycles,
                hold: Duration::from_secs(*hold_s),
                ..Plan::idle(common)
            },
            Self::Echo { common, sending } => {
                Plan::sending("echo", Kind::Echo, common, sending).with_topics(common.clients)
            }
            Self::Fanout {
                common,
                sending,
                lagging,
            } => Plan {
                lagging: *lagging,
                ..Plan::sending("fanout", Kind::Fanout, common, sending).with_topics(1)
            },
            Self::Rooms { common, sending } => {
                Plan::sending("rooms", Kind::Fanout, common, sending).with_topics(common.clients.div_ceil(10))
            }
        }
    }
}

impl Plan {
    fn idle(common: &CommonArgs) -> Self {
        Self {
            command: "connect",
            common: common.clone(),
            kind: Kind::Idle,
            pace: Pace::Window(0),
            event: String::new(),
            payload_bytes: 0,
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
            topics: 1,
            topics_per_client: 1,
            cycles: 1,
            hold: Duration::ZERO,
            lagging: LaggingArgs::default(),
        }
    }

    fn sending(command: &'static str, kind: Kind, common: &CommonArgs, sending: &SendingArgs) -> Self {
        let event = if kind == Kind::Echo { "echo" } else { "shout" };
        Self {
            command,
            kind,
            pace: sending.rate.map_or(Pace::Window(sending.window), Pace::PerSecond),
            event: sending.event.clone().unwrap_or_else(|| event.to_owned()),
            payload_bytes: sending.payload as usize,
            warmup: Duration::from_secs_f64(sending.warmup_s),
            duration: Duration::from_secs_f64(sending.duration_s),
            ..Self::idle(common)
        }
    }

    /// The number of clients, including those that do not keep up.
    pub(super) fn all_clients(&self) -> u32 {
        let additional = self.lagging.slow.saturating_add(self.lagging.stuck);
        self.common.clients.saturating_add(additional)
    }

    fn with_topics(self, default: u32) -> Self {
        let topics = self.common.topics.unwrap_or(default) as usize;
        Self { topics, ..self }
    }

    /// A JSON object of the planned size, with a time stamp in it.
    pub(super) fn payload(&self) -> String {
        let empty = format!(r#"{{"t":"{:016}","p":""}}"#, 0);
        let filling = "x".repeat(self.payload_bytes.saturating_sub(empty.len()));
        format!(r#"{{"t":"{:016}","p":"{filling}"}}"#, 0)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= 1e9);
    rate.ok_or_else(|| "write a number of messages per second, such as 20".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "write a number of seconds, such as 5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    impl LoadArgs {
        fn clients(self) -> ClientsArgs {
            match self.work {
                WorkArgs::Clients(clients) => clients,
                WorkArgs::Publish(_) | WorkArgs::Herd(_) => panic!("these do something else"),
            }
        }
    }

    fn plan(line: &str) -> Plan {
        let words = ["load"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{error}"))
            .load
            .clients()
            .plan()
    }

    #[test]
    fn topics_are_as_many_as_the_command_needs() {
        assert_eq!(plan("connect --clients 7").topics, 7);
        assert_eq!(plan("connect --clients 7 --topics-per-client 3").topics, 21);
        assert_eq!(plan("echo --clients 7").topics, 7);
        assert_eq!(plan("fanout --clients 7").topics, 1);
        assert_eq!(plan("rooms --clients 70").topics, 7);
        assert_eq!(plan("rooms --clients 70 --topics 2").topics, 2);
    }

    #[test]
    fn a_payload_has_the_size_that_was_asked_for() {
        for bytes in [40, 128, 1000] {
            let payload = plan(&format!("echo --payload {bytes}")).payload();
            assert_eq!(payload.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
        }
    }

    #[test]
    fn a_rate_takes_the_place_of_the_window() {
        assert_eq!(plan("fanout --window 4").pace, Pace::Window(4));
        assert_eq!(plan("fanout --rate 20").pace, Pace::PerSecond(20.0));
        assert!(Line::try_parse_from(["load", "fanout", "--rate", "20", "--window", "4"]).is_err());
    }
}
