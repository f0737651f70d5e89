//! The server's memory, from `/proc`.

use std::collections::BTreeSet;
use std::io;

use super::libraries::PLUGIN;
use super::server::Server;

/// The resident memory of a server, in KiB.
pub(super) fn resident_kib(server: &Server) -> io::Result<f64> {
    status(server, "VmRSS:")
}

/// The most of it that there ever was.
pub(super) fn peak_kib(server: &Server) -> io::Result<f64> {
    status(server, "VmHWM:")
}

fn status(server: &Server, field: &str) -> io::Result<f64> {
    let status = server.proc("status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| io::Error::other(format!("/proc/PID/status has no {field}")))
}

/// How many libraries of the plugin are mapped in the server.
pub(super) fn mapped_libraries(server: &Server) -> io::Result<usize> {
    let maps = server.proc("maps")?;
    let files: BTreeSet<&str> = maps
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.contains('x')))
        .filter_map(|line| line.split('/').next_back())
        .filter(|file| file.starts_with(PLUGIN))
        .collect();
    Ok(files.len())
}

/// The least number of measurements. With fewer, what a server allocates once would distort the result.
const WARM_UP: usize = 50;

/// How many parts to split the measurements into. The least of each part is what stays: libraries that are being read
/// come and go above it.
const PARTS: usize = 10;

/// How much resident memory each reload adds, in KiB: by how much the least of each part grows, in the second half of
/// the measurements. There must be one after each reload; `None` if they are too few.
pub(super) fn kib_per_reload(resident: &[f64]) -> Option<f64> {
    let settled = &resident[resident.len() / 2..];
    if settled.len() < WARM_UP {
        return None;
    }
    let length = settled.len() / PARTS;
    let least = settled
        .chunks_exact(length)
        .map(|part| part.iter().copied().fold(f64::INFINITY, f64::min));
    Some(slope(&least.collect::<Vec<_>>()) / length as f64)
}

/// The slope of the straight line through values at 0, 1, 2, …, by least squares.
fn slope(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut rise, mut run) = (0.0, 0.0);
    for (at, value) in values.iter().enumerate() {
        let along = at as f64 - middle;
        rise += along * (value - mean);
        run += along * along;
    }
    if run == 0.0 { 0.0 } else { rise / run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_told_from_what_comes_and_goes() {
        let resident = |kib_per_reload: f64| -> Vec<f64> {
            let transient = [0.0, 13_000.0, 26_000.0, 6_500.0, 13_000.0, 0.0, 39_000.0];
            let reloads = (0..1_000).zip(transient.into_iter().cycle());
            reloads
                .map(|(reload, more)| 80_000.0 + kib_per_reload * f64::from(reload) + more)
                .collect()
        };
        for added in [0.0, 1.0, 7.5, -2.0] {
            let found = kib_per_reload(&resident(added)).expect("they are enough");
            assert!((found - added).abs() < 0.1, "{added}: {found}");
        }
        assert_eq!(kib_per_reload(&resident(1.0)[..60]), None);
    }

    #[test]
    fn the_slope_is_what_each_adds() {
        assert!((slope(&[10.0, 12.0, 14.0, 16.0]) - 2.0).abs() < 1e-9);
        assert!(slope(&[5.0, 5.0, 5.0]).abs() < 1e-9);
        assert!(slope(&[5.0]).abs() < 1e-9);
        assert!(slope(&[]).abs() < 1e-9);
    }
}
