//! `bennu routes`: shows which plugin serves which topics, and why a route takes a topic.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::args::{ConfigArg, JsonArg};
use super::read_config;
use super::terminal::{BAD, FAINT, GOOD, STRONG, say, styled, table};
use crate::config::{Config, Mode, Route};
use crate::runtime::router::Router;

pub(super) const HELP: &str = "\
Examples:
  bennu routes                         all routes, in the order of matching
  bennu routes room:lobby              which routes take this topic, and why
  bennu routes room:lobby --json

The exit code is 1 if no client can join the topic.";

/// `bennu routes`
#[derive(Args, Debug)]
pub(crate) struct RoutesArgs {
    /// The topic
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    json: JsonArg,
}

/// Shows all routes, or which of them take a topic.
///
/// # Errors
///
/// If there is no configuration, or it has mistakes.
pub(crate) fn run(args: &RoutesArgs) -> anyhow::Result<ExitCode> {
    let config = read_config(&args.config.find()?, Mode::Dev)?;
    let Some(topic) = &args.topic else {
        if args.json.json {
            say(&all_as_json(&config).to_string());
        } else {
            say(&all(&config));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let answer = Answer::new(&config, topic);
    if args.json.json {
        say(&answer.as_json().to_string());
    } else {
        say(&answer.as_text());
    }
    Ok(ExitCode::from(u8::from(!answer.is_served())))
}

fn all(config: &Config) -> String {
    let row = |(place, route): (usize, &std::sync::Arc<Route>)| {
        [
            route.topic.to_string(),
            route.plugin.clone(),
            names(&route.transports),
            names(&route.mounts),
            config.route_place(place),
        ]
    };
    let rows: Vec<_> = config.routes.iter().enumerate().map(row).collect();
    table(["topic", "plugin", "transports", "mounts", "place"], &rows)
}

fn all_as_json(config: &Config) -> Value {
    let route = |(place, route): (usize, &std::sync::Arc<Route>)| {
        json!({
            "topic": route.topic.to_string(), "plugin": route.plugin, "transports": route.transports,
            "mounts": route.mounts, "place": config.route_place(place),
        })
    };
    config.routes.iter().enumerate().map(route).collect()
}

fn names(names: &Option<Vec<String>>) -> String {
    names
        .as_ref()
        .map_or_else(|| "all".to_owned(), |names| names.join(", "))
}

/// Which routes take a topic.
struct Answer<'a> {
    config: &'a Config,
    topic: &'a str,
    doors: Vec<Door<'a>>,
}

/// A way to connect, and the route that a join from there takes.
struct Door<'a> {
    mount: &'a str,
    transport: &'static str,
    route: Option<usize>,
}

impl<'a> Answer<'a> {
    fn new(config: &'a Config, topic: &'a str) -> Self {
        let router = Router::new(config);
        let mut doors = Vec::new();
        for mount in &config.mounts {
            let served = [("websocket", mount.websocket), ("longpoll", mount.longpoll.is_some())];
            for (transport, _) in served.into_iter().filter(|(_, served)| *served) {
                doors.push(Door {
                    mount: &mount.path,
                    transport,
                    route: router.place(topic, transport, &mount.path),
                });
            }
        }
        Self { config, topic, doors }
    }

    fn is_served(&self) -> bool {
        self.doors.iter().any(|door| door.route.is_some())
    }

    /// Why a route takes the topic, or does not.
    fn reason(&self, place: usize) -> String {
        let route = &self.config.routes[place];
        let pattern = route.topic.to_string();
        let (literal, verb) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, "starts with"),
            None => (&*pattern, "is"),
        };
        if !route.topic.matches(self.topic) {
            let not = if verb == "is" { "is not" } else { "does not start with" };
            return format!("no: it {not} `{literal}`");
        }
        let takes = self.doors.iter().filter(|door| door.route == Some(place)).count();
        let open = { self.doors.iter() }
            .filter(|door| route.is_open_to(door.transport, door.mount))
            .count();
        let why = if literal.is_empty() {
            "it takes every topic".to_owned()
        } else {
            format!("it {verb} `{literal}`")
        };
        match (takes, open) {
            (0, 0) => format!("no: {why}, but no mount leads here"),
            (0, _) => format!("no: {why}, but an earlier route takes it"),
            (takes, _) if takes == self.doors.len() => format!("yes: {why}"),
            _ => format!("from some: {why}; for the others the route is closed, or an earlier route takes it"),
        }
    }

    fn as_text(&self) -> String {
        let mut lines = vec![styled(STRONG, self.topic)];
        for door in &self.doors {
            let leads = match door.route {
                Some(place) => styled(GOOD, &self.config.routes[place].plugin),
                None => styled(BAD, "nowhere: Bennu refuses the join, \"unmatched topic\""),
            };
            lines.push(format!("  from {} by {} to {leads}", door.mount, door.transport));
        }
        if self.doors.is_empty() {
            lines.push("  no client can connect: there is no [[mounts]]".to_owned());
        }
        let row = |place: usize| {
            let route = &self.config.routes[place];
            [
                route.topic.to_string(),
                route.plugin.clone(),
                self.reason(place),
                self.config.route_place(place),
            ]
        };
        let rows: Vec<_> = (0..self.config.routes.len()).map(row).collect();
        lines.push(format!("\n{}", table(["topic", "plugin", "takes it?", "place"], &rows)));
        if let (false, Some(near)) = (self.is_served(), self.nearest()) {
            lines.push(styled(
                FAINT,
                format!("\nThe nearest route is `{near}`: is the topic spelled correctly?"),
            ));
        }
        lines.join("\n")
    }

    /// The pattern that the topic nearly matches.
    fn nearest(&self) -> Option<String> {
        const NEAR: f64 = 0.7;
        let patterns = self.config.routes.iter().map(|route| route.topic.to_string());
        let nearness = |pattern: &str| {
            let literal = pattern.trim_end_matches('*');
            let head: String = self.topic.chars().take(literal.chars().count()).collect();
            strsim::jaro_winkler(literal, &head)
        };
        let best = patterns.max_by(|a, b| nearness(a).total_cmp(&nearness(b)))?;
        (nearness(&best) >= NEAR).then_some(best)
    }

    fn as_json(&self) -> Value {
        let door = |door: &Door<'_>| {
            json!({
                "mount": door.mount, "transport": door.transport,
                "plugin": door.route.map(|place| &self.config.routes[place].plugin),
                "route": door.route.map(|place| self.config.routes[place].topic.to_string()),
                "place": door.route.map(|place| self.config.route_place(place)),
            })
        };
        json!({ "topic": self.topic, "from": self.doors.iter().map(door).collect::<Value>() })
    }
}
