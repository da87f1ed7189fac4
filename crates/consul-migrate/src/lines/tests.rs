//! The lines that may be set when an import ends early.

use super::*;
use crate::target::tests::{Denies, target_of};
use ::http::{Request, Response};
use base64::Engine as _;
use consul_client::transport::Transport;
use consul_process::clock::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Silent;

impl Report for Silent {
    fn progress(&self, _: &'static str, _: u64, _: Option<u64>) {}

    fn note(&self, _: &str) {}
}

/// Why an import of two keys into this server ends. One transaction does not take both.
fn why(form: Form, server: impl Transport + 'static) -> String {
    let value = base64::engine::general_purpose::STANDARD.encode(vec![7; 290_000]);
    let lines = ["a", "b"].map(|key| format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}"));
    let text = match form {
        Form::Lines => lines.join("\n"),
        Form::ConsulKv => format!("[{}]", lines.join(",")),
    };
    let mapping = mapping();
    let (target, mut from) = (target_of(server), text.as_bytes());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let imports = import(&target, &mapping, form, &mut from, true, &Silent);
    runtime.block_on(imports).unwrap_err().to_string()
}

fn mapping() -> Mapping {
    Mapping {
        etcd_prefix: Vec::new(),
        consul_prefix: String::new(),
        on: Default::default(),
        form: None,
        mark: 1,
        refused: Default::default(),
    }
}

/// A key that neither a URL nor a transaction has room for, as it is or encoded, is refused by its line.
#[test]
fn a_key_that_no_request_has_room_for_is_refused_by_its_line() {
    let base64 = base64::engine::general_purpose::STANDARD;
    for (name, length, size, words) in [
        ("key", 100, 500_000, ""),
        ("key", 65_000, 1, ""),
        ("key", 65_000, 500_000, "too long for a URL, and with its value for a transaction"),
        ("etcd_key", 100, 500_000, ""),
        ("etcd_key", 500_000, 1, Problem::HugeKey.meaning()),
    ] {
        let key = "k".repeat(length);
        let key = if name == "key" { key } else { base64.encode(key) };
        let value = base64.encode(vec![7; size]);
        let line = format!("{{\"{name}\":\"{key}\",\"value\":\"{value}\"}}");
        let said = check(&mapping(), &mut line.as_bytes(), true).err();
        let said = said.map_or(String::new(), |stop| stop.to_string());
        assert_eq!(said.contains("line 1 is not of an export: "), !words.is_empty(), "{said}");
        assert!(said.contains(words), "{name} {length} {size}: {said}");
    }
}

/// Applies as many transactions, and does not answer the next ones, which it has received or not.
#[derive(Debug)]
struct Ends {
    applied: AtomicUsize,
    has_received: bool,
}

impl Transport for Ends {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_applied = self
            .applied
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
        let error = Error::new(Kind::Connect, "no answer").retryable();
        let answer = match (is_applied, self.has_received) {
            (true, _) => Ok(Response::new(Bytes::from_static(
                br#"{"Results":[{"KV":{"LockIndex":0,"Key":"a","Flags":0,"Value":null,"CreateIndex":3,"ModifyIndex":3}}],"Errors":null}"#,
            ))),
            (false, true) => Err(error.with_maybe_applied(true)),
            (false, false) => Err(error.not_sent()),
        };
        Box::pin(async { answer })
    }

    fn endpoint(&self) -> &str {
        "ends"
    }
}

#[test]
fn lines_may_be_set_only_if_a_request_may_have_set_them() {
    for (form, what) in [(Form::Lines, "lines"), (Form::ConsulKv, "keys")] {
        let none = format!("; 0 {what} of the import were set");
        let open = format!("{none}, and the next ones may be");
        assert!(why(form, Denies).ends_with(&none), "{}", why(form, Denies));
        for (applied, has_received, end) in
            [(0, false, &none), (0, true, &open), (1, false, &open), (1, true, &open)]
        {
            let said = why(form, Ends { applied: applied.into(), has_received });
            assert!(said.ends_with(end), "{applied} {has_received}: {said}");
        }
    }
}
