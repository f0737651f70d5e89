//! `bennu call`: a client in the terminal. Joins a topic, pushes events, shows what comes.

mod conversation;
mod prompt;
mod target;

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc;

use super::args::JsonArg;
use crate::client::{ClientError, Transport};
use conversation::{Conversation, End, Order, Show};
use target::{How, Target};

pub(super) const HELP: &str = "\
Examples:
  bennu call localhost:4000 room:lobby --join '{\"name\": \"ann\"}'       a prompt: write events, see what comes
  bennu call localhost:4000 echo:1 echo '{\"hello\": \"bennu\"}'          one event and its reply
  bennu call localhost:4000 room:lobby --join '{\"name\": \"bot\"}' --watch --json
  printf 'echo {\"n\": 1}\\necho {\"n\": 2}\\n' | bennu call localhost:4000 echo:1
  bennu call http://localhost:4000/gate/longpoll room:1 --param token=open

A line at the prompt, or of the standard input, is an event and its payload:
new_msg {\"body\": \"hi\"}

Exit codes:
  0  everything was answered, and nothing with an error
  1  the connection, the join or an event was answered with an error
  2  the command line cannot be understood
  3  there was no answer: nobody is there, or the connection or the channel ended";

/// What the server answers with an error ends with this.
const REFUSED: u8 = 1;
/// And what it does not answer with this.
const UNANSWERED: u8 = 3;

/// `bennu call`
#[derive(Args, Debug)]
pub struct CallArgs {
    /// The server, and the mount if it is not /socket
    #[arg(value_name = "URL", value_parser = Target::parse)]
    server: Target,
    /// The topic to join
    topic: String,
    /// The event to push
    event: Option<String>,
    /// Its payload
    #[arg(value_name = "JSON", value_parser = json, default_value = "{}")]
    payload: Value,
    /// The payload of the join
    #[arg(long, value_name = "JSON", value_parser = json, default_value = "{}")]
    join: Value,
    /// A param for the connect handler; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// A header of the handshake; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What carries the messages [default: websocket, or what the URL ends in]
    #[arg(long, value_enum)]
    transport: Option<Carrier>,
    /// Goes on showing what comes until it is interrupted
    #[arg(long)]
    watch: bool,
    /// Waits for no replies: leaves the topic when the events have been handled
    #[arg(long, conflicts_with = "watch")]
    no_reply: bool,
    /// How long an answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Carrier {
    #[value(name = "websocket")]
    WebSocket,
    #[value(name = "longpoll")]
    LongPoll,
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("write JSON, such as '{{\"body\": \"hi\"}}': {error}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = pair(text)?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name, value.parse().map_err(|error| format!("{error}"))?))
}

/// Talks to the server until there is nothing more to say, or the server ends it.
///
/// # Errors
///
/// If the system does not give what is needed. What the server says is told by the exit code.
pub fn run(args: CallArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(talk(args));
    // The prompt may still wait for a line.
    runtime.shutdown_background();
    ended.map(|end| match end {
        End::Done => ExitCode::SUCCESS,
        End::Refused => REFUSED.into(),
        End::Unanswered => UNANSWERED.into(),
    })
}

async fn talk(args: CallArgs) -> anyhow::Result<End> {
    let how = How {
        transport: args.transport.map(|carrier| match carrier {
            Carrier::WebSocket => Transport::WebSocket,
            Carrier::LongPoll => Transport::LongPoll,
        }),
        params: args.params,
        headers: args.headers.into_iter().collect::<HeaderMap>(),
        deadline: Duration::from_secs(args.timeout),
    };
    let client = match args.server.connect(how).await {
        Ok(client) => client,
        Err(error) => return Ok(complain_of(&error, &args.server)),
    };
    let (orders, received) = mpsc::unbounded_channel();
    let one = args.event.is_some();
    let interactive = !one && !args.watch && io::stdin().is_terminal() && io::stdout().is_terminal();
    let show = match (args.json.json, one && !args.watch) {
        (true, _) => Show::Json,
        (false, true) => Show::Answer,
        (false, false) => Show::All,
    };
    let mut conversation = Conversation::new(client, args.topic, args.join, show);
    conversation.waits = !args.no_reply;
    conversation.stays = args.watch || interactive;
    if let Some(end) = conversation.join().await {
        return Ok(end);
    }
    // Whoever has `orders` drops it when there are no more, which ends the conversation.
    match args.event {
        Some(event) => {
            orders.send(Order::Push(event, args.payload))?;
            drop(orders);
        }
        None if interactive => prompt::start(orders, &mut conversation)?,
        None if args.watch => drop(orders),
        None => drop(std::thread::spawn(move || read_lines(&orders))),
    }
    Ok(conversation.run(received).await)
}

/// The lines of the standard input, each an order.
fn read_lines(orders: &mpsc::UnboundedSender<Order>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(order) = Order::parse(&line)
            && orders.send(order).is_err()
        {
            return;
        }
    }
}

/// Says why there is no connection, and what to do.
fn complain_of(error: &ClientError, server: &Target) -> End {
    let (end, help) = match error {
        ClientError::Refused { status: 403, .. } => (
            End::Refused,
            "the connect handler or `check_origin` of the mount says no; --param NAME=VALUE tells the handler more",
        ),
        ClientError::Refused { status: 404, .. } => (End::Refused, "the URL ends in the path of one of the [[mounts]]"),
        ClientError::Refused { .. } => (End::Refused, "the log of the server says why"),
        _ => (
            End::Unanswered,
            "is it running there? `bennu dev` says where it listens",
        ),
    };
    let what = match error {
        ClientError::Refused { status: 404, .. } => format!("nothing is mounted at {}", server.mount()),
        ClientError::Refused { body, .. } if !body.is_empty() => format!("{error}: {}", String::from_utf8_lossy(body)),
        _ => conversation::in_one_line(error),
    };
    conversation::complain(&what, Some(help));
    end
}
