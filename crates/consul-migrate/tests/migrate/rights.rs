//! The rights that each verb needs: it is tried without each of them, and the page has the result.

use super::etcd::text;
use super::program::{PATIENCE, Run, Running, Servers};
use super::versions::{self, Login, log_in};
use crate::support::authority::Folder;
use crate::support::consul::RealConsul;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The rights of an etcd user, each more than the one before; also the names of users.
const ETCD: [&str; 4] = ["nothing", "read", "readwrite", "root"];

/// The words of a policy about the keys.
const KEYS: [&str; 3] = ["deny", "read", "write"];

/// The same where lists need a right of their own.
const LISTED: [&str; 4] = ["deny", "read", "list", "write"];

/// The columns of the page for etcd's user.
const VERSIONS: [&str; 4] = ["3.4", "3.5", "3.6", "3.7"];

const SESSIONS: [&str; 2] = ["deny", "write"];

/// The rules of a token, by area.
#[derive(Clone, Copy)]
struct Rules {
    keys: &'static str,
    jobs: &'static str,
    encoded: &'static str,
    sessions: &'static str,
}

const ALL: Rules = Rules { keys: "write", jobs: "write", encoded: "write", sessions: "write" };

/// A verb as it is tried, and what is done before; `FILE` is an export.
struct Verb {
    name: &'static str,
    arguments: &'static [&'static str],
    before: &'static [&'static [&'static str]],
}

const COPY: &[&str] = &["copy"];
const REPORT: &[&str] = &["copy", "--report", "FILE.report"];
const CUTOVER: &[&str] = &["cutover", "--yes", "--within", "300", "--freeze", "operator"];
const ALARM: &[&str] =
    &["cutover", "--yes", "--within", "300", "--freeze", "alarm", "--accept-open-deletes"];

const ROLES: &[&str] = &["cutover", "--yes", "--within", "300", "--freeze", "roles"];

const VERBS: [Verb; 13] = [
    Verb { name: "plan", arguments: &["plan"], before: &[COPY] },
    Verb { name: "copy", arguments: COPY, before: &[] },
    Verb { name: "tail", arguments: &["tail"], before: &[COPY] },
    Verb { name: "verify", arguments: &["verify"], before: &[COPY] },
    Verb { name: "cutover --freeze operator", arguments: CUTOVER, before: &[COPY] },
    Verb { name: "cutover --freeze roles", arguments: ROLES, before: &[COPY] },
    Verb { name: "cutover --freeze alarm", arguments: ALARM, before: &[COPY] },
    Verb { name: "rollback", arguments: &["rollback", "--yes"], before: &[COPY, CUTOVER] },
    Verb { name: "finish", arguments: &["finish", "--yes"], before: &[COPY, CUTOVER] },
    Verb { name: "status", arguments: &["status"], before: &[COPY] },
    Verb { name: "export", arguments: &["export", "FILE"], before: &[COPY] },
    Verb { name: "import", arguments: &["import", "--merge", "FILE.saved"], before: &[COPY] },
    Verb { name: "report", arguments: &["report", "FILE.report"], before: &[REPORT] },
];

pub fn run(etcd: &'static str) {
    let folder = Folder::new();
    let consul = RealConsul::start_with_acl("1.21", "deny").unwrap();
    let token = consul.token.clone();
    let servers = versions::servers(etcd, Login::Password, consul, &folder);
    let mut bench = Bench { servers, token, folder };
    bench.has_all_verbs();
    let rows: Vec<_> = VERBS.iter().map(|verb| bench.row(verb)).collect();
    let made = rows.join("\n");
    let column = 1 + VERSIONS.iter().position(|it| *it == etcd).unwrap();
    for page in ["docs/consul-migrate.md", "docs/zh/consul-migrate.md"] {
        let text = std::fs::read_to_string(page).unwrap();
        let of_rights = text.split("\n## ").find(|part| part.contains("`session_prefix`"));
        let rows = of_rights.unwrap_or_default().lines().filter_map(|row| {
            let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
            let is_verb = VERBS.iter().any(|verb| cells[0] == format!("`{}`", verb.name));
            // Of the columns of etcd, that of this version.
            is_verb.then(|| {
                let others = &cells[1 + VERSIONS.len()..];
                [&cells[..1], &cells[column..=column], others].concat().join(" | ")
            })
        });
        let found = rows.map(|row| format!("| {row} |")).collect::<Vec<_>>().join("\n");
        assert_eq!(found, made, "{page} has other rights; those of etcd {etcd} are:\n{made}\n");
    }
}

/// With `acl.enable_key_list_policy` the rights that the page names for it.
pub fn with_key_lists(etcd: &'static str) {
    let folder = Folder::new();
    let config = folder.path("lists.hcl");
    std::fs::write(&config, "acl { enable_key_list_policy = true }").unwrap();
    let options = ["--acl", "deny", "--config", config.to_str().unwrap()];
    let consul = RealConsul::run("1.21", &options).unwrap();
    let token = consul.token.clone();
    let servers = versions::servers(etcd, Login::Password, consul, &folder);
    let mut bench = Bench { servers, token, folder };
    let page = std::fs::read_to_string("docs/consul-migrate.md").unwrap();
    for verb in &VERBS {
        let row = page.lines().find(|row| {
            row.starts_with(&format!("| `{}` |", verb.name)) && row.matches('|').count() == 10
        });
        let cells: Vec<_> = row.unwrap().trim_matches(['|', ' ']).split(" | ").collect();
        let wanted = |cell: &str| cell.replace("read", "list");
        let wanted = [wanted(cells[5]), cells[6].to_owned(), wanted(cells[7])];
        let keys = bench.least(verb, LISTED, |keys| ("root", Rules { keys, ..ALL }));
        let jobs = bench.least(verb, LISTED, |jobs| ("root", Rules { jobs, ..ALL }));
        let encoded = bench.least(verb, LISTED, |encoded| ("root", Rules { encoded, ..ALL }));
        assert_eq!([keys, jobs, encoded].map(cell), wanted, "{}", verb.name);
    }
    bench.names_a_right_without_the_list_of_jobs();
}

/// A right as the page has it.
fn cell(needed: &str) -> String {
    match needed {
        "nothing" | "deny" => "–".to_owned(),
        needed => format!("`{needed}`"),
    }
}

struct Bench {
    servers: Servers,
    /// Consul's management token.
    token: String,
    folder: Folder,
}

impl Bench {
    /// A verb that is added has a row, too.
    fn has_all_verbs(&self) {
        let help = self.servers.run(&["--help"]).ok();
        let (_, commands) = help.split_once("Commands:\n").unwrap();
        let names = commands.lines().take_while(|line| line.starts_with("  "));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            let is_tried = VERBS.iter().any(|verb| verb.arguments[0] == name);
            assert!(is_tried || ["completion", "help"].contains(&name), "{name}");
        }
    }

    /// The least that the verb needs of each area, while all others are allowed.
    fn row(&mut self, verb: &Verb) -> String {
        let etcd = self.least(verb, ETCD, |user| (user, ALL));
        let keys = self.least(verb, KEYS, |keys| ("root", Rules { keys, ..ALL }));
        let jobs = self.least(verb, KEYS, |jobs| ("root", Rules { jobs, ..ALL }));
        let encoded = self.least(verb, KEYS, |encoded| ("root", Rules { encoded, ..ALL }));
        let sessions = self.least(verb, SESSIONS, |sessions| ("root", Rules { sessions, ..ALL }));
        let cells = [etcd, keys, jobs, encoded, sessions].map(cell).join(" | ");
        format!("| `{}` | {cells} |", verb.name)
    }

    fn tried(&mut self, verb: &Verb, user: &str, token: &str) -> Run {
        match verb.name {
            "tail" => self.follows(user, token),
            _ => self.run(user, token, verb.arguments),
        }
    }

    /// The first level with which the verb succeeds; with those before it ends with status 5.
    fn least<const N: usize>(
        &mut self,
        verb: &Verb,
        levels: [&'static str; N],
        given: impl Fn(&'static str) -> (&'static str, Rules),
    ) -> &'static str {
        self.begin(verb);
        for level in levels {
            let (user, rules) = given(level);
            let token = self.limited(rules);
            let mut done = self.tried(verb, user, &token);
            // Version 3.4 of etcd ended by itself in two runs on a busy machine, which says nothing of rights.
            if done.status == 3 && self.servers.etcd.is_revived() {
                self.begin(verb);
                done = self.tried(verb, user, &token);
            }
            match done.status {
                0 => return level,
                // It has found what a copy needs.
                1 if verb.name == "plan" && done.out.contains("the token may not write") => {
                    return level;
                }
                5 => {}
                _ => panic!("{} with {level}: {done:?}", verb.name),
            }
        }
        panic!("{} is denied with all rights", verb.name)
    }

    /// Of a right that a role lacks after a cut-over, `status` looks whether another job has taken it.
    fn names_a_right_without_the_list_of_jobs(&mut self) {
        let all = self.token.clone();
        self.begin(&VERBS[1]);
        for arguments in [COPY, ROLES, &["rollback", "--yes"]] {
            let done = self.run("root", &all, arguments);
            assert_eq!(done.status, 0, "{arguments:?}: {done:?}");
        }
        let perm =
            json!({ "permType": "READ", "key": text(b"/app/"), "range_end": text(b"/app0") });
        let role = json!({ "name": "readwrite", "perm": perm });
        self.servers.etcd.gateway().post("auth/role/grant", role);
        let few = Rules { keys: "deny", jobs: "read", encoded: "deny", sessions: "deny" };
        let token = self.limited(few);
        let status = self.run("root", &token, &["status"]);
        status.ends(0, &["etcdctl role grant-permission readwrite readwrite"]);
    }

    /// Removes what other tries have left, and does what is done before the verb.
    fn begin(&mut self, verb: &Verb) {
        let all = self.token.clone();
        let path = format!("/v1/kv/?recurse&token={all}");
        assert_eq!(self.servers.consul().send("DELETE", &path, "").unwrap().0, 200);
        let gateway = self.servers.etcd.gateway();
        let on = gateway.post("maintenance/alarm", json!({ "action": "GET" }));
        for alarm in on["alarms"].as_array().into_iter().flatten() {
            let member = &alarm["memberID"];
            let lift = json!({ "action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE" });
            gateway.post("maintenance/alarm", lift);
        }
        let perm =
            json!({ "permType": "READWRITE", "key": text(b"/app/"), "range_end": text(b"/app0") });
        gateway.post("auth/role/grant", json!({ "name": "readwrite", "perm": perm }));
        gateway.put(b"/app/a", b"1");
        for arguments in verb.before {
            let done = self.run("root", &all, arguments);
            assert_eq!(done.status, 0, "{arguments:?}: {done:?}");
        }
        if verb.name.starts_with("cutover") {
            // The rest to apply.
            gateway.put(b"/app/a", b"2");
            gateway.put(b"/app//odd", fastrand::u64(..).to_string().as_bytes());
        }
        if verb.name == "import" {
            let _ = std::fs::remove_file(self.folder.path("FILE.saved"));
            self.run("root", &all, &["export", "FILE.saved"]).ok();
        }
        if verb.name == "rollback" {
            // Something to set in etcd.
            let path = format!("/v1/kv/app/a?token={all}");
            assert_eq!(self.servers.consul().send("PUT", &path, "2").unwrap().0, 200);
        }
    }

    fn command(&mut self, user: &str, token: &str, arguments: &[&str]) -> Vec<String> {
        log_in(&mut self.servers, user);
        self.servers.environment.retain(|(name, _)| *name != "CONSUL_HTTP_TOKEN");
        self.servers.environment.push(("CONSUL_HTTP_TOKEN", token.to_owned()));
        let given = ["--etcd-prefix", "/app/", "--on", "path-key=encode"].iter().chain(arguments);
        let in_folder = |it: &&str| match it.starts_with("FILE") {
            true => self.folder.path(it).to_str().unwrap().to_owned(),
            false => (*it).to_owned(),
        };
        let _ = std::fs::remove_file(self.folder.path("FILE"));
        given.map(in_folder).collect()
    }

    fn run(&mut self, user: &str, token: &str, arguments: &[&str]) -> Run {
        let command = self.command(user, token, arguments);
        self.servers.run(&command.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A tail until it has applied a change, which is status 0 here, or has ended.
    fn follows(&mut self, user: &str, token: &str) -> Run {
        let command = self.command(user, token, &["tail"]);
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let mut tail: Running = self.servers.start_run(&command);
        let value = fastrand::u64(..).to_string();
        for key in ["/app/a", "/app//odd"] {
            self.servers.etcd.gateway().put(key.as_bytes(), value.as_bytes());
        }
        let odd = "_etcd/2f6170702f2f6f6464/0000-0001";
        let end = Instant::now() + PATIENCE;
        while !tail.has_ended() {
            let has = |key: &str| self.stored(key).is_some_and(|it| it == value.as_bytes());
            if has("app/a") && has(odd) {
                tail.signal("INT");
                return Run { status: 0, ..tail.end() };
            }
            if Instant::now() >= end {
                tail.signal("INT");
                panic!(
                    "the tail of {user} does not apply both: {:?}, {:?}, {:?}",
                    self.stored("app/a"),
                    self.stored(odd),
                    tail.end()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        tail.end()
    }

    fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let path = format!("/v1/kv/{key}?raw&token={}", self.token);
        let (status, body) = self.servers.consul().send("GET", &path, "").unwrap();
        (status == 200).then_some(body)
    }

    /// A token with these rules.
    fn limited(&self, rules: Rules) -> String {
        let Rules { keys, jobs, encoded, sessions } = rules;
        let text = format!(
            r#"key_prefix "" {{ policy = "{keys}" }}
            key_prefix "_migrate/" {{ policy = "{jobs}" }}
            key_prefix "_etcd/" {{ policy = "{encoded}" }}
            session_prefix "" {{ policy = "{sessions}" }}"#
        );
        let consul = self.servers.consul();
        let create = |what: &str, body: Value| -> Value {
            let path = format!("/v1/acl/{what}?token={}", self.token);
            let (_, said) = consul.send("PUT", &path, body.to_string()).unwrap();
            serde_json::from_slice(&said).unwrap()
        };
        let name = format!("limited-{:x}", fastrand::u64(..));
        create("policy", json!({ "Name": name, "Rules": text }));
        let made = create("token", json!({ "Policies": [{ "Name": name }] }));
        made["SecretID"].as_str().unwrap().to_owned()
    }
}
