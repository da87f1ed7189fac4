//! The connections of a client: kept, bounded and closed as the configuration says.

use crate::support::PATIENCE;
use crate::support::answering::Server;
use consul_api as wire;
use consul_api::error::Kind;
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_config::Config;
use consul_config::connect::connect;
use futures_util::future::{join, join_all};
use std::future::Future;
use std::time::{Duration, Instant};

fn client(server: &Server, options: &[(&str, u64)]) -> Client {
    let options = options.iter().map(|(name, value)| (*name, Value::from(*value)));
    client_with(server, &options.collect::<Vec<_>>())
}

fn client_with(server: &Server, options: &[(&str, Value)]) -> Client {
    let mut given = vec![("endpoint".to_owned(), Value::from(server.address.as_str()))];
    given.extend(options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    connect(&Config::new(&given, |_| None).expect("a configuration")).expect("a client")
}

async fn get(client: &Client) {
    let get = wire::endpoint("kv_get").expect("a method");
    client.call(get, &Args::new().arg("k")).await.expect("an answer");
}

/// Runs as a client of Lua does: on the calling thread.
fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work);
}

/// Waits until this number of connections is open.
fn wait_for_open(server: &Server, wanted: usize) {
    let limit = Instant::now() + PATIENCE;
    while server.open() != wanted {
        assert!(Instant::now() < limit, "{} connections are open, not {wanted}", server.open());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ten_thousand_calls_one_after_the_other_use_one_connection() {
    let server = Server::plain();
    let client = client(&server, &[]);
    run(async {
        for _ in 0..10_000 {
            get(&client).await;
        }
    });
    assert_eq!((server.connections(), server.heads().len()), (1, 10_000));
}

#[test]
fn a_connection_that_was_idle_for_too_long_is_closed_and_not_used_again() {
    let server = Server::plain();
    let client = client(&server, &[("idle_timeout_ms", 2500)]);
    run(async {
        get(&client).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        get(&client).await;
        assert_eq!(server.connections(), 1);
        // It is closed while the client waits for something else.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.open(), 1);
        let limit = Instant::now() + PATIENCE;
        while server.open() != 0 {
            assert!(Instant::now() < limit, "it is still open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        get(&client).await;
        assert_eq!(server.connections(), 2);
    });
}

#[test]
fn a_client_that_rested_closes_its_idle_connections_at_the_next_call() {
    let (server, other) = (Server::plain(), Server::plain());
    let list = [&server, &other].map(|server| Value::from(server.address.as_str()));
    let given = [
        ("endpoints".to_owned(), Value::List(list.to_vec())),
        ("idle_timeout_ms".to_owned(), 100.into()),
    ];
    let client = connect(&Config::new(&given, |_| None).expect("a configuration")).expect("one");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    runtime.block_on(get(&client));
    // Like an idle Lua program: nothing drives the runtime.
    std::thread::sleep(Duration::from_millis(300));
    runtime.block_on(get(&client));
    assert_eq!(server.connections(), 2);
    wait_for_open(&server, 1);
}

#[test]
fn no_more_connections_are_kept_than_the_configuration_says() {
    // Slow enough for all requests to be under way at once on a busy machine.
    let server = Server::slow(Duration::from_millis(1000));
    let client = client(&server, &[("max_idle_connections", 2)]);
    run(async {
        join_all((0..5).map(|_| get(&client))).await;
        assert_eq!(server.connections(), 5);
        tokio::time::sleep(Duration::from_millis(50)).await;
        wait_for_open(&server, 2);
    });
}

#[test]
fn a_closed_client_keeps_no_connection_and_its_running_calls_end() {
    let (quick, slow) = (Server::plain(), Server::slow(Duration::from_millis(500)));
    for server in [&quick, &slow] {
        let clients: Vec<_> = (0..20).map(|_| client(server, &[])).collect();
        run(async {
            join_all(clients.iter().map(get)).await;
            wait_for_open(server, 20);
            let running = join_all(clients.iter().map(get));
            let close = async {
                // The calls have begun.
                tokio::task::yield_now().await;
                clients.iter().for_each(Client::close_connections);
            };
            join(running, close).await;
            wait_for_open(server, 0);
            // Requests that a closed client still has to send are sent.
            get(&clients[0]).await;
            wait_for_open(server, 0);
        });
    }
}

#[test]
fn no_more_requests_are_under_way_than_the_configuration_says() {
    let server = Server::slow(Duration::from_millis(150));
    let client = client(&server, &[("max_connections", 3)]);
    run(async {
        join_all((0..30).map(|_| get(&client))).await;
    });
    assert_eq!((server.connections(), server.heads().len()), (3, 30));
}

#[test]
fn a_request_that_gets_no_turn_says_why_and_was_not_sent() {
    let server = Server::slow(Duration::from_secs(3));
    let options = [
        ("max_connections", 1),
        ("connect_timeout_ms", 400),
        ("retry_count", 0),
        ("timeout", 10_000),
    ];
    let client = client(&server, &options);
    run(async {
        let get_late = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let get = wire::endpoint("kv_get").expect("a method");
            client.call(get, &Args::new().arg("k")).await.expect_err("the other one is under way")
        };
        let ((), error) = join(get(&client), get_late).await;
        assert_eq!((error.kind(), error.maybe_applied()), (Kind::Timeout, false), "{error}");
        assert!(error.message().contains("max_connections is 1"));
    });
}

#[test]
fn times_that_no_clock_can_show_are_as_good_as_none() {
    // Close to the maximum of an option: 2^64 seconds.
    const LONGEST_MS: f64 = 1.844e22;
    let server = Server::plain();
    for name in ["timeout", "connect_timeout_ms", "idle_timeout_ms"] {
        let client = client_with(&server, &[(name, LONGEST_MS.into())]);
        run(async {
            get(&client).await;
            get(&client).await;
        });
    }
}

#[test]
fn a_connection_is_used_again_by_another_runtime() {
    let server = Server::plain();
    let client = client(&server, &[]);
    for _ in 0..3 {
        run(get(&client));
    }
    assert_eq!(server.connections(), 1);
}
