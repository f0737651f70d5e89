//! `<mount>/api/broadcast` of a mount for clients of Supabase: messages for topics in plain requests, from clients and backends.
//!
//! A request is let in by the tokens that it shows. What it says to a public room goes to whoever is there, as a broadcast of a
//! plugin does. For a private room, its plugin is asked first: a call `broadcast` with the claims of the sender.

mod said;
mod sender;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use bennu_wire::message::Payload;
use bennu_wire::serializer::supabase::BROADCAST;
use bytes::Bytes;
use bytestring::ByteString;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use tokio::sync::Semaphore;

use self::said::Said;
use super::{Endpoint, connect, relay};
use crate::config::{Mount, Supabase};
use crate::runtime::channel::{Called, Create};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock;
use crate::runtime::plugin::NotCalled;
use crate::runtime::wake::{self, PutOff};
use crate::server::io::Client;

pub(super) use self::said::Target;

/// How many requests may wait for I/O threads to take their messages. Each has a thread meanwhile, as no I/O thread may wait for
/// another. Further ones wait for them.
const PUBLISHING: usize = 16;

static PUBLISHERS: Semaphore = Semaphore::const_new(PUBLISHING);

/// Why a request, or one of its messages, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// What it asks for is not as it must be.
    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// Nobody can decide now.
    fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

/// A request.
struct Exchange<'a> {
    endpoint: &'a Arc<Endpoint>,
    mount: &'a Arc<Mount>,
    settings: &'a Supabase,
    client: Client,
    parts: &'a Parts,
}

/// Answers a request: origin, preflight, tokens, body, and then its messages.
pub(super) async fn serve(
    endpoint: Arc<Endpoint>,
    mount: Arc<Mount>,
    client: Client,
    target: Target,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let Some(settings) = mount.supabase.clone() else {
        return answer(&Refusal::new(StatusCode::NOT_FOUND, "nothing is served here"));
    };
    if let Err(denied) = connect::check_origin(&endpoint, client, &mount, "http", &parts).await {
        let message = match denied.status {
            StatusCode::FORBIDDEN => "pages of this origin are not allowed here",
            _ => "nobody can say now whether pages of this origin are allowed here",
        };
        return answer(&Refusal::new(denied.status, message));
    }
    let exchange = Exchange {
        endpoint: &endpoint,
        mount: &mount,
        settings: &settings,
        client,
        parts: &parts,
    };
    let mut response = match parts.method {
        Method::OPTIONS => Response::default(),
        Method::POST => match exchange.publish(target, body).await {
            Ok(()) => {
                let mut accepted = Response::default();
                *accepted.status_mut() = StatusCode::ACCEPTED;
                accepted
            }
            Err(refusal) => {
                exchange.note(&refusal);
                answer(&refusal)
            }
        },
        _ => {
            let message = "messages are sent with POST";
            let mut response = answer(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
            let allowed = HeaderValue::from_static("POST, OPTIONS");
            response.headers_mut().insert(header::ALLOW, allowed);
            response
        }
    };
    response.headers_mut().extend(relay::cors(&parts.headers));
    response
}

impl Exchange<'_> {
    /// Sends the messages of a request. A message to a private room that its plugin refuses stops no other.
    async fn publish(&self, target: Target, body: Body) -> Result<(), Refusal> {
        if self.endpoint.state.is_stopping() {
            return Err(Refusal::unavailable("the server stops"));
        }
        let claims = sender::claims(self)?;
        let most = self.endpoint.state.routing().config.limits.max_message_bytes;
        let (body, _share) =
            { relay::collect(self.endpoint, body, most).await }.map_err(|status| unread(status, most))?;
        let said = said::read(self, target, &body)?;
        let (mut allowed, mut refused) = (Vec::with_capacity(said.len()), None);
        let mut judged: Vec<(ByteString, Result<(), Refusal>)> = Vec::new();
        for said in said {
            if said.is_private {
                let known = judged.iter().position(|(room, _)| *room == said.room);
                let at = match known {
                    Some(at) => at,
                    None => {
                        judged.push((said.room.clone(), self.may_speak(&said.room, claims.as_ref()).await));
                        judged.len() - 1
                    }
                };
                if let Err(refusal) = &judged[at].1 {
                    refused.get_or_insert_with(|| refusal.clone());
                    continue;
                }
            }
            allowed.push(said);
        }
        self.broadcast(allowed).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Asks the plugin of a private room whether a sender with these claims may speak there.
    async fn may_speak(&self, room: &ByteString, claims: Option<&Bytes>) -> Result<(), Refusal> {
        let claims = claims.map_or("{}", |claims| std::str::from_utf8(claims).unwrap_or("{}"));
        let question = Payload::Json(format!(r#"{{"claims":{claims}}}"#).into());
        let hub = &self.endpoint.state.hub;
        let asked = hub.call(
            room,
            ByteString::from_static(BROADCAST),
            question,
            Create::Passing,
            &None,
        );
        let asked = asked.map_err(|why| match why {
            NotCalled::NoRoute | NotCalled::NotAlive => Refusal::invalid("no route takes this topic"),
            NotCalled::Overloaded => Refusal::unavailable("the topic has too much to do"),
            NotCalled::NoNode => Refusal::unavailable("the node that is the topic's home cannot be reached"),
            NotCalled::Unavailable => Refusal::unavailable("no code of the plugin is in service"),
        })?;
        let deadline = self.endpoint.state.routing().config.api.call_deadline;
        match clock::timeout(deadline, asked).await {
            Ok(Called::Replied { status, .. }) if status == "ok" => Ok(()),
            Ok(Called::Replied { .. } | Called::Unhandled) => {
                let message = "this token does not allow to send to this private channel";
                Err(Refusal::new(StatusCode::FORBIDDEN, message))
            }
            Ok(Called::NotAlive | Called::Crashed | Called::Ended) => Err(Refusal::new(
                StatusCode::BAD_GATEWAY,
                "the plugin of the topic has failed",
            )),
            Ok(Called::Unstored(why)) => Err(Refusal::unavailable(why)),
            Err(_) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the plugin of the topic did not answer in time",
            )),
        }
    }

    /// Sends messages in their order. Waits while too much waits for I/O threads.
    async fn broadcast(&self, said: Vec<Said>) -> Result<(), Refusal> {
        if said.is_empty() {
            return Ok(());
        }
        let _place = PUBLISHERS.acquire().await;
        let hub = Arc::clone(&self.endpoint.state.hub);
        hub.metrics.http_broadcasts.inc_by(said.len() as u64);
        let sent = tokio::task::spawn_blocking(move || {
            wake::together(PutOff::All, || {
                for Said { room, payload, .. } in said {
                    hub.broadcast_to(room, ByteString::from_static(BROADCAST), payload);
                }
            });
        });
        let failed = "the server itself has failed, see its log";
        { sent.await }.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, failed))
    }

    fn note(&self, refusal: &Refusal) {
        let (state, peer) = (&self.endpoint.state, self.client.peer);
        state.hub.metrics.refused_http_broadcasts.inc();
        client_line!(
            INFO,
            self.endpoint.lines(),
            "http broadcast",
            Source::of(peer.ip()),
            connection = self.client.connection,
            %peer,
            mount = self.mount.path,
            status = refusal.status.as_u16(),
            "broadcast over HTTP refused: {}",
            refusal.message
        );
    }

    /// Whether a backend keeps a client with this socket id away.
    fn is_kept_away(&self, socket_id: &ByteString) -> bool {
        let refused = &self.endpoint.state.hub.pubsub.refused;
        refused.has(socket_id, Instant::now())
    }
}

/// A body that was not read, by the status that says so.
fn unread(status: u16, most: usize) -> Refusal {
    let message = match status {
        408 => "the body did not come in time".to_owned(),
        413 => format!("the body is longer than {most} bytes"),
        503 => "too many bytes are held for all clients".to_owned(),
        _ => "the body ends too early".to_owned(),
    };
    Refusal::new(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), message)
}

/// Supabase's clients show the text under `error`.
fn answer(refusal: &Refusal) -> Response {
    let mut response = relay::json(json!({ "error": refusal.message }).to_string().into());
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    match refusal.status {
        StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => {}
    }
    response
}
