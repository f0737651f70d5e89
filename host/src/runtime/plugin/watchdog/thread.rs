//! Reads from `/proc` whether a thread computes or waits, and for what.

use std::fs;
use std::time::Duration;

use rustix::thread::Pid;

/// One thread of this process, as it was a moment ago.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    /// `running`, `sleeping`, or another state of the system.
    pub(super) state: String,
    /// CPU time that it has used so far.
    pub(super) cpu: Duration,
    /// Its current system call; `none` if it computes.
    pub(super) call: String,
}

impl ThreadState {
    /// The state now. What cannot be read is `unknown`.
    pub(super) fn of(thread: Option<Pid>) -> Self {
        let read = |file: &str| {
            let thread = thread?.as_raw_nonzero();
            fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).ok()
        };
        let (state, ticks) = read("stat")
            .and_then(|stat| parse_stat(&stat))
            .unwrap_or(("unknown", 0));
        let call = read("syscall").map_or_else(|| "unknown".to_owned(), |call| parse_call(&call));
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Self {
            state: state.to_owned(),
            cpu: Duration::from_millis(ticks * 1_000 / per_second),
            call,
        }
    }

    pub(super) fn cpu_ms(&self) -> u128 {
        self.cpu.as_millis()
    }
}

/// State and CPU time in ticks. The second field is a name in parentheses, which may hold anything.
fn parse_stat(stat: &str) -> Option<(&'static str, u64)> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let state = match *fields.first()? {
        "R" => "running",
        "S" => "sleeping",
        "D" => "waiting for a device",
        "T" | "t" => "stopped",
        "Z" | "X" => "ended",
        _ => "unknown",
    };
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((state, ticks(11)? + ticks(12)?))
}

/// `running`, or a number and its arguments.
fn parse_call(call: &str) -> String {
    let number = call.split_whitespace().next().unwrap_or_default();
    match number.parse::<libc::c_long>() {
        Err(_) => "none".to_owned(),
        Ok(-1) => "none".to_owned(),
        Ok(number) => {
            let known = CALLS.iter().find(|(known, _)| *known == number);
            known.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
        }
    }
}

/// The calls that threads most often wait in.
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_futex, "futex"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_accept, "accept"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_seen_waiting_and_one_that_runs_running() {
        let (said, says) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            said.send(rustix::thread::gettid()).unwrap();
            let _ = ended.recv();
        });
        let waits = says.recv().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while ThreadState::of(Some(waits)).call != "futex" {
            assert!(
                std::time::Instant::now() < deadline,
                "{:?}",
                ThreadState::of(Some(waits))
            );
        }
        let own = ThreadState::of(Some(rustix::thread::gettid()));
        assert_eq!(own.state, "running");
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn a_name_may_hold_spaces_and_parentheses() {
        let line = "12 (a) b) (c) D 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0";
        assert_eq!(parse_stat(line), Some(("waiting for a device", 123)));
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_call_has_its_name_where_it_is_known() {
        let nanosleep = format!("{} 0x0 0x0", libc::SYS_clock_nanosleep);
        assert_eq!(parse_call(&nanosleep), "clock_nanosleep");
        assert_eq!(parse_call("99999 0x0"), "number 99999");
        assert_eq!(parse_call("running\n"), "none");
    }
}
