//! Requests that few clients send, with their answers on a real Consul 1.21.

use crate::served::{Outcome, shown};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let what = "requests that few clients send, on Consul 1.21";
    let missing = consul::is_missing(consul::SIM, what) || consul::is_missing("1.21", what);
    trials.add_unless(missing, "they_get_the_same_answers [1.21]", they_get_the_same_answers);
    trials
}

const REQUESTS: &[(&str, &str, &str)] = &[
    ("PUT", "/v1/agent/service/register", r#"{"Name": "a", "Check": {"TTL": "0s"}}"#),
    ("PUT", "/v1/agent/service/register", r#"{"Name": "b", "Check": {}}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "c", "Check": {"TTL": "0s", "Status": "passing"}}"#,
    ),
    ("PUT", "/v1/agent/service/register", r#"{"Name": "d", "Check": {"Name": "x"}}"#),
    (
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "e", "Checks": [{"TTL": "0s"}, {"TTL": "5s"}]}"#,
    ),
    ("GET", "/v1/agent/services", ""),
    ("GET", "/v1/agent/checks", ""),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Address": "0.0.0.0"}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Address": "::"}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "0.0.0.0", "Service": {"Service": "s", "Weights": {"Passing": 0}}}"#,
    ),
    ("GET", "/v1/catalog/service/s", ""),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Weights": {"Passing": 0, "Warning": 3}}}"#,
    ),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "t", "Weights": {"Passing": 3}}}"#,
    ),
    ("GET", "/v1/catalog/node/n", ""),
    ("GET", "/v1/health/service/s?peer=x", ""),
    ("GET", "/v1/health/connect/s?peer=x", ""),
    ("GET", "/v1/health/service/s?sg=x", ""),
    ("GET", "/v1/health/connect/s?sg=x", ""),
    ("GET", "/v1/health/service/s?sg=x&peer=y", ""),
    ("GET", "/v1/health/checks/s?peer=x", ""),
    ("GET", "/v1/catalog/service/s?peer=x", ""),
];

fn they_get_the_same_answers() -> Outcome {
    let [ours, real] = [RealConsul::start(consul::SIM)?, RealConsul::start("1.21")?];
    let mut different = Vec::new();
    for (method, path, body) in REQUESTS {
        let [ours, theirs] =
            [shown(&ours.address, method, path, body)?, shown(&real.address, method, path, body)?];
        if ours != theirs {
            different.push(format!("{method} {path} {body}\n{ours}\n\non 1.21:\n{theirs}"));
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different.join("\n\n").into()) }
}
