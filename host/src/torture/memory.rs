//! What `/proc` says of the server's memory.

use std::collections::BTreeSet;
use std::io;

use super::libraries::PLUGIN;
use super::server::Server;

/// The resident memory of a server, in KiB.
///
/// # Errors
///
/// If it is gone.
pub fn resident_kib(server: &Server) -> io::Result<f64> {
    let status = server.proc("status")?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = field.and_then(|field| field.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| io::Error::other("/proc/PID/status has no VmRSS"))
}

/// How many loads of the plugin have code in the server's memory.
///
/// # Errors
///
/// If it is gone.
pub fn mapped_libraries(server: &Server) -> io::Result<usize> {
    let maps = server.proc("maps")?;
    let files: BTreeSet<&str> = maps
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.contains('x')))
        .filter_map(|line| line.split('/').next_back())
        .filter(|file| file.starts_with(PLUGIN))
        .collect();
    Ok(files.len())
}

/// What is measured before it is known what a server allocates once.
const WARM_UP: usize = 50;

/// The KiB that each further reload adds, from what was resident after each. `None` if they are too few.
#[must_use]
pub fn kib_per_reload(resident: &[f64]) -> Option<f64> {
    let half = resident.len() / 2;
    (half >= WARM_UP).then(|| slope(&resident[half..]))
}

/// How much one more of what is counted adds to what is measured: the slope of the straight line through all points.
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
    fn the_slope_is_what_each_adds() {
        assert!((slope(&[10.0, 12.0, 14.0, 16.0]) - 2.0).abs() < 1e-9);
        assert!(slope(&[5.0, 5.0, 5.0]).abs() < 1e-9);
        assert!(slope(&[5.0]).abs() < 1e-9);
        assert!(slope(&[]).abs() < 1e-9);
    }
}
