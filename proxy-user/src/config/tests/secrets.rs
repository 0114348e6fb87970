//! No secret shows, whatever is printed of a configuration, and however wrong it is.

use super::{
    MARK,
    accepted::{CONTRACT, MINIMAL},
    folder, parse_in,
};

#[test]
fn nothing_that_prints_a_configuration_prints_a_secret() {
    let folder = folder();
    let loaded = parse_in(folder.path(), CONTRACT).expect("valid");
    let config = &loaded.config;
    assert!(config.groups[0].node_access.password.as_ref().is_some_and(|secret| secret.expose().contains(MARK)));
    for printed in [
        format!("{loaded:?} {loaded:#?} {config:?} {config:#?}"),
        format!("{:?} {:#?}", config.groups[0].node_access, config.groups[0].sentinel_access),
        format!("{:?}", config.admin.as_ref().map(|admin| &admin.token)),
    ] {
        assert!(!printed.contains(MARK), "{printed}");
        assert!(printed.contains("***"), "{printed}");
    }
}

/// Every place where someone might write a password, or where one is read from.
#[test]
fn no_error_repeats_a_secret() {
    let folder = folder();
    for line in [
        "password = \"hunter2\"",
        "sentinel_password = \"hunter2\"",
        "requirepass = \"hunter2\"",
        "pasword_env = \"hunter2\"",
        "password_env = \"hunter2\"",
        "password_env = \"hunter2=x\"",
        "password_env = \"REDIS_PASSWORD\"\npassword_file = \"node.password\"",
        "password_env = [\"hunter2\"]",
        "password_env = \"hunter2",
        "password_env = hunter2",
        "password = \"hunter2\"\npassword = \"hunter2\"",
        "password = { hunter = \"hunter2\" }",
        "nodes = [\"redis://:hunter2@10.0.0.1:6379\"]",
        "nodes = [\"probe:hunter2@10.0.0.1:6379\"]",
        "tls = \"hunter2\"",
        "sentinel_tls = \"hunter2\"",
        "[admin]\nlisten = \"127.0.0.1:1\"\ntoken = \"hunter2\"",
        "[admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"two-words\"",
    ] {
        let text = MINIMAL.replace("[[route]]", &format!("{line}\n[[route]]"));
        let errors = parse_in(folder.path(), &text).expect_err(line);
        let printed = format!("{errors} {errors:?} {errors:#?}");
        assert!(!printed.contains(MARK) && !printed.contains("two words"), "{line}\n{printed}");
    }
}
