//! The commands that speak to the API of a running server, as a backend does: `publish`, `ask`, `topics`, `disconnect`.

pub(crate) mod ask;
pub(crate) mod disconnect;
pub(crate) mod publish;
pub(crate) mod stored;
pub(crate) mod topics;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::args::ConfigArg;
use super::complain;
use super::exchange::{PATIENCE, Place, configuration, exchange, reachable};
use crate::server::api;
use crate::server::noted::NotedAddress;

/// The variable that holds the key.
const KEY_VARIABLE: &str = "BENNU_API_KEY";
/// What stays as it is in a path or a query.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':');

/// Where the API is, and the key for it.
#[derive(Args, Debug)]
pub(crate) struct ApiArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The address or URL of the API, instead of the address in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = Place::parse)]
    api: Option<Place>,
    /// The file that holds the key, instead of BENNU_API_KEY
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// The end of the help of each command.
macro_rules! asks_the_api {
    () => {
        "\
Asks the server's API. Its address is `[api] listen`; without that, the free
port that `bennu dev` has found, or 127.0.0.1:4002. The key comes from
--key-file or BENNU_API_KEY; beside `bennu dev`, none is needed. The exit code
is 1 if no server answers, or it refuses."
    };
}
use asks_the_api;

/// The API of a server that may be running.
struct Backend {
    place: Place,
    key: Option<String>,
}

impl Backend {
    fn of(args: &ApiArgs) -> anyhow::Result<Self> {
        let default: SocketAddr = (Ipv4Addr::LOCALHOST, 4002).into();
        let config = configuration(&args.config, args.api.is_some(), default);
        let state_dir = config.as_ref().map(|config| &*config.server.state_dir);
        let noted = state_dir.and_then(|dir| NotedAddress::API.read(dir));
        let configured = config.as_ref().and_then(|config| config.api.listen);
        let found = reachable(noted.or(configured).unwrap_or(default));
        let place = args.api.clone().unwrap_or(found.into());
        if place.address.port() == 0 {
            bail!(
                "`[api] listen` takes any free port: name the one that the server has printed with --api ADDRESS:PORT"
            );
        }
        // The key of `bennu dev` goes nowhere but to its own server.
        let made_up = state_dir.filter(|_| noted.is_some_and(|noted| Place::from(reachable(noted)) == place));
        let key = match key(args)? {
            Some(key) => Some(key),
            None => made_up.and_then(api::noted_key),
        };
        Ok(Self { place, key })
    }

    /// Sends a request. Returns the answer, if it is not a refusal.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>, patience: Duration) -> anyhow::Result<Value> {
        let address = &self.place;
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = exchange(address, method, path, self.key.as_deref(), bytes, PATIENCE + patience).await?;
        let (status, body) = answer.with_context(|| {
            format!("no server answers at {address}: is it running, and is `[api] listen` this address?")
        })?;
        let answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("what answers at {address} is not the API of Bennu"))?;
        if status.is_success() {
            return Ok(answer);
        }
        match status {
            StatusCode::UNAUTHORIZED if self.key.is_none() => {
                bail!("the API at {address} needs a key: name a file with --key-file, or set {KEY_VARIABLE}")
            }
            StatusCode::UNAUTHORIZED => bail!("the API at {address} does not know this key"),
            StatusCode::FORBIDDEN if answer["reason"] == "forbidden" => {
                bail!("this key does not allow it: see `allow` and `topics` of the key in `[[api.keys]]`")
            }
            _ => bail!(
                "{}",
                answer["message"].as_str().unwrap_or("the server refuses").trim_end()
            ),
        }
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.ask(Method::POST, path, Some(body), Duration::ZERO).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, None, Duration::ZERO).await
    }
}

/// The key that the user names.
fn key(args: &ApiArgs) -> anyhow::Result<Option<String>> {
    match &args.key_file {
        Some(file) => first_line(file).map(Some),
        None => Ok(std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty())),
    }
}

/// The first secret of a file. The server takes any of them.
fn first_line(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the key from {}", file.display()))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned)
        .with_context(|| format!("there is no key in {}", file.display()))
}

/// The nodes of a cluster that have no part in an answer.
pub(super) fn missing(answer: &Value) -> Vec<String> {
    let missing = answer["missing"].as_array().into_iter().flatten();
    missing.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Says which nodes are not in what is shown. On standard error: it is no part of the answer.
pub(super) fn warn_of_missing(missing: &[String]) {
    if !missing.is_empty() {
        let (nodes, do_not) = if missing.len() == 1 {
            ("the node", "does not")
        } else {
            ("the nodes", "do not")
        };
        let missing = missing.join(", ");
        complain(&format!(
            "warning: {nodes} {missing} {do_not} answer: what is there is not shown"
        ));
    }
}

/// Runs what a command asks.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// The JSON of an argument, or of standard input.
fn payload(text: &str) -> anyhow::Result<Value> {
    let mut piped = String::new();
    let text = if text == "-" {
        std::io::stdin()
            .read_to_string(&mut piped)
            .context("cannot read the payload from standard input")?;
        &piped
    } else {
        text
    };
    serde_json::from_str(text).context("the payload is not JSON; a text needs quotes of its own: '\"hello\"'")
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}
