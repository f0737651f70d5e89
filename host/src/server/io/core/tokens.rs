//! New tokens of connected clients, and connections whose token has expired.

use std::sync::Arc;
use std::time::Instant;

use bennu_wire::message::{Message, Payload, reason};
use bennu_wire::serializer::json;
use bytestring::ByteString;
use serde::Deserialize;

use super::dispatch::{Dispatched, member_info};
use super::{Core, TICK};
use crate::config::TokenPlace;
use crate::runtime::channel::Input;
use crate::runtime::client_lines::{Source, client_line};
use crate::server::auth::{self, Pass, Refused};
use crate::server::closes::CloseReason;
use crate::server::socket::{Identity, Socket, Status};

/// The payload of `access_token`.
#[derive(Deserialize)]
struct AccessToken {
    access_token: String,
}

impl Core {
    /// Takes the new token that an event `access_token` brings. If it is good, all channels of the client learn its claims, and the
    /// event goes on to its own channel. If not, the client gets an error, and the token before it still holds.
    pub(super) fn refresh(&mut self, slot: usize, index: usize, message: Message, frame_bytes: usize) -> Dispatched {
        let channel = &self.sockets[slot].channels[index];
        let is_open = matches!(channel.status, Status::Joining | Status::Joined);
        if is_open
            && channel.is_meant(&message.join_ref)
            && let Err(why) = self.take_token(slot, token_in(&message.payload))
        {
            let own_ref = self.sockets[slot].channels[index].own_ref().map(ByteString::from);
            let payload = Payload::reason(why);
            self.reply(
                slot,
                own_ref.as_deref(),
                &message.msg_ref,
                &message.topic,
                "error",
                &payload,
            );
            return Dispatched::Taken;
        }
        self.forward(slot, index, message, frame_bytes)
    }

    /// Takes the token that a join brings, if `from` of the mount names a place for one, and if there is one. It counts as one of the
    /// event `access_token`.
    ///
    /// # Errors
    ///
    /// What the client is told: its join is refused.
    pub(super) fn take_token_of_join(&mut self, slot: usize, params: &Payload) -> Result<(), &'static str> {
        let info = &self.sockets[slot].info;
        let (Some(_), Some(auth), Payload::Json(params)) = (&info.shown, &info.mount.auth, params) else {
            return Ok(());
        };
        let mut keys = auth.from.iter().filter_map(|place| match place {
            TokenPlace::Join(key) => Some(key.as_str()),
            TokenPlace::AuthToken | TokenPlace::Param(_) | TokenPlace::Header(_) => None,
        });
        let Some(token) = keys.find_map(|key| text_under(key, params)) else {
            return Ok(());
        };
        self.take_token(slot, token.ok())
    }

    /// Checks a new token and puts it in the place of the one before. `None`: what should be one is no text.
    ///
    /// # Errors
    ///
    /// What the client is told.
    fn take_token(&mut self, slot: usize, token: Option<String>) -> Result<(), &'static str> {
        let routing = Arc::clone(self.routing());
        let hub = Arc::clone(self.hub());
        let socket = &mut self.sockets[slot];
        // The mount may have lost its `auth` since.
        let Some(guard) = routing.guards.of(&socket.info.mount.path) else {
            return Ok(());
        };
        // A client shows one token to all its channels.
        let Some(shown) = &mut socket.info.shown else {
            return Ok(());
        };
        if let (Some(token), Some(pass)) = (&token, &shown.pass)
            && pass.is_for(token)
        {
            return Ok(());
        }
        let now = Instant::now();
        let is_early = |last: Instant| now.saturating_duration_since(last) < guard.refresh_interval();
        if shown.refreshed.is_some_and(is_early) {
            return Err(reason::OVERLOADED);
        }
        shown.refreshed = Some(now);
        // A `disconnect` that comes after this look finds the connection by its new id.
        let known_id = { socket.info.identity.as_deref() }.and_then(|identity| identity.socket_id.as_ref());
        let is_kept_away = |pass: &Pass| {
            let id = known_id.or(pass.socket_id.as_ref());
            id.is_some_and(|id| hub.pubsub.refused.has(id, now))
        };
        let checked = token
            .ok_or(Refused::Malformed("what stands in its place is no text"))
            .and_then(|token| guard.check(&token, auth::wall_ms()))
            .and_then(|pass| pass.with_id_of(routing.config.limits.max_topic_bytes))
            .and_then(|new| match &shown.pass {
                Some(pass) if guard.wants_same_client() && !pass.may_become(&new) => Err(Refused::OtherClient),
                _ if is_kept_away(&new) => Err(Refused::KeptAway),
                _ => Ok(new),
            });
        match checked {
            Ok(pass) => {
                self.replace_pass(slot, pass);
                Ok(())
            }
            Err(refused) => {
                let socket = &self.sockets[slot];
                client_line!(
                    INFO,
                    self.hub().client_lines,
                    "token",
                    Source::of(socket.info.peer),
                    connection = socket.info.connection,
                    peer = %socket.info.peer,
                    mount = socket.info.mount.path,
                    reason = refused.label(),
                    "new token refused: {refused}"
                );
                self.hub().metrics.refused_token(refused.label());
                Err(refused.told())
            }
        }
    }

    fn replace_pass(&mut self, slot: usize, pass: Pass) {
        let socket = &mut self.sockets[slot];
        let before = socket.info.identity.as_deref();
        let known_id = before.and_then(|identity| identity.socket_id.clone());
        let new_id = pass.socket_id.clone().filter(|_| known_id.is_none());
        let identity = Identity {
            socket_id: known_id.or_else(|| new_id.clone()),
            assigns: before.and_then(|identity| identity.assigns.clone()),
            claims: Some(pass.claims.clone()),
        };
        for channel in socket.channels.iter().filter(|channel| !channel.is_over()) {
            let info = member_info(Some(&identity), &channel.route);
            let member = channel.member;
            channel.topic.owe(Input::Claims { member, info });
        }
        socket.info.identity = Some(Arc::new(identity));
        if let Some(shown) = &mut socket.info.shown {
            shown.pass = Some(pass);
        }
        if let Some(id) = new_id {
            self.name(slot, id);
        }
    }

    /// Closes connections whose token has expired, a few at a time. One that has sent another token just now may stay.
    pub(super) fn end_expired(&mut self, now: Instant) {
        // Tokens expire in a standstill, too.
        let time_ms = self.expiries.time_ms(Instant::now(), auth::wall_ms());
        let of_thread = self.routing.config.limits.max_expired_per_s / self.state.threads();
        let ticks_per_s = usize::try_from(1_000 / TICK.as_millis()).unwrap_or(1);
        let is_over = |socket: &Socket| {
            let pass = socket.info.shown.as_ref().and_then(|shown| shown.pass.as_ref());
            !socket.closing && pass.is_some_and(|pass| pass.is_over(time_ms))
        };
        let over: Vec<usize> = { self.sockets.iter() }
            .filter(|(_, socket)| is_over(socket))
            .map(|(slot, _)| slot)
            .take((of_thread / ticks_per_s).max(1))
            .collect();
        for slot in over {
            self.receive_rest(slot, now);
            if self.sockets.get(slot).is_some_and(is_over) {
                self.hub().metrics.expired_tokens.inc();
                self.close(slot, CloseReason::TokenExpired);
            }
        }
    }
}

/// The token in the payload of `access_token`.
fn token_in(payload: &Payload) -> Option<String> {
    let token = match payload {
        Payload::Json(json) => auth::object::<AccessToken>(json)?,
        Payload::Binary(_) => return None,
    };
    Some(token.access_token)
}

/// The text under a key of the params of a join. `None`: there is none, or it is null or empty. An error: it is no text.
fn text_under(key: &str, params: &[u8]) -> Option<Result<String, serde_json::Error>> {
    let mut found = None;
    json::members(std::str::from_utf8(params).ok()?, |name, value| {
        if name == key {
            found = Some(value);
        }
        true
    })?;
    let value = found.filter(|value| !matches!(*value, "null" | "\"\""))?;
    Some(serde_json::from_str(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_a_join_is_a_text_under_its_key_or_there_is_none() {
        let found = |params: &str| text_under("access_token", params.as_bytes()).map(|token| token.ok());
        for none in [
            "7",
            "[]",
            "{}",
            r#"{"config":{"access_token":"a"}}"#,
            r#"{"access_token":null}"#,
            r#"{"access_token":""}"#,
        ] {
            assert_eq!(found(none), None, "{none}");
        }
        assert_eq!(
            found(r#"{"config":{},"access_token":"a.b"}"#),
            Some(Some("a.b".to_owned()))
        );
        for no_text in [r#"{"access_token":7}"#, r#"{"access_token":["a"]}"#] {
            assert_eq!(found(no_text), Some(None), "{no_text}");
        }
    }
}
