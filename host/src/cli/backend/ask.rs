//! `bennu ask`: asks the plugin of a topic, and prints its answer.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::json;

use super::{ApiArgs, Backend, asks_the_api, block_on, payload};
use crate::cli::args::JsonArg;
use crate::cli::terminal::say;

pub(crate) const HELP: &str = concat!(
    "\
Examples:
  bennu ask room:lobby history
  bennu ask room:lobby add '{\"body\": \"hello\"}' --create
  bennu ask room:lobby report --deadline-ms 60000

Runs the `handle_call` callback of the topic's plugin. A stored topic wakes up
for it. Another one that nobody is on is not alive: --create makes it. The exit
code is 1 unless the status is `ok`.

",
    asks_the_api!()
);

/// `bennu ask`
#[derive(Args, Debug)]
pub(crate) struct AskArgs {
    /// The topic
    topic: String,
    /// The event
    event: String,
    /// The payload; `-` reads it from standard input
    #[arg(value_name = "JSON", default_value = "{}", allow_hyphen_values = true)]
    payload: String,
    /// Makes the topic, if nobody is on it
    #[arg(long)]
    create: bool,
    /// For how many milliseconds the plugin may work on the answer
    #[arg(long, value_name = "MILLISECONDS")]
    deadline_ms: Option<u64>,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Asks a topic.
///
/// # Errors
///
/// If the payload is no JSON, no server answers, or it refuses.
pub(crate) fn run(args: &AskArgs) -> anyhow::Result<ExitCode> {
    let payload = payload(&args.payload)?;
    let backend = Backend::of(&args.api)?;
    let mut asked = json!({ "topic": args.topic, "event": args.event, "payload": payload, "create": args.create });
    if let Some(deadline_ms) = args.deadline_ms {
        asked["deadline_ms"] = deadline_ms.into();
    }
    let patience = Duration::from_millis(args.deadline_ms.unwrap_or(DEFAULT_DEADLINE_MS));
    let answer = block_on(backend.ask(Method::POST, "/api/call", Some(&asked), patience))?;
    let status = answer["status"].as_str().unwrap_or_default();
    let response = answer.get("response").unwrap_or(&answer["response_base64"]);
    say(&match status {
        _ if args.json.json => answer.to_string(),
        "ok" => response.to_string(),
        status => format!("{status}: {response}"),
    });
    Ok(if status == "ok" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `[api] call_deadline_ms` may be longer where no deadline is named.
const DEFAULT_DEADLINE_MS: u64 = 60_000;
