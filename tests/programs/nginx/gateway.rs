//! The example's gateway: `gateway.conf` and `gateway.lua`.

use super::{AT_ONCE, Nginx, Outcome, PATIENCE, check, get, send, wait_until};
use crate::support::consul::say_skipped;
use libtest_mimic::Failed;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A gateway with a location that tells its worker, as the other example has it.
pub fn start(unpacked: &Path, workers: u32) -> Result<Nginx, Failed> {
    let worker = "location = /worker { content_by_lua_block { ngx.say(ngx.worker.pid()) } }\n";
    Nginx::start_example(unpacked, "gateway", workers, |text| {
        text.replacen("location = /gateway", &format!("{worker}location = /gateway"), 1)
    })
}

/// Answers each connection in a thread of its own, until the process ends.
fn serve(
    listener: TcpListener,
    answer: impl Fn(TcpStream) -> std::io::Result<()> + Copy + Send + 'static,
) -> Result<SocketAddr, Failed> {
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

/// A server that answers every request with its name.
pub fn backend(name: &'static str) -> Result<SocketAddr, Failed> {
    serve(TcpListener::bind("127.0.0.1:0")?, move |stream| answer(stream, name))
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => request.extend(&buffer[..n]),
        }
    }
    let length = name.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}")
}

/// A server that answers the first request of each connection, and closes it when the second one comes.
fn closing(reads_before: bool) -> Result<SocketAddr, Failed> {
    serve(TcpListener::bind("127.0.0.1:0")?, move |stream| answer_once(stream, reads_before))
}

fn answer_once(mut stream: TcpStream, reads_before: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 4096];
    // The requests here are small enough to come at once.
    let _ = stream.read(&mut buffer)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    match reads_before {
        true => stream.read(&mut buffer)?,
        // With something unread it is reset.
        false => stream.peek(&mut buffer)?,
    };
    Ok(())
}

pub fn register(nginx: &Nginx, id: &str, address: SocketAddr) -> Outcome {
    let port = address.port();
    let host = address.ip();
    let body = format!(r#"{{"ID":"{id}","Name":"web","Address":"{host}","Port":{port}}}"#);
    ask_agent(nginx, "register", &body)
}

pub fn deregister(nginx: &Nginx, id: &str) -> Outcome {
    ask_agent(nginx, &format!("deregister/{id}"), "")
}

fn ask_agent(nginx: &Nginx, path: &str, body: &str) -> Outcome {
    let answer = send(nginx.consul_address, "PUT", &format!("/v1/agent/service/{path}"), body)?;
    check(answer.status == 200, &answer.body)
}

pub fn instances(nginx: &Nginx) -> Result<String, Failed> {
    Ok(get(nginx.address, "/gateway/instances")?.body)
}

fn is_unavailable(nginx: &Nginx) -> Result<bool, Failed> {
    let answer = get(nginx.address, "/")?;
    Ok(answer.status == 503 && answer.header("retry-after").is_some())
}

pub fn follows_consul(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked, 1)?;
    check(is_unavailable(&nginx)?, "there is no instance yet")?;
    let (one, two) = (backend("one")?, backend("two")?);
    let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    register(&nginx, "one", one)?;
    register(&nginx, "two", two)?;
    wait_until(|| Ok(instances(&nginx)?.lines().count() == 2))?;

    // A dead instance costs no request: each is tried on another one.
    register(&nginx, "dead", dead)?;
    let ejected = format!("{dead} ejected");
    let mut seen = Vec::new();
    wait_until(|| {
        let answer = get(nginx.address, "/")?;
        check(answer.status == 200, "a request was not served")?;
        seen.push(answer.body);
        Ok(instances(&nginx)?.contains(&ejected))
    })?;
    let refused = fs::read_to_string(nginx.folder.join("log"))?.matches("refused").count();
    check((1..=5).contains(&refused), &format!("{refused} requests to the dead instance"))?;
    wait_until(|| {
        seen.push(get(nginx.address, "/")?.body);
        Ok(["one", "two"].iter().all(|name| seen.iter().any(|body| body == name)))
    })?;

    ask_agent(&nginx, "maintenance/two?enable=true", "")?;
    wait_until(|| Ok(!instances(&nginx)?.contains(&two.to_string())))?;
    for _ in 0..20 {
        check(get(nginx.address, "/")?.body == "one", "an instance in maintenance was picked")?;
    }
    for id in ["one", "two", "dead"] {
        deregister(&nginx, id)?;
    }
    wait_until(|| is_unavailable(&nginx))
}

pub fn closed(unpacked: &Path) -> Outcome {
    for reads_before in [true, false] {
        let nginx = start(unpacked, 1)?;
        let instance = closing(reads_before)?;
        register(&nginx, "closing", instance)?;
        wait_until(|| Ok(instances(&nginx)?.lines().count() == 1))?;
        for number in 0..200 {
            let answer = get(nginx.address, "/")?;
            check(answer.status == 200, &format!("request {number}: {}", answer.status))?;
        }
        let shown = instances(&nginx)?;
        check(shown.contains("active") && shown.contains(" 0 in flight"), &shown)?;
    }
    Ok(())
}

/// A dead instance costs no more requests than one without kept connections, also those that are
/// not repeated.
pub fn closed_for_good(unpacked: &Path) -> Outcome {
    static IS_DEAD: AtomicBool = AtomicBool::new(false);
    let nginx = start(unpacked, 1)?;
    let dying = serve(TcpListener::bind("127.0.0.1:0")?, move |mut stream| {
        while stream.peek(&mut [0])? > 0 && !IS_DEAD.load(Ordering::SeqCst) {
            let _ = stream.read(&mut [0; 4096])?;
            // Slow enough that each of the requests below has a connection of its own.
            thread::sleep(Duration::from_millis(300));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
        Ok(())
    })?;
    register(&nginx, "dying", dying)?;
    wait_until(|| Ok(instances(&nginx)?.lines().count() == 1))?;
    let address = nginx.address;
    let burst: Vec<_> = (0..40).map(|_| thread::spawn(move || get(address, "/"))).collect();
    for request in burst {
        check(request.join().map_err(|_| "a thread panicked")??.status == 200, "the burst")?;
    }
    // Slower, so that the balancer prefers the dying one.
    let good = serve(TcpListener::bind("127.0.0.1:0")?, move |mut stream| {
        while stream.read(&mut [0; 4096])? > 0 {
            thread::sleep(Duration::from_millis(600));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
        Ok(())
    })?;
    register(&nginx, "good", good)?;
    wait_until(|| Ok(instances(&nginx)?.lines().count() == 2))?;
    IS_DEAD.store(true, Ordering::SeqCst);
    let (mut lost, ejected) = (0, format!("{dying} ejected"));
    wait_until(|| {
        lost += usize::from(send(address, "POST", "/", "")?.status != 200);
        Ok(instances(&nginx)?.contains(&ejected))
    })?;
    check((1..=4).contains(&lost), &format!("{lost} were lost"))
}

pub fn subrequests(unpacked: &Path) -> Outcome {
    for reports in ["", "header_filter_by_lua_block { gateway.report(); }"] {
        subrequests_with(unpacked, reports)?;
    }
    Ok(())
}

/// Each location of subrequests has `reports`.
fn subrequests_with(unpacked: &Path, reports: &str) -> Outcome {
    let (consul, service) =
        ("location = /gateway", format!("proxy_pass http://service; {reports}"));
    let locations = format!(
        "location = /mirror {{ mirror /copy; proxy_pass http://service; }}
        location = /copy {{ internal; {service} }}
        location = /auth {{ auth_request /copy; proxy_pass http://service; }}
        location = /ssi {{ ssi on; ssi_types *; proxy_pass http://service; }}
        location = /capture {{ content_by_lua_block {{ ngx.print(ngx.location.capture('/copy').body) }} }}
        location = /slice {{
            slice 1k;
            proxy_cache all;
            proxy_cache_key $uri$slice_range;
            proxy_cache_valid 206 1h;
            proxy_set_header Range $slice_range;
            proxy_set_header Connection '';
            {service}
        }}
        location = /update {{
            proxy_cache all;
            proxy_cache_valid 200 1s;
            proxy_cache_use_stale updating;
            proxy_cache_background_update on;
            {service}
        }}
        {consul}"
    );
    let nginx = Nginx::start_example(unpacked, "gateway", 1, |text| {
        text.replacen(consul, &locations, 1).replacen(
            "upstream service",
            "proxy_cache_path cache keys_zone=all:1m;\nupstream service",
            1,
        )
    })?;
    let (one, two) = (ranges("one")?, ranges("two")?);
    register(&nginx, "one", one)?;
    register(&nginx, "two", two)?;
    wait_until(|| Ok(instances(&nginx)?.lines().count() == 2))?;
    for path in ["/mirror", "/auth", "/ssi", "/capture", "/slice", "/update"] {
        for _ in 0..20 {
            let answer = get(nginx.address, path)?;
            check(answer.status == 200, &format!("{path}: {}", answer.status))?;
            if path == "/update" {
                // The cached answer gets old.
                thread::sleep(Duration::from_millis(250));
            }
            let length = if path == "/slice" { SLICED } else { answer.body.len() };
            check(answer.body.len() == length, &format!("{path}: {} bytes", answer.body.len()))?;
        }
        wait_until(|| Ok(instances(&nginx)?.matches(" 0 in flight").count() == 2))
            .map_err(|_| format!("{path} {reports}: {}", instances(&nginx).unwrap_or_default()))?;
    }
    Ok(())
}

/// The bytes of a body that is asked for in ranges.
const SLICED: usize = 20_000;

/// A server that answers a request for a range with that part of a body, and others with its name
/// and an SSI.
fn ranges(name: &'static str) -> Result<SocketAddr, Failed> {
    serve(TcpListener::bind("127.0.0.1:0")?, move |mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => request.extend(&buffer[..n]),
            }
        }
        let request = String::from_utf8_lossy(&request);
        let range =
            request.lines().find_map(|line| line.strip_prefix("Range: bytes=")?.split_once('-'));
        let range = range
            .and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?)));
        match range {
            Some((from, to)) => {
                let to = SLICED.min(to + 1);
                let part = "x".repeat(to.saturating_sub(from));
                write!(
                    stream,
                    "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{SLICED}\r\n\
                    ETag: \"x\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{part}",
                    to - 1,
                    part.len()
                )
            }
            None => {
                let body = match request.starts_with("GET /ssi ") {
                    true => "<!--# include virtual=\"/copy\" -->",
                    false => name,
                };
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            }
        }
    })
}

pub fn in_brackets(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked, 1)?;
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        say_skipped("an address in brackets", "this machine has no IPv6");
        return Ok(());
    };
    let port = serve(listener, |stream| answer(stream, "six"))?.port();
    for address in ["::1", "[::1]"] {
        let body = format!(r#"{{"ID":"{port}","Name":"web","Address":"{address}","Port":{port}}}"#);
        ask_agent(&nginx, "register", &body)?;
        wait_until(|| Ok(instances(&nginx)?.contains(&format!("{address}:{port} "))))?;
        check(get(nginx.address, "/")?.body == "six", address)?;
    }
    Ok(())
}

pub fn reloads_without_consul(unpacked: &Path) -> Outcome {
    let mut nginx = start(unpacked, 1)?;
    register(&nginx, "one", backend("one")?)?;
    wait_until(|| Ok(get(nginx.address, "/")?.body == "one"))?;
    nginx.consul.kill()?;
    check(get(nginx.address, "/")?.body == "one", "the last list was not used")?;
    for _ in 0..2 {
        let address = nginx.address;
        let waiting: Vec<_> = (0..5).map(|_| thread::spawn(move || get(address, "/"))).collect();
        let before = nginx.worker()?;
        thread::sleep(Duration::from_millis(200));
        nginx.signal("HUP")?;
        let begun = Instant::now();
        wait_until(|| Ok(!Path::new(&format!("/proc/{before}")).exists()))?;
        check(begun.elapsed() < AT_ONCE, &format!("it ended after {:?}", begun.elapsed()))?;
        wait_until(|| Ok(nginx.worker().is_ok()))?;
        for request in waiting {
            let status = request.join().map_err(|_| "a thread panicked")??.status;
            check(status == 200, &status.to_string())?;
        }
    }
    check(get(nginx.address, "/")?.body == "one", "a new worker did not use the last list")?;
    let dump = nginx.folder.join("instances.json");
    wait_until(|| Ok(fs::read_to_string(&dump).is_ok_and(|text| text.contains("\"port\""))))?;
    nginx.restart(unpacked)?;
    check(get(nginx.address, "/")?.body == "one", "the dump file was not used")
}
