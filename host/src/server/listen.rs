//! The listeners of a server. Whoever names an address that is taken is told so early, with the setting to change.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

use super::StartError;
use crate::config::{Config, Mode};

/// The settings for the address of clients.
const LISTEN: &str = "`--listen` or `[server] listen`";
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
    /// For clients.
    pub(super) clients: TcpListener,
    /// For the admin pages, if they are wanted.
    pub(super) admin: Option<TcpListener>,
    /// For the API, likewise.
    pub(super) api: Option<TcpListener>,
}

/// Takes the addresses of a configuration.
pub(super) fn listeners(config: &Config, mode: Mode) -> Result<Listeners, StartError> {
    let listener = |address, setting, is_named| match is_named || mode == Mode::Serve {
        true => listen(address, setting),
        false => listen_near(address, setting),
    };
    let clients = listener(config.listen(), LISTEN, config.names_listen())?;
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
        listeners(&config, mode).err()
    };
    let api = config.api.listen.and_then(|address| listen(address, API_LISTEN).err());
    let admin = config
        .admin
        .listen
        .and_then(|address| listen(address, ADMIN_LISTEN).err());
    clients.into_iter().chain(admin).chain(api).collect()
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
pub(super) fn prepare(listener: &TcpListener, config: &Config) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // A small frame must not wait for more data: every reply is one.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(u32::try_from(config.server.notsent_lowat_bytes).unwrap_or(u32::MAX))
}
