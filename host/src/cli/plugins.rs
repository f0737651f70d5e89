//! `bennu plugins`: shows the plugins of a running server, and reloads one, rolls one back or lifts a quarantine.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::args::{ConfigArg, JsonArg};
use super::exchange::{PATIENCE, Place, configuration, exchange, reachable};
use super::terminal::{BAD, FAINT, say, styled, table};
use crate::server::admin::SECRET_VARIABLE;
use crate::server::noted::NotedAddress;

/// How long the server may take over stored topics.
const STORE: Duration = Duration::from_secs(60);
/// The time between the two requests that events per second come from.
const SECOND_LOOK: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
Examples:
  bennu plugins                        the plugins of the server with this configuration
  bennu plugins --admin 127.0.0.1:4001 --json
  bennu plugins --reload room          loads the library of `room` as it is now
  bennu plugins --roll-back room       the code before the one in service takes over
  bennu plugins --lift SHA-256         lifts the quarantine of these contents

Asks the server's admin listener. Its address is `[admin] listen`; without
that, the free port that `bennu dev` has found, or 127.0.0.1:4001. If the
listener needs a secret, set BENNU_ADMIN_SECRET. The exit code is 1 if no
server answers.";

/// `bennu plugins`
#[derive(Args, Debug)]
pub(crate) struct PluginsArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The address or URL of the admin listener, instead of the address in the configuration
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = Place::parse)]
    admin: Option<Place>,
    /// Loads the library of this plugin as it is now, even if it has not changed
    #[arg(long, value_name = "PLUGIN")]
    reload: Option<String>,
    /// Puts the code of this plugin back in service that was there before: the generation before it during probation, or else the
    /// last good library that is stored. What was in service goes into quarantine
    #[arg(long, value_name = "PLUGIN", conflicts_with = "reload")]
    roll_back: Option<String>,
    /// Lifts the quarantine of the contents with this SHA-256
    #[arg(long, value_name = "SHA-256", conflicts_with_all = ["reload", "roll_back"])]
    lift: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

/// Shows the plugins of a running server, reloads one, rolls one back, or lifts a quarantine.
///
/// # Errors
///
/// If no server answers, or it refuses.
pub(crate) fn run(args: &PluginsArgs) -> anyhow::Result<ExitCode> {
    let host = Host::of(&args.config, args.admin.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(name) = &args.reload {
            host.ask(Method::PUT, &format!("/plugins/{name}/reload")).await?;
            say(&format!("{name} is being loaded; `bennu plugins` shows the result"));
        } else if let Some(name) = &args.roll_back {
            host.ask(Method::PUT, &format!("/plugins/{name}/rollback")).await?;
            say(&format!(
                "{name} is being rolled back; `bennu plugins` shows the result"
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

/// A server that may be running.
pub(super) struct Host {
    place: Place,
    secret: Option<String>,
}

impl Host {
    /// The server at this address of its admin listener, or else at the one of the configuration.
    ///
    /// # Errors
    ///
    /// If nobody can say which port it is.
    pub(super) fn of(config: &ConfigArg, admin: Option<&Place>) -> anyhow::Result<Self> {
        let place = match admin {
            Some(place) => place.clone(),
            None => configured(config).into(),
        };
        if place.address.port() == 0 {
            bail!(
                "`[admin] listen` takes any free port: name the one that the server has printed with --admin ADDRESS:PORT"
            );
        }
        let secret = std::env::var(SECRET_VARIABLE).ok().filter(|secret| !secret.is_empty());
        Ok(Self { place, secret })
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
        serde_json::from_slice(&body).with_context(|| format!("the server at {} is not Bennu", self.place))
    }

    /// Sends a request, and returns the body of the answer.
    ///
    /// # Errors
    ///
    /// If no server answers, or it refuses.
    pub(super) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Bytes> {
        self.send(method, path, Bytes::new()).await
    }

    /// The same with a body.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let address = &self.place;
        // A page of stored topics comes from the disk, and may be large.
        let patience = if path.starts_with("/stored") { STORE } else { PATIENCE };
        let answer = exchange(address, method, path, self.secret.as_deref(), body, patience).await?;
        let (status, body) = answer.with_context(|| {
            format!("no server answers at {address}: is it running, and is `[admin] listen` this address?")
        })?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED if self.secret.is_none() => {
                bail!("the server at {address} needs a secret: set {SECRET_VARIABLE}")
            }
            StatusCode::UNAUTHORIZED => bail!("the server at {address} does not accept this {SECRET_VARIABLE}"),
            status => bail!(
                "the server answers {status}: {}",
                String::from_utf8_lossy(&body).trim_end()
            ),
        }
    }
}

/// The address in the configuration, or that which most have.
fn configured(config: &ConfigArg) -> SocketAddr {
    let usual = (Ipv4Addr::LOCALHOST, 4001).into();
    let found = configuration(config, false, usual).and_then(|config| {
        let listen = config.admin.listen?;
        let is_elsewhere = !config.admin.names_listen || listen.port() == 0;
        let noted = NotedAddress::ADMIN.read(&config.server.state_dir);
        Some(reachable(noted.filter(|_| is_elsewhere).unwrap_or(listen)))
    });
    found.unwrap_or(usual)
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

/// The time from the first step to the last topic that moved.
fn milliseconds(reload: &Value) -> String {
    let steps = reload["steps_ms"]
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values);
    let took: f64 = steps.filter_map(Value::as_f64).sum();
    let swap = reload["swap"]["took_ms"].as_f64().unwrap_or(0.0);
    format!("{:.0} ms", took + swap)
}

/// What else an operator should know, one line each.
fn notes(plugin: &Value) -> Vec<String> {
    let name = shown(&plugin["name"]);
    let mut notes = Vec::new();
    let mut note = |what: &str, text: String| notes.push(format!("{} {}: {text}", styled(BAD, what), name));
    let rejection = &plugin["last_refusal"];
    if !rejection.is_null() {
        let (step, code) = (shown(&rejection["step"]), shown(&rejection["code"]));
        let message = shown(&rejection["message"]);
        note("rejected", format!("{message} ({step}, {code}, {})", when(rejection)));
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

pub(super) fn ago(at_unix_s: u64) -> String {
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

/// A value as text for people.
pub(super) fn shown(value: &Value) -> String {
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
