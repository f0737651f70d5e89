//! `bennu secret`: prints a fresh `secret_key_base`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::say;

pub(super) const HELP: &str = "\
Examples:
  export BENNU_SECRET_KEY_BASE=$(bennu secret)
  (umask 077; bennu secret > config/secret_key_base)    a file that `secret_key_base_file` can name

48 random bytes in 64 characters, as much as `bennu serve` asks for. Whoever
has them can forge long-poll sessions; a new secret ends those that there are.";

/// Random bytes in each secret: 64 characters.
const BYTES: usize = 48;

/// Prints one.
///
/// # Errors
///
/// If the system has no random bytes.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    say(&STANDARD_NO_PAD.encode(bytes));
    Ok(())
}
