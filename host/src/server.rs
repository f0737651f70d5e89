//! A whole host: started in order, stopped in order.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admin::{self, Admin};
use crate::config::secret::{SecretError, SecretKeyBase};
use crate::config::{Config, Mode};
use crate::endpoint::{Board, Entrance, Routing, Shared};
use crate::hub::Hub;
use crate::io::{self as io_threads, Acceptor, Entry};
use crate::plugin::crash;
use crate::plugin::kept::Kept;
use crate::plugin::manager::{Loaded, Occasion, Plugins};
use crate::plugin::pipeline::{Pipeline, Refusal};
use crate::plugin::quarantine::Quarantine;
use crate::plugin::service::{Command, Follower, Service, blame_settings};
use crate::plugin::stage::StageFolder;
use crate::plugin::watchdog::{self, Running};
use crate::pubsub::PubSub;
use crate::timers::Timers;

/// What names the address of clients.
const LISTEN: &str = "`--listen` or `[server] listen`";
/// What names the address of the admin pages.
const ADMIN_LISTEN: &str = "`[admin] listen`";
/// How many ports above a taken one are tried, in `dev`, where nobody has named it.
const PORTS_TRIED: u16 = 100;
/// Connections that the system keeps while we are busy accepting others.
const BACKLOG: u32 = 1024;
/// How long threads have to end after all connections are closed.
const GRACE: Duration = Duration::from_millis(500);
/// After so long it is said for which handlers the end waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}, choose another with {setting}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What names it.
        setting: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The system does not give what is needed.
    #[error("the system does not give what is needed")]
    System(#[from] io::Error),
    /// There is no secret, or a bad one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The admin pages would be open to everybody.
    #[error(transparent)]
    Admin(#[from] admin::Unprotected),
    /// A plugin cannot be put in service.
    #[error("plugin `{plugin}` is refused ({step}): {message}")]
    Plugin {
        /// Which.
        plugin: String,
        /// The step that said so.
        step: &'static str,
        /// Why.
        message: String,
    },
}

/// A running host.
#[derive(Debug)]
pub struct Server {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the admin pages are, if they are.
    pub admin_address: Option<SocketAddr>,
    /// What came into service at the start.
    pub loaded: Vec<Loaded>,
    /// The way to change plugins.
    pub service: Service,
    shared: Arc<Shared>,
    acceptor: Acceptor,
    threads: Vec<JoinHandle<()>>,
    plugins: JoinHandle<()>,
    /// Where libraries are staged.
    staging: StageFolder,
}

/// What `dev` has built: the plugin's name, and where its library is or why there is none.
pub type Built = (String, Result<PathBuf, Refusal>);

impl Server {
    /// Finds out early whether the addresses are free: before what takes its time.
    ///
    /// # Errors
    ///
    /// If one of them is not.
    pub fn try_addresses(config: &Config, mode: Mode) -> Result<(), StartError> {
        listeners(config, mode).map(drop)
    }

    /// Starts everything: listeners first, as a taken port is the commonest mistake, then plugins, then I/O threads.
    ///
    /// `follower` hears of the configurations that are read while the host runs.
    ///
    /// In `serve`, a plugin that cannot be put in service is an error; in `dev` it is said in the log, as it may be mended
    /// while the host runs; and an address that nobody has named, and that is taken, is exchanged for the next free port.
    ///
    /// # Errors
    ///
    /// If something is missing or taken.
    pub async fn start(
        config: Config,
        mode: Mode,
        built: Vec<Built>,
        follower: Option<Box<dyn Follower>>,
    ) -> Result<Self, StartError> {
        let (listener, admin) = listeners(&config, mode)?;
        prepare(&listener, &config)?;
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
        let pubsub = PubSub::new(prepared.iter().map(|thread| Arc::clone(&thread.inbox)).collect());
        let hub = Arc::new(Hub::new(pubsub, Timers::start()?));
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
        let loaded = load_all(&mut plugins, &config, mode)?;
        for (name, refusal) in not_built {
            plugins.not_built(&name, refusal);
        }
        let config = Arc::new(config);
        let routing = Arc::new(Routing::new(Arc::clone(&config), plugins.slots().clone()));
        let dev = (mode == Mode::Dev).then(Board::new);
        let shared = Arc::new(Shared::new(hub, routing, secret, dev).map_err(io::Error::other)?);
        let threads = prepared
            .into_iter()
            .enumerate()
            // The configuration allows 255 threads at most.
            .map(|(index, thread)| thread.start(index as u8, Arc::clone(&shared)))
            .collect::<io::Result<_>>()?;
        let (service, plugins) = Service::start(plugins, Arc::clone(&shared), mode, follower)?;
        let address = listener.local_addr()?;
        let admin_address = admin
            .map(|(listener, secret)| {
                let admin = Admin {
                    shared: Arc::clone(&shared),
                    service: service.clone(),
                    quarantine,
                };
                serve_admin(listener, secret, admin)
            })
            .transpose()?;
        Ok(Self {
            address,
            admin_address,
            loaded,
            service,
            shared,
            acceptor: Acceptor::new(listener.into_std()?)?,
            threads,
            plugins,
            staging,
        })
    }

    /// The routing as it is now.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        self.shared.routing()
    }

    /// The way in for clients that come by a transport of one's own. Good for as long as the host runs.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance::new(Arc::clone(&self.shared))
    }

    /// The way to the routing as it will be.
    pub fn current_routing(&self) -> impl Fn() -> Arc<Routing> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.routing()
    }

    /// Takes connections until `stop` is done, then lets those that are there go, in batches. A second `stop`, if it comes
    /// while that lasts, ends it at once.
    pub async fn run(self, mut stop: mpsc::UnboundedReceiver<()>) {
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
        if self.shared.is_flooded() {
            return;
        }
        let thread = self.shared.idlest();
        self.shared.acquire(thread);
        if let Some(inbox) = self.shared.inbox(usize::from(thread)) {
            inbox.push_now(Entry::Accept(stream, peer));
        }
    }

    /// Closes connections in batches, has plugins end their members, and ends all threads.
    async fn drain(self) {
        let Self {
            shared,
            acceptor,
            threads,
            plugins,
            service,
            staging,
            ..
        } = self;
        drop(acceptor);
        shared.stop();
        let server = shared.routing().config.server.clone();
        let deadline = Instant::now() + server.shutdown_timeout;
        let batch = server.drain_batch_size.div_ceil(threads.len()).max(1);
        let in_batches = async {
            while drain_some(&shared, batch).await > 0 {
                tokio::time::sleep(server.drain_batch_interval).await;
            }
        };
        if timeout_at(deadline, in_batches).await.is_err() {
            tracing::warn!("not all connections were drained in time, the rest is closed at once");
            shared
                .hub
                .pubsub
                .send_all(|| Entry::Drain(usize::MAX, mpsc::unbounded_channel().0));
        }
        service.send(Command::Stop(deadline.into_std()));
        // A handler that does not return keeps its thread; it must not keep the process.
        let mut ended = tokio::task::spawn_blocking(move || drop(plugins.join()));
        if timeout(PATIENCE, &mut ended).await.is_err() {
            say_awaited(&shared.hub, deadline);
            if timeout_at(deadline + GRACE, ended).await.is_err() {
                tracing::warn!("a plugin did not end in time");
            }
        }
        shared.hub.pubsub.send_all(|| Entry::Stop);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = timeout_at(deadline + GRACE * 2, ended).await;
        shared.hub.timers.stop();
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
async fn drain_some(shared: &Shared, batch: usize) -> usize {
    let (said, mut left) = mpsc::unbounded_channel();
    shared.hub.pubsub.send_all(|| Entry::Drain(batch, said.clone()));
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

/// The listener for clients, and that of the admin pages if they are wanted.
fn listeners(config: &Config, mode: Mode) -> Result<(TcpListener, Option<TcpListener>), StartError> {
    let listener = |address, setting, is_named| match is_named || mode == Mode::Serve {
        true => listen(address, setting),
        false => listen_near(address, setting),
    };
    let clients = listener(config.listen(), LISTEN, config.names_listen())?;
    let admin = { config.admin.listen }.map(|address| listener(address, ADMIN_LISTEN, config.admin.names_listen));
    Ok((clients, admin.transpose()?))
}

/// A listener there, or where that is taken at the next port above that is free.
fn listen_near(address: SocketAddr, setting: &'static str) -> Result<TcpListener, StartError> {
    let first = listen(address, setting);
    let is_taken = |source: &io::Error| source.kind() == io::ErrorKind::AddrInUse;
    if !matches!(&first, Err(StartError::Listen { source, .. }) if is_taken(source)) {
        return first;
    }
    let mut above = (1..=PORTS_TRIED).filter_map(|above| address.port().checked_add(above));
    let other = above.find_map(|port| listen(SocketAddr::new(address.ip(), port), setting).ok());
    other.map_or(first, Ok)
}

/// A listener that does not share its port: a second host on it is told so.
fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, StartError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // Connections of a host that has just ended do not block the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| StartError::Listen {
        address,
        setting,
        source,
    })
}

/// What connections have from their listener, without a call for each.
fn prepare(listener: &TcpListener, config: &Config) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // Small frames must not wait for more: every reply is one.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(u32::try_from(config.server.notsent_lowat_bytes).unwrap_or(u32::MAX))
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

/// With what libraries are checked, and the folder that they are staged in.
pub(crate) fn pipeline(config: &Config) -> io::Result<(Pipeline, StageFolder)> {
    let server = &config.server;
    let dir = server.stage_dir.clone().unwrap_or_else(std::env::temp_dir);
    let staging = StageFolder::make(&dir).map_err(|error| {
        let message = format!(
            "no folder for copies of libraries can be made in {}: {error}",
            dir.display()
        );
        io::Error::new(error.kind(), message)
    })?;
    let pipeline = Pipeline {
        exe: config.program.clone().map_or_else(std::env::current_exe, Ok)?,
        stage_dir: staging.path().to_owned(),
        quarantine: Arc::new(Quarantine::new(&server.state_dir, server.max_quarantined)),
        kept: Kept::new(&server.state_dir, server.max_kept_libraries),
        reports: Some(server.state_dir.join("reports")),
    };
    Ok((pipeline, staging))
}

fn load_all(plugins: &mut Plugins, config: &Config, mode: Mode) -> Result<Vec<Loaded>, StartError> {
    let mut loaded = Vec::new();
    for (name, wanted) in &config.plugins {
        let slot = plugins.add(name, wanted);
        let Some(library) = plugins.library(name, wanted) else {
            continue;
        };
        match plugins.prepare(&slot, &library, wanted, Occasion::Needed) {
            Ok(prepared) => {
                let done = prepared.and_then(|prepared| plugins.put_in_service(prepared));
                loaded.extend(done.inspect(Loaded::announce));
            }
            Err(refusal) => refuse(&slot, config, &refusal, mode)?,
        }
    }
    Ok(loaded)
}

fn refuse(slot: &crate::plugin::PluginSlot, config: &Config, refusal: &Refusal, mode: Mode) -> Result<(), StartError> {
    let message = blame_settings(config, &slot.name, refusal);
    // One plugin that crashed, and was never good, does not keep the others from being served.
    if mode == Mode::Serve && refusal.code != "quarantined" {
        return Err(StartError::Plugin {
            plugin: slot.name.clone(),
            step: refusal.step,
            message,
        });
    }
    tracing::error!(
        plugin = slot.name,
        step = refusal.step,
        code = refusal.code,
        "plugin refused: {message}"
    );
    Ok(())
}
