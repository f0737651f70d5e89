//! `bennu why`: says in plain words why a client was closed or not let in.

mod explain;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::args::{ConfigArg, JsonArg, address};
use super::plugins::{Host, ago, shown};
use super::terminal::{BAD, FAINT, GOOD, say, styled};
use crate::server::closes::Peer;

pub(super) const HELP: &str = "\
Examples:
  bennu why user:42                    what became of the client with this socket id
  bennu why 1834                       the connection with this number, as the log names it
  bennu why 203.0.113.7                all clients at this address
  bennu why --last 20                  the last 20 clients that were closed or refused
  bennu why 203.0.113.7 --json

Shows what happened, who did it, the close code, and what to change. Asks the
server's admin listener, as `bennu plugins` does. The server remembers as many
clients as `[admin] max_closes` says; for older ones, look for `connection closed`
and `client refused` in the log. The exit code is 1 if the server knows no such
client.";

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
    /// The address of the admin listener, instead of the one in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    admin: Option<std::net::SocketAddr>,
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
    let host = Host::of(&args.config, args.admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = args.last.unwrap_or(LAST);
    let mut found = Found::default();
    for query in queries(args.client.as_deref()) {
        found = runtime.block_on(Found::ask(
            &host,
            &format!("{query}limit={limit}"),
            args.client.is_some(),
        ))?;
        if !found.is_empty() {
            break;
        }
    }
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

/// The questions to ask, one after the other until there is an answer: a number may be a socket id as well.
fn queries(client: Option<&str>) -> Vec<String> {
    let Some(client) = client else {
        return vec![String::new()];
    };
    let encoded = utf8_percent_encode(client, NON_ALPHANUMERIC);
    let mut queries = Vec::new();
    if client.parse::<u64>().is_ok() {
        queries.push(format!("connection={client}&"));
    }
    if Peer::parse(client).is_some() {
        queries.push(format!("peer={encoded}&"));
    }
    queries.push(format!("socket_id={encoded}&"));
    queries
}

/// What the server knows of some clients.
#[derive(Debug, Default)]
struct Found {
    /// Those that are connected.
    open: Vec<Value>,
    /// Those that were closed or refused, the newest first.
    closes: Vec<Value>,
    /// How many of these the server remembers in all.
    kept: u64,
}

impl Found {
    async fn ask(host: &Host, query: &str, with_open: bool) -> anyhow::Result<Self> {
        let list = |page: &Value, key: &str| page[key].as_array().cloned().unwrap_or_default();
        let mut open = Vec::new();
        let mut cursor = with_open.then(String::new);
        while let Some(at) = cursor.take() {
            let listed = page(host, &format!("/connections?{query}{at}")).await?;
            open.extend(list(&listed, "connections"));
            // A page without entries is a search that goes on.
            if open.is_empty() {
                cursor = listed["cursor"].as_str().map(|next| format!("&cursor={next}"));
            }
        }
        let closes = page(host, &format!("/closes?{query}")).await?;
        Ok(Self {
            open,
            closes: list(&closes, "closes"),
            kept: closes["kept"].as_u64().unwrap_or(0),
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
        let open = self.open.iter().map(open_as_text);
        let closes = self.closes.iter().map(explain::as_text);
        open.chain(closes).collect::<Vec<_>>().join("\n\n")
    }
}

async fn page(host: &Host, path: &str) -> anyhow::Result<Value> {
    let body = host.ask(Method::GET, path).await?;
    serde_json::from_slice(&body).context("the server is not Bennu, or another version of it")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_looked_for_by_whatever_its_name_may_be() {
        assert_eq!(queries(Some("42")), ["connection=42&", "socket_id=42&"]);
        assert_eq!(
            queries(Some("10.0.0.1")),
            ["peer=10%2E0%2E0%2E1&", "socket_id=10%2E0%2E0%2E1&"]
        );
        assert_eq!(queries(Some("[::1]:5")).len(), 2);
        assert_eq!(queries(Some("user:1&x")), ["socket_id=user%3A1%26x&"]);
        assert_eq!(queries(None), [""]);
    }
}
