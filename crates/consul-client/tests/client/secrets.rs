//! A broken answer with a secret in it leaves no trace of the secret: not in the error, its Debug
//! text or the log.

use crate::methods::sample;
use bytes::Bytes;
use consul_api::api::raw;
use consul_api::error::Error;
use consul_api::request::{Args, Defaults};
use consul_api::table::Endpoint;
use consul_api::{endpoint, endpoints};
use consul_client::transport::Transport;
use consul_client::{Client, Settings};
use consul_process::clock::{BoxFuture, SystemClock};
use http::{Request, Response};
use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level};

const SECRET: &str = "s3cret";

/// Every method whose answer can hold a secret, and the secret.
const HOLD_SECRETS: &[(&str, &str)] = &[
    ("agent_connect_ca_leaf", "a certificate's private key"),
    ("acl_bootstrap", "a token"),
    ("acl_login", "a token"),
    ("acl_token_list", "tokens"),
    ("acl_token_self", "a token"),
    ("acl_token_create", "a token"),
    ("acl_token_read", "a token"),
    ("acl_token_update", "a token"),
    ("acl_token_clone", "a token"),
    ("acl_auth_method_list", "client secrets and tokens of authorities"),
    ("acl_auth_method_create", "client secrets and tokens of authorities"),
    ("acl_auth_method_read", "client secrets and tokens of authorities"),
    ("acl_auth_method_update", "client secrets and tokens of authorities"),
    ("query_list", "the token of a query"),
    ("query_read", "the token of a query"),
    ("query_explain", "the token of a query"),
    ("config_list", "private keys of inline certificates"),
    ("config_read", "private keys of inline certificates"),
    ("connect_ca_configuration", "a private key, or a token for Vault"),
    ("connect_ca_configuration_update", "what the caller sent, which an error may repeat"),
    ("operator_keyring_list", "gossip keys"),
    ("snapshot_save", "all of the above"),
    ("peering_token", "a peering token"),
];

/// Statuses, content types and bodies of broken answers.
const BROKEN: &[(u16, &str, &str)] = &[
    (200, "application/json", r#"[{"SecretID": "s3cret", "PeeringToken": "s3cret""#),
    (200, "application/json", r#"{"Keys": "s3cret"} s3cret"#),
    (200, "application/json", r#"s3cret"#),
    (200, "text/html", "<html>s3cret</html>"),
    (500, "application/json", r#" {"SecretID": "s3cret"}"#),
    (500, "application/json", r#"["s3cret"]"#),
    (403, "text/plain", "-----BEGIN EC PRIVATE KEY-----\ns3cret"),
];

/// A server that gives one answer to every request.
#[derive(Clone, Debug)]
struct Always(u16, &'static str, &'static str);

impl Always {
    fn response(&self) -> Response<Bytes> {
        let response = Response::builder().status(self.0).header("content-type", self.1);
        response.body(Bytes::from_static(self.2.as_bytes())).expect("a response")
    }
}

impl Transport for Always {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async { Ok(self.response()) })
    }

    fn endpoint(&self) -> &str {
        "always"
    }
}

/// The log as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("the log")).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn samples(endpoint: &Endpoint) -> Args {
    let required = endpoint.positional.iter().filter(|param| !param.optional);
    required.fold(Args::new(), |args, param| args.arg(sample(param)))
}

/// The traces that a call leaves behind.
struct Traces {
    /// Of a failed call, all texts about it, with the log.
    failure: Option<String>,
    /// The whole log.
    log: String,
}

/// A second subscriber. If there is one alone, a place in the code whose first line arises on a thread without it, in
/// another test, has none of its lines.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

fn traces(endpoint: &'static Endpoint, args: &Args, answer: &Always) -> Traces {
    LazyLock::force(&SECOND);
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    let request = endpoint.request(args, &Defaults::default()).expect("good arguments");
    let checked = format!("{:?} {:?}", request.check(answer.response()), request);
    let error = tracing::subscriber::with_default(subscriber, || {
        let settings = Settings {
            timeout: Duration::from_secs(5),
            retry_count: 0,
            defaults: Defaults::default(),
        };
        let clock = Arc::new(SystemClock::new());
        let rng = fastrand::Rng::with_seed(1);
        let client = Client::new(vec![Arc::new(answer.clone())], settings, clock, rng);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(client.call(endpoint, args)).err()
    });
    let log = log.text();
    assert!(log.contains(endpoint.name), "nothing was logged of {}", endpoint.name);
    let failure = error.map(|error| format!("{error} {error:?} {checked} {log}"));
    Traces { failure, log }
}

#[test]
fn the_rows_of_answers_with_secrets_say_so() {
    let marked: Vec<_> = endpoints().filter(|row| row.secret).map(|row| row.name).collect();
    let known: Vec<_> = HOLD_SECRETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(marked, known);
}

#[test]
fn a_broken_answer_is_quoted_unless_its_row_says_that_it_holds_a_secret() {
    let mut wrong = Vec::new();
    for endpoint in endpoints() {
        let args = samples(endpoint);
        let mut failures = 0;
        for (status, kind, body) in BROKEN {
            let traces = traces(endpoint, &args, &Always(*status, kind, body));
            assert!(!endpoint.secret || !traces.log.contains(SECRET), "{}", traces.log);
            let Some(failure) = traces.failure else { continue };
            failures += 1;
            if failure.contains(SECRET) == endpoint.secret {
                wrong.push(format!("{}: {status} {body}: {failure}", endpoint.name));
            }
        }
        assert!(failures >= 3, "{}: {failures}", endpoint.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_good_answer_is_not_logged() {
    for endpoint in endpoints() {
        let args = samples(endpoint);
        for body in [r#"{"SecretID": "s3cret"}"#, r#"[{"SecretID": "s3cret"}]"#, r#""s3cret""#] {
            let Traces { failure, log } =
                traces(endpoint, &args, &Always(200, "application/json", body));
            assert!(failure.is_some() || !log.contains(SECRET), "{}: {log}", endpoint.name);
        }
    }
}

#[test]
fn any_request_is_as_secret_as_the_path_that_it_is_for() {
    let row = raw::endpoint("GET").expect("the row for any GET");
    let answer = Always(500, "application/json", r#"{"SecretID": "s3cret"}"#);
    for (path, is_secret) in [
        ("/v1/catalog/nodes", false),
        ("/v1/kv/a/b?raw", false),
        ("/v1/peering/token", true),
        ("/v1/acl/token/self?x=/v1/kv/a", true),
        ("/v1/acl/token/1b6ae1a2-0000", true),
        ("/v1/acl/tokens/", true),
        ("/v1/acl/%74okens", true),
        ("/v1/internal/ui/services", true),
        ("/v1/kv", true),
        ("/", true),
    ] {
        let failure = traces(row, &Args::new().arg(path), &answer).failure.expect("an error");
        assert_eq!(failure.contains(SECRET), !is_secret, "{path}: {failure}");
    }
}

#[test]
fn the_log_names_a_call_by_its_path_without_its_arguments() {
    for (status, body) in [
        (200, r#"[{"Key":"planted/key","Value":"cGxhbnRlZA=="}]"#),
        (200, r#"[{"Key":"planted/key","Value":"cGxhbnRlZA"#),
        (403, "Permission denied: token lacks permission 'key:read' on \"planted/key\""),
        (500, "there is no planted/key."),
        (404, "<html>Cannot GET /v1/kv/planted/key</html>"),
    ] {
        let get = endpoint("kv_get").expect("the method");
        let args = Args::new().arg("planted/key").opt("dc", "planted-dc");
        let log = traces(get, &args, &Always(status, "application/json", body)).log;
        assert!(log.contains("GET /v1/kv/{key}"), "{log}");
        assert!(!log.contains("planted") && !log.contains("cGxhbnRlZA"), "{log}");
    }
}

#[test]
fn a_refusal_is_quoted_even_where_an_answer_would_hold_a_secret() {
    let refusal = Always(403, "text/plain", "Permission denied: token lacks acl:read");
    let list = endpoint("acl_token_list").expect("the method");
    let failure = traces(list, &Args::new(), &refusal).failure.expect("an error");
    assert!(failure.contains("lacks acl:read"), "{failure}");
}
