//! Limits of the probe process.

use std::time::Duration;

/// Limits of the probe process, the child that tries a library before the server loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeLimits {
    /// Wall-clock time. After that, the server kills the process.
    pub(crate) wall: Duration,
    /// Address space.
    pub(crate) memory_bytes: u64,
    /// CPU time, in whole seconds.
    pub(crate) cpu_s: u64,
    /// File descriptors.
    pub(crate) files: u64,
    /// The size of each file that it writes.
    pub(crate) written_bytes: u64,
}

impl ProbeLimits {
    /// Limits with this wall-clock time and memory. CPU time is a fifth of `wall`, at least 1 s. 64 descriptors, 4 MiB per file.
    #[must_use]
    pub(crate) fn new(wall: Duration, memory_bytes: u64) -> Self {
        Self {
            wall,
            memory_bytes,
            cpu_s: wall.as_secs().div_ceil(5).max(1),
            files: 64,
            written_bytes: 4 << 20,
        }
    }
}

impl Default for ProbeLimits {
    /// 10 s and 2 GiB. The time is long because the machine may be busy with the build that made the library.
    fn default() -> Self {
        Self::new(Duration::from_secs(10), 2 << 30)
    }
}
