//! `bennu cluster`: shows the nodes of a cluster, as one of them sees it, or the home of a topic.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::args::{ConfigArg, JsonArg};
use super::exchange::Place;
use super::plugins::Host;
use super::terminal::{BAD, printable, say, styled, table};

pub(super) const HELP: &str = "\
Examples:
  bennu cluster                the nodes, their partitions and links
  bennu cluster room:lobby     the node that is the home of this topic
  bennu cluster --admin 127.0.0.1:4001 --json

Asks the admin listener of one node. Its address is `[admin] listen`, or
127.0.0.1:4001. If the listener needs a secret, set BENNU_ADMIN_SECRET. The
exit code is 1 if no server answers, or it is in no cluster.";

/// `bennu cluster`
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    /// Shows the home of this topic
    topic: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
    /// The address or URL of the admin listener, instead of the address in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = Place::parse)]
    admin: Option<Place>,
    #[command(flatten)]
    json: JsonArg,
}

/// Shows a cluster, or the home of a topic.
///
/// # Errors
///
/// If no server answers, or it is in no cluster.
pub(crate) fn run(args: &ClusterArgs) -> anyhow::Result<ExitCode> {
    let host = Host::of(&args.config, args.admin.as_ref())?;
    let path = match &args.topic {
        Some(topic) => format!("/cluster/{}", utf8_percent_encode(topic, NON_ALPHANUMERIC)),
        None => "/cluster".to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(host.ask(Method::GET, &path))?;
    let found: Value = serde_json::from_slice(&body).context("the server is not Bennu")?;
    say(&match &args.topic {
        _ if args.json.json => found.to_string(),
        Some(_) => home_as_text(&printable(found)),
        None => cluster_as_text(&printable(found)),
    });
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn home_as_text(home: &Value) -> String {
    let (topic, partition) = (text(&home["topic"]), text(&home["partition"]));
    let reached = match home["reached"].as_str() {
        Some("here") => "which is the node that was asked",
        Some("there") => "and can be reached",
        _ => "and cannot be reached now",
    };
    match home["home"].as_str() {
        Some(node) => format!("{topic} is in partition {partition}, whose home is {node}, {reached}"),
        None => format!("{topic} is in partition {partition}, which has no home now"),
    }
}

fn cluster_as_text(cluster: &Value) -> String {
    let header = [
        "node",
        "partitions",
        "link",
        "breaks",
        "its members here",
        "ours there",
        "waiting bytes",
    ];
    let nodes = cluster["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |node: &Value| {
        let link = node["link"].as_str().unwrap_or("this node");
        let leaving = if node["leaving"] == true { ", leaving" } else { "" };
        let link = format!("{link}{leaving}");
        let of = |key: &str| text(&node[key]);
        [
            of("node"),
            of("partitions"),
            link,
            of("link_breaks"),
            of("members_of_theirs_here"),
            of("members_of_ours_there"),
            of("waiting_bytes"),
        ]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let (name, partitions) = (text(&cluster["cluster"]), &cluster["partitions"]);
    let nowhere = match partitions["nowhere"].as_u64() {
        Some(0) | None => String::new(),
        Some(count) => styled(BAD, format!(", {count} of them without a home")),
    };
    let misplaced = match partitions["misplaced"].as_u64() {
        Some(0) | None => String::new(),
        Some(count) => format!(", {count} of them not yet where they belong"),
    };
    let broker = match cluster["connected"].as_bool() {
        Some(true) => String::new(),
        _ => styled(BAD, "\nthe connection to NATS is lost"),
    };
    let count = text(&partitions["count"]);
    let moves = moves_as_text(&cluster["moves"]);
    format!(
        "cluster {name}: {count} partitions{nowhere}{misplaced}{broker}\n{}\n{moves}",
        table(header, &rows)
    )
}

/// What has come to the node that was asked, and gone from it, with its state.
fn moves_as_text(moves: &Value) -> String {
    let of = |key: &str| moves[key].as_u64().unwrap_or(0);
    let refused = match of("refused") {
        0 => String::new(),
        refused => styled(BAD, format!(", {refused} could not move")),
    };
    let underway = match (of("partitions_coming"), of("partitions_going")) {
        (0, 0) => String::new(),
        (coming, going) => format!(
            "\non their way: {coming} partitions with {} topics to this node, {going} with {} from it",
            of("coming"),
            of("going")
        ),
    };
    let (here, away) = (of("here"), of("away"));
    format!("topics that have moved: {here} to this node, {away} from it{refused}{underway}")
}
