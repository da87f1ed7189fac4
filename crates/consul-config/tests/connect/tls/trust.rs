//! Which certificates the files of `tls_ca_file` and `tls_ca_path` make trusted: authorities that are valid, and those that
//! are named themselves.

use super::{client, refusal, works};
use crate::support::answering::Server;
use crate::support::authority::{Authority, Folder, Identity};
use consul_api::value::Value;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::version::{TLS12, TLS13};

#[test]
fn a_self_signed_certificate_must_be_trusted_itself_or_not_checked() {
    let identity = Identity::self_signed(&["127.0.0.1"]);
    let server = Server::tls(identity.server(None));
    let folder = Folder::new();
    let url = Value::from(format!("https://{}", server.address));
    let other = folder.file("other.pem", Authority::new("other").pem());
    let stranger = client(&[("endpoint", url.clone()), ("tls_ca_file", other.into())]);
    assert!(refusal(&stranger).contains("not signed by a trusted authority"));
    let itself = folder.file("itself.pem", &identity.certificate);
    works(&client(&[("endpoint", url.clone()), ("tls_ca_file", itself.into())]));
    works(&client(&[("endpoint", url), ("tls_verify", false.into())]));
}

/// As `openssl req -x509` makes it.
#[test]
fn an_authoritys_certificate_that_is_named_itself_is_trusted_as_any_other() {
    let of_authority = |names: &[&str], years: [i32; 2]| {
        Identity::self_signed_changed(names, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            [params.not_before, params.not_after] =
                years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        })
    };
    let folder = Folder::new();
    let itself = of_authority(&["127.0.0.1"], [1975, 4096]);
    let leaf = Identity::self_signed(&["127.0.0.1"]);
    let others =
        folder.file("others.pem", format!("{}{}", leaf.certificate, Authority::new("a").pem()));
    for (name, identity, why) in [
        ("itself", &itself, None),
        (
            "of another host",
            &of_authority(&["another.name"], [1975, 4096]),
            Some("is for another.name"),
        ),
        ("expired", &of_authority(&["127.0.0.1"], [1975, 2021]), Some("has expired")),
        ("of the future", &of_authority(&["127.0.0.1"], [4000, 4096]), Some("is not valid yet")),
        ("without a name", &of_authority(&[], [1975, 4096]), Some("has no subjectAltName")),
    ] {
        for version in [&TLS12, &TLS13] {
            let server = Server::tls(identity.server_of(None, &[version]));
            let url = Value::from(format!("https://{}", server.address));
            let file = folder.file(&format!("{name}.pem"), &identity.certificate);
            let path = folder.path(name).to_str().expect("a path of text").to_owned();
            std::fs::create_dir_all(&path).expect("a folder");
            folder.file(&format!("{name}/one.pem"), &identity.certificate);
            for (option, place) in [("tls_ca_file", file), ("tls_ca_path", path)] {
                let client = client(&[("endpoint", url.clone()), (option, place.into())]);
                match why {
                    None => works(&client),
                    Some(why) => {
                        let message = refusal(&client);
                        assert!(message.contains(why), "{name}: {message}");
                    }
                }
            }
            let stranger = client(&[("endpoint", url), ("tls_ca_file", others.as_str().into())]);
            let message = refusal(&stranger);
            assert!(
                message.contains("certificate is") || message.contains("certificate has"),
                "{message}"
            );
            assert!(!message.contains("OtherError"), "{message}");
        }
    }
}

/// The key of a server's own certificate makes no others, and an authority's dates count.
#[test]
fn only_an_authority_that_is_valid_now_makes_certificates() {
    let authority = |years: [i32; 2]| {
        Authority::new_changed("authority", |params| {
            [params.not_before, params.not_after] =
                years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        })
    };
    let (root, folder) = (authority([1975, 4096]), Folder::new());
    // A leaf that another authority has signed, and a self-signed one.
    let of_root = Authority::of_leaf(Some(&root));
    let of_itself = Authority::of_leaf(None);
    let unsigned = "not signed by a trusted authority";
    let late = "the authority that signed it, and that tls_ca_file or tls_ca_path names, has expired, or is not valid yet";
    for (name, signer, why) in [
        ("valid", &root, None),
        ("a leaf of an authority", &of_root, Some(unsigned)),
        ("a leaf of its own", &of_itself, Some(unsigned)),
        ("expired", &authority([1975, 2021]), Some(late)),
        ("of the future", &authority([4000, 4096]), Some(late)),
    ] {
        let identity = signer.sign(&["127.0.0.1"]);
        for version in [&TLS12, &TLS13] {
            let server = Server::tls(identity.server_of(None, &[version]));
            let url = Value::from(format!("https://{}", server.address));
            let file = folder.file(&format!("{name}.pem"), signer.pem());
            let client = client(&[("endpoint", url), ("tls_ca_file", file.into())]);
            match why {
                None => works(&client),
                Some(why) => assert!(refusal(&client).contains(why), "{name}"),
            }
        }
    }
}

/// The others do not hide the reason, and a certificate of another authority has another one.
#[test]
fn an_authority_that_has_expired_is_named_beside_one_that_is_valid() {
    let expired = Authority::new_changed("expired", |params| {
        params.not_before = rcgen::date_time_ymd(1975, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let (valid, folder) = (Authority::new("valid"), Folder::new());
    let both = folder.file("both.pem", format!("{}{}", expired.pem(), valid.pem()));
    let alone = folder.file("alone.pem", expired.pem());
    let unsigned = "not signed by a trusted authority";
    for (signer, file, why) in [
        (&valid, &both, None),
        (&expired, &both, Some("the authority that signed it")),
        (&expired, &alone, Some("the authority that signed it")),
        (&Authority::new("unknown"), &both, Some(unsigned)),
        (&Authority::new("unknown"), &alone, Some(unsigned)),
    ] {
        let server = Server::tls(signer.sign(&["127.0.0.1"]).server(None));
        let url = Value::from(format!("https://{}", server.address));
        let client = client(&[("endpoint", url), ("tls_ca_file", file.as_str().into())]);
        match why {
            None => works(&client),
            Some(why) => {
                let message = refusal(&client);
                assert!(message.contains(why), "{why}: {message}");
            }
        }
    }
}

/// Also a certificate that an unknown authority has signed.
#[test]
fn a_leaf_that_is_named_itself_is_trusted() {
    let (authority, folder) = (Authority::new("unknown"), Folder::new());
    let leaf = authority.sign(&["127.0.0.1"]);
    let file = folder.file("leaf.pem", &leaf.certificate);
    let server = Server::tls(leaf.server(None));
    let url = Value::from(format!("https://{}", server.address));
    works(&client(&[("endpoint", url), ("tls_ca_file", file.as_str().into())]));
    let server = Server::tls(authority.sign(&["127.0.0.1"]).server(None));
    let url = Value::from(format!("https://{}", server.address));
    let message = refusal(&client(&[("endpoint", url), ("tls_ca_file", file.into())]));
    assert!(message.contains("not signed by a trusted authority"), "{message}");
}

/// Who has only the certificate that is named, and not its key, is not trusted.
#[test]
fn a_server_without_the_key_of_a_named_certificate_is_refused() {
    let named = Identity::self_signed_changed(&["127.0.0.1"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let folder = Folder::new();
    let file = folder.file("named.pem", &named.certificate);
    let another = Identity::self_signed_changed(&["127.0.0.1"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let server = Server::tls(another.server(None));
    let url = Value::from(format!("https://{}", server.address));
    let message = refusal(&client(&[("endpoint", url), ("tls_ca_file", file.into())]));
    assert!(
        message.contains("that of an authority, and not one that tls_ca_file names"),
        "{message}"
    );
}

type Change = Box<dyn Fn(&mut CertificateParams)>;

/// An extension with an empty sequence.
fn critical(oid: &'static [u64]) -> Change {
    Box::new(move |params| {
        let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    })
}

fn nothing() -> Change {
    Box::new(|_| {})
}

fn usages(usages: &'static [KeyUsagePurpose]) -> Change {
    Box::new(|params| params.key_usages = usages.to_vec())
}

fn permitting(subtree: GeneralSubtree) -> Change {
    Box::new(move |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![subtree.clone()],
            excluded_subtrees: vec![],
        });
    })
}

fn pathlen(most: u8) -> Change {
    Box::new(move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(most)))
}

fn purposes(purposes: Vec<ExtendedKeyUsagePurpose>) -> Change {
    Box::new(move |params| params.extended_key_usages.clone_from(&purposes))
}

/// A root, two intermediates and a leaf, each with a change, and why the leaf is not trusted.
#[test]
fn a_chain_is_trusted_or_the_reason_is_said() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
    let no_sign = Some("its keyUsage lacks keyCertSign");
    let not_ca: fn() -> Change = || Box::new(|params| params.is_ca = IsCa::ExplicitNoCa);
    let evil = || GeneralSubtree::DnsName("evil.example".to_owned());
    let only_name = |name: &'static str| -> Change {
        Box::new(move |params| {
            let name = name.to_owned().try_into().expect("ASCII");
            params.subject_alt_names = vec![SanType::DnsName(name)];
        })
    };
    let any = ExtendedKeyUsagePurpose::Any;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let rows: Vec<(&str, [Change; 4], Option<&str>)> = vec![
        ("plain", [nothing(), nothing(), nothing(), nothing()], None),
        (
            "keyCertSign",
            [
                usages(&[KeyCertSign]),
                usages(&[CrlSign, KeyCertSign]),
                usages(&[KeyCertSign]),
                nothing(),
            ],
            None,
        ),
        ("root without it", [usages(&[CrlSign]), nothing(), nothing(), nothing()], no_sign),
        ("first without it", [nothing(), usages(&[CrlSign]), nothing(), nothing()], no_sign),
        (
            "second without it",
            [nothing(), nothing(), usages(&[DigitalSignature]), nothing()],
            no_sign,
        ),
        ("leaf without it", [nothing(), nothing(), nothing(), usages(&[DigitalSignature])], None),
        (
            "first is none",
            [nothing(), not_ca(), nothing(), nothing()],
            Some("(its basicConstraints lack CA:TRUE)"),
        ),
        (
            "second is none",
            [nothing(), nothing(), not_ca(), nothing()],
            Some("(its basicConstraints lack CA:TRUE)"),
        ),
        (
            "pathlen",
            [nothing(), pathlen(0), nothing(), nothing()],
            Some("than the pathlen of an authority permits"),
        ),
        ("pathlen that fits", [nothing(), pathlen(1), pathlen(0), nothing()], None),
        (
            "names of the root",
            [permitting(evil()), nothing(), nothing(), only_name("a.example")],
            Some("the nameConstraints of an authority"),
        ),
        (
            "names of the first",
            [nothing(), permitting(evil()), nothing(), only_name("a.example")],
            Some("the nameConstraints of an authority"),
        ),
        (
            "unknown in the leaf",
            [nothing(), nothing(), nothing(), critical(&[1, 2, 3, 4])],
            Some("certificate has a critical extension that is not supported: 1.2.3.4"),
        ),
        (
            "policies in the leaf",
            [nothing(), nothing(), nothing(), critical(&[2, 5, 29, 32])],
            Some(
                "certificate has a critical extension that is not supported: certificatePolicies (2.5.29.32)",
            ),
        ),
        (
            "unknown in the first",
            [nothing(), critical(&[1, 2, 3, 4]), nothing(), nothing()],
            Some(
                "is signed by an authority that has a critical extension that is not supported: 1.2.3.4",
            ),
        ),
        (
            "address as a name",
            [nothing(), nothing(), nothing(), only_name("127.0.0.1")],
            Some(
                "has the address 127.0.0.1 as a DNS name in its subjectAltName, where it must be an IP address",
            ),
        ),
        (
            "any purpose",
            [nothing(), nothing(), nothing(), purposes(vec![any.clone()])],
            Some("its extendedKeyUsage is anyExtendedKeyUsage alone, and lacks serverAuth"),
        ),
        (
            "any purpose and a server's",
            [nothing(), nothing(), nothing(), purposes(vec![any, server])],
            None,
        ),
    ];
    let folder = Folder::new();
    for (row, [of_root, of_first, of_second, of_leaf], why) in rows {
        let root = Authority::new_changed("root", of_root);
        let named = |name: &'static str, change: Change| {
            move |params: &mut CertificateParams| {
                params.distinguished_name.push(rcgen::DnType::CommonName, name);
                change(params);
            }
        };
        let first = root.intermediate(named("first", of_first));
        let second = first.intermediate(named("second", of_second));
        let mut identity = second.sign_changed(&["127.0.0.1"], of_leaf);
        identity.certificate += &(second.pem() + &first.pem());
        let server = Server::tls(identity.server(None));
        let url = Value::from(format!("https://{}", server.address));
        let file = folder.file("root.pem", root.pem());
        let client = client(&[("endpoint", url), ("tls_ca_file", file.into())]);
        match why {
            None => {
                let answer = super::get(&client);
                assert!(answer.is_ok(), "{row}: {answer:?}");
            }
            Some(why) => {
                let message = refusal(&client);
                assert!(message.contains(why), "{row}: {message}");
            }
        }
    }
}
