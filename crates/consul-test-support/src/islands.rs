//! Three real Consul servers on a separate network; a test can cut any of them off from the others
//! while programs still reach it through its unix socket.
//!
//! Each server is in a network namespace, connected to a bridge in another one. The machine's own
//! network is not changed, and the namespaces end with the processes that hold them.

use super::consul;
use crate::outside::without_consul;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The servers.
pub struct Islands {
    folder: PathBuf,
    hub: Child,
    islands: Vec<Child>,
    servers: Vec<Child>,
}

/// The reason why namespaces are not available here, if so.
pub fn are_missing() -> Option<String> {
    let output = Command::new("unshare").args(["--net", "ip", "link"]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

impl Islands {
    /// Starts three servers of this version; `Err` says why it is not available here.
    pub fn start(version: &str) -> Result<Islands, String> {
        let binary = consul::binary(version)?;
        let name = format!("consul_ffi-islands-{:016x}", fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a folder can be made");
        let hub = namespace();
        let islands: Vec<Child> = (0..3).map(|_| namespace()).collect();
        in_namespace(&hub, "ip link add bridge type bridge && ip link set bridge up");
        for (place, island) in islands.iter().enumerate() {
            let pid = island.id();
            let link = format!(
                "ip link add port{place} type veth peer name eth0 netns {pid} \
                 && ip link set port{place} master bridge up"
            );
            in_namespace(&hub, &link);
            let address = format!(
                "ip link set lo up && ip address add {}/24 dev eth0 && ip link set eth0 up",
                ip(place)
            );
            in_namespace(island, &address);
        }
        let mut all = Islands { folder, hub, islands, servers: Vec::new() };
        all.servers = (0..3).map(|place| all.server(place, &binary)).collect();
        Ok(all)
    }

    /// The URL of a server's unix socket.
    pub fn url(&self, place: usize) -> String {
        format!("unix://{}", self.folder.join(format!("{place}.sock")).display())
    }

    /// Cuts a server off from the others.
    pub fn cut_off(&self, place: usize) {
        in_namespace(&self.hub, &format!("ip link set port{place} down"));
    }

    /// Connects it again.
    pub fn reconnect(&self, place: usize) {
        in_namespace(&self.hub, &format!("ip link set port{place} up"));
    }

    /// The index of the server with this address, `"10.77.0.2:8300"`.
    pub fn place_of(&self, address: &str) -> Option<usize> {
        (0..3).find(|place| address.contains(&format!("{}:", ip(*place))))
    }

    fn server(&self, place: usize, binary: &Path) -> Child {
        let log = self.folder.join(format!("{place}.log"));
        let log = fs::File::create(log).expect("a log");
        let socket = self.folder.join(format!("{place}.sock"));
        let hcl = format!(
            "performance {{ raft_multiplier = 1 }} disable_update_check = true \
             addresses {{ http = \"unix://{}\" }}",
            socket.display()
        );
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.islands[place].id().to_string()])
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(binary)
            .args(["agent", "-server"])
            .args(["-bootstrap-expect=3", "-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1"])
            .arg(format!("-node=server-{place}"))
            .arg(format!("-bind={}", ip(place)))
            .arg(format!("-data-dir={}", self.folder.join(format!("data-{place}")).display()))
            .arg(format!("-hcl={hcl}"));
        for other in 0..3 {
            command.arg(format!("-retry-join={}", ip(other)));
        }
        without_consul(&mut command);
        let stderr = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        command.spawn().expect("the server starts")
    }
}

impl Drop for Islands {
    fn drop(&mut self) {
        let held = self.servers.iter_mut().chain(&mut self.islands);
        for process in held.chain(std::iter::once(&mut self.hub)) {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ip(place: usize) -> String {
    format!("10.77.0.{}", place + 1)
}

/// A process that holds a new network namespace.
fn namespace() -> Child {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "sh",
        "-c",
        "echo ready; exec sleep 600",
    ]);
    let mut holder =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut ready = [0; 6];
    let stdout = holder.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(stdout, &mut ready).expect("the namespace is there");
    holder
}

fn in_namespace(holder: &Child, script: &str) {
    let target = holder.id().to_string();
    let status =
        Command::new("nsenter").args(["--net", "--target", &target, "sh", "-c", script]).status();
    assert!(status.is_ok_and(|status| status.success()), "{script}");
}
