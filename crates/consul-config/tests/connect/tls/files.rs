//! The files that options of TLS name: which ones are read, and that they are read again.

use super::{World, client, client_with, files, get, refusal, works};
use crate::support::PATIENCE;
use crate::support::authority::{Authority, Folder, Identity};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_client::Client;
use rcgen::{CertificateParams, date_time_ymd};
use rustls::version::TLS13;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn only_regular_files_of_up_to_a_mebibyte_are_read() {
    let folder = Folder::new();
    let pipe = folder.path("pipe").to_str().expect("text").to_owned();
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let large = folder.file("large.pem", vec![b'\n'; (1 << 20) + 1]);
    let directory = folder.path("").to_str().expect("text").to_owned();
    let (certificate, key) = files(&folder, &Authority::new("authority").sign(&["client"]));
    for (path, why) in [
        (pipe.as_str(), "it is not a regular file but a pipe"),
        ("/dev/zero", "it is not a regular file but a character device"),
        (&directory, "it is not a regular file but a directory"),
        (&large, "it has more than 1048576 bytes"),
    ] {
        for option in ["tls_ca_file", "tls_cert_file", "tls_key_file"] {
            let mut given = vec![("endpoint", "https://127.0.0.1:1".into()), (option, path.into())];
            match option {
                "tls_cert_file" => given.push(("tls_key_file", key.clone())),
                "tls_key_file" => given.push(("tls_cert_file", certificate.clone())),
                _ => {}
            }
            // A client that waits for a pipe never returns.
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || sender.send(client_with(&given, &[]).err()));
            let error = receiver.recv_timeout(PATIENCE).expect("an answer").expect("an error");
            assert_eq!(error.kind(), Kind::Config);
            assert_eq!(error.message(), format!("{option}: {path}: {why}"));
        }
    }
}

/// Makes calls until one succeeds.
fn works_soon(client: &Client) {
    let begin = Instant::now();
    while let Err(error) = get(client) {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A server that demands certificates, and the options of a client whose connections serve one call.
fn demanding() -> (World, Vec<(&'static str, Value)>) {
    let world = World::serving(|authority| {
        authority.sign(&["127.0.0.1"]).server_of(Some(authority), &[&TLS13])
    });
    let given = vec![
        ("endpoint", world.url()),
        ("tls_ca_file", world.ca_file.as_str().into()),
        ("max_idle_connections", 0.into()),
    ];
    (world, given)
}

#[test]
fn a_new_certificate_is_used_once_both_of_its_files_are_there() {
    let (world, mut given) = demanding();
    let (certificate, key) = files(&world.folder, &Authority::new("old").sign(&["client"]));
    given.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    let client = client(&given);
    refusal(&client);
    let new = world.authority.sign(&["client"]);
    world.folder.file("client.pem", &new.certificate);
    thread::sleep(Duration::from_millis(1100));
    // The new certificate is not that of the old key, so both old ones stay in use.
    refusal(&client);
    world.folder.file("client.key", &new.key);
    works_soon(&client);
}

#[test]
fn a_new_authority_is_trusted() {
    let (world, mut given) = demanding();
    let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
    given.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    world.folder.file("ca.pem", Authority::new("another").pem());
    let client = client(&given);
    refusal(&client);
    world.folder.file("ca.pem", world.authority.pem());
    works_soon(&client);
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keys whose line ends are the two characters `\n`, as environment variables have them: alone, and after a certificate.
fn with_escaped_keys(identity: &Identity) -> [String; 4] {
    let escaped = identity.key.replace('\n', r"\n");
    let line = escaped.trim_end_matches(r"\n").to_owned();
    let certificate = &identity.certificate;
    [format!("{certificate}{escaped}"), format!("{certificate}{line}"), escaped, line]
}

/// The parts of a key that a message would show: its text, and its bytes as numbers.
fn shows_key(message: &str, identity: &Identity) -> bool {
    let body = identity.key.lines().nth(1).expect("a key");
    let numbers: Vec<_> = body.bytes().take(8).map(|byte| byte.to_string()).collect();
    message.contains(&body[..8]) || message.contains(&numbers.join(", "))
}

#[test]
fn no_option_shows_the_key_in_its_file() {
    let folder = Folder::new();
    let authorities = folder.file("ca.pem", Authority::new("authority").pem());
    let identity = Authority::new("authority").sign(&["client"]);
    let (certificate, key) = files(&folder, &identity);
    let names = ["tls_ca_file", "tls_ca_path", "tls_cert_file", "tls_key_file"];
    for text in with_escaped_keys(&identity) {
        let inner = folder.path("inner");
        std::fs::create_dir_all(&inner).expect("a folder");
        std::fs::write(inner.join("escaped.pem"), &text).expect("a file");
        let escaped = folder.file("escaped.pem", &text);
        for name in names {
            let mut given = vec![
                ("endpoint", "https://127.0.0.1:1".into()),
                ("tls_ca_file", authorities.as_str().into()),
                ("tls_cert_file", certificate.clone()),
                ("tls_key_file", key.clone()),
            ];
            given.retain(|(other, _)| *other != name);
            given.push((
                name,
                match name {
                    "tls_ca_path" => inner.to_str().expect("text").into(),
                    _ => escaped.as_str().into(),
                },
            ));
            // An own certificate that is whole before a broken key can be used.
            let Err(error) = client_with(&given, &[]) else { continue };
            assert!(!shows_key(&error.to_string(), &identity), "{name}: {error}");
            assert!(error.message().contains(r"the two characters \n"), "{name}: {error}");
        }
    }
}

#[test]
fn no_line_of_the_log_shows_the_key_in_a_file_that_changed() {
    let (world, mut given) = demanding();
    let identity = world.authority.sign(&["client"]);
    let (certificate, key) = files(&world.folder, &identity);
    given.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    let client = client(&given);
    let log = logged(|| {
        works(&client);
        for (file, text) in ["client.pem", "client.key", "ca.pem"]
            .into_iter()
            .flat_map(|file| with_escaped_keys(&identity).map(|text| (file, text)))
        {
            world.folder.file(file, &text);
            thread::sleep(Duration::from_millis(1100));
            works(&client);
        }
    });
    assert!(log.contains("TLS files") && !shows_key(&log, &identity), "{log}");
}

/// The lines that are logged meanwhile.
fn logged(work: impl FnOnce()) -> String {
    // With a single subscriber, tracing takes lines whose places other tests' threads reach first for
    // unwanted.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let log = log.0.lock().expect("the log").clone();
    String::from_utf8(log).expect("text")
}

#[test]
fn broken_files_change_nothing_and_are_logged_once() {
    let (world, mut given) = demanding();
    let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
    given.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    let client = client(&given);
    let log = logged(|| {
        works(&client);
        for broken in [&world.authority.pem()[..100], "", "-----BEGIN"] {
            world.folder.file("ca.pem", broken);
            thread::sleep(Duration::from_millis(1100));
            works(&client);
        }
        world.folder.file("ca.pem", world.authority.pem());
        thread::sleep(Duration::from_millis(1100));
        works(&client);
    });
    let lines: Vec<_> = log.lines().filter(|line| line.contains("TLS files")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains("WARN") && line.contains("tls_ca_file: "), "{line}");
}

/// The client's own certificate and those that signed it end with the first of them, and its trust with the last authority.
#[test]
fn the_certificates_that_expire_first_are_known() {
    let until = |year| move |it: &mut CertificateParams| it.not_after = date_time_ymd(year, 1, 1);
    let authority = |year| Authority::new_changed(&format!("of {year}"), until(year));
    let (old, new) = (authority(2031), authority(2041));
    let intermediate = new.intermediate(until(2033));
    let of_intermediate = intermediate.sign_changed(&["client"], until(2035));
    let chain = format!("{}{}", of_intermediate.certificate, intermediate.pem());
    // Another certificate of the same authority, a root and a stranger that have ended end nothing.
    let ended = |it: &mut CertificateParams| it.not_after = date_time_ymd(2020, 1, 1);
    let stranger = Authority::new_changed("a stranger", ended);
    let crossed = stranger.intermediate(ended);
    let root = Authority::new_changed("of 2041", ended);
    let superfluous = format!("{chain}{}{}{}", crossed.pem(), root.pem(), stranger.pem());
    let superfluous = Identity { certificate: superfluous, key: of_intermediate.key.clone() };
    let chained = Identity { certificate: chain, key: of_intermediate.key };
    let (soon, late) = (until(2035), until(2051));
    let (soon, late) = (new.sign_changed(&["c"], soon), new.sign_changed(&["c"], late));
    let folder = Folder::new();
    let one = folder.file("one.pem", old.pem());
    let both = folder.file("both.pem", old.pem() + &new.pem());
    let path = Folder::new();
    path.file("a.pem", old.pem());
    path.file("b.pem", new.pem());
    let path = path.path("").to_str().expect("text").to_owned();
    let token = folder.file("token", "t");
    let (of_cert, of_ca, of_path) = ("tls_cert_file", "tls_ca_file", "tls_ca_path");
    let trust = |option: &'static str, file: &str| vec![(option, Value::from(file))];
    for (trust, own, expected) in [
        (trust(of_ca, &one), None, Some((2031, of_ca))),
        (trust(of_ca, &both), None, Some((2041, of_ca))),
        (trust(of_path, &path), None, Some((2041, of_path))),
        (trust(of_ca, &both), Some(&soon), Some((2035, of_cert))),
        (trust(of_ca, &both), Some(&chained), Some((2033, of_cert))),
        (trust(of_ca, &both), Some(&superfluous), Some((2033, of_cert))),
        (trust(of_ca, &both), Some(&late), Some((2041, of_ca))),
        (trust(of_ca, &one), Some(&soon), Some((2031, of_ca))),
        (vec![("tls_verify", false.into())], Some(&soon), Some((2035, of_cert))),
        (vec![("tls_verify", false.into())], None, None),
    ] {
        let mut given = trust;
        if let Some(own) = own {
            let (certificate, key) = files(&folder, own);
            given.extend([(of_cert, certificate), ("tls_key_file", key)]);
        }
        for has_token_file in [false, true] {
            let endpoint = ("endpoint", Value::from("https://127.0.0.1:1"));
            let mut given = [vec![endpoint], given.clone()].concat();
            given.extend(has_token_file.then(|| ("token_file", token.as_str().into())));
            let found = client(&given).expiry().map(|it| (it.at_s as i64, it.option));
            let expected =
                expected.map(|(year, option)| (date_time_ymd(year, 1, 1).unix_timestamp(), option));
            assert_eq!(found, expected, "{given:?}");
        }
    }
    assert_eq!(client(&[("endpoint", "http://127.0.0.1:1".into())]).expiry(), None);
}

/// A file that is renewed counts, also for an endpoint that no call asks.
#[test]
fn a_renewed_certificate_expires_later() {
    let authority = Authority::new("authority");
    let until = |year| move |it: &mut CertificateParams| it.not_after = date_time_ymd(year, 1, 1);
    let folder = Folder::new();
    let (certificate, key) = files(&folder, &authority.sign_changed(&["client"], until(2031)));
    let client = client(&[
        (
            "endpoints",
            Value::List(vec!["https://127.0.0.1:1".into(), "https://127.0.0.2:1".into()]),
        ),
        ("tls_cert_file", certificate),
        ("tls_key_file", key),
        ("tls_verify", false.into()),
    ]);
    let ends = || client.expiry().map(|it| it.at_s as i64);
    let start_of = |year| Some(date_time_ymd(year, 1, 1).unix_timestamp());
    assert_eq!(ends(), start_of(2031));
    files(&folder, &authority.sign_changed(&["client"], until(2041)));
    let begun = Instant::now();
    while ends() != start_of(2041) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", ends());
        thread::sleep(Duration::from_millis(50));
    }
}
