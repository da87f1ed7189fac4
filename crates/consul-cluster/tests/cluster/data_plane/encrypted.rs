//! Mutual TLS between nodes: who is a member, what others are told, and that the files change.

use super::log::Log;
use super::world::{World, keyed, options};
use super::{address, refused};
use crate::support::PATIENCE;
use crate::support::authority::{Authority, Folder};
use consul_api::error::Kind;
use consul_cluster::Options;
use consul_cluster::data_plane::{ClusterKey, DataPlane, DataTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Files are read at most once a second.
const READ_AGAIN: Duration = Duration::from_millis(1100);

/// The files of one node.
struct Files(Folder);

impl Files {
    /// A certificate of one authority, and trust in others.
    fn new(signed_by: &Authority, trusts: &[&Authority]) -> Files {
        let files = Files(Folder::new());
        files.identity(signed_by);
        files.trust(trusts);
        files
    }

    fn identity(&self, signed_by: &Authority) {
        self.identity_for(signed_by, 2000..=3000);
    }

    /// The same with a certificate that is valid in these years.
    fn identity_for(&self, signed_by: &Authority, years: RangeInclusive<i32>) {
        // No name of it is that of a node.
        let identity = signed_by.sign_changed(&["any.name"], |it| {
            it.not_before = rcgen::date_time_ymd(*years.start(), 1, 1);
            it.not_after = rcgen::date_time_ymd(*years.end(), 1, 1);
        });
        self.0.file("cert.pem", &identity.certificate);
        self.0.file("key.pem", &identity.key);
    }

    fn trust(&self, authorities: &[&Authority]) {
        self.0.file("ca.pem", authorities.iter().map(|it| it.pem()).collect::<String>());
    }

    fn option(&self) -> Option<DataTls> {
        let path = |name: &str| -> PathBuf { self.0.path(name) };
        let (cert_file, key_file, ca_file) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
        Some(DataTls { cert_file, key_file, ca_file })
    }

    fn node(&self, options: Options) -> Options {
        Options { data_tls: self.option(), ..options }
    }
}

#[test]
fn members_call_each_other_with_and_without_a_key() {
    let authority = Authority::new("cluster");
    let (first, second) =
        (Files::new(&authority, &[&authority]), Files::new(&authority, &[&authority]));
    for make in [options, keyed] {
        let world = World::new();
        let nodes = [world.echo(first.node(make("n1"))), world.echo(second.node(make("n2")))];
        world.settle();
        for (from, to) in [(0, "n2"), (1, "n1"), (0, "n2")] {
            let reply = world.call(&nodes[from], to, "echo", "hello", PATIENCE).0;
            assert_eq!(reply.expect("a reply").bytes, "hello");
        }
        let large = "x".repeat(3 << 20);
        let reply = world.call(&nodes[0], "n2", "echo", &large, PATIENCE).0.expect("a reply");
        assert!(reply.bytes == large);
    }
}

#[test]
fn certificates_suffice_beyond_loopback() {
    let authority = Authority::new("cluster");
    let files = Files::new(&authority, &[&authority]);
    let world = World::new();
    let options = Options { data_address: "0.0.0.0:0".to_owned(), ..files.node(options("n1")) };
    DataPlane::new(world.cluster(options), |_| ()).expect("a data plane");
}

#[test]
fn a_node_of_another_authority_is_refused_by_both_sides_with_the_reason() {
    let log = Log::whole();
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let world = World::new();
    let member = Files::new(&ours, &[&ours]);
    let foreign = Files::new(&others, &[&others]);
    // It trusts the members, who do not trust it.
    let intruder = Files::new(&others, &[&ours, &others]);
    let member = world.echo(member.node(keyed("n1")));
    let foreign = world.echo(foreign.node(keyed("n2")));
    let intruder = world.echo(intruder.node(keyed("n3")));
    world.settle();
    // More than once: the refusal races with the first request.
    for _ in 0..20 {
        for (node, to, why) in [
            (&member, "n2", "its certificate is not signed by an authority in data_tls.ca_file"),
            (&foreign, "n1", "its certificate is not signed by an authority in data_tls.ca_file"),
            (&intruder, "n1", "it refuses this node's certificate"),
        ] {
            let error = refused(world.call(node, to, "echo", "hello", PATIENCE).0, Kind::Tls, why);
            assert!(!error.maybe_applied(), "{error}");
        }
    }
    log.says("its certificate is not signed by an authority in data_tls.ca_file");
    log.says("its alert is unknown_ca");
    assert!(member.seen.lock().expect("no panic").is_empty());
}

#[test]
fn nodes_with_and_without_tls_refuse_each_other_with_the_reason() {
    let log = Log::whole();
    let authority = Authority::new("cluster");
    let files = Files::new(&authority, &[&authority]);
    for make in [options, keyed] {
        let world = World::new();
        let encrypted = world.echo(files.node(make("n1")));
        let plain = world.echo(make("n2"));
        world.settle();
        for (node, to, why) in [
            (&plain, "n1", "it accepts only connections with TLS: set data_tls"),
            (&encrypted, "n2", "it does not speak TLS: its node has no data_tls"),
        ] {
            let error = refused(world.call(node, to, "echo", "hello", PATIENCE).0, Kind::Tls, why);
            assert!(!error.maybe_applied(), "{error}");
        }
    }
    log.says("a connection without TLS was refused: its node has no data_tls");
    log.says("a connection with TLS was refused: this node has no data_tls");
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let log = Log::whole();
    let authority = Authority::new("cluster");
    let world = World::new();
    let node = world.echo(Files::new(&authority, &[&authority]).node(options("n1")));
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.pem().as_bytes());
    roots.add(certificate.expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("any.name").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(address(&world, &node)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut stream = StreamOwned::new(client, stream);
    let _ = stream.write_all(b"GET /v1/nonce HTTP/1.1\r\nhost: a\r\n\r\n");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("a refusal");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    log.says("it has no certificate");
}

#[test]
fn authorities_and_certificates_change_while_the_nodes_run() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = [Files::new(&old, &[&old]), Files::new(&old, &[&old])];
    let world = World::new();
    let nodes = [world.echo(files[0].node(keyed("n1"))), world.echo(files[1].node(keyed("n2")))];
    world.settle();
    let all_calls_work = || {
        for (from, to) in [(0, "n2"), (1, "n1")] {
            world.call(&nodes[from], to, "echo", "hello", PATIENCE).0.expect("a reply");
        }
    };
    all_calls_work();
    // One node after the other, as an administrator does it: trust in both, new certificates, trust in the
    // new one. Each step may take effect later on one of the nodes.
    for step in [
        (|files: &Files, old: &Authority, new: &Authority| files.trust(&[old, new]))
            as fn(&_, &_, &_),
        |files, _, new| files.identity(new),
        |files, _, new| files.trust(&[new]),
    ] {
        for files in &files {
            step(files, &old, &new);
            all_calls_work();
            thread::sleep(READ_AGAIN);
            all_calls_work();
        }
    }
}

#[test]
fn a_connection_ends_with_the_trust_in_its_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (first, second) =
        (Files::new(&ours, &[&ours, &theirs]), Files::new(&theirs, &[&ours, &theirs]));
    let world = World::new();
    let nodes = [world.echo(first.node(options("n1"))), world.echo(second.node(options("n2")))];
    world.settle();
    let call = |from: usize, to: &str| world.call(&nodes[from], to, "echo", "hello", PATIENCE).0;
    call(0, "n2").expect("a reply");
    call(1, "n1").expect("a reply");
    first.trust(&[&ours]);
    thread::sleep(READ_AGAIN);
    // It still trusts the first node, so it uses the connection that it has.
    let error = refused(call(1, "n1"), Kind::PermissionDenied, "any more (data_tls.ca_file)");
    assert!(!error.maybe_applied(), "{error}");
    refused(call(0, "n2"), Kind::Tls, "not signed by an authority in data_tls.ca_file");
}

#[test]
fn broken_files_change_nothing() {
    let authority = Authority::new("cluster");
    let files = [Files::new(&authority, &[&authority]), Files::new(&authority, &[&authority])];
    let world = World::new();
    let nodes =
        [world.echo(files[0].node(options("n1"))), world.echo(files[1].node(options("n2")))];
    world.settle();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        files[0].0.file(name, "-----BEGIN CERTI");
        thread::sleep(READ_AGAIN);
        for (from, to) in [(0, "n2"), (1, "n1")] {
            world.call(&nodes[from], to, "echo", "hello", PATIENCE).0.expect("a reply");
        }
    }
}

#[test]
fn a_certificate_that_is_not_valid_now_does_not_replace_one_that_is() {
    let log = Log::limited();
    let authority = Authority::new("cluster");
    let files = [Files::new(&authority, &[&authority]), Files::new(&authority, &[&authority])];
    let world = World::new();
    let nodes =
        [world.echo(files[0].node(options("n1"))), world.echo(files[1].node(options("n2")))];
    world.settle();
    let path = files[0].0.path("cert.pem").display().to_string();
    let warnings = || log.text().lines().filter(|line| line.contains(&path)).count();
    for years in [2000..=2001, 2900..=2901] {
        files[0].identity_for(&authority, years);
        // The second time it is read again, and nothing is logged.
        for _ in 0..2 {
            thread::sleep(READ_AGAIN);
            for (from, to) in [(0, "n2"), (1, "n1")] {
                world.call(&nodes[from], to, "echo", "hello", PATIENCE).0.expect("a reply");
            }
        }
    }
    assert_eq!(warnings(), 1, "{}", log.text());
    let text = log.text();
    let line = text.lines().find(|line| line.contains(&path)).expect("a line");
    for part in ["the last content stays in use", "data_tls.cert_file", "expired"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_when_the_node_starts() {
    let authority = Authority::new("cluster");
    let world = World::new();
    let refusal = |options| {
        let error = DataPlane::new(world.cluster(options), |_| ()).expect_err("bad files");
        assert_eq!(error.kind(), Kind::Config);
        error.message().to_owned()
    };
    for (name, option) in [
        ("cert.pem", "data_tls.cert_file"),
        ("key.pem", "data_tls.key_file"),
        ("ca.pem", "data_tls.ca_file"),
    ] {
        let files = Files::new(&authority, &[&authority]);
        let path = files.0.file(name, "nothing");
        let message = refusal(files.node(options("n1")));
        assert!(message.starts_with(&format!("{option}: {path}: it has no ")), "{message}");
    }
    let files = Files::new(&authority, &[&authority]);
    let other = authority.sign(&["other"]);
    files.0.file("key.pem", &other.key);
    let message = refusal(files.node(options("n1")));
    assert!(
        message.contains("data_tls.key_file") && message.contains("not the key of"),
        "{message}"
    );
}

#[test]
fn a_node_that_its_own_authorities_do_not_trust_says_so_when_it_starts() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let world = World::new();
    let start = |files: &Files| {
        let log = Log::limited();
        DataPlane::new(world.cluster(files.node(options("n1"))), |_| ()).expect("a data plane");
        log.text().lines().find(|line| line.contains("do not vouch")).map(str::to_owned)
    };
    assert_eq!(start(&Files::new(&ours, &[&ours, &others])), None);
    let files = Files::new(&ours, &[&others]);
    let line = start(&files).expect("a warning");
    for part in ["WARN", "cert.pem", "ca.pem", "data_tls.cert_file", "UnknownIssuer"] {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[test]
fn a_wrong_key_is_refused_inside_of_tls_too() {
    let authority = Authority::new("cluster");
    let files = Files::new(&authority, &[&authority]);
    let world = World::new();
    let member = world.echo(files.node(keyed("n1")));
    let wrong = Options {
        cluster_key: Some(ClusterKey::new("another secret of a cluster")),
        ..files.node(options("n2"))
    };
    let wrong = world.echo(wrong);
    world.settle();
    refused(
        world.call(&wrong, "n1", "echo", "hello", PATIENCE).0,
        Kind::PermissionDenied,
        "signed",
    );
    assert!(member.seen.lock().expect("no panic").is_empty());
}
