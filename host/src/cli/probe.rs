//! `bennu probe`: what the server runs in a child before it loads a library itself. The work is in [`crate::runtime::plugin::probe`].

use std::path::PathBuf;

use clap::Args;

/// `bennu probe`
#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// The library
    #[arg(long, value_name = "PATH")]
    pub(crate) library: PathBuf,

    /// Asks only for the schema of the settings
    #[arg(long)]
    pub(crate) schema: bool,
}
