//! What can be written behind `bennu`: the list of commands. What each of them takes stands in its own file.
//!
//! Arguments that nobody knows are refused by clap, with one line and exit code 2.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::call::{self, CallArgs};
use super::check::{self, CheckArgs};
use super::completions::{self, CompletionsArgs};
use super::dev::{self, DevArgs};
use super::new::{self, NewArgs};
use super::plugins::{self, PluginsArgs};
use super::probe::ProbeArgs;
use super::routes::{self, RoutesArgs};
use super::schema::{self, SchemaArgs};
use super::secret;
use super::serve::{self, ServeArgs};
use super::torture::{self, TortureArgs};
use crate::config::Config;
use crate::load::{self, LoadArgs};

const HELP: &str = "\
Start here: `bennu new greeter`, then `bennu dev` in the folder that it makes,
or `bennu dev` in the checkout; and open the address that it prints.

Exit codes:
  0  done
  1  it failed, or what was looked at is bad
  2  the command line cannot be understood

Output is in colour on a terminal; NO_COLOR=1 turns that off.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bennu",
    version,
    about = "A server for Phoenix Channels clients whose channels are native plugins, replaced while everyone stays connected",
    after_help = HELP,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Builds the plugins, serves them, and replaces each one when its source changes
    #[command(after_help = dev::HELP)]
    Dev(DevArgs),
    /// Serves the plugins that the configuration names, and replaces them whenever their library changes
    #[command(after_help = serve::HELP)]
    Serve(ServeArgs),
    /// Makes a plugin with a test, in this workspace or in a fresh one of its own
    #[command(after_help = new::HELP)]
    New(NewArgs),
    /// Shows every mistake in a configuration, each at its line
    #[command(after_help = check::HELP)]
    Check(CheckArgs),
    /// Shows which plugin serves which topics, and why a topic goes where it goes
    #[command(after_help = routes::HELP)]
    Routes(RoutesArgs),
    /// Shows what a running host says of its plugins, and has it load one again
    #[command(after_help = plugins::HELP)]
    Plugins(PluginsArgs),
    /// Puts a server under load: many clients that connect, echo or broadcast, and what that costs the server
    #[command(after_help = load::HELP)]
    Load(LoadArgs),
    /// Talks to a server from the terminal: joins a topic, pushes events, shows what comes
    #[command(after_help = call::HELP)]
    Call(Box<CallArgs>),
    /// Prints a fresh secret_key_base
    #[command(after_help = secret::HELP)]
    Secret,
    /// Prints what makes a shell complete the words of this command
    #[command(after_help = completions::HELP)]
    Completions(CompletionsArgs),
    /// Prints the JSON schema of the configuration, for editors, or of a plugin's settings
    #[command(after_help = schema::HELP)]
    Schema(SchemaArgs),
    /// Replaces a plugin under the hands of its clients, again and again, and certifies that nothing is lost
    #[command(after_help = torture::HELP)]
    Torture(TortureArgs),
    /// Loads a library once and ends: what the server does in a child before it loads a plugin itself
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// `--config`, where a command needs one but can find it.
#[derive(Args, Debug)]
pub struct ConfigArg {
    /// The configuration [default: config/bennu.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArg {
    /// The configuration that was named, or else the one that is found.
    ///
    /// # Errors
    ///
    /// If none was named and none is found.
    pub fn find(&self) -> Result<PathBuf, NoConfig> {
        named_or_found(self.config.as_deref())
    }
}

/// `--json`
#[derive(Args, Debug)]
pub struct JsonArg {
    /// Writes JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// Puts what the command line says in place of what the configuration says. Goes for every reload too.
pub fn override_listen(config: &mut Config, listen: Option<SocketAddr>) {
    config.listen_instead = listen;
}

/// Reads an address and a port. A name stands for the first of its addresses, those of IPv4 before others, as `dev` and the
/// admin pages listen there.
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
pub enum NoConfig {
    /// Neither here nor above.
    #[error("there is no config/bennu.toml in {} or in a folder above it: `bennu new NAME` makes a workspace with one; go there, or name the file", folder.display())]
    NotFound {
        /// Where the search began.
        folder: PathBuf,
    },
    /// There is no here.
    #[error("cannot tell which folder this is")]
    NoFolder(#[source] io::Error),
}

/// The configuration that was named, or else the one that is found.
///
/// # Errors
///
/// If none was named and none is found.
pub(super) fn named_or_found(named: Option<&Path>) -> Result<PathBuf, NoConfig> {
    match named {
        Some(file) => Ok(file.to_owned()),
        None => find_config(&std::env::current_dir().map_err(NoConfig::NoFolder)?),
    }
}

/// `config/bennu.toml` of `folder` or of the nearest folder above that has one; as short as that can be written.
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
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::Mode;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[track_caller]
    fn check_refused(line: &str, expected: ErrorKind) {
        assert_eq!(parse(line).expect_err("refused").kind(), expected, "{line}");
    }

    #[test]
    fn the_definition_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dev_needs_nothing() {
        let Ok(Command::Dev(args)) = parse("bennu dev") else {
            panic!("dev")
        };
        assert_eq!((args.config.config, args.listen), (None, None));
    }

    #[test]
    fn serve_takes_a_configuration_and_an_address() {
        let Ok(Command::Serve(args)) = parse("bennu serve --config a.toml --listen [::1]:1") else {
            panic!("serve")
        };
        let named = args.config.config;
        assert_eq!((named, args.listen), (Some("a.toml".into()), "[::1]:1".parse().ok()));
    }

    #[test]
    fn a_name_stands_for_its_address() {
        assert_eq!(address("localhost:4001"), Ok(([127, 0, 0, 1], 4001).into()));
        let unknown = address("no-such-host.invalid:1").expect_err("nobody is called so");
        assert!(unknown.contains("such as 127.0.0.1:4000"), "{unknown}");
    }

    #[test]
    fn what_is_unknown_or_missing_is_refused() {
        check_refused("bennu dev --prot 1", ErrorKind::UnknownArgument);
        check_refused("bennu srve", ErrorKind::InvalidSubcommand);
        check_refused("bennu new", ErrorKind::MissingRequiredArgument);
        check_refused("bennu dev --listen localhost", ErrorKind::ValueValidation);
        check_refused("bennu dev --listen :4000", ErrorKind::ValueValidation);
        check_refused("bennu dev --listen localhost:http", ErrorKind::ValueValidation);
        check_refused("bennu", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    }

    #[test]
    fn help_shows_every_command_but_the_internal_one() {
        let help = Cli::command().render_long_help().to_string();
        for command in [
            "dev",
            "serve",
            "check",
            "routes",
            "plugins",
            "load",
            "secret",
            "schema",
            "completions",
            "torture",
            "call",
        ] {
            assert!(
                help.contains(&format!("\n  {command} ")),
                "{command} is missing in\n{help}"
            );
        }
        assert!(!help.contains("probe"));
    }

    #[test]
    fn the_configuration_is_found_from_a_folder_inside_of_the_checkout() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
        assert_eq!(find_config(checkout).expect("found"), Path::new("config/bennu.toml"));
        assert_eq!(
            find_config(&checkout.join("host/src")).expect("found"),
            checkout.join("config/bennu.toml")
        );
        assert!(find_config(Path::new("/proc")).is_err());
    }

    #[test]
    fn an_address_on_the_command_line_goes_before_the_configuration() {
        let mut config = Config::parse(Path::new("bennu.toml"), "", Mode::Dev).expect("a configuration");
        override_listen(&mut config, None);
        assert_eq!(config.listen().port(), 4000);
        override_listen(&mut config, "127.0.0.1:8080".parse().ok());
        assert_eq!(config.listen().port(), 8080);
    }
}
