//! A certificate authority for one cluster, and the certificate its servers and clients show.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// The name in the servers' certificate, beside their addresses.
pub const SERVER_NAME: &str = "redis.internal";

#[derive(Debug, Clone)]
pub struct Tls {
    pub ca_file: PathBuf,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

impl Tls {
    pub(super) fn make(directory: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let tls = Self {
            ca_file: directory.join("ca.pem"),
            cert_file: directory.join("cert.pem"),
            key_file: directory.join("key.pem"),
        };
        let mut authority = CertificateParams::new(Vec::new()).context("CA")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Its own name: a certificate whose issuer has the subject's name passes for self-signed.
        authority.distinguished_name = named("the authority of a test cluster");
        let ca_key = KeyPair::generate().context("CA key")?;
        let ca = authority.self_signed(&ca_key).context("CA")?;
        let issuer = Issuer::new(authority, ca_key);
        let mut names = vec![SERVER_NAME.to_owned()];
        names.extend(addresses.iter().map(IpAddr::to_string));
        let key = KeyPair::generate().context("key")?;
        let mut params = CertificateParams::new(names).context("certificate")?;
        params.distinguished_name = named(SERVER_NAME);
        let certificate = params.signed_by(&key, &issuer).context("certificate")?;
        for (path, text) in
            [(&tls.ca_file, ca.pem()), (&tls.cert_file, certificate.pem()), (&tls.key_file, key.serialize_pem())]
        {
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(tls)
    }

    /// For redis.conf and sentinel.conf; clients must show a certificate of the same authority.
    pub(super) fn lines(&self) -> String {
        format!(
            "tls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\ntls-auth-clients yes\n",
            self.ca_file.display(),
            self.cert_file.display(),
            self.key_file.display()
        )
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
