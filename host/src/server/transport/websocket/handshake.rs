//! Decides whether a request may become a WebSocket, and builds the answer.
//!
//! Origin, subprotocol, token and connect handler are checked elsewhere, before this.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use sha1::{Digest, Sha1};

use super::extension::Deflate;

/// RFC 6455 appends this to a client's key before hashing.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version of WebSocket.
const VERSION: &str = "13";

/// A valid request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    accept: HeaderValue,
}

impl Upgrade {
    /// Checks the headers of a request, and its method once more.
    ///
    /// # Errors
    ///
    /// If it is not a valid request for a WebSocket of version 13. The [`HandshakeError`] is the answer.
    pub(crate) fn check(request: &Parts) -> Result<Self, HandshakeError> {
        let headers = &request.headers;
        if request.method != Method::GET {
            return Err(HandshakeError::Method);
        }
        if request.version < Version::HTTP_11 {
            return Err(HandshakeError::NotUpgrade("WebSocket takes HTTP/1.1"));
        }
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(HandshakeError::NotUpgrade("expected the header `connection: upgrade`"));
        }
        if !has_token(headers, &UPGRADE, "websocket") {
            return Err(HandshakeError::NotUpgrade("expected the header `upgrade: websocket`"));
        }
        if headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != VERSION)
        {
            return Err(HandshakeError::Version);
        }
        let key = single(headers, &SEC_WEBSOCKET_KEY)
            .ok_or(HandshakeError::NotUpgrade("expected one header `sec-websocket-key`"))?;
        if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
            Ok(Self { accept: accept(key) })
        } else {
            Err(HandshakeError::NotUpgrade(
                "`sec-websocket-key` is not the base64 of 16 bytes",
            ))
        }
    }

    /// The answer, 101. The connection is a WebSocket afterwards.
    #[must_use]
    pub(crate) fn response(self, subprotocol: Option<&str>, deflate: Option<Deflate>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        // A name that is not a header value cannot have come from a client either.
        if let Some(value) = subprotocol.and_then(|name| HeaderValue::from_str(name).ok()) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        if let Some(deflate) = deflate {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, deflate.response());
        }
        response
    }
}

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// Not a GET.
    #[error("a WebSocket begins with GET")]
    Method,
    /// A GET that does not ask for a WebSocket, or does so with invalid headers.
    #[error("{0}")]
    NotUpgrade(&'static str),
    /// Another version of WebSocket.
    #[error("expected the header `sec-websocket-version: 13`")]
    Version,
    /// None of the client's subprotocols is served here.
    #[error("the mount supports none of the requested subprotocols")]
    Subprotocol,
    /// The auth token cannot be read.
    #[error("the auth token is not base64-encoded UTF-8")]
    Token,
}

impl HandshakeError {
    /// The answer.
    #[must_use]
    pub(crate) fn response(self) -> Response<String> {
        let (status, body) = match self {
            Self::Method => (StatusCode::BAD_REQUEST, String::new()),
            Self::NotUpgrade(_) => (
                StatusCode::BAD_REQUEST,
                format!("This is a WebSocket endpoint: {self}\n"),
            ),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, String::new()),
            Self::Subprotocol | Self::Token => (StatusCode::FORBIDDEN, String::new()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        if self == Self::Version {
            response
                .headers_mut()
                .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        }
        response
    }
}

/// The elements of a header with a list, from all its lines.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value.trim())
}

fn accept(key: &str) -> HeaderValue {
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::from_str(&STANDARD.encode(hash)).expect("base64 is a header value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADERS: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn request(method: Method, headers: &[(&str, &str)]) -> Parts {
        let builder = http::Request::builder().method(method).uri("/socket/websocket");
        headers
            .iter()
            .fold(builder, |builder, (name, value)| builder.header(*name, *value))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn with(name: &str, value: &str) -> Parts {
        request(
            Method::GET,
            &HEADERS.map(|(known, before)| (known, if known == name { value } else { before })),
        )
    }

    #[test]
    fn a_proper_request_is_accepted() {
        let response = Upgrade::check(&request(Method::GET, &HEADERS))
            .unwrap()
            .response(Some("phoenix"), None);
        assert_eq!(response.status(), 101);
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(response.headers()["connection"], "upgrade");
        assert_eq!(response.headers()["upgrade"], "websocket");
        assert_eq!(response.headers()["sec-websocket-protocol"], "phoenix");
        let without = Upgrade::check(&request(Method::GET, &HEADERS))
            .unwrap()
            .response(None, None);
        assert!(!without.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn what_does_not_ask_for_a_websocket_is_told_so() {
        let refused = |request: &Parts| {
            let response = Upgrade::check(request).unwrap_err().response();
            assert_eq!(response.status(), 400);
            assert!(
                response.body().starts_with("This is a WebSocket endpoint: "),
                "{}",
                response.body()
            );
        };
        refused(&request(Method::GET, &[]));
        for index in [0, 1, 3] {
            let mut headers = HEADERS.to_vec();
            headers.remove(index);
            refused(&request(Method::GET, &headers));
        }
        refused(&with("connection", "close"));
        refused(&with("upgrade", "h2c"));
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "c2hvcnQ=",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "!!!",
        ] {
            refused(&with("sec-websocket-key", key));
        }
        refused(&request(Method::GET, &[&HEADERS[..], &HEADERS[3..]].concat()));
        let mut old = request(Method::GET, &HEADERS);
        old.version = Version::HTTP_10;
        refused(&old);
    }

    #[test]
    fn another_method_gets_400_without_a_body() {
        for method in [Method::POST, Method::HEAD, Method::OPTIONS, Method::PUT] {
            let response = Upgrade::check(&request(method, &HEADERS)).unwrap_err().response();
            assert_eq!((response.status().as_u16(), response.body().as_str()), (400, ""));
        }
    }

    #[test]
    fn another_version_is_told_the_right_one() {
        for request in [
            with("sec-websocket-version", "8"),
            with("sec-websocket-version", "14"),
            request(Method::GET, &HEADERS[..2]),
        ] {
            let response = Upgrade::check(&request).unwrap_err().response();
            assert_eq!(response.status(), 426);
            assert_eq!(response.headers()["sec-websocket-version"], "13");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_are_answered(at in 0..HEADERS.len(), value in "[ -~]{0,30}") {
            let name = HEADERS[at].0;
            if Upgrade::check(&with(name, &value)).is_ok() {
                let lower = value.to_ascii_lowercase();
                prop_assert!(match name {
                    "connection" => lower.contains("upgrade"),
                    "upgrade" => lower.contains("websocket"),
                    "sec-websocket-version" => lower.contains("13"),
                    _ => !value.trim().is_empty(),
                }, "{} {}", name, value);
            }
        }
    }
}
