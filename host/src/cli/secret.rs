//! `bennu secret`: prints a new `secret_key_base`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::say;

pub(super) const HELP: &str = "\
Examples:
  export BENNU_SECRET_KEY_BASE=$(bennu secret)
  (umask 077; bennu secret > config/secret_key_base)    a file that `secret_key_base_file` can name

Prints 48 random bytes as 64 characters, as `bennu serve` needs them. Whoever
has the secret can forge long-poll sessions. A new secret ends all sessions.";

/// Random bytes in each secret: 64 characters.
const BYTES: usize = 48;

/// Prints a new secret.
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
