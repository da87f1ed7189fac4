//! The algorithms that docs/configuration.md names, with the certificates and the server of OpenSSL.

use super::{client, get, refusal, refused};
use crate::support::authority::Folder;
use crate::support::consul::say_skipped;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api::value::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// The options of `openssl` for a new key: those that a client supports.
const KEYS: [&str; 6] =
    ["rsa:2048", "rsa:3072", "ec:prime256v1", "ec:secp384r1", "ec:secp521r1", "ed25519"];

const HASHES: [&str; 3] = ["sha256", "sha384", "sha512"];

/// The algorithms that ring has not.
const UNSUPPORTED: [(&str, &str); 2] = [("ec:prime256v1", "sha512"), ("ec:secp384r1", "sha512")];

/// A folder in which `openssl` makes its files.
struct Made(Folder);

impl Made {
    fn new() -> Self {
        let folder = Folder::new();
        let entry = r#"[{"LockIndex":0,"Key":"k","Flags":0,"Value":"dg==","CreateIndex":1,"ModifyIndex":1}]"#;
        fs::create_dir_all(folder.path("v1/kv")).expect("a folder");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 1";
        let length = entry.len();
        folder.file("v1/kv/k", format!("{head}\r\nContent-Length: {length}\r\n\r\n{entry}"));
        Made(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).to_str().expect("text").to_owned()
    }

    fn openssl(&self, words: &str) {
        let mut openssl = Command::new("openssl");
        openssl.args(words.split_whitespace()).current_dir(self.0.path("."));
        let output = openssl.output().expect("openssl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {said}");
    }

    /// A certificate `NAME.pem` with a key of this kind in `NAME.key`, of the authority with the name `of`, or of itself.
    fn certificate(&self, name: &str, key: &str, hash: &str, of: Option<&str>) {
        let key = match key.strip_prefix("ec:") {
            Some(curve) => format!("ec -pkeyopt ec_paramgen_curve:{curve}"),
            None => key.to_owned(),
        };
        let rest = match of {
            None => "-subj /CN=authority".to_owned(),
            Some(of) => format!(
                "-CA {of}.pem -CAkey {of}.key -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 \
                 -addext basicConstraints=critical,CA:FALSE"
            ),
        };
        self.openssl(&format!(
            "req -x509 -newkey {key} -nodes -{hash} -days 30 -keyout {name}.key -out {name}.pem {rest}"
        ));
    }

    /// OpenSSL's server with the certificate `server`, which demands one of the authority `ca`.
    fn server(&self, version: &str) -> OpenSsl {
        self.server_with(&format!("-Verify 1 -verify_return_error -CAfile ca.pem -{version}"))
    }

    fn server_with(&self, flags: &str) -> OpenSsl {
        let words =
            format!("s_server -HTTP -accept 127.0.0.1:0 -cert server.pem -key server.key {flags}");
        let mut command = Command::new("setpriv");
        let command = command.args(["--pdeathsig", "KILL", "openssl"]);
        command.args(words.split_whitespace()).current_dir(self.0.path("."));
        let command = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("openssl runs");
        let mut said = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let port = said.find_map(|line| {
            line.expect("text").strip_prefix("ACCEPT 127.0.0.1:").map(str::to_owned)
        });
        // It goes on to write what it does.
        std::thread::spawn(move || said.for_each(drop));
        OpenSsl { process, port: port.expect("it listens") }
    }

    fn options(&self, server: &OpenSsl) -> [(&'static str, Value); 4] {
        [
            ("endpoint", format!("https://127.0.0.1:{}", server.port).into()),
            ("tls_ca_file", self.path("ca.pem").into()),
            ("tls_cert_file", self.path("client.pem").into()),
            ("tls_key_file", self.path("client.key").into()),
        ]
    }
}

struct OpenSsl {
    process: Child,
    port: String,
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn has_openssl() -> bool {
    let version = Command::new("openssl").arg("version").output();
    let is_there = version.is_ok_and(|it| it.stdout.starts_with(b"OpenSSL 3"));
    if !is_there {
        say_skipped("the algorithms of TLS", "OpenSSL 3 is missing: scripts/install-deps.sh");
    }
    is_there
}

/// The versions with which OpenSSL takes such a key. With TLS 1.2 it takes P-521 only from a peer that can also exchange keys
/// of it.
///
/// Source: RFC 8422, 5.1.
fn versions(key: &str) -> &'static [&'static str] {
    if key == "ec:secp521r1" { &["tls1_3"] } else { &["tls1_2", "tls1_3"] }
}

/// The server's, the client's and the authority's key are of one kind, and each signs with each hash that the client knows
/// of it.
#[test]
#[ignore = "computes long: make test-all"]
fn each_supported_key_works_with_both_versions_and_each_hash() {
    if !has_openssl() {
        return;
    }
    for key in KEYS {
        for hash in HASHES {
            let made = Made::new();
            made.certificate("ca", key, hash, None);
            made.certificate("client", key, hash, Some("ca"));
            made.certificate("server", key, hash, Some("ca"));
            for version in versions(key) {
                let server = made.server(version);
                if UNSUPPORTED.contains(&(key, hash)) {
                    let message = refusal(&client(&made.options(&server)));
                    let wanted = "not supported (SHA-512 with ECDSA)";
                    assert!(message.contains(wanted), "{message}");
                    continue;
                }
                let found = get(&client(&made.options(&server)));
                let found = found.unwrap_or_else(|error| panic!("{key} {hash} {version}: {error}"));
                assert_eq!(found.value, "v".into());
                // The other form of a private key.
                if key.starts_with("ec:") && !made.0.path("client.pkcs8").exists() {
                    fs::rename(made.0.path("client.key"), made.0.path("client.pkcs8"))
                        .expect("a file");
                    made.openssl("ec -in client.pkcs8 -out client.key");
                }
            }
        }
    }
}

#[test]
fn a_key_of_p521_that_is_not_the_right_one_is_refused() {
    if !has_openssl() {
        return;
    }
    let made = Made::new();
    let key = "ec:secp521r1";
    made.certificate("ca", key, "sha512", None);
    made.certificate("client", key, "sha512", Some("ca"));
    // An authority of the same name, which did not sign the server's certificate.
    made.certificate("other", key, "sha512", None);
    made.certificate("stranger", key, "sha512", Some("other"));
    made.certificate("server", key, "sha512", Some("ca"));
    let server = made.server("tls1_3");
    let mut options = made.options(&server);
    options[1].1 = made.path("other.pem").into();
    let message = refusal(&client(&options));
    assert!(message.contains("has a signature that is not its authority's"), "{message}");
    let mut options = made.options(&server);
    options[2].1 = made.path("stranger.pem").into();
    let message = refused(&options);
    assert!(message.contains("not the key of "), "{message}");
    options[3].1 = made.path("stranger.key").into();
    let message = refusal(&client(&options));
    assert!(message.contains("refuses the client's certificate"), "{message}");
    // One bit of the signature, which is at the end, is another one.
    let text = fs::read_to_string(made.0.path("server.pem")).expect("a file");
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = BASE64.decode(body).expect("base64");
    *bytes.last_mut().expect("a byte") ^= 1;
    let text = BASE64.encode(bytes);
    made.0.file(
        "server.pem",
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"),
    );
    let server = made.server("tls1_3");
    let message = refusal(&client(&made.options(&server)));
    assert!(message.contains("has a signature that is not its authority's"), "{message}");
}

/// With these OpenSSL's server takes what its defaults refuse.
const LAX: &str = "-cipher DEFAULT@SECLEVEL=0";

const NO_COMMON: &str = "has no version or algorithm in common";

#[test]
fn a_servers_key_that_is_too_small_is_named_whatever_is_verified() {
    if !has_openssl() {
        return;
    }
    let made = Made::new();
    made.certificate("ca", "rsa:2048", "sha256", None);
    made.certificate("server", "rsa:1024", "sha256", Some("ca"));
    for version in ["tls1_2", "tls1_3"] {
        let server = made.server_with(&format!("{LAX} -{version}"));
        let url = ("endpoint", Value::from(format!("https://127.0.0.1:{}", server.port)));
        for trust in [
            ("tls_verify", false.into()),
            ("tls_ca_file", made.path("ca.pem").into()),
            ("tls_ca_file", made.path("server.pem").into()),
        ] {
            let message = refusal(&client(&[url.clone(), trust]));
            let wanted = "certificate cannot be used: its key is RSA with 1024 bits: at least 2048 are needed";
            assert!(message.contains(wanted), "{version}: {message}");
        }
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn an_authoritys_key_that_cannot_be_used_is_named() {
    if !has_openssl() {
        return;
    }
    for (key, wanted) in [
        ("rsa:1024", "RSA with 1024 bits: at least 2048 are needed"),
        ("ed448", "Ed448: supported are RSA from 2048 bits"),
        ("ec:secp224r1", "P-224: supported are"),
        ("ec:secp256k1", "secp256k1: supported are"),
        ("ec:brainpoolP256r1", "of the kind 1.3.36.3.3.2.8.1.1.7: supported are"),
    ] {
        let made = Made::new();
        made.certificate("ca", key, "sha256", None);
        made.certificate("server", "rsa:2048", "sha256", Some("ca"));
        let server = made.server_with(LAX);
        let message = refusal(&client(&made.options(&server)[..2]));
        let wanted = format!("certificate is signed by an authority whose key is {wanted}");
        assert!(message.contains(&wanted), "{key}: {message}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_signature_that_is_not_supported_is_named_and_not_the_key() {
    if !has_openssl() {
        return;
    }
    for (key, hash, wanted) in [
        ("rsa:2048", "sha1", "SHA-1 with RSA"),
        ("rsa:2048", "md5", "MD5 with RSA"),
        ("rsa:2048", "sha224", "SHA-224 with RSA"),
        ("ec:prime256v1", "sha1", "SHA-1 with ECDSA"),
        ("ec:prime256v1", "sha224", "SHA-224 with ECDSA"),
        ("ec:secp384r1", "sha1", "SHA-1 with ECDSA"),
        ("ec:secp384r1", "sha224", "SHA-224 with ECDSA"),
        ("ec:secp384r1", "sha512", "SHA-512 with ECDSA"),
    ] {
        let made = Made::new();
        made.certificate("ca", key, "sha256", None);
        made.certificate("server", "rsa:2048", hash, Some("ca"));
        let server = made.server_with(LAX);
        let message = refusal(&client(&made.options(&server)[..2]));
        let wanted =
            format!("certificate has a signature of a kind that is not supported ({wanted})");
        assert!(message.contains(&wanted), "{key} {hash}: {message}");
        assert!(!message.contains("keys of RSA"), "{message}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_clients_key_that_cannot_be_used_is_named() {
    if !has_openssl() {
        return;
    }
    let made = Made::new();
    made.certificate("ca", "rsa:2048", "sha256", None);
    for (key, wanted) in [
        ("rsa:1024", "RSA with 1024 bits: at least 2048 are needed"),
        ("rsa:4104", "RSA with 4104 bits: up to 4096 are supported"),
        ("ed448", "Ed448: supported are RSA from 2048 bits"),
        ("ec:secp256k1", "secp256k1: supported are"),
    ] {
        made.certificate("client", key, "sha256", Some("ca"));
        let [certificate, file] = ["client.pem", "client.key"].map(|name| made.path(name));
        let message = refused(&[
            ("endpoint", "https://127.0.0.1:1".into()),
            ("tls_verify", false.into()),
            ("tls_cert_file", certificate.as_str().into()),
            ("tls_key_file", file.as_str().into()),
        ]);
        let wanted = format!("tls_key_file: {file}: the key of {certificate} is {wanted}");
        assert!(message.starts_with(&wanted), "{key}: {message}");
    }
}

#[test]
fn a_server_without_a_version_or_an_algorithm_of_the_client_is_refused_with_those_that_are_supported()
 {
    if !has_openssl() {
        return;
    }
    let made = Made::new();
    made.certificate("ca", "rsa:2048", "sha256", None);
    for (key, flags, wanted) in [
        ("ed448", "-tls1_3", NO_COMMON),
        ("ed448", "-tls1_2", NO_COMMON),
        ("ec:secp256k1", "", NO_COMMON),
        ("ec:secp256k1", "-tls1_3", "or not with its key"),
        ("rsa:2048", "-tls1_2 -cipher AES128-SHA256", NO_COMMON),
        ("rsa:2048", "-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256", NO_COMMON),
        ("rsa:2048", "-tls1_1 -cipher ALL@SECLEVEL=0", "does not support TLS 1.2 or 1.3"),
    ] {
        made.certificate("server", key, "sha256", Some("ca"));
        let server = made.server_with(flags);
        let message = refusal(&client(&made.options(&server)[..2]));
        let supported = "supported are TLS 1.2 and 1.3, and keys of RSA from 2048 bits";
        let is_named = message.contains(wanted) && message.contains(supported);
        assert!(is_named, "{key} {flags}: {message}");
    }
}

/// Without extensions `openssl x509` makes a certificate of version 1, which has none. Go's client and curl present it.
#[test]
fn a_client_certificate_of_version_1_is_presented_and_a_servers_is_refused_with_the_reason() {
    let made = Made::new();
    made.certificate("ca", "rsa:2048", "sha256", None);
    made.certificate("server", "rsa:2048", "sha256", Some("ca"));
    for (name, key) in [("rsa", "rsa:2048"), ("ec", "ec -pkeyopt ec_paramgen_curve:prime256v1")] {
        made.openssl(&format!(
            "req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        made.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 30 -out {name}.pem"
        ));
        for version in ["tls1_2", "tls1_3"] {
            let server = made.server(version);
            let given = |key: &str| {
                [
                    ("endpoint", Value::from(format!("https://127.0.0.1:{}", server.port))),
                    ("tls_ca_file", made.path("ca.pem").into()),
                    ("tls_cert_file", made.path(&format!("{name}.pem")).into()),
                    ("tls_key_file", made.path(&format!("{key}.key")).into()),
                ]
            };
            assert_eq!(get(&client(&given(name))).expect("an answer").value, "v".into());
            let message = refused(&given("server"));
            assert!(message.contains("server.key: not the key of"), "{message}");
        }
    }
    for file in ["rsa.pem", "rsa.key"] {
        fs::copy(made.path(file), made.path(&file.replace("rsa", "server"))).expect("a file");
    }
    let server = made.server_with("");
    let given = [
        ("endpoint", Value::from(format!("https://127.0.0.1:{}", server.port))),
        ("tls_ca_file", made.path("ca.pem").into()),
    ];
    let message = refusal(&client(&given));
    assert!(message.contains("is of version 1 of X.509"), "{message}");
}
