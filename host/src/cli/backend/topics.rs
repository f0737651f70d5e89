//! `bennu topics`: lists the topics of a running server, or shows one with its presence list.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{ApiArgs, Backend, asks_the_api, block_on, encoded};
use crate::cli::args::JsonArg;
use crate::cli::terminal::{FAINT, say, styled, table};

pub(crate) const HELP: &str = concat!(
    "\
Examples:
  bennu topics                   all that the key may name
  bennu topics room:             those that begin with `room:`
  bennu topics room:lobby        one, with its presence list

",
    asks_the_api!()
);

/// `bennu topics`
#[derive(Args, Debug)]
pub(crate) struct TopicsArgs {
    /// What the topics begin with, or the name of one
    #[arg(value_name = "PREFIX|TOPIC")]
    topic: Option<String>,
    /// How many are listed at most
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    limit: usize,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Lists topics, or shows one.
///
/// # Errors
///
/// If no server answers, or it refuses.
pub(crate) fn run(args: &TopicsArgs) -> anyhow::Result<ExitCode> {
    let backend = Backend::of(&args.api)?;
    let named = args.topic.as_deref().unwrap_or("");
    let prefix = named.strip_suffix('*').unwrap_or(named);
    let (topics, more) = block_on(list(&backend, prefix, args.limit))?;
    if let [only] = &*topics
        && only["topic"] == named
    {
        let shown = block_on(backend.get(&format!("/api/topics/{}", encoded(named))))?;
        say(&if args.json.json {
            shown.to_string()
        } else {
            shown_as_text(&shown)
        });
        return Ok(ExitCode::SUCCESS);
    }
    say(&match topics.is_empty() {
        _ if args.json.json => json!(topics).to_string(),
        true => "there is no such topic now".to_owned(),
        false => listed_as_text(&topics, more),
    });
    Ok(ExitCode::SUCCESS)
}

/// All pages, until there are enough. Says whether there are more.
async fn list(backend: &Backend, prefix: &str, most: usize) -> anyhow::Result<(Vec<Value>, bool)> {
    let mut topics = Vec::new();
    let mut cursor = String::new();
    loop {
        let left = (most - topics.len()).max(1);
        let page = format!("/api/topics?prefix={}&limit={left}{cursor}", encoded(prefix));
        let mut page = backend.get(&page).await?;
        if let Some(found) = page["topics"].as_array_mut() {
            topics.append(found);
        }
        let Some(next) = page["cursor"].as_str() else {
            return Ok((topics, false));
        };
        if topics.len() >= most {
            return Ok((topics, true));
        }
        cursor = format!("&cursor={}", encoded(next));
    }
}

fn listed_as_text(topics: &[Value], more: bool) -> String {
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| ["topic", "plugin", "generation", "members"].map(|key| text(&topic[key])))
        .collect();
    let mut listed = table(["topic", "plugin", "generation", "members"], &rows);
    if more {
        listed.push_str(&styled(FAINT, "\nand more: --limit COUNT shows them"));
    }
    listed
}

fn shown_as_text(topic: &Value) -> String {
    let mut lines = vec![format!(
        "{}: {} members, plugin {} generation {}",
        text(&topic["topic"]),
        topic["members"],
        text(&topic["plugin"]),
        topic["generation"],
    )];
    for (key, entry) in topic["presence"].as_object().into_iter().flatten() {
        lines.push(format!("  {key}  {}", styled(FAINT, &entry["metas"])));
    }
    lines.join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
