//! Whether a request is answered at all: its host, its key, and room for one more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};

use super::answer::{Answer, Reason, Refusal};
use super::verbs::{self, Verb};
use super::{Api, Asked, Work, body, idempotency};
use crate::config::{ApiKey, Config};
use crate::runtime::trace::{Asking, TRACEPARENT, TraceParent, Traced};
use crate::server::ambiguous::{Ambiguous, HadContentLength};
use crate::server::endpoint::hosts::Hosts;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Answers a request, and says so in the log and the metrics.
pub(super) async fn serve(api: Arc<Api>, peer: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, mut body) = request.into_parts();
    let began = Instant::now();
    let mut noted = Noted::default();
    let mut answer = match pass(&api, &parts, &mut body, &mut noted).await {
        Ok(answer) => answer,
        Err(refusal) => Answer {
            allow: noted.allow,
            ..refusal.answer()
        },
    };
    // A client that waits for `100 Continue` sends its body only if somebody reads.
    let waits = parts.headers.contains_key(EXPECT);
    if !body.is_end_stream() && (waits || !body::drop_rest(&mut body).await) {
        answer.closes = true;
    }
    let (verb, key) = (noted.verb.map_or(verbs::NONE, |verb| verb.name), noted.key.as_deref());
    let (key, status) = (key.map(|key| &*key.name), answer.status.as_u16());
    if let Some(trace) = noted.trace {
        trace.number("http.response.status_code", status.into());
        match answer.status.is_server_error() {
            true => trace.fail(answer.reason.unwrap_or("error")),
            false => trace.end(answer.reason.unwrap_or("ok")),
        }
    }
    api.metrics.answered(verb, status);
    if let Some(reason) = answer.reason {
        api.metrics.refused(reason);
        api.say_refused(verb, key, reason, peer);
    }
    tracing::debug!(verb, key, status, peer = %peer, duration_us = began.elapsed().as_micros(), "API request");
    answer.response()
}

/// What is known of a request, also if it is refused.
#[derive(Debug, Default)]
struct Noted {
    verb: Option<&'static Verb>,
    key: Option<Arc<ApiKey>>,
    allow: Option<&'static str>,
    trace: Traced,
}

async fn pass(api: &Arc<Api>, parts: &Parts, incoming: &mut Incoming, noted: &mut Noted) -> Result<Answer, Refusal> {
    let routing = api.endpoint.state.routing();
    let config = Arc::clone(&routing.config);
    check_host(api, &config, parts)?;
    let (verb, name) = Verb::find(&parts.method, parts.uri.path()).map_err(|(refusal, allow)| {
        noted.allow = allow;
        refusal
    })?;
    noted.verb = Some(verb);
    let key = match verb.scope {
        None => nobody(),
        Some(scope) => {
            let key = key_of(api, &parts.headers)?;
            noted.key = Some(Arc::clone(&key));
            if !key.allows(scope) {
                return Err(Refusal::forbidden());
            }
            key
        }
    };
    // Whoever has no key begins no span.
    noted.trace = begin_span(api, verb, &key, &parts.headers);
    if api.endpoint.state.is_stopping() {
        return Err(Refusal::new(Reason::Stopping, "the server stops"));
    }
    let work = Work::begin(api, verb, &config.api).ok_or_else(|| {
        let message = "too many requests at a time: `max_concurrent` and `max_calls` of [api] limit them";
        Refusal::new(Reason::Overloaded, message)
    })?;
    let idempotency_key = idempotency_key(verb, &parts.headers)?;
    let (body, share) = if verb.is_post() {
        body::read(api, &config, incoming).await?
    } else {
        (Bytes::new(), None)
    };
    let asked = Asked {
        api: Arc::clone(api),
        routing,
        key,
        verb,
        name,
        query: parts.uri.query().unwrap_or("").to_owned(),
        body,
        trace: noted.trace.clone(),
    };
    let held = (work, share);
    match idempotency_key {
        Some(idempotency_key) => idempotency::once(asked, idempotency_key, held).await,
        None => Ok(asked.carry_out().await),
    }
}

/// Begins the span of a request that asks for something to be done, in the trace that its `traceparent` names.
fn begin_span(api: &Api, verb: &Verb, key: &ApiKey, headers: &HeaderMap) -> Traced {
    let tracer = api.endpoint.state.hub.tracer.as_ref()?;
    let name = match verb.name {
        verbs::BROADCAST => "api broadcast",
        verbs::CALL => "api call",
        verbs::DISCONNECT => "api disconnect",
        _ => return None,
    };
    let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    let trace = tracer.begin(name, Asking::Backend, parent.and_then(TraceParent::parse))?;
    trace.text("bennu.api_key", &key.name);
    Some(trace)
}

/// The key of requests that need none.
fn nobody() -> Arc<ApiKey> {
    Arc::new(ApiKey {
        name: String::new(),
        secret_file: None,
        allow: Vec::new(),
        topics: Vec::new(),
    })
}

/// Answers only for hosts that are this machine's, or that the configuration names, and only what has one meaning.
fn check_host(api: &Api, config: &Config, parts: &Parts) -> Result<(), Refusal> {
    let has_two_lengths = parts.headers.contains_key(http::header::TRANSFER_ENCODING)
        && parts.extensions.get::<HadContentLength>().is_some();
    let ambiguous = has_two_lengths.then_some(Ambiguous::TwoLengths);
    if let Some(ambiguous) = ambiguous.or_else(|| Ambiguous::find(parts.version, &parts.headers)) {
        return Err(Refusal::invalid(ambiguous.to_string()));
    }
    let names: Vec<&str> = config.api.hosts.iter().map(String::as_str).collect();
    let hosts = Hosts {
        listen: api.address.ip(),
        names: &names,
    };
    hosts
        .check(parts.version, &parts.uri, &parts.headers)
        .map_err(|misdirected| Refusal::new(Reason::Misdirected, misdirected.text("api")))
}

/// The key that a request names in `Authorization`.
fn key_of(api: &Api, headers: &HeaderMap) -> Result<Arc<ApiKey>, Refusal> {
    let given = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
    });
    let unauthorized = || Refusal::new(Reason::Unauthorized, "a key is needed: `Authorization: Bearer SECRET`");
    api.keys.find(given.ok_or_else(unauthorized)?).ok_or_else(unauthorized)
}

/// The `Idempotency-Key` of a request that changes something.
fn idempotency_key(verb: &Verb, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next().filter(|_| verb.is_post()) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=idempotency::MOST_BYTES).contains(&text.len()))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    match (text, values.next()) {
        (Some(text), None) => Ok(Some(text.to_owned())),
        _ => Err(Refusal::invalid(format!(
            "`Idempotency-Key` must stand there once and have 1 to {} visible ASCII characters",
            idempotency::MOST_BYTES
        ))),
    }
}
