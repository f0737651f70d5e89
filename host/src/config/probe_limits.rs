//! Limits of the probe process.

use std::time::Duration;

/// Limits of the probe process, the child that tries a library before the server loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeLimits {
    /// Time, start to end. Beyond: killed.
    pub(crate) wall: Duration,
    /// Address space.
    pub(crate) memory_bytes: u64,
    /// Time on a processor, in whole seconds.
    pub(crate) cpu_s: u64,
    /// File descriptors.
    pub(crate) files: u64,
    /// What it may write, to any one file.
    pub(crate) written_bytes: u64,
}

impl ProbeLimits {
    /// So much time, a fifth of it on a processor, and so much memory; 64 descriptors, 4 MiB written.
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
    /// Ten seconds, as the machine may be busy with the build that made the library: only a plugin that hangs takes them all.
    /// 2 GiB.
    fn default() -> Self {
        Self::new(Duration::from_secs(10), 2 << 30)
    }
}
