//! What the table promises: even shares, nearly the same table with one node more or less, and a slot that shuts moves its
//! own clients only.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;
use proxy_ebpf::balance::{LOOKS, Looks, NOBODY, PLACES, Table};

use crate::nat::{
    address::encode,
    maglev::{Member, fill},
};

/// Nodes as they are found in the field: neighbours in a subnet.
fn members(count: u16) -> Vec<Member> {
    (0..count).map(|slot| (([10, 0, (slot >> 8) as u8, slot as u8], 6379).into(), slot)).collect()
}

fn client(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc0a8_0000 + n).into()
}

/// Whom the client is led to while `is_open` says so.
fn led_to(table: &Table, client: IpAddr, is_open: impl Fn(u16) -> bool) -> Option<u16> {
    let mut looks = Looks::of(&encode(client));
    (0..LOOKS).map(|_| table[looks.next_place() as usize]).find(|slot| is_open(*slot))
}

fn shares(slots: impl IntoIterator<Item = u16>) -> BTreeMap<u16, u32> {
    slots.into_iter().fold(BTreeMap::new(), |mut shares, slot| {
        *shares.entry(slot).or_default() += 1;
        shares
    })
}

#[test]
fn every_node_has_the_same_share_of_the_table() {
    for count in [1, 2, 3, 7, 50, 256] {
        let shares = shares(*fill(&members(count)));
        assert_eq!(shares.len(), usize::from(count));
        let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
        assert!(most - least <= 1, "{count} nodes: from {least} to {most}");
    }
    assert!(fill(&[]).iter().all(|slot| *slot == NOBODY));
}

#[test]
fn clients_are_spread_evenly() {
    for count in [2, 3, 5, 10] {
        let table = fill(&members(count));
        let shares = shares((0..60_000).map(|n| led_to(&table, client(n), |_| true).unwrap()));
        let even = 60_000 / u32::from(count);
        for (slot, share) in shares {
            assert!(share.abs_diff(even) < even / 20, "{count} nodes: {share} clients on {slot}, not about {even}");
        }
    }
}

/// What the paper calls disturbance: places that go from one node that stays to another.
#[test]
fn with_one_node_less_nearly_all_others_keep_their_places() {
    for count in [2, 3, 5, 10, 50] {
        let all = members(count);
        let before = fill(&all);
        for lost in [0, count / 2, count - 1] {
            let rest: Vec<Member> = all.iter().copied().filter(|(_, slot)| *slot != lost).collect();
            let after = fill(&rest);
            let moved = before.iter().zip(&*after).filter(|(was, is)| **was != lost && was != is).count() as u32;
            assert!(moved * 100 < PLACES, "{count} nodes without {lost}: {moved} of {PLACES} places moved");
        }
    }
}

#[test]
fn the_table_is_the_nodes_own_whatever_their_order() {
    let all = members(5);
    let mut turned = all.clone();
    turned.reverse();
    assert_eq!(fill(&all), fill(&turned));
    // The same nodes in other slots: the same shares, under other numbers.
    let renamed: Vec<Member> = all.iter().map(|(node, slot)| (*node, slot + 100)).collect();
    assert!(fill(&all).iter().zip(&*fill(&renamed)).all(|(slot, other)| slot + 100 == *other));
}

#[test]
fn who_shares_a_host_shares_no_order() {
    let at = |port: u16, slot| (([127, 0, 0, 1], port).into(), slot);
    let table = fill(&[at(6379, 0), at(6380, 1), at(6381, 2)]);
    let shares = shares(*table);
    assert_eq!(shares.len(), 3);
    let runs = table.windows(2).filter(|pair| pair[0] == pair[1]).count() as u32;
    assert!(runs.abs_diff(PLACES / 3) < PLACES / 20, "{runs} neighbours have the same slot");
}

proptest! {
    #[test]
    fn a_slot_that_shuts_moves_its_own_clients_only(count in 2_u16..12, shut in 0_u16..12, ip: u32) {
        let (table, shut) = (fill(&members(count)), shut % count);
        let client = IpAddr::from(Ipv4Addr::from(ip));
        let before = led_to(&table, client, |_| true);
        let after = led_to(&table, client, |slot| slot != shut);
        prop_assert!(before == Some(shut) || after == before);
        prop_assert_ne!(after, Some(shut));
    }
}

/// Worked out once: daemons of different releases, and the program in the kernel, have to agree.
#[test]
fn the_places_of_a_client_are_the_same_in_every_release() {
    let mut looks = Looks::of(&encode(client(1)));
    let places: Vec<u32> = (0..3).map(|_| looks.next_place()).collect();
    assert_eq!(places, PLACES_OF_CLIENT_1);
}

const PLACES_OF_CLIENT_1: [u32; 3] = [11_025, 18_532, 11_329];
