//! Who may use private channels: the rules in the settings, and what they say of a token.

use bennu_plugin::prelude::*;
use serde::de::{Deserializer, Error};

/// The claims of a token.
pub(crate) type Claims = serde_json::Map<String, Value>;

/// Its `settings` in the configuration: `bennu schema --plugin realtime` shows their schema.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Who may use private channels: whatever one of these rules allows. Default: whoever is `authenticated` may read from and
    /// write to all of them. The role `service_role` always may.
    #[serde(default = "everybody")]
    private: Vec<Rule>,
}

/// What some clients may do on some private channels.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The name of the channel, without `realtime:`. `{sub}` stands for the claim `sub` of the token, and likewise for others, also
    /// for those in objects: `{app_metadata.org}`. A `*` at the end stands for anything.
    #[serde(deserialize_with = "pattern")]
    channel: String,
    /// The claim `role` of the token is one of these. Default: `authenticated`.
    #[serde(default = "authenticated", deserialize_with = "roles")]
    #[schemars(length(min = 1))]
    roles: Vec<String>,
    /// Whether these clients may also broadcast and be present. Default: true.
    write: Option<bool>,
}

/// What a client may do on a channel. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Nothing,
    Read,
    Write,
}

fn everybody() -> Vec<Rule> {
    vec![Rule {
        channel: "*".to_owned(),
        roles: authenticated(),
        write: None,
    }]
}

fn authenticated() -> Vec<String> {
    vec!["authenticated".to_owned()]
}

/// Reads a rule's `channel`, which has to fit something.
fn pattern<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    let fixed = text.strip_suffix('*').unwrap_or(&text);
    let is_claim = |path: &str| path.split('.').all(|key| !key.is_empty() && !key.contains([' ', '{']));
    let (first, rest) = fixed
        .split_once('{')
        .map_or((fixed, None), |(first, rest)| (first, Some(rest)));
    let mut claims = rest.into_iter().flat_map(|rest| rest.split('{'));
    let is_braced = |part: &str| {
        part.split_once('}')
            .is_some_and(|(path, behind)| is_claim(path) && !behind.contains('}'))
    };
    match () {
        () if text.is_empty() => Err(Error::custom("it fits no channel; `*` fits all")),
        () if text.starts_with("realtime:") => {
            Err(Error::custom("the name of a channel stands here without `realtime:`"))
        }
        () if fixed.contains('*') => Err(Error::custom("`*` may stand at the end only")),
        () if first.contains('}') || !claims.all(is_braced) => {
            Err(Error::custom("braces have a claim in them, as in `{sub}`"))
        }
        () => Ok(text),
    }
}

/// Reads a rule's `roles`, of which there is at least one.
fn roles<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    let roles = Vec::deserialize(source)?;
    if roles.is_empty() {
        Err(Error::custom("without a role the rule is about nobody"))
    } else {
        Ok(roles)
    }
}

impl Settings {
    /// What a token with these claims allows on the channel of this name.
    pub(crate) fn access(&self, name: &str, is_private: bool, claims: &Claims) -> Access {
        let role = claims.get("role").and_then(Value::as_str).unwrap_or("");
        if !is_private || role == "service_role" {
            return Access::Write;
        }
        let of_rule = |rule: &Rule| match rule.write {
            _ if !rule.roles.iter().any(|known| known == role) || !rule.fits(name, claims) => Access::Nothing,
            Some(false) => Access::Read,
            Some(true) | None => Access::Write,
        };
        self.private.iter().map(of_rule).max().unwrap_or(Access::Nothing)
    }
}

impl Rule {
    /// Whether it is about the channel of this name, for a token with these claims.
    fn fits(&self, name: &str, claims: &Claims) -> bool {
        let (fixed, is_open) = match self.channel.strip_suffix('*') {
            Some(fixed) => (fixed, true),
            None => (&*self.channel, false),
        };
        let mut parts = fixed.split('{');
        let first = name.strip_prefix(parts.next().unwrap_or_default());
        let rest = parts.try_fold(first, |rest, part| {
            let (path, behind) = part.split_once('}')?;
            Some(rest?.strip_prefix(&*claim(claims, path)?)?.strip_prefix(behind))
        });
        rest.flatten().is_some_and(|rest| is_open || rest.is_empty())
    }
}

/// The claim at this path, as the name of a channel has it. An empty one would open the channels of others.
fn claim(claims: &Claims, path: &str) -> Option<String> {
    let mut keys = path.split('.');
    let first = claims.get(keys.next()?);
    match keys.fold(first, |value, key| value?.get(key))? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}
