//! `bennu call`: a client at the terminal. Joins a topic, pushes events, prints what arrives.

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

use crate::args::{JsonArg, TrustArgs};
use crate::client::{ClientError, Transport};
use crate::terminal::{complain, in_one_line};
use conversation::{Conversation, End, Order, Show};
use target::{How, Target};

/// The end of the command's help.
pub const HELP: &str = "\
Examples:
  bennu call localhost:4000 room:lobby --join '{\"name\": \"ann\"}'       a prompt: type events, see what arrives
  bennu call localhost:4000 echo:1 echo '{\"hello\": \"bennu\"}'          one event and its reply
  bennu call localhost:4000 room:lobby --join '{\"name\": \"bot\"}' --watch --json
  printf 'echo {\"n\": 1}\\necho {\"n\": 2}\\n' | bennu call localhost:4000 echo:1
  bennu call http://localhost:4000/gate/longpoll room:1 --param token=open
  bennu call wss://chat.example.com/socket room:lobby --watch

At the prompt and on standard input, each line is an event and its payload:
new_msg {\"body\": \"hi\"}

Exit codes:
  0  every event got a reply, and none of them was an error
  1  the server rejected the connection, the join or an event
  2  invalid command line
  3  no answer: the server is not running, or the connection or the channel ended";

/// Exit code if the server rejected something.
const REJECTED: u8 = 1;
/// Exit code if the server did not answer.
const UNANSWERED: u8 = 3;

/// Arguments of `bennu call`.
#[derive(Args, Debug)]
pub struct CallArgs {
    /// Address of the server, with the path of the mount unless that is /socket
    #[arg(value_name = "URL", value_parser = Target::parse)]
    server: Target,
    /// Topic to join
    topic: String,
    /// Event to push
    event: Option<String>,
    /// Payload of the event
    #[arg(value_name = "JSON", value_parser = json, default_value = "{}")]
    payload: Value,
    /// Payload of the join
    #[arg(long, value_name = "JSON", value_parser = json, default_value = "{}")]
    join: Value,
    /// Parameter for the connect handler; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// Header of the HTTP requests; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Transport [default: the one that the URL ends in, or websocket]
    #[arg(long, value_enum)]
    transport: Option<Carrier>,
    /// Keep printing what arrives, until interrupted
    #[arg(long)]
    watch: bool,
    /// Do not wait for replies: leave the topic once the plugin has handled the events
    #[arg(long, conflicts_with = "watch")]
    no_reply: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// Time limit for each answer, in seconds
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

/// Runs the command. What the server answers decides the exit code.
///
/// # Errors
///
/// If the system has no threads or no terminal to give.
pub fn run(args: CallArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(talk(args));
    // The prompt may still wait for a line.
    runtime.shutdown_background();
    ended.map(|end| match end {
        End::Done => ExitCode::SUCCESS,
        End::Rejected => REJECTED.into(),
        End::Unanswered => UNANSWERED.into(),
    })
}

async fn talk(args: CallArgs) -> anyhow::Result<End> {
    let how = How {
        tls: args.server.tls(&args.trust.trust())?,
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
        Err(error) => return Ok(not_connected(&error, &args.server)),
    };
    let (orders, received) = mpsc::unbounded_channel();
    let one = args.event.is_some();
    let interactive = !one && !args.watch && io::stdin().is_terminal() && io::stdout().is_terminal();
    let show = match (args.json.json, one && !args.watch) {
        (true, _) => Show::Json,
        (false, true) => Show::Response,
        (false, false) => Show::All,
    };
    let mut conversation = Conversation::new(client, args.topic, args.join, show);
    conversation.waits = !args.no_reply;
    conversation.stays = args.watch || interactive;
    if let Some(end) = conversation.join().await {
        return Ok(end);
    }
    // Dropping `orders` says that there are no more, which ends the conversation.
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

/// Sends each line of standard input as an order.
fn read_lines(orders: &mpsc::UnboundedSender<Order>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if let Some(order) = Order::parse(&line)
            && orders.send(order).is_err()
        {
            return;
        }
    }
}

/// Prints why there is no connection, and what to do about it.
fn not_connected(error: &ClientError, server: &Target) -> End {
    let (end, help) = match error {
        ClientError::Refused { status: 403, .. } => (
            End::Rejected,
            "the connect handler or the mount's `check_origin` rejected it; --param NAME=VALUE passes parameters to the handler",
        ),
        ClientError::Refused { status: 404, .. } => (
            End::Rejected,
            "the path of the URL must be the path of one of the [[mounts]]",
        ),
        ClientError::Tls { .. } => (
            End::Unanswered,
            "--ca FILE trusts a certificate authority of your own, --insecure accepts any certificate; a server without \
             TLS is reached by ws://",
        ),
        ClientError::Refused { .. } => (End::Rejected, "see the log of the server for the reason"),
        _ => (
            End::Unanswered,
            "is the server running there? `bennu dev` prints the address that it listens on",
        ),
    };
    let what = match error {
        ClientError::Refused { status: 404, .. } => format!("nothing is mounted at {}", server.mount()),
        ClientError::Refused { body, .. } if !body.is_empty() => format!("{error}: {}", String::from_utf8_lossy(body)),
        _ => in_one_line(error),
    };
    complain(&what, Some(help));
    end
}
