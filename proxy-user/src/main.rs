//! `switchmaster`: reads the command line and calls what does the work.

use std::{io, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use switchmaster::{
    admin::client,
    cli::{self, Cli, Command, Exit, Failure},
    daemon, datapath, doctor, log,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("switchmaster: {error:#}");
            error.downcast_ref::<Failure>().map_or(Exit::Failed, Failure::exit).into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(run) => {
            log::init(cli.log.log_format, &cli.log.log_level)?;
            // Before any secret is read.
            if let Err(error) = log::quiet_core_dumps() {
                tracing::warn!(%error, "core dumps stay on, and would hold the passwords");
            }
            let config = run.configuration()?;
            runtime()?.block_on(daemon::run(config, run.drain, &run.pin_dir))?;
            Ok(Exit::Done.into())
        }
        Command::Check(check) => Ok(cli::check(&check.config, &mut io::stdout(), &mut io::stderr())?.into()),
        Command::Doctor(asked) => {
            let self_test: doctor::SelfTest = Box::new(|| datapath::selftest().map_err(|error| error.to_string()));
            let report = doctor::run(doctor::Input { datapath: asked.datapath, sockmap_self_test: Some(self_test) });
            if asked.json {
                println!("{}", report.to_json()?);
            } else {
                print!("{report}");
            }
            Ok(report.exit_code().into())
        }
        Command::Status(status) => {
            let endpoint = status.admin.to_string().parse().context("--admin")?;
            print!("{}", runtime()?.block_on(client::show(&endpoint, status.json))?);
            Ok(Exit::Done.into())
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    // The workers of the datapaths are threads of their own; these only accept, ask and answer.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
