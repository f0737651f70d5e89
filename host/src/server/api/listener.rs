//! The thread of the API: accepts connections, and serves HTTP on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::{Api, gate};
use crate::runtime::threads;
use crate::runtime::wake::{self, PutOff};
use crate::server::accept_trouble::{AcceptTrouble, PAUSE};
use crate::server::endpoint::Endpoint;
use crate::server::io::{self as io_threads, Bounds, HttpStream};

/// How often the secrets of keys are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long the answers to requests have to leave when the time of these is up.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How far the API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Serves,
    /// Requests at work are answered, and no others.
    Finishes,
    /// Calls that still wait for plugins are over.
    LastWords,
    Ends,
}

/// A running API. Dropping it ends its thread, and cuts off requests at work.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where it is.
    pub(crate) address: SocketAddr,
    stage: watch::Sender<Stage>,
    ended: oneshot::Receiver<()>,
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
    let stage = api.stage.clone();
    // All requests that are ready go on before the I/O threads are woken: those then find the messages of all of them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(wake::now)
        .build()?;
    let (say_ended, ended) = oneshot::channel();
    let thread = threads::try_spawn("api", move || {
        let _say_ended = say_ended;
        let accepting = async { accept(api, TcpListener::from_std(listener)?).await };
        wake::together(PutOff::All, || runtime.block_on(accepting))
    })?;
    Ok(Running {
        address,
        stage,
        ended,
        thread: Some(thread),
    })
}

impl Running {
    /// Takes no more requests.
    pub(crate) fn finish(&self) {
        self.stage.send_replace(Stage::Finishes);
    }

    /// Waits until the requests that were at work are answered, for `shutdown_timeout_ms` at most.
    pub(crate) async fn finished(&mut self) {
        // The sender is dropped.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Ends);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(api: Arc<Api>, listener: TcpListener) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let reached = Arc::clone(&api.reached);
    let telling = tokio::spawn(async move { reached.tell_all().await });
    let mut trouble = AcceptTrouble::of("the API");
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    trouble.went_well();
                    begin(&api, stream, peer, &open);
                }
                Err(error) => {
                    trouble.failed(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            },
            _ = look.tick() => {
                // The thread may have so much to do that it never parks.
                wake::now();
                api.keys.refresh(&api.config().api);
            }
            () = api.reaches(Stage::Finishes) => break,
        }
    }
    drop(listener);
    let all_closed = async {
        while open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = all_closed => {}
        () = last_words(&api) => {}
        () = api.reaches(Stage::Ends) => {}
    }
    telling.abort();
    Ok(())
}

/// Ends calls that still wait for plugins shortly before the server's time is up, and lets the answers leave.
async fn last_words(api: &Api) {
    let all = api.config().server.shutdown_timeout;
    let last = LAST_WORDS.min(all / 2);
    tokio::time::sleep(all - last).await;
    api.stage.send_replace(Stage::LastWords);
    tokio::time::sleep(last).await;
}

/// Serves a connection, unless there are too many.
fn begin(api: &Arc<Api>, stream: TcpStream, peer: SocketAddr, open: &Arc<AtomicUsize>) {
    let place = Place::take(api, open);
    if open.load(Ordering::Relaxed) > api.config().api.max_connections {
        api.metrics.refused("connections");
        api.say_refused("none", None, "connections", peer);
        return;
    }
    let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else {
        return;
    };
    let config = api.config();
    let bounds = Bounds {
        max_head_bytes: config.api.max_header_bytes,
        head: config.api.header_timeout,
        idle: config.api.idle_timeout,
        write: config.api.response_timeout,
    };
    let (api, stopping) = (Arc::clone(api), Arc::clone(api));
    let answer = move |request| {
        let api = Arc::clone(&api);
        async move {
            let response = gate::serve(Arc::clone(&api), peer, request).await;
            (response.map(Body::new), api.endpoint.state.is_stopping())
        }
    };
    let stopped = async move { stopping.reaches(Stage::Finishes).await };
    tokio::spawn(async move {
        io_threads::serve(HttpStream::plain(stream, &bounds), bounds, answer, stopped).await;
        drop(place);
    });
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
