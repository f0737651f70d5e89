//! Replaces the library while clients push events, and certifies that nothing is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::certificate::{Certificate, InFlight, Memory, Pauses, Reloads};
use super::clients::{Clients, Phase};
use super::libraries::{Libraries, Outcome, Variant};
use super::log::LogEvent;
use super::plan::Plan;
use super::server::{PROBATION, Server, ServerError, Setup};
use super::tally::Tally;
use super::topic::KEEP;
use super::{OUTCOME, TortureError, memory};
use crate::numbers::{grouped, quantile};

/// How long all clients together may take to join.
const JOINING: Duration = Duration::from_secs(120);
/// How long the last replies may take once clients have stopped pushing.
const SETTLING: Duration = Duration::from_secs(20);
/// How long the server may take to unload the last libraries.
const UNLOADING: Duration = Duration::from_secs(10);
/// How long all clients must be in their topics before a rollback counts as over.
const BACK: Duration = Duration::from_secs(1);
/// Between two looks at counters.
const POLL: Duration = Duration::from_millis(10);
/// How many samples of the events in flight to keep, one for each millisecond.
const SAMPLES: usize = 30_000;
/// Between two reloads, in milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 50..300;
/// A bad library follows this many good ones.
const BAD_EVERY: u64 = 3;

/// Runs the part. Calls `progress` after each reload.
pub(super) async fn run(
    plan: &Plan,
    libraries: &Libraries,
    mut progress: impl FnMut(&Reloads, &Tally),
) -> Result<Certificate, TortureError> {
    let setup = Setup {
        shards: plan.shards,
        clients: plan.clients,
        joins: plan.joins(),
        retire: plan.retire(),
        probation: PROBATION,
        settings: format!("{{ keep = {KEEP} }}"),
        more: String::new(),
    };
    let mut server = Server::start(&setup, &libraries.bytes(Variant::V1, 0)).await?;
    let tally = Arc::new(Tally::default());
    let clients = Clients::start(plan, server.address, &tally)?;
    all_joined(plan, &tally).await?;
    clients.order(Phase::Push);
    let start = Instant::now();

    let mut reloading = Reloading::new(plan, &tally);
    tokio::time::sleep(Duration::from_millis(plan.later_ms().end)).await;
    while reloading.reloads.done + reloading.reloads.unexpected < plan.reloads {
        reloading.next(&mut server, libraries).await?;
        clients.audit();
        progress(&reloading.reloads, &tally);
    }
    let took = start.elapsed();

    clients.order(Phase::Settle);
    let deadline = Instant::now() + SETTLING;
    while !clients.have_ended() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    clients.order(Phase::End);
    while !clients.have_ended() {
        tokio::time::sleep(POLL).await;
    }
    let certificate = reloading
        .certify(Certificate::new(plan, &tally, took), &mut server)
        .await?;
    server.stop();
    Ok(certificate)
}

/// How far a run is, in one line.
pub(super) fn line(plan: &Plan, reloads: &Reloads, tally: &Tally) -> String {
    format!(
        "reload {} of {}, {} rejected: {} sent, {} received, {} in flight, {} lost",
        reloads.done,
        plan.reloads,
        reloads.refused,
        grouped(tally.sent.get()),
        grouped(tally.received.get()),
        tally.in_flight.get(),
        tally.lost.get(),
    )
}

async fn all_joined(plan: &Plan, tally: &Tally) -> Result<(), TortureError> {
    let (start, all) = (Instant::now(), plan.members());
    while tally.joined.get() < all {
        if start.elapsed() > JOINING || tally.closed.get() > 0 {
            return Err(TortureError::Joining {
                waited: start.elapsed(),
                joined: tally.joined.get(),
                all,
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Replaces libraries, and collects the results for the certificate.
struct Reloading {
    rng: Rng,
    tally: Arc<Tally>,
    members: i64,
    /// How many events must be in flight.
    wanted: i64,
    samples: Arc<Mutex<Samples>>,
    /// How many libraries have been written.
    written: u64,
    /// How many of them are good.
    good: u64,
    reloads: Reloads,
    /// The fewest events in flight during each reload.
    in_flight: Vec<i64>,
    /// Events that waited in the mailboxes of held topics.
    held: u64,
    panics: i64,
    pauses: Vec<Duration>,
    resident: Vec<f64>,
    /// The generations that came into service.
    generations: BTreeMap<u64, State>,
}

/// How many events were in flight at a time.
type Samples = VecDeque<(Instant, i64)>;

/// The state of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Unloaded,
    /// It has ended, and its library stays in memory.
    Mapped,
}

impl Reloading {
    fn new(plan: &Plan, tally: &Arc<Tally>) -> Self {
        let samples = Arc::new(Mutex::new(VecDeque::with_capacity(SAMPLES)));
        tokio::spawn(sample(Arc::clone(&samples), Arc::clone(tally)));
        Self {
            rng: Rng::with_seed(plan.seed),
            tally: Arc::clone(tally),
            members: plan.members(),
            wanted: plan.in_flight.into(),
            samples,
            written: 0,
            good: 0,
            reloads: Reloads::default(),
            in_flight: Vec::new(),
            held: 0,
            panics: 0,
            pauses: Vec::new(),
            resident: Vec::new(),
            generations: BTreeMap::from([(1, State::Running)]),
        }
    }

    /// Replaces the library once, sometimes by a bad one.
    async fn next(&mut self, server: &mut Server, libraries: &Libraries) -> Result<(), TortureError> {
        let bad = self.good / BAD_EVERY;
        let is_good = self.written - self.good >= bad;
        let variant = if is_good {
            Variant::GOOD[(self.good % 3) as usize]
        } else {
            Variant::BAD[(self.written - self.good) as usize % Variant::BAD.len()]
        };
        self.written += 1;
        self.good += u64::from(is_good);
        if variant.expected() == Outcome::RolledBack {
            self.tally.turn_window();
        }
        server.replace(&libraries.bytes(variant, self.written))?;
        let swap = self.outcome(server, variant.expected()).await?;
        if let Some(swap) = swap {
            self.in_flight.extend(self.least_in_flight(swap));
        }
        if variant.expected() == Outcome::RolledBack {
            self.all_back().await;
            self.tally.turn_window();
        }
        tokio::time::sleep(Duration::from_millis(self.rng.u64(BETWEEN_MS))).await;
        self.resident.push(memory::resident_kib(server)?);
        Ok(())
    }

    /// Waits until the library is in service, rejected or rolled back. Returns how long a good one took to replace the
    /// other.
    async fn outcome(&mut self, server: &mut Server, expected: Outcome) -> Result<Option<Duration>, TortureError> {
        let mut served = None;
        let outcome = loop {
            match server.next_event(OUTCOME).await? {
                LogEvent::InService { generation, swap } => {
                    self.generations.insert(generation, State::Running);
                    served = Some(swap);
                    if expected != Outcome::RolledBack {
                        break Outcome::Served;
                    }
                }
                LogEvent::RolledBack => break Outcome::RolledBack,
                LogEvent::Rejected { .. } => break Outcome::Rejected,
                other => self.note(other),
            }
        };
        let count = match outcome {
            _ if outcome != expected => &mut self.reloads.unexpected,
            Outcome::Served => &mut self.reloads.done,
            Outcome::Rejected => &mut self.reloads.refused,
            Outcome::RolledBack => &mut self.reloads.rolled_back,
        };
        *count += 1;
        // Events in flight prove nothing about code that panics.
        Ok(served.filter(|_| outcome == Outcome::Served))
    }

    /// Waits until all clients are back in their topics and stay there.
    async fn all_back(&self) {
        let deadline = Instant::now() + SETTLING;
        let mut since = Instant::now();
        while since.elapsed() < BACK && Instant::now() < deadline {
            if self.tally.joined.get() < self.members {
                since = Instant::now();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn note(&mut self, event: LogEvent) {
        match event {
            LogEvent::Moved { held, waited } => {
                self.pauses.push(held);
                self.held += waited;
            }
            LogEvent::Panicked => self.panics += 1,
            LogEvent::Kept { topics } => self.reloads.kept_topics += topics,
            LogEvent::Unloaded(generation) => drop(self.generations.insert(generation, State::Unloaded)),
            LogEvent::Mapped(generation) => drop(self.generations.insert(generation, State::Mapped)),
            _ => {}
        }
    }

    /// The fewest events in flight during the reload that has just ended.
    fn least_in_flight(&self, swap: Duration) -> Option<i64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now().checked_sub(swap + Duration::from_millis(5))?;
        samples
            .iter()
            .rev()
            .take_while(|(at, _)| *at >= start)
            .map(|(_, count)| *count)
            .min()
    }

    async fn certify(mut self, mut certificate: Certificate, server: &mut Server) -> Result<Certificate, TortureError> {
        let deadline = Instant::now() + UNLOADING;
        while self.running() > 1 {
            match server
                .next_event(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(event) => self.note(event),
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
        certificate.pauses = Pauses::of(&self.pauses);
        certificate.memory = Memory {
            kib_per_reload: memory::kib_per_reload(&self.resident),
            replaced,
            unmapped: (replaced + 1).saturating_sub(memory::mapped_libraries(server)?),
        };
        certificate.reloads = self.reloads;
        Ok(certificate.judged())
    }

    fn running(&self) -> usize {
        let running = |state: &&State| **state == State::Running;
        self.generations.values().filter(running).count()
    }
}

/// Samples how many events are in flight, once in a millisecond.
async fn sample(samples: Arc<Mutex<Samples>>, tally: Arc<Tally>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((Instant::now(), tally.in_flight.get()));
    }
}
