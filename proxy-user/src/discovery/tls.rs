//! TLS to Sentinels and nodes, by rustls. The files are read when a connection needs them and again a
//! minute later, so that a rotated certificate is taken up without a restart. Never skips verification.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{dial::Peer, fault::Fault};
use crate::{config::Tls, election::Failure};

const REREAD: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct TlsDialer {
    tls: Tls,
    read: Mutex<Option<(Instant, Arc<ClientConfig>)>>,
}

impl TlsDialer {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, read: Mutex::new(None) }
    }

    pub(super) async fn wrap(&self, tcp: TcpStream, peer: &Peer) -> Result<TlsStream<TcpStream>, Fault> {
        let config = self.config().await?;
        let name = self.tls.server_name.clone().unwrap_or_else(|| peer.name());
        let server = ServerName::try_from(name.clone())
            .map_err(|_| fault(format_args!("{name} is not a name a certificate can have")))?;
        TlsConnector::from(config)
            .connect(server, tcp)
            .await
            .map_err(|error| fault(format_args!("the TLS handshake with {name} failed: {error}")))
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, Fault> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, config)) = read
            && at.elapsed() < REREAD
        {
            return Ok(config);
        }
        let tls = self.tls.clone();
        let config = tokio::task::spawn_blocking(move || load(&tls))
            .await
            .map_err(|error| fault(format_args!("cannot read the certificates: {error}")))??;
        let config = Arc::new(config);
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&config)));
        Ok(config)
    }
}

fn load(tls: &Tls) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fault)?
        .with_root_certificates(roots(tls)?);
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| fault(format_args!("cannot read the key in {}: {error}", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(fault)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &tls.ca_file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| fault(format_args!("{}: {error}", file.display())))?;
        }
    } else {
        // A damaged certificate among the system's is no reason to refuse the others.
        let _counts = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(fault("no trusted certificate: name a ca_file, or install the system's CA certificates"));
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let unreadable = |error| fault(format_args!("cannot read the certificates in {}: {error}", file.display()));
    CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

fn fault(text: impl std::fmt::Display) -> Fault {
    Fault::new(Failure::Tls, text)
}
