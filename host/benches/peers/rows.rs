//! What is measured, and what Bennu is to reach.

use bennu_tools::numbers::grouped;
use serde_json::Value;

/// Where server and generator run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On one CPU together: what a message costs the server is the same from run to run then.
    Shared,
    /// On a CPU each: for times and rates, and for memory.
    Apart,
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its line in the table.
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Where it is in what `bennu load --json` says.
    pub(crate) at: &'static str,
    pub(crate) decimals: usize,
    /// Most figures are a cost; this is the other kind.
    pub(crate) more_is_better: bool,
    /// Bennu's share of socketioxide's that must be reached, and that is aimed at.
    pub(crate) bar: Option<f64>,
    pub(crate) goal: Option<f64>,
}

/// One run of the generator.
#[derive(Debug)]
pub(crate) struct Row {
    /// What it is called behind `--rows`.
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) load: &'static str,
    /// Whether the load goes on for a time, which can be chosen.
    pub(crate) lasts: bool,
    pub(crate) figures: &'static [Figure],
}

const fn cost(name: &'static str, unit: &'static str, at: &'static str, bars: [Option<f64>; 2]) -> Figure {
    let [bar, goal] = bars;
    Figure {
        name,
        unit,
        at,
        decimals: 2,
        more_is_better: false,
        bar,
        goal,
    }
}

const EACH: &str = "/events/measured/server_us_each";
const P99: &str = "/events/measured/latency/p99_us";

/// All of them.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "memory",
        place: Place::Apart,
        load: "connect --clients 10000",
        lasts: false,
        figures: &[
            Figure {
                decimals: 0,
                ..cost(
                    "idle connection, joined, of 10,000",
                    "bytes",
                    "/memory/per_client_bytes",
                    [Some(0.10), Some(0.024)],
                )
            },
            Figure {
                decimals: 0,
                more_is_better: true,
                ..cost(
                    "connect and join",
                    "a second",
                    "/joins/per_second",
                    [Some(2.0), Some(3.3)],
                )
            },
        ],
    },
    Row {
        name: "connect",
        place: Place::Shared,
        load: "connect --clients 10000",
        lasts: false,
        figures: &[cost(
            "connect and join",
            "µs",
            "/joins/server_us_each",
            [Some(0.5), Some(0.3)],
        )],
    },
    Row {
        name: "echo64",
        place: Place::Shared,
        load: "echo --clients 64",
        lasts: true,
        figures: &[
            cost("echo, 64 clients", "µs", EACH, [Some(0.75), Some(0.50)]),
            cost("echo, 64 clients: p99", "µs latency", P99, [Some(1.0), None]),
        ],
    },
    Row {
        name: "echo1",
        place: Place::Shared,
        load: "echo --clients 1",
        lasts: true,
        figures: &[cost("echo, 1 client", "µs", EACH, [None, None])],
    },
    Row {
        name: "paced",
        place: Place::Shared,
        load: "fanout --clients 1000 --rate 40",
        lasts: true,
        figures: &[cost(
            "delivery, 40 a second to 1,000",
            "µs",
            EACH,
            [Some(0.65), Some(0.40)],
        )],
    },
    Row {
        name: "fanout1k",
        place: Place::Shared,
        load: "fanout --clients 1000 --window 1",
        lasts: true,
        figures: &[
            cost("delivery, closed loop to 1,000", "µs", EACH, [Some(0.65), Some(0.55)]),
            cost(
                "delivery, closed loop to 1,000: p99",
                "µs latency",
                P99,
                [Some(1.0), None],
            ),
        ],
    },
    Row {
        name: "fanout10k",
        place: Place::Shared,
        load: "fanout --clients 10000 --window 2",
        lasts: true,
        figures: &[
            cost("delivery, closed loop to 10,000", "µs", EACH, [Some(0.55), Some(0.42)]),
            cost(
                "delivery, closed loop to 10,000: p99",
                "µs latency",
                P99,
                [Some(1.0), None],
            ),
        ],
    },
    Row {
        name: "rooms",
        place: Place::Shared,
        load: "rooms --clients 5000 --topics 500",
        lasts: true,
        figures: &[
            cost("delivery, 500 rooms of 10", "µs", EACH, [Some(0.7), Some(0.5)]),
            cost("delivery, 500 rooms of 10: p99", "µs latency", P99, [Some(1.0), None]),
        ],
    },
    Row {
        name: "p99",
        place: Place::Apart,
        load: "fanout --clients 1000 --rate 20",
        lasts: true,
        figures: &[cost(
            "delivery, 20 a second to 1,000: p99",
            "µs latency",
            P99,
            [Some(1.0), None],
        )],
    },
];

impl Figure {
    /// Of one run.
    pub(crate) fn read(&self, report: &Value) -> Option<f64> {
        report.pointer(self.at).and_then(Value::as_f64)
    }

    /// The run that was disturbed least.
    pub(crate) fn best(&self, runs: impl Iterator<Item = f64>) -> Option<f64> {
        runs.reduce(if self.more_is_better { f64::max } else { f64::min })
    }

    /// Whether a ratio to socketioxide is as good as `wanted`.
    pub(crate) fn holds(&self, ratio: f64, wanted: f64) -> bool {
        if self.more_is_better {
            ratio >= wanted
        } else {
            ratio <= wanted
        }
    }

    /// With its unit and a comma between thousands.
    pub(crate) fn show(&self, value: f64) -> String {
        // Latencies are known to a few per cent only.
        let decimals = if value >= 100.0 { 0 } else { self.decimals };
        let text = format!("{value:.decimals$}");
        let (whole, rest) = text.find('.').map_or((&*text, ""), |at| text.split_at(at));
        whole
            .parse::<i64>()
            .map_or_else(|_| text.clone(), |whole| grouped(whole) + rest)
    }
}

/// What was sent and did not come, or did not join.
pub(crate) fn lost(report: &Value) -> u64 {
    let count = |at| report.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    count("/clients") - count("/joined") + count("/closed") + count("/events/lost")
}
