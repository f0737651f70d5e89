//! `bennu disconnect`: closes the connections of a socket id.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{ApiArgs, Backend, asks_the_api, block_on};
use crate::cli::args::JsonArg;
use crate::cli::terminal::say;

pub(crate) const HELP: &str = concat!(
    "\
Examples:
  bennu disconnect user:7
  bennu disconnect user:7 --refuse-ms 60000    it may not come back for a minute
  bennu disconnect user:7 --refuse-ms 0        it may

The socket id is what the connect handler of the mount has given the client.
Clients come back by themselves unless they are refused.

",
    asks_the_api!()
);

/// `bennu disconnect`
#[derive(Args, Debug)]
pub(crate) struct DisconnectArgs {
    /// Whose connections
    socket_id: String,
    /// For how many milliseconds the socket id may not connect again
    #[arg(long, value_name = "MILLISECONDS")]
    refuse_ms: Option<u64>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Closes the connections of a socket id.
///
/// # Errors
///
/// If no server answers, or it refuses.
pub(crate) fn run(args: &DisconnectArgs) -> anyhow::Result<ExitCode> {
    let backend = Backend::of(&args.api)?;
    let mut asked = json!({ "socket_id": args.socket_id });
    if let Some(refuse_ms) = args.refuse_ms {
        asked["refuse_ms"] = refuse_ms.into();
    }
    let answer = block_on(backend.post("/api/disconnect", &asked))?;
    say(&match answer["disconnected"].as_u64() {
        _ if args.json.json => answer.to_string(),
        None => "sent; how many connections it closes is not known yet".to_owned(),
        Some(0) => format!("nobody is connected as {}", args.socket_id),
        Some(1) => "closed 1 connection".to_owned(),
        Some(many) => format!("closed {many} connections"),
    });
    Ok(ExitCode::SUCCESS)
}
