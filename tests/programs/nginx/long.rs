//! The long form, with `LONG=1`: 16 workers, 250 services of 20 instances, 10 changes a second on a real Consul, which
//! is away for a minute with a reload in it, and the end of the worker that watches.

use super::{Nginx, Outcome, check, get, send, wait_until};
use crate::support::cluster::Cluster;
use libtest_mimic::Failed;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const WORKERS: usize = 16;
const SERVICES: usize = 250;
const INSTANCES: usize = 20;

/// How long changes are made, ten a second, and how long Consul is away.
const CHANGES: Duration = Duration::from_secs(60);
const OUTAGE: Duration = Duration::from_secs(60);

const MOST_CONNECTIONS: usize = 8;

/// The page's times of changes that name no service, and the issue's of the others: the median and the
/// slowest of a hundred, in seconds.
const NAMED: (f64, f64) = (0.3, 1.0);
const UNNAMED_WORST_S: f64 = 5.0;

/// Each worker writes when it sees an instance with a later time in its metadata than any before.
const BLOCKS: &str = r#"lua_shared_dict consul 40m;
    init_worker_by_lua_block {
        views = require("consul_ffi.openresty.views").new({
            dict = "consul",
            filter = function(name) return name:find("^s%d+$") end,
            config = { endpoint = "http://CONSUL" },
            dump_file = ngx.config.prefix() .. "dump.json",
        })
        views:start()
        local dict, begun, looked = ngx.shared.consul, ngx.now(), nil
        local of, versions, seen = {}, {}, {}
        local function look()
            if dict:get("versions") == looked then return end
            looked = dict:get("versions")
            local lines = {}
            for s = 0, 249 do
                local view = of[s] or views:view("s" .. s)
                local version = view:version()
                of[s] = version and view
                if version ~= versions[s] then
                    versions[s] = version
                    ngx.update_time()
                    for _, instance in ipairs(view:all() or {}) do
                        local changed = tonumber(instance.meta.changed)
                        if changed > (seen[instance.id] or begun) then
                            lines[#lines + 1] = ("%s %s %.4f\n"):format(
                                instance.meta.kind, instance.meta.changed, ngx.now() - changed)
                        end
                        seen[instance.id] = changed
                    end
                end
            end
            if lines[1] then
                local file = assert(io.open(ngx.config.prefix() .. "seen." .. ngx.worker.pid(), "a"))
                file:write(table.concat(lines))
                file:close()
            end
        end
        assert(ngx.timer.every(0.02, look))
    }
    server {
        location = /pick {
            content_by_lua_block {
                local instance, message = views:view("s" .. ngx.var.arg_s):pick()
                if not instance then ngx.status = 503 end
                ngx.say(instance and instance.port or message)
            }
        }
        location = /lease { content_by_lua_block { ngx.say(ngx.shared.consul:get("lease")) } }
        location = /listed {
            content_by_lua_block {
                local count = 0
                for s = 0, 249 do count = count + #(views:view("s" .. s):all() or {}) end
                ngx.say(count)
            }
        }
"#;

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn put(consul: SocketAddr, path: &str, body: &str) -> Outcome {
    let answer = send(consul, "PUT", path, body)?;
    check(answer.status == 200, &answer.body)
}

/// Registers an instance, with a check if it has a status, which names the service of the change.
fn register(
    consul: SocketAddr,
    place: (usize, usize),
    kind: &str,
    status: Option<&str>,
) -> Outcome {
    let (s, k) = place;
    let id = format!("s{s}-{k}");
    let check = status.map_or_else(String::new, |status| {
        format!(
            r#","Check":{{"CheckID":"c-{id}","Name":"c","Status":"{status}","ServiceID":"{id}"}}"#
        )
    });
    let body = format!(
        r#"{{"Node":"n{k}","SkipNodeUpdate":true,"Service":{{"ID":"{id}","Service":"s{s}","Address":"10.1.{s}.{k}",
            "Port":80,"Meta":{{"kind":"{kind}","changed":"{:.4}"}}}}{check}}}"#,
        now_s()
    );
    put(consul, "/v1/catalog/register", &body)
}

fn register_all(consul: SocketAddr) -> Outcome {
    for k in 0..INSTANCES {
        put(
            consul,
            "/v1/catalog/register",
            &format!(r#"{{"Node":"n{k}","Address":"10.0.0.{k}"}}"#),
        )?;
    }
    for s in 0..SERVICES {
        for k in 0..INSTANCES {
            register(consul, (s, k), "first", Some("passing"))?;
        }
    }
    Ok(())
}

/// Changes ten instances a second: of ten changes seven name their service. Returns how many were made, and the most
/// connections of the workers meanwhile.
fn change(nginx: &Nginx, consul: SocketAddr, kinds: [&str; 2]) -> Result<(usize, usize), Failed> {
    let (begun, mut made, mut connections) = (Instant::now(), 0, 0);
    let mut warns = BTreeSet::new();
    while begun.elapsed() < CHANGES {
        let place = (fastrand::usize(..SERVICES), fastrand::usize(..INSTANCES));
        if made % 10 < 7 {
            let status = if warns.remove(&place) { "passing" } else { "warning" };
            if status == "warning" {
                warns.insert(place);
            }
            register(consul, place, kinds[0], Some(status))?;
        } else {
            register(consul, place, kinds[1], None)?;
        }
        made += 1;
        if made % 5 == 0 {
            connections = connections.max(connections_of(&workers(nginx)?, consul)?);
        }
        let due = Duration::from_millis(100) * u32::try_from(made)?;
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok((made, connections))
}

pub fn workers(nginx: &Nginx) -> Result<Vec<String>, Failed> {
    let output = Command::new("pgrep").args(["-P", &nginx.child.id().to_string()]).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// The connections of these processes to Consul.
fn connections_of(pids: &[String], consul: SocketAddr) -> Result<usize, Failed> {
    let mut sockets = BTreeSet::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default().display().to_string();
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'))
            {
                sockets.insert(inode.to_owned());
            }
        }
    }
    let port = format!(":{:04X}", consul.port());
    let table = fs::read_to_string("/proc/net/tcp")?;
    let is_theirs = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9 && fields[2].ends_with(&port) && sockets.contains(fields[9])
    };
    Ok(table.lines().filter(is_theirs).count())
}

/// How late the workers saw the changes of a kind, sorted, and how many changes each worker saw at least.
fn delays(nginx: &Nginx, kind: &str) -> Result<(Vec<f64>, usize), Failed> {
    let (mut delays, mut fewest) = (Vec::new(), usize::MAX);
    for pid in workers(nginx)? {
        let text = fs::read_to_string(nginx.folder.join(format!("seen.{pid}"))).unwrap_or_default();
        let of_worker: BTreeMap<&str, f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(kind)?.trim().split_once(' '))
            .filter_map(|(changed, delay)| Some((changed, delay.parse().ok()?)))
            .collect();
        fewest = fewest.min(of_worker.len());
        delays.extend(of_worker.into_values());
    }
    delays.sort_by(f64::total_cmp);
    Ok((delays, fewest))
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Asks for an instance of a random service as long as `condition` does not hold; each request is served.
fn serves_until(
    nginx: &Nginx,
    mut condition: impl FnMut() -> Result<bool, Failed>,
) -> Result<usize, Failed> {
    let mut served = 0;
    while !condition()? {
        let answer = get(nginx.address, &format!("/pick?s={}", fastrand::usize(..SERVICES)))?;
        check(answer.status == 200, &format!("request {served}: {}", answer.body))?;
        served += 1;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(served)
}

fn has(nginx: &Nginx, instances: usize) -> Result<bool, Failed> {
    Ok(get(nginx.address, "/listed")?.body.trim() == instances.to_string())
}

#[allow(clippy::print_stdout)]
pub fn a_machine(unpacked: &Path) -> Outcome {
    let mut cluster = Cluster::start(1, "1.21")?;
    cluster.wait_for_leader();
    let consul: SocketAddr = cluster.address(0).parse()?;
    register_all(consul)?;
    let blocks = BLOCKS.replace("CONSUL", &consul.to_string());
    let nginx =
        Nginx::start_with(unpacked, WORKERS as u32, |text| text.replacen("server {", &blocks, 1))?;
    wait_until(|| has(&nginx, SERVICES * INSTANCES))?;
    thread::sleep(Duration::from_secs(2));

    let (made, connections) = change(&nginx, consul, ["named ", "unnamed "])?;
    thread::sleep(Duration::from_secs_f64(2.0 * UNNAMED_WORST_S));
    let ((named, fewest_named), (unnamed, fewest_unnamed)) =
        (delays(&nginx, "named ")?, delays(&nginx, "unnamed ")?);
    let (median, slow, worst) =
        (quantile(&named, 0.5), quantile(&named, 0.99), quantile(&unnamed, 1.0));
    println!(
        "{made} changes, of which each worker saw at least {fewest_named} + {fewest_unnamed}; {connections} connections; \
         named: median {median:.3} s, p99 {slow:.3} s, worst {:.3} s; unnamed: median {:.3} s, p99 {:.3} s, worst {worst:.3} s",
        quantile(&named, 1.0),
        quantile(&unnamed, 0.5),
        quantile(&unnamed, 0.99)
    );

    // Consul is away, and nginx is reloaded in the middle.
    cluster.kill(0);
    let begun = Instant::now();
    let mut served = serves_until(&nginx, || Ok(begun.elapsed() >= OUTAGE / 2))?;
    let old = workers(&nginx)?;
    nginx.signal("HUP")?;
    let reloaded = Instant::now();
    let are_gone = || Ok(old.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    served += serves_until(&nginx, are_gone)?;
    let ended = reloaded.elapsed();
    served += serves_until(&nginx, || Ok(begun.elapsed() >= OUTAGE))?;
    println!(
        "{served} requests served without Consul; the old workers ended {ended:.1?} after the reload"
    );
    cluster.restart(0);
    cluster.wait_for_leader();
    let back = Instant::now();
    register(consul, (0, 0), "back ", Some("passing"))?;
    serves_until(&nginx, || Ok(delays(&nginx, "back ")?.0.len() >= WORKERS))?;
    println!("a change was in all workers {:.1?} after Consul was back", back.elapsed());

    // The worker that watches is killed.
    let watcher = || -> Result<String, Failed> {
        let body = get(nginx.address, "/lease")?.body;
        Ok(body.split('.').next().unwrap_or_default().trim().to_owned())
    };
    let before = watcher()?;
    check(Command::new("kill").args(["-9", &before]).status()?.success(), "it was not killed")?;
    let killed = Instant::now();
    serves_until(&nginx, || Ok(watcher()? != before))?;
    let taken_over = killed.elapsed();
    println!("another worker watched {taken_over:.1?} after the kill");
    register(consul, (0, 0), "after ", Some("warning"))?;
    serves_until(&nginx, || Ok(delays(&nginx, "after ")?.0.len() >= WORKERS))?;

    check(connections <= MOST_CONNECTIONS, "too many connections")?;
    check(median <= NAMED.0 && slow <= NAMED.1, "changes that name a service came too late")?;
    check(worst <= UNNAMED_WORST_S, "changes that name no service came too late")?;
    // The last of several changes of one instance stands for the others.
    check(fewest_named + fewest_unnamed >= made * 9 / 10, "a worker did not see the changes")?;
    check(ended <= Duration::from_secs(5), "the old workers ended too late")?;
    check(taken_over <= Duration::from_secs(6), "the other worker watched too late")
}
