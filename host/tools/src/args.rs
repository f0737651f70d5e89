//! Arguments that several commands take.

use std::path::PathBuf;

use crate::client::Trust;

/// `--json`
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct JsonArg {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

/// `--ca` and `--insecure`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TrustArgs {
    /// For wss and https: also trust the certificate authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For wss and https: accept any certificate
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

impl TrustArgs {
    /// Which certificates a client accepts.
    pub(crate) fn trust(&self) -> Trust {
        match (&self.ca, self.insecure) {
            (_, true) => Trust::Anything,
            (Some(file), false) => Trust::Authorities(file.as_path().into()),
            (None, false) => Trust::System,
        }
    }
}
