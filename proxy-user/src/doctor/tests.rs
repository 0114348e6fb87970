//! The doctor as whoever runs the tests, and as nobody.

use std::process::Command;

use super::{
    bpf::{Answer, Support},
    privileges::Held,
    *,
};
use crate::kernel::{ALLOW_MULTI, ALLOW_OVERRIDE, Attached, Level};

/// Set for the copy of this test that runs as nobody.
const AS_NOBODY: &str = "SWITCHMASTER_TEST_DOCTOR_AS_NOBODY";
const NOBODY: u32 = 65534;

fn root() -> Held {
    Held::parse("Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n")
}

fn nobody() -> Held {
    Held::parse("Uid:\t65534\t65534\t65534\t65534\nCapEff:\t0000000000000000\n")
}

fn report(held: &Held, answer: &Answer, test: Option<SelfTest>, asked: Option<&'static str>) -> Report {
    let bpffs = Check::ok("bpffs", "mounted");
    let datapaths =
        datapaths::judge(held, &Support::all(answer), (&bpffs, Verdict::Yes), test, &interfaces(&["eth0"]), &hooks());
    Report { checks: Vec::new(), datapaths, asked }
}

/// Of which the last is no good.
fn interfaces(good: &[&str]) -> datapaths::Interfaces {
    let good = good.iter().map(|name| ((*name).to_owned(), Ok(())));
    Ok(good.chain([("docker0".to_owned(), Err("docker0: its driver has no native XDP".to_owned()))]).collect())
}

/// With one program that was attached with these flags.
fn level(cgroup: &str, flags: Option<u32>) -> Level {
    let attached = flags.map(|flags| Attached { programs: vec![7], flags });
    Level { cgroup: cgroup.into(), attached: vec![attached.unwrap_or_default()] }
}

fn hooks() -> datapaths::Hooks {
    datapaths::Hooks {
        cgroup: Some("/sys/fs/cgroup".into()),
        support: Support::all(&Answer::Yes),
        for_steering: Ok(vec![level("/sys/fs/cgroup", None)]),
        for_bypass: Ok(Vec::new()),
        sock_destroy: State::Ok,
    }
}

#[test]
fn steering_is_judged_by_its_cgroup() {
    let judged = |hooks: &datapaths::Hooks| {
        let bpffs = Check::ok("bpffs", "mounted");
        let support = Support::all(&Answer::Yes);
        let all = datapaths::judge(&root(), &support, (&bpffs, Verdict::Yes), None, &interfaces(&["eth0"]), hooks);
        all.into_iter().find(|it| it.name == "steering").unwrap()
    };
    assert_eq!(judged(&hooks()).verdict, Verdict::Yes);
    let at = |levels| datapaths::Hooks { for_steering: Ok(levels), ..hooks() };
    let (here, above) = ("/sys/fs/cgroup/clients", "/sys/fs/cgroup");
    let (alone, gives_way, multi) = (Some(0), Some(ALLOW_OVERRIDE), Some(ALLOW_MULTI));
    let beside = judged(&at(vec![level(here, multi), level(above, multi)]));
    assert!(beside.verdict == Verdict::Yes && beside.reason.contains("beside 1 programs"), "{beside:?}");
    let instead = judged(&at(vec![level(here, None), level(above, gives_way)]));
    assert!(instead.verdict == Verdict::Yes && instead.reason.contains("at /sys/fs/cgroup there"), "{instead:?}");
    let missing = Err(std::io::Error::other("nowhere"));
    for (hooks, reason, remedy) in [
        (
            at(vec![level(here, gives_way), level(above, multi)]),
            "clients there is a program of another that lets no",
            "[local]",
        ),
        (
            at(vec![level(here, None), level(above, alone)]),
            "cgroup there is a program of another that lets no",
            "[local]",
        ),
        (datapaths::Hooks { for_steering: missing, ..hooks() }, "nowhere", "cgroup"),
        (datapaths::Hooks { cgroup: None, ..hooks() }, "not mounted", "mount -t cgroup2"),
        (datapaths::Hooks { support: Support::all(&Answer::No), ..hooks() }, "does not offer", "steering = \"off\""),
        (datapaths::Hooks { sock_destroy: State::Warn, ..hooks() }, "SOCK_DESTROY", "steering = \"off\""),
    ] {
        let no = judged(&hooks);
        assert!(no.verdict == Verdict::No && no.reason.contains(reason) && no.remedy.contains(remedy), "{no:?}");
    }
}

#[test]
fn xdp_is_judged_by_the_interfaces() {
    let judged = |good: &[&str]| {
        let bpffs = Check::ok("bpffs", "mounted");
        let support = Support::all(&Answer::Yes);
        let all = datapaths::judge(&root(), &support, (&bpffs, Verdict::Yes), None, &interfaces(good), &hooks());
        all.into_iter().find(|it| it.name == "xdp").unwrap()
    };
    let one = judged(&["eth0", "eth1"]);
    assert_eq!(one.verdict, Verdict::Yes);
    assert_eq!(one.reason, "eth0, eth1 passed the self-test; docker0: its driver has no native XDP");
    let none = judged(&[]);
    assert_eq!(none.verdict, Verdict::No);
    assert!(none.reason.contains("docker0") && none.remedy.contains("\"tc\""), "{none:?}");
}

fn sockmap(report: &Report) -> &Ability {
    report.datapaths.iter().find(|it| it.name == "sockmap").unwrap()
}

#[test]
fn exit_codes() {
    let passed = || -> Option<SelfTest> { Some(Box::new(|| Ok("4 cases".to_owned()))) };
    let failed = || -> Option<SelfTest> { Some(Box::new(|| Err("a byte was lost".to_owned()))) };
    for (held, answer, test, asked, code) in [
        (root(), Answer::Yes, passed(), None, 0),
        (root(), Answer::Yes, passed(), Some("sockmap"), 0),
        (root(), Answer::Yes, None, Some("sockmap"), 0),
        (root(), Answer::Yes, failed(), Some("sockmap"), 1),
        (root(), Answer::No, passed(), Some("sockmap"), 1),
        (root(), Answer::Refused, passed(), Some("sockmap"), 77),
        (nobody(), Answer::Refused, passed(), Some("sockmap"), 77),
        (nobody(), Answer::Refused, passed(), Some("copy"), 0),
        (nobody(), Answer::Refused, passed(), None, 0),
        (root(), Answer::Yes, passed(), Some("tc"), 0),
        (root(), Answer::Yes, failed(), Some("tc"), 1),
        (nobody(), Answer::Refused, passed(), Some("tc"), 77),
        (root(), Answer::Yes, passed(), Some("xdp"), 0),
        (nobody(), Answer::Refused, passed(), Some("xdp"), 77),
    ] {
        let report = report(&held, &answer, test, asked);
        assert_eq!(report.exit_code(), code, "{report:?}");
    }
}

#[test]
fn a_no_names_the_capability_and_offers_copy() {
    let report = report(&nobody(), &Answer::Refused, None, None);
    let ability = sockmap(&report);
    assert_eq!(ability.verdict, Verdict::MissingPrivilege);
    assert_eq!(ability.reason, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON missing");
    assert!(ability.remedy.contains("grant CAP_BPF CAP_NET_ADMIN CAP_PERFMON"), "{}", ability.remedy);
    assert!(ability.remedy.contains("\"copy\""), "{}", ability.remedy);
}

#[test]
fn the_self_test_runs_only_where_it_can() {
    let never = || -> Option<SelfTest> { Some(Box::new(|| panic!("must not run"))) };
    report(&nobody(), &Answer::Yes, never(), None);
    report(&root(), &Answer::No, never(), None);
    let report = report(&root(), &Answer::Yes, Some(Box::new(|| Err("half-close lost 3 bytes".into()))), None);
    assert!(sockmap(&report).reason.contains("half-close lost 3 bytes"));
}

#[test]
fn sockmap_needs_a_place_for_its_pins() {
    let bpffs = Check::bad("bpffs", State::No, "not mounted", "mount one");
    let abilities = datapaths::judge(
        &root(),
        &Support::all(&Answer::Yes),
        (&bpffs, Verdict::MissingPrivilege),
        None,
        &interfaces(&[]),
        &hooks(),
    );
    let report = Report { checks: Vec::new(), datapaths: abilities, asked: Some("sockmap") };
    assert_eq!(report.exit_code(), 77);
    assert_eq!(sockmap(&report).reason, "bpffs: not mounted");
    assert!(sockmap(&report).remedy.starts_with("mount one; datapath"));
}

#[test]
fn the_report_prints_and_serialises() {
    let report = run(Input::default());
    println!("{report}");
    let text = report.to_string();
    for name in [
        "copy",
        "sockmap",
        "steering",
        "kernel",
        "bpffs",
        "cgroup2",
        "BTF",
        "CAP_BPF",
        "open files",
        "real-time priority",
    ] {
        assert!(text.contains(name), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(json["datapaths"].as_array().unwrap().len(), 6);
    assert!(json["checks"].as_array().unwrap().iter().any(|it| it["name"] == "kernel"));
}

/// Runs this test again as nobody, and there asks the real doctor.
#[test]
fn it_works_without_privileges() {
    if std::env::var_os(AS_NOBODY).is_some() {
        let report = run(Input { datapath: Some(DatapathChoice::Sockmap), ..Input::default() });
        println!("{report}");
        assert_eq!(sockmap(&report).verdict, Verdict::MissingPrivilege);
        assert_eq!(report.exit_code(), 77);
        let text = report.to_string();
        assert!(
            text.contains(&format!("uid {NOBODY}")) && text.contains("CAP_NET_ADMIN, CAP_PERFMON missing"),
            "{text}"
        );
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become nobody");
        return;
    }
    // Nobody may not reach the folder of this executable (below /root, say), but may use an open file.
    let executable = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--"])
        .arg("/proc/self/fd/0")
        .stdin(executable)
        .args(["--exact", "--nocapture", &name])
        .env(AS_NOBODY, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
