//! The listeners of a server. Whoever names an address that is taken is told so early, with the setting to change.

pub(crate) mod passed;
mod unix;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

pub(super) use self::unix::SocketFile;
use super::StartError;
use crate::config::{At, Config, Listener, Mode};

/// The setting for the address of clients.
const LISTEN: &str = "`--listen` or `[server] listen`";
/// The setting for more of them.
const LISTENERS: &str = "`listen` in [[listeners]]";
/// The setting for the address of the admin pages.
const ADMIN_LISTEN: &str = "`[admin] listen`";
/// The setting for the address of the API.
const API_LISTEN: &str = "`[api] listen`";
/// How many ports above a taken one `dev` tries, if nobody has named the port.
const PORTS_TRIED: u16 = 100;
/// Connections that the system keeps until the server accepts them: while it starts, or is busy with others.
const BACKLOG: u32 = 1024;

/// All listeners of a server.
#[derive(Debug)]
pub(super) struct Listeners {
    /// For clients: that of `[server]` first.
    pub(super) clients: Vec<Listening>,
    /// For the admin pages, if they are wanted.
    pub(super) admin: Option<TcpListener>,
    /// For the API, likewise.
    pub(super) api: Option<TcpListener>,
}

/// A listener for clients.
#[derive(Debug)]
pub(super) struct Listening {
    /// Non-blocking.
    pub(super) socket: OwnedFd,
    /// Where it is, as the system says.
    pub(super) at: At,
    /// What its connections begin with.
    pub(super) tls: bool,
    pub(super) proxy_protocol: bool,
    /// Removed when it is dropped.
    pub(super) file: Option<SocketFile>,
}

/// Takes the addresses of a configuration.
pub(super) fn listeners(config: &Config, mode: Mode) -> Result<Listeners, StartError> {
    let listener = |address, setting, is_named| match is_named || mode == Mode::Serve {
        true => listen(address, setting),
        false => listen_near(address, setting),
    };
    let first = { config.listen() }.map(|address| listener(address, LISTEN, config.names_listen()));
    let first = first.transpose()?.map(|first| Listening::tcp(first, false, false));
    let mut clients: Vec<_> = first.transpose()?.into_iter().collect();
    for (index, wanted) in config.listeners.iter().enumerate() {
        clients.extend(more(index, wanted)?);
    }
    let admin = { config.admin.listen }.map(|address| listener(address, ADMIN_LISTEN, config.admin.names_listen));
    let admin = admin.transpose()?;
    let api = { config.api.listen }.map(|address| listener(address, API_LISTEN, config.api.names_listen));
    let api = api.transpose()?;
    Ok(Listeners { clients, admin, api })
}

/// What keeps each of the listeners from its address, tried alone.
pub(super) fn each_alone(config: &Config, mode: Mode) -> Vec<StartError> {
    let clients = {
        let mut config = config.clone();
        config.admin.listen = None;
        config.api.listen = None;
        config.listeners = Vec::new();
        listeners(&config, mode).err()
    };
    let listeners = { config.listeners.iter().enumerate() }.filter_map(|(index, wanted)| more(index, wanted).err());
    let api = config.api.listen.and_then(|address| listen(address, API_LISTEN).err());
    let admin = config
        .admin
        .listen
        .and_then(|address| listen(address, ADMIN_LISTEN).err());
    clients.into_iter().chain(listeners).chain(admin).chain(api).collect()
}

/// The sockets of one of the `[[listeners]]`: one, but systemd may have several of one name.
fn more(index: usize, wanted: &Listener) -> Result<Vec<Listening>, StartError> {
    let Listener {
        at,
        tls,
        proxy_protocol,
    } = wanted;
    let refused = |source| StartError::Listener {
        index,
        at: at.to_string(),
        source,
    };
    let listening = match at {
        At::Tcp(address) => {
            let listener = listen(*address, LISTENERS).map_err(|error| match error {
                StartError::Listen { source, .. } => refused(source),
                other => other,
            })?;
            vec![Listening::tcp(listener, *tls, *proxy_protocol)?]
        }
        At::Unix { path, mode } => {
            let (socket, file) = unix::listen(path, *mode, BACKLOG).map_err(refused)?;
            vec![Listening {
                socket,
                at: at.clone(),
                tls: *tls,
                proxy_protocol: *proxy_protocol,
                file: Some(file),
            }]
        }
        At::Passed(name) => {
            let passed = passed::named(name).map_err(refused)?;
            let listening = |(socket, at)| Listening {
                socket,
                at,
                tls: *tls,
                proxy_protocol: *proxy_protocol,
                file: None,
            };
            passed.into_iter().map(listening).collect()
        }
    };
    Ok(listening)
}

impl Listening {
    fn tcp(listener: TcpListener, tls: bool, proxy_protocol: bool) -> io::Result<Self> {
        Ok(Self {
            at: At::Tcp(listener.local_addr()?),
            socket: listener.into_std()?.into(),
            tls,
            proxy_protocol,
            file: None,
        })
    }

    /// Its address, as a URL of a client begins.
    pub(super) fn url(&self) -> String {
        match (&self.at, self.tls) {
            (At::Tcp(address), false) => format!("http://{address}"),
            (At::Tcp(address), true) => format!("https://{address}"),
            (other, false) => other.to_string(),
            (other, true) => format!("{other} (TLS)"),
        }
    }
}

/// A listener at this address, or at the next free port above if it is taken.
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

/// A listener that does not share its port: a second server there gets an error.
fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, StartError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // Connections of a server that has just ended do not block the port.
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

/// Sets the options that connections inherit from their listener, without a call for each.
pub(super) fn prepare(listener: &Listening, config: &Config) -> io::Result<()> {
    if !matches!(listener.at, At::Tcp(_)) {
        return Ok(());
    }
    let socket = SockRef::from(&listener.socket);
    // A small frame must not wait for more data: every reply is one.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(u32::try_from(config.server.notsent_lowat_bytes).unwrap_or(u32::MAX))
}
