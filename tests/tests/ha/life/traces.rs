//! What a daemon has in the kernel, by the kernel's own numbers: they are unique, so tests may run side by side.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use switchmaster_tests::{Lab, wait};

use crate::FOLLOW;

/// (kind, number) of each object.
#[derive(Debug)]
pub(crate) struct Traces {
    objects: BTreeSet<(&'static str, u64)>,
    proxy: switchmaster_tests::Namespace,
}

impl Traces {
    /// All that is pinned, and the programs that the links hold.
    pub(crate) fn read(lab: &Lab) -> Result<Self> {
        let proxy = lab.world.proxy()?.clone();
        let mut objects = BTreeSet::new();
        let root = lab.world.bpffs().join("switchmaster");
        for (folder, kind) in [("", "map"), ("nat", "map"), ("links", "link")] {
            for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
                let entry = entry.context(folder)?;
                if entry.file_type().context(folder)?.is_dir() {
                    continue;
                }
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("/sys/fs/bpf/switchmaster/{folder}/{name}").replace("//", "/");
                let shown = proxy.run("bpftool", &["-j", kind, "show", "pinned", &path])?;
                let shown: Value = serde_json::from_str(&shown).context("bpftool's JSON")?;
                let shown = shown.as_array().and_then(|list| list.first()).unwrap_or(&shown).clone();
                objects.insert((kind, shown["id"].as_u64().with_context(|| format!("no id in {shown}"))?));
                objects.extend(shown["prog_id"].as_u64().map(|id| ("prog", id)));
            }
        }
        Ok(Self { objects, proxy })
    }

    pub(crate) fn count(&self) -> usize {
        self.objects.len()
    }

    /// How many of them exist still.
    pub(crate) fn left(&self) -> Result<usize> {
        let mut left = 0;
        for kind in ["map", "link", "prog"] {
            let shown: Value = serde_json::from_str(&self.proxy.run("bpftool", &["-j", kind, "show"])?)?;
            let ids: BTreeSet<u64> =
                shown.as_array().into_iter().flatten().filter_map(|it| it["id"].as_u64()).collect();
            left += self.objects.iter().filter(|(of, id)| *of == kind && ids.contains(id)).count();
        }
        Ok(left)
    }

    /// The kernel takes a moment to free what nobody holds.
    pub(crate) fn gone(&self, lab: &Lab) -> Result<()> {
        wait::until(FOLLOW, "links, programs and maps to be gone", || {
            let left = self.left()?;
            ensure!(left == 0, "{left} of {} are left", self.count());
            Ok(())
        })?;
        ensure!(!lab.world.bpffs().join("switchmaster").exists(), "the folder of the pins is there still");
        Ok(())
    }
}
