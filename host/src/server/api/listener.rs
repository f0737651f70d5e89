//! The thread of the API: accepts connections, and serves HTTP on them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Api, gate};
use crate::runtime::threads;
use crate::runtime::wake::{self, PutOff};
use crate::server::ambiguous::HadContentLength;
use crate::server::endpoint::Endpoint;
use crate::server::io::LazyStream;

/// How often the secrets of keys are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long requests at work have to be answered when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After a failure to accept, such as too many open files.
const BREATH: Duration = Duration::from_millis(50);

/// A running API. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where it is.
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the API on a thread of its own. `made_up` is the secret of a key that may do everything, for `dev`.
///
/// # Errors
///
/// If the system gives no thread, or the listener cannot move to it.
pub(crate) fn start(listener: TcpListener, endpoint: Arc<Endpoint>, made_up: Option<&str>) -> io::Result<Running> {
    let address = listener.local_addr()?;
    let listener = listener.into_std()?;
    let api = Arc::new(Api::new(endpoint, address, made_up));
    // All requests that are ready go on before the I/O threads are woken: those then find the messages of all of them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(wake::now)
        .build()?;
    let (stop, stopped) = watch::channel(false);
    let thread = threads::try_spawn("api", move || {
        let accepting = async { accept(api, TcpListener::from_std(listener)?, stopped).await };
        wake::together(PutOff::All, || runtime.block_on(accepting))
    })?;
    Ok(Running {
        address,
        stop,
        thread: Some(thread),
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(api: Arc<Api>, listener: TcpListener, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let reached = Arc::clone(&api.reached);
    let telling = tokio::spawn(async move { reached.tell_all().await });
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => begin(&api, stream, peer, &open, &stopped),
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                }
            },
            _ = look.tick() => {
                // The thread may have so much to do that it never parks.
                wake::now();
                api.keys.refresh(&api.config().api);
            }
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    let all_closed = async {
        while open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, all_closed).await;
    telling.abort();
    Ok(())
}

/// Serves a connection, unless there are too many.
fn begin(
    api: &Arc<Api>,
    stream: TcpStream,
    peer: SocketAddr,
    open: &Arc<AtomicUsize>,
    stopped: &watch::Receiver<bool>,
) {
    let place = Place::take(api, open);
    if open.load(Ordering::Relaxed) > api.config().api.max_connections {
        api.metrics.refused("connections");
        api.say_refused("none", None, "connections", peer);
        return;
    }
    let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else {
        return;
    };
    let (api, stopped) = (Arc::clone(api), stopped.clone());
    tokio::spawn(async move {
        serve(api, stream, peer, stopped).await;
        drop(place);
    });
}

/// Serves one connection until it ends, or the server stops and its request is answered.
async fn serve(api: Arc<Api>, stream: std::net::TcpStream, peer: SocketAddr, mut stopped: watch::Receiver<bool>) {
    let config = api.config();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.api.idle_timeout)
        // hyper takes no buffer below 8 KiB.
        .max_buf_size(config.api.max_header_bytes.max(8192));
    let stream = LazyStream::alone(stream, config.api.response_timeout);
    let content_length = stream.content_length();
    let service = service_fn(move |mut request| {
        if content_length.is_seen() {
            request.extensions_mut().insert(HadContentLength);
        }
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(gate::serve(api, peer, request).await) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(
            error = &error as &dyn std::error::Error,
            "a connection of the API ended badly"
        );
    }
}

/// One of the connections, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Api>, Arc<AtomicUsize>);

impl Place {
    fn take(api: &Arc<Api>, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        api.metrics.connections.inc();
        Self(Arc::clone(api), Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}
