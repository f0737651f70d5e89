//! What a backend is answered: JSON, always.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// On an answer that was given before, to the first request with its `Idempotency-Key`.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// The methods that the path has, where the request had another.
    pub(super) allow: Option<&'static str>,
    /// The answer was given before.
    pub(super) replayed: bool,
    /// Why it was refused, for logs and metrics.
    pub(super) reason: Option<&'static str>,
    /// The request did nothing.
    pub(super) did_nothing: bool,
}

/// Why a request, or one of its messages, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Invalid,
    Unauthorized,
    Forbidden,
    Misdirected,
    NotFound,
    NoRoute,
    NotAlive,
    Method,
    Timeout,
    InProgress,
    TooLarge,
    TooMany,
    KeyReused,
    Full,
    Overloaded,
    Unavailable,
    Stopping,
    Unhandled,
    Crashed,
    Ended,
    Deadline,
}

impl Reason {
    /// All of them.
    pub(super) const ALL: [Self; 21] = [
        Self::Invalid,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Misdirected,
        Self::NotFound,
        Self::NoRoute,
        Self::NotAlive,
        Self::Method,
        Self::Timeout,
        Self::InProgress,
        Self::TooLarge,
        Self::TooMany,
        Self::KeyReused,
        Self::Full,
        Self::Overloaded,
        Self::Unavailable,
        Self::Stopping,
        Self::Unhandled,
        Self::Crashed,
        Self::Ended,
        Self::Deadline,
    ];

    /// The stable, machine-readable word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Misdirected => "misdirected",
            Self::NotFound => "not_found",
            Self::NoRoute => "no_route",
            Self::NotAlive => "not_alive",
            Self::Method => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::InProgress => "in_progress",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::KeyReused => "key_reused",
            Self::Full => "full",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Stopping => "stopping",
            Self::Unhandled => "unhandled",
            Self::Crashed => "crashed",
            Self::Ended => "ended",
            Self::Deadline => "deadline",
        }
    }

    /// The status of a request that is refused for it.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::Misdirected => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NoRoute | Self::NotAlive => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::InProgress => StatusCode::CONFLICT,
            Self::TooLarge | Self::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Full | Self::Overloaded | Self::Unavailable | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unhandled => StatusCode::NOT_IMPLEMENTED,
            Self::Crashed | Self::Ended => StatusCode::BAD_GATEWAY,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the request did nothing, so that the same one may be tried again.
    const fn did_nothing(self) -> bool {
        !matches!(self, Self::Crashed | Self::Ended | Self::Deadline)
    }
}

/// A refusal, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// A request, or one of its messages, that is not as it must be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    /// The key does not allow this. Without detail: whoever tries keys learns nothing.
    pub(super) fn forbidden() -> Self {
        Self::new(Reason::Forbidden, "this key does not allow it")
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        json!({ "reason": self.reason.word(), "message": self.message })
    }

    /// The answer to the whole request.
    pub(super) fn answer(self) -> Answer {
        Answer {
            reason: Some(self.reason.word()),
            did_nothing: self.reason.did_nothing(),
            ..Answer::new(self.reason.status(), &self.json())
        }
    }
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    /// With a body that is JSON already.
    pub(super) fn text(status: StatusCode, body: String) -> Self {
        Self {
            status,
            body: body.into(),
            allow: None,
            replayed: false,
            reason: None,
            did_nothing: false,
        }
    }

    pub(super) fn ok(body: &Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// As hyper sends it.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.status {
            StatusCode::UNAUTHORIZED => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => {
                drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1")));
            }
            _ => {}
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
