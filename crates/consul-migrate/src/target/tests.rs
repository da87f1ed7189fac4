//! Answers of servers that refuse something, or that do not work.

use super::*;
use ::http::{Request, Response};
use consul_api::request::Defaults;
use consul_client::Settings;
use consul_client::transport::Transport;
use consul_process::clock::{BoxFuture, SystemClock};

/// A target with this server, which is asked once.
pub fn target_of(server: impl Transport + 'static) -> Target {
    let settings =
        Settings { timeout: Duration::from_secs(5), retry_count: 0, defaults: Defaults::default() };
    let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::with_seed(1));
    let client = Client::new(vec![Arc::new(server)], settings, clock, rng);
    Target::new(Arc::new(client), Duration::ZERO, 64)
}

/// A server that answers all with a success that has nothing.
#[derive(Debug)]
struct Proxy;

impl Transport for Proxy {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async {
            Ok(Response::new(Bytes::from_static(br#"{"Results":[],"Errors":null}"#)))
        })
    }

    fn endpoint(&self) -> &str {
        "proxy"
    }
}

/// A server that refuses each name in a URL so.
#[derive(Debug)]
struct Refusing(u16, &'static str);

impl Transport for Refusing {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let answer = Response::builder().status(self.0).body(self.1.into());
        Box::pin(async { Ok(answer.unwrap()) })
    }

    fn endpoint(&self) -> &str {
        "refusing"
    }
}

#[test]
fn each_refusal_of_a_name_is_told_from_other_errors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (status, text) in [
        (500, "invalid key name, path traversal is not allowed"),
        (500, "failure in unescaping path param \"a%b\": invalid URL escape \"%b\""),
        (400, ""),
    ] {
        let target = target_of(Refusing(status, text));
        assert!(!runtime.block_on(target.takes("a%b")).unwrap(), "{text}");
        assert!(runtime.block_on(target.takes("a/b")).unwrap(), "it is asked");
    }
    let target = target_of(Refusing(403, "Permission denied: token lacks permission"));
    assert!(runtime.block_on(target.takes("a%b")).unwrap());
    let target = target_of(Refusing(500, "No cluster leader"));
    assert_eq!(runtime.block_on(target.takes("a%b")).unwrap_err().kind(), Kind::NoLeader);
}

#[test]
fn an_answer_without_results_is_not_that_of_a_transaction() {
    let target = target_of(Proxy);
    let set = Op::set("a".to_owned(), "v".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let written = runtime.block_on(target.txn(&[], &[set])).unwrap_err();
    assert_eq!((written.kind(), written.maybe_applied()), (Kind::Decode, true), "{written}");
    let read = runtime.block_on(target.entries(&["a"])).unwrap_err();
    assert_eq!(read.kind(), Kind::PermissionDenied, "{read}");
}

/// A read is refused for another reason, or the refusal is that of another request.
#[test]
fn a_key_is_absent_only_if_the_server_says_so_of_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (key, what, is_absent) in [
        ("a/b", r#"key \"a/b\" doesn't exist"#, true),
        ("é \"", r#"key \"é \\\"\" doesn't exist"#, true),
        ("a/b", r#"key \"_migrate/\" doesn't exist"#, false),
        ("a/b", "rpc error: EOF of a/b", false),
        ("é", "rpc error: EOF", false),
    ] {
        let text = format!(r#"{{"Results":null,"Errors":[{{"OpIndex":0,"What":"{what}"}}]}}"#);
        let found = runtime.block_on(target_of(Refusing(409, text.leak())).entries(&[key]));
        assert_eq!(found.is_ok_and(|found| found == [None]), is_absent, "{what}");
    }
    let other = r#"{"Results":null,"Errors":[{"OpIndex":7,"What":"key \"a\" doesn't exist"}]}"#;
    assert!(runtime.block_on(target_of(Refusing(409, other)).entries(&["a"])).is_err());
}

/// A server that takes no names in transactions, and lists these keys.
#[derive(Debug)]
struct Lists(&'static [&'static str]);

impl Transport for Lists {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let entry = |key: &&str| serde_json::json!({ "Key": key, "Value": "dg==", "Flags": 0, "LockIndex": 0, "CreateIndex": 3, "ModifyIndex": 3 });
        let list = serde_json::Value::Array(self.0.iter().map(entry).collect());
        let is_names = request.uri().query().is_some_and(|query| query.contains("keys"));
        let mut answer = match request.uri().path().ends_with("/txn") {
            _ if is_names => Response::new(serde_json::json!(self.0).to_string().into()),
            true => Response::builder().status(400).body("invalid key name".into()).unwrap(),
            false => Response::new(list.to_string().into()),
        };
        let policy = ::http::HeaderValue::from_static("allow");
        answer.headers_mut().insert("x-consul-default-acl-policy", policy);
        Box::pin(async { Ok(answer) })
    }

    fn endpoint(&self) -> &str {
        "lists"
    }
}

/// In a list U+FFFD stands for bytes that are not UTF-8, too: such a key is not taken for another one.
#[test]
fn a_name_with_a_replacement_character_is_not_read_from_a_list() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = target_of(Lists(&["caf\u{e9}:", "caf\u{fffd}"]));
    let found = runtime.block_on(target.entries(&["caf\u{e9}:", "caf\u{fffd}"])).unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
}

/// The deletion of a tree in parts leaves names that are nobody's parts and that no request of ours deletes.
#[test]
fn the_deletion_of_a_tree_in_parts_leaves_names_that_are_no_paths() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = target_of(Lists(&["_etcd/61//x", "_etcd/61/0000-0001", "_etcd/61/0000-0002"]));
    let tree = Op::DeleteTree { prefix: "_etcd/61/".to_owned() };
    let set = Op::set("_etcd/61/0000-0001".to_owned(), "v".into());
    let divided = runtime.block_on(target.divisible(&[tree, set.clone()])).unwrap();
    assert_eq!(divided, [Op::Delete { key: "_etcd/61/0000-0002".to_owned() }, set]);
}

/// An older server, which does not say what it leaves out of lists, before a token that may write all keys below `app/`.
#[derive(Debug)]
struct Hides;

impl Transport for Hides {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let answer = match request.uri().path() {
            "/v1/internal/acl/authorize" => {
                let asked: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
                let mut answer = asked[0].clone();
                answer["Allow"] = asked[0]["Segment"].as_str().unwrap().starts_with("app/").into();
                serde_json::json!([answer])
            }
            path => serde_json::json!([format!("{}x", path.trim_start_matches("/v1/kv/"))]),
        };
        Box::pin(async move { Ok(Response::new(answer.to_string().into())) })
    }

    fn endpoint(&self) -> &str {
        "hides"
    }
}

/// The right to all keys of one list says nothing of another list.
#[test]
fn each_list_from_which_keys_may_be_hidden_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let target = target_of(Hides);
    for (prefix, may) in
        [("app/", true), ("app/a/", true), ("", false), ("b/", false), ("app/b", true)]
    {
        let names = runtime.block_on(target.keys(prefix, None));
        match names {
            Ok(names) => assert!(may && names == [format!("{prefix}x")], "{prefix:?}: {names:?}"),
            Err(error) => {
                assert!(!may && error.kind() == Kind::PermissionDenied, "{prefix:?}: {error}");
            }
        }
    }
}

/// A server that denies all operations of a transaction.
#[derive(Debug)]
pub struct Denies;

impl Transport for Denies {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let asked: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
        let what = "Permission denied: token lacks permission 'key:write'";
        let errors = (0..asked.as_array().unwrap().len())
            .map(|place| serde_json::json!({ "OpIndex": place, "What": what }));
        let errors: Vec<_> = errors.collect();
        let said = serde_json::json!({ "Results": null, "Errors": errors }).to_string();
        Box::pin(async { Ok(Response::builder().status(409).body(said.into()).unwrap()) })
    }

    fn endpoint(&self) -> &str {
        "denies"
    }
}

#[test]
fn operations_that_are_denied_are_not_applied_however_many_they_are() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for count in [1, 2, 3, 64] {
        let sets = vec![Op::set("a".to_owned(), "v".into()); count];
        let error = runtime.block_on(target_of(Denies).txn(&[], &sets)).unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert!(!error.maybe_applied() && !error.is_transient(), "{count}: {error:?}");
    }
}

/// After each refusal, with any limit in it, a transaction is smaller, until it is mostly the checks.
#[test]
fn each_refusal_of_a_size_makes_transactions_smaller() {
    let ops = vec![Op::set("a".to_owned(), vec![7; 3000].into()); 64];
    for said in [
        "too large",
        "max size: 99999999999 bytes",
        "max size: 524288 bytes",
        "max size: 450000 bytes",
        "max size: 131072 bytes",
        "max size: 1 bytes",
        "max size: x bytes",
    ] {
        let (target, refusal) = (target_of(Proxy), Error::new(Kind::TooLarge, said));
        let mut rounds = 0;
        loop {
            let now = &ops[..target.fitting(&ops, 0).max(1)];
            let before = in_body(&[], now);
            if now.len() == 1 || !target.learn_room(&refusal, &[], now) {
                break;
            }
            rounds += 1;
            let room = target.max_bytes();
            assert!((MIN_BYTES / 2..before).contains(&room), "{said}: {room} of {before}");
        }
        assert!(rounds > 2, "{said}: {rounds}");
    }
}
