//! CPU time and memory of processes, from `/proc`.

use std::fs;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// CPU time, in microseconds. The system counts it in steps of 10,000.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Cpu {
    pub(super) user_us: u64,
    pub(super) system_us: u64,
}

impl Cpu {
    pub(super) fn total_us(self) -> u64 {
        self.user_us + self.system_us
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }
}

/// Processes, including all their children.
#[derive(Clone, Debug)]
pub(super) struct Processes(Vec<u32>);

impl Processes {
    pub(super) fn new(pids: &[u32]) -> Option<Self> {
        (!pids.is_empty()).then(|| Self(pids.to_vec()))
    }

    pub(super) fn own() -> Self {
        Self(vec![std::process::id()])
    }

    /// The CPU time of all threads, including those that have ended.
    pub(super) fn cpu(&self) -> io::Result<Cpu> {
        let mut sum = Cpu::default();
        for pid in self.all() {
            let Cpu { user_us, system_us } = cpu(pid)?;
            sum.user_us += user_us;
            sum.system_us += system_us;
        }
        Ok(sum)
    }

    /// The memory in bytes. Shared pages count in part (PSS).
    pub(super) fn memory(&self) -> io::Result<u64> {
        self.all().into_iter().map(memory).sum()
    }

    fn all(&self) -> Vec<u32> {
        let mut all = self.0.clone();
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            let lists = tasks
                .flatten()
                .map(|task| fs::read_to_string(task.path().join("children")));
            // Some kernels do not list children. Then there are only the named processes.
            let children: Vec<u32> = { lists.flatten() }
                .flat_map(|list| {
                    list.split_whitespace()
                        .filter_map(|pid| pid.parse().ok())
                        .collect::<Vec<_>>()
                })
                .collect();
            all.extend(children);
            at += 1;
        }
        all
    }
}

/// Between two samples of a [`Watch`].
const WATCH: Duration = Duration::from_millis(250);

/// Samples the memory of processes. On a thread of its own, as a sample takes milliseconds.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Watch {
    pub(super) fn new(processes: Processes) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            let mut most = 0;
            loop {
                // If a process has ended, the next direct call of `memory` reports that.
                most = most.max(processes.memory().unwrap_or_default());
                if stopped.recv_timeout(WATCH) != Err(RecvTimeoutError::Timeout) {
                    return most;
                }
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(watch)?;
        Ok(Self { stop, thread })
    }

    /// Stops, and returns the highest sample, in bytes.
    pub(super) fn most(self) -> u64 {
        drop(self.stop);
        self.thread.join().expect("the thread does not panic")
    }
}

fn cpu(pid: u32) -> io::Result<Cpu> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second();
    let [user, system] = ticks(&text).ok_or_else(|| io::Error::other(format!("cannot parse /proc/{pid}/stat")))?;
    Ok(Cpu {
        user_us: user * tick_us,
        system_us: system * tick_us,
    })
}

/// User and system time from `/proc/PID/stat`. The name of the program in it may contain anything, even parentheses.
fn ticks(stat: &str) -> Option<[u64; 2]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

fn memory(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    pss_kib(&text).map_or_else(
        || Err(io::Error::other(format!("/proc/{pid}/smaps_rollup has no Pss"))),
        |kib| Ok(kib * 1024),
    )
}

/// The share of memory that no file backs: pages of files are no client's, and the system takes them away when it likes. Systems that
/// do not tell them apart (Linux before 5.9) say all.
fn pss_kib(rollup: &str) -> Option<u64> {
    let of = |kind| rollup.lines().find_map(|line| line.strip_prefix(kind));
    let line = of("Pss_Anon:").or_else(|| of("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 84 0 0 0 12 34 0 0 20 0 1 0 100 0 0";
        assert_eq!(ticks(stat), Some([12, 34]));
    }

    #[test]
    fn the_share_of_memory_is_found() {
        let old = "1-2 [rollup]\nRss:  9 kB\nPss:     17 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(pss_kib(old), Some(17));
        assert_eq!(pss_kib(&format!("{old}Pss_Anon:   11 kB\n")), Some(11));
    }

    #[test]
    fn a_process_with_a_child_uses_more_than_without() {
        let own = Processes::own();
        let alone = own.all().len();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let both = own.all();
        let memory = own.memory();
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(both.contains(&child.id()) && both.len() > alone);
        assert!(memory.expect("readable") > 0 && own.cpu().is_ok());
    }
}
