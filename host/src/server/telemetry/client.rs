//! Posts requests over HTTP and HTTPS. Blocks its thread, which is the exporter's own.

use std::future::{Future, ready};
use std::io::Read as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};

use crate::config::Telemetry;

/// The longest answer of a collector, in bytes. What it says beyond that is left out.
const MOST_ANSWER: u64 = 65_536;

/// An HTTP client, and why its last request failed: `opentelemetry-otlp` does not tell.
#[derive(Clone, Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Client {
    pub(super) fn new(settings: &Telemetry) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            // An address that leads elsewhere is not the one that the operator trusts with what the headers say.
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            trouble: Arc::default(),
        }
    }

    /// Why the last request failed.
    pub(super) fn take_trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(parts, &*body))?;
        let (parts, mut body) = response.into_parts();
        let mut answer = Vec::new();
        body.as_reader().take(MOST_ANSWER).read_to_end(&mut answer)?;
        Ok(Response::from_parts(parts, answer.into()))
    }
}

impl HttpClient for Client {
    fn send_bytes<'client, 'sent>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'client: 'sent,
        Self: 'sent,
    {
        let posted = self.post(request);
        let trouble = match &posted {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers with the status {}", response.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        Box::pin(ready(posted))
    }
}
