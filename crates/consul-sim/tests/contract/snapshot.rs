//! Snapshots: what comes back from one, and what does not.

use crate::support::AT_ONCE;
use crate::target::{LONG, T, args, behaviours, list, table, text};
use consul_api::error::Kind;
use consul_api::value::Value;
use consul_sim::acl::DefaultPolicy::Deny;
use std::time::{Duration, Instant};

behaviours![
    keys_come_back_with_their_indexes,
    later_writes_have_higher_indexes,
    locks_come_back_with_their_sessions,
    lock_delays_end_with_a_restore,
    the_catalog_comes_back,
    entries_and_queries_come_back,
    the_agent_keeps_its_services,
    tokens_come_back_with_their_permissions,
    logins_work_again,
    a_waiting_query_returns_after_a_restore_with_what_it_has_found_before,
    a_snapshot_is_an_archive,
    an_invalid_snapshot_is_refused_and_changes_nothing,
    snapshots_need_permissions_for_tokens,
];

async fn save(t: &T) -> Value {
    t.value("snapshot_save", args![]).await
}

/// Restores a snapshot. Consul's server then has to become leader again.
async fn restore(t: &T, snapshot: Value) {
    t.ok("snapshot_restore", args![snapshot]).await;
    let probe = t.name("probe");
    t.until("writes succeed again", || async {
        t.call("kv_put", args![probe.as_str(), ""]).await.is_ok()
    })
    .await;
    t.ok("kv_delete", args![probe]).await;
}

/// The result of this call, before a change and after the restore of a snapshot from before it.
async fn comes_back(t: &T, method: &str, name: &str) -> impl AsyncFnOnce(&T) + use<> {
    let (method, name) = (method.to_owned(), name.to_owned());
    let before = t.value(&method, args![name.as_str()]).await;
    async move |t: &T| {
        assert_eq!(t.value(&method, args![name.as_str()]).await, before, "{method} {name}");
    }
}

async fn keys_come_back_with_their_indexes(t: T) {
    for (key, flags) in [("k/1", 0), ("k/2", u64::MAX), ("k/ä", 7)] {
        t.ok("kv_put", args![t.name(key), "\u{0}old"; "flags" = flags]).await;
    }
    t.ok("kv_put", args![t.name("k/1"), "older"]).await;
    let check = comes_back(&t, "kv_list", &t.name("k/")).await;
    let snapshot = save(&t).await;
    t.ok("kv_put", args![t.name("k/1"), "new"]).await;
    t.ok("kv_delete", args![t.name("k/2")]).await;
    t.ok("kv_put", args![t.name("k/new"), "new"]).await;
    restore(&t, snapshot).await;
    check(&t).await;
}

async fn later_writes_have_higher_indexes(t: T) {
    let snapshot = save(&t).await;
    // More than the writes after the restore.
    for number in 0..9 {
        t.ok("kv_put", args![t.name("k"), format!("lost {number}")]).await;
    }
    let lost = t.index("kv_get", args![t.name("k")]).await;
    restore(&t, snapshot).await;
    t.ok("kv_put", args![t.name("k"), "new"]).await;
    let index = t.index("kv_get", args![t.name("k")]).await;
    assert!(index > lost, "{index} after {lost}");
}

async fn locks_come_back_with_their_sessions(t: T) {
    let id = t.session(table! {"ttl" = "60s", "behavior" = "delete", "name" = "n"}).await;
    let key = t.name("lock");
    t.ok("kv_put", args![key.as_str(), "held"; "acquire" = id.as_str()]).await;
    let session = comes_back(&t, "session_info", &id).await;
    let lock = comes_back(&t, "kv_get", &key).await;
    let snapshot = save(&t).await;
    t.ok("session_destroy", args![id.as_str()]).await;
    restore(&t, snapshot).await;
    session(&t).await;
    lock(&t).await;
    // Its end still deletes the key, and the lock delay is that of the session.
    t.ok("session_renew", args![id.as_str()]).await;
    t.ok("session_destroy", args![id]).await;
    assert_eq!(t.value("kv_get", args![key.as_str()]).await, Value::Null);
    let other = t.session(table! {}).await;
    t.fails("kv_put", args![key, "other"; "acquire" = other.as_str()], Kind::Conflict).await;
    t.ok("session_destroy", args![other]).await;
}

async fn lock_delays_end_with_a_restore(t: T) {
    let key = t.name("delayed");
    let snapshot = save(&t).await;
    let id = t.session(table! {"lock_delay" = 60}).await;
    t.ok("kv_put", args![key.as_str(), ""; "acquire" = id.as_str()]).await;
    t.ok("session_destroy", args![id]).await;
    let other = t.session(table! {}).await;
    let acquire = |id: &str| args![key.as_str(), ""; "acquire" = id];
    t.fails("kv_put", acquire(&other), Kind::Conflict).await;
    restore(&t, snapshot).await;
    let other = t.session(table! {}).await;
    t.ok("kv_put", acquire(&other)).await;
    t.ok("session_destroy", args![other]).await;
    t.ok("kv_delete", args![key]).await;
}

async fn the_catalog_comes_back(t: T) {
    let node = t.name("n");
    let registration = table! {
        "Node" = node.as_str(), "Address" = "10.0.0.1", "NodeMeta" = table! {"rack" = "1"},
        "TaggedAddresses" = table! {"wan" = "192.0.2.1"},
        "Service" = table! {
            "ID" = t.name("web-1"), "Service" = t.name("web"), "Port" = 80, "Tags" = list!["a", "b"],
            "Meta" = table! {"version" = "1"}, "Weights" = table! {"Passing" = 3, "Warning" = 2},
            "TaggedAddresses" = table! {"lan" = table! {"Address" = "10.0.0.2", "Port" = 81}},
        },
        "Check" = table! {
            "CheckID" = t.name("c"), "Name" = "c", "Status" = "warning", "Output" = "slow",
            "Definition" = table! {
                "HTTP" = "http://10.0.0.1", "Interval" = "10s", "Header" = table! {"A" = list!["1"]},
            },
        },
    };
    t.ok("catalog_register", args![registration]).await;
    t.ok("coordinate_update", args![table! {
        "Node" = node.as_str(),
        "Coord" = table! {
            "Vec" = list![0.5, 0, 0, 0, 0, 0, 0, 0], "Error" = 1.25, "Adjustment" = 0, "Height" = 0.001,
        },
    }])
    .await;
    t.until("the coordinate is applied", || async {
        let found = t.value("coordinate_node", args![node.as_str()]).await;
        found != Value::Null && !found.items().is_empty()
    })
    .await;
    let mut checks = Vec::new();
    for (method, name) in [
        ("catalog_node", node.as_str()),
        ("health_node", &node),
        ("health_service", &t.name("web")),
        ("catalog_service", &t.name("web")),
        ("coordinate_node", &node),
    ] {
        checks.push(comes_back(&t, method, name).await);
    }
    let snapshot = save(&t).await;
    t.ok("catalog_deregister", args![table! {"Node" = node.as_str()}]).await;
    restore(&t, snapshot).await;
    for check in checks {
        check(&t).await;
    }
    // The tables that are derived from it are there too: a check's end ends what depends on it.
    let session = t
        .session(table! {
            "Node" = node.as_str(), "NodeChecks" = list![t.name("c")], "LockDelay" = "0s",
        })
        .await;
    let critical = table! {
        "Node" = node.as_str(), "SkipNodeUpdate" = true,
        "Check" = table! {"CheckID" = t.name("c"), "Name" = "c", "Status" = "critical"},
    };
    t.ok("catalog_register", args![critical]).await;
    assert_eq!(t.value("session_info", args![session]).await, Value::Null);
    t.ok("catalog_deregister", args![table! {"Node" = node}]).await;
}

async fn entries_and_queries_come_back(t: T) {
    let entry = table! {
        "Kind" = "service-defaults", "Name" = t.name("web"), "Protocol" = "http",
    };
    t.ok("config_write", args![entry]).await;
    let query = table! {
        "Name" = t.name("q"), "Service" = table! {"Service" = "web", "Tags" = list!["a"]},
        "DNS" = table! {"TTL" = "10s"},
    };
    let query = t.value("query_create", args![query]).await.as_str().unwrap().to_owned();
    let read = async || {
        let entry = t.value("config_read", args!["service-defaults", t.name("web")]).await;
        (entry, t.value("query_read", args![query.as_str()]).await)
    };
    let before = read().await;
    let snapshot = save(&t).await;
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    t.ok("query_delete", args![query.as_str()]).await;
    restore(&t, snapshot).await;
    assert_eq!(read().await, before);
    t.ok("config_delete", args!["service-defaults", t.name("web")]).await;
    t.ok("query_delete", args![query.as_str()]).await;
}

async fn the_agent_keeps_its_services(t: T) {
    let snapshot = save(&t).await;
    t.ok("agent_service_register", args![table! {"Name" = t.name("web")}]).await;
    restore(&t, snapshot).await;
    let services = t.value("agent_services", args![]).await;
    assert!(services.get(&t.name("web")).is_some(), "{services:?}");
    let found = t.value("catalog_service", args![t.name("web")]).await;
    assert_eq!(found.items().len(), 0, "the catalog has it again within a minute, not at once");
    t.ok("agent_service_deregister", args![t.name("web")]).await;
}

async fn tokens_come_back_with_their_permissions(t: T) {
    let t = t.with_acls(Deny);
    let rules = format!("key_prefix \"{}\" {{ policy = \"read\" }}", t.name("k"));
    let policy = table! {"Name" = t.name("p"), "Rules" = rules};
    let policy = t.value("acl_policy_create", args![policy]).await;
    let policies = || list![table! {"ID" = text(&policy, "ID")}];
    let role = table! {"Name" = t.name("r"), "Policies" = policies()};
    let role = t.value("acl_role_create", args![role]).await;
    let roles = list![table! {"ID" = text(&role, "ID")}];
    let token = table! {"Roles" = roles, "Description" = "d", "ExpirationTTL" = "1h"};
    let token = t.value("acl_token_create", args![token]).await;
    let same = comes_back(&t, "acl_token_read", text(&token, "AccessorID")).await;
    let snapshot = save(&t).await;
    t.ok("acl_token_delete", args![text(&token, "AccessorID")]).await;
    t.ok("acl_role_delete", args![text(&role, "ID")]).await;
    t.ok("acl_policy_delete", args![text(&policy, "ID")]).await;
    restore(&t, snapshot).await;
    same(&t).await;
    let caller = t.with_token(text(&token, "SecretID"));
    caller.ok("kv_get", args![t.name("k")]).await;
    caller.fails("kv_put", args![t.name("k"), ""], Kind::PermissionDenied).await;
}

async fn logins_work_again(t: T) {
    let t = t.with_acls(Deny);
    let issuer = crate::acl::logins::Issuer::new();
    let config = table! {
        "JWTValidationPubKeys" = list![issuer.public_key()], "BoundAudiences" = list!["consul"],
        "ClaimMappings" = table! {"team" = "team"},
    };
    let method = table! {"Name" = t.name("m"), "Type" = "jwt", "Config" = config};
    t.ok("acl_auth_method_create", args![method]).await;
    for (selector, bound) in [("value.team == a", "bound"), ("value.team == b", "other")] {
        t.ok(
            "acl_binding_rule_create",
            args![table! {
                "AuthMethod" = t.name("m"), "BindType" = "service", "BindName" = bound,
                "Selector" = selector,
            }],
        )
        .await;
    }
    let snapshot = save(&t).await;
    t.ok("acl_auth_method_delete", args![t.name("m")]).await;
    restore(&t, snapshot).await;
    let bearer = issuer.sign(&crate::acl::logins::claims());
    let login = table! {"AuthMethod" = t.name("m"), "BearerToken" = bearer};
    let token = t.value("acl_login", args![login]).await;
    let services = token.get("ServiceIdentities").unwrap();
    assert_eq!(crate::target::texts(services, "ServiceName"), ["bound"]);
}

async fn a_waiting_query_returns_after_a_restore_with_what_it_has_found_before(t: T) {
    let folder = t.name("waits/");
    let (old, new) = (format!("{folder}old"), format!("{folder}new"));
    t.ok("kv_put", args![old.as_str(), ""]).await;
    let snapshot = save(&t).await;
    t.ok("kv_put", args![new.as_str(), ""]).await;
    let index = t.index("kv_list", args![folder.as_str()]).await;
    let begun = Instant::now();
    let waiting = t.call("kv_list", args![folder.as_str(); "index" = index, "wait" = LONG]);
    let restored = async {
        crate::target::pause(Duration::from_millis(300)).await;
        t.ok("snapshot_restore", args![snapshot]).await;
    };
    let (answer, ()) = tokio::join!(waiting, restored);
    let answer = answer.expect("an answer");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!((answer.value.items().len(), answer.meta.index), (2, Some(index)));
    assert!(t.index("kv_list", args![folder.as_str()]).await < index);
}

async fn a_snapshot_is_an_archive(t: T) {
    let answer = t.raw("GET", "/v1/snapshot", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/x-gzip"));
    assert_eq!(answer.header("x-consul-knownleader"), Some("true"));
    let index: u64 = answer.header("x-consul-index").unwrap().parse().unwrap();
    let Value::Bytes(snapshot) = save(&t).await else { panic!("not bytes") };
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&*snapshot));
    let mut names = Vec::new();
    for entry in tar.entries().unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path().unwrap().display().to_string());
        if names.len() == 1 {
            let meta: serde_json::Value = serde_json::from_reader(entry).unwrap();
            assert!(meta["Index"].as_u64().unwrap() >= index, "{meta}");
            assert_eq!((&meta["Version"], &meta["Term"].is_u64()), (&1.into(), &true));
        }
    }
    assert_eq!(names, ["meta.json", "state.bin", "SHA256SUMS"]);
}

/// An archive of these files, with the sums of them or other ones.
fn archive(files: &[(&str, &str)]) -> Value {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    Value::Bytes(tar.into_inner().unwrap().finish().unwrap())
}

async fn an_invalid_snapshot_is_refused_and_changes_nothing(t: T) {
    t.ok("kv_put", args![t.name("k"), "kept"]).await;
    let sums = "00  meta.json\n00  state.bin\n";
    let (of_braces, of_nothing) = (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    );
    let of_state = format!("00  meta.json\n{of_nothing}  state.bin\n");
    let of_meta = format!("{of_braces}  meta.json\n00  state.bin\n");
    for (snapshot, why) in [
        ("".into(), "failed to decompress snapshot: EOF"),
        ("garbage".into(), "failed to decompress snapshot: unexpected EOF"),
        ("much more garbage".into(), "failed to decompress snapshot: gzip: invalid header"),
        (
            archive(&[("meta.json", "{}"), ("other", "")]),
            "failed to read snapshot file: unexpected file \"other\" in snapshot",
        ),
        (
            archive(&[("meta.json", "{}"), ("state.bin", ""), ("SHA256SUMS", sums)]),
            "failed to read snapshot file: failed checking integrity of snapshot: hash check failed",
        ),
        (
            archive(&[("meta.json", "{}"), ("state.bin", ""), ("SHA256SUMS", &of_state)]),
            "failed checking integrity of snapshot: hash check failed for \"meta.json\"",
        ),
        (
            archive(&[("meta.json", "{}"), ("state.bin", ""), ("SHA256SUMS", &of_meta)]),
            "failed checking integrity of snapshot: hash check failed for \"state.bin\"",
        ),
        (
            archive(&[("meta.json", "{}"), ("state.bin", "")]),
            "failed to read snapshot file: failed checking integrity of snapshot: file missing",
        ),
    ] {
        let error = t.fails("snapshot_restore", args![snapshot], Kind::Http).await;
        assert!(error.message().contains(why), "{error} without {why}");
    }
    let Value::Bytes(whole) = save(&t).await else { panic!("not bytes") };
    let half = Value::Bytes(whole[..whole.len() / 2].into());
    let error = t.fails("snapshot_restore", args![half], Kind::Http).await;
    assert!(error.message().contains("failed to read snapshot file: failed"), "{error}");
    // All files are whole, but not the end of the compressed data; and a second archive follows the first.
    for (changed, why) in [
        (whole[..whole.len() - 1].to_vec(), "unexpected EOF"),
        ([&whole[..], &whole[..]].concat(), "unread uncompressed bytes remain"),
    ] {
        let changed = Value::Bytes(changed);
        let error = t.fails("snapshot_restore", args![changed], Kind::Http).await;
        assert!(error.message().contains(why), "{error} without {why}");
    }
    assert_eq!(t.value("kv_get", args![t.name("k")]).await, "kept".into());
}

async fn snapshots_need_permissions_for_tokens(t: T) {
    let t = t.with_acls(Deny);
    let snapshot = save(&t).await;
    for (rules, is_enough) in
        [("operator = \"write\"", false), ("acl = \"read\"", false), ("acl = \"write\"", true)]
    {
        let name = t.name(&rules.replace([' ', '"', '='], ""));
        let policy =
            t.value("acl_policy_create", args![table! {"Name" = name, "Rules" = rules}]).await;
        let policies = list![table! {"ID" = text(&policy, "ID")}];
        let token = t.value("acl_token_create", args![table! {"Policies" = policies}]).await;
        let caller = t.with_token(text(&token, "SecretID"));
        if is_enough {
            caller.ok("snapshot_save", args![]).await;
            caller.ok("snapshot_restore", args![snapshot.clone()]).await;
        } else {
            caller.fails("snapshot_save", args![], Kind::PermissionDenied).await;
            caller.fails("snapshot_restore", args![snapshot.clone()], Kind::PermissionDenied).await;
        }
    }
}
