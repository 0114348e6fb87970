//! What an interface is refused for: each fact alone is enough.

use super::*;

const BOTH: Families = Families { v4: true, v6: true };

fn able() -> Facts {
    Facts {
        interface: Interface { ifindex: 2, name: "eth0".to_owned() },
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        abilities: Abilities { redirects: true, sends: true, sends_pieces: false },
        vlans: Vec::new(),
        forwards: BOTH,
        peer: None,
    }
}

fn veth(computes: Option<bool>) -> Facts {
    Facts { peer: Some(Peer { name: Some("eth0".to_owned()), computes }), ..able() }
}

#[test]
fn who_can_do_all_of_it_is_taken() {
    for facts in [able(), veth(Some(true)), veth(None)] {
        assert_eq!(facts.works(BOTH), Ok(()), "{facts:?}");
    }
    assert!(veth(None).is_blind() && !veth(Some(true)).is_blind() && !able().is_blind());
}

#[test]
fn a_driver_that_sends_only_once_it_is_attached_to_is_worth_trying() {
    let mut facts = able();
    facts.abilities.sends = false;
    assert_eq!(facts.fit(BOTH), Ok(()));
    assert_eq!(facts.works(BOTH), Err(Unfit::CannotSend("eth0".to_owned())));
}

#[test]
fn each_fault_is_named_with_a_remedy() {
    let name = || "eth0".to_owned();
    let none = Abilities::default();
    let off = Families { v6: false, ..BOTH };
    let cases = [
        (Facts { abilities: none, ..able() }, Unfit::NotNative(name())),
        (Facts { abilities: Abilities { redirects: true, ..none }, ..veth(None) }, Unfit::PeerWithoutNapi(name())),
        (veth(Some(false)), Unfit::PeerUnfinished { name: name(), at: " (eth0)".to_owned() }),
        (Facts { forwards: off, ..able() }, Unfit::Forwarding { name: name(), family: "ipv6" }),
        (
            Facts { vlans: vec!["eth0.7".to_owned()], ..able() },
            Unfit::Vlans { name: name(), vlans: "eth0.7".to_owned() },
        ),
    ];
    for (facts, unfit) in cases {
        assert_eq!(facts.fit(BOTH), Err(unfit.clone()));
        let text = unfit.to_string();
        assert!(text.starts_with("eth0: ") && text.contains("datapath = \"tc\""), "{text}");
    }
}

#[test]
fn forwarding_counts_for_the_families_that_are_asked_for() {
    let facts = Facts { forwards: Families { v4: true, v6: false }, ..able() };
    assert_eq!(facts.fit(Families { v4: true, v6: false }), Ok(()));
}
