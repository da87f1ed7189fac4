//! No byte that a caller gives vanishes between the argument and the request.

use crate::support::world::World;
use consul_api::api::raw;
use consul_api::error::{Error, Kind};
use consul_api::request::{Args, Defaults, Request};
use consul_api::value::Value;
use consul_api::{self, table::Location, table::Shape};
use consul_client::Client;
use std::sync::Arc;

fn request(method: &str, args: &Args) -> Result<Request, Error> {
    raw::endpoint(method).expect("a method").request(args, &Defaults::default())
}

/// Whether it was refused before anything was sent.
fn is_refused(outcome: &Result<Value, Error>) -> bool {
    outcome.as_ref().is_err_and(|error| {
        error.kind() == Kind::Argument && error.status().is_none() && !error.maybe_applied()
    })
}

async fn send(client: &Arc<Client>, method: &str, args: Args) -> Result<Value, Error> {
    Ok(client.execute(&request(method, &args)?).await?.answer().value)
}

/// The key with these bytes, as a path is encoded.
fn encoded(key: &[u8]) -> String {
    key.iter().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_path_with_any_byte_names_its_key_or_is_refused() {
    let world = World::new();
    let client = world.client();
    for byte in 0..=255_u8 {
        let key = [b"x", &[byte][..], b"y"].concat();
        let path = [b"/v1/kv/", &key[..]].concat();
        let outcome = world.run(send(&client, "PUT", Args::new().arg(path.clone()).arg("v")));
        match byte {
            0..=b' ' | 0x7f => assert!(is_refused(&outcome), "{byte:#x} {outcome:?}"),
            // A part of an escape, and the beginning of the query.
            b'%' => assert_eq!(outcome.expect_err("not an escape").status(), Some(400)),
            b'?' => assert_eq!(world.value("/v1/kv/x").as_deref(), Some("v")),
            _ => {
                outcome.unwrap_or_else(|error| panic!("{byte:#x} {error}"));
                let stored = world.value(&format!("/v1/kv/{}", encoded(&key)));
                assert_eq!(stored.as_deref(), Some("v"), "{byte:#x}");
                world.run(send(&client, "DELETE", Args::new().arg(path))).expect("it is deleted");
                assert_eq!(world.value(&format!("/v1/kv/{}", encoded(&key))), None, "{byte:#x}");
            }
        }
        let cut = world.value("/v1/kv/x");
        assert_eq!(cut.is_some(), byte == b'?', "{byte:#x} cuts the path");
        world.send("DELETE", "/v1/kv/x", "");
    }
}

#[test]
fn a_query_with_any_byte_keeps_what_follows() {
    let world = World::new();
    let client = world.client();
    for byte in 0..=255_u8 {
        // A part that is cut off takes the condition with it.
        let path = [b"/v1/kv/q?x=", &[byte][..], b"&cas=999"].concat();
        let outcome = world.run(send(&client, "PUT", Args::new().arg(path).arg("v")));
        match byte {
            0..=b' ' | 0x7f => assert!(is_refused(&outcome), "{byte:#x} {outcome:?}"),
            b';' | b'%' => assert_eq!(outcome.expect_err("bad").status(), Some(500)),
            _ => assert_eq!(outcome.expect("an answer"), "false".into(), "{byte:#x}"),
        }
        assert_eq!(world.value("/v1/kv/q"), None, "{byte:#x}");
        let text = [b"a", &[byte][..], b"b"].concat();
        let params = Value::Map(vec![
            ("x".to_owned(), Value::from(text.clone())),
            ("y".to_owned(), true.into()),
        ]);
        let args = Args::new().arg("/v1/kv/q").opt("params", params);
        let sent = request("GET", &args).expect("a request");
        let query = sent.http.uri().query().expect("a query").to_owned();
        let value = query.strip_prefix("x=").and_then(|it| it.strip_suffix("&y")).expect("both");
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(value).collect();
        assert_eq!(decoded, text, "{byte:#x}");
    }
}

/// Each character of one byte, and one of several, in each argument of each row.
#[test]
fn every_argument_of_every_row_is_sent_whole_or_refused() {
    let texts: Vec<String> = (0..128_u8)
        .map(char::from)
        .chain(['\u{80}', 'é', '日', '\u{1f600}'])
        .map(|c| format!("x{c}y"))
        .collect();
    for row in consul_api::endpoints() {
        let params: Vec<_> = row.positional.iter().chain(row.all_options()).collect();
        for param in params {
            let is_text =
                matches!(param.kind, Shape::Text | Shape::Key | Shape::KeyPrefix | Shape::TextList);
            if !is_text || !matches!(param.location, Location::Path | Location::Query(_)) {
                continue;
            }
            for text in &texts {
                let is_positional = row.positional.iter().any(|other| other.name == param.name);
                let required = row.positional.iter().filter(|other| !other.optional);
                let args =
                    required.fold(Args::new(), |args, other| match other.name == param.name {
                        true => args.arg(text.as_str()),
                        false => args.arg(crate::methods::sample(other)),
                    });
                let args = if is_positional { args } else { args.opt(param.name, text.as_str()) };
                let request = match row.request(&args, &Defaults::default()) {
                    Ok(request) => request,
                    Err(error) => {
                        assert_eq!(
                            (error.kind(), error.maybe_applied()),
                            (Kind::Argument, false),
                            "{error}"
                        );
                        assert!(
                            text.chars().any(char::is_control),
                            "{} {text:?}: {error}",
                            row.name
                        );
                        continue;
                    }
                };
                let uri = request.http.uri();
                let part = if param.location == Location::Path {
                    uri.path()
                } else {
                    uri.query().unwrap_or_default()
                };
                let found: Vec<u8> = percent_encoding::percent_decode_str(part).collect();
                let found = String::from_utf8(found).expect("UTF-8");
                assert!(found.contains(text.as_str()), "{} {}: {uri}", row.name, param.name);
            }
        }
    }
}

#[test]
fn an_empty_token_is_none_for_every_row() {
    let defaults = Defaults { token: Some("t0".to_owned()), ..Defaults::default() };
    for row in consul_api::endpoints()
        .chain(["GET", "PUT"].iter().filter_map(|method| raw::endpoint(method)))
    {
        let required = row.positional.iter().filter(|param| !param.optional);
        let args = required.fold(Args::new(), |args, param| match param.kind {
            Shape::EncodedPath => args.arg("/v1/kv/a"),
            _ => args.arg(crate::methods::sample(param)),
        });
        let token = |args: &Args| {
            let request = row.request(args, &defaults).unwrap_or_else(|error| panic!("{error}"));
            request
                .http
                .headers()
                .get("x-consul-token")
                .map(|token| token.as_bytes().to_vec())
                .unwrap_or_default()
        };
        assert_eq!(token(&args), b"t0", "{}", row.name);
        assert_eq!(token(&args.clone().opt("token", "")), b"", "{}", row.name);
        assert_eq!(token(&args.clone().opt("token", "t1")), b"t1", "{}", row.name);
        let error = row.request(&args.opt("token", 5), &defaults).expect_err("not a token");
        assert!(error.message().contains("token"), "{error}");
    }
}

#[test]
fn an_empty_token_is_anonymous_for_the_server() {
    let (world, management) = World::with_acl();
    let client = world.client_with_rules(management, r#"key_prefix "" { policy = "write" }"#);
    let put = consul_api::endpoint("kv_put").expect("a row");
    let args = Args::new().arg("a").arg("v");
    world.run(async {
        client.call(put, &args).await.expect("its token");
        let error = client.call(put, &args.clone().opt("token", "")).await.expect_err("no token");
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        let get = consul_api::endpoint("kv_list").expect("a row");
        let answer = client.call(get, &Args::new().arg("").opt("token", "")).await.expect("a list");
        assert!(!answer.meta.has_token);
    });
}
