//! The command line as users type it, and what `check` answers.

use std::{fs, path::Path};

use clap::CommandFactory as _;

use super::*;
use crate::config::Source;

fn run(args: &[&str]) -> Run {
    let cli = Cli::try_parse_from([&["switchmaster", "run"], args].concat()).unwrap_or_else(|error| panic!("{error}"));
    match cli.command {
        Command::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_contract_without_a_file_is_accepted() {
    let run = run(&[
        "--listen",
        "0.0.0.0:6379",
        "--master",
        "mymaster",
        "--sentinel",
        "a:26379",
        "--sentinel",
        "b:26379,c:26379",
    ]);
    let config = run.configuration().unwrap_or_else(|failure| panic!("{failure}"));
    assert!(matches!(&config.groups[0].source, Source::Sentinels(sentinels) if sentinels.len() == 3));
    assert_eq!(run.drain, Duration::from_secs(10));
}

#[test]
fn wrong_usage_asks_for_its_exit_code() {
    for (args, message) in [
        (&[][..], "there is no configuration; give -c FILE"),
        (
            &["-c", "/none", "--listen", "0.0.0.0:1", "--tls"],
            "--listen (or SWITCHMASTER_LISTEN), --tls (or SWITCHMASTER_TLS)",
        ),
        (&["-c", "/none"], "/none: cannot read it: No such file"),
        (&["--listen", "0.0.0.0:1"], "--master: is missing"),
    ] {
        let failure = run(args).configuration().expect_err(message);
        assert_eq!(failure.exit().code(), 2);
        assert!(failure.to_string().contains(message), "{failure}");
    }
    let privilege =
        Failure::Privilege { what: "sockmap".into(), privilege: "CAP_BPF".into(), remedy: "use copy".into() };
    assert_eq!((privilege.exit().code(), Exit::Failed.code(), Exit::Done.code()), (77, 1, 0));
}

#[test]
fn what_clap_refuses_has_the_same_exit_code() {
    for args in [
        &["switchmaster"][..],
        &["switchmaster", "run", "--nonsense"],
        &["switchmaster", "run", "--drain", "10"],
        &["switchmaster", "run", "--drain", "1day"],
        &["switchmaster", "check"],
        &["switchmaster", "status", "--admin", "localhost"],
        &["switchmaster", "events", "--limit", "many"],
        &["switchmaster", "--log-format", "xml", "doctor"],
        &["switchmaster", "run", "--sentinel-tls-off", "--sentinel-tls-ca-file", "ca.pem"],
    ] {
        let error = Cli::try_parse_from(args).expect_err("it is wrong");
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[test]
fn a_password_given_by_mistake_is_not_repeated() {
    let run = run(&["--listen", "0.0.0.0:1", "--node", "a:1", "--password-env", "hunter2"]);
    let failure = run.configuration().expect_err("no such variable");
    for printed in [format!("{run:?} {run:#?}"), format!("{failure} {failure:?}")] {
        assert!(!printed.contains("hunter2"), "{printed}");
    }
    for args in [["run", "--password=hunter2", "x"], ["run", "--password", "hunter2"]] {
        let error = Cli::try_parse_from([&["switchmaster"], &args[..]].concat()).expect_err("no such flag");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn every_flag_has_its_environment_variable() {
    let command = Cli::command();
    command.clone().debug_assert();
    let commands = command.get_subcommands().chain([&command]);
    let mut seen = 0;
    for arg in commands.flat_map(clap::Command::get_arguments) {
        let Some(long) = arg.get_long().filter(|long| !["help", "version", "json", "follow", "force"].contains(long))
        else {
            continue;
        };
        let env = arg.get_env().unwrap_or_else(|| panic!("--{long} has no variable")).to_string_lossy().into_owned();
        assert_eq!(env, variable(long));
        let secret = long.contains("password") || long.contains("token");
        assert_eq!(arg.is_hide_env_values_set(), secret, "--{long}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_flag_is_in_the_guide() {
    let guide = include_str!("../../../docs/configuration.md");
    for arg in Cli::command().get_subcommands().flat_map(clap::Command::get_arguments) {
        if let Some(long) = arg.get_long().filter(|long| *long != "help" && *long != "version") {
            assert!(guide.contains(&format!("`--{long}")), "--{long} is not in the guide");
        }
    }
}

/// The exit, and what went to standard output and standard error.
fn checked(file: &Path) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = check(file, &mut out, &mut err).expect("writing to memory");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (exit, text(out), text(err))
}

#[test]
fn check_answers_with_a_summary_or_with_every_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("s.toml");
    fs::write(folder.path().join("secret"), "hunter2").expect("the secret");
    let text = "[[group]]\nname = \"m\"\nsentinels = [\"a:1\", \"[::1]:2\"]\npassword_file = \"secret\"\n\
        [[route]]\nname = \"r\"\ngroup = \"m\"\nlisten = \"[::]:6379\"\ntarget = \"replica\"\nmax_lag = \"1mb\"\n";
    fs::write(&file, text).expect("the file");
    let (exit, out, err) = checked(&file);
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        out,
        format!(
            "{}: ok\ngroup  m: Sentinels a:1, [::1]:2; to nodes: password for user default; to Sentinels: no password\n\
             route  r: [::]:6379 -> replicas (round-robin, lag up to 1048576b) of m, datapath auto\nadmin  none\n",
            file.display()
        )
    );
    assert!(err.starts_with("warning: ") && err.contains("chmod o-r") && !err.contains("hunter2"), "{err}");

    fs::write(&file, text.replace("[::]:6379", "x").replace("max_lag", "maxlag")).expect("the file");
    let (exit, out, err) = checked(&file);
    assert_eq!((exit, out.as_str(), err.lines().count()), (Exit::Usage, "", 2), "{err}");
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("s.toml");
    for (content, message) in [
        (vec![b'#'; (1 << 20) + 1], "s.toml: is larger than 1 MiB; "),
        (b"a = 1\n\xff".to_vec(), "s.toml: is not UTF-8 in line 2; "),
        (Vec::new(), "s.toml:1:1: group: is missing; "),
    ] {
        fs::write(&file, content).expect("the file");
        let (exit, _, err) = checked(&file);
        assert!(exit == Exit::Usage && err.contains(message), "{message}\n{err}");
    }
    assert!(checked(folder.path()).2.contains("cannot read it: Is a directory"));
    assert!(checked(Path::new("/dev/zero")).2.contains("larger than 1 MiB"));
}
