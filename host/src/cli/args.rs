//! Arguments that several commands take.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Config;

/// `--config`, for commands that otherwise look for the file.
#[derive(Args, Debug)]
pub(crate) struct ConfigArg {
    /// The configuration [default: config/bennu.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArg {
    /// The named configuration, or else the nearest one.
    ///
    /// # Errors
    ///
    /// If none is named and none is found.
    pub(crate) fn find(&self) -> Result<PathBuf, NoConfig> {
        named_or_found(self.config.as_deref())
    }
}

/// `--json`
#[derive(Args, Debug)]
pub(crate) struct JsonArg {
    /// Writes JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

/// Has the command line override `[server] listen`, also after the configuration changes.
pub(crate) fn override_listen(config: &mut Config, listen: Option<SocketAddr>) {
    config.listen_instead = listen;
}

/// Reads an address and a port. A name means its first IPv4 address, or else its first address: `dev` and the admin listener
/// are on IPv4.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLE: &str = "write an address and a port, such as 127.0.0.1:4000 or localhost:4000";
    let has_port = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    if !text.rsplit_once(':').is_some_and(has_port) {
        return Err(EXAMPLE.to_owned());
    }
    let found = { text.to_socket_addrs() }.map_err(|error| format!("{error}; {EXAMPLE}"))?;
    found
        .min_by_key(SocketAddr::is_ipv6)
        .ok_or_else(|| format!("the name has no address; {EXAMPLE}"))
}

/// There is no `config/bennu.toml`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConfig {
    /// Neither in this folder nor above it.
    #[error("there is no config/bennu.toml in {} or in a folder above it: change to a folder that has one, name the file, or make a workspace with `bennu new NAME`", folder.display())]
    NotFound {
        /// Where the search started.
        folder: PathBuf,
    },
    /// The current folder is gone, or cannot be read.
    #[error("cannot find the current folder")]
    NoFolder(#[source] io::Error),
}

/// The named configuration, or else the nearest one.
///
/// # Errors
///
/// If none is named and none is found.
pub(super) fn named_or_found(named: Option<&Path>) -> Result<PathBuf, NoConfig> {
    match named {
        Some(file) => Ok(file.to_owned()),
        None => find_config(&std::env::current_dir().map_err(NoConfig::NoFolder)?),
    }
}

/// `config/bennu.toml` of `folder`, or of the nearest folder above that has one. As short a path as possible.
pub(super) fn find_config(folder: &Path) -> Result<PathBuf, NoConfig> {
    let file = Path::new("config").join("bennu.toml");
    if folder.join(&file).is_file() {
        return Ok(file);
    }
    let above = folder.ancestors().skip(1).map(|above| above.join(&file));
    { above }.find(|file| file.is_file()).ok_or_else(|| NoConfig::NotFound {
        folder: folder.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    #[test]
    fn a_name_means_its_address() {
        assert_eq!(address("localhost:4001"), Ok(([127, 0, 0, 1], 4001).into()));
        let unknown = address("no-such-host.invalid:1").expect_err("it is unknown");
        assert!(unknown.contains("such as 127.0.0.1:4000"), "{unknown}");
    }

    #[test]
    fn the_configuration_is_found_from_a_folder_inside_the_checkout() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
        assert_eq!(find_config(checkout).expect("found"), Path::new("config/bennu.toml"));
        assert_eq!(
            find_config(&checkout.join("host/src")).expect("found"),
            checkout.join("config/bennu.toml")
        );
        assert!(find_config(Path::new("/proc")).is_err());
    }

    #[test]
    fn an_address_on_the_command_line_overrides_the_configuration() {
        let mut config = Config::parse(Path::new("bennu.toml"), "", Mode::Dev).expect("a configuration");
        override_listen(&mut config, None);
        assert_eq!(config.listen().map(|address| address.port()), Some(4000));
        override_listen(&mut config, "127.0.0.1:8080".parse().ok());
        assert_eq!(config.listen().map(|address| address.port()), Some(8080));
    }
}
