//! The example's gateway: `gateway.conf` and `gateway.lua`.

use super::{AT_ONCE, Nginx, Outcome, PATIENCE, check, get, send, wait_until};
use libtest_mimic::Failed;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A gateway with a location that tells its worker, as the other example has it.
fn start(unpacked: &Path) -> Result<Nginx, Failed> {
    let worker = "location = /worker { content_by_lua_block { ngx.say(ngx.worker.pid()) } }\n";
    Nginx::start_example(unpacked, "gateway", 1, |text| {
        text.replacen("location = /gateway", &format!("{worker}location = /gateway"), 1)
    })
}

/// A server that answers every request with its name; it ends with the process.
pub fn backend(name: &'static str) -> Result<SocketAddr, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, name));
        }
    });
    Ok(address)
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

pub fn register(nginx: &Nginx, id: &str, address: SocketAddr) -> Outcome {
    let port = address.port();
    let body = format!(r#"{{"ID":"{id}","Name":"web","Address":"127.0.0.1","Port":{port}}}"#);
    ask_agent(nginx, "register", &body)
}

fn ask_agent(nginx: &Nginx, path: &str, body: &str) -> Outcome {
    let answer = send(nginx.consul_address, "PUT", &format!("/v1/agent/service/{path}"), body)?;
    check(answer.status == 200, &answer.body)
}

fn instances(nginx: &Nginx) -> Result<String, Failed> {
    Ok(get(nginx.address, "/gateway/instances")?.body)
}

fn is_unavailable(nginx: &Nginx) -> Result<bool, Failed> {
    let answer = get(nginx.address, "/")?;
    Ok(answer.status == 503 && answer.header("retry-after").is_some())
}

pub fn follows_consul(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked)?;
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
        ask_agent(&nginx, &format!("deregister/{id}"), "")?;
    }
    wait_until(|| is_unavailable(&nginx))
}

pub fn reloads_without_consul(unpacked: &Path) -> Outcome {
    let mut nginx = start(unpacked)?;
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
