//! Channels for Supabase's Realtime clients: they broadcast to each other, show who is present, and have private channels.
//!
//! `host/docs/supabase.md` says what works. The mount must have `dialect = "supabase"`: it gives the private channel of a name a
//! topic of its own, `private-realtime:NAME`, and checks tokens. What the tokens allow is decided here.

mod access;
#[cfg(test)]
mod tests;

use bennu_plugin::expiry::{self, Expiries, now_s};
use bennu_plugin::prelude::*;
use serde_json::value::RawValue;

use access::{Access, Claims, Settings};

const SUBSCRIBED: &str = ["Subscribed", "Subscribed anew"][cfg!(feature = "v2") as usize];
const NO_CHANGES: &str = "Subscribed, but this server offers no changes of a database: no `postgres_changes` will come";
const EXPIRED: &str = "The access token has expired: show a new one with `setAuth`";
const NOT_READ: &str = "Unauthorized: this access token does not allow to read from this private channel";
const NO_ROOM: &str =
    "There is no room for this presence: `max_presence_bytes` of the plugin limits what a channel has in all";
const NOT_WRITTEN: &str = "Unauthorized: this access token does not allow to write to this private channel";

/// One for each client on a channel. What a channel has for all of them is when their tokens expire.
#[derive(Serialize, Deserialize)]
struct Client {
    /// Its key among those who are present. Empty: its number.
    key: Box<str>,
    /// Whether it is present.
    is_present: bool,
    /// Whether it hears what it says itself.
    hears_itself: bool,
    /// Whether it wants to know that the server has what it said.
    wants_ack: bool,
    /// Whether it may say anything, and be present.
    may_write: bool,
    /// When its token expires, in seconds since 1970. `None`: it has none, or only in a year or later.
    expires_s: Option<u64>,
}

/// The params of a join. Clients leave out what they do not use, or send null.
#[derive(Default, Deserialize)]
struct Params {
    config: Option<Config>,
}

#[derive(Default, Deserialize)]
struct Config {
    broadcast: Option<Part>,
    presence: Option<Part>,
    postgres_changes: Option<Vec<serde_json::Map<String, Value>>>,
    private: Option<bool>,
}

/// `broadcast` has `self` and `ack`, `presence` has `key`.
#[derive(Default, Deserialize)]
struct Part {
    #[serde(rename = "self")]
    own: Option<bool>,
    ack: Option<bool>,
    key: Option<Text<0, 255>>,
}

/// The payload of `presence`.
#[derive(Deserialize)]
struct PresenceEvent<'a> {
    event: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// The payload of the call `broadcast`: somebody wants to broadcast to this channel by a request.
#[derive(Deserialize)]
struct Question {
    claims: Claims,
}

/// The name of a channel, and whether it is a private one.
fn channel(topic: &str) -> (&str, bool) {
    let private = topic.strip_prefix("private-");
    let topic = private.unwrap_or(topic);
    (topic.strip_prefix("realtime:").unwrap_or(topic), private.is_some())
}

/// What a token with these claims allows on the channel of the callback.
fn access(claims: &Claims, cx: &Context<Settings>) -> Access {
    let (name, is_private) = channel(cx.topic());
    cx.plugin().access(name, is_private, claims)
}

/// When a token with these claims expires. It may have decimals.
fn expiry(claims: &Claims) -> Option<u64> {
    claims.get("exp")?.as_f64().map(|exp| exp as u64)
}

/// The payload of `system`: Supabase's clients show it to whoever listens.
fn system(extension: &str, status: &str, message: &str, cx: &Context<Settings>) -> Value {
    json!({ "channel": channel(cx.topic()).0, "extension": extension, "status": status, "message": message })
}

impl Channel<Settings> for Client {
    type Shared = Expiries;

    fn join(due: &mut Expiries, params: Payload<'_>, cx: &mut Context<Settings>) -> Join<Self> {
        let config = params.parse::<Params>()?.config.unwrap_or_default();
        let claims = cx.claims()?;
        if config.private == Some(true) && !channel(cx.topic()).1 {
            let reason = "only mounts with `dialect = \"supabase\"` have private channels";
            return Err(Refusal::reason(reason));
        }
        if expiry(&claims).is_some_and(|expires_s| expires_s <= now_s()) {
            return Err(Refusal::reason("token expired"));
        }
        let access = access(&claims, cx);
        if access == Access::Nothing {
            return Err(Refusal::reason(NOT_READ));
        }
        let mut changes = config.postgres_changes.unwrap_or_default();
        if changes.len() > 100 {
            return Err(Refusal::field("config.postgres_changes", "expected at most 100"));
        }
        // Clients compare all but the number with what they asked for.
        for (id, change) in (1..).zip(&mut changes) {
            change.insert("id".to_owned(), json!(id));
        }
        let key = config.presence.unwrap_or_default().key;
        let broadcast = config.broadcast.unwrap_or_default();
        let client = Self {
            key: key.as_deref().unwrap_or_default().into(),
            is_present: false,
            hears_itself: broadcast.own.unwrap_or(false),
            wants_ack: broadcast.ack.unwrap_or(false),
            may_write: access == Access::Write,
            expires_s: due.set(None, expiry(&claims), cx),
        };
        // What follows the reply cannot be sent before the client has joined.
        cx.send("joined", json!(!changes.is_empty()));
        Join::reply(client, json!({ "postgres_changes": changes }))
    }

    fn handle_in(
        &mut self,
        _: &mut Expiries,
        event: &str,
        payload: Payload<'_>,
        cx: &mut Context<Settings>,
    ) -> Handled {
        match event {
            "broadcast" if !self.may_write => Err(Refusal::reason(NOT_WRITTEN)),
            "broadcast" => self.broadcast(payload, cx),
            "presence" => self.presence(payload.parse()?, cx),
            // The server has checked the token, and has called `claims_changed`.
            "access_token" => Ok(Reply::none()),
            "crash" if cfg!(feature = "v2") => panic!("on purpose"),
            _ => Ok(Reply::unhandled()),
        }
    }

    /// What the new token allows counts from now on.
    fn claims_changed(&mut self, due: &mut Expiries, cx: &mut Context<Settings>) {
        let Ok(claims) = cx.claims() else { return };
        self.expires_s = due.set(self.expires_s, expiry(&claims), cx);
        let access = access(&claims, cx);
        self.may_write = access == Access::Write;
        if !self.may_write && self.is_present {
            self.is_present = !cx.untrack(&self.key(cx));
        }
        if access == Access::Nothing {
            cx.push("system", system("system", "error", NOT_READ, cx));
            cx.stop(Stop::Normal);
        }
    }

    fn handle_info(&mut self, _: &mut Expiries, name: &str, payload: Payload<'_>, cx: &mut Context<Settings>) {
        if name == "joined" {
            let (extension, message) = match payload.parse().unwrap_or(false) {
                true => ("postgres_changes", NO_CHANGES),
                false => ("system", SUBSCRIBED),
            };
            cx.push_presence();
            // `ok` in either case: at an error, Supabase's client for Python would join again and again.
            cx.push("system", system(extension, "ok", message, cx));
        }
    }

    fn handle_topic_info(due: &mut Expiries, name: &str, _: Payload<'_>, cx: &mut Context<Settings>) {
        if name == expiry::DUE {
            for member in due.take(cx) {
                cx.push_to(member, "system", system("system", "error", EXPIRED, cx));
                cx.stop_member(member, Stop::Normal);
            }
        }
    }

    /// The server asks for a request that wants to broadcast to a private channel.
    fn handle_call(_: &mut Expiries, event: &str, payload: Payload<'_>, cx: &mut Context<Settings>) -> Handled {
        match event {
            "broadcast" if access(&payload.parse::<Question>()?.claims, cx) == Access::Write => Ok(Reply::ok()),
            "broadcast" => Err(Refusal::reason(NOT_WRITTEN)),
            _ => Ok(Reply::unhandled()),
        }
    }

    fn terminate(&mut self, due: &mut Expiries, _: Reason<'_>, cx: &mut Context<Settings>) {
        due.set(self.expires_s, None, cx);
    }
}

impl Client {
    /// Passes on what it says to the others, whatever that is.
    fn broadcast(&mut self, payload: Payload<'_>, cx: &Context<Settings>) -> Handled {
        if !payload.is_binary() && !is_object(payload.bytes()) {
            return Err(Refusal::field("", "expected an object"));
        }
        match self.hears_itself {
            true => cx.broadcast("broadcast", payload),
            false => cx.broadcast_from("broadcast", payload),
        }
        Ok(if self.wants_ack { Reply::ok() } else { Reply::none() })
    }

    fn presence(&mut self, asked: PresenceEvent<'_>, cx: &Context<Settings>) -> Handled {
        let meta = asked.payload.map_or("{}", RawValue::get);
        if !is_object(meta.as_bytes()) {
            return Err(Refusal::field("payload", "expected an object"));
        }
        let (key, meta) = (self.key(cx), Payload::json_text(meta));
        let has_room = match (asked.event, self.is_present) {
            ("track", _) if !self.may_write => return Err(Refusal::reason(NOT_WRITTEN)),
            ("track", true) => cx.update(&key, meta),
            ("track", false) => {
                self.is_present = cx.track(&key, meta);
                self.is_present
            }
            ("untrack", true) => {
                self.is_present = !cx.untrack(&key);
                true
            }
            ("untrack", false) => true,
            _ => return Err(Refusal::field("event", "expected `track` or `untrack`")),
        };
        if has_room {
            Ok(Reply::ok())
        } else {
            Err(Refusal::reason(NO_ROOM))
        }
    }

    /// What it is present under.
    fn key(&self, cx: &Context<Settings>) -> String {
        match &*self.key {
            "" => json!(cx.member()).to_string(),
            key => key.to_owned(),
        }
    }
}

fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

export_plugin!(Client, plugin = Settings);
