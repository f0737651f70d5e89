//! Arguments that several commands take.

/// `--json`
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct JsonArg {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}
