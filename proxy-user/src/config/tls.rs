//! `tls = { ... }` of a group: how nodes and Sentinels are talked to. `tls = {}` is TLS with the
//! system's trust store. Sentinels take the same unless `sentinel_tls` says otherwise.

use super::{
    Tls,
    address::check_hostname,
    errors::{Invalid, quoted},
    file::Content,
    raw::Kind,
    schema,
    section::Section,
};

/// TLS to the nodes, and to the Sentinels.
pub(super) fn read(group: &Section<'_>) -> (Option<Tls>, Option<Tls>) {
    let nodes = group.section("tls", &schema::TLS).map(|section| table(&section));
    let off = group.get("sentinel_tls", |value| match &value.kind {
        Kind::Table(_) => Ok(false),
        Kind::Text(word) if word == "off" => Ok(true),
        _ => Err(Invalid::new("is neither", "valid: \"off\" or a table as for tls")),
    });
    let sentinels = match off {
        None => nodes.clone(),
        Some(true) => None,
        Some(false) => group.section("sentinel_tls", &schema::TLS).map(|section| table(&section)),
    };
    (nodes, sentinels)
}

fn table(section: &Section<'_>) -> Tls {
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(one) && !section.has(other) {
            let (one_label, other) = (section.label(one), section.label(other));
            section.refuse(
                one,
                Invalid::new(format!("stands without {other}"), format!("give both, or leave {one_label} out")),
            );
        }
    }
    Tls {
        ca_file: section.pem_file("ca_file", Content::Certificates),
        cert_file: section.pem_file("cert_file", Content::Certificates),
        key_file: section.pem_file("key_file", Content::PrivateKey),
        server_name: section.get("server_name", |value| {
            let name = Section::text(value)?;
            let address = name.parse::<std::net::IpAddr>().is_ok();
            if address || check_hostname(name).is_ok() {
                return Ok(name.to_owned());
            }
            Err(Invalid::new(format!("{} is not a name in a certificate", quoted(name)), "valid: \"redis.internal\""))
        }),
    }
}
