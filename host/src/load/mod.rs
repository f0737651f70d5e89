//! `bennu load`: many clients at once, for any server that speaks Phoenix's protocol, or Socket.IO's.
//!
//! One thread, one epoll, frames that are prepared: it is to cost less than any server. Where it is what limits
//! nevertheless, it says so. It understands no more of the protocols than it needs; [`crate::client`] is the client for
//! everything else.

mod args;
mod client;
mod dialect;
mod engine;
mod lagging;
mod report;
mod usage;
mod wire;
mod work;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

pub use args::LoadArgs;

use args::Plan;
use engine::{Engine, Target};
use lagging::{Laggards, Lagging};
use report::{Events, Latency, Memory, Report, Stretch, grouped};
use usage::{Cpu, Processes, Watch};
use work::{Counts, Work};

/// What stands at the end of the command's help.
pub(crate) const HELP: &str = "\
Examples:
  bennu load connect --clients 10000 --pid $(pidof bennu)
  bennu load echo --clients 64
  bennu load fanout --clients 1000 --rate 20
  bennu load fanout --clients 1000 --rate 200 --slow 1 --stuck 10
  bennu load rooms --clients 5000 --topics 500 --json

For any server that speaks Phoenix's protocol, version 2; name its topics and events with
--topic-prefix and --event. The exit code is 1 when something was lost,
by clients that keep up: those of --slow and --stuck only have to join.";

/// How long a server is left alone before its memory is read.
const SETTLE: Duration = Duration::from_millis(1_000);
/// Descriptors that are needed besides the clients'.
const OTHER_DESCRIPTORS: u64 = 32;

/// Why there was no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address is none.
    #[error("`{url}` is no address: write it as ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0")]
    Url {
        /// Which.
        url: String,
    },
    /// The system lets a process have fewer connections.
    #[error("{clients} clients need more descriptors than this process may have ({limit}): raise `ulimit -Hn`")]
    Descriptors {
        /// How many were asked for.
        clients: u32,
        /// How many there may be.
        limit: u64,
    },
    /// The server's process cannot be looked at.
    #[error("cannot see what the process uses (--pid)")]
    Process(#[source] io::Error),
    /// The system refuses something.
    #[error("the system refuses what the generator needs")]
    System(#[from] io::Error),
    /// Nobody came in.
    #[error("no client joined: {why}")]
    Nobody {
        /// Why the first did not.
        why: String,
    },
}

/// Has the clients do what was asked for, and shows what came of it. Returns whether nothing was lost.
///
/// # Errors
///
/// If it cannot begin, or no client joined.
pub fn run(args: &LoadArgs) -> Result<bool, LoadError> {
    let plan = args.plan();
    let report = Run::new(plan.clone())?.whole()?;
    let mut out = io::stdout().lock();
    if plan.common.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{report}")?;
    }
    let laggards = [&report.slow, &report.stuck].into_iter().flatten();
    let all_joined =
        report.joined as usize == report.clients && laggards.clone().all(|some| some.joined == some.clients);
    Ok(all_joined && report.events.is_none_or(|events| events.lost == 0))
}

/// What was used by some time.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u64,
    counts: Counts,
    server: Option<Cpu>,
    generator: Cpu,
}

/// One run of the generator.
struct Run {
    plan: Plan,
    engine: Engine,
    server: Option<Processes>,
    progress: Progress,
}

impl Run {
    fn new(plan: Plan) -> Result<Self, LoadError> {
        raise_descriptors(plan.all_clients())?;
        Ok(Self {
            engine: engine(&plan)?,
            server: Processes::new(&plan.common.pid),
            plan,
            progress: Progress::new(),
        })
    }

    fn whole(mut self) -> Result<Report, LoadError> {
        let before = self.memory()?;
        let joins = self.connect()?;
        let all = self.engine.work.joins.len();
        self.rest(SETTLE)?;
        let joined = self.memory()?;
        let mut cycles = Vec::new();
        for _ in 1..self.plan.cycles {
            cycles.push(self.cycle()?);
        }
        self.rest(self.plan.hold)?;
        let watch = self.watch()?;
        let events = (!self.plan.duration.is_zero()).then(|| self.work()).transpose()?;
        let after = self.memory()?;
        let most = watch.map(Watch::most);
        self.catch_up()?;
        self.progress.clear();
        self.engine.close();
        let memory = before.zip(joined).zip(after).map(|((before, joined), after)| Memory {
            before_bytes: before,
            joined_bytes: joined,
            per_client_bytes: (joined as f64 - before as f64) / all as f64,
            after_bytes: after,
            most_bytes: most,
            cycles,
        });
        Ok(self.report(joins, memory, events))
    }

    /// Closes everyone and begins anew. Returns the memory with everyone gone, and with everyone back.
    fn cycle(&mut self) -> Result<[u64; 2], LoadError> {
        self.engine.close();
        std::thread::sleep(SETTLE);
        let empty = self.memory()?.unwrap_or_default();
        self.engine = engine(&self.plan)?;
        self.connect()?;
        self.rest(SETTLE)?;
        Ok([empty, self.memory()?.unwrap_or_default()])
    }

    fn report(self, joins: Stretch, memory: Option<Memory>, events: Option<Events>) -> Report {
        let work = self.engine.work;
        let counts = work.counts;
        let some = |laggards: Laggards| (laggards.clients > 0).then_some(laggards);
        Report {
            command: self.plan.command,
            protocol: self.plan.common.protocol,
            clients: self.plan.common.clients as usize,
            topics: self.plan.topics,
            joined: counts.joined,
            refused: counts.refused,
            failed: counts.failed,
            closed: counts.closed,
            first_failure: self.engine.first_failure,
            slow: some(work.lagging.slow),
            stuck: some(work.lagging.stuck),
            joins,
            memory,
            events,
        }
    }

    fn connect(&mut self) -> Result<Stretch, LoadError> {
        let begin = self.mark()?;
        let patience = Duration::from_secs(self.plan.common.timeout_s);
        let progress = &mut self.progress;
        self.engine.connect(patience, &mut |engine| progress.joining(engine))?;
        let end = self.mark()?;
        let joined = self.engine.work.counts.joined;
        if joined == 0 {
            self.progress.clear();
            let why = self.engine.first_failure.take().unwrap_or_default();
            return Err(LoadError::Nobody { why });
        }
        Ok(stretch(begin, end, joined, Latency::of(&self.engine.work.joins)))
    }

    /// Warm-up, measurement, and what is still on its way.
    fn work(&mut self) -> Result<Events, LoadError> {
        self.engine.begin();
        self.rest(self.plan.warmup)?;
        let begin = self.mark()?;
        self.engine.work.measured_since = begin.at;
        self.engine.work.behind = 0;
        self.rest(self.plan.duration)?;
        let end = self.mark()?;
        self.engine.work.measured_until = end.at;
        let behind_us = self.engine.work.behind as f64 / 1000.0;
        self.engine.work.sending = false;
        self.engine.work.measure_lagging(&self.engine.clients);
        let patience = Duration::from_secs(self.plan.common.timeout_s);
        let until = self.engine.now() + patience.as_nanos() as u64;
        self.engine
            .run(until, |engine| engine.work.is_done(&engine.clients), &mut |_| ())?;
        let work = &self.engine.work;
        let received = end.counts.received - begin.counts.received;
        Ok(Events {
            payload_bytes: self.plan.payload_bytes,
            sent: work.counts.sent,
            received: work.counts.received,
            lost: work.lost(),
            measured: stretch(begin, end, received, Latency::of(&work.latency)),
            behind_us,
        })
    }

    /// Looks at the server's memory from now on, if there are clients for which it has to keep something.
    fn watch(&self) -> Result<Option<Watch>, LoadError> {
        let lagging = self.plan.all_clients() > self.plan.common.clients;
        let server = self.server.clone().filter(|_| lagging);
        Ok(server.map(Watch::new).transpose()?)
    }

    /// Sees what has become of those that lagged: only who reads is told.
    fn catch_up(&mut self) -> Result<(), LoadError> {
        let patience = Duration::from_secs(self.plan.common.timeout_s);
        let Self { engine, progress, .. } = self;
        engine.catch_up(patience, &mut |engine| progress.catching_up(engine))?;
        engine.work.count_skipped(&engine.clients);
        Ok(())
    }

    /// Lets the clients go on with what they do.
    fn rest(&mut self, time: Duration) -> Result<(), LoadError> {
        let until = self.engine.now() + time.as_nanos() as u64;
        let progress = &mut self.progress;
        self.engine
            .run(until, |_| false, &mut |engine| progress.working(engine))?;
        Ok(())
    }

    fn mark(&self) -> Result<Mark, LoadError> {
        let server = self.server.as_ref().map(Processes::cpu).transpose();
        Ok(Mark {
            at: self.engine.now(),
            counts: self.engine.work.counts,
            server: server.map_err(LoadError::Process)?,
            generator: Processes::own().cpu()?,
        })
    }

    fn memory(&self) -> Result<Option<u64>, LoadError> {
        let memory = self.server.as_ref().map(Processes::memory).transpose();
        memory.map_err(LoadError::Process)
    }
}

fn stretch(begin: Mark, end: Mark, count: u64, latency: Latency) -> Stretch {
    let server = end.server.zip(begin.server).map(|(end, begin)| end.since(begin));
    let seconds = (end.at - begin.at) as f64 / 1e9;
    Stretch::new(seconds, count, latency, server, end.generator.since(begin.generator))
}

fn engine(plan: &Plan) -> Result<Engine, LoadError> {
    let common = &plan.common;
    let url = common.url.as_deref().unwrap_or(common.protocol.default_url());
    let (host, path, server) = read_url(url).ok_or_else(|| LoadError::Url { url: url.to_owned() })?;
    let sources = if server.ip().is_loopback() && server.is_ipv4() {
        common.sources
    } else {
        0
    };
    let target = Target {
        server,
        request: wire::upgrade_request(host, path),
        dialect: common.protocol,
        sources,
        clients: common.clients as usize,
        slow: plan.lagging.slow as usize,
        slow_bytes_per_s: plan.lagging.slow_bytes_per_s,
        stuck: plan.lagging.stuck as usize,
        topics: plan.topics,
        topics_per_client: plan.topics_per_client,
        topic_prefix: common.topic_prefix.clone(),
        event: plan.event.clone(),
        payload: plan.payload(),
        connecting: common.connecting as usize,
    };
    let groups = plan.topics.min(target.clients);
    let lagging = Lagging::new(plan.lagging.slow, plan.lagging.stuck);
    Ok(Engine::new(
        target,
        Work::new(common.protocol, plan.kind, plan.pace, groups, lagging),
    )?)
}

/// Host, path, and the address behind it.
fn read_url(url: &str) -> Option<(&str, &str, SocketAddr)> {
    let rest = url.strip_prefix("ws://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let with_port = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let server = with_port.to_socket_addrs().ok()?.next()?;
    Some((host, if path.is_empty() { "/" } else { path }, server))
}

/// Takes as many descriptors as the system allows.
fn raise_descriptors(clients: u32) -> Result<(), LoadError> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(io::Error::from)?;
    match limit.maximum {
        Some(limit) if u64::from(clients) + OTHER_DESCRIPTORS > limit => Err(LoadError::Descriptors { clients, limit }),
        _ => Ok(()),
    }
}

/// The line on a terminal that says how far it is.
struct Progress {
    shown: bool,
    next: u64,
    last: (u64, u64),
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            next: 0,
            last: (0, 0),
        }
    }

    fn joining(&mut self, engine: &Engine) {
        let counts = engine.work.counts;
        let lost = counts.refused + counts.failed + counts.closed;
        self.show(
            engine,
            counts.joined,
            &format!("{} joined, {lost} lost", grouped(counts.joined)),
        );
    }

    fn working(&mut self, engine: &Engine) {
        let received = engine.work.counts.received;
        self.show(engine, received, &format!("{} received", grouped(received)));
    }

    fn catching_up(&mut self, engine: &Engine) {
        let late = engine.work.late;
        self.show(engine, late, &format!("{} read late", grouped(late)));
    }

    /// At most four times a second.
    fn show(&mut self, engine: &Engine, count: u64, text: &str) {
        let now = engine.now();
        if !self.shown || now < self.next {
            return;
        }
        let (at, before) = std::mem::replace(&mut self.last, (now, count));
        let rate = count.saturating_sub(before) as f64 * 1e9 / (now - at).max(1) as f64;
        self.next = now + 250_000_000;
        let _ = write!(io::stderr(), "\r\x1b[K{text}, {} a second", grouped(rate as u64));
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_a_path() {
        let url = "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0";
        let server = "127.0.0.1:4000".parse().expect("an address");
        assert_eq!(
            read_url(url),
            Some(("127.0.0.1:4000", "/socket/websocket?vsn=2.0.0", server))
        );
        assert_eq!(
            read_url("ws://127.0.0.1:1"),
            Some(("127.0.0.1:1", "/", "127.0.0.1:1".parse().expect("an address")))
        );
        assert_eq!(read_url("http://127.0.0.1:4000"), None);
    }
}
