//! `bennu why`: says in plain words why a client was closed or not let in.

mod explain;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::args::{ConfigArg, JsonArg};
use super::backend::{missing, warn_of_missing};
use super::exchange::Place;
use super::plugins::{Host, ago, shown};
use super::terminal::{BAD, FAINT, GOOD, printable, say, styled};

pub(super) const HELP: &str = "\
Examples:
  bennu why user:42                    what became of the client with this socket id
  bennu why 1834                       the connection with this number, as the log names it
  bennu why 203.0.113.7                all clients at this address
  bennu why --last 20                  the last 20 clients that were closed or refused
  bennu why 203.0.113.7 --json

Shows what happened, who did it, the close code, and what to change. Asks the
server's admin listener, as `bennu plugins` does; in a cluster, that asks all
nodes. Each server remembers as many clients as `[admin] max_closes` says; for
older ones, look for `connection closed` and `client refused` in the log. The
exit code is 1 if the server knows no such client.";

/// `bennu why`
#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// The socket id of a client, the number of a connection, or an IP address with or without a port
    #[arg(value_name = "CLIENT", required_unless_present = "last")]
    client: Option<String>,
    /// How many clients to show, the newest first [default: 5]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    last: Option<u16>,
    #[command(flatten)]
    config: ConfigArg,
    /// The address or URL of the admin listener, instead of the address in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = Place::parse)]
    admin: Option<Place>,
    #[command(flatten)]
    json: JsonArg,
}

/// How many clients are shown, if nobody says how many.
const LAST: u16 = 5;

/// Explains what became of clients.
///
/// # Errors
///
/// If no server answers, or it refuses.
pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let host = Host::of(&args.config, args.admin.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = args.last.unwrap_or(LAST);
    let path = match &args.client {
        Some(client) => format!(
            "/why?client={}&limit={limit}",
            utf8_percent_encode(client, NON_ALPHANUMERIC)
        ),
        None => format!("/closes?node=*&limit={limit}"),
    };
    let found = runtime.block_on(Found::ask(&host, &path))?;
    warn_of_missing(&found.missing);
    if args.json.json {
        say(&json!({ "connections": found.open, "closes": found.closes }).to_string());
    } else {
        say(&found.as_text(args.client.as_deref()));
    }
    Ok(match found.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// What the server knows of some clients.
#[derive(Debug)]
struct Found {
    /// Those that are connected.
    open: Vec<Value>,
    /// Those that were closed or refused, the newest first.
    closes: Vec<Value>,
    /// How many of these the server remembers in all.
    kept: u64,
    /// The nodes of a cluster that have not answered.
    missing: Vec<String>,
}

impl Found {
    async fn ask(host: &Host, path: &str) -> anyhow::Result<Self> {
        let body = host.ask(Method::GET, path).await?;
        let page: Value = serde_json::from_slice(&body).context("the server is not Bennu, or another version of it")?;
        let list = |key: &str| page[key].as_array().cloned().unwrap_or_default();
        Ok(Self {
            open: list("connections"),
            closes: list("closes"),
            kept: page["kept"].as_u64().unwrap_or(0),
            missing: missing(&page),
        })
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.closes.is_empty()
    }

    fn as_text(&self, client: Option<&str>) -> String {
        if self.is_empty() {
            let whom = client.unwrap_or("any client");
            return format!(
                "The server knows nothing of {whom}: no such client is connected, and none is among the {} that it remembers.\n\
                 Older ones are in the log (`connection closed`, `client refused`); `[admin] max_closes` sets how many it remembers.",
                self.kept
            );
        }
        let of = |list: &[Value]| list.iter().cloned().map(printable).collect::<Vec<_>>();
        let (open, closes) = (of(&self.open), of(&self.closes));
        let open = open.iter().map(open_as_text);
        let closes = closes.iter().map(explain::as_text);
        open.chain(closes).collect::<Vec<_>>().join("\n\n")
    }
}

/// A client that is connected.
fn open_as_text(connection: &Value) -> String {
    let since = connection["since_unix_ms"].as_u64().unwrap_or(0) / 1_000;
    format!(
        "{} {}: open since {}, {} topics\n{}",
        styled(GOOD, "connected"),
        who(connection),
        ago(since),
        shown(&connection["topics"]),
        traffic(connection),
    )
}

/// Which client it is.
fn who(client: &Value) -> String {
    let mut who = format!("connection {}", shown(&client["connection"]));
    if let Some(node) = client["node"].as_str() {
        who.push_str(&format!(" on node {node}"));
    }
    if let Some(socket_id) = client["socket_id"].as_str() {
        who.push_str(&format!(", socket id {socket_id}"));
    }
    who.push_str(&format!(", from {}", shown(&client["peer"])));
    if let Some(mount) = client["mount"].as_str() {
        who.push_str(&format!(", at {mount}"));
    }
    if let Some(transport) = client["transport"].as_str() {
        who.push_str(&format!(", by {transport}"));
    }
    if let Some(vsn) = client["vsn"].as_str() {
        who.push_str(&format!(" (vsn {vsn})"));
    }
    who
}

/// What a connection has carried.
fn traffic(client: &Value) -> String {
    let of = |key: &str| shown(&client[key]);
    let line = format!(
        "  received {} messages ({} bytes), sent {} messages ({} bytes); {} bytes wait to be sent; last heard {} ms before",
        of("messages_in"),
        of("bytes_in"),
        of("messages_out"),
        of("bytes_out"),
        of("unsent_bytes"),
        of("silent_ms"),
    );
    styled(FAINT, line)
}

/// A heading for a client that was closed or refused.
fn heading(close: &Value, what: &str) -> String {
    let at = close["at_unix_ms"].as_u64().unwrap_or(0) / 1_000;
    format!("{} {}: {}", styled(BAD, what), ago(at), who(close))
}
