//! TLS, mutual TLS and unix sockets, from the configuration to the wire: trusted certificates work,
//! and each failure has its kind and its reason.

mod algorithms;
mod files;
mod trust;

use crate::support::PATIENCE;
use crate::support::answering::Server;
use crate::support::authority::{Authority, Folder, Identity};
use crate::support::consul::{RealConsul, say_skipped};
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::Client;
use consul_config::Config;
use consul_config::connect::connect;
use rustls::version::{TLS12, TLS13};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Options<'a> = &'a [(&'a str, Value)];

fn client_with(given: Options, env: &[(&str, &str)]) -> Result<Client, Error> {
    let given: Vec<_> = given.iter().map(|(name, v)| (name.to_string(), v.clone())).collect();
    let config = Config::new(&given, |name| {
        env.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_bytes().to_vec())
    });
    connect(&config?)
}

fn client(given: Options) -> Client {
    client_with(given, &[]).expect("a client")
}

fn get(client: &Client) -> Result<Answer, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let endpoint = wire::endpoint("kv_get").expect("a method");
    runtime.expect("a runtime").block_on(client.call(endpoint, &Args::new().arg("k")))
}

fn works(client: &Client) {
    assert_eq!(get(client).expect("an answer").value, "v".into());
}

#[test]
fn after_an_answer_to_another_call_no_connection_is_used_again() {
    let world = World::new();
    let client =
        client(&[("endpoint", world.url()), ("tls_ca_file", world.ca_file.as_str().into())]);
    let endpoint = wire::endpoint("kv_get").expect("a method");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let once = |key: &str| Args::new().arg(key).opt("retry", false);
        let get = async |key: &str| client.call(endpoint, &once(key)).await;
        for _ in 0..2 {
            get("k").await.expect("an answer");
        }
        assert_eq!(world.server.connections(), 1);
        // The server answers with the entry of `k`.
        let error = get("other").await.expect_err("the entry of another key");
        assert_eq!(error.kind(), Kind::Decode, "{error}");
        get("k").await.expect("an answer");
        assert_eq!(world.server.connections(), 2);
    });
}

#[test]
fn a_closed_client_keeps_no_connection() {
    let world = World::new();
    let client =
        client(&[("endpoint", world.url()), ("tls_ca_file", world.ca_file.as_str().into())]);
    let endpoint = wire::endpoint("kv_get").expect("a method");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let args = Args::new().arg("k");
        let get = async || client.call(endpoint, &args).await.expect("an answer").value;
        let all_closed = async || {
            let limit = Instant::now() + PATIENCE;
            while world.server.open() > 0 {
                assert!(Instant::now() < limit, "{} are open", world.server.open());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        for _ in 0..2 {
            assert_eq!(get().await, "v".into());
        }
        assert_eq!(world.server.connections(), 1);
        client.close_connections();
        all_closed().await;
        assert_eq!(get().await, "v".into());
        all_closed().await;
        assert_eq!(world.server.connections(), 2);
    });
}

/// The message of a call that fails with TLS: it names the endpoint, and is not retried.
fn refusal(client: &Client) -> String {
    let error = get(client).expect_err("no trust");
    assert_eq!((error.kind(), error.attempts()), (Kind::Tls, 1), "{error}");
    assert!(!error.maybe_applied() && !error.is_retryable(), "{error}");
    assert!(error.message().contains(error.endpoint().expect("an endpoint")), "{error}");
    error.message().to_owned()
}

/// The message of a refused configuration.
fn refused(given: Options) -> String {
    let error = client_with(given, &[]).expect_err("a bad configuration");
    assert_eq!(error.kind(), Kind::Config, "{error}");
    error.message().to_owned()
}

/// An authority in a file, and a server with its certificate at 127.0.0.1.
struct World {
    authority: Authority,
    folder: Folder,
    ca_file: String,
    server: Server,
}

impl World {
    fn new() -> World {
        Self::serving(|authority| authority.sign(&["127.0.0.1"]).server(None))
    }

    fn serving(config: impl FnOnce(&Authority) -> rustls::ServerConfig) -> World {
        let authority = Authority::new("authority");
        let folder = Folder::new();
        let ca_file = folder.file("ca.pem", authority.pem());
        let server = Server::tls(config(&authority));
        World { authority, folder, ca_file, server }
    }

    fn url(&self) -> Value {
        format!("https://{}", self.server.address).into()
    }

    fn client(&self) -> Client {
        client(&[("endpoint", self.url()), ("tls_ca_file", self.ca_file.as_str().into())])
    }
}

fn files(folder: &Folder, identity: &Identity) -> (Value, Value) {
    let certificate = folder.file("client.pem", &identity.certificate);
    (certificate.into(), folder.file("client.key", &identity.key).into())
}

#[test]
fn a_server_of_a_trusted_authority_is_trusted_and_its_connection_kept() {
    let world = World::new();
    let client = world.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for _ in 0..3 {
            let get = wire::endpoint("kv_get").expect("a method");
            client.call(get, &Args::new().arg("k")).await.expect("an answer");
        }
    });
    assert_eq!(world.server.connections(), 1);
}

#[test]
fn a_server_of_another_authority_is_not_trusted() {
    let world = World::new();
    let other = world.folder.file("other.pem", Authority::new("other").pem());
    let client = client(&[("endpoint", world.url()), ("tls_ca_file", other.into())]);
    let message = refusal(&client);
    assert!(message.contains("not signed by a trusted authority"), "{message}");
    assert!(message.contains("tls_ca_file"), "{message}");
    // The client stays usable.
    assert_eq!(refusal(&client), message);
    assert!(world.server.heads().is_empty());
}

#[test]
fn without_a_file_the_authorities_of_the_system_are_trusted_and_no_others() {
    let world = World::new();
    // Without any authority on the system `new` fails.
    match client_with(&[("endpoint", world.url())], &[]) {
        Ok(client) => assert!(refusal(&client).contains("not signed by a trusted authority")),
        Err(error) => assert!(error.message().contains("this system has no store"), "{error}"),
    }
}

/// This test runs itself in a process whose environment names the store.
#[test]
fn the_store_of_the_system_is_trusted() {
    const URL: &str = "CONSUL_FFI_TEST_URL";
    if let Ok(url) = std::env::var(URL) {
        return works(&client(&[("endpoint", url.into())]));
    }
    let world = World::new();
    let succeeds = |store: &str| {
        Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "tls::the_store_of_the_system_is_trusted"])
            .env(URL, world.url().as_str().expect("text"))
            .env("SSL_CERT_FILE", store)
            .env_remove("SSL_CERT_DIR")
            .output()
            .expect("the test runs")
            .status
            .success()
    };
    assert!(succeeds(&world.ca_file));
    assert!(!succeeds(&world.folder.file("other.pem", Authority::new("other").pem())));
}

/// This test runs itself in a process whose environment names a proxy, on a port where nothing listens.
#[test]
fn the_proxies_of_the_environment_are_not_used() {
    const URL: &str = "CONSUL_FFI_TEST_URL";
    const AUTHORITIES: &str = "CONSUL_FFI_TEST_AUTHORITIES";
    if let Ok(url) = std::env::var(URL) {
        let mut given = vec![("endpoint", url.into())];
        given.extend(std::env::var(AUTHORITIES).ok().map(|file| ("tls_ca_file", file.into())));
        return works(&client(&given));
    }
    let (world, plain) = (World::new(), Server::plain());
    let named = world.authority.sign(&["localhost"]).server(None);
    let socket = Server::unix_tls(&world.folder.path("s"), named);
    let https = format!("https://{}", world.server.address);
    for (url, authorities) in [
        (format!("http://{}", plain.address), None),
        (https, Some(&world.ca_file)),
        (format!("https+unix://{}", socket.address), Some(&world.ca_file)),
    ] {
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            for name in [name.to_owned(), name.to_lowercase()] {
                let mut child = Command::new(std::env::current_exe().expect("a path"));
                child.args(["--exact", "tls::the_proxies_of_the_environment_are_not_used"]);
                child.env(URL, &url).env(&name, "http://127.0.0.1:1");
                child.env_remove("NO_PROXY").env_remove("no_proxy");
                if let Some(file) = authorities {
                    child.env(AUTHORITIES, file);
                }
                let output = child.output().expect("the test runs");
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{name} {url}: {said}");
                // Not because it has another name.
                assert!(said.contains("1 passed"), "{said}");
            }
        }
    }
}

#[test]
fn a_certificate_for_another_name_is_refused_naming_both() {
    let world = World::serving(|authority| authority.sign(&["server.dc1.consul"]).server(None));
    let message = refusal(&world.client());
    for name in ["server.dc1.consul", "127.0.0.1", "tls_server_name"] {
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_server_name_is_indicated_and_checked_instead_of_the_host() {
    for host in ["127.0.0.1", "localhost"] {
        let world = World::serving(|authority| authority.sign(&["server.dc1.consul"]).server(None));
        let address = world.server.address.replace("127.0.0.1", host);
        let with_name = |name: &str| {
            client(&[
                ("endpoint", format!("https://{address}/prefix").into()),
                ("tls_ca_file", world.ca_file.as_str().into()),
                ("tls_server_name", name.into()),
            ])
        };
        works(&with_name("server.dc1.consul"));
        assert_eq!(world.server.server_names(), ["server.dc1.consul"]);
        // HTTP still goes to the endpoint's host.
        let head = world.server.heads().remove(0).to_lowercase();
        assert!(head.starts_with("get /prefix/v1/kv/k "), "{head}");
        assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
        assert!(refusal(&with_name("server.dc2.consul")).contains("not for server.dc2.consul"));
    }
}

/// As for Go's client. The connection is still to the endpoint's host.
#[test]
fn an_address_is_a_server_name_that_is_checked_and_not_indicated() {
    for (subject, name, is_trusted) in [
        ("10.1.2.3", "10.1.2.3", true),
        ("fd00::7", "fd00::7", true),
        ("fd00::7", "[fd00::7]", true),
        ("10.1.2.3", "10.1.2.4", false),
        ("localhost", "10.1.2.3", false),
        ("127.0.0.1", "10.1.2.3", false),
    ] {
        for host in ["127.0.0.1", "localhost"] {
            let world = World::serving(|authority| authority.sign(&[subject]).server(None));
            let address = world.server.address.replace("127.0.0.1", host);
            let given = [
                ("endpoint", format!("https://{address}").into()),
                ("tls_ca_file", world.ca_file.as_str().into()),
            ];
            let variable = [("CONSUL_TLS_SERVER_NAME", name)];
            let client = client_with(&given, &variable).expect("a client");
            match is_trusted {
                true => {
                    works(&client);
                    assert_eq!(world.server.server_names(), [""], "{subject} {name} {host}");
                }
                false => assert!(refusal(&client).contains(&format!("not for {name}"))),
            }
        }
    }
}

#[test]
fn a_server_name_is_a_name() {
    for name in ["127.0.0.1:1", "[127.0.0.1]", "[::1", "::g", "a b", "http://x"] {
        let given = [("endpoint", "https://x".into()), ("tls_server_name", name.into())];
        let given: Vec<_> = given.into_iter().chain([("tls_verify", false.into())]).collect();
        let message = refused(&given);
        assert!(message.contains("tls_server_name") && message.contains(name), "{message}");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let world = World::serving(|authority| {
        let expired = authority.sign_changed(&["127.0.0.1"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        expired.server(None)
    });
    let message = refusal(&world.client());
    assert!(message.contains("has expired"), "{message}");
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let world = World::serving(|authority| {
        let future = authority.sign_changed(&["127.0.0.1"], |params| {
            params.not_before = rcgen::date_time_ymd(4000, 1, 1);
        });
        future.server(None)
    });
    let message = refusal(&world.client());
    assert!(message.contains("is not valid yet"), "{message}");
}

#[test]
fn without_verification_every_certificate_does() {
    let world = World::serving(|authority| {
        let wrong = authority.sign_changed(&["another.name"], |params| {
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        wrong.server_of(None, &[&TLS12])
    });
    works(&client(&[("endpoint", world.url()), ("tls_verify", false.into())]));
}

#[test]
fn a_server_that_demands_a_certificate_gets_the_clients() {
    for version in [&TLS12, &TLS13] {
        let world = World::serving(|authority| {
            authority.sign(&["127.0.0.1"]).server_of(Some(authority), &[version])
        });
        let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
        works(&client(&[
            ("endpoint", world.url()),
            ("tls_ca_file", world.ca_file.as_str().into()),
            ("tls_cert_file", certificate),
            ("tls_key_file", key),
        ]));
    }
}

#[test]
fn a_missing_client_certificate_is_named_as_the_reason() {
    for version in [&TLS12, &TLS13] {
        let world = World::serving(|authority| {
            authority.sign(&["127.0.0.1"]).server_of(Some(authority), &[version])
        });
        // More than once: with TLS 1.3 the refusal races with the request.
        for _ in 0..20 {
            let message = refusal(&world.client());
            assert!(message.contains("demands a certificate of the client"), "{message}");
        }
        assert!(world.server.heads().is_empty());
    }
}

#[test]
fn a_client_certificate_of_another_authority_is_refused() {
    for version in [&TLS12, &TLS13] {
        let world = World::serving(|authority| {
            authority.sign(&["127.0.0.1"]).server_of(Some(authority), &[version])
        });
        let stranger = Authority::new("stranger").sign(&["client"]);
        let (certificate, key) = files(&world.folder, &stranger);
        let message = refusal(&client(&[
            ("endpoint", world.url()),
            ("tls_ca_file", world.ca_file.as_str().into()),
            ("tls_cert_file", certificate),
            ("tls_key_file", key),
        ]));
        assert!(message.contains("refuses the client's certificate"), "{message}");
    }
}

#[test]
fn a_port_without_tls_is_told() {
    let server = Server::plain();
    let url = format!("https://{}", server.address);
    let message = refusal(&client(&[("endpoint", url.into()), ("tls_verify", false.into())]));
    assert!(message.contains("the TLS handshake failed"), "{message}");
    assert!(message.contains("does it speak TLS?"), "{message}");
}

#[test]
fn a_connection_that_breaks_in_the_handshake_is_told_as_such() {
    for (takes, why) in [(true, "eof"), (false, "reset")] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        // A socket that is closed before its bytes are read resets its connection.
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a connection");
            let mut hello = [0; 16 << 10];
            match takes {
                true => connection.read(&mut hello).expect("a hello"),
                false => connection.peek(&mut hello).expect("a hello"),
            }
        });
        let client = client(&[
            ("endpoint", url.into()),
            ("tls_verify", false.into()),
            ("retry_count", 0.into()),
        ]);
        let error = get(&client).expect_err("no TLS");
        assert_ne!(server.join().expect("a server"), 0);
        assert!(error.kind() == Kind::Connect && error.is_retryable(), "{error}");
        let message = error.to_string();
        assert!(message.contains("the TLS handshake broke off"), "{message}");
        assert!(message.contains("does it speak TLS?") && message.contains(why), "{message}");
    }
}

#[test]
fn a_folder_of_authorities_trusts_each_and_needs_one() {
    let world = World::new();
    let authorities = Folder::new();
    let path = |folder: &Folder| folder.path("").to_str().expect("text").to_owned();
    let with_folder = [("endpoint", world.url()), ("tls_ca_path", path(&authorities).into())];
    assert!(refused(&with_folder).contains("tls_ca_path"));
    authorities.file("README", "These are ours.");
    assert!(refused(&with_folder).contains("no file in it has a certificate"));
    authorities.file("a.pem", Authority::new("other").pem());
    authorities.file("b.pem", world.authority.pem());
    works(&client(&with_folder));
    let mut both = with_folder.to_vec();
    both.push(("tls_ca_file", authorities.file("c.pem", Authority::new("third").pem()).into()));
    works(&client(&both));
    authorities.file("d.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let message = refused(&with_folder);
    assert!(message.contains("tls_ca_path") && message.contains("d.pem"), "{message}");
}

#[test]
fn the_environment_alone_is_enough() {
    let world = World::serving(|authority| {
        authority.sign(&["server.dc1.consul"]).server_of(Some(authority), &[&TLS13])
    });
    let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (certificate, key) = (text(&certificate), text(&key));
    let env = [
        ("CONSUL_HTTP_ADDR", world.server.address.as_str()),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_CACERT", &world.ca_file),
        ("CONSUL_CLIENT_CERT", &certificate),
        ("CONSUL_CLIENT_KEY", &key),
        ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul"),
        ("CONSUL_HTTP_AUTH", "Aladdin:open sesame"),
        ("CONSUL_HTTP_TOKEN", "t0ken"),
    ];
    works(&client_with(&[], &env).expect("a client"));
    let head = world.server.heads().remove(0).to_lowercase();
    assert!(head.contains("authorization: basic qwxhzgrpbjpvcgvuihnlc2ftzq==\r\n"), "{head}");
    assert!(head.contains("x-consul-token: t0ken\r\n"), "{head}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_when_the_client_is_made() {
    let world = World::new();
    let folder = Folder::new();
    let (certificate, key) = files(&folder, &world.authority.sign(&["client"]));
    let garbled = folder
        .file("garbled.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let empty = folder.file("empty.pem", "");
    let cut = folder.file("cut.pem", &world.authority.pem()[..100]);
    let missing = folder.path("missing.pem").to_str().expect("text").to_owned();
    let encrypted = folder.file(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let other_key = folder.file("other.key", world.authority.sign(&["client"]).key);
    let https = ("endpoint", world.url());
    for file in [&garbled, &empty, &cut, &missing] {
        let message = refused(&[https.clone(), ("tls_ca_file", file.as_str().into())]);
        assert!(message.starts_with(&format!("tls_ca_file: {file}: ")), "{message}");
        let given = [
            https.clone(),
            ("tls_cert_file", file.as_str().into()),
            ("tls_key_file", key.clone()),
            ("tls_verify", false.into()),
        ];
        let message = refused(&given);
        assert!(message.starts_with(&format!("tls_cert_file: {file}: ")), "{message}");
    }
    for file in [&garbled, &empty, &missing, &encrypted, &other_key] {
        let given = [
            https.clone(),
            ("tls_cert_file", certificate.clone()),
            ("tls_key_file", file.as_str().into()),
            ("tls_verify", false.into()),
        ];
        let message = refused(&given);
        assert!(message.starts_with(&format!("tls_key_file: {file}: ")), "{message}");
        assert!(!message.contains("AAAA"), "{message}");
    }
}

#[test]
fn one_list_holds_endpoints_of_every_kind() {
    let world = World::new();
    let plain = Server::plain();
    let socket = world.folder.path("s");
    let unix = Server::unix(&socket);
    let of_localhost = world.authority.sign(&["localhost"]).server(None);
    let secure = Server::unix_tls(&world.folder.path("t"), of_localhost);
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let nobody = closed.local_addr().expect("an address").to_string();
    drop(closed);
    let absent = world.folder.path("absent");
    let dead = [
        format!("https://{nobody}"),
        format!("http://{nobody}"),
        format!("unix://{}", absent.display()),
        format!("https+unix://{}", absent.display()),
    ];
    let alive = [
        format!("https://{}", world.server.address),
        format!("http://{}", plain.address),
        format!("unix://{}", unix.address),
        format!("https+unix://{}", secure.address),
    ];
    for place in 0..4 {
        let mut endpoints = dead.clone();
        endpoints[place].clone_from(&alive[place]);
        let list = endpoints.iter().map(|endpoint| endpoint.as_str().into()).collect();
        let client = client(&[
            ("endpoints", Value::List(list)),
            ("tls_ca_file", world.ca_file.as_str().into()),
        ]);
        let answer = get(&client).expect("one of them answers");
        assert_eq!(answer.meta.endpoint, alive[place]);
    }
}

#[test]
fn a_unix_socket_that_is_not_there_is_named() {
    let folder = Folder::new();
    let url = format!("unix://{}", folder.path("absent").display());
    let client = client(&[("endpoint", url.as_str().into()), ("retry_count", 0.into())]);
    let error = get(&client).expect_err("nobody is there");
    assert_eq!((error.kind(), error.maybe_applied()), (Kind::Connect, false), "{error}");
    assert!(error.message().contains(&url) && error.message().contains("No such file"), "{error}");
}

#[test]
fn a_unix_socket_has_tls_where_it_is_asked_for() {
    let world = World::new();
    let path = world.folder.path("s");
    let of_name = world.authority.sign(&["server.dc1.consul"]).server(Some(&world.authority));
    let server = Server::unix_tls(&path, of_name);
    let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
    let url = Value::from(format!("unix://{}", path.display()));
    let given = [
        ("endpoint", url.clone()),
        ("tls", true.into()),
        ("tls_ca_file", world.ca_file.as_str().into()),
        ("tls_server_name", "server.dc1.consul".into()),
        ("tls_cert_file", certificate),
        ("tls_key_file", key),
    ];
    works(&client(&given));
    assert_eq!(server.server_names(), ["server.dc1.consul"]);
    assert!(
        server.heads()[0].to_lowercase().contains("\r\nhost: localhost\r\n"),
        "{:?}",
        server.heads()
    );
    // Without a name it must be for localhost.
    let nameless: Vec<_> = given.iter().filter(|it| it.0 != "tls_server_name").cloned().collect();
    let message = refusal(&client(&nameless));
    assert!(message.contains("is for server.dc1.consul, not for localhost"), "{message}");
    assert!(message.contains("https+unix://"), "{message}");
    // Without TLS it is not spoken to.
    let plain = client(&[("endpoint", url), ("retry_count", 0.into())]);
    let error = get(&plain).expect_err("a socket for TLS");
    assert!([Kind::Tls, Kind::Connect, Kind::Decode].contains(&error.kind()), "{error}");
}

/// A real Consul with TLS that requires client certificates, and that also listens on a unix
/// socket.
#[test]
fn a_real_consul_is_spoken_to_over_mutual_tls_and_over_its_socket() {
    let authority = Authority::new("authority");
    let folder = Folder::new();
    let server = authority.sign(&["server.dc1.consul", "localhost"]);
    let ca_file = folder.file("ca.pem", authority.pem());
    let (certificate, key) = files(&folder, &authority.sign(&["client.dc1.consul"]));
    let [socket, secure_socket] = ["http.sock", "https.sock"]
        .map(|name| folder.path(name).to_str().expect("text").to_owned());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let config = serde_json::json!({
        "ports": { "https": port },
        "addresses": {
            "http": format!("127.0.0.1 unix://{socket}"),
            "https": format!("127.0.0.1 unix://{secure_socket}"),
        },
        "tls": { "https": {
            "ca_file": ca_file,
            "cert_file": folder.file("server.pem", server.certificate),
            "key_file": folder.file("server.key", server.key),
            "verify_incoming": true,
        } },
    });
    let config = folder.file("config.json", config.to_string());
    let _consul = match RealConsul::start_with_config("1.21", &config) {
        Ok(consul) => consul,
        Err(why) => return say_skipped("TLS with a real Consul", &why),
    };
    let url = Value::from(format!("https://127.0.0.1:{port}"));
    let trusting = [
        ("endpoint", url),
        ("tls_ca_file", ca_file.into()),
        ("tls_server_name", "server.dc1.consul".into()),
    ];
    for _ in 0..20 {
        let message = refusal(&client(&trusting));
        assert!(message.contains("demands a certificate of the client"), "{message}");
    }
    let mut known = trusting.to_vec();
    known.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    let absent = get(&client(&known)).expect("an answer");
    assert_eq!((absent.value, absent.meta.known_leader), (Value::Null, Some(true)));
    // As for a program of Go with CONSUL_HTTP_SSL.
    let mut over_socket = known.clone();
    over_socket[0].1 = format!("unix://{secure_socket}").into();
    over_socket.push(("tls", true.into()));
    assert_eq!(get(&client(&over_socket)).expect("an answer").value, Value::Null);
    let mut misnamed = known.clone();
    misnamed[2].1 = "server.dc2.consul".into();
    assert!(refusal(&client(&misnamed)).contains("not for server.dc2.consul"));
    let plain = client(&[("endpoint", format!("http://127.0.0.1:{port}").into())]);
    let error = get(&plain).expect_err("a port for TLS");
    assert_eq!((error.kind(), error.status()), (Kind::Tls, Some(400)), "{error}");
    let over_socket = client(&[("endpoint", format!("unix://{socket}").into())]);
    assert_eq!(get(&over_socket).expect("an answer").value, Value::Null);
}

/// An answer whose end is the end of the connection is whole only if TLS ends too.
#[test]
fn an_answer_without_the_end_of_tls_is_an_error_in_words() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n[", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", "HTTP/1.1 2"]
    {
        let authority = Authority::new("authority");
        let config = Arc::new(authority.sign(&["127.0.0.1"]).server(None));
        let folder = Folder::new();
        let ca_file = folder.file("ca.pem", authority.pem());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a connection");
            let connection = rustls::ServerConnection::new(config).expect("a connection");
            let mut stream = rustls::StreamOwned::new(connection, socket);
            let count = stream.read(&mut [0; 4096]).expect("a request");
            stream.write_all(head.as_bytes()).expect("an answer");
            // The socket is closed without a close_notify.
            count
        });
        let client = client(&[
            ("endpoint", url.into()),
            ("tls_ca_file", ca_file.into()),
            ("retry_count", 0.into()),
        ]);
        let error = get(&client).expect_err("half an answer");
        assert_ne!(server.join().expect("a server"), 0);
        assert_eq!(error.kind(), Kind::Connect, "{error}");
        let message = error.to_string();
        assert!(message.contains("(close_notify)"), "{message}");
        assert!(!message.contains("docs.rs") && !message.contains("simulate"), "{message}");
    }
}
