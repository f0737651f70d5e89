//! The report at the end of a run, for people and for scripts.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::dialect::Dialect;
use super::lagging::Laggards;
use super::usage::Cpu;
use crate::numbers::grouped;

/// Above this share of a core, the generator may limit the rate.
const BUSY: f64 = 0.85;
/// If the generator sends later than this, it does not keep the rate.
const LATE_US: f64 = 20_000.0;

/// All results.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) command: &'static str,
    pub(super) protocol: Dialect,
    pub(super) clients: usize,
    pub(super) topics: usize,
    pub(super) joined: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    /// Clients that the server closed after they had joined.
    pub(super) closed: u64,
    /// Why the first client failed or was closed.
    pub(super) first_failure: Option<String>,
    /// Clients that read slowly. No other field counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slow: Option<Laggards>,
    /// Clients that read nothing. No other field counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stuck: Option<Laggards>,
    pub(super) joins: Stretch,
    pub(super) memory: Option<Memory>,
    pub(super) events: Option<Events>,
}

/// The results of a period: the joins, or the measurement.
#[derive(Debug, Serialize)]
pub(super) struct Stretch {
    pub(super) seconds: f64,
    pub(super) count: u64,
    pub(super) per_second: f64,
    pub(super) latency: Latency,
    pub(super) server: Option<Cpu>,
    /// CPU time of the server per join, reply or delivery.
    pub(super) server_us_each: Option<f64>,
    /// Share of a core that the server used.
    pub(super) server_share: Option<f64>,
    /// Share of a core that the generator used.
    pub(super) generator_share: f64,
    pub(super) generator_is_the_limit: bool,
}

/// Memory of the server.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) before_bytes: u64,
    pub(super) joined_bytes: u64,
    pub(super) per_client_bytes: f64,
    /// After the measurement, before slow and stuck clients catch up.
    pub(super) after_bytes: u64,
    /// The maximum during the measurement, if there are slow or stuck clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) most_bytes: Option<u64>,
    /// For each further cycle: with all clients gone, and with all back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cycles: Vec<[u64; 2]>,
}

/// Events sent and received.
#[derive(Debug, Serialize)]
pub(super) struct Events {
    pub(super) payload_bytes: usize,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Including those of the warm-up.
    pub(super) lost: u64,
    pub(super) measured: Stretch,
    /// How late the generator sent, at worst.
    pub(super) behind_us: f64,
}

/// Latency in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u32>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1000.0,
        }
    }
}

impl Stretch {
    pub(super) fn new(seconds: f64, count: u64, latency: Latency, server: Option<Cpu>, generator: Cpu) -> Self {
        let share = |cpu: Cpu| cpu.total_us() as f64 / 1e6 / seconds.max(1e-9);
        let generator_share = share(generator);
        let server_share = server.map(share);
        Self {
            seconds,
            count,
            per_second: count as f64 / seconds.max(1e-9),
            latency,
            server,
            server_us_each: server.map(|cpu| cpu.total_us() as f64 / count.max(1) as f64),
            server_share,
            generator_share,
            generator_is_the_limit: generator_share > BUSY,
        }
    }
}

impl Report {
    /// Whether all clients joined and nothing was lost. Messages to slow and stuck clients do not count.
    pub(super) fn passed(&self) -> bool {
        let lagging = [&self.slow, &self.stuck].into_iter().flatten();
        self.joined as usize == self.clients
            && { lagging }.all(|lagging| lagging.joined == lagging.clients)
            && self.events.as_ref().is_none_or(|events| events.lost == 0)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unit = if self.command == "echo" { "echoes" } else { "deliveries" };
        write!(
            f,
            "clients     {} of {} joined",
            grouped(self.joined),
            grouped(self.clients as u64)
        )?;
        writeln!(f, ", {} topics", grouped(self.topics as u64))?;
        if let Some(why) = &self.first_failure {
            let lost = (self.refused, self.failed, self.closed);
            writeln!(
                f,
                "lost        {} refused, {} failed, {} closed later; the first: {why}",
                lost.0, lost.1, lost.2
            )?;
        }
        for (title, laggards) in [("slow", &self.slow), ("stuck", &self.stuck)] {
            if let Some(laggards) = laggards {
                lagging(f, title, laggards)?;
            }
        }
        stretch(f, "joins", "joins", &self.joins)?;
        if let Some(memory) = &self.memory {
            let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
            writeln!(
                f,
                "memory      {:.0} bytes per client ({:.1} MiB before, {:.1} MiB with all joined, {:.1} MiB at the end)",
                memory.per_client_bytes,
                mib(memory.before_bytes),
                mib(memory.joined_bytes),
                mib(memory.after_bytes)
            )?;
            if let Some(most) = memory.most_bytes {
                writeln!(f, "            at most {:.1} MiB during the measurement", mib(most))?;
            }
            for (number, [empty, full]) in memory.cycles.iter().enumerate() {
                writeln!(
                    f,
                    "cycle {:<5} {:.1} MiB with all clients gone, {:.1} MiB with all back",
                    number + 2,
                    mib(*empty),
                    mib(*full)
                )?;
            }
        }
        let Some(events) = &self.events else { return Ok(()) };
        writeln!(
            f,
            "sent        {} ({} bytes of payload), {} {unit}, {} lost",
            grouped(events.sent),
            events.payload_bytes,
            grouped(events.received),
            grouped(events.lost)
        )?;
        stretch(f, "measured", unit, &events.measured)?;
        if events.behind_us > LATE_US {
            writeln!(
                f,
                "warning     the generator sent up to {:.1} ms late",
                events.behind_us / 1000.0
            )?;
        }
        Ok(())
    }
}

fn lagging(f: &mut Formatter<'_>, title: &str, laggards: &Laggards) -> fmt::Result {
    writeln!(
        f,
        "{title:<11} {} of {} joined, {} closed by the server; up to {} messages behind, {} skipped for clients that stayed",
        grouped(laggards.joined),
        grouped(laggards.clients),
        grouped(laggards.closed),
        grouped(laggards.behind),
        grouped(laggards.skipped)
    )?;
    for (why, count) in &laggards.ends {
        writeln!(f, "            {} × {why}", grouped(*count))?;
    }
    Ok(())
}

fn stretch(f: &mut Formatter<'_>, title: &str, unit: &str, stretch: &Stretch) -> fmt::Result {
    let Latency {
        p50_us,
        p99_us,
        p999_us,
        max_us,
    } = stretch.latency;
    writeln!(
        f,
        "{title:<11} {} {unit} in {:.2} s: {} per second",
        grouped(stretch.count),
        stretch.seconds,
        grouped(stretch.per_second as u64)
    )?;
    writeln!(
        f,
        "            p50 {} · p99 {} · p99.9 {} · max {}",
        time(p50_us),
        time(p99_us),
        time(p999_us),
        time(max_us)
    )?;
    if let (Some(cpu), Some(each), Some(share)) = (stretch.server, stretch.server_us_each, stretch.server_share) {
        writeln!(
            f,
            "            server {each:.2} µs each ({:.2} user, {:.2} system), {:.0} % of a core; generator {:.0} %",
            cpu.user_us as f64 / stretch.count.max(1) as f64,
            cpu.system_us as f64 / stretch.count.max(1) as f64,
            share * 100.0,
            stretch.generator_share * 100.0
        )?;
    } else {
        writeln!(
            f,
            "            generator {:.0} % of a core",
            stretch.generator_share * 100.0
        )?;
    }
    if stretch.generator_is_the_limit {
        writeln!(f, "warning     the generator limited the rate: the server can do more")?;
    }
    Ok(())
}

fn time(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} µs")
    } else {
        format!("{:.1} ms", us / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_fills_its_core_says_so() {
        let latency = || Latency::of(&Histogram::new(3).expect("a histogram"));
        let busy = |user_us| Stretch::new(1.0, 10, latency(), None, Cpu { user_us, system_us: 0 });
        assert!(busy(900_000).generator_is_the_limit && !busy(500_000).generator_is_the_limit);
    }
}
