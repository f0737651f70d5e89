//! The signals of a server: SIGINT and SIGTERM stop it, and SIGHUP has `serve` read everything anew. SIGUSR1 and SIGUSR2, which mean
//! something to other servers, do nothing: by default they would end the process.
//!
//! A process inherits what its parent has blocked or ignored. The server puts that right at its start, so that it can be stopped
//! whoever has started it. Only an ignored SIGHUP stays ignored: that is what `nohup` asks for.

use std::{fs, io};

use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// What SIGHUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The end: the terminal was closed.
    Stop,
    /// To read configuration and libraries anew.
    Reread,
}

/// What signals ask for.
#[derive(Debug)]
pub(super) struct Signals {
    /// The server stops; at the second time at once.
    pub(super) stop: UnboundedReceiver<()>,
    /// The server reads everything anew.
    pub(super) reread: UnboundedReceiver<()>,
    /// Asks for a stop as a signal does.
    pub(super) stopper: UnboundedSender<()>,
}

/// Unblocks all signals, and has the system report the ends of child processes, which it does not while SIGCHLD is ignored. To
/// be called before there are other threads.
///
/// # Errors
///
/// If the system refuses.
pub(super) fn put_right() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    if is_ignored(libc::SIGCHLD) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // Whoever listens does not ignore; that stays so.
        drop(runtime.block_on(async { signal(SignalKind::child()) })?);
    }
    Ok(())
}

/// Has SIGHUP do nothing until somebody [listens](listen): the server is only just reading what it would read anew.
///
/// # Errors
///
/// If the system refuses.
pub(super) fn hold_hangup() -> io::Result<()> {
    if is_ignored(libc::SIGHUP) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // What is installed once stays.
    drop(runtime.block_on(async { signal(SignalKind::hangup()) })?);
    Ok(())
}

/// Listens to signals from now on. On a runtime.
///
/// # Errors
///
/// If the system refuses.
pub(super) fn listen(on_hangup: Hangup) -> io::Result<Signals> {
    let (stopper, stop) = mpsc::unbounded_channel();
    let (rereader, reread) = mpsc::unbounded_channel();
    // A log beyond the limit for files is an error of that write; the default would be the end.
    drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut first, mut second) = (
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
    );
    let mut hangup = match is_ignored(libc::SIGHUP) {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let by_signal = stopper.clone();
    tokio::spawn(async move {
        loop {
            let told = tokio::select! {
                _ = interrupt.recv() => by_signal.send(()),
                _ = terminate.recv() => by_signal.send(()),
                _ = first.recv() => ignored("SIGUSR1"),
                _ = second.recv() => ignored("SIGUSR2"),
                () = next(hangup.as_mut()) => match on_hangup {
                    Hangup::Stop => by_signal.send(()),
                    Hangup::Reread => rereader.send(()),
                },
            };
            if told.is_err() {
                return;
            }
        }
    });
    Ok(Signals { stop, reread, stopper })
}

fn ignored<E>(signal: &str) -> Result<(), E> {
    tracing::warn!(
        signal,
        "this signal does nothing; SIGHUP reads configuration and libraries anew, SIGTERM stops the server"
    );
    Ok(())
}

/// The next time that the signal comes; never, if nobody listens.
async fn next(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the process ignores this signal.
fn is_ignored(signal: libc::c_int) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

/// The same, as `/proc` says it: one bit for each signal, the lowest for the first.
fn ignores(status: &str, signal: libc::c_int) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        // Rust itself ignores SIGPIPE.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGTERM));
        let status = "Name:\tbennu\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        let ignored: Vec<_> = (1..=64).filter(|signal| ignores(status, *signal)).collect();
        assert_eq!(ignored, [libc::SIGHUP, libc::SIGPIPE]);
    }
}
