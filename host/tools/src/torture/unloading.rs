//! Measures what replaced libraries with an async runtime leave in memory.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clients::{Clients, Phase};
use super::libraries::{Libraries, Variant};
use super::log::LogEvent;
use super::plan::Plan;
use super::server::{Server, Setup};
use super::tally::Tally;
use super::{OUTCOME, TortureError, memory};
use crate::plot::{Axis, Chart};

/// A few clients, which keep the runtimes busy.
const CLIENTS: usize = 4;
/// How long the server keeps replaced code, and how long new code is on probation.
const RETIRE: Duration = Duration::from_millis(100);

/// What replaced libraries leave in memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Unloading {
    /// How many libraries were replaced.
    pub(super) replaced: usize,
    /// How many of them are unmapped.
    pub(super) unmapped: usize,
    /// How much resident memory each reload adds, in KiB, see [`memory::kib_per_reload`].
    pub(super) kib_per_reload: Option<f64>,
    /// Resident memory after each reload, in KiB.
    #[serde(skip)]
    pub(super) resident_kib: Vec<f64>,
}

/// Runs the part: replaces the library by another one with a runtime, again and again.
pub(super) async fn run(
    libraries: &Libraries,
    reloads: u64,
    mut progress: impl FnMut(u64),
) -> Result<Unloading, TortureError> {
    let plan = Plan {
        clients: CLIENTS,
        topics: 2,
        shards: 2,
        rate: 100,
        reloads,
        in_flight: 1,
        seed: 0,
    };
    let setup = Setup {
        shards: plan.shards,
        clients: plan.clients,
        joins: plan.joins(),
        retire: RETIRE,
        probation: RETIRE,
        settings: "{}".to_owned(),
        more: String::new(),
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::Runtime, 0)).await?;
    let tally = Arc::new(Tally::default());
    let clients = Clients::start(&plan, server.address, &tally)?;
    clients.order(Phase::Push);
    let (mut replaced, mut resident_kib) = (0, Vec::new());
    for reload in 1..=reloads {
        server.replace(&libraries.bytes(Variant::Runtime, reload))?;
        // Waits until the library before has ended.
        let deadline = Instant::now() + OUTCOME;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let LogEvent::Unloaded(_) | LogEvent::Mapped(_) = server.next_event(left).await? {
                break;
            }
        }
        replaced += 1;
        resident_kib.push(memory::resident_kib(&server)?);
        progress(reload);
    }
    clients.order(Phase::End);
    let mapped = memory::mapped_libraries(&server)?;
    server.stop();
    Ok(Unloading {
        replaced,
        unmapped: (replaced + 1).saturating_sub(mapped),
        kib_per_reload: memory::kib_per_reload(&resident_kib),
        resident_kib,
    })
}

impl fmt::Display for Unloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            replaced,
            unmapped,
            kib_per_reload,
            ..
        } = self;
        write!(
            f,
            "{unmapped} of {replaced} replaced libraries with an async runtime are unmapped"
        )?;
        match kib_per_reload {
            Some(kib) => write!(f, "; {kib:+.2} KiB of memory per reload"),
            None => Ok(()),
        }
    }
}

impl Unloading {
    /// Whether at least 99 % are unmapped, and each reload adds less than 1 KiB.
    pub(super) fn is_clean(&self) -> bool {
        self.unmapped * 100 >= self.replaced * 99 && self.kib_per_reload.is_none_or(|kib| kib < 1.0)
    }

    /// Resident memory over all reloads.
    pub(super) fn chart(&self) -> Chart {
        let points = self.resident_kib.iter().enumerate();
        Chart {
            title: "Resident memory over reloads of a library with an async runtime".to_owned(),
            x: Axis::linear("reloads"),
            y: Axis::linear("MiB"),
            lines: vec![(
                "resident".to_owned(),
                points.map(|(at, kib)| (at as f64 + 1.0, kib / 1024.0)).collect(),
            )],
            aim: None,
        }
    }
}
