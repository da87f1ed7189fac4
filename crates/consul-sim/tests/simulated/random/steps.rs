//! Random requests from a seed, the same for both sides except for ids.

use serde_json::{Value, json};

/// One request, the same for both sides except for ids.
pub struct Step {
    pub method: &'static str,
    pub target: String,
    pub body: String,
}

pub const SERVICES: &[&str] = &["web", "db"];
pub const NODES: &[&str] = &["ext1", "ext2"];
pub const STATUSES: &[&str] = &["passing", "warning", "critical"];

impl Step {
    pub fn new(method: &'static str, target: String, body: &str) -> Step {
        Step { method, target, body: body.to_owned() }
    }

    pub fn get(target: &str) -> Step {
        Step::new("GET", target.to_owned(), "")
    }

    pub fn random(rng: &mut fastrand::Rng, seed: u64) -> Step {
        match rng.u8(..100) {
            0..45 => Step::kv(rng, seed),
            45..57 => Step::txn(rng, seed),
            57..70 => Step::session(rng),
            70..80 => Step::agent(rng),
            80..88 => Step::catalog(rng),
            88..90 => Step::event(rng, seed),
            _ => Step::read(rng),
        }
    }

    fn key(rng: &mut fastrand::Rng, seed: u64) -> String {
        let name = pick(rng, &["a", "b", "a/1", "a/2", "ab", "dir/", "é+"]);
        format!("r{seed}/{name}")
    }

    fn kv(rng: &mut fastrand::Rng, seed: u64) -> Step {
        let key = Step::key(rng, seed).replace('é', "%C3%A9");
        let value = pick(rng, &["", "1", "2", "x"]);
        let session = format!("{{session{}}}", rng.usize(..3));
        let target = format!("/v1/kv/{key}");
        match rng.u8(..12) {
            0 | 1 => Step::new("PUT", target, value),
            2 => Step::new("PUT", format!("{target}?flags={}", rng.u8(..3)), value),
            3 => Step::new("PUT", format!("{target}?cas=0"), value),
            4 => Step::new("PUT", format!("{target}?cas=1"), value),
            5 => Step::new("PUT", format!("{target}?acquire={session}"), value),
            6 => Step::new("PUT", format!("{target}?release={session}"), value),
            7 => Step::new(
                "DELETE",
                format!("{target}{}", pick(rng, &["", "", "?recurse", "?cas=1"])),
                "",
            ),
            8 => Step::get(&format!("{target}?recurse")),
            9 => Step::get(&format!("/v1/kv/r{seed}/?keys{}", pick(rng, &["", "&separator=/"]))),
            _ => Step::get(&target),
        }
    }

    fn txn(rng: &mut fastrand::Rng, seed: u64) -> Step {
        let verbs = [
            "set",
            "get",
            "delete",
            "cas",
            "check-not-exists",
            "check-index",
            "get-tree",
            "lock",
            "unlock",
            "delete-cas",
            "delete-tree",
            "check-session",
            "get-or-empty",
            "bogus",
        ];
        let operations: Vec<Value> = (0..rng.usize(1..4))
            .map(|_| {
                if rng.u8(..3) == 0 {
                    return Step::catalog_operation(rng);
                }
                // The first verbs are the most frequent ones.
                let verb = verbs[rng.usize(..verbs.len()).min(rng.usize(..verbs.len()))];
                json!({"KV": {
                    "Verb": verb, "Key": Step::key(rng, seed), "Value": pick(rng, &["MQ==", "Mg==", ""]),
                    "Index": rng.u64(..2), "Session": format!("{{session{}}}", rng.usize(..3)),
                }})
            })
            .collect();
        Step::new("PUT", "/v1/txn".to_owned(), &Value::from(operations).to_string())
    }

    fn catalog_operation(rng: &mut fastrand::Rng) -> Value {
        let verbs = ["set", "set", "get", "delete", "cas", "delete-cas", "bogus"];
        let verb = verbs[rng.usize(..verbs.len())];
        let node = pick(rng, &["ext1", "ext2", "EXT1", "none", ""]);
        let expected = rng.u64(..2);
        match rng.u8(..3) {
            0 => json!({"Node": {"Verb": verb, "Node": {
                "Node": node, "Address": pick(rng, &["10.0.0.1", ""]), "ModifyIndex": expected,
            }}}),
            1 => json!({"Service": {"Verb": verb, "Node": node, "Service": {
                "ID": pick(rng, &["web", ""]), "Service": pick(rng, &["web", "web", ""]),
                "Port": rng.u8(..2), "ModifyIndex": expected,
            }}}),
            _ => json!({"Check": {"Verb": verb, "Check": {
                "Node": node, "CheckID": pick(rng, &["alive", "alive", ""]), "Name": "a",
                "Status": pick(rng, STATUSES), "ServiceID": pick(rng, &["", "web"]),
                "ModifyIndex": expected,
            }}}),
        }
    }

    fn session(rng: &mut fastrand::Rng) -> Step {
        let session = format!("{{session{}}}", rng.usize(..4));
        match rng.u8(..8) {
            0..3 => {
                let mut body = json!({
                    "Name": "s", "LockDelay": pick(rng, &["0s", "60s"]),
                    "Behavior": pick(rng, &["release", "delete"]),
                });
                if rng.u8(..4) == 0 {
                    body["ServiceChecks"] =
                        json!([{"ID": format!("service:{}", pick(rng, SERVICES))}]);
                }
                Step::new("PUT", "/v1/session/create".to_owned(), &body.to_string())
            }
            3 => Step::new("PUT", format!("/v1/session/destroy/{session}"), ""),
            4 => Step::new("PUT", format!("/v1/session/renew/{session}"), ""),
            5 => Step::get(&format!("/v1/session/info/{session}")),
            6 => Step::get("/v1/session/list"),
            _ => Step::get("/v1/session/node/none"),
        }
    }

    fn agent(rng: &mut fastrand::Rng) -> Step {
        let service = pick(rng, SERVICES);
        let check = format!("service:{service}");
        match rng.u8(..10) {
            0 | 1 => {
                let check = json!({"TTL": "1h", "Status": pick(rng, STATUSES)});
                let mut body = json!({"Name": service, "Port": rng.u8(1..3), "Check": check});
                if rng.bool() {
                    body["Tags"] = json!([pick(rng, &["t1", "t2"])]);
                }
                Step::new("PUT", "/v1/agent/service/register".to_owned(), &body.to_string())
            }
            2 => Step::new("PUT", format!("/v1/agent/service/deregister/{service}"), ""),
            3 => Step::new("PUT", format!("/v1/agent/check/pass/{check}"), ""),
            4 => Step::new("PUT", format!("/v1/agent/check/warn/{check}"), ""),
            5 => Step::new("PUT", format!("/v1/agent/check/fail/{check}"), ""),
            6 => Step::get(&format!("/v1/agent/service/{service}")),
            7 => {
                let enable = pick(rng, &["true", "false", "true&reason=why", "x", ""]);
                let target = format!("/v1/agent/service/maintenance/{service}?enable={enable}");
                Step::new("PUT", target, "")
            }
            8 => Step::get(&format!(
                "/v1/agent/health/service/{}/{service}{}",
                pick(rng, &["id", "name"]),
                pick(rng, &["", "?format=text"])
            )),
            _ => Step::get(pick(rng, &["/v1/agent/services", "/v1/agent/checks"])),
        }
    }

    fn event(rng: &mut fastrand::Rng, seed: u64) -> Step {
        let name = format!("r{seed}");
        if rng.bool() {
            return Step::get(&format!("/v1/event/list?name={}", pick(rng, &[&name, "none"])));
        }
        let filters =
            pick(rng, &["", "?node=.", "?node=none", "?service=^web", "?tag=x", "?node=["]);
        Step::new("PUT", format!("/v1/event/fire/{name}{filters}"), pick(rng, &["", "x"]))
    }

    fn catalog(rng: &mut fastrand::Rng) -> Step {
        let node = pick(rng, NODES);
        if rng.u8(..3) == 0 {
            let body = match rng.u8(..3) {
                0 => json!({"Node": node}),
                1 => json!({"Node": node, "ServiceID": "web"}),
                _ => json!({"Node": node, "CheckID": "alive"}),
            };
            return Step::new("PUT", "/v1/catalog/deregister".to_owned(), &body.to_string());
        }
        let mut body = json!({"Node": node, "Address": pick(rng, &["10.0.0.1", "10.0.0.2"])});
        if rng.u8(..3) == 0 {
            body["NodeMeta"] = json!({"rack": pick(rng, &["1", "2"])});
        }
        if rng.bool() {
            body["Service"] = json!({"Service": "web", "Port": rng.u8(..2)});
        }
        if rng.bool() {
            let service = pick(rng, &["", "web"]);
            let status = pick(rng, STATUSES);
            body["Check"] =
                json!({"CheckID": "alive", "Name": "a", "Status": status, "ServiceID": service});
        }
        Step::new("PUT", "/v1/catalog/register".to_owned(), &body.to_string())
    }

    fn read(rng: &mut fastrand::Rng) -> Step {
        Step::get(pick(
            rng,
            &[
                "/v1/catalog/nodes",
                "/v1/catalog/services",
                "/v1/catalog/service/web",
                "/v1/catalog/service/web?tag=t1",
                "/v1/catalog/service/none",
                "/v1/catalog/node/ext1",
                "/v1/catalog/node-services/ext2",
                "/v1/health/service/web",
                "/v1/health/service/web?passing",
                "/v1/health/service/db",
                "/v1/health/checks/web",
                "/v1/health/node/ext1",
                "/v1/health/state/any",
                "/v1/health/service/web?tag=t1&passing",
                "/v1/health/service/web?node-meta=rack:1",
                "/v1/health/checks/web?node-meta=rack:1",
                "/v1/health/state/any?node-meta=rack:1",
                "/v1/catalog/nodes?node-meta=rack:1",
                "/v1/catalog/services?node-meta=rack:1",
                "/v1/catalog/service/web?node-meta=rack:1",
                "/v1/catalog/service/web?filter=Node==ext1",
                "/v1/catalog/nodes?filter=Node!=ext1",
                "/v1/catalog/node/ext2?filter=Port==1",
                "/v1/catalog/node-services/ext1?filter=Port==1",
                "/v1/catalog/services?filter=ServicePort==1",
                "/v1/health/service/web?filter=Checks.Status==passing",
                "/v1/health/state/any?filter=Status!=passing",
                "/v1/health/checks/web?filter=Node+is+empty",
                "/v1/health/node/ext1?filter=Status==critical+or+Node==ext2",
                "/v1/catalog/connect/web",
                "/v1/health/connect/web",
                "/v1/coordinate/node/ext1",
                "/v1/health/state/critical",
                "/v1/session/list?stale",
                "/v1/kv/none?consistent",
            ],
        ))
    }
}

pub fn pick<'a>(rng: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}
