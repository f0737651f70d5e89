//! `bennu probe`: the child process that tries a library before the server loads it. [`crate::runtime::plugin::probe`] does the
//! work.

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
