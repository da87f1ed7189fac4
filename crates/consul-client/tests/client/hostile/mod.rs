//! Servers and proxies that confuse answers: no value reaches a call that did not ask for it, and the
//! calls that follow succeed.

mod server;

use crate::support::{AT_ONCE, PATIENCE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use consul_api as wire;
use consul_api::api::{kv, raw};
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults, Request};
use consul_api::value::Value;
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, TlsOptions, blocking_read};
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use futures_util::FutureExt as _;
use server::{Asked, Server, Step, WAYS, Way};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

fn client(url: &str, timeout: Duration) -> Arc<Client> {
    let tls = TlsOptions { verify: false, ..TlsOptions::default() };
    let transport = HttpTransport::new(url, &Options { tls, ..Options::default() });
    let transport = Arc::new(transport.expect("a transport"));
    let settings = Settings { timeout, retry_count: 0, defaults: Defaults::default() };
    let rng = fastrand::Rng::with_seed(1);
    Arc::new(Client::new(vec![transport], settings, Arc::new(SystemClock::new()), rng))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn get(client: &Client, key: &str) -> Request {
    client.request(&kv::GET, &Args::new().arg(key)).expect("a request")
}

/// A request to which every answer is good, so that only the connection tells them apart.
fn get_raw(client: &Client, path: &str) -> Request {
    let endpoint = raw::endpoint("GET").expect("a method");
    client.request(endpoint, &Args::new().arg(path)).expect("a request")
}

/// Runs a call as the Lua binding does on the calling thread: with a short blocking read first.
fn run(runtime: &Runtime, client: &Client, request: &Request) -> Result<Value, Error> {
    let entered = runtime.enter();
    let mut call = Box::pin(client.execute(request));
    let outcome = blocking_read::allow(|| (&mut call).now_or_never());
    drop(entered);
    let success = outcome.unwrap_or_else(|| runtime.block_on(call))?;
    Ok(success.answer().value)
}

fn reply(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The list with the entry of a key, whose value is the key.
fn entries(key: &str) -> String {
    let value = BASE64.encode(key);
    format!(
        r#"[{{"LockIndex":0,"Key":"{key}","Flags":0,"Value":"{value}","CreateIndex":1,"ModifyIndex":1}}]"#
    )
}

fn good(asked: &Asked) -> String {
    reply("", &entries(asked.key()))
}

fn stray() -> String {
    reply("", &entries("stray"))
}

fn send(text: impl Into<Vec<u8>>) -> Step {
    Step::Send(text.into())
}

fn chunked(head: &str, chunks: &str) -> Step {
    send(format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"))
}

/// A kind of misbehaviour: its name, and what the server does about a request.
type Behaviour = (&'static str, fn(&Asked) -> Vec<Step>);

const PAUSE: Step = Step::Wait(Duration::from_millis(1));

const BEHAVIOURS: &[Behaviour] = &[
    ("a stray answer in the same segment", |asked| vec![send(good(asked) + &stray())]),
    ("a stray answer in its own segment", |asked| vec![send(good(asked)), send(stray())]),
    ("a late stray answer", |asked| vec![send(good(asked)), PAUSE, send(stray())]),
    ("a stray answer before the answer", |asked| vec![send(stray()), PAUSE, send(good(asked))]),
    ("many stray answers", |asked| vec![send(good(asked) + &stray().repeat(200))]),
    ("a doubled answer", |asked| vec![send(good(asked).repeat(2))]),
    ("a doubled answer in two segments", |asked| vec![send(good(asked)), send(good(asked))]),
    ("half an answer, then the end", |asked| {
        let answer = good(asked);
        vec![send(&answer[..answer.len() / 2]), Step::Close]
    }),
    ("half a stray answer", |asked| {
        vec![send(good(asked) + "HTTP/1.1 200 OK\r\nContent-Le"), PAUSE, send("ngth: 1\r\n\r\n5")]
    }),
    ("a dripping answer", |asked| {
        let bytes = good(asked).into_bytes();
        bytes.into_iter().map(|byte| Step::Send(vec![byte])).collect()
    }),
    ("interim answers before", |asked| {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n";
        vec![send(interim.to_owned() + &good(asked))]
    }),
    ("an interim answer after", |asked| {
        vec![send(good(asked)), send("HTTP/1.1 100 Continue\r\n\r\n")]
    }),
    ("another protocol", |_| {
        vec![send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), send(stray())]
    }),
    ("204 with a body", |_| {
        let body = entries("stray");
        let length = body.len();
        vec![send(format!("HTTP/1.1 204 No Content\r\nContent-Length: {length}\r\n\r\n{body}"))]
    }),
    ("204 with a body, and an answer in it", |_| {
        vec![send("HTTP/1.1 204 No Content\r\n\r\n"), PAUSE, send(stray())]
    }),
    ("304 with a body", |_| vec![send(stray().replace("200 OK", "304 Not Modified"))]),
    ("two lengths", |asked| vec![send(reply("Content-Length: 5\r\n", &entries(asked.key())))]),
    ("two lengths in one", |asked| {
        vec![send(good(asked).replace("Length: ", "Length: 5, ")), Step::Close]
    }),
    ("a length that is too short", |asked| {
        let body = entries(asked.key());
        let length = body.len() - 9;
        vec![send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"))]
    }),
    ("a length that spans two answers", |asked| {
        let both = entries(asked.key()) + &stray();
        vec![send(reply("", &both))]
    }),
    ("a length that is too long", |asked| {
        let text = good(asked).replace("Length: 1", "Length: 9");
        vec![send(text), Step::Close]
    }),
    ("chunks with extensions and trailers", |asked| {
        let body = entries(asked.key());
        let (first, second) = body.split_at(7);
        let length = second.len();
        let chunks =
            format!("7;a=\"b\"\r\n{first}\r\n{length:x} ; c\r\n{second}\r\n0;d\r\nE: f\r\n\r\n");
        vec![chunked("", &chunks)]
    }),
    ("an answer in a chunk's extension", |asked| {
        let (body, stray) = (entries(asked.key()), stray());
        let chunks = format!("{:x};{stray}\r\n{body}\r\n0\r\n\r\n", body.len());
        vec![chunked("", &chunks), Step::Close]
    }),
    ("an answer after the last chunk", |asked| {
        let body = entries(asked.key());
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n{}", body.len(), stray());
        vec![chunked("", &chunks)]
    }),
    ("chunks and a length", |asked| {
        let body = entries(asked.key());
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        vec![chunked("Content-Length: 3\r\n", &(chunks + &stray()))]
    }),
    ("a chunk without an end", |asked| {
        let body = entries(asked.key());
        vec![chunked("", &format!("{:x}\r\n{body}", body.len() + 40)), Step::Close]
    }),
    ("a close that is announced, and more", |asked| {
        vec![send(reply("Connection: close\r\n", &entries(asked.key())) + &stray())]
    }),
    ("a body until the end", |asked| {
        vec![send("HTTP/1.0 200 OK\r\n\r\n".to_owned() + &entries(asked.key())), Step::Close]
    }),
    ("silence and the end", |_| vec![Step::Close]),
    ("an answer and the end", |asked| vec![send(good(asked)), Step::Close]),
    ("another key's answer", |_| vec![send(stray())]),
    ("an answer about two keys", |asked| {
        let both = entries(asked.key()) + &entries("stray");
        vec![send(reply("", &both.replace("][", ",")))]
    }),
];

/// Calls of each behaviour.
const CALLS: usize = 15;

/// A server that misbehaves with the second of each three requests of a connection.
fn misbehaving(way: Way, (_, behaviour): Behaviour) -> Server {
    Server::new(way, move |asked| match asked.number % 3 {
        1 => behaviour(asked),
        _ => vec![send(good(asked))],
    })
}

/// Each call got its own value or an error, and some their value.
fn no_value_is_another_calls(what: &str, outcomes: &[(String, Result<Value, Error>)]) {
    for (key, outcome) in outcomes {
        if let Ok(value) = outcome {
            assert_eq!(*value, Value::from(key.as_str()), "{what}");
        }
    }
    let good = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert!(good >= outcomes.len() / 3, "{what}: {good} of {}: {outcomes:?}", outcomes.len());
}

fn keys() -> impl Iterator<Item = String> {
    (0..CALLS).map(|number| format!("k{number}"))
}

fn each_behaviour(test: impl Fn(&str, &Server, Arc<Client>)) {
    for way in WAYS {
        for behaviour in BEHAVIOURS {
            let server = misbehaving(way, *behaviour);
            let what = format!("{} ({way:?})", behaviour.0);
            test(&what, &server, client(&server.url, PATIENCE));
        }
    }
}

#[test]
fn one_after_the_other_no_call_gets_anothers_value() {
    each_behaviour(|what, _, client| {
        let runtime = runtime();
        let call = |key: String| {
            let outcome = run(&runtime, &client, &get(&client, &key));
            (key, outcome)
        };
        no_value_is_another_calls(what, &keys().map(call).collect::<Vec<_>>());
    });
}

#[test]
fn in_a_batch_no_call_gets_anothers_value() {
    each_behaviour(|what, _, client| {
        let runtime = runtime();
        // The second batch finds the connections of the first.
        for _ in 0..2 {
            let calls: Vec<_> = keys().map(|key| Ok(get(&client, &key))).collect();
            let outcomes = runtime.block_on(client.batch(&calls, 4, None));
            let values = outcomes.into_iter().map(|outcome| Ok(outcome?.answer().value));
            no_value_is_another_calls(what, &keys().zip(values).collect::<Vec<_>>());
        }
    });
}

#[test]
fn by_handles_no_call_gets_anothers_value() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    each_behaviour(|what, _, client| {
        let call = |key: String| {
            let client = Arc::clone(&client);
            let handle = runtime.spawn(async move {
                let success = client.execute(&get(&client, &key)).await;
                (key, success.map(|success| success.answer().value))
            });
            if fastrand::u8(..4) == 0 {
                handle.abort();
            }
            handle
        };
        let handles: Vec<_> = keys().map(call).collect();
        let outcomes = handles.into_iter().map(|handle| runtime.block_on(handle));
        no_value_is_another_calls(what, &outcomes.flatten().collect::<Vec<_>>());
    });
}

/// The bytes that can be left on a connection after a good answer, before the next request.
const LEFT_BEHIND: &[(&str, &str)] = &[
    ("an answer", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
    ("an absent key", "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1\r\nContent-Length: 0\r\n\r\n"),
    ("an interim answer", "HTTP/1.1 100 Continue\r\n\r\n"),
    ("an empty line", "\r\n"),
    ("half an answer", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nstr"),
];

#[test]
fn a_connection_with_something_left_on_it_is_not_used_again() {
    for way in WAYS {
        for (what, left) in LEFT_BEHIND {
            for in_one_segment in [true, false] {
                let server = Server::new(way, move |asked| match (reply("", &asked.path), left) {
                    (good, left) if in_one_segment => vec![send(good + left)],
                    (good, left) => vec![send(good), send(*left)],
                });
                let what = format!("{what}, {way:?}, in one segment: {in_one_segment}");
                let (client, runtime) = (client(&server.url, PATIENCE), runtime());
                for number in 1..=5 {
                    let path = format!("/v1/{number}");
                    let value = run(&runtime, &client, &get_raw(&client, &path)).expect(&what);
                    assert_eq!(value, path.into(), "{what}");
                    server.wait_until_done(number);
                }
                assert_eq!(server.connections(), 5, "{what}");
            }
        }
    }
}

#[test]
fn an_answer_about_another_key_fails_and_closes_its_connection() {
    for way in WAYS {
        let server = Server::new(way, |asked| match asked.key() {
            "k1" => vec![send(stray())],
            _ => vec![send(good(asked))],
        });
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        assert_eq!(run(&runtime, &client, &get(&client, "k0")).expect("an answer"), "k0".into());
        let error = run(&runtime, &client, &get(&client, "k1")).expect_err("another key");
        assert_eq!(error.kind(), Kind::Decode, "{error}");
        let said = r#"kv_get "k1": the answer is about the key "stray" "#;
        assert!(error.message().starts_with(said), "{error}");
        assert_eq!(server.connections(), 1);
        assert_eq!(run(&runtime, &client, &get(&client, "k2")).expect("an answer"), "k2".into());
        assert_eq!(server.connections(), 2, "{way:?}");
    }
}

#[test]
fn after_one_stray_answer_calls_in_a_row_get_their_own_values() {
    // The time after the good answer at which the stray one comes, in the middle of later calls.
    for micros in [0, 10, 40, 100] {
        let server = Server::new(Way::Tcp, move |asked| match (asked.connection, asked.number) {
            (0, 10) => {
                let wait = Step::Wait(Duration::from_micros(micros));
                vec![send(good(asked)), wait, send(stray())]
            }
            _ => vec![send(good(asked))],
        });
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        let mut failures = 0;
        for number in 0..300 {
            let key = format!("k{number}");
            match run(&runtime, &client, &get(&client, &key)) {
                Ok(value) => assert_eq!(value, key.into()),
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= 1, "{failures} calls failed");
    }
}

#[test]
fn an_answer_that_is_cut_anywhere_is_an_error() {
    for way in WAYS {
        let cut = Arc::new(AtomicUsize::new(0));
        let at = Arc::clone(&cut);
        let server = Server::new(way, move |asked| match asked.key() {
            "cut" => vec![send(&good(asked)[..at.load(Ordering::SeqCst)]), Step::Close],
            _ => vec![send(good(asked))],
        });
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        let whole = reply("", &entries("cut")).len();
        // The handshakes of TLS take their time.
        for length in (0..whole).step_by(if way == Way::Tls { 7 } else { 1 }) {
            cut.store(length, Ordering::SeqCst);
            let error = run(&runtime, &client, &get(&client, "cut")).expect_err("it is cut");
            assert_eq!(error.kind(), Kind::Connect, "{length}: {error}");
            let next = run(&runtime, &client, &get(&client, "k")).expect("an answer");
            assert_eq!(next, "k".into());
        }
    }
}

/// A way for a call to end before its answer.
type End = fn(&Runtime, &Client, &Request);

const LIMIT: Duration = Duration::from_millis(200);

const ENDS: [(&str, End); 3] = [
    ("timed out", |runtime, client, request| {
        let request = Request { timeout: Some(LIMIT), ..request.clone() };
        let error = run(runtime, client, &request).expect_err("no answer");
        assert_eq!(error.kind(), Kind::Timeout);
    }),
    ("cancelled", |runtime, client, request| {
        let call = client.execute(request);
        let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, call).await });
        assert!(ended.is_err());
    }),
    ("abandoned by its batch", |runtime, client, request| {
        let calls = [Ok(request.clone())];
        let outcomes = runtime.block_on(client.batch(&calls, 1, Some(LIMIT)));
        assert!(outcomes[0].is_err());
    }),
];

#[test]
fn the_connection_of_a_call_that_ended_early_is_closed() {
    let test = |way: Way, what: &str, end: End, sent: usize| {
        // The answer is late, or begins and is late.
        let server = Server::new(way, move |asked| {
            let answer = reply("", &asked.path);
            if asked.path != "/v1/late" {
                return vec![send(answer)];
            }
            let (begin, rest) = answer.split_at(sent.min(answer.len() - 1));
            vec![send(begin), Step::WaitForTest, send(rest)]
        });
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        let what = format!("{what}, {way:?}, {sent} bytes");
        let first = run(&runtime, &client, &get_raw(&client, "/v1/first")).expect(&what);
        assert_eq!(first, "/v1/first".into());
        end(&runtime, &client, &get_raw(&client, "/v1/late"));
        if server.count("GET /v1/late") == 0 {
            // The machine was too busy to send it.
            return;
        }
        server.go_on();
        server.wait_until_done(2);
        for wanted in ["/v1/second", "/v1/third"] {
            let value = run(&runtime, &client, &get_raw(&client, wanted)).expect(&what);
            assert_eq!(value, wanted.into(), "{what}");
            assert_eq!(server.last_connection(), Some(1), "{what}");
        }
    };
    thread::scope(|scope| {
        for way in WAYS {
            for (what, end) in ENDS {
                scope.spawn(move || [0, 30, 70].map(|sent| test(way, what, end, sent)));
            }
        }
    });
}

/// Answers that never stop to arrive: how they begin, and what is repeated.
const FLOODS: [(&str, &str); 2] = [
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
    ("HTTP/1.1 200 OK\r\n\r\n", "x"),
];

/// A server that floods the answer to the key `flood`.
fn flooding(way: Way, begin: &'static str, part: &'static str) -> Server {
    Server::new(way, move |asked| match asked.key() {
        "flood" => vec![send(begin), Step::Flood(part.repeat(4096).into())],
        _ => vec![send(good(asked))],
    })
}

#[test]
fn an_answer_that_never_stops_to_arrive_ends_with_its_call() {
    let test = |way: Way, what: &str, end: End, (begin, part): (&'static str, &'static str)| {
        let server = flooding(way, begin, part);
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        let what = format!("{part:?}, {what}, {way:?}");
        run(&runtime, &client, &get(&client, "k0")).expect(&what);
        let begun = Instant::now();
        end(&runtime, &client, &get(&client, "flood"));
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{what}: {took:?}");
        let next = run(&runtime, &client, &get(&client, "k1")).expect(&what);
        assert_eq!(next, "k1".into(), "{what}");
    };
    thread::scope(|scope| {
        for way in WAYS {
            scope.spawn(move || {
                for flood in FLOODS {
                    for (what, end) in ENDS {
                        test(way, what, end, flood);
                    }
                }
            });
        }
    });
}

#[test]
fn interim_answers_without_end_are_refused() {
    for way in WAYS {
        let server = flooding(way, "", "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n");
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        run(&runtime, &client, &get(&client, "k0")).expect("an answer");
        let begun = Instant::now();
        let request = Request { timeout: Some(LIMIT), ..get(&client, "flood") };
        run(&runtime, &client, &request).expect_err("no answer");
        assert!(begun.elapsed() < AT_ONCE, "{way:?}");
        run(&runtime, &client, &get(&client, "k1")).expect("an answer");
    }
}

#[test]
fn a_request_that_was_sent_on_a_kept_connection_is_not_sent_again_unnoticed() {
    let put = wire::endpoint("kv_put").expect("a method");
    for way in WAYS {
        for sent in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let server = Server::new(way, move |asked| match asked.method.as_str() {
                "PUT" => vec![Step::Read, send(sent), Step::Close],
                _ => vec![send(good(asked))],
            });
            let (client, runtime) = (client(&server.url, PATIENCE), runtime());
            for number in 1..=3 {
                run(&runtime, &client, &get(&client, "k")).expect("an answer");
                assert_eq!(server.connections(), number);
                let args = Args::new().arg("k").arg("value").opt("cas", 1);
                let cas = client.request(put, &args).expect("a request");
                let error = run(&runtime, &client, &cas).expect_err("no answer");
                assert!(error.maybe_applied() && error.attempts() == 1, "{error}");
                assert_eq!(server.count("PUT /v1/kv/k"), number, "{way:?}");
            }
        }
    }
}

#[test]
fn a_connection_with_a_part_of_a_request_on_it_is_not_used_again() {
    for way in WAYS {
        // It answers before it has read the request, and never reads the rest.
        let server = Server::new(way, |asked| match asked.method.as_str() {
            "PUT" => vec![send(reply("Connection: keep-alive\r\n", "true")), Step::Stall],
            _ => vec![send(good(asked))],
        });
        let (client, runtime) = (client(&server.url, PATIENCE), runtime());
        run(&runtime, &client, &get(&client, "k0")).expect("an answer");
        let put = wire::endpoint("kv_put").expect("a method");
        let args = Args::new().arg("k1").arg(vec![b'v'; 32 << 20]);
        let put = client.request(put, &args).expect("a request");
        assert_eq!(run(&runtime, &client, &put).expect("an answer"), Value::Bool(true));
        assert_eq!(run(&runtime, &client, &get(&client, "k2")).expect("an answer"), "k2".into());
        assert_eq!(server.connections(), 2, "{way:?}");
    }
}
