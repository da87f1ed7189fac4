//! Answers of servers for which the tests have no program: old versions, tokens that end, watches that
//! are ended.

use super::*;
use consul_process::clock::{BoxFuture, Instant, ManualClock, SystemClock};
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::Value;

/// The status and the parts of an answer to a path with a token and a body.
type Answers = fn(&str, Option<&str>, &Value) -> (u16, String);

struct Canned(Answers);

impl fmt::Debug for Canned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canned")
    }
}

impl Streaming for Canned {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let token = request.headers().get("authorization").map(|token| token.to_str().unwrap());
        let body = serde_json::from_slice(request.body()).unwrap_or_default();
        let (status, said) = (self.0)(request.uri().path(), token, &body);
        let location = said.strip_prefix("Location: ").map(|to| to.parse().unwrap());
        let parts: Parts = Box::pin(stream::iter([Ok(said.into())]));
        let mut answer = Response::builder().status(status).body(parts).unwrap();
        answer.headers_mut().extend(location.map(|to| (LOCATION, to)));
        // A token stands for what is before the server.
        if let Some(coding) = token.filter(|token| *token == "gzip" || *token == "identity") {
            answer.headers_mut().insert(CONTENT_ENCODING, coding.parse().unwrap());
        }
        Box::pin(async move { Ok(answer) })
    }

    fn endpoint(&self) -> &str {
        "canned"
    }
}

const HEADER: &str = r#"{"header":{"cluster_id":"7","revision":"3"}}"#;

fn etcd(answers: Answers, has_user: bool) -> Etcd {
    let login = Login { name: "reader".to_owned(), password: "p".to_owned() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let limit = Duration::from_secs(60);
    Etcd::new(
        vec![Arc::new(Canned(answers))],
        has_user.then_some(login),
        clock,
        limit,
        Duration::ZERO,
    )
}

fn run<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn failed<R: fmt::Debug>(result: Result<R, Refused>) -> Error {
    match result {
        Err(Refused::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn status(etcd: &Etcd) -> Result<Status, Refused> {
    etcd.status(&Bytes::from_static(b"a")).await
}

#[test]
fn a_gateway_of_3_3_is_found() {
    let answers: Answers = |path, _, _| match path {
        "/v3beta/maintenance/status" | "/v3beta/kv/range" => (200, HEADER.to_owned()),
        _ => (404, "404 page not found".to_owned()),
    };
    assert_eq!(run(status(&etcd(answers, false))).unwrap().cluster_id, "7");
}

/// A proxy compresses each answer, a refusal and a watch, too.
#[test]
fn an_answer_that_is_compressed_is_named_so() {
    let answers: Answers = |path, _, body| match path {
        "/v3/maintenance/status" => (200, "{}".to_owned()),
        "/v3/auth/authenticate" => (200, format!(r#"{{"token":{}}}"#, CODING.get())),
        "/v3/kv/range" if body["count_only"] == true => (STATUS.get(), HEADER.to_owned()),
        _ => (STATUS.get(), "\u{1f}\u{8b}".to_owned()),
    };
    thread_local! {
        static CODING: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
        static STATUS: std::cell::Cell<u16> = const { std::cell::Cell::new(200) };
    }
    CODING.set("\"identity\"");
    assert_eq!(run(status(&etcd(answers, true))).unwrap().cluster_id, "7");
    for status_of_answer in [200, 400, 503] {
        CODING.set("\"gzip\"");
        STATUS.set(status_of_answer);
        let (all, key) = (Range::prefix(b""), Bytes::from_static(b"a"));
        let etcd = etcd(answers, true);
        for error in [
            failed(run(status(&etcd))),
            failed(run(etcd.get(&key, 0))),
            failed(run(etcd.watch(&all, 1)).map(|_| ())),
        ] {
            assert!(error.message().contains("Content-Encoding: gzip"), "{error}");
            assert_eq!(error.kind(), Kind::Decode, "{error}");
        }
    }
}

/// A server of the cluster 7 by HTTP, and of this one by gRPC.
#[derive(Debug)]
struct Mixed(u8);

impl Streaming for Mixed {
    fn open(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let parts: Parts = Box::pin(stream::iter([Ok(HEADER.into())]));
        Box::pin(async move { Ok(Response::new(parts)) })
    }

    fn call<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a str>,
        _: &'a [u8],
    ) -> BoxFuture<'a, Option<Bytes>> {
        let (header, kv) = ([10, 4, 8, self.0, 24, 3], [18, 6, 10, 1, b'a', 42, 1, b'x']);
        Box::pin(async move { Some([&header[..], &kv, &[32, 1]].concat().into()) })
    }

    fn endpoint(&self) -> &str {
        "mixed"
    }
}

#[test]
fn a_key_of_another_cluster_is_not_taken_by_grpc_either() {
    for (cluster, is_taken) in [(7, true), (8, false)] {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let servers = vec![Arc::new(Mixed(cluster)) as _];
        let etcd = Etcd::new(servers, None, clock, Duration::from_secs(60), Duration::ZERO);
        run(status(&etcd)).unwrap();
        let found = run(etcd.get(&Bytes::from_static(b"a"), 0)).unwrap();
        assert_eq!(found.is_some(), is_taken, "{found:?}");
    }
}

/// No smaller page divides the value of one key.
#[test]
fn an_answer_with_one_key_may_be_larger_than_a_page() {
    let answers: Answers = |_, _, _| {
        let value = "A".repeat(MAX_ANSWER + 4 - MAX_ANSWER % 4);
        let header = r#"{"cluster_id":"7","revision":"3"}"#;
        (
            200,
            format!(
                r#"{{"header":{header},"kvs":[{{"key":"YQ==","value":"{value}"}}],"count":"1"}}"#
            ),
        )
    };
    let (etcd, key) = (etcd(answers, false), Bytes::from_static(b"a"));
    assert!(run(etcd.get(&key, 0)).unwrap().unwrap().size() > MAX_ANSWER / 2);
    let all = Range::prefix(b"");
    assert!(matches!(run(etcd.range(&all, 2, 0)), Err(Refused::TooLarge)));
}

#[test]
fn a_server_with_only_the_api_v2_is_named() {
    let answers: Answers = |path, _, _| match path {
        "/version" => (200, r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#.to_owned()),
        _ => (404, "404 page not found".to_owned()),
    };
    let error = failed(run(status(&etcd(answers, false))));
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.message().contains("etcd 2.3.8, which has only the API v2"), "{error}");
}

/// The answers of a gateway of etcd 3.4 to 3.7, or of a proxy, while a server stops, starts, or has no leader.
#[test]
fn what_a_server_says_while_it_restarts_is_repeated() {
    const SAID: [(u16, &str); 12] = [
        (408, r#"{"error":"grpc: the client connection is closing","code":1}"#),
        (499, r#"{"code":1,"message":"grpc: the client connection is closing"}"#),
        (408, r#"{"error":"context canceled","code":1}"#),
        (503, r#"{"error":"transport is closing","code":14}"#),
        (503, r#"{"error":"etcdserver: server stopped","code":14}"#),
        (504, r#"{"error":"context deadline exceeded","code":4}"#),
        (503, r#"{"error":"etcdserver: leader changed","code":14}"#),
        (502, "<html>Bad Gateway</html>"),
        (429, "<html>Too Many Requests</html>"),
        (429, "local_rate_limited"),
        (500, "<html>Internal Server Error</html>"),
        (521, ""),
    ];
    thread_local!(static PLACE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    for (place, (status, text)) in SAID.into_iter().enumerate() {
        PLACE.set(place);
        let answers: Answers = |_, _, _| {
            let (status, text) = SAID[PLACE.get()];
            (status, text.to_owned())
        };
        let error = failed(run(etcd(answers, false).revision(&Bytes::from_static(b"a"))));
        assert!(
            error.is_retryable() && error.kind().exit_status() == 3,
            "{status} {text}: {error:?}"
        );
    }
}

#[test]
fn a_user_is_not_needed_where_etcd_has_none() {
    let answers: Answers = |path, token, _| match path {
        "/v3/auth/authenticate" => {
            (400, r#"{"message":"etcdserver: authentication is not enabled","code":9}"#.to_owned())
        }
        _ => (200, format!("{}{}", HEADER, if token.is_some() { "token" } else { "" })),
    };
    run(status(&etcd(answers, true))).unwrap();
}

/// `old` is a token that has ended.
fn with_tokens(path: &str, token: Option<&str>, _: &Value) -> (u16, String) {
    use std::sync::atomic::{AtomicBool, Ordering};
    thread_local!(static IS_OLD: AtomicBool = const { AtomicBool::new(true) });
    match (path, token) {
        ("/v3/maintenance/status", _) => (200, HEADER.to_owned()),
        ("/v3/auth/authenticate", _) => {
            let is_old = IS_OLD.with(|is_old| is_old.swap(false, Ordering::Relaxed));
            (200, format!(r#"{{"token":"{}"}}"#, if is_old { "old" } else { "new" }))
        }
        ("/v3/watch", Some("old")) => (
            200,
            "{\"result\":{\"canceled\":true,\"cancel_reason\":\"permission denied\"}}\n".to_owned(),
        ),
        ("/v3/watch", Some("new")) => (
            200,
            "{\"result\":{\"events\":[{\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"4\"}}]}}\n"
                .to_owned(),
        ),
        (_, Some("new")) => (200, HEADER.to_owned()),
        _ => (401, r#"{"message":"etcdserver: invalid auth token","code":16}"#.to_owned()),
    }
}

#[test]
fn a_token_that_has_ended_is_renewed() {
    let (_, revision) = run(etcd(with_tokens, true).count(&Range::prefix(b""), 0)).unwrap();
    assert_eq!(revision, 3);
}

/// After each change of a role a JSON Web Token is old; releases say it otherwise.
#[test]
fn each_refusal_of_an_old_token_is_known() {
    for (status, body) in [
        (401, r#"{"message":"etcdserver: invalid auth token","code":16}"#),
        (400, r#"{"message":"etcdserver: revision of auth store is old","code":3}"#),
        (500, r#"{"error":"auth: revision in header is old","code":2}"#),
    ] {
        let refusal: Refusal = serde_json::from_str(body).unwrap();
        assert!(is_old_token(status, &refusal), "{body}");
    }
    let denied = r#"{"message":"etcdserver: permission denied","code":7}"#;
    assert!(!is_old_token(403, &serde_json::from_str(denied).unwrap()));
}

/// Users change while a program logs in again, so that also the new token is old.
#[test]
fn a_new_token_that_is_old_already_is_asked_for_again() {
    const OLD: [(u16, &str); 3] = [
        (401, r#"{"message":"etcdserver: invalid auth token","code":16}"#),
        (400, r#"{"message":"etcdserver: revision of auth store is old","code":3}"#),
        (500, r#"{"error":"auth: revision in header is old","code":2}"#),
    ];
    for (status, body) in OLD {
        SAID.set((status, body));
        let answers: Answers = |path, _, _| says(path, "kv/range");
        let error = failed(run(etcd(answers, true).count(&Range::prefix(b""), 0)));
        assert!(error.is_retryable(), "{error}");
    }
}

/// A watch with such a token is denied as one without the right.
#[test]
fn a_token_is_renewed_before_a_watch() {
    let etcd = etcd(with_tokens, true);
    let changes = run(async { etcd.watch(&Range::prefix(b""), 4).await?.next().await }).unwrap();
    assert_eq!(changes.events.len(), 1);
}

/// The error of a watch that has this line.
fn ended(line: &'static str) -> Error {
    failed(told(line))
}

/// The first message of a watch with this line alone.
fn told(line: &'static str) -> Result<Changes, Refused> {
    thread_local!(static LINE: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") });
    LINE.set(line);
    let answers: Answers = |path, _, _| match path {
        "/v3/watch" => (200, format!("{}\n", LINE.get())),
        _ => (200, HEADER.to_owned()),
    };
    let etcd = etcd(answers, false);
    run(async { etcd.watch(&Range::prefix(b""), 4).await?.next().await })
}

#[test]
fn a_watch_that_is_denied_is_an_error_and_not_an_end() {
    for line in [
        r#"{"result":{"canceled":true,"cancel_reason":"rpc error: code = PermissionDenied desc = etcdserver: permission denied"}}"#,
        r#"{"result":{"created":true,"canceled":true}}"#,
    ] {
        let error = ended(line);
        assert!(error.kind() == Kind::PermissionDenied && !error.is_retryable(), "{error}");
    }
    let error = ended(r#"{"result":{"canceled":true,"cancel_reason":"mvcc: future"}}"#);
    assert!(error.kind() == Kind::Http && !error.is_retryable(), "{error}");
    assert!(error.message().contains("mvcc: future"), "{error}");
    // Another server may have a leader.
    let error = ended(r#"{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}"#);
    assert!(error.is_retryable() && error.message().contains("no leader"), "{error}");
}

/// Each form in which etcd, or a proxy of it, says so.
#[test]
fn a_watch_that_meets_a_compaction_is_told_from_other_ends() {
    for line in [
        r#"{"result":{"header":{"cluster_id":"7","member_id":"1","raft_term":"3"},"canceled":true,"compact_revision":"35"}}"#,
        r#"{"result":{"header":{},"canceled":true,"compact_revision":"35"}}"#,
        r#"{"result":{"header":{"cluster_id":"7","revision":"40"},"created":true,"canceled":true,"compact_revision":"35"}}"#,
        r#"{"result":{"canceled":true,"compact_revision":"35","cancel_reason":"etcdserver: mvcc: required revision has been compacted"}}"#,
        r#"{"result":{"canceled":true,"cancel_reason":"etcdserver: mvcc: required revision has been compacted"}}"#,
        r#"{"error":{"grpc_code":11,"http_code":400,"message":"etcdserver: mvcc: required revision has been compacted"}}"#,
    ] {
        let Err(Refused::Compacted) = told(line) else { panic!("{line}") };
    }
}

#[test]
fn a_watch_is_told_how_far_etcd_is_but_not_at_its_beginning() {
    let notice = r#"{"result":{"header":{"cluster_id":"7","revision":"40"}}}"#;
    let changes = told(notice).unwrap();
    assert_eq!((changes.told_up_to, changes.events.len()), (40, 0));
    for line in [
        r#"{"result":{"header":{"cluster_id":"7","revision":"40"},"created":true}}"#,
        r#"{"result":{"header":{"cluster_id":"7","revision":"40"},"fragment":true}}"#,
    ] {
        // The connection ends after it.
        let error = ended(line);
        assert!(error.is_retryable(), "{line}: {error}");
    }
    for line in
        ["{}", "[]", "null", r#"{"result":{"header":{}}}"#, r#"{"result":{"created":true}}"#]
    {
        let error = ended(line);
        assert!(error.kind() == Kind::Decode, "{line}: {error}");
    }
}

/// A member that is behind the others: another one may have the revision.
#[test]
fn a_revision_that_a_member_does_not_have_yet_is_asked_again() {
    let answers: Answers = |path, _, _| match path {
        "/v3/kv/range" => (
            400,
            r#"{"message":"etcdserver: mvcc: required revision is a future revision","code":11}"#
                .to_owned(),
        ),
        _ => (200, HEADER.to_owned()),
    };
    let error = failed(run(etcd(answers, false).count(&Range::prefix(b""), 3)));
    assert!(error.is_retryable(), "{error}");
}

#[test]
fn a_page_that_is_too_large_is_read_in_smaller_ones() {
    let answers: Answers = |path, _, asked| {
        match path {
        "/v3/kv/range" if asked["limit"].as_str().unwrap().parse::<u64>().unwrap() > 3 => (
            429,
            r#"{"message":"grpc: received message larger than max (5000000 vs. 4194304)","code":8}"#.to_owned(),
        ),
        "/v3/kv/range" => (
            200,
            r#"{"header":{"cluster_id":"7","revision":"3"},"kvs":[{"key":"YQ=="}],"count":"1"}"#.to_owned(),
        ),
        _ => (200, HEADER.to_owned()),
    }
    };
    let etcd = etcd(answers, false);
    let mut pages = Pages::new(&etcd, Range::prefix(b""), 3, 5000);
    let page = run(pages.next()).unwrap().unwrap();
    assert_eq!(page.kvs.len(), 1);
}

thread_local!(static SAID: std::cell::RefCell<(u16, &'static str)> = const { std::cell::RefCell::new((200, "")) });

/// The server is etcd until it says this to a path that ends so.
fn says(path: &str, end: &str) -> (u16, String) {
    match path.ends_with(end) {
        true => SAID.with_borrow(|(status, text)| (*status, (*text).to_owned())),
        false if path.ends_with("authenticate") => (200, r#"{"token":"t"}"#.to_owned()),
        false => (200, HEADER.to_owned()),
    }
}

/// Places of what the server says, with and without a user.
const PLACES: [(&str, bool, Answers); 4] = [
    ("kv/range", false, |path, _, _| says(path, "kv/range")),
    ("watch", false, |path, _, _| says(path, "watch")),
    ("authenticate", true, |path, _, _| says(path, "authenticate")),
    ("all", false, |path, _, _| says(path, "")),
];

/// The result of a request to one of them.
fn said_at((at, has_user, answers): (&str, bool, Answers)) -> Result<(), Refused> {
    let etcd = etcd(answers, has_user);
    run(async {
        match at {
            "watch" => etcd.watch(&Range::prefix(b"a"), 4).await?.next().await.map(|_| ()),
            _ => etcd.revision(&Bytes::from_static(b"a")).await.map(|_| ()),
        }
    })
}

/// Each request that is refused, by etcd in plain text or by a program between, shows the answer in one line.
#[test]
fn what_is_not_etcds_json_is_shown_whatever_the_status() {
    const TEXT: &str =
        "\nCommonName of client sending a request against gateway will be ignored\nand more\n";
    let words = "CommonName of client sending a request against gateway will be ignored";
    for place in PLACES {
        let at = place.0;
        for status in (200..600).filter(|status| *status != 204) {
            for said in [
                TEXT,
                "<html>\n<body>CommonName of client sending a request against gateway will be ignored",
                r#"{"detail":"CommonName of client sending a request against gateway will be ignored"}"#,
            ] {
                if status < 300 && said.starts_with('{') {
                    continue;
                }
                SAID.set((status, said));
                let error = match said_at(place) {
                    // The status decides, whatever the text.
                    Err(Refused::Oversized(error)) if status == 413 => error,
                    result => failed(result),
                };
                assert!(error.message().contains(words), "{at}, {status}: {error}");
                assert!(!error.message().contains('\n'), "{at}, {status}: {error:?}");
            }
        }
    }
}

/// A proxy before etcd that redirects is shown with where it leads, without what can be a secret.
#[test]
fn a_redirect_is_shown_with_its_location() {
    for place in PLACES {
        for status in [301, 302, 303, 307, 308] {
            for (location, shown) in [
                (
                    "Location: https://name:s3cret@etcd.example:2379/v3/kv/range?token=s3cret#s3cret",
                    "redirects to \"https://etcd.example:2379/v3/kv/range\", which is not followed (an endpoint with https:// is meant)",
                ),
                ("Location: http://name:s3cret@a?s3cret", "redirects to \"http://a\", which"),
                ("Location: //name:s3cret@a/login//", "redirects to \"//a/login//\", which"),
                ("Location: /login//x?to=s3cret", "redirects to \"/login//x\", which"),
                ("Location: /login@x", "redirects to \"/login@x\", which"),
                ("Location: ", "redirects to \"\", which"),
            ] {
                SAID.set((status, location));
                let error = failed(said_at(place));
                let message = error.message();
                assert!(message.contains(shown), "{}, {status}, {location}: {message}", place.0);
                assert!(!message.contains("s3cret"), "{}, {status}: {message}", place.0);
            }
        }
    }
}

/// An object can have values of keys.
#[test]
fn of_an_object_that_cannot_be_read_nothing_is_shown() {
    for said in [r#"{"header":{},"kvs":[{"value":"c2VjcmV0"}"#, r#" {"kvs":"c2VjcmV0"}"#] {
        SAID.set((200, said));
        let error = failed(run(status(&etcd(|path, _, _| says(path, "kv/range"), false))));
        assert!(!error.message().contains("c2VjcmV0"), "{error}");
    }
}

/// The right that is missing, and none that was given already.
#[test]
fn a_refusal_names_the_right_and_the_prefix() {
    const DENIED: &str = r#"{"message":"etcdserver: permission denied","code":7}"#;
    SAID.set((403, DENIED));
    for (prefix, words) in [
        ("", "the right to read all keys; one whose role is for a prefix needs --etcd-prefix"),
        ("/app/", "the right to read all keys that begin with \"/app/\" (HTTP 403)"),
    ] {
        let etcd = etcd(|path, _, _| says(path, "kv/range"), false).with_prefix(prefix);
        let error = failed(run(status(&etcd)));
        assert!(error.message().contains(words), "{error}");
        assert_eq!(error.kind(), Kind::PermissionDenied);
    }
    let what = |what| etcd(|_, _, _| (403, DENIED.to_owned()), false).lacks(what);
    assert!(what("kv/txn").contains("the right to write"));
    assert!(what("watch").contains("the right to read"));
    assert!(
        what("maintenance/alarm").contains("maintenance/alarm is for users with the role root")
    );
}

/// A server that is etcd but from one time to another, when it cannot be used as it is.
#[derive(Debug)]
struct Changing {
    clock: ManualClock,
    begun: Instant,
    unusable: std::ops::Range<Duration>,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// Its certificate is not trusted.
    Tls,
    /// Another program, a proxy, or an etcd without the gateway answers this to all.
    Says(u16, &'static str),
}

/// The refusal of a member that joins, of 3.6 and later.
const LEARNER: &str = r#"{"code":9,"message":"etcdserver: rpc not supported for learner"}"#;

const UNUSABLE: [How; 8] = [
    How::Tls,
    How::Says(200, "<html>It works</html>"),
    How::Says(200, "{}"),
    How::Says(401, "who is there"),
    How::Says(404, "404 page not found"),
    How::Says(404, r#"{"etcdserver":"2.3.8"}"#),
    How::Says(405, "<html>not allowed</html>"),
    How::Says(400, LEARNER),
];

impl Streaming for Changing {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let now = self.clock.now() - self.begun;
        let answers: Result<(u16, String), Error> = match self.how {
            _ if !self.unusable.contains(&now) => Ok((200, HEADER.to_owned())),
            How::Tls => {
                Err(Error::new(Kind::Tls, "changing: the server's certificate is not trusted"))
            }
            How::Says(404, version) if request.uri().path() == "/version" => {
                Ok((200, version.to_owned()))
            }
            How::Says(status, text) => Ok((status, text.to_owned())),
        };
        Box::pin(async move {
            let (status, said) = answers?;
            let parts: Parts = Box::pin(stream::iter([Ok(said.into())]));
            Ok(Response::builder().status(status).body(parts).unwrap())
        })
    }

    fn endpoint(&self) -> &str {
        "changing"
    }
}

/// The revision that servers tell, each unusable for some seconds, and once more after ten.
fn twice(how: How, unusable: &[std::ops::Range<u64>]) -> (Result<u64, Error>, Result<u64, Error>) {
    let clock = ManualClock::new();
    let server = |seconds: &std::ops::Range<u64>| -> Arc<dyn Streaming> {
        let unusable = Duration::from_secs(seconds.start)..Duration::from_secs(seconds.end);
        Arc::new(Changing { clock: clock.clone(), begun: clock.now(), unusable, how })
    };
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let (limit, patience) = (Duration::from_secs(5), Duration::from_secs(30));
    let etcd = Etcd::new(unusable.iter().map(server).collect(), None, shared, limit, patience);
    let ask = async || etcd.revision(&Bytes::from_static(b"a")).await.map_err(Refused::into_error);
    run(clock.drive(async {
        let first = ask().await;
        clock.sleep(Duration::from_secs(10)).await;
        etcd.leave_server();
        (first, ask().await)
    }))
}

#[test]
fn a_server_that_cannot_be_used_is_left_for_another_one() {
    const NEVER: std::ops::Range<u64> = 0..0;
    const ALWAYS: std::ops::Range<u64> = 0..3600;
    const LATER: std::ops::Range<u64> = 10..13;
    for how in UNUSABLE {
        for servers in [
            &[ALWAYS, NEVER][..],
            &[NEVER, ALWAYS],
            &[ALWAYS, ALWAYS, NEVER],
            // Once etcd has answered it is waited for.
            &[LATER],
            &[LATER, 10..20],
        ] {
            let (first, then) = twice(how, servers);
            assert_eq!((first.ok(), then.ok()), (Some(3), Some(3)), "{how:?} {servers:?}");
        }
        for servers in [&[ALWAYS][..], &[ALWAYS, ALWAYS], &[0..1, 0..1]] {
            let error = twice(how, servers).0.unwrap_err();
            assert!(!error.is_retryable(), "{how:?} {servers:?}: {error}");
        }
    }
}

/// A server that answers nothing, or is etcd.
#[derive(Debug)]
struct Stopped(bool);

impl Streaming for Stopped {
    fn open(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        let is_stopped = self.0;
        Box::pin(async move {
            if is_stopped {
                std::future::pending::<()>().await;
            }
            let parts: Parts = Box::pin(stream::iter([Ok(HEADER.into())]));
            Ok(Response::builder().status(200).body(parts).unwrap())
        })
    }

    fn endpoint(&self) -> &str {
        if self.0 { "stopped" } else { "running" }
    }
}

/// As many as there are servers, or a multiple of that, would all come back to the server that they leave.
#[test]
fn requests_that_fail_together_leave_a_server_once() {
    for (servers, requests) in (2..=4).flat_map(|it| (1..=17).map(move |many| (it, many))) {
        let clock = ManualClock::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let server = |at: usize| -> Arc<dyn Streaming> { Arc::new(Stopped(at == 0)) };
        let (limit, patience) = (Duration::from_secs(20), Duration::from_secs(60));
        let all = (0..servers).map(server).collect();
        let etcd = Etcd::new(all, None, shared, limit, patience);
        *lock(&etcd.now) = Now { prefix: Some("/v3"), ..Now::default() };
        let begun = clock.now();
        let key = Bytes::from_static(b"a");
        let asked = (0..requests).map(|_| etcd.revision(&key));
        let told = run(clock.drive(join_all(asked)));
        let told: Vec<_> = told.into_iter().filter_map(Result::ok).collect();
        assert_eq!(told, vec![3; requests], "{servers} servers");
        let took = clock.now() - begun;
        assert!(took < FIRST_TIMEOUT * 2, "{requests} requests, {servers} servers: {took:?}");
    }
}
