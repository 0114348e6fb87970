//! Measurements as a file, for programs to read.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) fn write(file: &Path, measurements: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(measurements).context("the measurements")?;
    fs::write(file, text + "\n").with_context(|| file.display().to_string())
}
