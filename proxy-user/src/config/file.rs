//! Files that a configuration names: certificates, keys, secrets. Each is read at load, so that a
//! missing or unreadable one is an error before anything runs. Reading is bounded.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::{
    errors::{Invalid, quoted},
    section::Section,
};

/// No certificate bundle and no secret is larger.
const MAX_BYTES: u64 = 4 << 20;

/// What a file must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Certificates,
    PrivateKey,
}

impl Section<'_> {
    /// The path under `key`, relative to the configuration's folder, if the file holds what it must.
    pub(super) fn pem_file(&self, key: &str, content: Content) -> Option<PathBuf> {
        let path = self.get(key, |value| Ok(self.context.path(Self::text(value)?)))?;
        match read(&path).and_then(|bytes| check_pem(&path, &bytes, content)) {
            Ok(()) => {
                if content == Content::PrivateKey {
                    self.warn_if_open(key, &path);
                }
                Some(path)
            }
            Err(invalid) => {
                self.refuse(key, invalid);
                None
            }
        }
    }

    /// Everyone on this host may read a secret: unwise, but sometimes how it is mounted.
    pub(super) fn warn_if_open(&self, key: &str, path: &Path) {
        let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o004 != 0 {
            let what = format!("{} may be read by everyone on this host", quoted(&path.to_string_lossy()));
            self.warn(key, Invalid::new(what, "chmod o-r it"));
        }
    }
}

/// The whole of a regular file. A pipe or a device could wait or go on for ever.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Invalid> {
    let shown = quoted(&path.to_string_lossy());
    let remedy = "valid: a file that this user may read; a relative path starts at the configuration's folder";
    let unreadable = |error: std::io::Error| Invalid::new(format!("cannot read {shown}: {error}"), remedy);
    let regular = path.metadata().map_err(unreadable)?.is_file();
    if !regular {
        return Err(Invalid::new(format!("{shown} is not a regular file"), remedy));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Invalid::new(format!("{shown} is larger than {MAX_BYTES} bytes"), "valid: a smaller file"));
    }
    Ok(bytes)
}

fn check_pem(path: &Path, bytes: &[u8], content: Content) -> Result<(), Invalid> {
    let found = match content {
        Content::Certificates => CertificateDer::pem_slice_iter(bytes).next().is_some_and(|item| item.is_ok()),
        Content::PrivateKey => PrivateKeyDer::from_pem_slice(bytes).is_ok(),
    };
    if found {
        return Ok(());
    }
    let shown = quoted(&path.to_string_lossy());
    let (what, valid) = match content {
        Content::Certificates => ("certificate", "valid: a PEM file with BEGIN CERTIFICATE"),
        Content::PrivateKey => ("private key", "valid: a PEM file with an unencrypted private key"),
    };
    Err(Invalid::new(format!("{shown} holds no {what}"), valid))
}
