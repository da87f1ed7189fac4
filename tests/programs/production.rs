//! The manager `consul_production_config` on servers that a spec cannot start: a server that records the requests, and
//! servers with ACLs.

use crate::support::cluster::Cluster;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::{Trials, add};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Reads keys whose names say which consistency is requested.
const READS: &str = r#"
local production = require("consul_production_config")

local function manager(options)
  local manager = production.new()
  manager.config.consul.servers = { os.getenv("ADDRESS") }
  manager.config.cluster.node_id = "reader"
  for section, values in pairs(options) do
    for name, value in pairs(values) do
      manager.config[section][name] = value
    end
  end
  manager:init()
  return manager
end

local one = manager({})
one:read_data("nothing")
for _, mode in ipairs({ "stale", "consistent", "default" }) do
  one:read_data(mode, { consistency = mode })
end
one:cleanup()

one = manager({ storage = { kv_consistency = "stale" } })
one:read_data("kv_consistency")
one:read_data("kv_consistency-default", { consistency = "default" })
one:cleanup()

one = manager({ cluster = { consistency_mode = "stale" } })
one:read_data("consistency_mode")
one:read_data("consistency_mode-default", { consistency = "default" })
one:get_healthy_client():kv_get("client")
one:cleanup()
"#;

/// A manager with a token whose policy is in RULES, with the prefixes of the documentation; fails
/// if a request is refused.
const PERMITTED: &str = r#"
local admin = require("consul_ffi").new()
local name = "manager-" .. os.time() .. "-" .. os.getenv("ROUND")
assert(admin:acl_policy_create({ name = name, rules = os.getenv("RULES") }))
local _, token = assert(admin:acl_token_create({ policies = { { name = name } } }))
assert(admin:kv_put("config/cluster/min_nodes", "1"))

local manager = require("consul_production_config").new()
manager.config.consul.acl_token = token.SecretID
manager.config.cluster.node_id = name
manager.config.cluster.election_timeout = 2
manager.config.sources.kv_prefix = "config/"
manager.config.security.enable_acl = true
manager:init()
assert(manager:store_data("key", { a = 1 }))
assert(manager:read_data("key").a == 1)
local health = manager:monitor_health()
assert(health.is_healthy, table.concat(health.issues, "; "))
assert(manager:get_cluster_info().is_leader)
assert(manager.config.cluster.min_nodes == 1)
-- The key's change must be seen, too.
assert(admin:kv_put("config/cluster/min_nodes", "2"))
local limit = os.time() + 5
repeat
  manager:poll()
until manager.config.cluster.min_nodes == 2 or os.time() > limit
assert(manager.config.cluster.min_nodes == 2)
manager:cleanup()
"#;

/// A manager, configured by its environment, that checks its health for each line that it reads,
/// and prints it as a line.
const TOLD: &str = r#"
local manager = require("consul_production_config").new()
manager.config.cluster.write_timeout = 2
manager:init()

local function look()
  local success, _, err = manager:store_data("key", 1)
  local info = manager:get_cluster_info()
  return ("%s %d %s"):format(success and "stored" or err.kind, info.node_count, info.leader_node)
end

print(look())
io.stdout:flush()
for _ in io.lines() do
  print(look())
  io.stdout:flush()
end
"#;

/// A manager with replicas that never polls: it stores or reads values for each line that it reads, and prints the
/// numbers of those that were acknowledged, or read from replicas.
const REPLICATED: &str = r#"
local manager = require("consul_production_config").new()
manager.config.cluster = { replication_factor = 3, write_quorum = 2, read_quorum = 2 }
manager:init()

local does = {}

function does.store(number)
  return (manager:store_data("quotes/" .. number, { number = number }))
end

function does.read(number)
  local quote, outcome = manager:read_data("quotes/" .. number)
  return quote and quote.number == number and type(outcome) == "table" and #outcome.nodes > 0
end

for line in io.lines() do
  local action, first, last = line:match("(%a+) (%d+) (%d+)")
  local done = {}
  for number = first, last do
    if does[action](number) then
      done[#done + 1] = number
    end
  end
  print(table.concat(done, " "))
  io.stdout:flush()
end
"#;

/// How many times the first value is stored until the replicas have their places.
const TRIES: usize = 20;

/// The limit for a manager's recovery after Consul's return.
const BACK: Duration = Duration::from_secs(25);

fn luajit(program: &str) -> Command {
    let mut luajit = Command::new("luajit");
    luajit
        .args(["-e", program])
        .env("LUA_PATH", "./lua/?.lua;;")
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    luajit
}

fn lua(program: &str, environment: &[(&str, &str)]) -> Output {
    luajit(program).envs(environment.iter().copied()).output().expect("luajit runs")
}

/// A manager in its own process, which is blocked until it is told to check.
struct Told {
    process: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Told {
    fn new(address: &str) -> Told {
        let mut told = Told::running(TOLD, address, "told");
        assert_eq!(told.said(), "stored 1 told");
        told
    }

    fn running(program: &str, address: &str, node_id: &str) -> Told {
        let mut process = luajit(program)
            .envs([("CONSUL_HTTP_ADDR", address), ("NODE_ID", node_id)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("luajit runs");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let input = process.stdin.take();
        Told { process, input, lines }
    }

    fn said(&mut self) -> String {
        self.lines.next().expect("it has not ended").expect("text")
    }

    fn look(&mut self) -> String {
        self.answer("look")
    }

    fn answer(&mut self, line: &str) -> String {
        let mut input = self.input.as_ref().expect("it is open");
        input.write_all(format!("{line}\n").as_bytes()).expect("it has not ended");
        self.said()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

/// The bytes that clients sent over each connection.
type Sent = Arc<Mutex<Vec<Vec<u8>>>>;

/// Forwards everything to a server; returns its own address and the bytes that it forwarded.
fn listening_in(server: String) -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let sent = Sent::default();
    let seen = Arc::clone(&sent);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(upstream) = TcpStream::connect(&server) else { return };
            let (Ok(from), Ok(to)) = (client.try_clone(), upstream.try_clone()) else { return };
            let number = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(Vec::new());
                seen.len() - 1
            };
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                pass(from, to, |bytes| seen.lock().expect("no panic")[number].extend(bytes));
            });
            thread::spawn(move || pass(upstream, client, |_| {}));
        }
    });
    (address, sent)
}

fn pass(mut from: TcpStream, mut to: TcpStream, saw: impl Fn(&[u8])) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        saw(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for version in ["1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("a manager without Consul {version}"));
        let name = format!("a_manager_is_whole_again_after_outages_of_consul [{version}]");
        trials.add_unless(missing, name, || lives_through_outages(version));
    }
    for version in [consul::SIM, "1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("a manager on Consul {version}"));
        let name = format!("stored_data_survive_a_node_of_programs_that_never_poll [{version}]");
        trials.add_unless(missing, name, || survives_a_node(version));
        let name = format!("the_policy_of_the_documentation_is_enough_and_the_least [{version}]");
        trials.add_unless(missing, name, || is_enough_and_the_least(version));
    }
    add!(trials, the_requested_consistency_is_sent);
    trials
}

fn the_requested_consistency_is_sent() {
    let consul = RealConsul::start(consul::SIM).expect("it runs");
    let (address, sent) = listening_in(consul.address.clone());
    let output = lua(READS, &[("ADDRESS", &address)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sent = sent.lock().expect("no panic");
    let lines: Vec<_> = sent
        .iter()
        .flat_map(|bytes| {
            String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|line| {
            Some(line.strip_prefix("GET /v1/kv/")?.strip_suffix(" HTTP/1.1")?.to_owned())
        })
        .collect();
    for (key, query) in [
        ("nothing", "?consistent"),
        ("stale", "?stale"),
        ("consistent", "?consistent"),
        ("default", ""),
        ("kv_consistency", "?stale"),
        ("kv_consistency-default", ""),
        ("consistency_mode", "?stale"),
        ("consistency_mode-default", ""),
    ] {
        let wanted = format!("stock-tsdb/{key}{query}");
        assert!(lines.contains(&wanted), "{wanted} is not among {lines:?}");
    }
    assert!(lines.contains(&"client?stale".to_owned()), "{lines:?}");
}

/// The lines of the documentation's policy.
fn rules() -> Vec<String> {
    let page = include_str!("../../docs/production.md");
    let section = page.split("\n## The least policy\n").nth(1).expect("the section");
    let block = section.split("```hcl\n").nth(1).expect("a policy").split("```").next();
    block.expect("its end").lines().map(str::to_owned).collect()
}

/// Whether a manager works with these rules; otherwise its message.
fn works(consul: &RealConsul, rules: &[String], round: usize) -> Result<(), String> {
    let output = lua(
        PERMITTED,
        &[
            ("CONSUL_HTTP_ADDR", &consul.address),
            ("CONSUL_HTTP_TOKEN", &consul.token),
            ("RULES", &rules.join("\n")),
            ("ROUND", &round.to_string()),
        ],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn is_enough_and_the_least(version: &str) -> Result<(), String> {
    let rules = rules();
    assert!(rules.len() >= 6, "{rules:?}");
    let consul = RealConsul::start_with_acl(version, "deny")?;
    works(&consul, &rules, 0)?;
    if version == consul::SIM {
        for left_out in 0..rules.len() {
            let mut fewer = rules.clone();
            let rule = fewer.remove(left_out);
            assert!(works(&consul, &fewer, left_out + 1).is_err(), "{rule} is not needed");
        }
    }
    Ok(())
}

/// Consul dies and restarts; meanwhile the manager's program is blocked, except for what `away`
/// does.
fn comes_back(
    consul: &mut Cluster,
    told: &mut Told,
    what: &str,
    away: impl FnOnce(&mut Cluster, &mut Told),
) {
    consul.kill(0);
    away(consul, told);
    consul.restart(0);
    consul.wait_for_leader();
    thread::sleep(BACK);
    assert_eq!(told.look(), "stored 1 told", "{what}");
}

fn lives_through_outages(version: &str) -> Result<(), String> {
    let mut consul = Cluster::start(1, version)?;
    let mut told = Told::new(&consul.address(0));
    comes_back(&mut consul, &mut told, "restarted", |_, _| {});
    comes_back(&mut consul, &mut told, "wiped", |consul, _| consul.wipe(0));
    comes_back(&mut consul, &mut told, "away", |_, told| {
        // Minutes, shortened; until then each call reports the failure at once, by its kind.
        thread::sleep(Duration::from_secs(20));
        let begun = Instant::now();
        assert_eq!(told.look(), "connect 1 none");
        // Three pauses between attempts, together up to 0.35 s; the rest is for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    });
    Ok(())
}

fn survives_a_node(version: &str) -> Result<(), String> {
    let consul = RealConsul::start(version)?;
    let run = |id: &str| Told::running(REPLICATED, &consul.address, id);
    let mut managers = ["n1", "n2", "n3"].map(run);
    let begun = (0..TRIES).any(|_| managers[0].answer("store 1 1") == "1");
    assert!(begun, "nothing was stored");
    assert_eq!(managers[0].answer("store 2 4"), "2 3 4");
    assert_eq!(managers[1].answer("store 5 8"), "5 6 7 8");
    assert_eq!(managers[2].answer("store 9 12"), "9 10 11 12");
    managers[2].process.kill().expect("it runs");
    assert_eq!(managers[1].answer("store 13 16"), "13 14 15 16");
    drop(consul);
    let all: Vec<String> = (1..=16).map(|number: u32| number.to_string()).collect();
    for manager in &mut managers[..2] {
        assert_eq!(manager.answer("read 1 16"), all.join(" "));
    }
    Ok(())
}
