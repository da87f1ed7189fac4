//! A cluster of real Consul servers on loopback, whose servers a test kills, stops and starts
//! again.

use super::consul;
use crate::PATIENCE;
use crate::outside::without_consul;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The timeout of a request to one server: a stopped one never answers.
const ASKING: Duration = Duration::from_millis(500);

/// Servers of one datacenter, with the fastest timing of Raft (`raft_multiplier = 1`), and client
/// agents.
///
/// They end when this is dropped, and with the thread that started them.
pub struct Cluster {
    binary: PathBuf,
    is_old: bool,
    folder: PathBuf,
    /// The number of servers; the others are client agents.
    count: usize,
    servers: Vec<Server>,
}

struct Server {
    http: u16,
    rpc: u16,
    serf: u16,
    process: Option<Child>,
    is_stopped: bool,
}

impl Cluster {
    /// Starts `count` servers of this version (`1.21`, `1.8`), and waits until each knows a leader
    /// and all nodes. `Err` says why this Consul is not available here.
    pub fn start(count: usize, version: &str) -> Result<Cluster, String> {
        Self::start_with_clients(count, 0, version)
    }

    /// The same with client agents, which follow the servers in the list of all.
    pub fn start_with_clients(
        servers: usize,
        clients: usize,
        version: &str,
    ) -> Result<Cluster, String> {
        let count = servers + clients;
        let binary = consul::binary(version)?;
        let folder =
            std::env::temp_dir().join(format!("consul_ffi-cluster-{:016x}", fastrand::u64(..)));
        fs::create_dir(&folder).expect("a folder can be made");
        // Held all at once, so that they differ.
        let held: Vec<_> = (0..3 * count).map(|_| free_port()).collect();
        let port = |place: usize| held[place].local_addr().expect("it is bound").port();
        let server = |index: usize| Server {
            http: port(3 * index),
            rpc: port(3 * index + 1),
            serf: port(3 * index + 2),
            process: None,
            is_stopped: false,
        };
        let all = (0..count).map(server).collect();
        drop(held);
        let is_old = version.starts_with("1.8");
        let mut cluster = Cluster { binary, is_old, folder, count: servers, servers: all };
        (0..count).for_each(|index| cluster.restart(index));
        cluster.wait_until("is ready", |cluster| {
            let knows_all = cluster.leader().is_some()
                && (0..count).all(|index| {
                    let nodes = cluster.get(index, "/v1/catalog/nodes").unwrap_or_default();
                    (0..count).all(|other| nodes.contains(&format!("\"server-{other}\"")))
                });
            knows_all.then_some(())
        });
        Ok(cluster)
    }

    /// The address of a server's HTTP API, `127.0.0.1:port`.
    pub fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.servers[index].http)
    }

    /// The Raft leader on which the running servers agree; `None` while they do not, or while that
    /// server does not run.
    pub fn leader(&self) -> Option<usize> {
        let mut named = None;
        for index in (0..self.servers.len()).filter(|index| self.runs(*index)) {
            let said = self.get(index, "/v1/status/leader")?;
            let leader = self
                .servers
                .iter()
                .position(|server| said.trim().ends_with(&format!(":{}\"", server.rpc)))?;
            if !self.runs(leader) || named.is_some_and(|known| known != leader) {
                return None;
            }
            named = Some(leader);
        }
        named
    }

    /// Waits until there is a Raft leader, and returns it.
    pub fn wait_for_leader(&self) -> usize {
        self.wait_until("has a leader", Cluster::leader)
    }

    /// Waits until the others see this one as alive.
    pub fn wait_until_healthy(&self, index: usize) {
        let path = format!("/v1/health/node/server-{index}");
        self.wait_until("is healthy", |cluster| {
            let checks = cluster.get(0, &path)?;
            let of_serf = checks.split("\"CheckID\":\"serfHealth\"").nth(1)?;
            of_serf.split("\"Status\":").nth(1)?.starts_with("\"passing\"").then_some(())
        });
    }

    /// Kills a server, as a power cut would; its data stay.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.servers[index].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        self.servers[index].is_stopped = false;
    }

    /// Deletes the data of a killed server.
    pub fn wipe(&self, index: usize) {
        assert!(self.servers[index].process.is_none(), "server {index} runs");
        let data = self.folder.join(format!("data-{index}"));
        fs::remove_dir_all(data).expect("the data can be removed");
    }

    /// Stops a server, which keeps its connections and answers nothing.
    pub fn stop(&mut self, index: usize) {
        self.signal(index, "STOP");
        self.servers[index].is_stopped = true;
    }

    /// Continues a stopped server.
    pub fn cont(&mut self, index: usize) {
        self.signal(index, "CONT");
        self.servers[index].is_stopped = false;
    }

    /// Restarts a killed server on its ports and with its data.
    pub fn restart(&mut self, index: usize) {
        assert!(self.servers[index].process.is_none(), "server {index} runs");
        let log = self.folder.join(format!("server-{index}.log"));
        let log = fs::File::options().create(true).append(true).open(log).expect("a log");
        let server = &self.servers[index];
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("-{name}={value}");
        // It ends with this process, also if this process is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.binary).arg("agent");
        if index < self.count {
            command.args(["-server".to_owned(), flag("bootstrap-expect", &self.count)]);
        }
        command.args([
            flag("node", &format!("server-{index}")),
            flag("data-dir", &self.folder.join(format!("data-{index}")).display()),
            flag("bind", &"127.0.0.1"),
            flag("http-port", &server.http),
            flag("server-port", &server.rpc),
            flag("serf-lan-port", &server.serf),
            flag("serf-wan-port", &-1),
            flag("dns-port", &-1),
            flag("grpc-port", &-1),
            flag("log-level", &"info"),
            flag("hcl", &"performance { raft_multiplier = 1 } disable_update_check = true"),
        ]);
        if !self.is_old {
            command.arg("-grpc-tls-port=-1");
        }
        for other in &self.servers {
            command.arg(flag("retry-join", &format!("127.0.0.1:{}", other.serf)));
        }
        without_consul(&mut command);
        let stderr = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        self.servers[index].process = Some(command.spawn().expect("the server starts"));
    }

    fn runs(&self, index: usize) -> bool {
        self.servers[index].process.is_some() && !self.servers[index].is_stopped
    }

    fn signal(&self, index: usize, name: &str) {
        let process = self.servers[index].process.as_ref().expect("it runs");
        let pid = process.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "no SIG{name} for server {index}");
    }

    /// The body of an answer with status 200.
    fn get(&self, index: usize, path: &str) -> Option<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.servers[index].http));
        let mut stream = TcpStream::connect_timeout(&address, ASKING).ok()?;
        stream.set_read_timeout(Some(ASKING)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let (head, body) = reply.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    fn wait_until<R>(&self, what: &str, is_so: impl Fn(&Cluster) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = is_so(self) {
                return result;
            }
            assert!(Instant::now() < end, "the cluster never {what}:\n{}", self.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of each server's log.
    fn logs(&self) -> String {
        let end_of = |index: usize| {
            let log = self.folder.join(format!("server-{index}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(10).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            format!("server {index}:\n{}", lines.join("\n"))
        };
        (0..self.servers.len()).map(end_of).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|index| self.kill(index));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that nothing listens on, below the range that the system takes ports of outgoing
/// connections from, so that it stays free while its server is down.
fn free_port() -> TcpListener {
    std::iter::repeat_with(|| fastrand::u16(10_000..32_000))
        .take(1000)
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .expect("a port is free")
}
