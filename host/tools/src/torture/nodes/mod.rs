//! Torments a cluster while clients use it, and certifies that nothing is lost silently.
//!
//! A `nats-server` and some nodes run on this machine. Clients, spread over the nodes, push numbered events into topics, and each hears
//! all that happens in its topic. In each round something happens to the cluster: [`Kind`] says what. Then all clients must come back,
//! and compare the state of their topic with what they have heard.
//!
//! - Between a join and the end of that channel, a client hears everything, once and in order, whatever happens.
//! - The state of a topic goes on wherever it moves. Only the topics of a node that was killed, or stood still for too long, may be
//!   found empty, once, and only by clients whose channel has ended.
//! - A home that has lost a topic answers nothing there that was pushed after others had met the topic's next home.
//! - Connections end with their node, and not otherwise.

mod broker;
mod clients;
mod life;
mod member;
mod node;
mod plan;
mod report;
mod world;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;

pub(super) use broker::BrokerError;
pub(super) use plan::Plan;
pub(super) use report::Nodes;

use super::TortureError;
use super::libraries::{Libraries, Variant};
use super::server::{ServerError, secret};
use crate::numbers::grouped;
use broker::Broker;
use clients::Clients;
use node::{Common, Node};
use plan::Kind;
use world::World;

/// How long clients may take to come back, and nodes to settle, besides some leases.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at counters, or at nodes.
const POLL: Duration = Duration::from_millis(20);
/// For how long the nodes must look settled, and the same.
const CALM: Duration = Duration::from_millis(500);
/// For how long clients use the nodes before something happens, and meanwhile, in milliseconds.
const USE_MS: std::ops::Range<u64> = 500..1_500;

/// Runs the part. Calls `progress` when a round begins.
pub(super) async fn run(
    plan: &Plan,
    libraries: &Libraries,
    mut progress: impl FnMut(String),
) -> Result<Nodes, TortureError> {
    let start = Instant::now();
    let broker = Broker::start(&plan.broker).await?;
    let world = World::new(plan.clone());
    let common = Common {
        plan: plan.clone(),
        library: libraries.bytes(Variant::V1, 0),
        secret: secret()?,
        broker: broker.url(),
        world: Arc::clone(&world),
    };
    let mut nodes = Vec::new();
    for number in 1..=plan.nodes {
        nodes.push(Node::start(&common, number).await?);
    }
    let clients = Clients::start(&world)?;
    let mut tormenting = Tormenting {
        random: Rng::with_seed(plan.seed),
        common,
        world,
        broker,
        nodes,
        clients,
    };
    let mut is_whole = tormenting.all_well().await?;
    let kinds = plan.kinds(&mut tormenting.random);
    for (kind, number) in kinds.into_iter().zip(1_u64..) {
        if !is_whole {
            // What comes after it would say nothing.
            break;
        }
        progress(line(plan, number, kind, &tormenting.world));
        is_whole = tormenting.round(kind).await?;
    }
    if is_whole {
        tormenting.clients.be_quiet();
        tormenting.all_well().await?;
    }
    tormenting.clients.end();
    for node in &mut tormenting.nodes {
        if let Some(finding) = node.stop(&tormenting.world).await? {
            tormenting.world.find(|| finding);
        }
    }
    Ok(Nodes::new(&tormenting.world, start.elapsed()))
}

/// How far a run is, in one line.
fn line(plan: &Plan, number: u64, kind: Kind, world: &World) -> String {
    let (all, what) = (plan.rounds, kind.words());
    let [sent, received, lost] = [&world.tally.sent, &world.tally.received, &world.tally.lost].map(|count| count.get());
    format!(
        "round {number} of {all}, {what}: {} sent, {} received, {lost} lost",
        grouped(sent),
        grouped(received)
    )
}

/// The cluster, and what happens to it.
struct Tormenting {
    random: Rng,
    common: Common,
    world: Arc<World>,
    broker: Broker,
    nodes: Vec<Node>,
    clients: Clients,
}

impl Tormenting {
    /// Something happens, and then all clients come back. Says whether they do.
    async fn round(&mut self, kind: Kind) -> Result<bool, TortureError> {
        self.world.begin(kind);
        let before = self.begun_anew();
        self.use_it().await;
        match kind {
            Kind::Comes => self.one_comes_and_goes().await?,
            Kind::Restarts => self.one_restarts().await?,
            Kind::Killed => self.one_is_killed().await?,
            Kind::Frozen => self.one_stands_still().await?,
            Kind::BrokerRestarts => self.broker_is_away(Duration::ZERO).await?,
            Kind::BrokerAway => {
                let time = self.longer_than_a_lease();
                self.broker_is_away(time).await?;
            }
            Kind::BrokerFrozen => self.broker_stands_still().await?,
        }
        let is_whole = self.all_well().await?;
        self.world.begun_anew(self.begun_anew() - before);
        self.world.topics.iter().for_each(|topic| topic.let_begin_anew(false));
        Ok(is_whole)
    }

    async fn one_comes_and_goes(&mut self) -> Result<(), TortureError> {
        // One that was here before has the same name and the same folder.
        let spare = self.common.plan.nodes;
        match self.nodes.get_mut(spare) {
            Some(node) => node.start_again(&self.common).await?,
            None => self.nodes.push(Node::start(&self.common, spare + 1).await?),
        }
        self.clients.roam();
        self.settled().await?;
        self.use_it().await;
        self.stop(spare).await
    }

    async fn one_restarts(&mut self) -> Result<(), TortureError> {
        let node = self.any();
        self.stop(node).await?;
        if self.random.bool() {
            self.use_it().await;
        }
        self.nodes[node].start_again(&self.common).await?;
        self.clients.roam();
        Ok(())
    }

    async fn one_is_killed(&mut self) -> Result<(), TortureError> {
        let node = self.any();
        self.loses_its_topics(node).await;
        self.world.count_from_now();
        self.nodes[node].kill(&self.world);
        if self.random.bool() {
            // Otherwise it comes back before anybody has noticed.
            self.all_back().await?;
        }
        self.nodes[node].start_again(&self.common).await?;
        self.clients.roam();
        Ok(())
    }

    async fn one_stands_still(&mut self) -> Result<(), TortureError> {
        let (node, time) = (self.any(), self.longer_than_a_lease());
        self.loses_its_topics(node).await;
        self.world.count_from_now();
        self.nodes[node].freeze(&self.world, true)?;
        tokio::time::sleep(time).await;
        Ok(self.nodes[node].freeze(&self.world, false)?)
    }

    async fn broker_is_away(&mut self, time: Duration) -> Result<(), TortureError> {
        self.broker.kill()?;
        tokio::time::sleep(time).await;
        self.broker.start_again().await?;
        self.world.count_from_now();
        Ok(())
    }

    async fn broker_stands_still(&mut self) -> Result<(), TortureError> {
        self.broker.signal(Signal::STOP)?;
        tokio::time::sleep(self.longer_than_a_lease()).await;
        self.broker.signal(Signal::CONT)?;
        self.world.count_from_now();
        Ok(())
    }

    async fn stop(&mut self, node: usize) -> Result<(), TortureError> {
        if let Some(finding) = self.nodes[node].stop(&self.world).await? {
            self.world.tally.differences.increment();
            self.world.find(|| finding);
        }
        Ok(())
    }

    /// Clients use the nodes for a moment.
    async fn use_it(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(USE_MS))).await;
    }

    fn longer_than_a_lease(&mut self) -> Duration {
        self.common.plan.lease.mul_f64(1.3 + self.random.f64())
    }

    /// One of the nodes that are always there.
    fn any(&mut self) -> usize {
        self.random.usize(..self.common.plan.nodes)
    }

    /// The topics whose home a node is may begin anew.
    async fn loses_its_topics(&self, node: usize) {
        let node = &self.nodes[node];
        for topic in &self.world.topics {
            let home = node.home(&topic.name).await;
            topic.let_begin_anew(home.is_none_or(|home| home == node.name));
        }
    }

    fn begun_anew(&self) -> u64 {
        self.world.topics.iter().map(|topic| topic.begun_anew()).sum()
    }

    /// Waits until all clients are in their topics, the nodes have settled, and each client has compared its state. Says whether that
    /// came about.
    async fn all_well(&mut self) -> Result<bool, TortureError> {
        if !self.all_back().await? || !self.settled().await? {
            return Ok(false);
        }
        self.clients.audit();
        let deadline = self.deadline();
        while self.clients.without_audit() > 0 {
            if !self
                .goes_on(deadline, "clients could compare the state of their topic")
                .await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until all clients are in their topics, and were answered there.
    async fn all_back(&mut self) -> Result<bool, TortureError> {
        let (deadline, all) = (self.deadline(), self.common.plan.clients as i64);
        while self.world.counts.back.get() < all {
            if !self.goes_on(deadline, "clients came back").await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until all nodes see each other, and each partition is where it should be.
    async fn settled(&mut self) -> Result<bool, TortureError> {
        let (deadline, mut since, mut before) = (self.deadline(), Instant::now(), HashSet::new());
        while before.is_empty() || since.elapsed() < CALM {
            if !self.goes_on(deadline, "nodes settled").await? {
                return Ok(false);
            }
            let mut seen = HashSet::new();
            let running: Vec<&Node> = self.nodes.iter().filter(|node| node.runs()).collect();
            for node in &running {
                let report = node.report().await;
                let calm = report.filter(|report| is_settled(report, running.len()));
                seen.extend(calm.map(|report| format!("{} {}", node.name, report["partitions"])));
            }
            if seen.len() < running.len() {
                seen.clear();
            }
            if seen != before {
                (since, before) = (Instant::now(), seen);
            }
        }
        Ok(true)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + PATIENCE + self.common.plan.lease * 4
    }

    /// Waits a little. Says whether there is still time for this; if not, that is a finding.
    async fn goes_on(&mut self, deadline: Instant, what: &str) -> Result<bool, ServerError> {
        for node in &mut self.nodes {
            node.still_runs().await?;
        }
        tokio::time::sleep(POLL).await;
        if Instant::now() < deadline {
            return Ok(true);
        }
        let (back, all) = (self.world.counts.back.get(), self.common.plan.clients);
        let without = self.clients.without_audit();
        self.world.tally.lost.increment();
        self.world
            .find(|| format!("not all {what} in time: {back} of {all} are back, {without} have not compared"));
        Ok(false)
    }
}

fn is_settled(report: &Value, nodes: usize) -> bool {
    let seen = report["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let zero = |what: &Value| what.as_u64().unwrap_or(0) == 0;
    let (partitions, moves) = (&report["partitions"], &report["moves"]);
    seen.len() == nodes
        && seen.iter().all(|node| node["this"] == true || node["link"] == "up")
        && [&partitions["nowhere"], &partitions["moving"], &partitions["misplaced"]]
            .into_iter()
            .all(zero)
        && [&moves["partitions_coming"], &moves["partitions_going"]]
            .into_iter()
            .all(zero)
}
