//! `bennu topics`: lists the topics of a running server, or shows one with its presence list.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::stored::StoredArgs;
use super::{ApiArgs, Backend, asks_the_api, block_on, encoded, missing, warn_of_missing};
use crate::cli::args::JsonArg;
use crate::cli::terminal::{FAINT, printable, say, styled, table};

pub(crate) const HELP: &str = concat!(
    "\
Examples:
  bennu topics                   all that the key may name
  bennu topics room:             those that begin with `room:`
  bennu topics room:lobby        one, with its presence list
  bennu topics --stored room:    those that are stored, in memory or not
  bennu topics --forget room:1   forgets one for good
  bennu topics --export FILE     writes stored topics to a file
  bennu topics --import FILE     stores them again

Stored topics are those of plugins with `durability`. For them, Bennu asks the
admin listener: `[admin] listen`, or --admin. BENNU_ADMIN_SECRET holds its
secret, if it needs one.

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
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    stored: StoredArgs,
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
    let named = args.topic.as_deref().unwrap_or("");
    if args.stored.are_meant() {
        args.stored
            .run(&args.api.config, named, args.limit as usize, args.json.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let backend = Backend::of(&args.api)?;
    let prefix = named.strip_suffix('*').unwrap_or(named);
    let (topics, more, missing) = block_on(list(&backend, prefix, args.limit as usize))?;
    warn_of_missing(&missing.into_iter().collect::<Vec<_>>());
    let is_alive = matches!(&*topics, [only] if only["topic"] == named);
    // One that sleeps is in no list, and is there all the same.
    let may_sleep = topics.is_empty() && !named.is_empty();
    if is_alive || may_sleep {
        match block_on(backend.get(&format!("/api/topics/{}", encoded(named)))) {
            Ok(shown) => {
                say(&if args.json.json {
                    shown.to_string()
                } else {
                    shown_as_text(&printable(shown))
                });
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) if is_alive => return Err(error),
            Err(_) => {}
        }
    }
    say(&match topics.is_empty() {
        _ if args.json.json => json!(topics).to_string(),
        true => "there is no such topic now".to_owned(),
        false => {
            let topics: Vec<_> = topics.into_iter().map(printable).collect();
            listed_as_text(&topics, more)
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// All pages, until there are enough. Says whether there are more, and the nodes that are missing on any of them.
async fn list(backend: &Backend, prefix: &str, most: usize) -> anyhow::Result<(Vec<Value>, bool, BTreeSet<String>)> {
    let (mut topics, mut lost) = (Vec::new(), BTreeSet::new());
    let mut cursor = String::new();
    loop {
        let left = (most - topics.len()).max(1);
        let page = format!("/api/topics?prefix={}&limit={left}{cursor}", encoded(prefix));
        let mut page = backend.get(&page).await?;
        if let Some(found) = page["topics"].as_array_mut() {
            topics.append(found);
        }
        lost.extend(missing(&page));
        let Some(next) = page["cursor"].as_str() else {
            return Ok((topics, false, lost));
        };
        if topics.len() >= most {
            return Ok((topics, true, lost));
        }
        cursor = format!("&cursor={}", encoded(next));
    }
}

fn listed_as_text(topics: &[Value], more: bool) -> String {
    const COLUMNS: [&str; 5] = ["topic", "plugin", "generation", "members", "node"];
    // Only a cluster has nodes.
    let mut listed = match topics.iter().any(|topic| topic["node"].is_string()) {
        true => rows(COLUMNS, topics),
        false => rows([COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3]], topics),
    };
    if more {
        listed.push_str(&styled(FAINT, "\nand more: --limit COUNT shows them"));
    }
    listed
}

fn rows<const N: usize>(columns: [&str; N], topics: &[Value]) -> String {
    let rows: Vec<_> = { topics.iter() }
        .map(|topic| columns.map(|key| text(&topic[key])))
        .collect();
    table(columns, &rows)
}

fn shown_as_text(topic: &Value) -> String {
    let node = topic["node"]
        .as_str()
        .map_or(String::new(), |node| format!(", on node {node}"));
    let mut lines = vec![format!(
        "{}: {} members, plugin {} generation {}{node}",
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
