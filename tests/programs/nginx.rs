//! The example for OpenResty, in Debian's nginx with its Lua module (scripts/nginx.sh), on
//! consul-sim.

mod aborts;
mod apisix;
mod gateway;
mod hostile;
mod load;
mod long;
mod page;
mod views;

use crate::support::PATIENCE;
use crate::support::consul;
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The limit for the answer to a request that does not wait, on a busy machine. A worker that is
/// blocked by the queries here would take a minute.
const AT_ONCE: Duration = Duration::from_secs(50);

type Outcome = Result<(), Failed>;
type Named = (&'static str, fn(&Path) -> Outcome);

pub fn trials() -> Trials {
    let unpacked = unpacked();
    let all: [Named; 36] = [
        ("a_worker_serves_others_while_20_queries_wait", serves_others_while_queries_wait),
        ("each_worker_uses_the_client_that_the_master_made", each_worker_uses_the_client),
        ("a_master_that_makes_calls_does_not_break_its_workers", a_master_that_makes_calls),
        ("a_reload_continues_with_new_workers", a_reload_goes_on),
        ("it_ends_promptly_while_queries_wait", it_ends_promptly),
        ("a_request_that_ends_cancels_its_call", a_request_that_ends),
        ("a_request_that_ends_while_it_waits_for_a_lock_never_gets_it", aborts::waits_for_a_lock),
        ("a_request_that_ends_releases_the_lock_that_it_holds", aborts::releases_what_it_holds),
        ("requests_that_wait_take_no_time_of_the_processor", requests_that_wait),
        ("a_worker_that_exits_ends_the_waits_of_its_timers", a_worker_that_exits),
        ("a_phase_that_cannot_wait_says_so", a_phase_that_cannot_wait),
        ("a_gateway_follows_consul_and_ejects_a_dead_instance", gateway::follows_consul),
        ("a_gateway_reloads_while_consul_is_unreachable", gateway::reloads_without_consul),
        ("a_gateway_loses_no_request_on_a_kept_connection_that_was_closed", gateway::closed),
        ("an_instance_whose_kept_connections_all_fail_is_ejected", gateway::closed_for_good),
        (
            "a_gateway_loses_no_request_while_workers_and_instances_come_and_die",
            load::loses_nothing,
        ),
        ("subrequests_of_a_gateway_are_not_in_flight_for_ever", gateway::subrequests),
        ("a_gateway_takes_an_address_in_brackets", gateway::in_brackets),
        ("waits_that_end_in_time_are_no_errors_in_the_log", waits_in_the_log),
        ("a_call_without_consul_writes_as_many_lines_as_the_questions_say", outage_in_the_log),
        ("a_gateway_serves_while_consul_misbehaves", hostile::misbehaves),
        ("a_worker_serves_others_while_20_calls_of_resty_consul_wait", resty_consul_yields),
        ("workers_share_the_views_of_one_of_them", views::workers_share),
        (
            "an_instance_that_is_gone_is_not_picked_and_a_list_outlives_consuls_loss",
            views::gone_and_lost,
        ),
        ("another_worker_watches_when_that_one_is_killed", views::another_takes_over),
        ("an_nginx_starts_from_the_dump_file_without_consul", views::starts_from_the_dump),
        (
            "a_slow_worker_keeps_consuls_lists_and_not_the_dumps",
            views::a_slow_worker_starts_from_the_dump,
        ),
        ("a_dict_that_is_too_small_is_told_once_and_has_whole_lists", views::too_small),
        ("the_commands_of_the_page_make_a_gateway_on_debian", page::on_debian),
        ("no_step_of_the_installation_removes_a_package", page::removes_nothing),
        ("the_size_that_the_log_names_is_enough_for_lists_that_change", views::named_size),
        ("the_discovery_of_apisix_follows_consul", apisix::follows_consul),
        ("the_discovery_of_apisix_goes_on_without_consul", apisix::goes_on_without_consul),
        ("the_discovery_of_apisix_starts_from_the_dump_file", apisix::starts_from_the_dump),
        ("the_discovery_of_apisix_has_500_services", apisix::many_services),
        ("a_clock_that_is_set_back_changes_no_lease_and_no_age", views::clock_set_back),
    ];
    let mut trials = Trials::of(module_path!());
    let mut all = Vec::from(all);
    if std::env::var_os("LONG").is_some() {
        all.push(("a_machine_of_16_workers_and_5000_instances", long::a_machine));
    }
    if std::env::var_os("OPENRESTY").is_some() {
        all.push(("the_commands_of_the_page_make_a_gateway_on_openresty", page::on_openresty));
    }
    for (name, run) in all {
        let folder = unpacked.clone();
        trials
            .add_unless(unpacked.is_none(), name, move || run(&folder.ok_or("there is no nginx")?));
    }
    trials
}

/// The folder of the nginx, or `None`, which is reported as a skip.
pub fn unpacked() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nginx.sh");
    let output = Command::new(script).output().expect("the script runs");
    let (printed, why) = (output.stdout.trim_ascii(), output.stderr.trim_ascii());
    if !output.status.success() {
        consul::say_skipped("the example in nginx", &String::from_utf8_lossy(why));
        return None;
    }
    Some(PathBuf::from(String::from_utf8_lossy(printed).into_owned()))
}

fn serves_others_while_queries_wait(unpacked: &Path) -> Outcome {
    others_are_served(&Nginx::start(unpacked, 1)?)
}

fn others_are_served(nginx: &Nginx) -> Outcome {
    nginx.put("color", "blue")?;
    let first = get(nginx.address, "/kv/color")?;
    let index = first.header("x-consul-index").ok_or("no index")?;
    let path = format!("/kv/color?index={index}&wait=1m");
    let queries: Vec<_> = (0..20)
        .map(|_| {
            let (address, path) = (nginx.address, path.clone());
            thread::spawn(move || get(address, &path))
        })
        .collect();
    wait_until(|| Ok(nginx.waiting()? >= 20))?;
    for path in ["/worker", "/kv/color"] {
        let begun = Instant::now();
        check(get(nginx.address, path)?.status == 200, path)?;
        check(begun.elapsed() < AT_ONCE, &format!("{path} took {:?}", begun.elapsed()))?;
    }
    check(queries.iter().all(|query| !query.is_finished()), "a query did not wait")?;
    let begun = Instant::now();
    nginx.put("color", "red")?;
    for query in queries {
        let answer = query.join().map_err(|_| "a thread panicked")??;
        check(answer.body == "red", &answer.body)?;
    }
    check(begun.elapsed() < AT_ONCE, &format!("the answers took {:?}", begun.elapsed()))
}

fn each_worker_uses_the_client(unpacked: &Path) -> Outcome {
    both_workers_make_calls(&Nginx::start(unpacked, 2)?)
}

/// The master has connections and a background thread, which its workers do not inherit.
fn a_master_that_makes_calls(unpacked: &Path) -> Outcome {
    let init = "local client = require(\"consul\").client.object \
        for _ = 1, 3 do assert(client:kv_put(\"master\", \"1\")) end \
        kept = client:start(\"kv_get\", \"master\", { index = 1e9, wait = \"1m\" }) \
        assert(select(2, client:start(\"kv_get\", \"master\"):wait()))";
    let nginx = Nginx::start_with(unpacked, 2, |text| {
        text.replacen("require(\"consul\")\n", &format!("{init}\n"), 1)
    })?;
    let written = send(nginx.consul_address, "GET", "/v1/kv/master?raw", "")?;
    check(written.body == "1", "the master made no call")?;
    both_workers_make_calls(&nginx)?;
    nginx.signal("HUP")?;
    both_workers_make_calls(&nginx)
}

fn both_workers_make_calls(nginx: &Nginx) -> Outcome {
    nginx.put("color", "blue")?;
    let mut workers = BTreeSet::new();
    wait_until(|| {
        workers.insert(nginx.worker()?);
        check(get(nginx.address, "/kv/color")?.body == "blue", "another value")?;
        Ok(workers.len() == 2)
    })
}

fn a_reload_goes_on(unpacked: &Path) -> Outcome {
    let nginx = Nginx::start(unpacked, 1)?;
    nginx.put("color", "blue")?;
    for _ in 0..3 {
        check(get(nginx.address, "/kv/color")?.body == "blue", "another value")?;
        let before = nginx.worker()?;
        nginx.signal("HUP")?;
        wait_until(|| Ok(nginx.worker()? != before))?;
        wait_until(|| Ok(!Path::new(&format!("/proc/{before}")).exists()))?;
    }
    check(get(nginx.address, "/kv/color")?.body == "blue", "another value")
}

fn it_ends_promptly(unpacked: &Path) -> Outcome {
    let mut nginx = Nginx::start(unpacked, 1)?;
    let address = nginx.address;
    thread::spawn(move || get(address, "/kv/none?index=1000000&wait=1m").is_ok());
    wait_until(|| Ok(nginx.waiting()? >= 1))?;
    nginx.signal("TERM")?;
    wait_until(|| Ok(nginx.child.try_wait()?.is_some()))
}

fn a_request_that_ends(unpacked: &Path) -> Outcome {
    let nginx = Nginx::start_with(unpacked, 1, |text| {
        text.replacen("location /kv/ {\n", "location /kv/ {\nlua_check_client_abort on;\n", 1)
    })?;
    let mut stream = TcpStream::connect(nginx.address)?;
    write!(stream, "GET /kv/none?index=1000000&wait=5m HTTP/1.0\r\n\r\n")?;
    wait_until(|| Ok(nginx.waiting()? == 1))?;
    drop(stream);
    wait_until(|| Ok(nginx.waiting()? == 0))
}

fn requests_that_wait(unpacked: &Path) -> Outcome {
    const WAITING: usize = 100;
    let nginx = Nginx::start_with(unpacked, 1, |text| text)?;
    nginx.put("color", "blue")?;
    // 64 of them wait for Consul, and the others for a connection.
    let path = "/kv/color?index=1000000&wait=5m";
    let mut requests = Vec::new();
    for _ in 0..WAITING {
        let mut stream = TcpStream::connect(nginx.address)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        requests.push(stream);
    }
    wait_until(|| Ok(nginx.waiting()? >= 64))?;
    let worker = nginx.worker()?;
    let (begun, before) = (Instant::now(), processor_time(&worker)?);
    thread::sleep(Duration::from_secs(4));
    let took = processor_time(&worker)? - before;
    let allowed = begun.elapsed() / 200;
    check(took <= allowed, &format!("the worker took {took:?}; {allowed:?} is 0.5 % of a core"))
}

/// The processor's time that a process has taken, from fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
fn processor_time(pid: &str) -> Result<Duration, Failed> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = text.rsplit_once(") ").ok_or("no name")?;
    let ticks = after.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>());
    let ticks: u64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn a_worker_that_exits(unpacked: &Path) -> Outcome {
    let timers = "init_worker_by_lua_block {
        local client = require(\"consul\").client
        ngx.timer.at(0, function() client:kv_get(\"none\", { index = 1e9, wait = \"5m\" }) end)
        ngx.timer.at(0, function() for _ in client:watch(\"kv_get\", \"none\"):changes() do end end)
        ngx.timer.at(0, function() for _ in client:watch(\"kv_get\", \"busy\"):changes() do end end)
        ngx.timer.at(0, function() client:service_view(\"none\"):ready() end)
    }
    server {";
    let mut nginx = Nginx::start_with(unpacked, 1, |text| text.replacen("server {", timers, 1))?;
    wait_until(|| Ok(nginx.waiting()? >= 4))?;
    for consul_is_there in [true, false] {
        if !consul_is_there {
            nginx.consul.kill()?;
        }
        let before = nginx.worker()?;
        nginx.signal("HUP")?;
        let begun = Instant::now();
        wait_until(|| {
            // Each wait for this key ends with a change.
            if consul_is_there {
                nginx.put("busy", &begun.elapsed().as_micros().to_string())?;
            }
            Ok(!Path::new(&format!("/proc/{before}")).exists())
        })?;
        check(begun.elapsed() < AT_ONCE, &format!("the worker ended after {:?}", begun.elapsed()))?;
    }
    Ok(())
}

fn waits_in_the_log(unpacked: &Path) -> Outcome {
    let timers = "lua_shared_dict consul 1m;
    init_worker_by_lua_block {
        local client, openresty = require(\"consul\").client, require(\"consul_ffi.openresty\")
        local views = require(\"consul_ffi.openresty.views\").new({ dict = \"consul\", filter = { \"web\" } })
        views:start()
        local port = tonumber(os.getenv(\"CONSUL_HTTP_ADDR\"):match(\"%d+$\"))
        local function index_of(key)
            local consul = require(\"resty.consul\"):new({ port = port })
            local response = consul:get_key(key)
            return consul:get_key(key, { index = response.headers[\"X-Consul-Index\"], wait = 2 })
        end
        local function unique(prefix) return prefix .. ngx.now() .. math.random() end
        done, waits = 0, {
            function() return index_of(\"none\") end,
            function()
                assert(client:kv_put(\"there\", \"1\"))
                return index_of(\"there\")
            end,
            function()
                assert(client:kv_put(\"here\", \"1\"))
                local _, _, meta = assert(client:kv_get(\"here\"))
                return client:kv_get(\"here\", { index = meta.index, wait = \"2s\" })
            end,
            function()
                local watch = client:watch(\"kv_get\", \"here\")
                assert(watch:next(2500))
                return watch:next(2500)
            end,
            function()
                local all = client:service_views({ \"none\" })
                all:next(2500)
                all:next(2500)
                return all:close()
            end,
            function() return views:view(\"none\"):ready(2500) end,
            function()
                local prefix = unique(\"s\")
                local held = client:semaphore(prefix, 1)
                assert(held:acquire({ wait_s = 10 }))
                assert(not openresty.new({}):semaphore(prefix, 1):acquire({ wait_s = 2.5 }))
                return held:release()
            end,
            function()
                local key = unique(\"c\")
                local lock = client:lock(key)
                assert(lock:acquire({ wait_s = 10 }))
                assert(not openresty.new({}):lock(key):acquire({ wait_s = 2.5 }))
                return lock:release()
            end,
            function() return client:kv_get(\"none\", { index = 1e9, wait = \"2500ms\" }) end,
            function() return client:watch(\"kv_get\", \"none\"):next(2500) end,
            function()
                local watch = client:watch(\"kv_get\", \"none\")
                watch:next(2500)
                return watch:next(2500)
            end,
            function() return client:service_view(\"none\"):ready(2500) end,
            function()
                local lock = client:lock(\"l\" .. ngx.now() .. math.random())
                assert(lock:acquire())
                lock:next_event(2500)
                return lock:release()
            end,
        }
        for _, wait in ipairs(waits) do ngx.timer.at(0, function() wait() done = done + 1 end) end
    }
    server {
        location = /waits { content_by_lua_block { for _, wait in ipairs(waits) do wait() end } }
        location = /done { content_by_lua_block { ngx.print(done) } }";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nginx = Nginx::start_with(unpacked, 1, |text| {
        let search = format!("lua_package_path \"{}/resty/lua/?.lua;", root.display());
        text.replacen("server {", timers, 1).replace("lua_package_path \"", &search)
    })?;
    check(get(nginx.address, "/waits")?.status == 200, "a wait failed")?;
    wait_until(|| Ok(get(nginx.address, "/done")?.body == "13"))?;
    let log = fs::read_to_string(nginx.folder.join("log"))?;
    let errors: Vec<_> = log.lines().filter(|line| line.contains("[error]")).collect();
    check(errors.is_empty(), &format!("{errors:?}"))
}

fn outage_in_the_log(unpacked: &Path) -> Outcome {
    for (directive, most) in [("", 5), ("lua_socket_log_errors off;", 0)] {
        let location = format!("location /kv/ {{\n{directive}\n");
        let edit = |text: String| text.replacen("location /kv/ {\n", &location, 1);
        let mut nginx = Nginx::start_with(unpacked, 1, edit)?;
        nginx.consul.kill()?;
        nginx.consul.wait()?;
        let status = get(nginx.address, "/kv/color")?.status;
        check(status >= 500, &format!("the status {status}"))?;
        let log = fs::read_to_string(nginx.folder.join("log"))?;
        let lines = log.lines().filter(|line| line.contains("connect() failed")).count();
        check(lines <= most && (lines > 0) == (most > 0), &format!("{lines} lines: {log}"))?;
    }
    Ok(())
}

fn a_phase_that_cannot_wait(unpacked: &Path) -> Outcome {
    let filter = "location = /worker {
        header_filter_by_lua_block {
            local _, message = pcall(require(\"consul\").client.kv_get, require(\"consul\").client, \"none\")
            ngx.header[\"X-Refused\"] = message
        }";
    let nginx =
        Nginx::start_with(unpacked, 1, |text| text.replacen("location = /worker {", filter, 1))?;
    let answer = get(nginx.address, "/worker")?;
    let refused = answer.header("x-refused").unwrap_or_default();
    check(refused.contains("cannot wait in the phase header_filter"), refused)
}

/// The example's locations by `resty.consul`, and more of what only nginx has.
const RESTY: &str = r#"
        location /kv/ {
            content_by_lua_block {
                local port = tonumber(os.getenv("CONSUL_HTTP_ADDR"):match("%d+$"))
                local consul = require("resty.consul"):new({ port = port })
                local key = ngx.var.uri:sub(#"/kv/" + 1)
                local response, message
                if ngx.req.get_method() == "PUT" then
                    response, message = consul:put_key(key, consul:get_client_body_reader(1000))
                else
                    local args = { index = ngx.var.arg_index, wait = ngx.var.arg_wait and 60 }
                    response, message = consul:get_key(key, args)
                end
                if not response then
                    ngx.exit(502)
                end
                ngx.status = response.status
                ngx.header["X-Consul-Index"] = response.headers["X-Consul-Index"]
                local body = response.body
                ngx.print(type(body) == "table" and body[1].Value or tostring(body))
            }
            log_by_lua_block {
                local response, message = require("resty.consul"):new():get("/status/leader")
                package.loaded.refusal = response == nil and message
            }
        }

        location = /refusal {
            content_by_lua_block {
                ngx.print(package.loaded.refusal)
            }
        }

        location = /worker {"#;

fn resty_consul_yields(unpacked: &Path) -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nginx = Nginx::start_with(unpacked, 1, |text| {
        let (before, rest) = text.split_once("        location /kv/ {").unwrap_or((&text, ""));
        let (_, after) = rest.split_once("        location = /worker {").unwrap_or(("", rest));
        let search = format!("lua_package_path \"{}/resty/lua/?.lua;", root.display());
        format!("{before}{RESTY}{after}").replace("lua_package_path \"", &search)
    })?;
    others_are_served(&nginx)?;
    let refusal = get(nginx.address, "/refusal")?.body;
    check(refusal.contains("cannot wait in the phase log"), &refusal)?;
    let long = "0123456789".repeat(20_000);
    let written = send(nginx.address, "PUT", "/kv/long", &long)?;
    check(written.body == "true", &written.body)?;
    check(get(nginx.address, "/kv/long")?.body == long, "another body")?;
    check(get(nginx.address, "/kv/none")?.status == 404, "there is such a key")
}

/// An nginx with the example's configuration, and its own consul-sim.
struct Nginx {
    child: Child,
    address: SocketAddr,
    consul: Child,
    consul_address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    fn start(unpacked: &Path, workers: u32) -> Result<Nginx, Failed> {
        Self::start_with(unpacked, workers, |configuration| configuration)
    }

    /// With the configuration changed by `change`.
    fn start_with(
        unpacked: &Path,
        workers: u32,
        change: impl FnOnce(String) -> String,
    ) -> Result<Nginx, Failed> {
        Self::start_example(unpacked, "nginx", workers, change)
    }

    /// An example by the name of its configuration.
    fn start_example(
        unpacked: &Path,
        example: &str,
        workers: u32,
        change: impl FnOnce(String) -> String,
    ) -> Result<Nginx, Failed> {
        let (consul, consul_address) = start_consul()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let folder = std::env::temp_dir().join(format!("consul_ffi-nginx.{}", consul.id()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir_all(&folder)?;
        let examples = root.join("examples/openresty");
        for script in ["consul.lua", "gateway.lua"] {
            fs::copy(examples.join(script), folder.join(script))?;
        }
        let configuration = fs::read_to_string(examples.join(example).with_extension("conf"))?
            .replace("127.0.0.1:8080", &address.to_string())
            .replace("worker_processes 2;", &format!("worker_processes {workers};"));
        fs::write(folder.join("nginx.conf"), change(temporary_paths(&configuration)))?;
        let child = Self::spawn(unpacked, &folder, consul_address)?;
        let mut nginx = Nginx { child, address, consul, consul_address, folder };
        nginx.wait_for_start()?;
        Ok(nginx)
    }

    /// Ends nginx, and starts it again in the same folder.
    fn restart(&mut self, unpacked: &Path) -> Outcome {
        self.end()?;
        self.start_again(unpacked)
    }

    fn end(&mut self) -> Outcome {
        self.signal("TERM")?;
        wait_until(|| Ok(self.child.try_wait()?.is_some()))
    }

    fn start_again(&mut self, unpacked: &Path) -> Outcome {
        self.child = Self::spawn(unpacked, &self.folder, self.consul_address)?;
        self.wait_for_start()
    }

    fn spawn(unpacked: &Path, folder: &Path, consul: SocketAddr) -> Result<Child, Failed> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = unpacked.join("usr/lib/nginx/modules");
        let load = ["ndk_http_module", "ngx_http_lua_module"]
            .map(|name| format!("load_module {}/{name}.so; ", modules.display()))
            .concat();
        Ok(Command::new(unpacked.join("usr/sbin/nginx"))
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-g", &format!("daemon off; user root; {load}")])
            .env("LD_LIBRARY_PATH", unpacked.join("libraries"))
            .env(
                "LUA_PATH",
                format!(
                    "{}/usr/share/lua/5.1/?.lua;{}/lua/?.lua",
                    unpacked.display(),
                    root.display()
                ),
            )
            .env("LUA_CPATH", format!("{};;", root.join("target/lua/luajit/?.so").display()))
            .env("CONSUL_HTTP_ADDR", consul.to_string())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?)
    }

    fn wait_for_start(&mut self) -> Outcome {
        wait_until(|| match self.child.try_wait()? {
            Some(status) => {
                let log = fs::read_to_string(self.folder.join("log"))?;
                Err(format!("nginx ended, {status}: {log}").into())
            }
            None => Ok(self.worker().is_ok()),
        })
    }

    /// The id of the worker that answers.
    fn worker(&self) -> Result<String, Failed> {
        Ok(get(self.address, "/worker")?.body.trim().to_owned())
    }

    /// The number of calls to Consul in flight: each has a connection.
    fn waiting(&self) -> Result<usize, Failed> {
        let established = format!(":{:04X} 01 ", self.consul_address.port());
        let table = fs::read_to_string("/proc/net/tcp")?;
        Ok(table.lines().filter(|line| line.contains(&established)).count())
    }

    fn signal(&self, name: &str) -> Outcome {
        signal(&self.child, name)
    }

    fn put(&self, key: &str, value: &str) -> Outcome {
        let answer = send(self.consul_address, "PUT", &format!("/v1/kv/{key}"), value)?;
        check(answer.body == "true", &answer.body)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A master that is killed by SIGKILL would leave its workers.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal("TERM");
            let _ = wait_until(|| Ok(self.child.try_wait()?.is_some()));
        }
        let _ = self.child.kill();
        let _ = self.consul.kill();
        let _ = (self.child.wait(), self.consul.wait());
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn signal(process: &Child, name: &str) -> Outcome {
    let status = Command::new("kill").args(["-s", name, &process.id().to_string()]).status()?;
    check(status.success(), "the signal was not sent")
}

/// A configuration whose temporary files are in its own folder.
fn temporary_paths(configuration: &str) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .concat();
    configuration.replace("http {\n", &format!("http {{\n{paths}"))
}

fn start_consul() -> Result<(Child, SocketAddr), Failed> {
    consul_at(0)
}

/// A consul-sim that knows nothing, in the place of an ended one.
fn start_consul_at(address: SocketAddr) -> Result<Child, Failed> {
    Ok(consul_at(address.port())?.0)
}

fn consul_at(port: u16) -> Result<(Child, SocketAddr), Failed> {
    let mut child = Command::new(consul::binary(consul::SIM)?)
        .args(["agent", "-dev", "-dns-port=-1", &format!("-http-port={port}")])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let address = line.trim().rsplit("http://").next().ok_or("no address")?.parse()?;
    Ok((child, address))
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(": ")?;
            header.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

fn get(address: SocketAddr, path: &str) -> Result<Answer, Failed> {
    send(address, "GET", path, "")
}

fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer, Failed> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no whole answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or("no status")?, head: head.to_owned(), body: body.to_owned() })
}

fn check(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned().into()) }
}

fn wait_until(mut condition: impl FnMut() -> Result<bool, Failed>) -> Outcome {
    let begun = Instant::now();
    while !condition()? {
        check(begun.elapsed() < PATIENCE, "it did not happen in time")?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
