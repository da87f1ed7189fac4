//! Views that one worker writes for all: `consul_ffi.openresty.views`.

use super::{Nginx, Outcome, PATIENCE, check, get, send, wait_until};
use libtest_mimic::Failed;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u32 = 4;
const SERVICES: usize = 20;

/// How soon a change is to be in every worker, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// What every worker answers with for a service: its ports.
const BLOCKS: &str = r#"lua_shared_dict consul 10m;
    init_worker_by_lua_block {
        views = require("consul_ffi.openresty.views").new({
            dict = "consul",
            filter = function(name) return name:find("^s%d+$") end,
            dump_file = ngx.config.prefix() .. "dump.json",
        })
        views:start()
    }
    server {
        location /service/ {
            content_by_lua_block {
                local view = views:view(ngx.var.uri:sub(#"/service/" + 1))
                local ready, message = view:ready(5000)
                local ports = {}
                for i, instance in ipairs(ready and view:all() or {}) do
                    ports[i] = instance.port
                end
                table.sort(ports)
                ngx.say(ngx.worker.pid(), " ", ready and table.concat(ports, ",") or message)
            }
        }
        location = /pick {
            content_by_lua_block {
                local instance, message = views:view("s1"):pick()
                ngx.say(instance and instance.port or message)
            }
        }
        location = /lease { content_by_lua_block { ngx.say(ngx.shared.consul:get("lease")) } }
        location = /age { content_by_lua_block { ngx.say(views:view("s1"):age_s()) } }
"#;

fn start(unpacked: &Path) -> Result<Nginx, Failed> {
    let nginx = Nginx::start_with(unpacked, WORKERS, |text| text.replacen("server {", BLOCKS, 1))?;
    for service in 1..=SERVICES {
        register(&nginx, service, 1)?;
        register(&nginx, service, 2)?;
    }
    Ok(nginx)
}

/// Registers the instance `10 * service + number` with a check.
fn register(nginx: &Nginx, service: usize, number: usize) -> Outcome {
    let port = 10 * service + number;
    let body = format!(
        r#"{{"ID":"{port}","Name":"s{service}","Address":"127.0.0.1","Port":{port},
            "Check":{{"TTL":"10m","Status":"passing"}}}}"#
    );
    let answer = send(nginx.consul_address, "PUT", "/v1/agent/service/register", &body)?;
    check(answer.status == 200, &answer.body)
}

fn fail(nginx: &Nginx, service: usize, number: usize) -> Outcome {
    let path = format!("/v1/agent/check/fail/service:{}", 10 * service + number);
    let answer = send(nginx.consul_address, "PUT", &path, "")?;
    check(answer.status == 200, &answer.body)
}

/// Waits until every worker answers with these ports.
fn becomes(nginx: &Nginx, service: usize, ports: &str) -> Outcome {
    let mut workers: BTreeMap<String, String> = BTreeMap::new();
    let begun = Instant::now();
    loop {
        let body = get(nginx.address, &format!("/service/s{service}"))?.body;
        let (worker, found) = body.trim().split_once(' ').unwrap_or((body.trim(), ""));
        workers.insert(worker.to_owned(), found.to_owned());
        let right = workers.values().filter(|found| *found == ports).count();
        if right >= WORKERS as usize {
            return Ok(());
        }
        check(begun.elapsed() < PATIENCE, &format!("wanted {ports}, got {workers:?}"))?;
    }
}

fn ports(service: usize) -> String {
    format!("{},{}", 10 * service + 1, 10 * service + 2)
}

pub fn workers_share(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked)?;
    for service in 1..=SERVICES {
        becomes(&nginx, service, &ports(service))?;
    }
    check(nginx.waiting()? <= 8, &format!("{} connections", nginx.waiting()?))?;
    let mut slowest = Duration::ZERO;
    for service in 1..=5 {
        let begun = Instant::now();
        fail(&nginx, service, 2)?;
        becomes(&nginx, service, &(10 * service + 1).to_string())?;
        slowest = slowest.max(begun.elapsed());
    }
    check(slowest <= SOON, &format!("a change took {slowest:?}"))
}

fn watcher(nginx: &Nginx) -> Result<String, Failed> {
    let body = get(nginx.address, "/lease")?.body;
    Ok(body.split('.').next().unwrap_or_default().trim().to_owned())
}

/// What an instance that is gone leaves, and Consul after it has lost everything.
pub fn gone_and_lost(unpacked: &Path) -> Outcome {
    let mut nginx = start(unpacked)?;
    becomes(&nginx, 1, &ports(1))?;
    let picked = get(nginx.address, "/pick")?.body;
    check(["11", "12"].contains(&picked.trim()), &picked)?;
    for number in [1, 2] {
        let path = format!("/v1/agent/service/deregister/{}", 10 + number);
        let answer = send(nginx.consul_address, "PUT", &path, "")?;
        check(answer.status == 200, &answer.body)?;
    }
    becomes(&nginx, 1, "")?;
    for _ in 0..10 {
        let picked = get(nginx.address, "/pick")?.body;
        check(picked.contains("no instance"), &picked)?;
    }
    // A worker that begins to watch an empty Consul keeps what another one has written for a while.
    nginx.consul.kill()?;
    nginx.consul.wait()?;
    nginx.consul = super::start_consul_at(nginx.consul_address)?;
    let before = watcher(&nginx)?;
    let status = std::process::Command::new("kill").args(["-9", &before]).status()?;
    check(status.success(), "the worker was not killed")?;
    wait_until(|| Ok(!["nil", "", &before].contains(&watcher(&nginx)?.as_str())))?;
    std::thread::sleep(Duration::from_secs(3));
    becomes(&nginx, 2, &ports(2))
}

pub fn another_takes_over(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked)?;
    becomes(&nginx, 1, &ports(1))?;
    let before = watcher(&nginx)?;
    let status = std::process::Command::new("kill").args(["-9", &before]).status()?;
    check(status.success(), "the worker was not killed")?;
    // The lease of 5 s, a beat of 1 s, and slack for a busy machine.
    let begun = Instant::now();
    wait_until(|| Ok(!["nil", "", &before].contains(&watcher(&nginx)?.as_str())))?;
    check(begun.elapsed() < Duration::from_secs(12), &format!("after {:?}", begun.elapsed()))?;
    register(&nginx, 1, 3)?;
    becomes(&nginx, 1, "11,12,13")
}

pub fn starts_from_the_dump(unpacked: &Path) -> Outcome {
    let mut nginx = start(unpacked)?;
    becomes(&nginx, SERVICES, &ports(SERVICES))?;
    let dump = nginx.folder.join("dump.json");
    wait_until(|| Ok(std::fs::read_to_string(&dump).is_ok_and(|text| text.contains("\"s20\""))))?;
    nginx.consul.kill()?;
    // A reload keeps the dict; a restart begins with the file.
    let before = nginx.worker()?;
    nginx.signal("HUP")?;
    wait_until(|| Ok(!Path::new(&format!("/proc/{before}")).exists()))?;
    becomes(&nginx, 1, &ports(1))?;
    nginx.restart(unpacked)?;
    let mut seen = BTreeSet::new();
    for service in 1..=SERVICES {
        becomes(&nginx, service, &ports(service))?;
        seen.insert(service);
    }
    let age: f64 = get(nginx.address, "/age")?.body.trim().parse()?;
    check(age > 0.0 && age < 120.0, &format!("an age of {age} s"))
}
