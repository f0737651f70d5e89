//! The thread that sends spans.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::SpanExporter as _;
use tokio::sync::oneshot;

use super::client::Client;
use super::{convert, headers};
use crate::config::Telemetry;
use crate::runtime::threads;
use crate::runtime::trace::{Finished, Tracer};

/// How often the log says that spans are lost.
const PAUSE: Duration = Duration::from_secs(10);

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The file of headers cannot be read.
    #[error("cannot read the headers for the collector from {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of the headers is none.
    #[error("header {number} in {from} is not of the form `{shape}`")]
    Header {
        /// The variable or the file.
        from: String,
        /// Its place there, or its line, from 1.
        number: usize,
        /// What it should be.
        shape: &'static str,
    },
    /// A variable of OpenTelemetry asks for something that this build does not have, most often.
    #[error("no traces can be sent: {0}")]
    Otlp(String),
}

/// Sends spans, on a thread of its own. When this is dropped, the thread sends what is left and ends.
#[derive(Debug)]
pub(crate) struct Exporter {
    tracer: Arc<Tracer>,
    /// For the thread, until it starts.
    sender: Option<Sender>,
    /// Tells that the thread has ended.
    ended: Option<oneshot::Receiver<()>>,
}

impl Exporter {
    /// Reads what it needs.
    ///
    /// # Errors
    ///
    /// If there is no way to the collector. Whether that is there shows later, and keeps nobody.
    pub(crate) fn prepare(settings: &Telemetry) -> Result<Self, TelemetryError> {
        let client = Client::new(settings);
        let mut otlp = Otlp::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_endpoint(&settings.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(settings.timeout)
            .with_headers(headers::obtain(settings)?)
            .build()
            .map_err(|error| TelemetryError::Otlp(error.to_string()))?;
        otlp.set_resource(&convert::resource(settings));
        let tracer = Arc::new(Tracer::new(settings.clone()));
        let sender = Sender {
            tracer: Arc::clone(&tracer),
            otlp,
            client,
            scope: convert::scope(),
            trouble: Trouble::default(),
        };
        Ok(Self {
            tracer,
            sender: Some(sender),
            ended: None,
        })
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system gives none.
    pub(crate) fn start(mut self) -> io::Result<Self> {
        if let Some(sender) = self.sender.take() {
            let (ends, ended) = oneshot::channel();
            self.ended = Some(ended);
            threads::spawn("telemetry", move || {
                sender.run();
                // The server may not wait any more.
                let _ = ends.send(());
            })?;
        }
        Ok(self)
    }

    /// What begins the spans that it sends.
    pub(crate) fn tracer(&self) -> Arc<Tracer> {
        Arc::clone(&self.tracer)
    }

    /// Waits until the last spans are sent, for `flush_timeout_ms` at most.
    pub(crate) async fn finish(mut self) {
        let (most, ended) = (self.tracer.settings().flush_timeout, self.ended.take());
        self.tracer.queue().close();
        let Some(ended) = ended else { return };
        if tokio::time::timeout(most, ended).await.is_err() {
            let waiting = self.tracer.queue().len();
            tracing::warn!(
                waiting,
                "the collector did not take the last spans within `flush_timeout_ms`: they are lost"
            );
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.tracer.queue().close();
    }
}

/// What the thread works with.
struct Sender {
    tracer: Arc<Tracer>,
    otlp: Otlp,
    client: Client,
    scope: InstrumentationScope,
    trouble: Trouble,
}

/// What the log has said of spans that are lost.
#[derive(Debug, Default)]
struct Trouble {
    /// When it last said so.
    said: Option<Instant>,
    /// How many spans were lost by then: because the collector did not take them, and because too many waited.
    lost: (u64, u64),
    /// The collector takes none at the moment.
    is_refused: bool,
}

/// Without the headers, which are secret.
impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    fn run(mut self) {
        let interval = self.tracer.settings().interval;
        while let Some(batch) = self.tracer.queue().take(interval) {
            if !batch.is_empty() {
                self.send(batch);
            }
            self.say();
        }
    }

    fn send(&mut self, batch: Vec<Finished>) {
        let many = batch.len() as u64;
        let spans = batch.into_iter().map(|finished| convert::span(finished, &self.scope));
        // The client blocks, and so does the wait before it tries again: the future is done at the first look.
        let exported = self.otlp.export(spans.collect()).now_or_never();
        let counts = &self.tracer.counts;
        match exported {
            Some(Ok(())) => {
                counts.exported.inc_by(many);
                if std::mem::take(&mut self.trouble.is_refused) {
                    tracing::info!("the collector takes spans again");
                }
            }
            _ => {
                counts.refused.inc_by(many);
                self.trouble.is_refused = true;
            }
        }
    }

    /// Says what was lost since it last did, at most every 10 seconds.
    fn say(&mut self) {
        let counts = &self.tracer.counts;
        let lost = (counts.refused.get(), counts.full.get());
        let is_early = self.trouble.said.is_some_and(|said| said.elapsed() < PAUSE);
        if lost == self.trouble.lost || is_early {
            return;
        }
        let (refused, full) = (lost.0 - self.trouble.lost.0, lost.1 - self.trouble.lost.1);
        (self.trouble.said, self.trouble.lost) = (Some(Instant::now()), lost);
        let endpoint = &self.tracer.settings().endpoint;
        let why = self.client.take_trouble();
        tracing::warn!(
            endpoint,
            refused,
            full,
            why,
            "spans are lost: the collector does not take them, or not fast enough. Clients notice nothing"
        );
    }
}
