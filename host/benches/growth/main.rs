//! How cost grows with what there is: one plot for each question, in `target/growth`.
//!
//! `cargo bench --package bennu --bench growth` runs all of them, with ` -- NAME` behind it only those whose name has NAME in it;
//! ` -- --keep` puts the plots into `host/benches/growth`, too.

#[path = "../peers/servers.rs"]
mod servers;

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use bennu_tools::plot::{Axis, Chart};
use serde_json::Value;

use servers::{Peer, Server};

/// The CPUs of the server and of the generator, where they have one each.
const CPUS: [usize; 2] = [0, 1];
/// Server and generator on the server's: for what a message costs.
const SHARED: usize = CPUS[0];
const EACH: &str = "/events/measured/server_us_each";

/// One question.
struct Question {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    along: &'static [usize],
    /// How much there is, and the figure.
    measure: fn(usize) -> io::Result<f64>,
}

const QUESTIONS: &[Question] = &[
    Question {
        name: "fanout",
        title: "One delivery costs the same to few and to many (closed loop, server's CPU)",
        x: "subscribers",
        y: "µs a delivery",
        along: &[10, 30, 100, 300, 1_000, 3_000, 10_000],
        measure: |clients| load("", SHARED, &format!("fanout --clients {clients}"), EACH),
    },
    Question {
        name: "memory",
        title: "Memory grows with connections, each in a topic of its own",
        x: "connections",
        y: "bytes a connection",
        along: &[2_000, 4_000, 8_000, 12_000, 18_000],
        measure: |clients| {
            load(
                "",
                CPUS[1],
                &format!("connect --clients {clients}"),
                "/memory/per_client_bytes",
            )
        },
    },
    Question {
        name: "topics",
        title: "Memory of 1,000 connections, by the topics that each has joined",
        x: "topics in all",
        y: "bytes a connection",
        along: &[1_000, 10_000, 30_000, 100_000],
        measure: |topics| {
            let line = format!("connect --clients 1000 --topics-per-client {}", topics / 1_000);
            load("", CPUS[1], &line, "/memory/per_client_bytes")
        },
    },
    Question {
        name: "routes",
        title: "A join costs the same among few routes and among many (with its connect, server's CPU)",
        x: "routes",
        y: "µs a connect and join",
        along: &[10, 100, 1_000, 10_000],
        measure: |routes| {
            load(
                &other_routes(routes),
                SHARED,
                "connect --clients 5000",
                "/joins/server_us_each",
            )
        },
    },
    Question {
        name: "reload",
        title: "The longest echo while a library is replaced, by the topics that move",
        x: "topics",
        y: "ms",
        along: &[100, 1_000, 10_000, 100_000],
        measure: reload,
    },
    Question {
        name: "threads",
        title: "Echoes a second with as many I/O threads as shards, all on two CPUs beside the generator",
        x: "I/O threads, and shards",
        y: "echoes a second",
        along: &[1, 2, 4],
        measure: threads,
    },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    match run(&wanted, words.iter().any(|word| word == "--keep")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[&String], keep: bool) -> io::Result<()> {
    Peer::Bennu.prepare()?;
    fs::create_dir_all(folder())?;
    for question in QUESTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|word| question.name.contains(word.as_str())) {
            continue;
        }
        writeln!(io::stdout(), "\n{}", question.title)?;
        let mut points = Vec::new();
        for amount in question.along {
            let figure = (question.measure)(*amount)?;
            writeln!(io::stdout(), "{amount:>10} {}: {figure:.2} {}", question.x, question.y)?;
            points.push((*amount as f64, figure));
        }
        let (file, plot) = (format!("{}.svg", question.name), chart(question, points).svg());
        fs::write(folder().join(&file), &plot)?;
        if keep {
            fs::write(servers::checkout().join("host/benches/growth").join(&file), &plot)?;
        }
    }
    Ok(())
}

fn chart(question: &Question, points: Vec<(f64, f64)>) -> Chart {
    let axis = |label: &str, is_logarithmic| Axis {
        label: label.to_owned(),
        is_logarithmic,
    };
    Chart {
        title: question.title.to_owned(),
        x: axis(question.x, question.along.last() > Some(&100)),
        y: axis(question.y, false),
        lines: vec![("Bennu".to_owned(), points)],
        aim: None,
    }
}

/// The best of three runs of `bennu load`, on this CPU, against a server with more in its configuration.
fn load(more: &str, cpu: usize, line: &str, at: &str) -> io::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let server = serve(more, &CPUS[0].to_string())?;
        best = best.min(report(&server, &cpu.to_string(), line, at)?);
    }
    Ok(best)
}

fn serve(more: &str, cpus: &str) -> io::Result<Server> {
    fs::copy(
        servers::checkout().join("target/release/libecho.so"),
        folder().join("libecho.so"),
    )?;
    let text = fs::read_to_string(servers::checkout().join("config/bench.toml"))?;
    let text = text.replace("../target/release/libecho.so", "libecho.so");
    // A table of its own may stand anywhere; a line of a table stands right behind its name.
    let text = more
        .lines()
        .filter_map(|line| line.split_once(" < "))
        .fold(text, |text, (table, setting)| {
            text.replace(&format!("{table}\n"), &format!("{table}\n{setting}\n"))
        });
    let routes: String = more
        .lines()
        .filter(|line| !line.contains(" < "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = folder().join("bench.toml");
    fs::write(
        &config,
        text.replace("[[routes]]\n", &format!("{routes}\n[[routes]]\n")),
    )?;
    Peer::Bennu.start(cpus, &config)
}

fn report(server: &Server, cpus: &str, line: &str, at: &str) -> io::Result<f64> {
    let output = generator(server, cpus, line).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| io::Error::other(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))))?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{line}: something was lost: {report}")));
    }
    let figure = report.pointer(at).and_then(Value::as_f64);
    figure.ok_or_else(|| io::Error::other(format!("{line}: no {at}")))
}

fn generator(server: &Server, cpus: &str, line: &str) -> Command {
    let mut load = Command::new("taskset");
    load.args(["--cpu-list", cpus, env!("CARGO_BIN_EXE_bennu"), "load"]);
    load.args(line.split(' ')).args(Peer::Bennu.protocol(server.address));
    load.args(["--json", "--pid", &server.pid().to_string()]);
    load
}

/// Routes that lead nowhere near, before the one that is used.
fn other_routes(count: usize) -> String {
    (1..count)
        .map(|number| format!("[[routes]]\ntopic = \"area{number}:*\"\nplugin = \"echo\"\n"))
        .collect()
}

/// Replaces the library while so many topics are there and a client echoes, and says how long it waited at worst.
fn reload(topics: usize) -> io::Result<f64> {
    let server = serve("", &CPUS[0].to_string())?;
    let clients = topics.min(1_000);
    let line = format!(
        "connect --clients {clients} --topics-per-client {} --hold-s 600",
        topics / clients
    );
    let crowd = Crowd(
        generator(&server, &CPUS[1].to_string(), &line)
            .stdout(Stdio::null())
            .spawn()?,
    );
    let joined = "echo --clients 1 --topic-prefix echo:other --duration-s 1";
    // When a second echo after this one finds as much memory, everyone has joined.
    let mut before = 0.0;
    loop {
        let memory = report(&server, &CPUS[1].to_string(), joined, "/memory/after_bytes")?;
        if memory < before * 1.01 {
            break;
        }
        before = memory;
    }
    let library = folder().join("libecho.so");
    let mapped = mapped(&server)?;
    let replaced = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        replace(&library)
    });
    let line = "echo --clients 1 --topic-prefix echo:other --rate 1000 --duration-s 10";
    let longest = report(&server, &CPUS[1].to_string(), line, "/events/measured/latency/max_us")?;
    replaced
        .join()
        .map_err(|_| io::Error::other("nothing was replaced"))??;
    drop(crowd);
    if self::mapped(&server)? == mapped {
        return Err(io::Error::other("the library was not replaced"));
    }
    Ok(longest / 1000.0)
}

/// The copies of the library that the server has in memory.
fn mapped(server: &Server) -> io::Result<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid()))?;
    let files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    Ok(files.filter(|file| file.contains("echo")).map(str::to_owned).collect())
}

/// The same code in other bytes: what follows the last section concerns no loader.
fn replace(library: &std::path::Path) -> io::Result<()> {
    let mut bytes = fs::read(library)?;
    bytes.extend(b"other");
    let new = library.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(new, library)
}

/// Clients that stay. Dropped, they are killed.
struct Crowd(Child);

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn threads(count: usize) -> io::Result<f64> {
    let more = format!("[server] < io_threads = {count}\n[plugins.echo] < shards = {count}");
    let both = format!("{},{}", CPUS[0], CPUS[1]);
    let server = serve(&more, &both)?;
    report(&server, &both, "echo --clients 256", "/events/measured/per_second")
}

fn folder() -> PathBuf {
    servers::checkout().join("target/growth")
}
