//! The cargo processes that run for us: each is the leader of a process group, which ends as a whole.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{CargoError, not_run};

/// The running cargo processes. A clone is the same list.
///
/// Ctrl-C in the terminal does not reach a process group of its own, and a signal to us does not either. Whoever ends the program
/// therefore calls [`stop`](Self::stop).
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Leaders that have not been reaped.
    leaders: Vec<Pid>,
    is_stopped: bool,
}

impl Processes {
    /// Kills all that run, with everything that they have started, and lets no other start.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.is_stopped = true;
        for leader in &state.leaders {
            end_group(*leader);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    /// Starts a command as the leader of a process group.
    pub(super) fn spawn(&self, command: &mut Command) -> Result<Process, CargoError> {
        let mut state = self.lock();
        if state.is_stopped {
            return Err(CargoError::Stopped);
        }
        let child = command.process_group(0).spawn().map_err(not_run)?;
        let leader = Pid::from_child(&child);
        state.leaders.push(leader);
        let asks = Arc::new(AtomicBool::new(false));
        let (processes, found) = (self.clone(), Arc::clone(&asks));
        thread::spawn(move || processes.end_if_it_asks(leader, &found));
        Ok(Process {
            child,
            processes: self.clone(),
            asks,
        })
    }

    /// Ends a group once one of it wants to read what is typed at the terminal, git for a password, say: that is ours, and so the
    /// system stops the group, for ever.
    fn end_if_it_asks(&self, leader: Pid, asks: &AtomicBool) {
        let until = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let found = loop {
            match waitid(WaitId::Pid(leader), until) {
                Err(Errno::INTR) => {}
                found => break found,
            }
        };
        let of_terminal = [Signal::TTIN, Signal::TTOU].map(Signal::as_raw);
        let signal = found.ok().flatten().and_then(|found| found.stopping_signal());
        if signal.is_some_and(|signal| of_terminal.contains(&signal)) {
            let state = self.lock();
            if state.leaders.contains(&leader) {
                asks.store(true, Ordering::Release);
                end_group(leader);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running cargo. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    processes: Processes,
    asks: Arc<AtomicBool>,
}

impl Process {
    /// Waits until cargo ends.
    pub(super) fn wait(&mut self) -> Result<ExitStatus, CargoError> {
        self.until_ended().map_err(|error| not_run(error.into()))?;
        let status = self.reap().map_err(not_run)?;
        match self.asks.load(Ordering::Acquire) {
            true => Err(CargoError::Asks),
            false => Ok(status),
        }
    }

    /// Waits without reaping: until it is reaped, no other process gets its number, and `stop` may still use it.
    fn until_ended(&self) -> Result<(), Errno> {
        loop {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(Pid::from_child(&self.child)), ended) {
                Err(Errno::INTR) => {}
                done => return done.map(drop),
            }
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let leader = Pid::from_child(&self.child);
        let mut state = self.processes.lock();
        state.leaders.retain(|other| *other != leader);
        self.child.wait()
    }

    pub(super) fn is_listed(&self) -> bool {
        self.processes.lock().leaders.contains(&Pid::from_child(&self.child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_listed() {
            end_group(Pid::from_child(&self.child));
            let _ = self.until_ended();
            let _ = self.reap();
        }
    }
}

fn end_group(leader: Pid) {
    // Fails if all of the group have ended.
    let _ = kill_process_group(leader, Signal::KILL);
}
