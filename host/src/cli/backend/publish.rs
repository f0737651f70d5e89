//! `bennu publish`: sends a message to everybody on a topic.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{ApiArgs, Backend, asks_the_api, block_on, payload};
use crate::cli::args::JsonArg;
use crate::cli::terminal::say;

pub(crate) const HELP: &str = concat!(
    "\
Examples:
  bennu publish room:lobby new_msg '{\"body\": \"hello\"}'
  bennu publish room:lobby refresh           with the payload {}
  some-command | bennu publish room:lobby new_msg -

Says how many heard it. That nobody did is no error, but a topic that no route
takes is one.

",
    asks_the_api!()
);

/// `bennu publish`
#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// The topic
    topic: String,
    /// The event
    event: String,
    /// The payload; `-` reads it from standard input
    #[arg(value_name = "JSON", default_value = "{}", allow_hyphen_values = true)]
    payload: String,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Publishes a message.
///
/// # Errors
///
/// If the payload is no JSON, no server answers, or it refuses.
pub(crate) fn run(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    let payload = payload(&args.payload)?;
    let backend = Backend::of(&args.api)?;
    let message = json!({ "topic": args.topic, "event": args.event, "payload": payload });
    let answer = block_on(backend.post("/api/broadcast", &message))?;
    say(&if args.json.json {
        answer.to_string()
    } else {
        as_text(&answer, &args.topic)
    });
    Ok(ExitCode::SUCCESS)
}

fn as_text(answer: &Value, topic: &str) -> String {
    let intercepted = answer["intercepted"].as_u64().unwrap_or(0);
    let more = match intercepted {
        0 => String::new(),
        many => format!("; the plugin decides what {many} more get"),
    };
    match answer["heard"].as_u64() {
        None => format!("sent; who heard it is not known yet{more}"),
        Some(0) if intercepted == 0 => format!("sent, but nobody is on {topic}"),
        Some(heard) => format!("heard by {heard}{more}"),
    }
}
