//! A whole server: it starts its parts in order, and stops them in order.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::accepting::{self, acceptors};
use super::admin::{self, Admin};
use super::admin_listener;
use super::answers::FromHere;
use super::api;
use super::auth::{BadKeys, Guards, LABELS};
use super::control::{Command, Service};
use super::endpoint::{self, ApiAccess, Board, Endpoint, Entrance};
use super::io::{self as io_threads, Acceptor, Entry, Inboxes};
use super::listen::{Listeners, Listening, SocketFile, listeners, prepare};
use super::pulse::Pulse;
use super::routing::Routing;
use super::state::State;
use super::telemetry::Exporter;
use super::tls::{BadCertificate, Certificates};
use super::{Builder, Built, StartError};
use crate::cluster::Cluster;
use crate::config::api_secret::ApiSecrets;
use crate::config::secret::SecretKeyBase;
use crate::config::trust::{self, Use};
use crate::config::{self, At, Config, Durability, Mode};
use crate::runtime::plugin::crash;
use crate::runtime::plugin::kept::Kept;
use crate::runtime::plugin::manager::{Occasion, Plugins, Prepared};
use crate::runtime::plugin::pipeline::Pipeline;
use crate::runtime::plugin::quarantine::Quarantine;
use crate::runtime::plugin::stage::StageFolder;
use crate::runtime::plugin::step::{Rejection, Step};
use crate::runtime::plugin::watchdog::{self, Running};
use crate::runtime::plugin::{Hub, PluginSlot};
use crate::runtime::pubsub::PubSub;
use crate::runtime::store;
use crate::runtime::threads::{self, ThreadEnded};
use crate::runtime::timers::Timers;

/// The running program, whatever has become of its file.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The folders in the state folder.
const STATE_FOLDERS: [&str; 4] = ["quarantine", "libraries", "reports", STORE];
/// That of stored topics.
const STORE: &str = "topics";
/// How long threads have to end once all connections are closed.
const GRACE: Duration = Duration::from_millis(500);
/// How often a library is probed again at the start, if its probe was killed from outside.
const PROBES_AT_START: u32 = 3;
/// How long a node that stops has for storing what has not moved.
const STORING: Duration = Duration::from_secs(2);
/// How long a stop waits before the log says for which handlers.
const PATIENCE: Duration = Duration::from_millis(500);

/// A server that has started. It accepts clients once it [runs](Self::run_until).
#[derive(Debug)]
pub struct Server {
    /// Where clients connect, as URLs begin.
    urls: Vec<String>,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    api: Option<api::Running>,
    /// Sends traces, if there are any.
    traces: Option<Exporter>,
    /// The way to change plugins.
    service: Service,
    endpoint: Arc<Endpoint>,
    acceptors: Vec<Acceptor>,
    /// Unix sockets, removed with the server.
    files: Vec<SocketFile>,
    threads: Vec<JoinHandle<()>>,
    plugins: JoinHandle<()>,
    /// Where libraries are staged.
    staging: StageFolder,
    /// The admin pages, and where they are served once the server accepts clients.
    admin: Option<(Router, AdminPages)>,
}

/// The admin pages of a server, once it accepts clients.
pub(super) type AdminPages = Arc<OnceLock<Router>>;

/// What the plugins of a server are started with.
struct Start {
    config: Config,
    mode: Mode,
    built: Vec<Built>,
    hub: Arc<Hub>,
    pipeline: Pipeline,
}

impl Server {
    /// A server with this configuration. It starts with [`Builder::start`].
    #[must_use]
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    /// Checks whether the addresses are free, before anything that takes time.
    ///
    /// # Errors
    ///
    /// If one of them is taken.
    pub(crate) fn try_addresses(config: &Config, mode: Mode) -> Result<(), StartError> {
        listeners(config, mode).map(drop)
    }

    /// Starts everything: listeners first, as a taken port is the most common mistake, then plugins, then I/O threads. Until all
    /// of it has started, the admin listener says that the server is not ready.
    pub(super) async fn start(builder: Builder) -> Result<Self, StartError> {
        let Builder {
            config,
            mode,
            built,
            follower,
            set_log_level,
            dropped_lines,
        } = builder;
        let Listeners { clients, admin, api } = listeners(&config, mode)?;
        clients.iter().try_for_each(|listener| prepare(listener, &config))?;
        let certificates = Certificates::read(&config.tls).map_err(first_certificate)?;
        if api.is_some() {
            let keys = config.api.keys.iter().map(|key| &**key);
            ApiSecrets::obtain_all(keys)
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
        }
        let pages = AdminPages::default();
        let admin = match admin {
            Some(listener) => {
                let secret = admin::secret(listener.local_addr()?)?;
                Some((admin_listener::start(listener, &pages, &config)?, secret))
            }
            None => None,
        };
        let secret = SecretKeyBase::obtain(&config, mode)?;
        if secret.generated {
            // Only in `dev`, which needs no other.
            tracing::info!(
                "no secret_key_base is set: Bennu generated one. Long-poll sessions end when the server stops"
            );
        }
        let guards = Guards::new(&config, &Guards::default()).map_err(first)?;
        guards.start();
        let prepared: Vec<_> = (0..config.server.io_threads.get())
            .map(|_| io_threads::prepare(config.limits.max_inbox_bytes))
            .collect::<io::Result<_>>()?;
        let inboxes = Inboxes::new(prepared.iter().map(|thread| Arc::clone(&thread.inbox)).collect());
        let cluster = cluster(&config, mode)?;
        let pubsub = PubSub::new(inboxes.outlets());
        let pubsub = match &cluster {
            Some(cluster) => cluster.widen(pubsub),
            None => pubsub,
        };
        let traces = config.telemetry.as_ref().map(Exporter::prepare).transpose();
        let traces = traces.map_err(Box::new)?.map(Exporter::start).transpose()?;
        let mut hub = Hub::new(pubsub, Timers::start()?, config.log.lines);
        hub.tracer = traces.as_ref().map(Exporter::tracer);
        hub.metrics.dropped_lines = dropped_lines;
        let hub = Arc::new(hub);
        watchdog::start(&hub, mode)?;
        hub.metrics.begin_refused_tokens(&LABELS);

        let (pipeline, staging) = pipeline(&config)?;
        if let Some(folder) = store_folder(&config) {
            let max_bytes = config.store.max_bytes;
            let engine = match &cluster {
                Some(cluster) => cluster.store(max_bytes).await.map_err(Box::new)?,
                None => store::in_folder(&folder, max_bytes).map_err(Box::new)?,
            };
            hub.open_store(engine, config.store.clone()).map_err(Box::new)?;
        }
        let quarantine = Arc::clone(&pipeline.quarantine);
        crash::start(&config.server.state_dir, &pipeline.quarantine);
        let start = Start {
            config,
            mode,
            built,
            hub: Arc::clone(&hub),
            pipeline,
        };
        // On a thread of its own: `init` of a plugin may take its time, and the admin pages answer meanwhile.
        let plugins = tokio::task::spawn_blocking(|| start.plugins()).await;
        let (plugins, config) = plugins.map_err(io::Error::other)??;
        let config = Arc::new(config);
        let routing = Arc::new(Routing::new(Arc::clone(&config), guards, plugins.slots()));
        let dev = (mode == Mode::Dev).then(Board::new);
        let state = Arc::new(State::new(hub, routing, inboxes.count()));
        let node = cluster.as_ref().map(Cluster::run);
        let endpoint = Endpoint::new(Arc::clone(&state), node, inboxes, secret, dev, certificates);
        let endpoint = Arc::new(endpoint.map_err(io::Error::other)?);
        endpoint.derive_keys(&endpoint.state.routing().config);
        let threads = prepared
            .into_iter()
            .enumerate()
            // The configuration allows 254 threads at most.
            .map(|(index, thread)| {
                let app = endpoint::app(Arc::clone(&endpoint));
                thread.start(index as u8, Arc::clone(&state), app)
            })
            .collect::<io::Result<_>>()?;
        let (service, plugins) = Service::start(plugins, Arc::clone(&endpoint), mode, follower, set_log_level)?;
        let for_nodes = Arc::new(OnceLock::new());
        if let Some(cluster) = cluster {
            let answers = Arc::new(FromHere::new(Arc::clone(&endpoint), Arc::clone(&for_nodes)));
            cluster.join(&endpoint.state.hub, answers).await.map_err(Box::new)?;
            endpoint.state.cluster.get_or_init(|| Arc::new(cluster));
        }
        let urls = clients.iter().map(Listening::url).collect();
        let address = clients.iter().find_map(|listener| match listener.at {
            At::Tcp(address) => Some(address),
            _ => None,
        });
        let (acceptors, files) = acceptors(clients, endpoint.certificates.as_ref())?;
        let admin_address = admin.as_ref().map(|(address, _)| *address);
        let admin = admin.map(|(address, secret)| {
            let (inboxes, service) = (endpoint.inboxes.clone(), service.clone());
            let admin = Admin::new(address, secret, &state, inboxes, service, quarantine);
            for_nodes.get_or_init(|| admin.clone());
            (admin::app(admin), pages)
        });
        let api = api.map(|listener| start_api(listener, &endpoint)).transpose()?;
        Ok(Self {
            urls,
            address: address.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()),
            admin_address,
            api,
            traces,
            service,
            endpoint,
            acceptors,
            files,
            threads,
            plugins,
            staging,
            admin,
        })
    }

    /// Where clients connect: at `[server] listen`, or at the first other listener with an address. Without one, 0.0.0.0:0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All listeners for clients, such as `http://127.0.0.1:4000`, `https://0.0.0.0:443` and `unix:/run/bennu/clients.sock`.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Where the admin pages are, if they are served.
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

    /// Whether its threads still do their work.
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse::new(self.endpoint.inboxes.clone())
    }

    /// The current routing.
    #[must_use]
    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.endpoint.state.routing()
    }

    /// The entrance for clients of a transport of your own. It works as long as the server runs.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance::new(Arc::clone(&self.endpoint))
    }

    /// What returns the routing that is current when it is called.
    pub(crate) fn current_routing(&self) -> impl Fn() -> Arc<Routing> + Send + 'static {
        let state = Arc::clone(&self.endpoint.state);
        move || state.routing()
    }

    /// Accepts clients until `stop` is done. Then closes their connections in batches, as `[server]` says, ends the plugins, and
    /// returns.
    ///
    /// # Errors
    ///
    /// If a thread of the server ends too early. The server then stops by itself.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), ThreadEnded> {
        let (said, stopped) = mpsc::unbounded_channel();
        let say = async move {
            stop.await;
            let _ = said.send(());
            // The sender stays: the end of a channel would count as a second stop.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = self.run(stopped) => done,
            () = say => Ok(()),
        }
    }

    /// Accepts connections until `stop` says so, then lets those that are there go, in batches. If `stop` says so again
    /// meanwhile, that ends at once.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Self::run_until).
    pub(crate) async fn run(mut self, mut stop: mpsc::UnboundedReceiver<()>) -> Result<(), ThreadEnded> {
        if let Some((app, pages)) = &self.admin {
            pages.get_or_init(|| app.clone());
        }
        let mut accepting = accepting::start(self.acceptors.drain(..), &self.endpoint);
        {
            let mut any_ended = pin!(threads::any_ended());
            tokio::select! {
                _ = stop.recv() => {}
                _ = &mut any_ended => {}
            }
        }
        // Also closes the listeners.
        accepting.shutdown().await;
        tokio::select! {
            () = self.drain() => {}
            _ = stop.recv() => tracing::warn!("stopping at once"),
        }
        threads::ended().map_or(Ok(()), Err)
    }

    /// Closes connections in batches, ends the plugins and their members, and ends all threads.
    async fn drain(self) {
        let Self {
            endpoint,
            threads,
            plugins,
            service,
            staging,
            api,
            traces,
            files,
            ..
        } = self;
        drop(files);
        let state = &endpoint.state;
        state.stop();
        if let Some(api) = &api {
            api.finish();
        }
        let server = state.routing().config.server.clone();
        let deadline = Instant::now() + server.shutdown_timeout;
        if let Some(cluster) = state.cluster.get() {
            // First, because a topic without members ends. Clients are in them at their new homes until they are closed.
            cluster.hand_over(server.shutdown_timeout / 2).await;
        }
        let batch = server.drain_batch_size.div_ceil(threads.len()).max(1);
        let in_batches = async {
            while drain_some(&endpoint.inboxes, batch).await > 0 {
                tokio::time::sleep(server.drain_batch_interval).await;
            }
        };
        if timeout_at(deadline, in_batches).await.is_err() {
            tracing::warn!("not all connections closed in time; closing the rest now");
            endpoint
                .inboxes
                .send_all(|| Entry::Drain(usize::MAX, mpsc::unbounded_channel().0));
        }
        if let Some(mut api) = api {
            // Plugins still answer the calls that wait for them.
            let _ = timeout_at(deadline, api.finished()).await;
        }
        if let Some(cluster) = state.cluster.get() {
            // Whoever is the home of what has not moved finds it as it is stored.
            state.hub.store_all(STORING).await;
            let _ = timeout_at(deadline, cluster.leave()).await;
        }
        service.send(Command::Stop(deadline.into_std()));
        // A handler that does not return keeps its thread, but not the process.
        let mut ended = tokio::task::spawn_blocking(move || drop(plugins.join()));
        if timeout(PATIENCE, &mut ended).await.is_err() {
            say_awaited(&state.hub, deadline);
            if timeout_at(deadline + GRACE, ended).await.is_err() {
                tracing::warn!("a plugin did not shut down in time");
            }
        }
        endpoint.inboxes.send_all(|| Entry::Stop);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = timeout_at(deadline + GRACE * 2, ended).await;
        state.hub.timers.stop();
        if let Some(traces) = traces {
            traces.finish().await;
        }
        drop(staging);
        tracing::info!("stopped");
    }
}

/// The node that this host is to be. `dev` is alone, whatever the file says.
fn cluster(config: &Config, mode: Mode) -> Result<Option<Cluster>, StartError> {
    let Some(wanted) = &config.cluster else { return Ok(None) };
    if mode == Mode::Dev {
        tracing::info!("`bennu dev` joins no cluster: it leaves [cluster] out");
        return Ok(None);
    }
    let prepared = Cluster::prepare(wanted, config.api.max_refused_ids);
    Ok(Some(prepared.map_err(Box::new)?))
}

/// One mistake of several: `bennu check` lists them all.
fn first_certificate(bad: Vec<BadCertificate>) -> StartError {
    let first = bad.into_iter().next().map(StartError::from);
    first.unwrap_or_else(|| io::Error::other("certificates cannot be read").into())
}

/// One mistake of several: `bennu check` lists them all.
fn first(bad: Vec<BadKeys>) -> StartError {
    let first = bad.into_iter().next().map(StartError::from);
    first.unwrap_or_else(|| io::Error::other("keys cannot be read").into())
}

/// Logs for which handlers the stop waits.
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
            "waiting up to {seconds} s for this handler to return. Send a second signal (or press q) to stop at once"
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
        tracing::info!(open, "closing connections");
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

/// Where topics are stored, if those of any plugin are.
pub(super) fn store_folder(config: &Config) -> Option<PathBuf> {
    let is_durable = { config.plugins.values() }.any(|plugin| plugin.durability != Durability::None);
    is_durable.then(|| config.server.state_dir.join(STORE))
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

impl Start {
    /// Loads all plugins of the configuration.
    fn plugins(self) -> Result<(Plugins, Config), StartError> {
        let Self {
            config,
            mode,
            built,
            hub,
            pipeline,
        } = self;
        let mut plugins = Plugins::new(hub, pipeline);
        let mut not_built = Vec::new();
        for (name, built) in built {
            match built {
                Ok(library) => plugins.set_built(&name, library),
                Err(rejection) => not_built.push((name, rejection)),
            }
        }
        load_all(&mut plugins, &config, mode)?;
        for (name, rejection) in not_built {
            plugins.not_built(&name, rejection);
        }
        Ok((plugins, config))
    }
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
            Err(rejection) => reject(&slot, config, &rejection, mode)?,
        }
    }
    Ok(())
}

/// Prepares a library. One whose probe another process has killed gets another chance before the start fails.
fn prepare_patiently(
    plugins: &mut Plugins,
    slot: &Arc<PluginSlot>,
    library: &Path,
    config: &config::Plugin,
) -> Result<Option<Prepared>, Rejection> {
    let mut wait = Duration::from_secs(1);
    for _ in 0..config.probe_retries.min(PROBES_AT_START) {
        match plugins.prepare(slot, library, config, Occasion::Needed) {
            Err(rejection) if rejection.may_pass && rejection.step == Step::Probe => {
                let again_in_s = wait.as_secs();
                tracing::warn!(
                    plugin = slot.name,
                    again_in_s,
                    "the probe could not run; Bennu tries again: {}",
                    rejection.message
                );
                std::thread::sleep(wait);
                wait *= 2;
            }
            done => return done,
        }
    }
    plugins.prepare(slot, library, config, Occasion::Needed)
}

fn reject(slot: &PluginSlot, config: &Config, rejection: &Rejection, mode: Mode) -> Result<(), StartError> {
    let message = rejection.shown(config, &slot.name);
    // A plugin that crashed, and of which there is no good library, does not keep the others out of service.
    if mode == Mode::Serve && rejection.code != "quarantined" {
        return Err(StartError::Plugin {
            plugin: slot.name.clone(),
            step: rejection.step.name(),
            message,
        });
    }
    tracing::error!(
        plugin = slot.name,
        step = rejection.step.name(),
        code = rejection.code,
        "plugin not loaded: {message}"
    );
    Ok(())
}
