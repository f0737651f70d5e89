//! The `bennu` program: reads the command line, runs the command, turns errors into one clear line and an exit code.

use std::process::ExitCode;

use bennu::cli::args::{Cli, Command};
use bennu::cli::{call, check, completions, dev, new, plugins, routes, schema, secret, serve, torture};
use bennu::load;
use clap::Parser as _;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        // First of all, as it is to touch nothing else.
        Command::Probe(_) => return bennu::plugin::probe::run_child(),
        Command::Dev(args) => dev::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Command::New(args) => new::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::run(&args),
        Command::Routes(args) => routes::run(&args),
        Command::Plugins(args) => plugins::run(&args),
        Command::Load(args) => load::run(&args).map(exit_code).map_err(Into::into),
        Command::Call(args) => call::run(*args),
        Command::Secret => secret::run().map(|()| ExitCode::SUCCESS),
        Command::Schema(args) => schema::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Torture(args) => torture::run(&args),
    };
    done.unwrap_or_else(|error| {
        bennu::cli::complain(&error);
        ExitCode::FAILURE
    })
}

fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
