//! The example's gateway under load, while it is reloaded, workers are killed, instances come, go and die, and Consul
//! stops: no idempotent request is lost. `LONG=1`: for a minute.

use super::gateway::{deregister, instances, register, start};
use super::long::workers;
use super::{Nginx, Outcome, PATIENCE, check, signal, temporary_paths, wait_until};
use libtest_mimic::Failed;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: u32 = 2;
const CLIENTS: usize = 6;

/// How long requests go on after each event, and how long the load lasts in the long form.
const PAUSE: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(60);

/// How often instances end a kept connection by its number of requests, and after how many idle seconds.
const LIMITS: [(u32, u32); 3] = [(7, 60), (1_000_000, 1), (100, 60)];

/// The events in a round.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An instance starts.
    Comes,
    /// An instance is killed, which Consul is told later.
    Dies,
    /// The same, while Consul does not answer.
    DiesUnseen,
    /// An instance leaves Consul, and ends at once.
    Goes,
    /// A reload.
    Reload,
    /// A reload while another one runs.
    Reloads,
    /// A worker is killed.
    WorkerDies,
}

const ROUND: [Event; 10] = [
    Event::Comes,
    Event::Reload,
    Event::Dies,
    Event::WorkerDies,
    Event::Comes,
    Event::Goes,
    Event::Reloads,
    Event::Comes,
    Event::DiesUnseen,
    Event::WorkerDies,
];

/// An instance of the service: an nginx, which answers every request.
struct Instance {
    id: String,
    child: Child,
    folder: PathBuf,
}

impl Instance {
    /// Each has an IP address of its own, to which no connection of this machine can be bound.
    fn start(unpacked: &Path, nginx: &Nginx, number: usize) -> Result<Instance, Failed> {
        let address = TcpListener::bind(format!("127.0.1.{}:0", 1 + number % 250))?.local_addr()?;
        let folder = nginx.folder.join(format!("instance{number}"));
        fs::create_dir_all(&folder)?;
        let (requests, idle_s) = LIMITS[number % LIMITS.len()];
        let configuration = format!(
            "master_process off; pid nginx.pid; worker_processes 1; error_log stderr; events {{}}\nhttp {{\n
                access_log off; keepalive_requests {requests}; keepalive_timeout {idle_s};
                server {{ listen {address}; return 200 {number}; }}\n}}"
        );
        fs::write(folder.join("nginx.conf"), temporary_paths(&configuration))?;
        let child = Nginx::spawn(unpacked, &folder, nginx.consul_address)?;
        let instance = Instance { id: format!("instance{number}"), child, folder };
        wait_until(|| Ok(TcpStream::connect(address).is_ok()))?;
        register(nginx, &instance.id, address)?;
        Ok(instance)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait(), fs::remove_dir_all(&self.folder));
    }
}

/// The state that the clients share.
#[derive(Default)]
struct Load {
    ends: AtomicBool,
    answered: AtomicUsize,
    /// The kills of workers that have begun and that are over.
    kills: [AtomicUsize; 2],
    lost: Mutex<Vec<String>>,
}

impl Load {
    fn kills(&self) -> [usize; 2] {
        // In this order: a kill between the two looks counts as running.
        let over = self.kills[1].load(Ordering::SeqCst);
        [self.kills[0].load(Ordering::SeqCst), over]
    }

    fn lose(&self, why: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }

    /// Makes requests, one after the other, on connections that are kept, until the load ends.
    fn run(&self, gateway: SocketAddr) {
        let mut kept = None;
        let mut number = 0;
        while !self.ends.load(Ordering::SeqCst) {
            number += 1;
            let method = ["GET", "PUT", "DELETE"][number % 3];
            match self.request(gateway, &mut kept, method) {
                Ok(200) => _ = self.answered.fetch_add(1, Ordering::SeqCst),
                Ok(status) => self.lose(format!("{method}: status {status}")),
                Err(error) => self.lose(format!("{method}: {error}")),
            }
        }
    }

    /// The status of a request. As every client does (RFC 9110, 9.2.2), it repeats a request that got no answer when a
    /// kept connection had ended. On a new one the gateway owes an answer, unless its worker was killed.
    fn request(
        &self,
        gateway: SocketAddr,
        kept: &mut Option<TcpStream>,
        method: &str,
    ) -> io::Result<u16> {
        loop {
            let was_kept = kept.is_some();
            let before = self.kills();
            let outcome = match kept.take() {
                Some(stream) => Ok(stream),
                None => TcpStream::connect(gateway),
            }
            .and_then(|stream| exchange(stream, method));
            match outcome {
                Ok((status, stream)) => {
                    *kept = stream;
                    return Ok(status);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if !was_kept && self.kills() == before && before[0] == before[1] => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }
}

/// Sends a request and reads its answer; returns its status, and the connection if it can be used again.
fn exchange(mut stream: TcpStream, method: &str) -> io::Result<(u16, Option<TcpStream>)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = if method == "PUT" { "a body" } else { "" };
    let length = body.len();
    let request =
        format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let field = |name| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let length = field("content-length:").and_then(|length| length.parse::<usize>().ok());
            if Some(body.len()) == length {
                let status = head.get(9..12).and_then(|status| status.parse().ok());
                let is_kept = field("connection:") != Some("close");
                return Ok((status.ok_or(ErrorKind::InvalidData)?, is_kept.then_some(stream)));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The gateway, its instances, and what happens to them.
struct Play<'a> {
    unpacked: &'a Path,
    instances: Vec<Instance>,
    started: usize,
    nginx: Nginx,
}

impl Play<'_> {
    fn comes(&mut self) -> Outcome {
        self.started += 1;
        self.instances.push(Instance::start(self.unpacked, &self.nginx, self.started)?);
        Ok(())
    }

    fn any_instance(&mut self) -> Instance {
        self.instances.swap_remove(fastrand::usize(..self.instances.len()))
    }

    /// Reloads, and waits until other workers serve.
    fn reload(&self, times: usize) -> Outcome {
        let before = workers(&self.nginx)?;
        for _ in 0..times {
            self.nginx.signal("HUP")?;
            thread::sleep(Duration::from_millis(50));
        }
        wait_until(|| {
            let now = workers(&self.nginx)?;
            Ok(now.len() >= WORKERS as usize && !now.iter().any(|pid| before.contains(pid)))
        })
    }

    fn happens(&mut self, event: Event, load: &Load) -> Outcome {
        match event {
            Event::Comes => self.comes(),
            Event::Dies => {
                let mut instance = self.any_instance();
                instance.child.kill()?;
                thread::sleep(PAUSE);
                deregister(&self.nginx, &instance.id)
            }
            Event::DiesUnseen => {
                signal(&self.nginx.consul, "STOP")?;
                let mut instance = self.any_instance();
                let killed = instance.child.kill();
                thread::sleep(2 * PAUSE);
                signal(&self.nginx.consul, "CONT")?;
                killed?;
                deregister(&self.nginx, &instance.id)
            }
            Event::Goes => {
                let mut instance = self.any_instance();
                deregister(&self.nginx, &instance.id)?;
                signal(&instance.child, "QUIT")?;
                wait_until(|| Ok(instance.child.try_wait()?.is_some()))
            }
            Event::Reload => self.reload(1),
            Event::Reloads => self.reload(2),
            Event::WorkerDies => {
                let running = workers(&self.nginx)?;
                let worker = fastrand::choice(&running).ok_or("there is no worker")?;
                load.kills[0].fetch_add(1, Ordering::SeqCst);
                let status = Command::new("kill").args(["-s", "KILL", worker]).status()?;
                wait_until(|| Ok(!workers(&self.nginx)?.contains(worker)))?;
                load.kills[1].fetch_add(1, Ordering::SeqCst);
                check(status.success(), "the worker was not killed")
            }
        }
    }
}

#[allow(clippy::print_stdout)]
pub fn loses_nothing(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked, WORKERS)?;
    let mut play = Play { unpacked, instances: Vec::new(), started: 0, nginx };
    for _ in 0..4 {
        play.comes()?;
    }
    wait_until(|| Ok(instances(&play.nginx)?.lines().count() == 4))?;
    let (load, gateway) = (Load::default(), play.nginx.address);
    let lasts = if std::env::var_os("LONG").is_some() { LONG } else { Duration::ZERO };
    let played = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| load.run(gateway));
        }
        let begun = Instant::now();
        let mut rounds = 0;
        let mut play_round = || -> Outcome {
            for event in ROUND {
                let lost = || load.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let before = lost().len();
                play.happens(event, &load)?;
                thread::sleep(PAUSE);
                let lost = lost();
                check(
                    lost.len() == before,
                    &format!("{event:?}: {} requests: {lost:?}", lost.len()),
                )?;
            }
            Ok(())
        };
        let mut played = Ok(());
        while played.is_ok() && (rounds == 0 || begun.elapsed() < lasts) {
            played = play_round();
            rounds += 1;
        }
        load.ends.store(true, Ordering::SeqCst);
        played
    });
    played?;
    let lost = load.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    check(lost.is_empty(), &format!("{} requests: {lost:?}", lost.len()))?;
    println!("{} requests answered, none lost", load.answered.load(Ordering::SeqCst));
    Ok(())
}
