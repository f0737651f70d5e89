//! `bennu serve`: for production. Loads the libraries that the configuration names; builds nothing, and serves no page.

use std::net::SocketAddr;
use std::path::Path;

use clap::Args;
use tokio::sync::{mpsc, oneshot};

use super::args::{ConfigArg, address, override_listen};
use super::signals::{self, Hangup, Signals};
use super::{announce, json_lines, notify, raise_open_files, read_config, start_log};
use crate::config::Mode;
use crate::runtime::plugin::prepare_process;
use crate::server::control::Command;
use crate::server::{Server, StartError};

pub(super) const HELP: &str = "\
Examples:
  BENNU_SECRET_KEY_BASE=… bennu serve --config /etc/bennu/bennu.toml
  bennu serve --config bennu.toml --listen 0.0.0.0:4000
  bennu serve                          uses config/bennu.toml, here or above

Needs a secret of at least 64 bytes in BENNU_SECRET_KEY_BASE, or in the file
that `secret_key_base_file` names. `bennu secret` prints one.
BENNU_LOG overrides `[log] level`.

SIGTERM and SIGINT stop the server: it closes connections in batches, ends the
plugins, and exits with 0. A second signal stops it at once. SIGHUP makes it
read the configuration and all libraries again.

`bennu check --serve` finds everything that would keep `bennu serve` from starting.";

/// `bennu serve`
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The configuration.
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// Where clients connect, instead of the address in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
}

/// Serves until a signal stops it.
///
/// # Errors
///
/// If the configuration has mistakes, the server does not start, or one of its threads ends.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    signals::hold_hangup()?;
    let file = args.config.find()?;
    json_lines::foresee(&file);
    let mut config = read_config(&file, Mode::Serve)?;
    override_listen(&mut config, args.listen);
    prepare_process(&config)?;
    let (set_log_level, dropped_lines) = start_log(&config)?;
    raise_open_files(&config);
    for warning in config.warnings.iter().chain(&config.lacks()) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let Signals {
            mut stop, mut reread, ..
        } = signals::listen(Hangup::Reread)?;
        let (stopper, stopped) = mpsc::unbounded_channel();
        let server = Server::builder(config)
            .on_log_level(set_log_level)
            .dropped_lines(dropped_lines);
        let server = tokio::select! {
            server = server.start() => server.map_err(|error| explained(error, &file))?,
            // A plugin may still be starting: nobody waits for it.
            _ = stop.recv() => {
                notify::stopping();
                tracing::info!("stopped before it was ready: no client was served");
                return Ok(());
            }
        };
        let service = server.service().clone();
        tokio::spawn(async move {
            while reread.recv().await.is_some() {
                notify::reloading();
                let (done, is_done) = oneshot::channel();
                service.send(Command::Reread(done));
                let _ = is_done.await;
                notify::reloaded();
            }
        });
        tokio::spawn(async move {
            while stop.recv().await.is_some() {
                notify::stopping();
                let _ = stopper.send(());
            }
        });
        tokio::spawn(notify::watch(server.pulse()));
        for url in server.urls() {
            announce(&format!("listening on {url}"));
        }
        if let Some(admin) = server.admin_address() {
            announce(&format!("admin on http://{admin}"));
        }
        if let Some(api) = server.api_address() {
            announce(&format!("api on http://{api}"));
        }
        notify::ready(server.urls());
        Ok(server.run(stopped).await?)
    });
    // A plugin's thread that never ends must not keep the process alive.
    runtime.shutdown_background();
    done
}

/// The server stops at the first plugin that it refuses; `bennu check` shows all of them.
fn explained(error: StartError, config: &Path) -> anyhow::Error {
    match error {
        StartError::Plugin { .. } => anyhow::anyhow!(
            "{error}\n  = help: `bennu check --serve {}` shows all that is wrong, and what to do",
            config.display()
        ),
        other => other.into(),
    }
}
