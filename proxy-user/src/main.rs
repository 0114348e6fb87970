//! `switchmaster`: reads the command line and calls what does the work.

use std::{io, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use switchmaster::{
    admin::client,
    cli::{self, Cli, Command, Exit, Failure},
    daemon, datapath, doctor, log, purge,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("switchmaster: {}", explain(&error));
            error.downcast_ref::<Failure>().map_or(Exit::Failed, Failure::exit).into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(run) => {
            log::init(cli.log.log_format, &cli.log.log_level).map_err(|error| Failure::usage(error.to_string()))?;
            // Before any secret is read.
            if let Err(error) = log::quiet_core_dumps() {
                tracing::warn!(%error, "core dumps stay on, and would hold the passwords");
            }
            let config = run.configuration()?;
            let runtime = runtime()?;
            let result = runtime.block_on(daemon::run(config, run.drain, &run.pin_dir));
            // A resolver that hangs holds a thread of the runtime; it must not hold the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result.map(|()| Exit::Done.into())
        }
        Command::Check(check) => Ok(cli::check(&check.config, &mut io::stdout(), &mut io::stderr())?.into()),
        Command::Doctor(asked) => {
            let self_test: doctor::SelfTest = Box::new(|| datapath::selftest().map_err(|error| error.to_string()));
            let bypass: doctor::SelfTest =
                Box::new(|| datapath::selftest_bypass().map(|it| it.said).map_err(|error| error.to_string()));
            let report = doctor::run(doctor::Input {
                datapath: asked.datapath,
                sockmap_self_test: Some(self_test),
                bypass_self_test: Some(bypass),
                pin_dir: asked.pin_dir,
                cgroup: asked.cgroup,
            });
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
        Command::Purge(asked) => {
            print!("{}", purge::command(&asked.pin_dir, asked.force)?);
            Ok(Exit::Done.into())
        }
        Command::Events(asked) => {
            let endpoint = asked.admin.to_string().parse().context("--admin")?;
            let wanted = client::Events { limit: asked.limit, follow: asked.follow, json: asked.json };
            let (mut out, mut notes) = (io::stdout(), io::stderr());
            match runtime()?.block_on(client::events(&endpoint, wanted, &mut out, &mut notes)) {
                // Whoever read it has read enough: `events --follow | head`.
                Err(client::EventsError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
                told => told?,
            }
            Ok(Exit::Done.into())
        }
    }
}

/// The error and its causes, without those that an outer message has already told.
fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.is_empty() => cause,
        told if told.contains(&cause) => told,
        told => format!("{told}: {cause}"),
    })
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    // The workers of the datapaths are threads of their own; these only accept, ask and answer.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
