//! The keys that `bennu dev` takes in a terminal.

use std::io::{self, IsTerminal as _, Read as _};
use std::process::{Command, Stdio};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetpgrp, tcsetattr};

use crate::cli::terminal::Modes;
use crate::runtime::threads;

pub(super) const HELP: &str = "keys: o opens the page, r lists routes and plugins, h shows this, q quits";

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Open,
    Routes,
    Help,
    Quit,
}

/// Calls `pressed` with each key, on a thread of its own, and has the terminal echo no keys. Dropping what it returns restores the
/// terminal. `None`: nobody can press a key, because this is no terminal or another program has it.
///
/// # Errors
///
/// If the terminal cannot be set, or the system starts no thread.
pub(super) fn listen(mut pressed: impl FnMut(Key) + Send + 'static) -> io::Result<Option<Modes>> {
    let stdin = io::stdin();
    let is_ours = || tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
    if !stdin.is_terminal() || !io::stdout().is_terminal() || !is_ours() {
        return Ok(None);
    }
    let modes = Modes::keep()?;
    let mut bare = tcgetattr(&stdin)?;
    // Ctrl-C still sends a signal, and line ends are still translated.
    bare.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(&stdin, OptionalActions::Now, &bare)?;
    threads::spawn("keys", move || {
        let mut byte = [0];
        while stdin.lock().read_exact(&mut byte).is_ok() {
            match byte[0] {
                b'o' => pressed(Key::Open),
                b'r' => pressed(Key::Routes),
                b'h' | b'?' => pressed(Key::Help),
                b'q' => pressed(Key::Quit),
                _ => {}
            }
        }
    })?;
    Ok(Some(modes))
}

/// Opens a page in the browser of the desktop.
///
/// # Errors
///
/// If there is no desktop.
pub(super) fn open(url: &str) -> io::Result<()> {
    let mut command = Command::new("xdg-open");
    command
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    // Somebody has to wait for it, or it stays a zombie.
    std::thread::spawn(move || drop(child.wait()));
    Ok(())
}
