//! `bennu plugins`: what a running host says of its plugins, and what it can be asked to do with them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::args::{ConfigArg, JsonArg, address};
use super::terminal::{BAD, FAINT, say, styled, table};
use crate::config::{Config, Mode};
use crate::server::admin::{SECRET_VARIABLE, noted_address};

/// Between the two looks that tell events per second.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const HELP: &str = "\
Examples:
  bennu plugins                        what the host of this configuration serves, and how that goes
  bennu plugins --admin 127.0.0.1:4001 --json
  bennu plugins --reload room          loads the library of `room` as it is now
  bennu plugins --lift SHA-256         takes contents out of quarantine

Asks the host's admin listener ([admin] listen; where the configuration names
none, 127.0.0.1:4001 or where `bennu dev` has noted that it found a free port). Where that wants a secret, it is taken from
BENNU_ADMIN_SECRET. The exit code is 1 when no host answers.";

/// `bennu plugins`
#[derive(Args, Debug)]
pub(crate) struct PluginsArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Where the host's admin listener is, in place of what the configuration says
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Loads the library of this plugin as it is now, also if nothing has changed
    #[arg(long, value_name = "PLUGIN")]
    reload: Option<String>,
    /// Takes contents out of quarantine, by their SHA-256
    #[arg(long, value_name = "SHA-256", conflicts_with = "reload")]
    lift: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

/// Shows the plugins of a running host, or has it do what is asked for.
///
/// # Errors
///
/// If no host answers, or it refuses.
pub(crate) fn run(args: &PluginsArgs) -> anyhow::Result<ExitCode> {
    let host = Host::of(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(name) = &args.reload {
            host.ask(Method::PUT, &format!("/plugins/{name}/reload")).await?;
            say(&format!(
                "{name} is being loaded; `bennu plugins` shows what became of it"
            ));
        } else if let Some(hash) = &args.lift {
            host.ask(Method::DELETE, &format!("/quarantine/{hash}")).await?;
            say(&format!("{hash} is no longer in quarantine"));
        } else {
            let plugins = host.plugins().await?;
            let text = || plugins_as_text(&plugins);
            say(&if args.json.json {
                json!(plugins).to_string()
            } else {
                text()
            });
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A host that runs, perhaps.
struct Host {
    address: SocketAddr,
    secret: Option<String>,
}

impl Host {
    fn of(args: &PluginsArgs) -> anyhow::Result<Self> {
        let address = match args.admin {
            Some(address) => address,
            None => configured(args).unwrap_or((Ipv4Addr::LOCALHOST, 4001).into()),
        };
        if address.port() == 0 {
            bail!(
                "[admin] listen takes any free port: name the one that the host has printed with --admin ADDRESS:PORT"
            );
        }
        let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
        Ok(Self { address, secret })
    }

    /// All plugins, with their events per second.
    async fn plugins(&self) -> anyhow::Result<Vec<Value>> {
        let before = self.list().await?;
        let since = Instant::now();
        tokio::time::sleep(SECOND_LOOK).await;
        let mut plugins = self.list().await?;
        let seconds = since.elapsed().as_secs_f64();
        for plugin in &mut plugins {
            let then = before.iter().find(|then| then["name"] == plugin["name"]);
            let events = |plugin: &Value| plugin["events"].as_u64().unwrap_or(0);
            let handled = then.map_or(0, |then| events(plugin).saturating_sub(events(then)));
            plugin["events_per_s"] = json!((handled as f64 / seconds).round());
        }
        Ok(plugins)
    }

    async fn list(&self) -> anyhow::Result<Vec<Value>> {
        let body = self.ask(Method::GET, "/plugins").await?;
        serde_json::from_slice(&body).with_context(|| format!("what answers at {} is no Bennu", self.address))
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Bytes> {
        let address = self.address;
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(secret) = &self.secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let exchange = async {
            let response = http.request(request.body(Full::default())?).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let none = || format!("no host answers at {address}: is it running, and is `[admin] listen` this address?");
        let (status, body) = tokio::time::timeout(PATIENCE, exchange)
            .await
            .with_context(none)?
            .map_err(|_| anyhow::anyhow!(none()))?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED if self.secret.is_none() => {
                bail!("the host at {address} wants a secret: set {SECRET_VARIABLE}")
            }
            StatusCode::UNAUTHORIZED => bail!("the host at {address} does not take this {SECRET_VARIABLE}"),
            status => bail!("the host says {status}: {}", String::from_utf8_lossy(&body).trim_end()),
        }
    }
}

/// What the configuration says, where there is one: this command does not need it.
fn configured(args: &PluginsArgs) -> Option<SocketAddr> {
    let config = Config::read(&args.config.find().ok()?, Mode::Dev).ok()?;
    let listen = config.admin.listen?;
    let is_elsewhere = !config.admin.names_listen || listen.port() == 0;
    let noted = || is_elsewhere.then(|| noted_address(&config.server.state_dir)).flatten();
    let mut address = noted().unwrap_or(listen);
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Some(address)
}

fn plugins_as_text(plugins: &[Value]) -> String {
    let header = [
        "plugin",
        "generation",
        "version",
        "contents",
        "state",
        "topics",
        "clients",
        "events/s",
        "panics",
        "last reload",
    ];
    let rows: Vec<_> = plugins.iter().map(row).collect();
    let mut text = table(header, &rows);
    for note in plugins.iter().flat_map(notes) {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

fn row(plugin: &Value) -> [String; 10] {
    let reload = &plugin["last_reload"];
    let state = match plugin["on_probation"].as_bool() {
        Some(true) => "on probation".to_owned(),
        _ => shown(&plugin["state"]),
    };
    let reloaded = match reload["at_unix_s"].as_u64() {
        Some(at) => format!("{}, {}", ago(at), milliseconds(reload)),
        None => "-".to_owned(),
    };
    let of = |key: &str| shown(&plugin[key]);
    [
        of("name"),
        of("generation"),
        of("version"),
        of("hash"),
        state,
        of("topics"),
        of("clients"),
        of("events_per_s"),
        of("panics"),
        reloaded,
    ]
}

/// From the file to the last topic that was moved.
fn milliseconds(reload: &Value) -> String {
    let steps = reload["steps_ms"]
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values);
    let took: f64 = steps.filter_map(Value::as_f64).sum();
    let swap = reload["swap"]["took_ms"].as_f64().unwrap_or(0.0);
    format!("{:.0} ms", took + swap)
}

/// What an operator should know besides, a line each.
fn notes(plugin: &Value) -> Vec<String> {
    let name = shown(&plugin["name"]);
    let mut notes = Vec::new();
    let mut note = |what: &str, text: String| notes.push(format!("{} {}: {text}", styled(BAD, what), name));
    let refusal = &plugin["last_refusal"];
    if !refusal.is_null() {
        let (step, code) = (shown(&refusal["step"]), shown(&refusal["code"]));
        let message = shown(&refusal["message"]);
        note("refused", format!("{message} ({step}, {code}, {})", when(refusal)));
    }
    let rollback = &plugin["last_rollback"];
    if !rollback.is_null() {
        let (from, to) = (shown(&rollback["from"]), shown(&rollback["to"]));
        let (why, lost) = (shown(&rollback["reason"]), shown(&rollback["swap"]["lost_events"]));
        let text = format!(
            "generation {from} to {to} after {why}, {lost} events lost ({})",
            when(rollback)
        );
        note("rolled back", text);
    }
    for leaked in plugin["leaked"].as_array().into_iter().flatten() {
        let (generation, cause) = (shown(&leaked["generation"]), shown(&leaked["cause"]));
        note("still in memory", format!("generation {generation}, {cause}"));
    }
    for quarantined in plugin["quarantined"].as_array().into_iter().flatten() {
        let (hash, reason) = (shown(&quarantined["hash"]), shown(&quarantined["reason"]));
        let when = when(quarantined);
        note("in quarantine", format!("{} {reason} ({when})", styled(FAINT, hash)));
    }
    notes
}

fn when(entry: &Value) -> String {
    entry["at_unix_s"].as_u64().map_or_else(|| "-".to_owned(), ago)
}

fn ago(at_unix_s: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    match now.saturating_sub(at_unix_s) {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// A value as people read it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .filter(|_| number.is_f64())
            .map_or_else(|| number.to_string(), |number| format!("{number:.0}")),
        other => other.to_string(),
    }
}
