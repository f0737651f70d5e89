//! How many files the system lets this process have open: each connection is one.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, Diagnostic};

/// Open files besides connections: I/O threads, watches, libraries, the log, and a child process now and then.
const OTHERS: u64 = 128;

/// Raises the soft limit to the hard limit, and returns that. systemd and most shells start programs with a soft limit of 1,024
/// for the sake of old ones that use `select`.
///
/// # Errors
///
/// If the system refuses.
pub(crate) fn raise() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(most())
}

/// The hard limit: as many as the server may open once it has [raised](raise) the soft one.
#[must_use]
pub(crate) fn most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// A warning if this many open files are too few for `max_connections`.
#[must_use]
pub(crate) fn shortage(config: &Config, files: u64) -> Option<Diagnostic> {
    let wanted = config.max_connections() as u64;
    let clients = files.saturating_sub(OTHERS);
    (clients < wanted).then(|| {
        let message = format!(
            "`max_connections` is {wanted}, but the system allows this process {files} open files: about {clients} clients can \
             connect"
        );
        let help = "raise the hard limit (`LimitNOFILE=` in a systemd unit, `ulimit -Hn` in a shell), or lower `max_connections`";
        config.key_warning("limits", "max_connections", &message).help(help)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Mode;

    #[test]
    fn too_few_open_files_for_the_connections_are_a_warning() {
        let text = "[limits]\nmax_connections = 1_000\n";
        let config = Config::parse(Path::new("bennu.toml"), text, Mode::Serve).expect("a configuration");
        assert_eq!(shortage(&config, 1_128), None);
        let warning = shortage(&config, 1_127).expect("one is missing");
        assert_eq!((warning.is_warning(), warning.position()), (true, (2, 1)));
        let message = warning.message();
        assert!(message.contains("1127 open files: about 999 clients"), "{message}");
    }
}
