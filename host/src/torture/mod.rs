//! `bennu torture`: replaces a plugin again and again under the hands of its clients, and counts.
//!
//! A server of its own runs as a child. [`crowd`] is all clients: they put numbers into topics, and everything that comes
//! back is numbered, too ([`seat`] holds what each of them must see). Meanwhile the library is replaced by its other
//! versions, good and bad ([`libraries`]). What that has shown is the [`Certificate`].
//!
//! Beside it stand measurements, each on servers of its own: [`unloading`], [`pauses`], [`heartbeats`], [`saving`].
//!
//! The plugin is `plugins/ledger`. Nothing here reaches into the server: what it knows, it has from sockets, from the log
//! and from `/proc`.

pub mod certificate;
pub mod crowd;
pub mod heartbeats;
pub mod libraries;
pub mod memory;
pub mod pauses;
pub mod plan;
pub mod plot;
pub mod report;
pub mod said;
pub mod saving;
pub mod seat;
pub mod sequence;
pub mod server;
pub mod tally;
pub mod topic;
pub mod unloading;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

pub use certificate::Certificate;
use certificate::{InFlight, Memory, Pauses, Reloads, quantile};
use crowd::{Crowd, Phase};
use libraries::{Fate, Libraries, Variant};
use plan::Plan;
use said::Said;
use server::{PROBATION, Server, ServerError, Setup};
use tally::Tally;
use topic::KEEP;

/// How long all clients together may take to join.
const JOINING: Duration = Duration::from_secs(120);
/// How long the server may take to say what becomes of a library.
const OUTCOME: Duration = Duration::from_secs(60);
/// How long everything may take that is owed when nothing more is put.
const SETTLING: Duration = Duration::from_secs(20);
/// How long the last libraries may take to go.
const BURYING: Duration = Duration::from_secs(10);
/// For how long all clients must be in their topics before nobody is taken to be on the way out any more.
const BACK: Duration = Duration::from_secs(1);
/// Between two looks at counters.
const LOOK: Duration = Duration::from_millis(10);
/// How many looks at what is in flight are kept, one a millisecond.
const LOOKS: usize = 30_000;
/// Between two reloads, in milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 50..300;
/// A bad library follows each so many good ones.
const BAD_EVERY: u64 = 3;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TortureError {
    /// The server is not what it should be.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Something of the system's.
    #[error("the system does not give what this needs")]
    System(#[from] io::Error),
    /// A client of a measurement.
    #[error(transparent)]
    Client(#[from] crate::client::ClientError),
    /// The clients did not get in.
    #[error("after {0:?} only {1} of {2} joins were answered")]
    Joining(Duration, i64, i64),
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Reloads so far.
    pub reloads: &'a Reloads,
    /// Reloads that are planned.
    pub planned: u64,
    /// What is counted.
    pub tally: &'a Tally,
}

/// Runs it all. `progress` is told after each reload.
///
/// # Errors
///
/// If there is nothing to be certified: the server did not start, or ended.
pub async fn run(
    plan: &Plan,
    libraries: &Libraries,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Certificate, TortureError> {
    let setup = Setup {
        shards: plan.shards,
        clients: plan.clients,
        joins: plan.joins(),
        retire: plan.retire(),
        probation: PROBATION,
        settings: format!("{{ keep = {KEEP} }}"),
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::V1, 0)).await?;
    let tally = Arc::new(Tally::default());
    let crowd = Crowd::start(plan, server.address, &tally)?;
    all_inside(plan, &tally).await?;
    crowd.order(Phase::Put);
    let start = Instant::now();

    let mut reloading = Reloading::new(plan, &tally);
    tokio::time::sleep(Duration::from_millis(plan.later_ms().end)).await;
    while reloading.reloads.done + reloading.reloads.unexpected < plan.reloads {
        reloading.next(&mut server, libraries).await?;
        crowd.audit();
        progress(Progress {
            reloads: &reloading.reloads,
            planned: plan.reloads,
            tally: &tally,
        });
    }
    let took = start.elapsed();

    crowd.order(Phase::Settle);
    let deadline = Instant::now() + SETTLING;
    while !crowd.is_gone() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    crowd.order(Phase::Over);
    while !crowd.is_gone() {
        tokio::time::sleep(LOOK).await;
    }
    let certificate = reloading
        .certify(Certificate::new(plan, &tally, took), &mut server)
        .await?;
    server.stop();
    Ok(certificate)
}

async fn all_inside(plan: &Plan, tally: &Tally) -> Result<(), TortureError> {
    let (start, all) = (Instant::now(), plan.seats());
    while tally.inside.get() < all {
        if start.elapsed() > JOINING || tally.closed.get() > 0 {
            return Err(TortureError::Joining(start.elapsed(), tally.inside.get(), all));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Replaces libraries, and keeps what comes of it.
struct Reloading {
    rng: Rng,
    tally: Arc<Tally>,
    seats: i64,
    /// Events that are to be in flight.
    wanted: i64,
    looks: Arc<Mutex<Looks>>,
    /// How many libraries were put in place.
    puts: u64,
    good: u64,
    reloads: Reloads,
    /// The least that was in flight, in each reload.
    in_flight: Vec<i64>,
    held: u64,
    panics: i64,
    pauses: Vec<Duration>,
    resident: Vec<f64>,
    /// The generations that came into service, and what was left of them.
    generations: BTreeMap<u64, Left>,
}

/// What is in flight, from moment to moment.
type Looks = VecDeque<(Instant, i64)>;

/// What is left of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Running,
    Nothing,
    Code,
}

impl Reloading {
    fn new(plan: &Plan, tally: &Arc<Tally>) -> Self {
        let looks = Arc::new(Mutex::new(VecDeque::with_capacity(LOOKS)));
        tokio::spawn(look(Arc::clone(&looks), Arc::clone(tally)));
        Self {
            rng: Rng::with_seed(plan.seed),
            tally: Arc::clone(tally),
            seats: plan.seats(),
            wanted: plan.in_flight.into(),
            looks,
            puts: 0,
            good: 0,
            reloads: Reloads::default(),
            in_flight: Vec::new(),
            held: 0,
            panics: 0,
            pauses: Vec::new(),
            resident: Vec::new(),
            generations: BTreeMap::from([(1, Left::Running)]),
        }
    }

    /// Replaces the library once, by a bad one now and then.
    async fn next(&mut self, server: &mut Server, libraries: &Libraries) -> Result<(), TortureError> {
        let bad = self.good / BAD_EVERY;
        let is_good = self.puts - self.good >= bad;
        let variant = if is_good {
            Variant::GOOD[(self.good % 3) as usize]
        } else {
            Variant::BAD[(self.puts - self.good) as usize % Variant::BAD.len()]
        };
        self.puts += 1;
        self.good += u64::from(is_good);
        if variant.fate() == Fate::RolledBack {
            self.tally.turn_window();
        }
        server.replace(&libraries.bytes(variant, self.puts))?;
        let swap = self.outcome(server, variant.fate()).await?;
        if let Some(swap) = swap {
            self.in_flight.extend(self.least_in_flight(swap));
        }
        if variant.fate() == Fate::RolledBack {
            self.all_back().await;
            self.tally.turn_window();
        }
        tokio::time::sleep(Duration::from_millis(self.rng.u64(BETWEEN_MS))).await;
        self.resident.push(memory::resident_kib(server)?);
        Ok(())
    }

    /// Waits until the library is in service, or is refused.
    async fn outcome(&mut self, server: &mut Server, fate: Fate) -> Result<Option<Duration>, TortureError> {
        let mut served = None;
        let came = loop {
            match server.said(OUTCOME).await? {
                Said::InService { generation, swap } => {
                    self.generations.insert(generation, Left::Running);
                    served = Some(swap);
                    if fate != Fate::RolledBack {
                        break Fate::Served;
                    }
                }
                Said::RolledBack => break Fate::RolledBack,
                Said::Refused { .. } => break Fate::Refused,
                other => self.note(other),
            }
        };
        let count = match came {
            _ if came != fate => &mut self.reloads.unexpected,
            Fate::Served => &mut self.reloads.done,
            Fate::Refused => &mut self.reloads.refused,
            Fate::RolledBack => &mut self.reloads.rolled_back,
        };
        *count += 1;
        // What the code that panics had in flight says nothing.
        Ok(served.filter(|_| came == Fate::Served))
    }

    /// Waits until all clients are back in their topics, for good.
    async fn all_back(&self) {
        let deadline = Instant::now() + SETTLING;
        let mut since = Instant::now();
        while since.elapsed() < BACK && Instant::now() < deadline {
            if self.tally.inside.get() < self.seats {
                since = Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn note(&mut self, said: Said) {
        match said {
            Said::Moved { held, waited } => {
                self.pauses.push(held);
                self.held += waited;
            }
            Said::Panicked => self.panics += 1,
            Said::Kept { topics } => self.reloads.kept_topics += topics,
            Said::Unloaded(generation) => drop(self.generations.insert(generation, Left::Nothing)),
            Said::Mapped(generation) => drop(self.generations.insert(generation, Left::Code)),
            _ => {}
        }
    }

    /// The least that was in flight while topics moved, until now.
    fn least_in_flight(&self, swap: Duration) -> Option<i64> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now().checked_sub(swap + Duration::from_millis(5))?;
        looks
            .iter()
            .rev()
            .take_while(|(at, _)| *at >= start)
            .map(|(_, count)| *count)
            .min()
    }

    async fn certify(mut self, mut certificate: Certificate, server: &mut Server) -> Result<Certificate, TortureError> {
        let deadline = Instant::now() + BURYING;
        while self.running() > 1 {
            match server.said(deadline.saturating_duration_since(Instant::now())).await {
                Ok(said) => self.note(said),
                Err(ServerError::Silent(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let replaced = self.generations.len() - 1;
        let each = self.in_flight.clone();
        self.in_flight.sort_unstable();
        certificate.in_flight = InFlight {
            least: quantile(&self.in_flight, 0.0).unwrap_or_default(),
            median: quantile(&self.in_flight, 0.5).unwrap_or_default(),
            wanted: self.wanted,
            each,
            held: self.held,
        };
        certificate.panics = self.panics;
        certificate.pauses = Pauses::of(self.pauses);
        certificate.memory = Memory {
            kib_per_reload: memory::kib_per_reload(&self.resident),
            replaced,
            unmapped: (replaced + 1).saturating_sub(memory::mapped_libraries(server)?),
        };
        certificate.reloads = self.reloads;
        Ok(certificate.judged())
    }

    fn running(&self) -> usize {
        self.generations.values().filter(|left| **left == Left::Running).count()
    }
}

async fn look(looks: Arc<Mutex<Looks>>, tally: Arc<Tally>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == LOOKS {
            looks.pop_front();
        }
        looks.push_back((Instant::now(), tally.in_flight.get()));
    }
}
