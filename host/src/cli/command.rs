//! The list of commands. Each command has a file of its own with its arguments.
//!
//! clap refuses unknown arguments with one line and exit code 2.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::backend::ask::{self, AskArgs};
use super::backend::disconnect::{self, DisconnectArgs};
use super::backend::publish::{self, PublishArgs};
use super::backend::topics::{self, TopicsArgs};
use super::check::{self, CheckArgs};
use super::cluster::{self, ClusterArgs};
use super::completions::{self, CompletionsArgs};
use super::dev::{self, DevArgs};
use super::new::{self, NewArgs};
use super::plugins::{self, PluginsArgs};
use super::probe::ProbeArgs;
use super::routes::{self, RoutesArgs};
use super::schema::{self, SchemaArgs};
use super::secret;
use super::serve::{self, ServeArgs};
use super::why::{self, WhyArgs};

const HELP: &str = "\
Start here: run `bennu new greeter`, then `bennu dev` in the new folder (or
`bennu dev` in the checkout), and open the address that it prints.

Exit codes:
  0  done
  1  the command failed, or found mistakes
  2  the command line cannot be understood

Output on a terminal is in colour; NO_COLOR=1 turns that off.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bennu",
    version,
    about = "A server for Phoenix Channels clients whose channels are native plugins, reloaded while clients stay connected",
    after_help = HELP,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Builds the plugins, serves them, and replaces each one when its source changes
    #[command(after_help = dev::HELP)]
    Dev(DevArgs),
    /// Serves the plugins that the configuration names, and replaces each one when its library changes
    #[command(after_help = serve::HELP)]
    Serve(ServeArgs),
    /// Makes a plugin with a test, in this workspace or in a new one
    #[command(after_help = new::HELP)]
    New(NewArgs),
    /// Shows every mistake in a configuration and its libraries, each at its line
    #[command(after_help = check::HELP)]
    Check(CheckArgs),
    /// Shows which plugin serves which topics, and why a topic goes to a plugin
    #[command(after_help = routes::HELP)]
    Routes(RoutesArgs),
    /// Shows the plugins of a running server, and has it reload one
    #[command(after_help = plugins::HELP)]
    Plugins(PluginsArgs),
    /// Shows the nodes of the cluster that a running server is in, or which node is the home of a topic
    #[command(after_help = cluster::HELP)]
    Cluster(ClusterArgs),
    /// Says why a client was closed or not let in, and what to change
    #[command(after_help = why::HELP)]
    Why(WhyArgs),
    /// Sends a message to everybody on a topic of a running server
    #[command(after_help = publish::HELP)]
    Publish(PublishArgs),
    /// Asks the plugin of a topic of a running server, and prints its answer
    #[command(after_help = ask::HELP)]
    Ask(AskArgs),
    /// Lists the topics of a running server, or shows one with its presence list
    #[command(after_help = topics::HELP)]
    Topics(TopicsArgs),
    /// Closes the connections of a socket id of a running server
    #[command(after_help = disconnect::HELP)]
    Disconnect(DisconnectArgs),
    /// Puts a server under load with many clients, and shows what that costs the server
    #[cfg(feature = "tools")]
    #[command(after_help = bennu_tools::load::HELP)]
    Load(bennu_tools::load::LoadArgs),
    /// Talks to a server from the terminal: joins a topic, pushes events, shows messages
    #[cfg(feature = "tools")]
    #[command(after_help = bennu_tools::call::HELP)]
    Call(Box<bennu_tools::call::CallArgs>),
    /// Prints a new secret_key_base
    #[command(after_help = secret::HELP)]
    Secret,
    /// Prints a completion script for a shell
    #[command(after_help = completions::HELP)]
    Completions(CompletionsArgs),
    /// Prints the JSON schema of the configuration, for editors, or of a plugin's settings
    #[command(after_help = schema::HELP)]
    Schema(SchemaArgs),
    /// Replaces a plugin again and again under load, and checks that no message is lost
    #[cfg(feature = "tools")]
    #[command(after_help = bennu_tools::torture::HELP)]
    Torture(bennu_tools::torture::TortureArgs),
    /// Requires a build with the tools
    #[cfg(not(feature = "tools"))]
    #[command(hide = true, aliases = ["load", "torture"], disable_help_flag = true)]
    Call(NoTools),
    /// Loads a library once and ends: the server runs this in a child process before it loads a library itself
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// The arguments of a tool that this build does not have.
#[cfg(not(feature = "tools"))]
#[derive(clap::Args, Debug)]
pub(super) struct NoTools {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// If the command fails.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Dev(args) => dev::run(&args).map(done),
            Self::Serve(args) => serve::run(&args).map(done),
            Self::New(args) => new::run(&args).map(done),
            Self::Check(args) => check::run(&args),
            Self::Routes(args) => routes::run(&args),
            Self::Plugins(args) => plugins::run(&args),
            Self::Cluster(args) => cluster::run(&args),
            Self::Why(args) => why::run(&args),
            Self::Publish(args) => publish::run(&args),
            Self::Ask(args) => ask::run(&args),
            Self::Topics(args) => topics::run(&args),
            Self::Disconnect(args) => disconnect::run(&args),
            #[cfg(feature = "tools")]
            Self::Load(args) => bennu_tools::load::run(&args),
            #[cfg(feature = "tools")]
            Self::Call(args) => bennu_tools::call::run(*args),
            #[cfg(feature = "tools")]
            Self::Torture(args) => bennu_tools::torture::run(&args),
            #[cfg(not(feature = "tools"))]
            Self::Call(_) => anyhow::bail!(
                "this build has no `call`, `load` and `torture`; build with the feature `tools`, \
                 for example `cargo run --features tools -- call localhost:4000 room:lobby`"
            ),
            Self::Secret => secret::run().map(done),
            Self::Schema(args) => schema::run(&args).map(done),
            Self::Completions(args) => completions::run(&args).map(done).map_err(Into::into),
            Self::Probe(_) => Ok(crate::runtime::plugin::probe::run_child()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

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
    fn unknown_and_missing_arguments_are_refused() {
        check_refused("bennu dev --prot 1", ErrorKind::UnknownArgument);
        check_refused("bennu srve", ErrorKind::InvalidSubcommand);
        check_refused("bennu new", ErrorKind::MissingRequiredArgument);
        check_refused("bennu dev --listen localhost", ErrorKind::ValueValidation);
        check_refused("bennu dev --listen :4000", ErrorKind::ValueValidation);
        check_refused("bennu dev --listen localhost:http", ErrorKind::ValueValidation);
        check_refused("bennu", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    }

    #[test]
    fn help_shows_every_command_except_the_internal_one() {
        let help = Cli::command().render_long_help().to_string();
        for command in [
            "dev",
            "serve",
            "check",
            "routes",
            "plugins",
            "cluster",
            "why",
            "publish",
            "ask",
            "topics",
            "disconnect",
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
}
