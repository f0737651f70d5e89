//! `bennu serve`: the production form. Loads the libraries that the configuration names, builds nothing, serves no page.

use super::args::{ServeArgs, override_listen};
use super::{read_config, say, signals, start_log};
use crate::config::Mode;
use crate::server::Server;

/// Serves until told to stop.
///
/// # Errors
///
/// If the configuration is refused, or the host does not start.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let mut config = read_config(&args.config, Mode::Serve)?;
    override_listen(&mut config, args.listen);
    start_log(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let stop = signals()?;
        let server = Server::start(config, Mode::Serve, Vec::new(), Box::new(|_| ())).await?;
        say(&format!("listening on http://{}", server.address));
        if let Some(admin) = server.admin_address {
            say(&format!("admin on http://{admin}"));
        }
        server.run(stop).await;
        Ok(())
    });
    // A plugin's thread that never ends must not keep the process.
    runtime.shutdown_background();
    done
}
