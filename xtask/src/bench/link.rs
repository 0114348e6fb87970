//! Interfaces of a namespace, as `ip` shows them.

use anyhow::{Context as _, Result};
use switchmaster_tests::netns::Namespace;

pub(super) type Mac = [u8; 6];

#[derive(Debug, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Mac,
}

impl Link {
    pub(super) fn of(namespace: &Namespace, name: &str) -> Result<Self> {
        let text = namespace.run("ip", &["-oneline", "link", "show", "dev", name])?;
        Self::parse(&text).with_context(|| format!("ip says of {name}: {text:?}"))
    }

    /// `7: link1@if2: <UP> mtu 1500 ... link/ether 02:00:00:00:00:01 brd ...`
    fn parse(text: &str) -> Option<Self> {
        let index = text.split(':').next()?.trim().parse().ok()?;
        let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1)?;
        let bytes: Vec<u8> = mac.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        Some(Self { index, mac: bytes.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn reads_what_ip_says_of_a_link() {
        let text = "7: link1@if2: <BROADCAST,UP> mtu 1500 qdisc noqueue state UP\\    link/ether 3a:00:ff:01:02:03 brd \
                    ff:ff:ff:ff:ff:ff link-netns x\n";
        assert_eq!(Link::parse(text), Some(Link { index: 7, mac: [0x3a, 0, 0xff, 1, 2, 3] }));
        assert_eq!(Link::parse("Device \"link1\" does not exist.\n"), None);
    }
}
