//! Commands that end by themselves.

use std::process::{Command, Output, Stdio};

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
