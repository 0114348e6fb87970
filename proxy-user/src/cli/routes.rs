//! The flags that describe one group and one route, for a daemon without a file. Their values are taken
//! as text and checked by the same rules as a file's: here is only which flags there are.

use std::fmt;

use clap::{ArgAction, Args, builder::BoolishValueParser};

use crate::config::Setting;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Without a file")]
pub struct Routes {
    /// Where clients connect: "0.0.0.0:6379", "[::]:6379". May be repeated.
    #[arg(long, value_name = "ADDR", value_delimiter = ',', action = ArgAction::Append, env = "SWITCHMASTER_LISTEN")]
    listen: Vec<String>,
    /// Where they are taken: master (the default) or replica.
    #[arg(long, value_name = "ROLE", env = "SWITCHMASTER_TARGET")]
    target: Option<String>,
    /// How the bytes move: auto (the default), xdp, tc, sockmap or copy.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_DATAPATH")]
    datapath: Option<String>,
    /// Among replicas: round-robin (the default), least-connections or source-hash.
    #[arg(long, value_name = "HOW", env = "SWITCHMASTER_BALANCE")]
    balance: Option<String>,
    /// How far behind a replica may be: "10s" (the default) or "1mb".
    #[arg(long, value_name = "LAG", env = "SWITCHMASTER_MAX_LAG")]
    max_lag: Option<String>,
    /// With no healthy replica: none (the default) or master.
    #[arg(long, value_name = "WHERE", env = "SWITCHMASTER_FALLBACK")]
    fallback: Option<String>,
    /// Who may connect: "10.0.0.0/8". Everyone if not given. May be repeated.
    #[arg(long, value_name = "NET", value_delimiter = ',', action = ArgAction::Append, env = "SWITCHMASTER_ALLOW")]
    allow: Vec<String>,
    /// Connections at a time [default: 10000].
    #[arg(long, value_name = "N", env = "SWITCHMASTER_MAX_CONNECTIONS")]
    max_connections: Option<String>,
    /// The name that the Sentinels have for the master.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_MASTER")]
    master: Option<String>,
    /// A Sentinel. May be repeated; name at least three.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', action = ArgAction::Append, env = "SWITCHMASTER_SENTINEL")]
    sentinel: Vec<String>,
    /// Without Sentinels: a node. May be repeated; name every one.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', action = ArgAction::Append, env = "SWITCHMASTER_NODE")]
    node: Vec<String>,
    /// When to go to a new master: majority (the default) or early.
    #[arg(long, value_name = "WHEN", env = "SWITCHMASTER_COMMIT")]
    commit: Option<String>,
    /// ACL user for the probes of nodes.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_USERNAME")]
    username: Option<String>,
    /// The variable that holds the nodes' password (its name, not the password).
    #[arg(long, value_name = "VARIABLE", env = "SWITCHMASTER_PASSWORD_ENV", hide_env_values = true)]
    password_env: Option<VariableName>,
    /// The file that holds the nodes' password.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_PASSWORD_FILE", hide_env_values = true)]
    password_file: Option<String>,
    /// ACL user on the Sentinels.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_SENTINEL_USERNAME")]
    sentinel_username: Option<String>,
    /// The variable that holds the Sentinels' password.
    #[arg(long, value_name = "VARIABLE", env = "SWITCHMASTER_SENTINEL_PASSWORD_ENV", hide_env_values = true)]
    sentinel_password_env: Option<VariableName>,
    /// The file that holds the Sentinels' password.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_SENTINEL_PASSWORD_FILE", hide_env_values = true)]
    sentinel_password_file: Option<String>,
    /// Ask nodes and Sentinels through TLS, with the system's trust store.
    #[arg(long, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), env = "SWITCHMASTER_TLS")]
    tls: bool,
    /// Certificates to trust (PEM); means --tls.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_TLS_CA_FILE")]
    tls_ca_file: Option<String>,
    /// Our certificate (PEM); means --tls.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_TLS_CERT_FILE")]
    tls_cert_file: Option<String>,
    /// The key of our certificate (PEM).
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_TLS_KEY_FILE")]
    tls_key_file: Option<String>,
    /// The name in the servers' certificates, if it is not the one dialled.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
    /// Ask Sentinels without TLS.
    #[arg(long, action = ArgAction::SetTrue, value_parser = BoolishValueParser::new(), env = "SWITCHMASTER_SENTINEL_TLS_OFF", conflicts_with_all = ["sentinel_tls_ca_file", "sentinel_tls_cert_file", "sentinel_tls_key_file", "sentinel_tls_server_name"])]
    sentinel_tls_off: bool,
    /// As --tls-ca-file, for Sentinels apart.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_SENTINEL_TLS_CA_FILE")]
    sentinel_tls_ca_file: Option<String>,
    /// As --tls-cert-file, for Sentinels apart.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_SENTINEL_TLS_CERT_FILE")]
    sentinel_tls_cert_file: Option<String>,
    /// As --tls-key-file, for Sentinels apart.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_SENTINEL_TLS_KEY_FILE")]
    sentinel_tls_key_file: Option<String>,
    /// As --tls-server-name, for Sentinels apart.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_SENTINEL_TLS_SERVER_NAME")]
    sentinel_tls_server_name: Option<String>,
    /// Status, metrics and health: "127.0.0.1:9180" or "unix:/run/switchmaster.sock".
    #[arg(long, value_name = "ADDR", env = "SWITCHMASTER_ADMIN_LISTEN")]
    admin_listen: Option<String>,
    /// The file that holds the token for changes over TCP.
    #[arg(long, value_name = "FILE", env = "SWITCHMASTER_ADMIN_TOKEN_FILE", hide_env_values = true)]
    admin_token_file: Option<String>,
    /// The folder where events outlive the daemon.
    #[arg(long, value_name = "DIR", env = "SWITCHMASTER_STATE_DIR")]
    state_dir: Option<String>,
    /// How long new connections reach the last proven master when the daemon is dead (datapath tc).
    #[arg(long, value_name = "TIME", env = "SWITCHMASTER_ORPHAN_GRACE")]
    orphan_grace: Option<String>,
}

/// The name of a variable that holds a secret. Someone may give the secret itself by mistake, so it prints
/// as stars too.
#[derive(Clone)]
struct VariableName(String);

impl From<String> for VariableName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Debug for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Routes {
    /// The flags that were given, here or by their variables.
    pub fn settings(&self) -> Vec<Setting> {
        let all = [
            ("--listen", many(&self.listen)),
            ("--target", one(&self.target)),
            ("--datapath", one(&self.datapath)),
            ("--balance", one(&self.balance)),
            ("--max-lag", one(&self.max_lag)),
            ("--fallback", one(&self.fallback)),
            ("--allow", many(&self.allow)),
            ("--max-connections", one(&self.max_connections)),
            ("--master", one(&self.master)),
            ("--sentinel", many(&self.sentinel)),
            ("--node", many(&self.node)),
            ("--commit", one(&self.commit)),
            ("--username", one(&self.username)),
            ("--password-env", one(&self.password_env.as_ref().map(|name| name.0.clone()))),
            ("--password-file", one(&self.password_file)),
            ("--sentinel-username", one(&self.sentinel_username)),
            ("--sentinel-password-env", one(&self.sentinel_password_env.as_ref().map(|name| name.0.clone()))),
            ("--sentinel-password-file", one(&self.sentinel_password_file)),
            ("--tls", self.tls.then(Vec::new)),
            ("--tls-ca-file", one(&self.tls_ca_file)),
            ("--tls-cert-file", one(&self.tls_cert_file)),
            ("--tls-key-file", one(&self.tls_key_file)),
            ("--tls-server-name", one(&self.tls_server_name)),
            ("--sentinel-tls-off", self.sentinel_tls_off.then(Vec::new)),
            ("--sentinel-tls-ca-file", one(&self.sentinel_tls_ca_file)),
            ("--sentinel-tls-cert-file", one(&self.sentinel_tls_cert_file)),
            ("--sentinel-tls-key-file", one(&self.sentinel_tls_key_file)),
            ("--sentinel-tls-server-name", one(&self.sentinel_tls_server_name)),
            ("--admin-listen", one(&self.admin_listen)),
            ("--admin-token-file", one(&self.admin_token_file)),
            ("--state-dir", one(&self.state_dir)),
            ("--orphan-grace", one(&self.orphan_grace)),
        ];
        all.into_iter().filter_map(|(flag, values)| Some(Setting { flag, values: values? })).collect()
    }
}

fn one(value: &Option<String>) -> Option<Vec<String>> {
    value.clone().map(|value| vec![value])
}

fn many(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}
