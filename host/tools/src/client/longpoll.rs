//! Frames over long polling. A task polls for as long as the client lives, which keeps the session alive.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{self, Client as Http};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::stream::Connector;
use super::{ABNORMAL, ClientError, Dialect, Frame, Incoming, Options, refused};

/// The token is sent in a header: in the query it would end up in the logs of proxies.
const TOKEN_HEADER: &str = "x-phoenix-longpoll-token";
/// How many responses may wait for [`LongPoll::next`] before the task stops polling.
const AHEAD: usize = 16;

const REQUEST: &str = "the HTTP request failed";
const RESPONSE: &str = "the HTTP response is unreadable";

/// A long-poll session.
#[derive(Debug)]
pub(super) struct LongPoll {
    requests: Requests,
    polls: JoinHandle<()>,
    responses: mpsc::Receiver<Vec<Incoming>>,
    /// What is left of the last response, in reverse order.
    rest: Vec<Incoming>,
}

#[derive(Clone, Debug)]
struct Requests {
    http: Http<Connector, Full<Bytes>>,
    url: Arc<str>,
    headers: HeaderMap,
    dialect: Dialect,
    /// From the last response. Sending it acknowledges that response.
    token: Arc<Mutex<Token>>,
}

/// What identifies the session.
#[derive(Clone, Debug, Default)]
struct Token {
    token: String,
    /// Only in the Phoenix 0.11 dialect.
    sig: String,
}

/// The JSON object that every response consists of.
#[derive(Debug, Deserialize)]
struct Envelope {
    status: u16,
    #[serde(default)]
    token: String,
    #[serde(default)]
    sig: String,
    #[serde(default)]
    messages: Vec<Box<RawValue>>,
}

impl LongPoll {
    pub(super) async fn connect(options: &Options) -> Result<Self, ClientError> {
        let requests = Requests {
            http: Http::builder(TokioExecutor::new()).build(Connector(options.clone())),
            url: options.url().into(),
            headers: options.headers.clone(),
            dialect: options.dialect,
            token: Arc::default(),
        };
        let opened = requests.poll().await?;
        if opened.status != 410 || opened.token.is_empty() {
            let (status, body) = (opened.status, Bytes::new());
            return Err(ClientError::Refused { status, body });
        }
        let (sender, responses) = mpsc::channel(AHEAD);
        let polls = tokio::spawn(requests.clone().keep_polling(sender));
        Ok(Self {
            requests,
            polls,
            responses,
            rest: Vec::new(),
        })
    }

    pub(super) async fn send(&self, frames: &[Frame]) -> Result<(), ClientError> {
        if self.requests.dialect == Dialect::Phoenix011 {
            for frame in frames {
                taken(&self.requests.post_one(frame).await?)?;
            }
            return Ok(());
        }
        let answer = match frames {
            // The server splits an NDJSON body at line ends, and takes only JSON arrays and base64 there.
            [frame @ Frame::Text(text)] if !text.starts_with('[') || text.contains('\n') => {
                self.requests.post_one(frame).await?
            }
            frames => {
                let lines: Vec<String> = frames.iter().map(line).collect();
                let body = lines.join("\n").into();
                self.requests
                    .request(Method::POST, "application/x-ndjson", body)
                    .await?
            }
        };
        taken(&answer)
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, ClientError> {
        while self.rest.is_empty() {
            match self.responses.recv().await {
                Some(response) => self.rest.extend(response.into_iter().rev()),
                None => return Ok(Incoming::Closed { code: ABNORMAL }),
            }
        }
        Ok(self.rest.pop().expect("the loop leaves one"))
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        self.polls.abort();
    }
}

impl Requests {
    /// Polls until the session ends or the client is dropped.
    async fn keep_polling(self, responses: mpsc::Sender<Vec<Incoming>>) {
        loop {
            let response = match self.poll().await {
                Ok(Envelope { status: 204, .. }) => continue,
                Ok(Envelope {
                    status: 200, messages, ..
                }) => messages.iter().map(|text| Incoming::Frame(frame(text))).collect(),
                Ok(Envelope { status, .. }) => vec![Incoming::Closed { code: status }],
                Err(_) => vec![Incoming::Closed { code: ABNORMAL }],
            };
            let closed = matches!(response[..], [Incoming::Closed { .. }]);
            if responses.send(response).await.is_err() || closed {
                return;
            }
        }
    }

    /// Sends one message as the whole body.
    async fn post_one(&self, frame: &Frame) -> Result<Envelope, ClientError> {
        let body = match frame {
            Frame::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Frame::Binary(bytes) => bytes.clone(),
        };
        self.request(Method::POST, "application/json", body).await
    }

    async fn poll(&self) -> Result<Envelope, ClientError> {
        let envelope = self.request(Method::GET, "", Bytes::new()).await?;
        if !envelope.token.is_empty() {
            let (token, sig) = (envelope.token.clone(), envelope.sig.clone());
            *self.token.lock().expect("no holder panics") = Token { token, sig };
        }
        Ok(envelope)
    }

    async fn request(&self, method: Method, content_type: &str, body: Bytes) -> Result<Envelope, ClientError> {
        let Token { token, sig } = self.token.lock().expect("no holder panics").clone();
        let mut request = Request::builder().method(method).uri(&*self.url);
        if self.dialect == Dialect::Phoenix011 {
            // These clients send the token in the query: `null` at first, later text that needs no encoding.
            let separator = if self.url.contains('?') { '&' } else { '?' };
            let or_null = |text: String| if text.is_empty() { "null".to_owned() } else { text };
            let (token, sig) = (or_null(token), or_null(sig));
            request = request.uri(format!("{}{separator}token={token}&sig={sig}", self.url));
        } else if !token.is_empty() {
            request = request.header(TOKEN_HEADER, token);
        }
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let mut request = request.body(Full::new(body)).map_err(failed(REQUEST))?;
        request.headers_mut().extend(self.headers.clone());
        let response = self.http.request(request).await.map_err(unanswered)?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(failed(RESPONSE))?
            .to_bytes();
        if !status.is_success() {
            return Err(refused(status, body));
        }
        serde_json::from_slice(&body).map_err(failed(RESPONSE))
    }
}

fn taken(answer: &Envelope) -> Result<(), ClientError> {
    match answer.status {
        200 => Ok(()),
        status => Err(ClientError::NotTaken { status }),
    }
}

/// A frame as a line of an NDJSON body.
fn line(frame: &Frame) -> String {
    match frame {
        Frame::Text(text) => text.clone(),
        Frame::Binary(bytes) => STANDARD.encode(bytes),
    }
}

/// A frame from a response: a JSON string with its text, or a JSON object in the Phoenix 0.11 dialect.
fn frame(message: &RawValue) -> Frame {
    Frame::Text(serde_json::from_str(message.get()).unwrap_or_else(|_| message.get().to_owned()))
}

/// Why a request was not answered. That the TLS handshake failed says more than that the request did.
fn unanswered(error: legacy::Error) -> ClientError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(ClientError::Tls { source }) = error.downcast_ref() {
            let source = io::Error::new(source.kind(), source.to_string());
            return ClientError::Tls { source };
        }
        cause = error.source();
    }
    failed(REQUEST)(error)
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> ClientError {
    move |error| ClientError::transport(what)(error.into())
}
