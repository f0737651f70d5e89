//! `bennu load herd`: all clients lose their connections at once, and come back as phoenix.js does, without any jitter.
//!
//! A client that is refused or cut off tries again after the times of phoenix.js; a join that is refused likewise. Nothing is counted
//! but who is back, and what the attempts before that met.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use super::client::{Client, State};
use super::dialect::{Dialect, Received};
use super::engine::refusal;
use super::lagging::Reading;
use super::wire::{self, Next};
use super::{Found, LoadError, raise_descriptors, read_url};
use crate::args::{JsonArg, TrustArgs};
use crate::client::Tls;
use crate::numbers::grouped;
use crate::plot::{Axis, Chart};
use crate::terminal::say;

/// After how many milliseconds phoenix.js connects again, by the number of failures; the last time goes on.
const RECONNECT_MS: [u64; 10] = [10, 50, 100, 150, 200, 250, 500, 1_000, 2_000, 5_000];
/// After how many milliseconds it joins again, likewise.
const REJOIN_MS: [u64; 4] = [1_000, 2_000, 5_000, 10_000];
/// Between two points of the curve.
const POINT_MS: u64 = 50;
const BUFFER_BYTES: usize = 64 * 1024;
const MILLI: u64 = 1_000_000;

/// Arguments of `bennu load herd`.
#[derive(Args, Clone, Debug)]
pub(super) struct HerdArgs {
    /// WebSocket URL of the server
    #[arg(
        long,
        default_value = "ws://127.0.0.1:4000/socket/websocket?vsn=2.0.0",
        value_name = "URL"
    )]
    url: String,
    /// Token that each client shows, as phoenix.js shows its `authToken`
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Number of clients
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Start of every topic name; the number of the client follows
    #[arg(long, default_value = "echo:", value_name = "TEXT")]
    topic_prefix: String,
    /// Number of source addresses, from 127.0.0.10 on; 0: one, as behind one router
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(..=200))]
    sources: u8,
    /// Maximum number of clients that connect at the same time, the first time
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connecting: u32,
    /// Seconds after which whoever is not back counts as lost
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout_s: u64,
    /// Write the curve to this file: milliseconds, clients that are back, and attempts that failed
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the curve into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Runs the command. The exit code says whether all clients came back.
///
/// # Errors
///
/// If the run cannot start, or not all clients connect the first time.
pub(super) fn run(args: &HerdArgs) -> anyhow::Result<ExitCode> {
    raise_descriptors(args.clients)?;
    let mut herd = Herd::new(args)?;
    herd.gather(args.connecting as usize)?;
    let report = herd.stampede(Duration::from_secs(args.timeout_s))?;
    if let Some(file) = &args.csv {
        std::fs::write(file, report.csv())?;
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, report.chart().svg())?;
    }
    match args.json.json {
        true => say(&serde_json::to_string_pretty(&report)?),
        false => say(report.to_string().trim_end()),
    }
    Ok(match report.back == report.clients {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// All clients.
struct Herd {
    server: SocketAddr,
    tls: Option<Tls>,
    request: Vec<u8>,
    topic_prefix: String,
    sources: u8,
    poll: Poll,
    buffer: Vec<u8>,
    start: Instant,
    members: Vec<Member>,
    /// Who does something next, and when.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// When attempts failed, and why.
    failed: Vec<u64>,
    failures: BTreeMap<String, u64>,
}

/// One client.
#[derive(Default)]
struct Member {
    client: Option<Client>,
    /// How often it failed to connect since it was last connected.
    failures: usize,
    /// How often its join was refused since it connected.
    refusals: usize,
    /// When it had joined.
    joined: Option<u64>,
}

impl Herd {
    fn new(args: &HerdArgs) -> Result<Self, LoadError> {
        let Found {
            request,
            server,
            tls_host,
        } = read_url(&args.url, args.token.as_deref())?;
        let tls = tls_host.map(|host| Tls::new(&host, &args.trust.trust())).transpose()?;
        let is_near = server.ip().is_loopback() && server.is_ipv4();
        Ok(Self {
            server,
            tls,
            request,
            topic_prefix: args.topic_prefix.clone(),
            sources: if is_near { args.sources } else { 0 },
            poll: Poll::new()?,
            buffer: vec![0; BUFFER_BYTES],
            start: Instant::now(),
            members: (0..args.clients).map(|_| Member::default()).collect(),
            due: BinaryHeap::new(),
            failed: Vec::new(),
            failures: BTreeMap::new(),
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Connects all clients, a few at a time. One that fails tries again, as always.
    fn gather(&mut self, at_a_time: usize) -> Result<(), LoadError> {
        let (mut opened, all) = (0, self.members.len());
        let until = self.now() + 60_000 * MILLI;
        loop {
            let joined = self.joined();
            if joined == all {
                return Ok(());
            }
            if self.now() > until {
                let first_failure = self.failures.keys().next().cloned().unwrap_or_default();
                return Err(LoadError::NoneJoined { first_failure });
            }
            while opened < all && opened - joined < at_a_time {
                self.due.push(Reverse((self.now(), opened)));
                opened += 1;
            }
            self.turn()?;
        }
    }

    /// Cuts all connections, and waits until everybody is back.
    fn stampede(&mut self, timeout: Duration) -> Result<Report, LoadError> {
        self.failed.clear();
        self.failures.clear();
        self.due.clear();
        let cut = self.now();
        for (index, member) in self.members.iter_mut().enumerate() {
            if let Some(client) = &mut member.client {
                client.close();
            }
            *member = Member::default();
            self.due.push(Reverse((cut + RECONNECT_MS[0] * MILLI, index)));
        }
        let until = cut + timeout.as_nanos() as u64;
        while self.joined() < self.members.len() && self.now() < until {
            self.turn()?;
        }
        let since = |at: u64| at.saturating_sub(cut) as f64 / MILLI as f64;
        let mut back_ms: Vec<f64> = { self.members.iter() }
            .filter_map(|member| member.joined.map(since))
            .collect();
        back_ms.sort_by(f64::total_cmp);
        let failed_ms = self.failed.iter().map(|at| since(*at)).collect();
        Ok(Report::new(
            self.members.len(),
            back_ms,
            failed_ms,
            self.failures.clone(),
        ))
    }

    fn joined(&self) -> usize {
        self.members.iter().filter(|member| member.joined.is_some()).count()
    }

    /// Does what is due, and what has happened.
    fn turn(&mut self) -> io::Result<()> {
        while let Some(Reverse((at, index))) = self.due.peek().copied()
            && at <= self.now()
        {
            self.due.pop();
            self.act(index)?;
        }
        let next = self.due.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let wait = Duration::from_nanos(next.saturating_sub(self.now())).min(Duration::from_millis(20));
        let mut events = Events::with_capacity(1_024);
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &events {
            let index = event.token().0;
            if let Err(error) = self.handle(index, event.is_writable(), event.is_readable()) {
                self.lose(index, error.to_string());
            }
        }
        Ok(())
    }

    /// Connects, or joins if the client is connected.
    fn act(&mut self, index: usize) -> io::Result<()> {
        if self.members[index].client.is_some() {
            if let Err(error) = self.join(index) {
                self.lose(index, error.to_string());
            }
            return Ok(());
        }
        let sources = usize::from(self.sources);
        let source = (sources > 0).then(|| Ipv4Addr::new(127, 0, 0, 10 + (index % sources) as u8));
        let now = self.now();
        let mut client = Client::open(self.server, self.tls.as_ref(), source, Reading::AtOnce, now)?;
        if let Some(stream) = client.stream() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(stream, Token(index), interest)?;
        }
        self.members[index].client = Some(client);
        Ok(())
    }

    fn join(&mut self, index: usize) -> io::Result<()> {
        let now = self.now();
        let join = Dialect::Phoenix.join(&format!("{}{index}", self.topic_prefix), 1);
        let Some(client) = &mut self.members[index].client else {
            return Ok(());
        };
        client.send(&wire::masked(wire::TEXT, join.as_bytes()).0, now)
    }

    fn handle(&mut self, index: usize, writable: bool, readable: bool) -> io::Result<()> {
        let now = self.now();
        let Some(client) = &mut self.members[index].client else {
            return Ok(());
        };
        if writable && client.state == State::Connecting {
            client.connected()?;
            client.state = State::Upgrading;
            client.send(&self.request, now)?;
        } else if writable {
            client.flush()?;
        }
        if readable { self.read(index) } else { Ok(()) }
    }

    fn read(&mut self, index: usize) -> io::Result<()> {
        loop {
            let Some(client) = &mut self.members[index].client else {
                return Ok(());
            };
            let (filled, more) = client.fill(&mut self.buffer, usize::MAX)?;
            let mut at = 0;
            while let Some(used) = self.take(index, at, filled)? {
                at += used;
            }
            if let Some(client) = &mut self.members[index].client
                && filled > 0
            {
                client.keep(&self.buffer[at..filled]);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes the response or frame that starts at `at`. Returns its length, or `None` if it is not complete.
    fn take(&mut self, index: usize, at: usize, filled: usize) -> io::Result<Option<usize>> {
        let now = self.now();
        let bytes = &self.buffer[at..filled];
        let member = &mut self.members[index];
        let Some(client) = &mut member.client else {
            return Ok(None);
        };
        if client.state == State::Upgrading {
            return match wire::upgraded(bytes) {
                Next::Whole((), used) => {
                    client.state = State::Joining(1);
                    member.failures = 0;
                    self.join(index)?;
                    Ok(Some(used))
                }
                Next::Partial => Ok(None),
                Next::Bad => Err(io::Error::other(refusal(bytes))),
            };
        }
        let ((opcode, payload), used) = match wire::frame(bytes) {
            Next::Whole(frame, used) => (frame, used),
            Next::Partial => return Ok(None),
            Next::Bad => return Err(io::Error::other("received a frame that `bennu load` does not support")),
        };
        match opcode {
            wire::TEXT => match Dialect::Phoenix.parse(payload, &mut 0) {
                Received::Joined(true) => {
                    client.state = State::Joined;
                    member.joined = Some(now);
                }
                Received::Joined(false) => {
                    let wait = REJOIN_MS[member.refusals.min(REJOIN_MS.len() - 1)];
                    member.refusals += 1;
                    self.due.push(Reverse((now + wait * MILLI, index)));
                    self.note("its join was refused".to_owned(), now);
                }
                _ => {}
            },
            wire::PING => client.send(&wire::masked(wire::PONG, payload).0, now)?,
            wire::CLOSE => return Err(io::Error::other("closed by the server")),
            _ => {}
        }
        Ok(Some(used))
    }

    /// A client has no connection any more, or got none.
    fn lose(&mut self, index: usize, why: String) {
        let now = self.now();
        let member = &mut self.members[index];
        let Some(mut client) = member.client.take() else { return };
        client.close();
        member.failures += 1;
        member.refusals = 0;
        member.joined = None;
        let wait = RECONNECT_MS[member.failures.min(RECONNECT_MS.len() - 1)];
        self.due.push(Reverse((now + wait * MILLI, index)));
        self.note(why, now);
    }

    fn note(&mut self, why: String, now: u64) {
        self.failed.push(now);
        *self.failures.entry(why).or_default() += 1;
    }
}

/// How the herd came back.
#[derive(Debug, Serialize)]
struct Report {
    clients: usize,
    back: usize,
    /// Milliseconds until so many percent were back.
    back_50_ms: f64,
    back_90_ms: f64,
    back_99_ms: f64,
    back_all_ms: f64,
    /// Attempts that failed, by what they met.
    failed: BTreeMap<String, u64>,
    #[serde(skip)]
    back_ms: Vec<f64>,
    #[serde(skip)]
    failed_ms: Vec<f64>,
}

impl Report {
    /// `back_ms` is sorted.
    fn new(clients: usize, back_ms: Vec<f64>, mut failed_ms: Vec<f64>, failed: BTreeMap<String, u64>) -> Self {
        failed_ms.sort_by(f64::total_cmp);
        let part = |percent: usize| {
            let place = (back_ms.len() * percent).div_ceil(100).max(1) - 1;
            back_ms.get(place).copied().unwrap_or_default()
        };
        Self {
            clients,
            back: back_ms.len(),
            back_50_ms: part(50),
            back_90_ms: part(90),
            back_99_ms: part(99),
            back_all_ms: part(100),
            failed,
            back_ms,
            failed_ms,
        }
    }

    /// Time in milliseconds, clients that were back by then, and attempts that had failed.
    fn points(&self) -> Vec<(u64, usize, usize)> {
        let last = { self.back_ms.last().into_iter().chain(self.failed_ms.last()) }
            .copied()
            .fold(0.0, f64::max);
        let by = |times: &[f64], ms: u64| times.partition_point(|time| *time <= ms as f64);
        let steps = (last / POINT_MS as f64).ceil() as u64;
        (0..=steps)
            .map(|step| step * POINT_MS)
            .map(|ms| (ms, by(&self.back_ms, ms), by(&self.failed_ms, ms)))
            .collect()
    }

    fn csv(&self) -> String {
        let mut text = "ms,back,failed\n".to_owned();
        for (ms, back, failed) in self.points() {
            let _ = writeln!(text, "{ms},{back},{failed}");
        }
        text
    }

    fn chart(&self) -> Chart {
        let points = self.points();
        let line = |of: fn(&(u64, usize, usize)) -> usize| {
            let point = |point: &(u64, usize, usize)| (point.0 as f64 / 1_000.0, of(point) as f64);
            points.iter().map(point).collect()
        };
        Chart {
            title: format!("{} clients come back at once", grouped(self.clients as u64)),
            x: Axis::linear("seconds since all were cut off"),
            y: Axis::linear("clients, attempts"),
            lines: vec![
                ("clients that are back".to_owned(), line(|point| point.1)),
                ("attempts that failed".to_owned(), line(|point| point.2)),
            ],
            aim: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (back, clients) = (grouped(self.back as u64), grouped(self.clients as u64));
        writeln!(f, "back      {back} of {clients} clients")?;
        writeln!(
            f,
            "          50 % after {:.0} ms, 90 % after {:.0} ms, 99 % after {:.0} ms, the last after {:.0} ms",
            self.back_50_ms, self.back_90_ms, self.back_99_ms, self.back_all_ms
        )?;
        for (why, count) in &self.failed {
            writeln!(f, "failed    {} attempts: {why}", grouped(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_a_point_for_each_step_up_to_the_last_event() {
        let report = Report::new(4, vec![10.0, 60.0, 120.0], vec![70.0, 5.0], BTreeMap::new());
        assert_eq!(report.csv(), "ms,back,failed\n0,0,0\n50,1,1\n100,2,2\n150,3,2\n");
        assert_eq!((report.back, report.back_50_ms, report.back_all_ms), (3, 60.0, 120.0));
    }

    #[test]
    fn a_herd_of_which_nobody_came_back_has_a_report() {
        let report = Report::new(2, Vec::new(), Vec::new(), BTreeMap::new());
        assert_eq!((report.back, report.back_all_ms, report.points().len()), (0, 0.0, 1));
    }
}
