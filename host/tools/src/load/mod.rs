//! `bennu load`: a load generator for any server that speaks Phoenix's protocol or Socket.IO's.
//!
//! It has one thread, one epoll and prepared frames, so that it needs less CPU time than any server. If it limits the
//! rate nevertheless, the report says so. It knows only the parts of the protocols that it needs; [`crate::client`] is
//! the client for everything else.

mod args;
mod client;
mod dialect;
mod engine;
mod herd;
mod lagging;
mod publish;
mod report;
mod socket;
mod usage;
mod wire;
mod work;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;

pub use args::LoadArgs;

use args::{Plan, WorkArgs};
use engine::{Engine, Target};
use lagging::{Laggards, Lagging};
use report::{Events, Latency, Memory, Report, Stretch};
use usage::{Cpu, Processes, Watch};
use work::{Counts, Work};

use crate::client::{Tls, TlsError, host_and_port};
use crate::numbers::grouped;
use crate::terminal::{StatusLine, say};

/// The end of the command's help.
pub const HELP: &str = "\
Examples:
  bennu load connect --clients 10000 --pid $(pidof bennu)
  bennu load echo --clients 64
  bennu load fanout --clients 1000 --rate 20
  bennu load fanout --clients 1000 --rate 200 --slow 1 --stuck 10
  bennu load rooms --clients 5000 --topics 500 --json
  bennu load herd --clients 5000 --svg herd.svg
  bennu load publish --list 100 --key-file api_key --pid $(pidof bennu)

Works with any server that speaks version 2 of Phoenix's protocol: use
--topic-prefix and --event to name its topics and events. The exit code is 1 if
a client did not join or a message was lost. Messages to --slow and --stuck
clients do not count.";

/// How long to let a server settle before reading its memory.
const SETTLE: Duration = Duration::from_millis(1_000);
/// How many file descriptors the generator needs besides one for each client.
const OTHER_DESCRIPTORS: u64 = 32;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("invalid URL `{0}`: write one such as ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0")]
    Url(String),
    #[error("cannot use TLS for this URL")]
    Tls(#[from] TlsError),
    #[error("cannot resolve the host `{host}`")]
    Host { host: String, source: io::Error },
    #[error("{clients} clients need more file descriptors than this process may open ({limit}): raise `ulimit -Hn`")]
    Descriptors { clients: u32, limit: u64 },
    #[error("cannot read the CPU time or memory of the process that --pid names")]
    Process(#[source] io::Error),
    #[error("the operating system refused a resource that the load generator needs")]
    System(#[from] io::Error),
    #[error("no client joined: {first_failure}")]
    NoneJoined { first_failure: String },
}

/// Runs the command. The exit code says whether all clients joined and no message was lost.
///
/// # Errors
///
/// If the run cannot start, or if no client joined.
pub fn run(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let plan = match &args.work {
        WorkArgs::Clients(clients) => clients.plan(),
        WorkArgs::Publish(args) => return publish::run(args),
        WorkArgs::Herd(args) => return herd::run(args),
    };
    let report = Run::new(plan.clone())?.whole()?;
    if plan.common.json.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        say(report.to_string().trim_end());
    }
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The counters at some time.
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
        self.run_for(SETTLE)?;
        let joined = self.memory()?;
        let mut cycles = Vec::new();
        for _ in 1..self.plan.cycles {
            cycles.push(self.cycle()?);
        }
        self.run_for(self.plan.hold)?;
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

    /// Closes all clients and connects them again. Returns the memory with all gone, and with all back.
    fn cycle(&mut self) -> Result<[u64; 2], LoadError> {
        self.engine.close();
        std::thread::sleep(SETTLE);
        let empty = self.memory()?.unwrap_or_default();
        self.engine = engine(&self.plan)?;
        self.connect()?;
        self.run_for(SETTLE)?;
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
        let timeout = self.timeout();
        let progress = &mut self.progress;
        self.engine.connect(timeout, &mut |engine| progress.joining(engine))?;
        let end = self.mark()?;
        let joined = self.engine.work.counts.joined;
        if joined == 0 {
            self.progress.clear();
            let first_failure = self.engine.first_failure.take().unwrap_or_default();
            return Err(LoadError::NoneJoined { first_failure });
        }
        Ok(stretch(begin, end, joined, Latency::of(&self.engine.work.joins)))
    }

    /// The warm-up, the measurement, and the wait for what is in flight.
    fn work(&mut self) -> Result<Events, LoadError> {
        self.engine.begin();
        self.run_for(self.plan.warmup)?;
        let begin = self.mark()?;
        self.engine.work.measured_since = begin.at;
        self.engine.work.behind = 0;
        self.run_for(self.plan.duration)?;
        let end = self.mark()?;
        self.engine.work.measured_until = end.at;
        let behind_us = self.engine.work.behind as f64 / 1000.0;
        self.engine.work.sending = false;
        self.engine.work.measure_lagging(&self.engine.clients);
        let until = self.engine.now() + self.timeout().as_nanos() as u64;
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

    /// Samples the server's memory from now on, if there are clients that make it queue messages.
    fn watch(&self) -> Result<Option<Watch>, LoadError> {
        let lagging = self.plan.all_clients() > self.plan.common.clients;
        let server = self.server.clone().filter(|_| lagging);
        Ok(server.map(Watch::new).transpose()?)
    }

    /// Has slow and stuck clients read what they were sent: only then do they notice that the server has closed them.
    fn catch_up(&mut self) -> Result<(), LoadError> {
        let timeout = self.timeout();
        let Self { engine, progress, .. } = self;
        engine.catch_up(timeout, &mut |engine| progress.catching_up(engine))?;
        engine.work.count_skipped(&engine.clients);
        Ok(())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.plan.common.timeout_s)
    }

    /// Runs the clients for some time.
    fn run_for(&mut self, time: Duration) -> Result<(), LoadError> {
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
    let Found {
        request,
        server,
        tls_host,
    } = read_url(url, common.token.as_deref())?;
    let tls = tls_host
        .map(|host| Tls::new(&host, &common.trust.trust()))
        .transpose()?;
    let sources = if server.ip().is_loopback() && server.is_ipv4() {
        common.sources
    } else {
        0
    };
    let target = Target {
        server,
        tls,
        request,
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

/// What a URL names.
#[derive(Debug)]
struct Found {
    /// The handshake request for it.
    request: Vec<u8>,
    /// The address of its host.
    server: SocketAddr,
    /// The host, if it is reached by TLS.
    tls_host: Option<String>,
}

/// Parses a URL. The handshake request shows this token.
fn read_url(text: &str, token: Option<&str>) -> Result<Found, LoadError> {
    let invalid = || LoadError::Url(text.to_owned());
    let url: Uri = text.parse().map_err(|_| invalid())?;
    let (has_tls, authority) = match (url.scheme_str(), url.authority()) {
        (Some("ws"), Some(authority)) => (false, authority),
        (Some("wss"), Some(authority)) => (true, authority),
        _ => return Err(invalid()),
    };
    let port = if has_tls { 443 } else { 80 };
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let server = resolve(authority, port).map_err(|source| LoadError::Host {
        host: authority.host().to_owned(),
        source,
    })?;
    let (host, _) = host_and_port(authority, port);
    Ok(Found {
        request: wire::upgrade_request(authority.as_str(), path, token),
        server,
        tls_host: has_tls.then(|| host.to_owned()),
    })
}

/// The first address of a host.
fn resolve(authority: &Authority, port: u16) -> io::Result<SocketAddr> {
    let mut addresses = host_and_port(authority, port).to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other("it has no address"))
}

/// Raises the limit of file descriptors to the hard limit.
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

/// Shows on a terminal how far the run is.
struct Progress {
    line: StatusLine,
    /// When to show the next update.
    next: u64,
    /// When the last update was, and its count.
    last: (u64, u64),
}

impl Progress {
    fn new() -> Self {
        Self {
            line: StatusLine::new(),
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
        self.show(engine, late, &format!("{} received late", grouped(late)));
    }

    /// At most four times a second.
    fn show(&mut self, engine: &Engine, count: u64, text: &str) {
        let now = engine.now();
        if !self.line.is_terminal || now < self.next {
            return;
        }
        let (at, before) = std::mem::replace(&mut self.last, (now, count));
        let rate = count.saturating_sub(before) as f64 * 1e9 / (now - at).max(1) as f64;
        self.next = now + 250_000_000;
        self.line.show(&format!("{text}, {} per second", grouped(rate as u64)));
    }

    fn clear(&self) {
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        #[track_caller]
        fn check(url: &str, first_lines: &str, server: &str) {
            let found = read_url(url, None).expect("a URL");
            assert!(found.request.starts_with(first_lines.as_bytes()), "{url}");
            assert_eq!(found.server.to_string(), server, "{url}");
            let host = url.starts_with("wss").then_some("127.0.0.1");
            assert_eq!(found.tls_host.as_deref(), host, "{url}");
        }
        check(
            "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0",
            "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1:4000\r\n",
            "127.0.0.1:4000",
        );
        check(
            "ws://127.0.0.1",
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            "127.0.0.1:80",
        );
        check("wss://127.0.0.1/a", "GET /a HTTP/1.1\r\n", "127.0.0.1:443");
        check("ws://[::1]/", "GET / HTTP/1.1\r\nHost: [::1]\r\n", "[::1]:80");
        for text in ["http://127.0.0.1:4000", "127.0.0.1:4000", "ws://a b"] {
            assert!(
                matches!(read_url(text, None), Err(LoadError::Url(url)) if url == text),
                "{text}"
            );
        }
    }
}
