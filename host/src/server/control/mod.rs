//! The control thread: hears of changes to libraries and configuration, carries them out, and says how it went.

mod configuration;
mod keeper;
mod keys;
mod library;
mod on_disk;
mod restart;
mod retries;
pub(crate) mod watch;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use self::keeper::Keeper;
pub(crate) use self::on_disk::SetLogLevel;
use self::watch::{News, What};
use super::endpoint::{DevEvent, Endpoint};
use crate::config::{Config, ContentHash, Mode};
use crate::runtime::plugin::manager::Plugins;
use crate::runtime::plugin::step::Rejection;
use crate::runtime::threads;

/// The thread's name.
const THREAD: &str = "plugins";
/// The watcher's name for the configuration; no plugin can be called so.
const CONFIG: &str = "/config";
/// What its names for libraries begin with that only a rejected configuration names.
const OF_REJECTED: &str = "/rejected/";

/// What its names for files of keys begin with.
const KEYS: &str = "/keys/";
/// What its names for files of certificates begin with.
const TLS: &str = "/tls/";

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Command {
    /// A library has changed, or has been built.
    Library {
        /// The plugin.
        name: String,
        /// Where.
        path: PathBuf,
        /// `dev` built it. From now on it takes precedence over the configuration's library.
        built: bool,
    },
    /// A file that is watched was saved again with the same contents.
    Saved(String, PathBuf),
    /// `dev` could not build a plugin, for this reason.
    NotBuilt(String, Rejection),
    /// A watched file has been gone for a while, for this reason; without a reason, it is back.
    Away(String, PathBuf, Option<String>),
    /// An operator asks to load a plugin's library as it is now.
    Again(String),
    /// An operator wants the previous code of a plugin.
    RollBack(String),
    /// These contents of a plugin are no longer in quarantine.
    Lifted(String, ContentHash),
    /// The configuration may have changed.
    Config,
    /// An operator asks to read the configuration and all libraries again, and to hear when that is done.
    Reread(oneshot::Sender<()>),
    /// A library has changed that only a rejected configuration names.
    LibraryOfRejected,
    /// A file of keys for tokens was saved.
    Keys(PathBuf),
    /// A file of a certificate was saved.
    Certificate(PathBuf),
    /// A plugin has panicked or failed. Its journal says how.
    Faults,
    /// Something for the page of `dev`.
    News(DevEvent),
    /// End all plugins, by this time.
    Stop(Instant),
}

impl Command {
    /// The command for news of the watcher.
    fn of(News { name, path, what }: News) -> Option<Self> {
        Some(match what {
            What::Gone(_) | What::Back if name.starts_with(OF_REJECTED) => return None,
            _ if name.starts_with(OF_REJECTED) => Self::LibraryOfRejected,
            What::Changed | What::Saved if name.starts_with(KEYS) => Self::Keys(path),
            What::Changed | What::Saved if name.starts_with(TLS) => Self::Certificate(path),
            What::Changed if name == CONFIG => Self::Config,
            What::Changed => Self::Library {
                name,
                path,
                built: false,
            },
            What::Saved => Self::Saved(name, path),
            What::Gone(why) => Self::Away(name, path, Some(why)),
            What::Back => Self::Away(name, path, None),
        })
    }
}

/// A handle to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct Service(mpsc::Sender<Command>);

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system gives no thread, or nothing can be watched.
    pub(crate) fn start(
        plugins: Plugins,
        endpoint: Arc<Endpoint>,
        mode: Mode,
        follower: Option<Box<dyn Follower>>,
        set_log_level: Option<SetLogLevel>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, commands) = mpsc::channel();
        let (news, faults) = (sender.clone(), sender.clone());
        plugins.fault_signal().wakes(move || drop(faults.send(Command::Faults)));
        let tell = move |what| drop(Command::of(what).map(|command| news.send(command)));
        let mut keeper = Keeper::new(plugins, endpoint, mode, follower, tell)?;
        keeper.set_log_level = set_log_level;
        let thread = threads::spawn(THREAD, move || keeper.run(&commands))?;
        Ok((Self(sender), thread))
    }

    /// Sends a command. The thread carries commands out in order.
    pub(crate) fn send(&self, command: Command) {
        // The thread ends only on `Stop`. Commands after that mean nothing.
        let _ = self.0.send(command);
    }
}

/// Takes part when the configuration is read again: `dev`, which builds the plugins itself. The control thread calls it, and waits
/// for it.
pub(crate) trait Follower: Send {
    /// Changes a configuration that was read, before the host acts on it.
    fn adapt(&self, config: &mut Config);

    /// This configuration holds from now on.
    fn configured(&self, config: &Config);
}
