//! The files that options of TLS name: which ones are read, and that they are read again.

use super::{World, client, client_with, files, get, refusal, works};
use crate::support::authority::{Authority, Folder};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_client::Client;
use rustls::version::TLS13;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A bound that a busy machine keeps.
const LONG: Duration = Duration::from_secs(60);

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
            let error = receiver.recv_timeout(LONG).expect("an answer").expect("an error");
            assert_eq!(error.kind(), Kind::Config);
            assert_eq!(error.message(), format!("{option}: {path}: {why}"));
        }
    }
}

/// Makes calls until one succeeds.
fn works_soon(client: &Client) {
    let begin = Instant::now();
    while let Err(error) = get(client) {
        assert!(begin.elapsed() < LONG, "{error}");
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

#[test]
fn broken_files_change_nothing_and_are_logged_once() {
    let (world, mut given) = demanding();
    let (certificate, key) = files(&world.folder, &world.authority.sign(&["client"]));
    given.extend([("tls_cert_file", certificate), ("tls_key_file", key)]);
    let client = client(&given);
    // With a single subscriber, tracing takes lines whose places other tests' threads reach first for
    // unwanted.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
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
    let log = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("TLS files")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains("WARN") && line.contains("tls_ca_file: "), "{line}");
}
