//! Commands that end by themselves.

use std::process::{Command, Output, Stdio};

use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

use super::DEADLINE;
use super::server::bennu;

/// What a command leaves behind: itself, its standard output, its standard error.
pub(crate) fn run(change: impl FnOnce(&mut Command) -> &mut Command) -> (Output, String, String) {
    let mut command = bennu();
    change(command.stdin(Stdio::null()));
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    (output, said, complained)
}

/// What a command says, which must end with this exit code.
#[track_caller]
pub(crate) fn said(code: i32, change: impl FnOnce(&mut Command) -> &mut Command) -> String {
    let (output, said, complained) = run(change);
    assert_eq!(output.status.code(), Some(code), "{said}{complained}");
    said
}

/// A command that cannot begin: one line says why, and the exit code is not 0.
#[track_caller]
pub(crate) fn check_refused(change: impl FnOnce(&mut Command) -> &mut Command, words: &str) {
    let (output, said, complained) = run(change);
    assert!(!output.status.success(), "{said}");
    let errors: Vec<_> = complained.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{complained}");
    assert!(errors[0].contains(words), "{complained}");
    assert_eq!(said, "");
}

/// A command at a terminal, which is a real one to it. What is awaited there comes within [`DEADLINE`](super::DEADLINE).
pub(crate) fn at_terminal(change: impl FnOnce(&mut Command) -> &mut Command) -> PtySession {
    let mut command = bennu();
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CI");
    change(&mut command);
    let deadline = u64::try_from(DEADLINE.as_millis()).expect("it is short");
    spawn_command(command, Some(deadline)).expect("a terminal")
}

/// The exit code of a command at a terminal, once it has ended.
pub(crate) fn ended(mut terminal: PtySession) -> i32 {
    let rest = terminal.exp_eof().expect("it ends");
    match terminal.process().wait() {
        Ok(WaitStatus::Exited(_, code)) => code,
        other => panic!("{other:?} after\n{rest}"),
    }
}
