//! `bennu serve`: the production form. Loads the libraries that the configuration names, builds nothing, serves no page.

use std::net::SocketAddr;
use std::path::Path;

use clap::Args;

use super::args::{ConfigArg, address, override_listen};
use super::{read_config, say, signals, start_log};
use crate::config::Mode;
use crate::server::{Server, StartError};

pub(super) const HELP: &str = "\
Examples:
  BENNU_SECRET_KEY_BASE=… bennu serve --config /etc/bennu/bennu.toml
  bennu serve --config bennu.toml --listen 0.0.0.0:4000
  bennu serve                          with config/bennu.toml, here or above

Needs a secret of at least 64 bytes, as `bennu secret` prints them, in
BENNU_SECRET_KEY_BASE or in the file that `secret_key_base_file` names.
BENNU_LOG goes before the configuration's log level.";

/// `bennu serve`
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Which configuration.
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// Where clients connect, in place of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
}

/// Serves until told to stop.
///
/// # Errors
///
/// If the configuration is refused, or the host does not start.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let mut config = read_config(&file, Mode::Serve)?;
    override_listen(&mut config, args.listen);
    start_log(&config);
    for warning in config.warnings.iter().chain(&config.lacks()) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let (_, stop) = signals()?;
        let server = Server::builder(config).start().await;
        let server = server.map_err(|error| explained(error, &file))?;
        say(&format!("listening on http://{}", server.address()));
        if let Some(admin) = server.admin_address() {
            say(&format!("admin on http://{admin}"));
        }
        server.run(stop).await;
        Ok(())
    });
    // A plugin's thread that never ends must not keep the process.
    runtime.shutdown_background();
    done
}

/// A refusal stops at the first plugin; there is a command that goes on.
fn explained(error: StartError, config: &Path) -> anyhow::Error {
    match error {
        StartError::Plugin { .. } => anyhow::anyhow!(
            "{error}\n  = help: `bennu check {}` shows all that is wrong, and what to do",
            config.display()
        ),
        other => other.into(),
    }
}
