//! The example's gateway with a Consul that misbehaves: it serves from its last list or answers 503 by itself, its
//! event loop goes on, its log stays short, and it opens no more connections.

use super::gateway::{backend, register};
use super::{Answer, Nginx, Outcome, PATIENCE, check, get, wait_until};
use libtest_mimic::Failed;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Good,
    /// An answer that nobody asked for follows each.
    Stray,
    /// The connection ends within the answer.
    Half,
    TooMany,
    Failing,
    /// The answer comes in bytes, too slowly for any timeout.
    Dripping,
    /// The request is not read, so that the connection is reset.
    Resetting,
    /// Each answer has an index from before, for which a waiting query is answered at once.
    IndexBack,
    Silent,
    /// The service has entries that no request can be sent to.
    Odd,
    /// The service has no instances.
    Empty,
    /// Something else answers: a login page, a router without a route, a gateway with an error of its own, any program in JSON.
    Login,
    NoRoute,
    Error,
    Object,
}

const WAYS: [Way; 14] = [
    Way::Stray,
    Way::Half,
    Way::TooMany,
    Way::Failing,
    Way::Dripping,
    Way::Resetting,
    Way::IndexBack,
    Way::Silent,
    Way::Odd,
    Way::Empty,
    Way::Login,
    Way::NoRoute,
    Way::Error,
    Way::Object,
];

impl Way {
    /// The answer to each request that is not Consul's: its status, type and body.
    fn foreign(self) -> Option<(&'static str, &'static str, &'static str)> {
        Some(match self {
            Way::Login => {
                ("200 OK", "text/html", "<!DOCTYPE html><html><form>Log in</form></html>")
            }
            Way::NoRoute => ("404 Not Found", "text/plain; charset=utf-8", "404 page not found\n"),
            Way::Error => ("200 OK", "application/json", r#"{"error":"please log in"}"#),
            Way::Object => ("200 OK", "application/json", "{}"),
            _ => return None,
        })
    }

    /// A foreign answer must not be believed later either: the views ask again every few seconds.
    fn lasts(self) -> Duration {
        if self.foreign().is_some() { FOREIGN_LASTS } else { LASTS }
    }
}

/// How long each way lasts, and how often it is tried until no timer is late: a machine that is busy with something
/// else may make any timer late.
const LASTS: Duration = Duration::from_secs(1);
const FOREIGN_LASTS: Duration = Duration::from_secs(10);
const ROUNDS: usize = 8;

/// How late a timer of 10 ms may be in the best round, also on a busy machine, and in each. A worker that waits for Consul
/// is late by a timeout.
const LATE_MS: f64 = 500.0;
const BLOCKED_MS: f64 = 3000.0;

/// Longer than a change takes to be in the dump file.
const DUMP_SETTLES: Duration = Duration::from_secs(5);

/// The lines in the log, and the requests to Consul, in the time of a round.
const MOST_LINES: usize = 20;
const MOST_REQUESTS: usize = 40;

/// The connections to Consul: two that wait and four that read.
const MOST_CONNECTIONS: usize = 6;

/// Entries without an address, without a port, with a port and a weight that there are not, with an address of version
/// 6 where nothing listens, with a name, and without the service.
const ODD: &str = r#"{"Node":{"Node":"n"},"Service":{"ID":"a","Service":"web","Port":80}},
    {"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"b","Service":"web","Port":0}},
    {"Node":{"Node":"n","Address":"127.0.0.1"},"Service":{"ID":"c","Service":"web","Port":70000}},
    {"Node":{"Node":"n","Address":"127.0.0.1"},
        "Service":{"ID":"d","Service":"web","Port":1,"Weights":{"Passing":-1,"Warning":1}}},
    {"Node":{"Node":"n","Address":"::1"},"Service":{"ID":"e","Service":"web","Port":1}},
    {"Node":{"Node":"n","Address":"web.example"},"Service":{"ID":"f","Service":"web","Port":80}},
    {"Node":{"Node":"n","Address":"127.0.0.1"},"Service":null},"#;

/// A server in front of Consul.
struct Hostile {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    consul: Option<SocketAddr>,
    way: Way,
    open: Vec<TcpStream>,
    most_open: usize,
    requests: usize,
}

impl Hostile {
    fn start() -> Result<Hostile, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            consul: None,
            way: Way::Good,
            open: Vec::new(),
            most_open: 0,
            requests: 0,
        }));
        let hostile = Hostile { address, state: Arc::clone(&state) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Ok(hostile)
    }

    fn set(&self, way: Way) {
        let mut state = lock(&self.state);
        (state.way, state.requests) = (way, 0);
        // Their queries would wait on in the way before. An empty list after an outage would be held back.
        for stream in state.open.iter().filter(|_| way != Way::Empty) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let Ok(peer) = stream.peer_addr() else { return };
    {
        let Ok(open) = stream.try_clone() else { return };
        let mut state = lock(state);
        state.open.push(open);
        state.most_open = state.most_open.max(state.open.len());
    }
    // It ends when the gateway or the test ends the connection.
    while matches!(answer(stream, state), Ok(true)) {}
    lock(state).open.retain(|open| open.peer_addr().is_ok_and(|other| other != peer));
}

/// Answers a request in Consul's present way. Returns whether the connection goes on.
fn answer(mut stream: &TcpStream, state: &Mutex<State>) -> Result<bool, Failed> {
    if stream.peek(&mut [0])? == 0 {
        return Ok(false);
    }
    let (way, consul) = {
        let mut state = lock(state);
        state.requests += 1;
        (state.way, state.consul.ok_or("Consul is not there yet")?)
    };
    if way == Way::Resetting {
        return Ok(false);
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head)?;
    let path = head.split(' ').nth(1).ok_or("no path")?;
    if let Some((status, kind, body)) = way.foreign() {
        stream.write_all(reply(status, &format!("Content-Type: {kind}\r\n"), body).as_bytes())?;
        return Ok(true);
    }
    match way {
        Way::Silent => {
            stream.peek(&mut [0])?;
            return Ok(false);
        }
        Way::TooMany => {
            let why = "Your IP is issuing too many concurrent connections, please rate limit your calls\n";
            stream.write_all(reply("429 Too Many Requests", "", why).as_bytes())?;
            return Ok(true);
        }
        Way::Failing => {
            let why = "rpc error making call: EOF";
            stream.write_all(reply("500 Internal Server Error", "", why).as_bytes())?;
            return Ok(true);
        }
        _ => {}
    }
    let real = forward(consul, path)?;
    let index = real.header("x-consul-index").unwrap_or("1").to_owned();
    let is_list = path.starts_with("/v1/health/service/");
    let (index, body) = match way {
        Way::IndexBack => ("1".to_owned(), real.body),
        Way::Empty if is_list => (index, "[]".to_owned()),
        Way::Odd if is_list => (index, real.body.replacen('[', &format!("[{ODD}"), 1)),
        _ => (index, real.body),
    };
    let good = reply("200 OK", &format!("X-Consul-Index: {index}\r\n"), &body);
    match way {
        Way::Stray => {
            let stray = reply("200 OK", "X-Consul-Index: 7\r\n", "[]");
            stream.write_all((good + &stray).as_bytes())?;
        }
        Way::Half => {
            stream.write_all(&good.as_bytes()[..good.len() / 2])?;
            return Ok(false);
        }
        Way::Dripping => {
            for byte in good.bytes() {
                stream.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        _ => stream.write_all(good.as_bytes())?,
    }
    Ok(true)
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Consul's answer, also when that takes minutes.
fn forward(consul: SocketAddr, path: &str) -> Result<Answer, Failed> {
    let mut stream = TcpStream::connect(consul)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no whole answer")?;
    Ok(Answer { status: 200, head: head.to_owned(), body: body.to_owned() })
}

/// How late a timer of 10 ms was at most since the last request for that.
const LATE: &str = r#"gateway.start()
        local before, latest = ngx.now(), 0
        ngx.timer.every(0.01, function()
            latest, before = math.max(latest, (ngx.now() - before) * 1000 - 10), ngx.now()
        end)
        function gateway.late_ms()
            local late = latest
            latest = 0
            return late
        end
"#;

const LOCATIONS: &str = r"location = /worker { content_by_lua_block { ngx.say(ngx.worker.pid()) } }
        location = /late { content_by_lua_block { ngx.say(gateway.late_ms()) } }
        location = /gateway";

fn start(unpacked: &Path, hostile: &Hostile) -> Result<Nginx, Failed> {
    let consul = format!("env CONSUL_HTTP_ADDR={};", hostile.address);
    let nginx = Nginx::start_example(unpacked, "gateway", 1, |text| {
        text.replacen("env CONSUL_HTTP_ADDR;", &consul, 1)
            .replacen("gateway.start()", LATE, 1)
            .replacen("location = /gateway", LOCATIONS, 1)
    })?;
    lock(&hostile.state).consul = Some(nginx.consul_address);
    Ok(nginx)
}

fn instances(nginx: &Nginx) -> Result<String, Failed> {
    Ok(get(nginx.address, "/gateway/instances")?.body)
}

/// The addresses that this worker knows, whatever their states are.
fn addresses(nginx: &Nginx) -> Result<Vec<String>, Failed> {
    let shown = instances(nginx)?;
    let address = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let mut addresses: Vec<_> = shown.lines().map(address).collect();
    addresses.sort_unstable();
    Ok(addresses)
}

/// The dump file without its times, which are written again each minute.
fn dump(nginx: &Nginx) -> Result<String, Failed> {
    let text = fs::read_to_string(nginx.folder.join("instances.json"))?;
    let is_of_time = |c: char| c.is_ascii_digit() || c == '.';
    let parts = text.split("\"confirmed\":").map(|part| part.trim_start_matches(is_of_time));
    Ok(parts.collect())
}

/// The dump file with all instances, after which nothing is left to be written.
fn settled_dump(nginx: &Nginx) -> Result<String, Failed> {
    let ports: Vec<_> = addresses(nginx)?
        .iter()
        .map(|address| address.rsplit(':').next().unwrap_or_default().to_owned())
        .collect();
    let mut before = String::new();
    let mut since = Instant::now();
    wait_until(|| {
        let found = dump(nginx).unwrap_or_default();
        if found != before || !ports.iter().all(|port| found.contains(port)) {
            (before, since) = (found, Instant::now());
        }
        Ok(since.elapsed() > DUMP_SETTLES)
    })?;
    Ok(before)
}

fn late_ms(nginx: &Nginx) -> Result<f64, Failed> {
    Ok(get(nginx.address, "/late")?.body.trim().parse()?)
}

fn lines(nginx: &Nginx) -> Result<usize, Failed> {
    Ok(fs::read_to_string(nginx.folder.join("log"))?.lines().count())
}

/// Makes requests while Consul behaves in this way. Returns how late a timer was.
fn serves(nginx: &Nginx, hostile: &Hostile, way: Way) -> Result<f64, Failed> {
    let kept = match way.foreign() {
        Some(_) => Some((settled_dump(nginx)?, addresses(nginx)?)),
        None => None,
    };
    let lines_before = lines(nginx)?;
    late_ms(nginx)?;
    hostile.set(way);
    // A change, for which the list is read.
    register(nginx, "other", backend("other")?)?;
    let (begun, mut is_felt) = (Instant::now(), false);
    while begun.elapsed() < way.lasts() || !is_felt {
        check(begun.elapsed() < PATIENCE, &format!("{way:?}: it was without effect"))?;
        let answer = get(nginx.address, "/")?;
        let is_unavailable = answer.status == 503 && answer.header("retry-after").is_some();
        let is_fine = answer.status == 200 || way == Way::Empty && is_unavailable;
        check(is_fine, &format!("{way:?}: status {}: {}", answer.status, answer.body))?;
        is_felt |= match way {
            Way::Empty => is_unavailable,
            Way::Odd => instances(nginx)?.contains("web.example"),
            _ => lock(&hostile.state).requests > 0,
        };
        thread::sleep(Duration::from_millis(5));
    }
    let late = late_ms(nginx)?;
    check(late < BLOCKED_MS, &format!("{way:?}: a timer was late by {late} ms"))?;
    if let Some((dumped, listed)) = kept {
        check(dump(nginx)? == dumped, &format!("{way:?}: the dump file changed"))?;
        check(addresses(nginx)? == listed, &format!("{way:?}: the list changed"))?;
    }
    let rounds = 1 + usize::try_from(begun.elapsed().as_secs() / LASTS.as_secs())?;
    let requests = lock(&hostile.state).requests;
    check(requests <= rounds * MOST_REQUESTS, &format!("{way:?}: {requests} requests to Consul"))?;
    let logged = lines(nginx)? - lines_before;
    check(logged <= rounds * MOST_LINES, &format!("{way:?}: {logged} lines in the log"))?;
    Ok(late)
}

pub fn misbehaves(unpacked: &Path) -> Outcome {
    let hostile = Hostile::start()?;
    let nginx = start(unpacked, &hostile)?;
    register(&nginx, "first", backend("first")?)?;
    wait_until(|| Ok(get(nginx.address, "/")?.status == 200))?;
    for (number, way) in WAYS.into_iter().enumerate() {
        let mut late = serves(&nginx, &hostile, way)?;
        for _ in 1..ROUNDS {
            if late > LATE_MS {
                late = serves(&nginx, &hostile, way)?;
            }
        }
        check(late <= LATE_MS, &format!("{way:?}: a timer was late by {late} ms"))?;
        hostile.set(Way::Good);
        let added = backend("another")?;
        register(&nginx, &format!("added {number}"), added)?;
        wait_until(|| Ok(instances(&nginx)?.contains(&format!("{added} "))))?;
        wait_until(|| Ok(get(nginx.address, "/")?.status == 200))?;
    }
    let most = lock(&hostile.state).most_open;
    check(most <= MOST_CONNECTIONS, &format!("{most} connections to Consul"))
}
