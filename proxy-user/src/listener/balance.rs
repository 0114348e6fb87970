//! Which of a route's slots a new connection goes to. Pure: the same question has the same answer.
//! Source-hash is rendezvous hashing: a slot that goes moves its own clients and nobody else's,
//! and every daemon with the same slots gives the same answer.

use std::net::{IpAddr, SocketAddr};

use crate::{config::Balance, target::Slot};

/// Picks a slot among those that are `usable`. `ticket` is the number of the connection: it turns
/// the wheel of round-robin, and breaks the ties of least-connections.
pub(super) fn pick(
    balance: Balance,
    slots: &[Slot],
    client: IpAddr,
    ticket: usize,
    usable: impl Fn(&Slot) -> bool,
) -> Option<&Slot> {
    let start = ticket.checked_rem(slots.len())?;
    let mut wheel = slots[start..].iter().chain(&slots[..start]).filter(|slot| usable(slot));
    match balance {
        Balance::RoundRobin => wheel.next(),
        Balance::LeastConnections => wheel.min_by_key(|slot| slot.load.all()),
        Balance::SourceHash => wheel.max_by_key(|slot| (weight(client, slot.addr), slot.addr)),
    }
}

/// How much a client is drawn to a node: FNV-1a over both, finished by the mixer of `SplitMix64`,
/// because FNV alone leaves the high bits of such short input nearly alike.
fn weight(client: IpAddr, node: SocketAddr) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.ip(client);
    hash.ip(node.ip());
    hash.bytes(&node.port().to_be_bytes());
    let mut z = hash.0;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// An IPv4 address and its form inside IPv6 are the same client.
    fn ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use proptest::prelude::*;
    use proxy_ebpf::TargetKey;

    use super::*;

    fn slots(loads: &[u32]) -> Vec<Slot> {
        let slot = |(index, &load): (usize, &u32)| Slot {
            key: TargetKey { route: 0, slot: index as u32 },
            addr: ([10, 0, 0, index as u8 + 1], 6379).into(),
            generation: 1,
            gate: std::sync::Arc::default(),
            load: std::sync::Arc::new(load.into()),
        };
        loads.iter().enumerate().map(slot).collect()
    }

    fn client(n: u32) -> IpAddr {
        Ipv4Addr::from(0xc0a8_0000 + n).into()
    }

    #[test]
    fn nothing_to_pick_from_is_nothing_picked() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
            assert!(pick(balance, &[], client(1), 7, |_| true).is_none());
            assert!(pick(balance, &slots(&[0, 0]), client(1), 7, |_| false).is_none());
        }
    }

    #[test]
    fn round_robin_goes_round_and_steps_over_the_unusable() {
        let slots = slots(&[0, 0, 0]);
        let turn = |ticket| pick(Balance::RoundRobin, &slots, client(1), ticket, |_| true).unwrap().key.slot;
        assert_eq!((0..6).map(turn).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        let without_1 = |ticket| pick(Balance::RoundRobin, &slots, client(1), ticket, |s| s.key.slot != 1);
        assert_eq!(without_1(1).unwrap().key.slot, 2);
    }

    #[test]
    fn least_connections_takes_the_emptiest_and_shares_ties() {
        let one = slots(&[3, 1, 2]);
        assert_eq!(pick(Balance::LeastConnections, &one, client(1), 0, |_| true).unwrap().key.slot, 1);
        let tie = slots(&[1, 5, 1]);
        let turn = |ticket| pick(Balance::LeastConnections, &tie, client(1), ticket, |_| true).unwrap().key.slot;
        assert_eq!((0..3).map(turn).collect::<Vec<_>>(), [0, 2, 2]);
    }

    #[test]
    fn source_hash_spreads_clients_evenly() {
        let slots = slots(&[0; 4]);
        let mut seen: HashMap<u32, u32> = HashMap::new();
        for n in 0..8000 {
            *seen.entry(pick(Balance::SourceHash, &slots, client(n), 0, |_| true).unwrap().key.slot).or_default() += 1;
        }
        assert!(seen.values().all(|&n| (1800..2200).contains(&n)), "{seen:?}");
    }

    /// Worked out apart from this code: daemons of different releases must agree.
    const WEIGHT_OF_CLIENT_1: u64 = 15_076_857_089_518_658_559;

    #[test]
    fn source_hash_is_the_same_in_every_release() {
        assert_eq!(weight(client(1), ([10, 0, 0, 1], 6379).into()), WEIGHT_OF_CLIENT_1);
        let mapped: IpAddr = "::ffff:192.168.0.1".parse().unwrap();
        assert_eq!(weight(mapped, ([10, 0, 0, 1], 6379).into()), WEIGHT_OF_CLIENT_1);
    }

    proptest! {
        #[test]
        fn losing_one_slot_moves_only_its_clients(n in 2_usize..12, lost in 0_usize..12, ip: u32, ticket: usize) {
            let (slots, lost) = (slots(&vec![0; n]), (lost % n) as u32);
            let before = pick(Balance::SourceHash, &slots, client(ip % 65536), ticket, |_| true).unwrap();
            let after = pick(Balance::SourceHash, &slots, client(ip % 65536), ticket + 1, |s| s.key.slot != lost).unwrap();
            prop_assert!(after.key == before.key || before.key.slot == lost);
        }

        #[test]
        fn what_is_picked_is_usable(n in 1_usize..12, mask: u16, ip: u32, ticket: usize) {
            let slots = slots(&vec![0; n]);
            let usable = |slot: &Slot| mask >> slot.key.slot & 1 == 1;
            for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
                let picked = pick(balance, &slots, client(ip % 65536), ticket, usable);
                prop_assert_eq!(picked.is_some(), slots.iter().any(usable));
                prop_assert!(picked.is_none_or(usable));
            }
        }
    }
}
