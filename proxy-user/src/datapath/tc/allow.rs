//! Who may dial each route, as entries of the trie `allow`.

use std::collections::HashMap;

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use proxy_ebpf::nat::{ALLOWED_MAPPED_BITS, ALLOWED_ROUTE_BITS, Allowed, family};

use crate::nat::{address::encode, keeper::Route};

/// Brings the trie up to date: what is new goes in before what is old goes out.
pub(super) fn write(mut trie: LpmTrie<MapData, Allowed, u32>, routes: &[Route]) -> Result<(), MapError> {
    let wanted = wanted(routes);
    for ((bits, allowed), families) in &wanted {
        trie.insert(&Key::new(*bits, *allowed), families, 0)?;
    }
    // Collected first: an iteration begins anew when its key vanishes.
    let found: Vec<_> = trie.keys().collect::<Result<_, _>>()?;
    for key in found.iter().filter(|key| !wanted.contains_key(&(key.prefix_len(), key.data()))) {
        trie.remove(key)?;
    }
    Ok(())
}

fn wanted(routes: &[Route]) -> HashMap<(u32, Allowed), u32> {
    let mut wanted = HashMap::new();
    for route in routes {
        let allowed = |addr| Allowed { route: u32::from(route.number).to_be_bytes(), addr };
        let Some(nets) = &route.allow else {
            wanted.insert((ALLOWED_ROUTE_BITS, allowed([0; 16])), family::ALL);
            continue;
        };
        for net in nets {
            let (before, families) =
                if net.addr().is_ipv4() { (ALLOWED_MAPPED_BITS, family::V4) } else { (ALLOWED_ROUTE_BITS, family::V6) };
            wanted.insert((before + u32::from(net.prefix_len()), allowed(encode(net.network()))), families);
        }
    }
    wanted
}
