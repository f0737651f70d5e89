//! A server inside of another program. Takes a configuration: `cargo run --example embed -- bennu.toml`.
#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use std::error::Error;
use std::process::ExitCode;

use bennu::{Config, Mode, Server};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // The server tries each library in a child process first: that is this program once more.
    if let Some(done) = bennu::run_as_probe() {
        return Ok(done);
    }
    let file = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "config/bennu.toml".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Config::read(file.as_ref(), Mode::Serve)?;
        let server = Server::builder(config).start().await?;
        println!("listening on http://{}", server.address());
        server.run_until(async { drop(tokio::signal::ctrl_c().await) }).await?;
        Ok(ExitCode::SUCCESS)
    })
}
