//! A whole server: started in order, stopped in order.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::admin::{self, Admin};
use super::api;
use super::control::{Command, Service};
use super::endpoint::{self, ApiAccess, Board, Endpoint, Entrance};
use super::io::{self as io_threads, Acceptor, Entry, Inboxes};
use super::listen::{Listeners, listeners, prepare};
use super::routing::Routing;
use super::state::State;
use super::{Builder, StartError};
use crate::config::api_secret::ApiSecrets;
use crate::config::secret::SecretKeyBase;
use crate::config::trust::{self, Use};
use crate::config::{self, Config, Mode};
use crate::runtime::plugin::crash;
use crate::runtime::plugin::kept::Kept;
use crate::runtime::plugin::manager::{Occasion, Plugins, Prepared};
use crate::runtime::plugin::pipeline::Pipeline;
use crate::runtime::plugin::quarantine::Quarantine;
use crate::runtime::plugin::stage::StageFolder;
use crate::runtime::plugin::step::{Refusal, Step};
use crate::runtime::plugin::watchdog::{self, Running};
use crate::runtime::plugin::{Hub, PluginSlot};
use crate::runtime::pubsub::PubSub;
use crate::runtime::timers::Timers;

/// The running program, whatever has become of its file.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The folders in the state folder.
const STATE_FOLDERS: [&str; 3] = ["quarantine", "libraries", "reports"];
/// How long threads have to end after all connections are closed.
const GRACE: Duration = Duration::from_millis(500);
/// How often a library is probed again at the start, if its probe was killed from outside.
const PROBES_AT_START: u32 = 3;
/// After so long it is said for which handlers the end waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// A running server. Takes clients once it [runs](Self::run_until).
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    api: Option<api::Running>,
    /// The way to change plugins.
    service: Service,
    endpoint: Arc<Endpoint>,
    acceptor: Acceptor,
    threads: Vec<JoinHandle<()>>,
    plugins: JoinHandle<()>,
    /// Where libraries are staged.
    staging: StageFolder,
}

impl Server {
    /// A server with this configuration, which can still be told more before it starts.
    #[must_use]
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Finds out early whether the addresses are free: before what takes its time.
    ///
    /// # Errors
    ///
    /// If one of them is not.
    pub(crate) fn try_addresses(config: &Config, mode: Mode) -> Result<(), StartError> {
        listeners(config, mode).map(drop)
    }

    /// Starts everything: listeners first, as a taken port is the commonest mistake, then plugins, then I/O threads.
    pub(super) async fn start(builder: Builder) -> Result<Self, StartError> {
        let Builder {
            config,
            mode,
            built,
            follower,
            set_log_level,
        } = builder;
        let Listeners {
            clients: listener,
            admin,
            api,
        } = listeners(&config, mode)?;
        prepare(&listener, &config)?;
        if api.is_some() {
            config
                .api
                .keys
                .iter()
                .try_for_each(|key| ApiSecrets::obtain(key).map(drop))?;
        }
        let admin = match admin {
            Some(listener) => {
                let secret = admin::secret(listener.local_addr()?)?;
                Some((listener, secret))
            }
            None => None,
        };
        let secret = SecretKeyBase::obtain(&config, mode)?;
        if secret.generated {
            // Only in `dev`, where it is as it should be.
            tracing::info!("no secret_key_base: one was made for this run, long-poll sessions end with it");
        }
        let prepared: Vec<_> = (0..config.server.io_threads.get())
            .map(|_| io_threads::prepare(config.limits.max_inbox_bytes))
            .collect::<io::Result<_>>()?;
        let inboxes = Inboxes::new(prepared.iter().map(|thread| Arc::clone(&thread.inbox)).collect());
        let hub = Arc::new(Hub::new(PubSub::new(inboxes.outlets()), Timers::start()?));
        watchdog::start(&hub, mode)?;

        let (pipeline, staging) = pipeline(&config)?;
        let quarantine = Arc::clone(&pipeline.quarantine);
        crash::start(&config.server.state_dir, &pipeline.quarantine);
        let mut plugins = Plugins::new(Arc::clone(&hub), pipeline);
        let mut not_built = Vec::new();
        for (name, built) in built {
            match built {
                Ok(library) => plugins.set_built(&name, library),
                Err(refusal) => not_built.push((name, refusal)),
            }
        }
        load_all(&mut plugins, &config, mode)?;
        for (name, refusal) in not_built {
            plugins.not_built(&name, refusal);
        }
        let config = Arc::new(config);
        let routing = Arc::new(Routing::new(Arc::clone(&config), plugins.slots()));
        let dev = (mode == Mode::Dev).then(Board::new);
        let state = Arc::new(State::new(hub, routing, inboxes.count()));
        let endpoint = Endpoint::new(Arc::clone(&state), inboxes, secret, dev);
        let endpoint = Arc::new(endpoint.map_err(io::Error::other)?);
        let threads = prepared
            .into_iter()
            .enumerate()
            // The configuration allows 255 threads at most.
            .map(|(index, thread)| {
                let app = endpoint::app(Arc::clone(&endpoint));
                thread.start(index as u8, Arc::clone(&state), app)
            })
            .collect::<io::Result<_>>()?;
        let (service, plugins) = Service::start(plugins, Arc::clone(&endpoint), mode, follower, set_log_level)?;
        let address = listener.local_addr()?;
        let admin_address = admin
            .map(|(listener, secret)| {
                let admin = Admin {
                    state: Arc::clone(&state),
                    service: service.clone(),
                    quarantine,
                    listen: listener.local_addr()?.ip(),
                };
                serve_admin(listener, secret, admin)
            })
            .transpose()?;
        let api = api.map(|listener| start_api(listener, &endpoint)).transpose()?;
        Ok(Self {
            address,
            admin_address,
            api,
            service,
            endpoint,
            acceptor: Acceptor::new(listener.into_std()?)?,
            threads,
            plugins,
            staging,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin pages are, if they are.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Where backends reach the API, if it is on.
    #[must_use]
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api.as_ref().map(|api| api.address)
    }

    /// The way to change plugins.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// The routing as it is now.
    #[must_use]
    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.endpoint.state.routing()
    }

    /// The way in for clients that come by a transport of one's own. Good for as long as the host runs.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance::new(Arc::clone(&self.endpoint))
    }

    /// The way to the routing as it will be.
    pub(crate) fn current_routing(&self) -> impl Fn() -> Arc<Routing> + Send + 'static {
        let state = Arc::clone(&self.endpoint.state);
        move || state.routing()
    }

    /// Takes clients until `stop` is done. Then closes their connections in batches, as `[server]` says, ends the plugins, and
    /// returns.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        let (said, stopped) = mpsc::unbounded_channel();
        let say = async move {
            stop.await;
            let _ = said.send(());
            // The sender stays: a channel that ends would say it a second time.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.run(stopped) => {}
            () = say => {}
        }
    }

    /// Takes connections until `stop` says so, then lets those that are there go, in batches. If it says so again while that
    /// lasts, that ends at once.
    pub(crate) async fn run(self, mut stop: mpsc::UnboundedReceiver<()>) {
        loop {
            tokio::select! {
                () = self.acceptor.accept(|stream, peer| self.hand_over(stream, peer)) => {}
                _ = stop.recv() => break,
            }
        }
        tokio::select! {
            () = self.drain() => {}
            _ = stop.recv() => tracing::warn!("stopping at once"),
        }
    }

    fn hand_over(&self, stream: TcpStream, peer: SocketAddr) {
        // A little above the limit there is still an answer, 503; far above it, none.
        if self.endpoint.state.is_flooded() {
            self.endpoint.state.refuse_as_full();
            return;
        }
        let thread = self.endpoint.state.idlest();
        self.endpoint.state.acquire(thread);
        if let Some(inbox) = self.endpoint.inboxes.get(usize::from(thread)) {
            inbox.push_now(Entry::Accept(stream, peer));
        }
    }

    /// Closes connections in batches, has plugins end their members, and ends all threads.
    async fn drain(self) {
        let Self {
            endpoint,
            acceptor,
            threads,
            plugins,
            service,
            staging,
            api,
            ..
        } = self;
        drop(acceptor);
        let state = &endpoint.state;
        state.stop();
        // Its thread answers the requests at work, and nobody waits here for that.
        let api = tokio::task::spawn_blocking(move || drop(api));
        let server = state.routing().config.server.clone();
        let deadline = Instant::now() + server.shutdown_timeout;
        let batch = server.drain_batch_size.div_ceil(threads.len()).max(1);
        let in_batches = async {
            while drain_some(&endpoint.inboxes, batch).await > 0 {
                tokio::time::sleep(server.drain_batch_interval).await;
            }
        };
        if timeout_at(deadline, in_batches).await.is_err() {
            tracing::warn!("not all connections were drained in time, the rest is closed at once");
            endpoint
                .inboxes
                .send_all(|| Entry::Drain(usize::MAX, mpsc::unbounded_channel().0));
        }
        service.send(Command::Stop(deadline.into_std()));
        // A handler that does not return keeps its thread; it must not keep the process.
        let mut ended = tokio::task::spawn_blocking(move || drop(plugins.join()));
        if timeout(PATIENCE, &mut ended).await.is_err() {
            say_awaited(&state.hub, deadline);
            if timeout_at(deadline + GRACE, ended).await.is_err() {
                tracing::warn!("a plugin did not end in time");
            }
        }
        endpoint.inboxes.send_all(|| Entry::Stop);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = timeout_at(deadline + GRACE * 2, ended).await;
        let _ = timeout_at(deadline + GRACE * 2, api).await;
        state.hub.timers.stop();
        drop(staging);
        tracing::info!("stopped");
    }
}

/// Says which handlers keep the host from its end.
fn say_awaited(hub: &Hub, deadline: Instant) {
    let seconds = deadline.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
    for running in hub.watchdog.running() {
        let Running {
            plugin,
            callback,
            topic,
            event,
        } = running;
        tracing::warn!(
            plugin,
            topic,
            callback,
            event,
            "stopping waits up to {seconds} s for this handler to return: a second signal (or q) stops at once"
        );
    }
}

/// Closes up to `batch` connections on each I/O thread. Returns how many are left.
async fn drain_some(inboxes: &Inboxes, batch: usize) -> usize {
    let (said, mut left) = mpsc::unbounded_channel();
    inboxes.send_all(|| Entry::Drain(batch, said.clone()));
    drop(said);
    let mut open = 0;
    while let Some(more) = left.recv().await {
        open += more;
    }
    if open > 0 {
        tracing::info!(open, "draining");
    }
    open
}

/// Starts the API. In `dev`, with a key that the page shows.
fn start_api(listener: TcpListener, endpoint: &Arc<Endpoint>) -> io::Result<api::Running> {
    let Some(board) = &endpoint.dev else {
        return api::start(listener, Arc::clone(endpoint), None);
    };
    let made_up = api::made_up_key(&endpoint.state.routing().config.server.state_dir);
    let made_up = made_up
        .inspect_err(|error| tracing::warn!(%error, "no key for the API can be made up"))
        .ok();
    let running = api::start(listener, Arc::clone(endpoint), made_up.as_deref())?;
    if let Some(key) = made_up {
        let address = running.address;
        board.set_api(ApiAccess { address, key });
    }
    Ok(running)
}

fn serve_admin(listener: TcpListener, secret: Option<String>, admin: Admin) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let app = admin::app(admin, secret);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the admin listener has failed"
            );
        }
    });
    Ok(address)
}

/// The steps that check libraries, and the folder that they are staged in.
///
/// # Errors
///
/// If other users can change a folder that libraries are loaded from, or no library can be loaded from there.
pub(crate) fn pipeline(config: &Config) -> Result<(Pipeline, StageFolder), StartError> {
    let server = &config.server;
    trust::check(&server.state_dir, Use::State)?;
    for inner in STATE_FOLDERS {
        trust::check(&server.state_dir.join(inner), Use::State)?;
    }
    let dir = server.stage_dir.clone().unwrap_or_else(std::env::temp_dir);
    trust::check(&dir, Use::Stage)?;
    let staging = StageFolder::make(&dir).map_err(|source| StartError::Stage {
        folder: dir.clone(),
        source,
    })?;
    if staging.is_noexec() {
        return Err(StartError::NoExec { folder: dir });
    }
    let pipeline = Pipeline {
        // Not `current_exe`: an update may have put another program at that path since this one started.
        exe: config.program.clone().unwrap_or_else(|| OWN_PROGRAM.into()),
        stage_dir: staging.path().to_owned(),
        quarantine: Arc::new(Quarantine::new(&server.state_dir, server.max_quarantined)),
        kept: Kept::new(&server.state_dir, server.max_kept_libraries),
        config: config.file.clone(),
        reports: Some(server.state_dir.join("reports")),
    };
    Ok((pipeline, staging))
}

fn load_all(plugins: &mut Plugins, config: &Config, mode: Mode) -> Result<(), StartError> {
    for (name, wanted) in &config.plugins {
        let slot = plugins.add(name, wanted);
        let Some(library) = plugins.library(name, wanted) else {
            continue;
        };
        match prepare_patiently(plugins, &slot, &library, wanted) {
            Ok(prepared) => {
                let done = prepared.and_then(|prepared| plugins.put_in_service(prepared));
                if let Some(loaded) = done {
                    loaded.announce();
                }
            }
            Err(refusal) => refuse(&slot, config, &refusal, mode)?,
        }
    }
    Ok(())
}

/// Prepares a library. One whose probe somebody else has killed gets another chance before the start fails.
fn prepare_patiently(
    plugins: &mut Plugins,
    slot: &Arc<PluginSlot>,
    library: &Path,
    config: &config::Plugin,
) -> Result<Option<Prepared>, Refusal> {
    let mut wait = Duration::from_secs(1);
    for _ in 0..config.probe_retries.min(PROBES_AT_START) {
        match plugins.prepare(slot, library, config, Occasion::Needed) {
            Err(refusal) if refusal.may_pass && refusal.step == Step::Probe => {
                let again_in_s = wait.as_secs();
                tracing::warn!(plugin = slot.name, again_in_s, "the probe failed: {}", refusal.message);
                std::thread::sleep(wait);
                wait *= 2;
            }
            done => return done,
        }
    }
    plugins.prepare(slot, library, config, Occasion::Needed)
}

fn refuse(slot: &PluginSlot, config: &Config, refusal: &Refusal, mode: Mode) -> Result<(), StartError> {
    let message = refusal.shown(config, &slot.name);
    // One plugin that crashed, and was never good, does not keep the others from being served.
    if mode == Mode::Serve && refusal.code != "quarantined" {
        return Err(StartError::Plugin {
            plugin: slot.name.clone(),
            step: refusal.step.name(),
            message,
        });
    }
    tracing::error!(
        plugin = slot.name,
        step = refusal.step.name(),
        code = refusal.code,
        "plugin refused: {message}"
    );
    Ok(())
}
