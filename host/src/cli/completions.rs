//! `bennu completions`: prints a completion script for a shell.

use std::io::{self, Write as _};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::command::Cli;

pub(super) const HELP: &str = "\
Examples:
  source <(bennu completions bash)                                        for this shell
  bennu completions bash > ~/.local/share/bash-completion/completions/bennu
  bennu completions fish > ~/.config/fish/completions/bennu.fish
  bennu completions zsh > \"${fpath[1]}/_bennu\"";

/// `bennu completions`
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// Prints the script.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn run(args: &CompletionsArgs) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bennu", &mut script);
    io::stdout().write_all(&script)
}
