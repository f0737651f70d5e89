//! Frames over long polling: a task polls as long as the client lives, so that its session does too.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{ClientError, Dialect, Frame, Incoming, Options};

/// Where the token travels: in the query it would reach the logs of proxies.
const TOKEN_HEADER: &str = "x-phoenix-longpoll-token";
/// Responses that wait for [`LongPoll::next`]; the task polls no further then.
const AHEAD: usize = 16;
/// As for a WebSocket that went without a goodbye.
const ABNORMAL: u16 = 1006;

/// A session.
#[derive(Debug)]
pub(super) struct LongPoll {
    requests: Requests,
    polls: JoinHandle<()>,
    responses: mpsc::Receiver<Vec<Incoming>>,
    /// What the last response still holds, the next one last.
    rest: Vec<Incoming>,
}

#[derive(Clone, Debug)]
struct Requests {
    http: Http<HttpConnector, Full<Bytes>>,
    url: Arc<str>,
    headers: HeaderMap,
    dialect: Dialect,
    /// The newest, which is also the ack of what came with it.
    token: Arc<Mutex<Token>>,
}

/// What a session is found by.
#[derive(Clone, Debug, Default)]
struct Token {
    token: String,
    /// In the seeds' dialect only.
    sig: String,
}

/// A response.
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
            http: Http::builder(TokioExecutor::new()).build_http(),
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
        let polls = tokio::spawn(requests.clone().poll_on(sender));
        Ok(Self {
            requests,
            polls,
            responses,
            rest: Vec::new(),
        })
    }

    pub(super) async fn send(&self, frames: &[Frame]) -> Result<(), ClientError> {
        if self.requests.dialect == Dialect::Seeds {
            for frame in frames {
                taken(&self.requests.post_one(frame).await?)?;
            }
            return Ok(());
        }
        let answer = match frames {
            // Only whole bodies take text with line ends, and text that looks like no message.
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
        Ok(self.rest.pop().expect("there is one"))
    }
}

impl Drop for LongPoll {
    fn drop(&mut self) {
        self.polls.abort();
    }
}

impl Requests {
    /// Polls until the session ends, or nobody listens.
    async fn poll_on(self, responses: mpsc::Sender<Vec<Incoming>>) {
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

    /// Sends one message as it is.
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
        if self.dialect == Dialect::Seeds {
            // Such clients write it into the query, the first time as `null`. It needs no encoding.
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
        let mut request = request.body(Full::new(body)).map_err(failed("request"))?;
        request.headers_mut().extend(self.headers.clone());
        let response = self.http.request(request).await.map_err(failed("request"))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(failed("response"))?
            .to_bytes();
        if !status.is_success() {
            return Err(super::status_of(status, body));
        }
        serde_json::from_slice(&body).map_err(failed("response"))
    }
}

fn taken(answer: &Envelope) -> Result<(), ClientError> {
    match answer.status {
        200 => Ok(()),
        status => Err(ClientError::NotTaken { status }),
    }
}

/// A frame as a line of a request.
fn line(frame: &Frame) -> String {
    match frame {
        Frame::Text(text) => text.clone(),
        Frame::Binary(bytes) => STANDARD.encode(bytes),
    }
}

/// A frame out of a response: a string that holds its text, or an object of the seeds' dialect.
fn frame(message: &RawValue) -> Frame {
    Frame::Text(serde_json::from_str(message.get()).unwrap_or_else(|_| message.get().to_owned()))
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> ClientError {
    move |error| ClientError::transport(what)(error.into())
}
