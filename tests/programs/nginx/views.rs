//! Views that one worker writes for all: `consul_ffi.openresty.views`.

use super::{AT_ONCE, Nginx, Outcome, PATIENCE, check, get, send, wait_until};
use libtest_mimic::Failed;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u32 = 4;
const SERVICES: usize = 20;

/// The answer of every worker for a service: its ports.
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
                local ready, message = view:ready(tonumber(ngx.var.arg_limit) or 5000)
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
    // Of the worker that reads, and of another that did before, if it was too slow.
    check(nginx.waiting()? < SERVICES, &format!("{} connections", nginx.waiting()?))?;
    let mut slowest = Duration::ZERO;
    for service in 1..=5 {
        let begun = Instant::now();
        fail(&nginx, service, 2)?;
        becomes(&nginx, service, &(10 * service + 1).to_string())?;
        slowest = slowest.max(begun.elapsed());
    }
    check(slowest <= AT_ONCE, &format!("a change took {slowest:?}"))
}

fn watcher(nginx: &Nginx) -> Result<String, Failed> {
    let body = get(nginx.address, "/lease")?.body;
    Ok(body.split('.').next().unwrap_or_default().trim().to_owned())
}

/// The rest of an instance that is gone, and Consul after it has lost everything.
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
    is_taken_over(&nginx)?;
    register(&nginx, 1, 3)?;
    becomes(&nginx, 1, "11,12,13")
}

/// Kills the worker that watches, and waits for another one.
fn is_taken_over(nginx: &Nginx) -> Outcome {
    let before = watcher(nginx)?;
    let status = std::process::Command::new("kill").args(["-9", &before]).status()?;
    check(status.success(), "the worker was not killed")?;
    // The lease of 5 s, a beat of 1 s, and slack for a busy machine.
    let begun = Instant::now();
    wait_until(|| Ok(!["nil", "", &before].contains(&watcher(nginx)?.as_str())))?;
    check(begun.elapsed() < AT_ONCE, &format!("after {:?}", begun.elapsed()))
}

/// Waits until the dump file has all services: their lists come in any order.
fn all_are_dumped(nginx: &Nginx) -> Outcome {
    let dump = nginx.folder.join("dump.json");
    let has_all =
        |text: String| (1..=SERVICES).all(|service| text.contains(&format!("\"s{service}\"")));
    wait_until(|| Ok(std::fs::read_to_string(&dump).is_ok_and(has_all)))
}

pub fn starts_from_the_dump(unpacked: &Path) -> Outcome {
    let mut nginx = start(unpacked)?;
    becomes(&nginx, SERVICES, &ports(SERVICES))?;
    all_are_dumped(&nginx)?;
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
    check(age > 0.0 && age < 120.0, &format!("an age of {age} s"))?;
    // The log says what is served, and how old it is.
    let log = nginx.folder.join("log");
    for said in ["dump.json: the lists of 20 services, the oldest ", "no answer from Consul since"]
    {
        wait_until(|| Ok(std::fs::read_to_string(&log)?.contains(said)))?;
    }
    Ok(())
}

/// Has the last worker load the dump file slowly.
const SLOW_LOAD: &str = r#"init_worker_by_lua_block {
        local texts = require("consul_ffi.openresty.texts")
        local add = texts.add
        if ngx.worker.id() == ngx.worker.count() - 1 then
            function texts.add(...)
                os.execute("sleep 0.2")
                return add(...)
            end
        end
"#;

pub fn a_slow_worker_starts_from_the_dump(unpacked: &Path) -> Outcome {
    let blocks = BLOCKS.replacen("init_worker_by_lua_block {\n", SLOW_LOAD, 1);
    let mut nginx =
        Nginx::start_with(unpacked, WORKERS, |text| text.replacen("server {", &blocks, 1))?;
    for service in 1..=SERVICES {
        register(&nginx, service, 1)?;
        register(&nginx, service, 2)?;
    }
    becomes(&nginx, SERVICES, &ports(SERVICES))?;
    all_are_dumped(&nginx)?;
    nginx.end()?;
    for service in 1..=SERVICES {
        fail(&nginx, service, 2)?;
    }
    nginx.start_again(unpacked)?;
    for service in 1..=SERVICES {
        becomes(&nginx, service, &(10 * service + 1).to_string())?;
    }
    let age: f64 = get(nginx.address, "/age")?.body.trim().parse()?;
    check(age < 15.0, &format!("an age of {age} s"))
}

/// The text of a service instead of ports when its list has no room in the dict.
const NO_ROOM: &str = "no room for its list";

pub fn too_small(unpacked: &Path) -> Outcome {
    const FULL: usize = 60;
    let small = BLOCKS.replacen("consul 10m", "consul 64k", 1);
    let mut nginx =
        Nginx::start_with(unpacked, WORKERS, |text| text.replacen("server {", &small, 1))?;
    for service in 1..=FULL {
        register_long(&nginx, service, 1)?;
    }
    let log = nginx.folder.join("log");
    let said = || -> Result<Vec<String>, Failed> {
        let text = std::fs::read_to_string(&log)?;
        Ok(text.lines().filter(|line| line.contains("do not fit")).map(str::to_owned).collect())
    };
    wait_until(|| Ok(!said()?.is_empty()))?;
    // Lists that have room get longer, and every worker has the last one or the next one.
    for service in 1..=FULL {
        register_long(&nginx, service, 2)?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut whole, mut missing) = (0, 0);
    while Instant::now() < deadline {
        for service in 1..=FULL {
            let body = get(nginx.address, &format!("/service/s{service}?limit=0"))?.body;
            let (first, both) = ((10 * service + 1).to_string(), ports(service));
            let found = body.trim().split_once(' ').map_or("", |(_, found)| found);
            whole += usize::from([first.as_str(), both.as_str()].contains(&found));
            missing += usize::from(found.contains(NO_ROOM));
            check(
                found.contains(NO_ROOM) || [first.as_str(), both.as_str()].contains(&found),
                &format!("s{service} has {found:?}"),
            )?;
        }
    }
    check(whole > 0 && missing > 0, &format!("{whole} whole lists, {missing} without room"))?;
    let lines = said()?;
    // Again only for half more, which the second instances are, and the services that came meanwhile.
    check(lines.len() <= 4, &format!("it was told {} times", lines.len()))?;
    // The size that the log names is enough.
    let sizes = lines.iter().map(|line| size_in(line)).collect::<Result<Vec<_>, _>>()?;
    check(sizes.windows(2).all(|two| 2 * two[1] >= 3 * two[0]), &format!("{sizes:?}"))?;
    let path = nginx.folder.join("nginx.conf");
    // Of lists that are longer by less than half it says nothing more.
    let enough = format!("consul {}k", 3 * sizes[sizes.len() - 1] / 2);
    std::fs::write(&path, std::fs::read_to_string(&path)?.replacen("consul 64k", &enough, 1))?;
    nginx.restart(unpacked)?;
    for service in 1..=FULL {
        becomes(&nginx, service, &ports(service))?;
    }
    check(said()?.is_empty(), "the dict is too small with the size that was told")
}

/// Writes to all lists of the dict; each changes by up to a half, and answers how many had no room.
const WRITES: &str = r#"server {
        location = /listed {
            content_by_lua_block {
                local count = 0
                for _, name in ipairs(views:names() or {}) do
                    count = count + (views:view(name):all() and 1 or 0)
                end
                ngx.say(count)
            }
        }
        location = /writes {
            content_by_lua_block {
                local texts, dict = require("consul_ffi.openresty.texts"), ngx.shared.consul
                local keys, lengths, failed = {}, {}, 0
                for i, name in ipairs(views:names()) do
                    keys[i] = "s:" .. name
                    lengths[i] = #texts.read(dict, keys[i])
                end
                for number = 1, 20000 do
                    local i = math.random(#keys)
                    local text = ("x"):rep(lengths[i] * (0.5 + math.random()) - 8) .. ("%08d"):format(number)
                    failed = failed + (texts.write(dict, keys[i], text) and 0 or 1)
                end
                ngx.say(#keys, " lists, ", failed, " failed")
            }
        }"#;

pub fn named_size(unpacked: &Path) -> Outcome {
    const LISTS: usize = 50;
    // One list is long: it has room only where pages are free side by side, if it is in one piece.
    const LONG: usize = 150;
    let blocks = BLOCKS.replacen("consul 10m", "consul 64k", 1).replacen("server {", WRITES, 1);
    let mut nginx = Nginx::start_with(unpacked, 1, |text| text.replacen("server {", &blocks, 1))?;
    for service in 2..=LISTS {
        register_long(&nginx, service, 1)?;
        register_long(&nginx, service, 2)?;
    }
    let meta = "x".repeat(500);
    for number in 0..LONG {
        let body = format!(
            r#"{{"ID":"long{number}","Name":"s1","Address":"127.0.0.1","Port":{},"Meta":{{"long":"{meta}"}}}}"#,
            5000 + number
        );
        let answer = send(nginx.consul_address, "PUT", "/v1/agent/service/register", &body)?;
        check(answer.status == 200, &answer.body)?;
    }
    // The size that the log names while there is more and more is too little at the end, and the same size is not named
    // again.
    nginx.restart(unpacked)?;
    let log = nginx.folder.join("log");
    let path = nginx.folder.join("nginx.conf");
    let mut size = 64;
    loop {
        let named = || -> Result<usize, Failed> {
            let text = std::fs::read_to_string(&log)?;
            let said = text.lines().rfind(|line| line.contains("do not fit"));
            said.map_or(Ok(0), size_in)
        };
        let has_all = || -> Result<bool, Failed> {
            let body = get(nginx.address, "/service/s1?limit=0")?.body;
            let long = body.matches(',').count() + 1 == LONG;
            let last = get(nginx.address, &format!("/service/s{LISTS}?limit=0"))?.body;
            let listed = get(nginx.address, "/listed")?.body;
            Ok(long && last.contains(&ports(LISTS)) && listed.trim() == LISTS.to_string())
        };
        wait_until(|| Ok(named()? > 0 || has_all()?))?;
        let next = named()?;
        if next == 0 {
            break;
        }
        check(next > size, &format!("with {size}k the log names {next}k"))?;
        let text = std::fs::read_to_string(&path)?;
        let text = text.replacen(&format!("consul {size}k"), &format!("consul {next}k"), 1);
        std::fs::write(&path, text)?;
        size = next;
        nginx.restart(unpacked)?;
    }
    let answer = get(nginx.address, "/writes")?.body;
    check(answer.trim() == format!("{LISTS} lists, 0 failed"), &format!("with {size}k: {answer}"))
}

/// The size in KiB in a line about a dict without room.
fn size_in(line: &str) -> Result<usize, Failed> {
    let size = line.rsplit("at least ").next().and_then(|rest| rest.split('k').next());
    Ok(size.ok_or("no size")?.parse()?)
}

/// Registers an instance whose list is long.
fn register_long(nginx: &Nginx, service: usize, number: usize) -> Outcome {
    let (port, long) = (10 * service + number, "x".repeat(500));
    let body = format!(
        r#"{{"ID":"{port}","Name":"s{service}","Address":"127.0.0.1","Port":{port},
            "Meta":{{"long":"{long}"}}}}"#
    );
    let answer = send(nginx.consul_address, "PUT", "/v1/agent/service/register", &body)?;
    check(answer.status == 200, &answer.body)
}

/// The clock of all workers, which `/back` sets back by an hour.
const CLOCK: &str = r#"init_by_lua_block {
        local now = ngx.now
        function ngx.now()
            return now() - (ngx.shared.clock:get("back") or 0)
        end
        function ngx.time()
            return math.floor(ngx.now())
        end
        "#;

pub fn clock_set_back(unpacked: &Path) -> Outcome {
    let blocks =
        BLOCKS.replacen("lua_shared_dict", "lua_shared_dict clock 64k; lua_shared_dict", 1);
    let back = "server {\n location = /back { content_by_lua_block { ngx.shared.clock:set('back', 3600) } }";
    let nginx = Nginx::start_with(unpacked, WORKERS, |text| {
        text.replacen("server {", &blocks, 1).replacen("server {", back, 1).replacen(
            "init_by_lua_block {",
            CLOCK,
            1,
        )
    })?;
    for service in 1..=SERVICES {
        register(&nginx, service, 1)?;
        register(&nginx, service, 2)?;
    }
    becomes(&nginx, SERVICES, &ports(SERVICES))?;
    let before = watcher(&nginx)?;
    get(nginx.address, "/back")?;
    // Longer than the lease.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let age: f64 = get(nginx.address, "/age")?.body.trim().parse()?;
        check((0.0..120.0).contains(&age), &format!("an age of {age} s"))?;
        check(watcher(&nginx)? == before, "another worker watches")?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    fail(&nginx, 1, 2)?;
    becomes(&nginx, 1, "11")?;
    check(begun.elapsed() <= AT_ONCE, &format!("a change took {:?}", begun.elapsed()))?;
    is_taken_over(&nginx)?;
    register(&nginx, 1, 3)?;
    becomes(&nginx, 1, "11,13")
}
