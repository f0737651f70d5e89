//! Refuses requests that two readers could read in two ways: a proxy in front of the server, say, and the server itself.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

/// Headers that decide something here and have one value. With two of them, it would depend on the reader which one counts.
const SINGLE: [HeaderName; 8] = [
    HOST,
    ORIGIN,
    AUTHORIZATION,
    CONTENT_TYPE,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("x-phoenix-longpoll-token"),
    HeaderName::from_static("x-phoenix-authtoken"),
];

/// Among the extensions of a request: it had a `Content-Length`, even if its headers have none any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HadContentLength;

/// Why a request is ambiguous. The client gets it as the body of a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguous {
    /// HTTP/1.1 requires a `Host`.
    #[error("the request has no Host header")]
    NoHost,
    /// Neither a name nor an address, with or without a port.
    #[error("the Host header is not a host")]
    BadHost,
    /// Two lines of a header that may have one.
    #[error("the request has more than one {0} header")]
    Repeated(HeaderName),
    /// Both say where the body ends.
    #[error("the request has both a Transfer-Encoding and a Content-Length header")]
    TwoLengths,
    /// The body ends where another reader may not see its end, or is in a coding that nobody takes off.
    #[error("the Transfer-Encoding header is not `chunked`")]
    Coding,
}

impl Ambiguous {
    /// Looks for what is ambiguous in the head of a request. `None`: nothing.
    #[must_use]
    pub(crate) fn find(version: Version, headers: &HeaderMap) -> Option<Self> {
        match headers.get(HOST) {
            None if version == Version::HTTP_11 => return Some(Self::NoHost),
            Some(host) if !is_host(host) => return Some(Self::BadHost),
            _ => {}
        }
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
            return Some(Self::Coding);
        }
        Self::repeated(headers)
    }

    /// A header that stands there twice and may not.
    #[must_use]
    pub(crate) fn repeated(headers: &HeaderMap) -> Option<Self> {
        // Most requests repeat nothing: there are as many values as names.
        if headers.len() == headers.keys_len() {
            return None;
        }
        let repeated = SINGLE.into_iter().find(|name| headers.get_all(name).iter().count() > 1);
        repeated.map(Self::Repeated)
    }

    /// What the client gets.
    pub(crate) fn response(&self) -> Response {
        let mut response = (StatusCode::BAD_REQUEST, format!("{self}\n")).into_response();
        if matches!(self, Self::TwoLengths | Self::Coding) {
            // Nobody knows where the next request begins.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // For whoever notes why clients were refused.
        response.extensions_mut().insert(self.clone());
        response
    }
}

/// Answers ambiguous requests with 400, before anything else looks at them.
pub(crate) async fn refuse(request: Request, next: Next) -> Response {
    let has_two_lengths =
        request.headers().contains_key(TRANSFER_ENCODING) && request.extensions().get::<HadContentLength>().is_some();
    let found = has_two_lengths.then_some(Ambiguous::TwoLengths);
    match found.or_else(|| Ambiguous::find(request.version(), request.headers())) {
        Some(ambiguous) => ambiguous.response(),
        None => next.run(request).await,
    }
}

/// Whether a `Host` is empty, which a request without an authority may send, or could be a host.
fn is_host(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !b",/@?#\\\"<>".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: Version, lines: &[(&str, &str)], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let found = Ambiguous::find(version, &headers).map(|ambiguous| ambiguous.to_string());
        assert_eq!(found.as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn http_1_1_needs_one_host_and_http_1_0_needs_none() {
        let missing = Some("the request has no Host header");
        check(Version::HTTP_11, &[], missing);
        check(Version::HTTP_11, &[("accept", "*/*")], missing);
        check(Version::HTTP_10, &[], None);
        let twice = Some("the request has more than one host header");
        for version in [Version::HTTP_10, Version::HTTP_11] {
            check(version, &[("host", "a"), ("host", "b")], twice);
            check(version, &[("host", "a"), ("host", "a")], twice);
            check(version, &[("host", "a")], None);
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for host in [
            "",
            "localhost",
            "a_b.example:4000",
            "127.0.0.1",
            "[::1]:4000",
            "example.com.",
        ] {
            check(Version::HTTP_11, &[("host", host)], None);
        }
        for host in ["a, b", "a b", "a/b", "user@a", "a\\b", "a?b"] {
            check(
                Version::HTTP_11,
                &[("host", host)],
                Some("the Host header is not a host"),
            );
        }
    }

    #[test]
    fn a_body_is_chunked_once_and_nothing_else() {
        let refused = Some("the Transfer-Encoding header is not `chunked`");
        let te = "transfer-encoding";
        for coding in ["chunked", "Chunked"] {
            check(Version::HTTP_11, &[("host", "a"), (te, coding)], None);
        }
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "chunked,", ""] {
            check(Version::HTTP_11, &[("host", "a"), (te, coding)], refused);
        }
        check(
            Version::HTTP_11,
            &[("host", "a"), (te, "chunked"), (te, "chunked")],
            refused,
        );
    }

    #[test]
    fn what_decides_stands_there_once() {
        for name in SINGLE {
            let name = name.as_str();
            let expected = format!("the request has more than one {name} header");
            let lines = [("host", "a"), (name, "a"), (name, "b")];
            let lines = if name == "host" { &lines[1..] } else { &lines };
            check(Version::HTTP_11, lines, Some(&expected));
        }
        let lists = [
            ("host", "a"),
            ("sec-websocket-protocol", "a"),
            ("sec-websocket-protocol", "b"),
            ("x-forwarded-for", "a"),
            ("x-forwarded-for", "b"),
        ];
        check(Version::HTTP_11, &lists, None);
    }

    #[test]
    fn the_connection_ends_where_nobody_knows_where_the_next_request_begins() {
        for (ambiguous, closes) in [
            (Ambiguous::TwoLengths, true),
            (Ambiguous::Coding, true),
            (Ambiguous::NoHost, false),
        ] {
            let response = ambiguous.response();
            assert_eq!(response.headers().contains_key(CONNECTION), closes, "{ambiguous}");
        }
    }
}
