//! `bennu load publish`: backends that publish over HTTP, on connections that stay open.
//!
//! Each publisher sends a request, waits for its answer, and sends the next. All have one thread and one epoll, as the clients of the
//! other kinds have. The members of the topics have a thread of their own and only count.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use hdrhistogram::Histogram;
use memchr::memmem;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use serde_json::{Value, json};

use super::report::{Latency, Stretch};
use super::usage::{Cpu, Processes};
use crate::args::JsonArg;
use crate::client::{Client, ClientError, Options, Transport};
use crate::numbers::grouped;
use crate::terminal::say;

/// The variable that holds the key.
const KEY_VARIABLE: &str = "BENNU_API_KEY";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `bennu load publish`.
#[derive(Args, Clone, Debug)]
pub(super) struct PublishArgs {
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:4002", value_name = "ADDRESS:PORT")]
    api: SocketAddr,
    /// File that holds the key, instead of BENNU_API_KEY
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Address where the members of the topics connect, at /socket
    #[arg(long, default_value = "127.0.0.1:4000", value_name = "ADDRESS:PORT")]
    server: SocketAddr,
    /// Number of publishers, each with a connection of its own
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Messages in each request
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    list: u32,
    /// Number of topics, which the publishers take in turn [default: one for each]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    topics: Option<u32>,
    /// Start of every topic name; a number follows
    #[arg(long, default_value = "echo:", value_name = "TEXT")]
    topic_prefix: String,
    /// Members of each topic
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    members: u32,
    /// Size of the JSON payload in bytes, at least 40
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=200_000))]
    payload: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    duration_s: f64,
    /// Seconds to publish before measuring
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    warmup_s: f64,
    /// Requests per second of all publishers together [default: as fast as answers come]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Process of the server: shows its CPU time; may be repeated
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    #[command(flatten)]
    json: JsonArg,
}

/// The results.
#[derive(Debug, Serialize)]
struct Report {
    command: &'static str,
    publishers: u32,
    list: u32,
    topics: u32,
    members: u32,
    payload_bytes: u32,
    /// What the answers said, all of the run.
    heard: u64,
    /// What the members received.
    received: u64,
    /// Answers other than 200.
    failed: u64,
    first_failure: Option<String>,
    /// Each message of a list counts. The latency is that of the request.
    measured: Stretch,
}

/// Runs the command. The exit code says whether all was answered with 200, and heard by the members.
pub(super) fn run(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    let key = key(args.key_file.as_deref())?;
    let topics = args.topics.unwrap_or(args.publishers);
    let members = Members::join(args, topics)?;
    let mut run = Run::new(args, topics, &key)?;
    let measured = run.whole(args)?;
    let heard = run.heard;
    let received = members.stop(heard);
    let report = Report {
        command: "publish",
        publishers: args.publishers,
        list: args.list,
        topics,
        members: args.members,
        payload_bytes: args.payload,
        heard,
        received,
        failed: run.failed,
        first_failure: run.first_failure,
        measured,
    };
    say(&if args.json.json {
        serde_json::to_string_pretty(&report)?
    } else {
        report.text()
    });
    let passed = report.failed == 0 && report.received == report.heard;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn key(file: Option<&Path>) -> anyhow::Result<String> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => std::env::var(KEY_VARIABLE).unwrap_or_default(),
    };
    let key = text.lines().map(str::trim).find(|line| !line.is_empty());
    key.map(str::to_owned)
        .with_context(|| format!("there is no key: name its file with --key-file, or set {KEY_VARIABLE}"))
}

impl Report {
    fn text(&self) -> String {
        let Stretch {
            count,
            seconds,
            per_second,
            latency,
            ..
        } = &self.measured;
        let mut text = format!(
            "publishers  {}, {} messages a request, {} topics with {} members each\n",
            grouped(u64::from(self.publishers)),
            self.list,
            grouped(u64::from(self.topics)),
            self.members
        );
        text += &format!(
            "heard       {} by the answers, {} received, {} requests failed{}\n",
            grouped(self.heard),
            grouped(self.received),
            grouped(self.failed),
            self.first_failure
                .as_ref()
                .map_or(String::new(), |why| format!("; the first: {why}")),
        );
        text += &format!(
            "measured    {} messages in {seconds:.2} s: {} per second\n            requests: p50 {:.0} µs · p99 {:.0} µs · max {:.0} µs",
            grouped(*count),
            grouped(*per_second as u64),
            latency.p50_us,
            latency.p99_us,
            latency.max_us,
        );
        if let (Some(each), Some(share)) = (self.measured.server_us_each, self.measured.server_share) {
            let generator = self.measured.generator_share * 100.0;
            text += &format!(
                "\n            server {each:.2} µs each, {:.0} % of a core; generator {generator:.0} %",
                share * 100.0
            );
        }
        text
    }
}

/// The members of all topics, on a thread of their own.
struct Members {
    received: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Members {
    fn join(args: &PublishArgs, topics: u32) -> anyhow::Result<Self> {
        let (received, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&received), Arc::clone(&stopping));
        let (tell, told) = std::sync::mpsc::channel();
        let args = args.clone();
        let thread = std::thread::Builder::new().name("members".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let joined = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                let joined = runtime.block_on(joined(&args, topics))?;
                Ok((runtime, joined))
            });
            match joined {
                Err(error) => drop(tell.send(Err(error))),
                Ok((runtime, clients)) => {
                    let _ = tell.send(Ok(()));
                    let count = |client| count(client, &counted, &stopped);
                    runtime.block_on(futures_util::future::join_all(clients.into_iter().map(count)));
                }
            }
        })?;
        told.recv().context("the members have failed")??;
        Ok(Self {
            received,
            stopping,
            thread,
        })
    }

    /// How many messages they have received, once there are as many as were heard, or no more come.
    fn stop(self, heard: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        while self.received.load(Ordering::Relaxed) < heard && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.received.load(Ordering::Relaxed)
    }
}

async fn joined(args: &PublishArgs, topics: u32) -> anyhow::Result<Vec<Client>> {
    let mut options = Options::new(args.server, Transport::WebSocket);
    options.deadline = Duration::from_millis(200);
    let mut clients = Vec::new();
    for topic in 0..topics {
        for _ in 0..args.members {
            let mut client = Client::connect(&options).await.context("a member cannot connect")?;
            let name = format!("{}{topic}", args.topic_prefix);
            let reply = client.join(&name, json!({})).await.context("a member cannot join")?;
            if reply.status != "ok" {
                bail!("{name} refused a member");
            }
            clients.push(client);
        }
    }
    Ok(clients)
}

/// Counts what a member receives.
async fn count(mut client: Client, received: &AtomicU64, stopping: &AtomicBool) {
    let mut beat = Instant::now();
    while !stopping.load(Ordering::Relaxed) {
        match client.next().await {
            Ok(message) if message.event == "news" => drop(received.fetch_add(1, Ordering::Relaxed)),
            Ok(_) | Err(ClientError::Deadline(_)) => {}
            Err(_) => return,
        }
        if beat.elapsed() > Duration::from_secs(20) {
            beat = Instant::now();
            let _ = client.push("phoenix", "heartbeat", json!({})).await;
        }
    }
}

/// All publishers.
struct Run {
    poll: Poll,
    publishers: Vec<Publisher>,
    /// Publishers that wait for their turn.
    idle: Vec<usize>,
    latency: Histogram<u32>,
    messages: u64,
    heard: u64,
    failed: u64,
    first_failure: Option<String>,
    server: Option<Processes>,
}

/// A connection of a backend.
struct Publisher {
    stream: mio::net::TcpStream,
    request: Vec<u8>,
    /// So much of the request has been sent.
    sent: usize,
    answer: Vec<u8>,
    began: Instant,
}

/// The counters at some time.
struct Mark {
    at: Instant,
    messages: u64,
    server: Option<Cpu>,
    generator: Cpu,
}

impl Run {
    fn new(args: &PublishArgs, topics: u32, key: &str) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut publishers = Vec::new();
        for number in 0..args.publishers {
            let stream =
                TcpStream::connect(args.api).with_context(|| format!("cannot connect to the API at {}", args.api))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            let token = Token(publishers.len());
            poll.registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            publishers.push(Publisher {
                stream,
                request: request(args, number % topics, key),
                sent: 0,
                answer: Vec::new(),
                began: Instant::now(),
            });
        }
        Ok(Self {
            poll,
            idle: (0..publishers.len()).rev().collect(),
            publishers,
            latency: Histogram::new(3)?,
            messages: 0,
            heard: 0,
            failed: 0,
            first_failure: None,
            server: Processes::new(&args.pid),
        })
    }

    /// The warm-up, the measurement, and the wait for answers.
    fn whole(&mut self, args: &PublishArgs) -> anyhow::Result<Stretch> {
        let pause = args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        self.publish_for(Duration::from_secs_f64(args.warmup_s), args.list, pause)?;
        self.latency.reset();
        let begin = self.mark()?;
        self.publish_for(Duration::from_secs_f64(args.duration_s), args.list, pause)?;
        let end = self.mark()?;
        let server = end.server.zip(begin.server).map(|(end, begin)| end.since(begin));
        let stretch = Stretch::new(
            (end.at - begin.at).as_secs_f64(),
            end.messages - begin.messages,
            Latency::of(&self.latency),
            server,
            end.generator.since(begin.generator),
        );
        self.wait_for_answers(args.list)?;
        Ok(stretch)
    }

    fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark {
            at: Instant::now(),
            messages: self.messages,
            server: self.server.as_ref().map(Processes::cpu).transpose()?,
            generator: Processes::own().cpu()?,
        })
    }

    fn publish_for(&mut self, time: Duration, list: u32, pause: Option<Duration>) -> anyhow::Result<()> {
        let (begin, mut events) = (Instant::now(), Events::with_capacity(1_024));
        let mut next = begin;
        while begin.elapsed() < time {
            while let Some(at) = self
                .idle
                .last()
                .copied()
                .filter(|_| pause.is_none() || next <= Instant::now())
            {
                self.idle.pop();
                next += pause.unwrap_or_default();
                self.publishers[at].begin()?;
            }
            let wait = pause.map_or(PATIENCE, |_| next.saturating_duration_since(Instant::now()));
            self.turn(&mut events, wait.min(Duration::from_millis(100)), list)?;
        }
        Ok(())
    }

    fn wait_for_answers(&mut self, list: u32) -> anyhow::Result<()> {
        let (begin, mut events) = (Instant::now(), Events::with_capacity(1_024));
        while self.idle.len() < self.publishers.len() {
            if begin.elapsed() > PATIENCE {
                bail!("the API does not answer");
            }
            self.turn(&mut events, Duration::from_millis(100), list)?;
        }
        Ok(())
    }

    fn turn(&mut self, events: &mut Events, wait: Duration, list: u32) -> anyhow::Result<()> {
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in events.iter() {
            let at = event.token().0;
            let publisher = &mut self.publishers[at];
            publisher.write()?;
            let Some((status, body)) = publisher.read()? else {
                continue;
            };
            let took = publisher.began.elapsed().as_nanos();
            self.latency.record(u64::try_from(took)?)?;
            self.idle.push(at);
            self.messages += u64::from(list);
            match heard(status, &body) {
                Some(heard) => self.heard += heard,
                None => {
                    self.failed += 1;
                    let why = || format!("{status} {}", String::from_utf8_lossy(&body));
                    self.first_failure.get_or_insert_with(why);
                }
            }
        }
        Ok(())
    }
}

/// How many heard the messages of a request. `None`: it failed, or one of its messages did.
fn heard(status: u16, body: &[u8]) -> Option<u64> {
    let answer: HashMap<&str, Value> = serde_json::from_slice(body).ok().filter(|_| status == 200)?;
    match answer.get("results") {
        None => answer.get("heard")?.as_u64(),
        Some(results) => results.as_array()?.iter().map(|result| result["heard"].as_u64()).sum(),
    }
}

impl Publisher {
    fn begin(&mut self) -> io::Result<()> {
        self.sent = 0;
        self.began = Instant::now();
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The status and the body of the answer, once all of it has come.
    fn read(&mut self) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut buffer = [0; 16_384];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.answer.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let answer = whole_answer(&self.answer);
        if answer.is_some() {
            self.answer.clear();
        }
        Ok(answer)
    }
}

/// The status and the body of an answer, if it is whole.
fn whole_answer(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let body = &bytes[end..];
    let length: usize = length.parse().ok()?;
    (body.len() >= length).then(|| (status, body[..length].to_vec()))
}

fn request(args: &PublishArgs, topic: u32, key: &str) -> Vec<u8> {
    let filling = "x".repeat((args.payload as usize).saturating_sub(r#"{"p":""}"#.len()));
    let message = json!({
        "topic": format!("{}{topic}", args.topic_prefix), "event": "news", "payload": { "p": filling },
    });
    let body = match args.list {
        1 => message.to_string(),
        many => json!(vec![message; many as usize]).to_string(),
    };
    let head = format!(
        "POST /api/broadcast HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        args.api,
        body.len()
    );
    (head + &body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_all_of_it_has_come() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\n\r\n{\"heard\":7,\"intercepted\":0}";
        for cut in 0..text.len() {
            assert_eq!(whole_answer(&text[..cut]), None, "{cut}");
        }
        let (status, body) = whole_answer(text).expect("an answer");
        assert_eq!(heard(status, &body), Some(7));
    }

    #[test]
    fn a_list_counts_if_all_of_it_was_sent() {
        let list = br#"{"results":[{"heard":1},{"heard":2}],"failed":0}"#;
        assert_eq!(heard(200, list), Some(3));
        assert_eq!(
            heard(200, br#"{"results":[{"heard":1},{"reason":"no_route"}],"failed":1}"#),
            None
        );
        assert_eq!(heard(503, list), None);
    }
}
