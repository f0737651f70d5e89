//! `bennu topics --stored` and what else concerns stored topics: asks the admin listener, not the API.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{block_on, encoded};
use crate::cli::args::ConfigArg;
use crate::cli::exchange::Place;
use crate::cli::plugins::Host;
use crate::cli::terminal::{FAINT, say, styled, table};

/// What is to be done with stored topics.
#[derive(Args, Debug)]
pub(crate) struct StoredArgs {
    /// Lists stored topics, in memory or not, or shows one with its state
    #[arg(long, conflicts_with_all = ["forget", "export", "import"])]
    stored: bool,
    /// Forgets the topic for good, in memory or not
    #[arg(long, conflicts_with_all = ["export", "import"], requires = "topic")]
    forget: bool,
    /// Writes stored topics to a file, one JSON object a line
    #[arg(long, value_name = "FILE", conflicts_with = "import")]
    export: Option<PathBuf>,
    /// Stores the topics of such a file
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Only topics of this plugin
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// The address or URL of the admin listener, for these
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = Place::parse)]
    admin: Option<Place>,
}

impl StoredArgs {
    /// Whether stored topics are meant at all.
    pub(super) fn are_meant(&self) -> bool {
        self.stored || self.forget || self.export.is_some() || self.import.is_some()
    }

    /// Does what is asked for.
    ///
    /// # Errors
    ///
    /// If no server answers, it refuses, or a file cannot be used.
    pub(super) fn run(&self, config: &ConfigArg, named: &str, most: usize, as_json: bool) -> anyhow::Result<()> {
        let host = Host::of(config, self.admin.as_ref())?;
        block_on(async {
            if let Some(file) = &self.import {
                return import(&host, file).await;
            }
            let plugins = match &self.plugin {
                Some(plugin) => vec![plugin.clone()],
                None => plugins(&host).await?,
            };
            if self.forget {
                return forget(&host, &plugins, named).await;
            }
            let prefix = named.strip_suffix('*').unwrap_or(named);
            match &self.export {
                Some(file) => export(&host, &plugins, prefix, file).await,
                None => list(&host, &plugins, prefix, most, as_json).await,
            }
        })
    }
}

/// The plugins whose topics are stored.
async fn plugins(host: &Host) -> anyhow::Result<Vec<String>> {
    let plugins: Vec<String> = serde_json::from_slice(&host.ask(Method::GET, "/stored").await?)?;
    if plugins.is_empty() {
        bail!("no plugin of this server stores its topics: set `durability` of one");
    }
    Ok(plugins)
}

/// One page of a plugin.
async fn page(host: &Host, plugin: &str, prefix: &str, after: Option<&str>, query: &str) -> anyhow::Result<Vec<Value>> {
    let after = after.map_or_else(String::new, |after| format!("&after={}", encoded(after)));
    let path = format!("/stored/{plugin}?prefix={}{after}{query}", encoded(prefix));
    Ok(serde_json::from_slice(&host.ask(Method::GET, &path).await?)?)
}

async fn list(host: &Host, plugins: &[String], prefix: &str, most: usize, as_json: bool) -> anyhow::Result<()> {
    let mut topics = Vec::new();
    for plugin in plugins {
        let query = format!("&limit={most}");
        topics.extend(page(host, plugin, prefix, None, &query).await?);
    }
    topics.truncate(most);
    if let [only] = &*topics
        && only["topic"] == prefix
    {
        let plugin = text(&only["plugin"]);
        topics = page(host, &plugin, prefix, None, "&limit=1&capsules=true").await?;
        if !as_json {
            let shown = topics.first().map_or(&Value::Null, |topic| &topic["state"]);
            say(&format!("{}\n{shown:#}", listed(&topics)));
            return Ok(());
        }
    }
    say(&match topics.is_empty() {
        _ if as_json => json!(topics).to_string(),
        true => "no such topic is stored".to_owned(),
        false => listed(&topics),
    });
    Ok(())
}

fn listed(topics: &[Value]) -> String {
    let keys = ["topic", "plugin", "state_version", "bytes", "timers", "in_memory"];
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| keys.map(|key| text(topic.get(key).unwrap_or(&Value::Null))))
        .collect();
    let header = ["topic", "plugin", "state version", "bytes", "timers", "in memory"];
    let mut listed = table(header, &rows);
    for topic in topics {
        let name = text(&topic["topic"]);
        if let Some(why) = topic["unreadable"].as_str() {
            listed.push_str(&styled(FAINT, format!("\n{name} cannot be read: {why}")));
        }
        if let Some(version) = topic["set_aside"].as_u64() {
            let said = format!("\n{name} with state version {version} was set aside: earlier code took its place");
            listed.push_str(&styled(FAINT, said));
        }
    }
    listed
}

async fn forget(host: &Host, plugins: &[String], topic: &str) -> anyhow::Result<()> {
    let mut is_forgotten = false;
    for plugin in plugins {
        let path = format!("/stored/{plugin}/{}", encoded(topic));
        // It says something if there is no such topic.
        is_forgotten |= host.ask(Method::DELETE, &path).await?.is_empty();
    }
    if !is_forgotten {
        bail!(
            "there is no topic {topic}, in memory or stored: --forget takes a whole name, and looks at the plugins that have a \
             `durability` now ({})",
            plugins.join(", ")
        );
    }
    say(&format!("{topic} is forgotten"));
    Ok(())
}

async fn export(host: &Host, plugins: &[String], prefix: &str, file: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    let exported = if fs::metadata(file).is_ok_and(|meta| !meta.is_file()) {
        let mut out = BufWriter::new(File::create(file).with_context(cannot)?);
        let exported = write_all(host, plugins, prefix, &mut out, cannot).await?;
        out.flush().with_context(cannot)?;
        exported
    } else {
        // An earlier export stays as it is until this one is whole.
        let folder = { file.parent() }.filter(|folder| !folder.as_os_str().is_empty());
        let new = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
        let mut out = BufWriter::new(new);
        let exported = write_all(host, plugins, prefix, &mut out, cannot).await?;
        let new = out.into_inner().with_context(cannot)?;
        new.as_file().sync_all().with_context(cannot)?;
        new.persist(file).with_context(cannot)?;
        exported
    };
    say(&format!("{exported} topics are in {}", file.display()));
    Ok(())
}

/// Writes stored topics, a line each. Returns how many.
async fn write_all(
    host: &Host,
    plugins: &[String],
    prefix: &str,
    out: &mut impl Write,
    cannot: impl Fn() -> String,
) -> anyhow::Result<usize> {
    let mut exported = 0;
    for plugin in plugins {
        let mut after: Option<String> = None;
        loop {
            let topics = page(host, plugin, prefix, after.as_deref(), "&limit=20&capsules=true").await?;
            let Some(last) = topics.last() else { break };
            after = Some(text(&last["topic"]));
            for topic in topics {
                writeln!(out, "{topic}").with_context(&cannot)?;
                exported += 1;
            }
        }
    }
    Ok(exported)
}

async fn import(host: &Host, file: &Path) -> anyhow::Result<()> {
    let lines = BufReader::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?).lines();
    let (mut imported, mut aside) = (0, 0);
    for (at, line) in lines.enumerate() {
        let place = || format!("{}, line {}", file.display(), at + 1);
        let topic: Value = serde_json::from_str(&line.with_context(place)?).with_context(place)?;
        // What was set aside is there to be looked at.
        if topic["set_aside"].is_u64() {
            aside += 1;
            continue;
        }
        let (plugin, body) = (text(&topic["plugin"]), json!({ "capsule": topic["capsule"] }));
        let body = Bytes::from(body.to_string());
        host.send(Method::PUT, &format!("/stored/{plugin}"), body)
            .await
            .with_context(|| {
                format!(
                    "{}: {imported} topics are stored, this one and those behind it are not",
                    place()
                )
            })?;
        imported += 1;
    }
    say(&match aside {
        0 => format!("{imported} topics are stored"),
        aside => {
            format!("{imported} topics are stored; {aside} that were set aside are only to be looked at, and are not")
        }
    });
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
