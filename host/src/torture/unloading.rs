//! Whether anything of a replaced library stays in memory, after many that have an async runtime of their own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::crowd::{Crowd, Phase};
use super::libraries::{Libraries, Variant};
use super::plan::Plan;
use super::plot::{Axis, Chart};
use super::said::Said;
use super::server::{Server, Setup};
use super::tally::Tally;
use super::{OUTCOME, TortureError, memory};

/// A few clients keep the runtimes busy.
const CLIENTS: usize = 4;
/// How long replaced code is kept, and new code on probation.
const RETIRE: Duration = Duration::from_millis(100);

/// What is left of replaced libraries.
#[derive(Clone, Debug, Serialize)]
pub struct Unloading {
    /// Libraries that were replaced.
    pub replaced: usize,
    /// Those of them that have no code in memory.
    pub unmapped: usize,
    /// Resident memory that each adds, in KiB: how much the least in each tenth grows, in the second half of all. `None` where they are too few.
    pub kib_per_reload: Option<f64>,
    /// What was resident after each, in KiB.
    #[serde(skip)]
    pub resident_kib: Vec<f64>,
}

/// Replaces the library so many times, each by one with a runtime.
///
/// # Errors
///
/// If the server does not start, or does not do what it should.
pub async fn run(
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
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::Runtime, 0)).await?;
    let tally = Arc::new(Tally::default());
    let crowd = Crowd::start(&plan, server.address, &tally)?;
    crowd.order(Phase::Put);
    let (mut replaced, mut resident_kib) = (0, Vec::new());
    for reload in 1..=reloads {
        server.replace(&libraries.bytes(Variant::Runtime, reload))?;
        // The one before goes when nothing of it is needed any more.
        let deadline = Instant::now() + OUTCOME;
        loop {
            match server.said(deadline.saturating_duration_since(Instant::now())).await? {
                Said::Unloaded(_) | Said::Mapped(_) => break,
                _ => {}
            }
        }
        replaced += 1;
        resident_kib.push(memory::resident_kib(&server)?);
        progress(reload);
    }
    crowd.order(Phase::Over);
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
            "of {replaced} libraries with an async runtime {unmapped} are unmapped"
        )?;
        match kib_per_reload {
            Some(kib) => write!(f, "; {kib:+.2} KiB of memory a reload"),
            None => Ok(()),
        }
    }
}

impl Unloading {
    /// Whether at least 99 of 100 are gone, and each adds less than 1 KiB.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unmapped * 100 >= self.replaced * 99 && self.kib_per_reload.is_none_or(|kib| kib < 1.0)
    }

    /// What was resident, over all reloads.
    #[must_use]
    pub fn chart(&self) -> Chart {
        let points = self.resident_kib.iter().enumerate();
        Chart {
            title: "Resident memory while a library with an async runtime is replaced".to_owned(),
            x: Axis {
                label: "reloads".to_owned(),
                is_logarithmic: false,
            },
            y: Axis {
                label: "MiB".to_owned(),
                is_logarithmic: false,
            },
            lines: vec![(
                "resident".to_owned(),
                points.map(|(at, kib)| (at as f64 + 1.0, kib / 1024.0)).collect(),
            )],
            aim: None,
        }
    }
}
