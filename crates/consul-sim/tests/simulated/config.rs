//! The configuration of consul-sim: what Consul 1.21 makes of the same files and flags.

use crate::served::{Outcome, PATIENCE, Served, request, shown, talk};
use crate::support::authority::{Authority, Folder};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::{Map, Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The keys that consul-sim knows, as it reads them itself.
const KEYS: &str = include_str!("../../src/config/keys.txt");

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing(consul::SIM, "the configuration of consul-sim");
    let name = "one_warning_names_the_keys_without_effect";
    trials.add_unless(missing, name, one_warning_names_the_keys_without_effect);
    let name = "errors_that_nobody_reads_do_not_stop_it";
    trials.add_unless(missing, name, errors_that_nobody_reads_do_not_stop_it);
    let name = "the_older_name_of_the_management_token_is_known";
    trials.add_unless(missing, name, the_older_name_of_the_management_token_is_known);
    let name = "it_answers_on_a_unix_socket_and_with_tls";
    trials.add_unless(missing, name, it_answers_on_a_unix_socket_and_with_tls);
    let name = "a_port_with_tls_and_without_files_has_a_certificate_of_its_own";
    trials.add_unless(
        missing,
        "a_port_with_tls_takes_the_clients_that_its_files_name",
        a_port_with_tls_takes_the_clients_that_its_files_name,
    );
    trials.add_unless(
        missing,
        name,
        a_port_with_tls_and_without_files_has_a_certificate_of_its_own,
    );
    let missing = missing || consul::is_missing("1.21", "the configuration of Consul 1.21");
    let name = "invalid_files_and_flags_get_consuls_errors [1.21]";
    trials.add_unless(missing, name, invalid_files_and_flags_get_consuls_errors);
    let name = "the_keys_and_their_types_are_those_of_consul [1.21]";
    trials.add_unless(missing, name, the_keys_and_their_types_are_those_of_consul);
    let name = "a_file_means_the_same [1.21]";
    trials.add_unless(missing, name, a_file_means_the_same);
    let name = "the_files_of_a_folder_are_read_in_order [1.21]";
    trials.add_unless(missing, name, the_files_of_a_folder_are_read_in_order);
    let name = "files_are_read_again [1.21]";
    trials.add_unless(missing, name, files_are_read_again);
    let name = "a_reload_refuses_wrong_values_before_it_changes_anything [1.21]";
    trials.add_unless(missing, name, a_reload_refuses_wrong_values);
    let name = "a_reload_reads_the_files_of_tls_again [1.21]";
    trials.add_unless(missing, name, a_reload_reads_the_files_of_tls_again);
    let name = "a_reload_reads_the_agents_own_tokens_again [1.21]";
    trials.add_unless(missing, name, a_reload_reads_the_agents_own_tokens_again);
    trials
}

/// The standard error of an agent that does not start, without empty lines, its usage and consul-sim's warning of keys
/// without effect.
fn refusal(version: &str, flags: &[&str]) -> Result<String, Failed> {
    let output = Command::new("timeout")
        .arg("20")
        .arg(consul::binary(version)?)
        .args(["agent", "-dev", "-http-port=0"])
        .args(flags)
        .output()?;
    if output.status.code() != Some(1) {
        return Err(format!("{flags:?}: {version} ended with {}", output.status).into());
    }
    let printed = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&printed);
    let lines = said.lines().take_while(|line| !line.to_lowercase().starts_with("usage"));
    let is_warning = |line: &str| line.starts_with("==> WARNING: keys without effect");
    Ok(lines.filter(|line| !line.is_empty() && !is_warning(line)).collect::<Vec<_>>().join("\n"))
}

fn check_same(flags: &[&str]) -> Outcome {
    let [ours, theirs] = [refusal(consul::SIM, flags)?, refusal("1.21", flags)?];
    if ours == theirs {
        return Ok(());
    }
    let only = |one: &str, other: &str| -> String {
        one.lines()
            .filter(|line| !other.lines().any(|known| known == *line))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let [ours, theirs] = [only(&ours, &theirs), only(&theirs, &ours)];
    Err(format!("{flags:?}:\n{ours}\non 1.21:\n{theirs}").into())
}

fn invalid_files_and_flags_get_consuls_errors() -> Outcome {
    let folder = Folder::new();
    for (name, text) in [
        (
            "types.hcl",
            r#"ports { http = "x" dns = true } recursors = "1.1.1.1" services { name = 5 check { ttl = 5 } }"#,
        ),
        ("types.json", r#"{"ports": {"http": 1.5}, "services": {"name": "x"}, "recursors": [1]}"#),
        (
            "lists.hcl",
            r#"services = [{ name = "a"}, { name = "b", check = { http = 1 }}] node_meta { a = 5 }"#,
        ),
        (
            "lists.json",
            r#"{"checks": [{"name": 5}], "node_meta": {"a": 1}, "ports": [{"http": 1}, {"dns": 2}]}"#,
        ),
        ("twice.json", r#"{"datacenter": 1, "x": {"y": 2}, "datacenter": "b"}"#),
        ("list.json", "[]"),
        ("unknown.hcl", "acl { tokens { x = \"y\" } }"),
        ("within.hcl", r#"service { name = "a" checks = [{ xx = 1 }] }"#),
        ("case.hcl", "Datacenter = \"x\" NoSuch = 1"),
        ("syntax.hcl", "node_name = null"),
        ("negative.hcl", "limits { kv_max_value_size = -1 } ports { http = 1.5 }"),
        ("datacenter.hcl", "datacenter = \"A B\""),
        ("duration.hcl", "session_ttl_min = \"abc\" default_query_time = \"1x\""),
        ("interval.hcl", r#"service { name = "a" check { http = "http://x" } }"#),
        ("named.hcl", r#"service { name = "a" check { name = "n" id = "i" http = "http://x" } }"#),
        ("both.hcl", r#"check { name = "y" http = "http://x" interval = "1s" ttl = "5s" }"#),
        ("ttl.hcl", r#"check { name = "x" }"#),
        ("ttls.hcl", r#"dns_config { node_ttl = "x" service_ttl { web = "1y" } }"#),
        ("answers.hcl", "dns_config { udp_answer_limit = -1 }"),
        ("records.hcl", "dns_config { a_record_limit = -2 }"),
        ("alternative.hcl", r#"datacenter = "a" alt_domain = "a.b""#),
        ("socket.hcl", r#"addresses { dns = "unix:///x" } ports { dns = 1 }"#),
        ("extension.txt", ""),
        ("after.json", r#"{"node_name": "a"} x"#),
        ("cut.json", r#"{"node_name":"#),
        ("blank.json", "  "),
        ("octal.hcl", "ports { dns = 08 }"),
        ("dotted.hcl", "ports.http = 1"),
        ("comment.hcl", "/* a"),
        ("heredoc.hcl", "node_name = <<END\na\n"),
        ("commas.hcl", r#"retry_join = ["a" "b"]"#),
        ("open.hcl", "ports { dns = 1"),
        ("null.hcl", "node_name = \"a\0\""),
        ("empty.hcl", r#"datacenter = """#),
        ("meta.hcl", r#"node_meta { consul-x = "y" }"#),
        ("output.hcl", "check_output_max_size = 0"),
        ("bootstrap.hcl", r#"config_entries { bootstrap = "x" }"#),
        ("kind.hcl", r#"config_entries { bootstrap { name = "a" } }"#),
        ("kinds.hcl", r#"config_entries { bootstrap { kind = "nope" name = "a" } }"#),
        (
            "member.hcl",
            r#"config_entries { bootstrap = [
                 { kind = "mesh" },
                 { kind = "service-defaults" name = "a" colour = "red" },
               ] }"#,
        ),
        (
            "entry.json",
            r#"{"config_entries": {"bootstrap": [{"Kind": "service-splitter", "Name": "a", "Splits": []}]}}"#,
        ),
    ] {
        check_same(&["-config-file", &folder.file(name, text)])?;
    }
    for version in [consul::SIM, "1.21"] {
        let said = refusal(version, &["-hcl", "acl { default_policy = \"x\" }"])?;
        if !said.contains("Unsupported default ACL policy: x") {
            return Err(format!("{version}: {said}").into());
        }
    }
    // A format counts for files of any name.
    check_same(&["-config-format=hcl", "-config-file", &folder.file("agent", "foo = 1")])?;
    // Files and folders are read in the order of the command line.
    let inside = Folder::new();
    inside.file("bad.hcl", "in_the_folder = 1");
    let (within, file) =
        (inside.path("").display().to_string(), folder.file("bad.hcl", "in_the_file = 1"));
    check_same(&["-config-dir", &within, "-config-file", &file])?;
    for flags in [
        &["-nosuchflag=1"][..],
        &["-datacenter"],
        &["-raft-protocol=x"],
        &["-dev=maybe"],
        &["-hcl", "foo = 1"],
        &["-node", "a", "extra", "more"],
        &["-config-file=/nonexistent.hcl"],
        &["-config-format=yaml", "-config-file=/nonexistent.hcl"],
        &["-node-id=x"],
        &["-node-id=00000000-0000-0000-0000-00000000000x"],
        &["-client=here"],
        &["-advertise=here"],
        &["-advertise=::"],
        &["-http-port=65536"],
    ] {
        check_same(flags)?;
    }
    Ok(())
}

/// Puts a value at the path of each key whose value is not an object; lists of objects have one item.
fn with_each_key(value: &Value) -> Value {
    let mut all = Map::new();
    for line in KEYS.lines() {
        let (path, kind) = line.split_once(' ').expect("a path and a type");
        let kind = kind.strip_suffix(" used").unwrap_or(kind);
        // Their values are free, or definitions.
        if path.starts_with('@') || matches!(kind, "object" | "any" | "list of object") {
            continue;
        }
        let (last, parents) =
            path.rsplit_once('.').map_or((path, ""), |(parents, last)| (last, parents));
        let mut members = &mut all;
        for name in parents.split('.').filter(|name| !name.is_empty()) {
            members = members
                .entry(name)
                .or_insert_with(|| json!({}))
                .as_object_mut()
                .expect("an object");
        }
        members.insert(last.to_owned(), value.clone());
    }
    // Lists of objects.
    for path in [
        &["segments"][..],
        &["acl", "tokens", "managed_service_provider"],
        &["ui_config", "metrics_proxy", "add_headers"],
    ] {
        let (last, parents) = path.split_last().expect("a path");
        let members = parents
            .iter()
            .fold(&mut all, |members, name| members[*name].as_object_mut().expect("an object"));
        let item = members[*last].take();
        members[*last] = json!([item]);
    }
    Value::Object(all)
}

fn the_keys_and_their_types_are_those_of_consul() -> Outcome {
    let folder = Folder::new();
    // A number fits no text, switch, list or map; what a number fits, an object or a text does not.
    for (name, value) in [
        ("numbers.json", json!(1.5)),
        ("objects.json", json!({"a": {"b": 1}})),
        ("texts.json", json!("x")),
    ] {
        check_same(&["-config-file", &folder.file(name, with_each_key(&value).to_string())])?;
    }
    // A key that Consul does not know would be named here, and nothing else is.
    let mut known = with_each_key(&Value::Null);
    known["nosuch"] = json!(1);
    check_same(&["-config-file", &folder.file("names.json", known.to_string())])
}

const FILE: &str = r#"
    node_name = "n1"
    datacenter = "East"
    node_meta { rack = "r1" }
    advertise_addr = "127.0.0.7"
    session_ttl_min = "1s"
    max_query_time = "2s"
    limits { kv_max_value_size = 100 txn_max_req_len = 200 }
    http_config {
      response_headers { "Access-Control-Allow-Origin" = "*" "x-own" = "y" }
      block_endpoints = ["/v1/agent/members", "/v1/kv/secret", "v1/session"]
    }
    service { name = "web" port = 80 tags = ["a"] meta { a_b = "v" } check { ttl = "30s" } }
    services {
      name = "api"
      id = "api-1"
      weights { passing = 5 }
      checks = [
        { http = "http://127.0.0.1:1/" interval = "10s" },
        { id = "x" name = "port" tcp = "127.0.0.1:1" interval = "5s" timeout = "1s" },
      ]
    }
    services {
      name = "placed"
      port = 0x10
      tagged_addresses { lan_ipv4 { address = "10.0.0.9" port = 8 } }
      meta {
        note = <<-END
          two
            lines
          END
      }
    }
    config_entries {
      bootstrap { kind = "service-defaults" name = "api" protocol = "http" }
      bootstrap { kind = "service-defaults" name = "web" protocol = "http" meta { of = "a file" } }
      bootstrap {
        kind = "service-resolver" name = "web" default_subset = "v1"
        subsets { v1 { filter = "Service.Meta.v == 1" } v2 { filter = "Service.Meta.v == 2" } }
        failover { v1 { service_subset = "v2" } }
      }
      bootstrap {
        kind = "service-router" name = "web"
        routes { match { http { path_prefix = "/a" } } destination { service = "api" } }
      }
      bootstrap { kind = "proxy-defaults" name = "global" config { connect_timeout_ms = 5000 } }
    }
    check { id = "mem" name = "memory" ttl = "10s" notes = "hi" status = "passing" }
    checks { name = "of-web" service_id = "web" ttl = "1m" status = "warning" }
"#;

fn a_file_means_the_same() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("agent.hcl", FILE);
    let real = RealConsul::start_with_config("1.21", &file)?;
    let ours = RealConsul::start_with_config(consul::SIM, &file)?;
    let long = "x".repeat(201);
    for (method, path, body) in [
        ("GET", "/v1/agent/services", ""),
        ("GET", "/v1/agent/service/api-1", ""),
        ("GET", "/v1/agent/checks", ""),
        ("GET", "/v1/config/service-defaults", ""),
        ("GET", "/v1/config/service-resolver/web", ""),
        ("GET", "/v1/config/service-router/web", ""),
        ("GET", "/v1/config/proxy-defaults/global", ""),
        // A reload writes those that are missing.
        ("DELETE", "/v1/config/proxy-defaults/global", ""),
        ("PUT", "/v1/agent/reload", ""),
        ("GET", "/v1/config/proxy-defaults", ""),
        ("GET", "/v1/catalog/datacenters", ""),
        ("GET", "/v1/catalog/nodes?dc=east&filter=Meta.rack==r1", ""),
        ("GET", "/v1/catalog/nodes?dc=dc1", ""),
        ("GET", "/v1/agent/members", ""),
        ("GET", "/v1/kv/secrets", ""),
        ("GET", "/v1/kv/public", ""),
        ("GET", "/v1/session/list", ""),
        ("GET", "/v1/nothing", ""),
        ("PUT", "/v1/kv/long", &long[..101]),
        ("PUT", "/v1/txn", &long),
        ("PUT", "/v1/session/create", r#"{"TTL": "500ms"}"#),
        (
            "PUT",
            "/v1/catalog/register",
            r#"{"Node": "n", "Address": "10.0.0.1", "Datacenter": "dc1"}"#,
        ),
        (
            "PUT",
            "/v1/catalog/register",
            r#"{"Node": "n", "Address": "10.0.0.1", "Datacenter": "east"}"#,
        ),
        ("GET", "/v1/catalog/node/n", ""),
    ] {
        let [ours, theirs] =
            [shown(&ours.address, method, path, body)?, shown(&real.address, method, path, body)?];
        if ours != theirs {
            return Err(format!("{method} {path}\n{ours}\n\non 1.21:\n{theirs}").into());
        }
    }
    Ok(())
}

fn the_files_of_a_folder_are_read_in_order() -> Outcome {
    let folder = Folder::new();
    // The values of a later file count, and lists grow; other files are not read.
    folder.file("b.hcl", r#"node_name = "second" services = [{ name = "b" }]"#);
    folder.file("a.json", r#"{"node_name": "first", "services": [{"name": "a"}]}"#);
    folder.file("c.txt", "unknown = 1");
    // A service of its own is one more, and does not replace that of another file.
    folder.file("d.hcl", r#"service { name = "d" } check { name = "cd" ttl = "1h" }"#);
    folder.file("e.json", r#"{"service": {"name": "e"}, "check": {"name": "ce", "ttl": "1h"}}"#);
    let path = folder.path("").display().to_string();
    let mut seen = Vec::new();
    for version in [consul::SIM, "1.21"] {
        let agent = RealConsul::start_with_config(version, &path)?;
        let services = shown(&agent.address, "GET", "/v1/agent/services", "")?;
        let nodes = shown(&agent.address, "GET", "/v1/catalog/nodes", "")?;
        let checks = shown(&agent.address, "GET", "/v1/agent/checks", "")?;
        let all = [services.clone(), nodes, checks].concat();
        let parts = ["a", "b", "second", "d", "e", "cd", "ce"];
        if !parts.iter().all(|part| all.contains(&format!("\"{part}\""))) {
            return Err(format!("{version}: {all}").into());
        }
        seen.push(services);
    }
    if seen[0] == seen[1] { Ok(()) } else { Err(seen.join("\n\non 1.21:\n").into()) }
}

/// `master` is what Consul before 1.11 calls it.
fn the_older_name_of_the_management_token_is_known() -> Outcome {
    const SECRET: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";
    for acl in [
        format!(r#"acl {{ enabled = true tokens {{ master = "{SECRET}" }} }}"#),
        format!(
            r#"acl_datacenter = "dc1" acl_master_token = "{SECRET}" acl_default_policy = "deny""#
        ),
        format!(r#"acl_datacenter = "dc1" acl_master_token = "{SECRET}" acl_token = "{SECRET}""#),
    ] {
        let served = Served::start_with(&["-http-port=0", "-hcl", &acl])?;
        let token = match acl.contains("acl_token") {
            true => String::new(),
            false => format!("X-Consul-Token: {SECRET}\r\n"),
        };
        let said = talk(served.address, &request("GET", "/v1/acl/token/self", &token, ""))?;
        if said.statuses != [200] || !said.text.contains(SECRET) {
            return Err(said.text.into());
        }
    }
    Ok(())
}

fn files_are_read_again() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("agent.hcl", "");
    let mut seen = Vec::new();
    for version in [consul::SIM, "1.21"] {
        std::fs::write(&file, r#"node_name = "n1" service { name = "web" check { ttl = "1h" } }"#)?;
        let agent = RealConsul::start_with_config(version, &file)?;
        let say = |method: &str, path: &str, body: &str| shown(&agent.address, method, path, body);
        let mut said = vec![
            say("PUT", "/v1/agent/service/register", r#"{"Name": "api", "Check": {"TTL": "1h"}}"#)?,
            say("PUT", "/v1/agent/check/register", r#"{"Name": "c", "TTL": "1h"}"#)?,
            say("PUT", "/v1/agent/check/pass/service:web", "")?,
            say("PUT", "/v1/agent/reload", "")?,
            say("GET", "/v1/agent/services", "")?,
            say("GET", "/v1/agent/checks", "")?,
        ];
        std::fs::write(&file, r#"services = [{ name = "web2" }]"#)?;
        said.push(say("PUT", "/v1/agent/reload", "")?);
        said.push(say("GET", "/v1/agent/services", "")?);
        said.push(say("GET", "/v1/agent/checks", "")?);
        std::fs::write(&file, "foo = 1")?;
        said.push(say("PUT", "/v1/agent/reload", "")?.replace(&file, "the file"));
        said.push(say("GET", "/v1/agent/services", "")?);
        // Earlier services are forgotten before the checks are read, and a mistake there leaves the new ones.
        std::fs::write(
            &file,
            r#"services = [{ name = "web3" }] checks = [{ name = "c" service_id = "web2" ttl = "1h" }]"#,
        )?;
        let refused = say("PUT", "/v1/agent/reload", "")?;
        said.push(refused.split(" &{").next().unwrap_or_default().replace('\'', "\""));
        said.push(say("GET", "/v1/agent/services", "")?);
        said.push(say("GET", "/v1/agent/checks", "")?);
        std::fs::write(
            &file,
            r#"services = [{ name = "web4" }, { name = "" }, { name = "web5" }]"#,
        )?;
        said.push(say("PUT", "/v1/agent/reload", "")?);
        said.push(say("GET", "/v1/agent/services", "")?);
        seen.push(said);
    }
    for (ours, theirs) in seen[0].iter().zip(&seen[1]) {
        if ours != theirs {
            return Err(format!("{ours}\n\non 1.21:\n{theirs}").into());
        }
    }
    by_signal(&file)
}

fn a_reload_refuses_wrong_values() -> Outcome {
    const WRONG: &[&str] = &[
        r#"client_addr = "nonsense""#,
        r#"max_query_time = "x""#,
        r#"datacenter = "a b""#,
        "check_output_max_size = 0",
        r#"node_meta { "" = "x" }"#,
        r#"service { name = "w" check { id = "own" ttl = "x" } }"#,
        r#"check { name = "c" http = "http://a" interval = "x" }"#,
        r#"service { name = "w" meta { "" = "x" } }"#,
        r#"service { name = "w" weights { passing = -1 } }"#,
        // Only a start refuses it.
        r#"node_id = "x" service { name = "newer" }"#,
    ];
    let folder = Folder::new();
    let file = folder.file("agent.hcl", "");
    let mut seen = Vec::new();
    for version in [consul::SIM, "1.21"] {
        std::fs::write(&file, r#"service { name = "base" }"#)?;
        let agent = RealConsul::start_with_config(version, &file)?;
        let mut said = Vec::new();
        for wrong in WRONG {
            std::fs::write(&file, wrong)?;
            let answer = shown(&agent.address, "PUT", "/v1/agent/reload", "")?;
            let services = shown(&agent.address, "GET", "/v1/agent/services", "")?;
            said.push([*wrong, &answer, &services].join("\n"));
        }
        seen.push(said);
    }
    for (ours, theirs) in seen[0].iter().zip(&seen[1]) {
        if ours != theirs {
            return Err(format!("{ours}\n\non 1.21:\n{theirs}").into());
        }
    }
    Ok(())
}

fn a_reload_reads_the_files_of_tls_again() -> Outcome {
    let folder = Folder::new();
    let [first, second] = ["first", "second"].map(Authority::new);
    let trusted = [folder.file("first.pem", first.pem()), folder.file("second.pem", second.pem())];
    let write = |authority: &Authority| {
        let identity = authority.sign(&["127.0.0.1"]);
        let certificate = folder.file("certificate.pem", identity.certificate);
        (certificate, folder.file("key.pem", identity.key))
    };
    for version in [consul::SIM, "1.21"] {
        let (certificate, key) = write(&first);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            r#"ports {{ https = {port} }} service {{ name = "web" }}
               tls {{ defaults {{ cert_file = "{certificate}" key_file = "{key}" }} }}"#
        );
        let agent = RealConsul::start_with_config(version, &folder.file("agent.hcl", config))?;
        let url = format!("https://127.0.0.1:{port}/v1/agent/services");
        let is_trusted = |by: &str| -> Result<bool, Failed> {
            let output = Command::new("curl").args(["-sSf", "--cacert", by, &url]).output()?;
            Ok(output.status.success())
        };
        let same = |what: &str, is: [bool; 2]| -> Outcome {
            let are = [is_trusted(&trusted[0])?, is_trusted(&trusted[1])?];
            if are == is { Ok(()) } else { Err(format!("{version}, {what}: {are:?}").into()) }
        };
        let reload = || shown(&agent.address, "PUT", "/v1/agent/reload", "");
        same("at the start", [true, false])?;
        write(&second);
        reload()?;
        same("with another certificate", [false, true])?;
        std::fs::remove_file(&certificate)?;
        let refused = reload()?;
        if !refused.contains("500 ") || !refused.contains("Failed reloading tls configuration: ") {
            return Err(format!("{version}, without a certificate: {refused}").into());
        }
        same("without a certificate", [false, true])?;
        let services = shown(&agent.address, "GET", "/v1/agent/services", "")?;
        if !services.ends_with("{}") {
            return Err(format!("{version}: Consul forgets the services first: {services}").into());
        }
    }
    Ok(())
}

fn a_reload_reads_the_agents_own_tokens_again() -> Outcome {
    const SECRET: &str = "6a1253d2-1785-24fd-91c2-f8e78c745511";
    let folder = Folder::new();
    let config = |own: &str| {
        format!(
            r#"acl {{
                 enabled = true
                 default_policy = "deny"
                 tokens {{ initial_management = "{SECRET}" {own} }}
               }}"#
        )
    };
    for version in [consul::SIM, "1.21"] {
        let file = folder.file("agent.hcl", config(&format!("default = \"{SECRET}\"")));
        let agent = RealConsul::start_with_config(version, &file)?;
        let read = || shown(&agent.address, "GET", "/v1/kv/a", "");
        let before = read()?;
        folder.file("agent.hcl", config(""));
        let path = format!("/v1/agent/reload?token={SECRET}");
        let reloaded = shown(&agent.address, "PUT", &path, "")?;
        let after = read()?;
        if !before.contains(" 404 ") || !reloaded.contains(" 200 ") || !after.contains(" 403 ") {
            return Err(format!("{version}: {before}\n{reloaded}\n{after}").into());
        }
    }
    Ok(())
}

fn by_signal(file: &str) -> Outcome {
    std::fs::write(file, "")?;
    let served = Served::start_with(&["-config-file", file])?;
    std::fs::write(file, "service { name = \"web\" }")?;
    Command::new("kill").args(["-HUP", &served.child.id().to_string()]).status()?;
    let end = Instant::now() + PATIENCE;
    while shown(&served.address.to_string(), "GET", "/v1/agent/services", "")?.ends_with("{}") {
        if Instant::now() > end {
            return Err("SIGHUP did not make it read its file again".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn errors_that_nobody_reads_do_not_stop_it() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("agent.hcl", "");
    let mut served = Served::start_to(&["-config-file", &file], Stdio::piped())?;
    // Each reload prints the name of the key; together they are longer than a pipe takes.
    std::fs::write(&file, format!("{} = 1", "k".repeat(60_000)))?;
    let pid = served.child.id().to_string();
    for signal in ["-HUP", "-HUP", "-HUP", "-TERM"] {
        Command::new("kill").args([signal, &pid]).status()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let end = Instant::now() + PATIENCE;
    while served.child.try_wait()?.is_none() {
        if Instant::now() > end {
            return Err("SIGTERM did not end it".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn one_warning_names_the_keys_without_effect() -> Outcome {
    let folder = Folder::new();
    let file = folder.file(
        "agent.hcl",
        "data_dir = \"/x\" telemetry { statsd_address = \"a\" } datacenter = \"b\"",
    );
    let mut agent = Command::new(consul::binary(consul::SIM)?)
        .args(["agent", "-dev", "-http-port=0", "-bind=127.0.0.1", "-ui", "-config-file", &file])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It has started when it says so; then its warning was printed.
    let mut started = [0; 3];
    agent.stdout.take().ok_or("no output")?.read_exact(&mut started)?;
    agent.kill()?;
    let said = String::from_utf8(agent.wait_with_output()?.stderr)?;
    let wanted = "==> WARNING: keys without effect on a simulated agent: \
                  bind_addr, data_dir, telemetry.statsd_address, ui_config.enabled\n";
    if said == wanted { Ok(()) } else { Err(said.into()) }
}

fn it_answers_on_a_unix_socket_and_with_tls() -> Outcome {
    let folder = Folder::new();
    let authority = Authority::new("the CA");
    let identity = authority.sign(&["127.0.0.1"]);
    let certificate = folder.file("certificate.pem", identity.certificate);
    let key = folder.file("key.pem", identity.key);
    let trusted = folder.file("ca.pem", authority.pem());
    // A file at the path is replaced.
    let socket = folder.file("consul.sock", "left");
    let id = |option: &str| -> Result<String, Failed> {
        let output = Command::new("id").arg(option).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let (user, uid) = (id("-un")?, id("-u")?);
    // Only root can give a file to another group.
    let group = if uid == "0" { "1".to_owned() } else { id("-g")? };
    let config = format!(
        r#"addresses {{ http = "unix://{socket}" https = "127.0.0.1" }} unix_sockets {{ user = "{user}" group = "{group}" mode = "0600" }}
           ports {{ https = 0 }} tls {{ defaults {{ cert_file = "{certificate}" key_file = "{key}" }} }}"#
    );
    for (given, wrong, text) in [
        ("mode = \"0600\"", "mode = \"0x\"", "invalid mode specified: 0x"),
        (&format!("group = \"{group}\""), "group = \"daemon\"", "invalid group specified: daemon"),
        (&format!("user = \"{user}\""), "user = \"no-user\"", "failed to look up user no-user"),
    ] {
        let why = refusal(consul::SIM, &["-hcl", &config.replace(given, wrong)])?;
        if !why.contains(&format!("Failed setting up socket: {text}")) {
            return Err(why.into());
        }
    }
    let file = folder.file("agent.hcl", config);
    let mut served = Served::start_with(&["-http-port=0", "-config-file", &file])?;
    let mut stream = UnixStream::connect(&socket)?;
    stream.write_all(&request("GET", "/v1/status/leader", "", ""))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let file = Path::new(&socket).metadata()?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.permissions());
    let owner = (MetadataExt::uid(&file), MetadataExt::gid(&file));
    let https =
        served.urls.iter().find(|word| word.starts_with("https://")).ok_or("no port with TLS")?;
    let over_tls = Command::new("curl")
        .args(["-sS", "--cacert", &trusted, &format!("{https}/v1/status/leader")])
        .output()?;
    Command::new("kill").args(["-TERM", &served.child.id().to_string()]).status()?;
    served.child.wait()?;
    let stays = Path::new(&socket).exists();
    if said.starts_with("HTTP/1.1 200")
        && mode & 0o777 == 0o600
        && owner == (uid.parse()?, group.parse()?)
        && over_tls.stdout == b"\"127.0.0.1:8300\""
        && !stays
    {
        return Ok(());
    }
    Err(format!("{said}, {mode:o}, {owner:?}, {over_tls:?}, {stays}").into())
}

fn a_port_with_tls_takes_the_clients_that_its_files_name() -> Outcome {
    let folder = Folder::new();
    let (authority, other) = (Authority::new("the CA"), Authority::new("another CA"));
    let pair = |name: &str, authority: &Authority| {
        let identity = authority.sign(&["127.0.0.1"]);
        let certificate = folder.file(&format!("{name}.pem"), identity.certificate);
        (certificate, folder.file(&format!("{name}-key.pem"), identity.key))
    };
    let (certificate, key) = pair("server", &authority);
    let clients = [pair("client", &authority), pair("stranger", &other)];
    std::fs::create_dir(folder.path("authorities"))?;
    let trusted = folder.file("authorities/ca.pem", authority.pem());
    let all = folder.path("authorities").display().to_string();
    let mut wrong = Vec::new();
    for (least, is_1_2_taken) in [("TLSv1_2", true), ("TLSv1_3", false)] {
        for (option, path, name) in [("ca_file", &trusted, "CAFile"), ("ca_path", &all, "CAPath")] {
            let config = format!(
                r#"ports {{ https = 0 }} tls {{ defaults {{ cert_file = "{certificate}" key_file = "{key}"
                   {option} = "{path}" verify_incoming = true tls_min_version = "{least}" }} }}"#
            );
            let served = Served::start_with(&["-hcl", &config])?;
            let mut urls = served.urls.iter();
            let url = urls.find(|url| url.starts_with("https://")).ok_or("no port with TLS")?;
            let asked = |options: &[&str]| {
                let target = format!("{url}/v1/agent/self");
                let mut curl = Command::new("curl");
                curl.args(["-sf", "--cacert", &trusted]).args(options).arg(target).output()
            };
            let with = |(certificate, key): &(String, String), more: &[&'static str]| {
                asked(&[&["--cert", certificate.as_str(), "--key", key.as_str()], more].concat())
            };
            let known = with(&clients[0], &[])?;
            let shown: Value = serde_json::from_slice(&known.stdout).unwrap_or_default();
            let shown = &shown["DebugConfig"]["TLS"]["HTTPS"];
            let seen = [
                shown[name] == **path
                    && shown["VerifyIncoming"] == true
                    && shown["TLSMinVersion"] == least,
                !with(&clients[1], &[])?.status.success(),
                !asked(&[])?.status.success(),
                with(&clients[0], &["--tls-max", "1.2"])?.status.success() == is_1_2_taken,
            ];
            if seen != [true; 4] {
                wrong.push(format!("{least} {option}: {seen:?} {shown}"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn a_port_with_tls_and_without_files_has_a_certificate_of_its_own() -> Outcome {
    let served = Served::start_with(&["-http-port=0", "-hcl", "ports { https = 0 }"])?;
    let mut urls = served.urls.iter();
    let url = urls.find(|url| url.starts_with("https://")).ok_or("no port with TLS")?;
    let answer = |options: &[&str]| {
        Command::new("curl").args(options).arg(format!("{url}/v1/status/leader")).output()
    };
    let (trusting, careful) = (answer(&["-sSk"])?, answer(&["-sS"])?);
    if trusting.stdout == b"\"127.0.0.1:8300\"" && !careful.status.success() {
        return Ok(());
    }
    Err(format!("{trusting:?}, {careful:?}").into())
}
