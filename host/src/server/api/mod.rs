//! The API for backends: publish, disconnect, ask and list, over HTTP with bearer keys. `host/docs/backends.md` describes it.
//!
//! It has a listener, a thread and a tokio runtime of its own. A request that is slow or huge holds up other requests, and never an
//! I/O thread, a shard or the control thread.
//!
//! A request passes these steps, and each of them can answer it:
//!
//! 1. [`gate`]: host, key, and room for one more request.
//! 2. [`verbs`]: which verb it asks for, and whether the key allows that.
//! 3. [`body`]: what it brings, within limits.
//! 4. [`idempotency`]: whether it came before.
//! 5. The verb: [`broadcast`], [`call`], [`disconnect`], [`read`] with what is [`here`] and at other [`nodes`].

mod answer;
mod body;
mod broadcast;
mod call;
mod disconnect;
mod gate;
mod here;
mod idempotency;
mod keys;
mod listener;
mod made_up;
pub(crate) mod metrics;
pub(crate) mod nodes;
mod openapi;
mod read;
mod verbs;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, watch};

use self::answer::{Answer, Reason, Refusal};
use self::idempotency::Remembered;
use self::keys::Keys;
use self::listener::Stage;
use self::metrics::ApiMetrics;
use self::verbs::Verb;
use super::endpoint::Endpoint;
use super::routing::Routing;
use crate::config::{self, ApiKey, Config};
use crate::runtime::reach::Reached;
use crate::runtime::throttle::LogThrottle;
use crate::runtime::trace::Traced;
use crate::runtime::wake;

pub(crate) use self::listener::{Running, start};
pub(crate) use self::made_up::{made_up_key, noted_key};

/// Part of what an I/O thread's inbox takes. So much of it messages of backends may fill together, so that plugins have the rest.
const INBOX_PART: usize = 4;

/// A body that takes its time to be read.
const LARGE: usize = 16 * 1024;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Api {
    endpoint: Arc<Endpoint>,
    address: SocketAddr,
    keys: Keys,
    metrics: Arc<ApiMetrics>,
    remembered: Arc<Remembered>,
    /// Requests at work, besides calls.
    running: AtomicUsize,
    /// Calls at work. They wait for plugins, and must not keep others from publishing.
    calling: AtomicUsize,
    /// How far it is on its way to its end.
    stage: watch::Sender<Stage>,
    /// Limits how often the log says that requests are refused.
    refused: Mutex<LogThrottle<&'static str>>,
    /// Who heard what was sent, as I/O threads tell it.
    reached: Arc<Reached>,
    /// Bytes of messages that may still be sent before I/O threads have delivered earlier ones.
    room: Arc<Semaphore>,
    /// How many bytes that were at first.
    room_bytes: u32,
}

/// A request that may be carried out.
#[derive(Clone, Debug)]
struct Asked {
    api: Arc<Api>,
    /// As it was when the request came.
    routing: Arc<Routing>,
    key: Arc<ApiKey>,
    verb: &'static Verb,
    /// The rest of the path, decoded: the name of a topic.
    name: String,
    query: String,
    body: Bytes,
    /// Its span, if it is traced.
    trace: Traced,
}

impl Api {
    /// The API at this address. `made_up` is the secret of a key that may do everything, for `dev`.
    fn new(endpoint: Arc<Endpoint>, address: SocketAddr, made_up: Option<&str>) -> Self {
        let routing = endpoint.state.routing();
        let room_bytes = routing.config.limits.max_inbox_bytes / INBOX_PART;
        let room_bytes = u32::try_from(room_bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let keys = Keys::new(made_up);
        keys.refresh(&routing.config.api);
        let metrics = Arc::clone(&endpoint.state.api);
        Self {
            endpoint,
            address,
            keys,
            metrics,
            remembered: Arc::default(),
            running: AtomicUsize::new(0),
            calling: AtomicUsize::new(0),
            stage: watch::Sender::new(Stage::Serves),
            refused: Mutex::default(),
            reached: Arc::default(),
            room: Arc::new(Semaphore::new(room_bytes as usize)),
            room_bytes,
        }
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.endpoint.state.routing().config)
    }

    /// Waits until it is so far, as the server stops.
    async fn reaches(&self, stage: Stage) {
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// Logs that a request is refused, at most once a second for each reason. Never with what the request brought as its key.
    fn say_refused(&self, verb: &'static str, key: Option<&str>, reason: &'static str, peer: SocketAddr) {
        let mut refused = self.refused.lock().expect("no holder panics");
        let said = refused.say(reason, || (), Instant::now()).map(|((), more)| more);
        drop(refused);
        if let Some(more) = said {
            let more = (more > 0).then_some(more);
            tracing::warn!(verb, key, reason, peer = %peer, more, "API request refused");
        }
    }
}

impl Asked {
    /// Does what the verb says.
    async fn carry_out(self) -> Answer {
        answer_of(self.verb_answer()).await
    }

    async fn verb_answer(&self) -> Answer {
        if self.body.len() > LARGE {
            // What others have sent does not wait until this is read.
            wake::now();
        }
        let answer = match self.verb.name {
            verbs::BROADCAST => broadcast::carry_out(self).await,
            verbs::CALL => call::carry_out(self).await,
            verbs::DISCONNECT => disconnect::carry_out(self).await,
            verbs::TOPICS => read::topics(self).await,
            verbs::TOPIC => read::topic(self).await,
            verbs::CONNECTIONS => read::connections(self).await,
            _ => Ok(openapi::answer()),
        };
        answer.unwrap_or_else(|refusal| refusal.answer())
    }
}

/// Does the work. If it panics, the request is answered like others, and may have been carried out.
async fn answer_of(work: impl Future<Output = Answer>) -> Answer {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            let message = "the server itself has failed, see its log; it may have done what was asked";
            Poll::Ready(Refusal::new(Reason::Fault, message).answer())
        })
    })
    .await
}

/// One of the requests at work, until it is dropped.
#[derive(Debug)]
struct Work {
    api: Arc<Api>,
    is_call: bool,
}

impl Work {
    /// `None`: there are as many as there may be.
    fn begin(api: &Arc<Api>, verb: &Verb, config: &config::Api) -> Option<Self> {
        let work = Self {
            api: Arc::clone(api),
            is_call: verb.name == verbs::CALL,
        };
        let most = if work.is_call {
            config.max_calls
        } else {
            config.max_concurrent
        };
        let running = work.count().fetch_add(1, Ordering::Relaxed);
        work.gauge().inc();
        (running < most).then_some(work)
    }

    fn count(&self) -> &AtomicUsize {
        if self.is_call {
            &self.api.calling
        } else {
            &self.api.running
        }
    }

    fn gauge(&self) -> &Gauge {
        let metrics = &self.api.metrics;
        if self.is_call {
            &metrics.calling
        } else {
            &metrics.running
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
        self.gauge().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_counts_as_carried_out() {
        let answer = answer_of(async { panic!("a fault of the server") }).await;
        assert_eq!((answer.status.as_u16(), answer.reason), (502, Some("fault")));
        assert!(!answer.did_nothing, "so it is remembered");
    }
}
