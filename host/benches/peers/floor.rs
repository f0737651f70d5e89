//! What the kernel alone takes for the deliveries of a fan-out: one `send(2)` of a frame to each of a thousand connections,
//! whose other ends are read on the same CPU. A server costs less only if it joins frames, or system calls.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Set for the processes that do it: what they are to do.
pub(crate) const CHILD: &str = "BENNU_BENCH_FLOOR";
const CLIENTS: u32 = 1_000;
/// Bytes of a frame: the payload of the other rows, and what Phoenix's protocol puts around it.
const FRAME: usize = 160;

/// Measures it as the row `load` of `bennu load` would be, on this CPU. `None` for rows of another kind.
pub(crate) fn measure(load: &str, cpu: usize, seconds: u32) -> io::Result<Option<Value>> {
    let rate = match load.strip_prefix(&format!("fanout --clients {CLIENTS} ")) {
        Some("--window 1") => 0,
        Some(paced) => match paced.strip_prefix("--rate ").and_then(|rate| rate.parse().ok()) {
            Some(rate) => rate,
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let output = Command::new("taskset")
        .args(["--cpu-list", &cpu.to_string()])
        .arg(std::env::current_exe()?)
        .env(CHILD, format!("send {rate} {seconds}"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let each: f64 = { said.trim().parse() }.map_err(|_| io::Error::other("the floor cannot be measured"))?;
    Ok(Some(json!({ "events": { "measured": { "server_us_each": each } } })))
}

/// Does what [`CHILD`] says.
pub(crate) fn child(task: &str) -> io::Result<()> {
    let words: Vec<&str> = task.split(' ').collect();
    match words[..] {
        ["send", rate, seconds] => {
            let (rate, seconds) = (rate.parse().unwrap_or(0), seconds.parse().unwrap_or(1));
            let each = send(rate, Duration::from_secs(seconds))?;
            writeln!(io::stdout(), "{each:.3}")
        }
        ["read", address] => read(address.parse().map_err(io::Error::other)?),
        _ => Err(io::Error::other("an unknown task")),
    }
}

/// Microseconds of CPU time for each of many frames: `rate` rounds a second, or one after the other if that is 0.
fn send(rate: u32, time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut reader = Command::new(std::env::current_exe()?)
        .env(CHILD, format!("read {}", listener.local_addr()?))
        .spawn()?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (client, _) = listener.accept()?;
        client.set_nodelay(true)?;
        clients.push(client);
    }
    let frame = [b'x'; FRAME];
    let (begin, cpu) = (Instant::now(), cpu_us());
    let mut rounds = 0;
    while begin.elapsed() < time {
        for client in &mut clients {
            client.write_all(&frame)?;
        }
        rounds += 1;
        if rate > 0 {
            let next = Duration::from_secs(1) * rounds / rate;
            sleep(next.saturating_sub(begin.elapsed()));
        }
    }
    let used = cpu_us() - cpu;
    drop(clients);
    reader.wait()?;
    Ok(used / f64::from(rounds) / f64::from(CLIENTS))
}

fn cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Reads all connections, as `bennu load` does, until they are closed.
fn read(address: SocketAddr) -> io::Result<()> {
    let mut poll = mio::Poll::new()?;
    let mut servers = Vec::new();
    for number in 0..CLIENTS as usize {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, mio::Token(number), mio::Interest::READABLE)?;
        servers.push(stream);
    }
    let mut events = mio::Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    let mut open = servers.len();
    while open > 0 {
        poll.poll(&mut events, None)?;
        for event in &events {
            if let Ok(0) = servers[event.token().0].read(&mut scratch) {
                open -= 1;
            }
        }
    }
    Ok(())
}
