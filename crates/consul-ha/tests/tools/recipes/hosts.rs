//! Hosts with services, on one machine: each has a folder of its own for /etc and /var, and in a lab a network namespace. The
//! shell's `ssh`, `scp` and `systemctl` are scripts here; the last asks this process, which starts and stops the services as
//! systemd does.

use crate::support::outside::without_consul;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a service may take to start, as in node.service.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// How long a service may take to end before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(20);

/// `ssh HOST COMMAND…`
const SSH: &str = r#"#!/usr/bin/env bash
set -eu
export HOST=$1
shift
command="$*"
command=${command//\/etc\//$ROOT/$HOST/etc/}
command=${command//\/var\//$ROOT/$HOST/var/}
[ ! -e "$ROOT/$HOST/environment" ] || . "$ROOT/$HOST/environment"
exec ${WITHIN/\$HOST/$HOST} bash -eu -o pipefail -c "$command"
"#;

/// `scp [-q] FROM… TO`; some are `HOST:PATH`
const SCP: &str = r#"#!/usr/bin/env bash
set -eu
files=()
for file; do
    case $file in
        -*) ;;
        *:*) files+=("$ROOT/${file%%:*}${file#*:}") ;;
        *) files+=("$file") ;;
    esac
done
exec cp "${files[@]}"
"#;

/// `systemctl VERB UNIT` on the host of `ssh`
const SYSTEMCTL: &str = r#"#!/usr/bin/env bash
set -eu
exec 3<>"/dev/tcp/${MANAGER/://}"
echo "$HOST $1 $2" >&3
read -r outcome <&3
[ "$outcome" = done ] || { echo "$1 $2 on $HOST: $outcome" >&2; exit 1; }
"#;

/// A service of a host.
pub struct Unit {
    /// The program and its arguments; `ROOT` in them is the folder of all hosts.
    pub command: Vec<String>,
    /// Whether it tells when it has started (`Type=notify`).
    pub notifies: bool,
}

impl Unit {
    /// A unit of a file for systemd, whose program is in this checkout.
    pub fn of_file(name: &str) -> Unit {
        let text = crate::support::pages::read(name);
        let setting = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let command = setting("ExecStart=").expect("a program").replace("/opt/tsdb/", "");
        let command = command.replace("/usr/bin/", "");
        let command = command.split_whitespace().map(str::to_owned).collect();
        Unit { command, notifies: setting("Type=") == Some("notify") }
    }
}

/// A host and a unit.
type Name = (String, String);

pub struct Hosts {
    root: PathBuf,
    manager: SocketAddr,
    within: &'static str,
    environment: Vec<(String, String)>,
    serving: Option<JoinHandle<()>>,
}

impl Hosts {
    /// Hosts with these units; none of them runs. `programs` are linked by their names into the shell's PATH. What is done on
    /// a host begins with the words `within`, in which `$HOST` is its name; all reach this process at `own`.
    pub fn new(
        units: Vec<(&str, &str, Unit)>,
        programs: &[(&str, &Path)],
        (own, within): (IpAddr, &'static str),
    ) -> Hosts {
        let root = std::env::temp_dir().join(format!("consul_ffi-recipes-{}", unique()));
        let bin = root.join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(root.join("operator")).unwrap();
        for (name, script) in [("ssh", SSH), ("scp", SCP), ("systemctl", SYSTEMCTL)] {
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, program) in programs {
            std::os::unix::fs::symlink(program, bin.join(name)).unwrap();
        }
        let listener = TcpListener::bind((own, 0)).unwrap();
        let manager = listener.local_addr().unwrap();
        for (host, ..) in &units {
            for folder in ["etc/tsdb", "etc/consul.d", "var/lib/tsdb", "var/lib/consul"] {
                fs::create_dir_all(root.join(host).join(folder)).unwrap();
            }
        }
        let named = |(host, unit, it): (&str, &str, Unit)| ((host.to_owned(), unit.to_owned()), it);
        let units = units.into_iter().map(named).collect();
        let services = Services { root: root.clone(), within, units, running: BTreeMap::new() };
        let serving = Some(thread::spawn(move || services.serve(&listener)));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let environment = [
            ("PATH", path),
            ("ROOT", root.display().to_string()),
            ("MANAGER", manager.to_string()),
            ("WITHIN", within.to_owned()),
            ("CHECKOUT", crate::support::root().to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Hosts { root, manager, within, environment, serving }
    }

    /// The path of a file of a host.
    pub fn path(&self, host: &str, file: &str) -> PathBuf {
        self.root.join(host).join(file)
    }

    pub fn write(&self, host: &str, file: &str, text: &str) {
        fs::write(self.path(host, file), text).unwrap();
    }

    /// Starts, stops, restarts, reloads or kills a service.
    pub fn control(&self, host: &str, verb: &str, unit: &str) {
        let outcome = ask(self.manager, &format!("{host} {verb} {unit}"));
        assert_eq!(outcome, "done", "{verb} {unit} on {host}");
    }

    /// Runs a script of bash as the operator does.
    pub fn run(&self, script: &str, environment: &[(String, String)]) -> Output {
        let mut command = on_host(self.within, "operator", "timeout");
        command.args(["300", "bash", "-c", script]);
        without_consul(&mut command);
        let environment = self.environment.iter().chain(environment);
        command.envs(environment.map(|(name, value)| (name, value)));
        command.current_dir(self.root.join("operator")).stdin(Stdio::null()).output().unwrap()
    }

    /// The ends of the logs of all services.
    pub fn logs(&self) -> String {
        let hosts = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let files = hosts.filter_map(|host| fs::read_dir(host.path()).ok()).flatten().flatten();
        let logs = files.map(|file| file.path());
        let mut all = String::new();
        for log in logs.filter(|path| path.extension().is_some_and(|it| it == "log")) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(12).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            all.push_str(&format!("{}:\n{}\n", log.display(), lines.join("\n")));
        }
        all
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        ask(self.manager, "- end -");
        let _ = self.serving.take().map(JoinHandle::join);
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// A name that no other run has.
fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// A program on a host.
fn on_host(within: &str, host: &str, program: &str) -> Command {
    let mut words = within.split_whitespace().map(|word| word.replace("$HOST", host));
    let Some(first) = words.next() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

fn ask(manager: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(manager).unwrap();
    writeln!(stream, "{request}").unwrap();
    let mut outcome = String::new();
    BufReader::new(stream).read_line(&mut outcome).unwrap();
    outcome.trim().to_owned()
}

/// The services, in the thread that starts them: they end with it.
struct Services {
    root: PathBuf,
    within: &'static str,
    units: BTreeMap<Name, Unit>,
    running: BTreeMap<Name, Child>,
}

impl Services {
    fn serve(mut self, listener: &TcpListener) {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let words: Vec<&str> = request.split_whitespace().collect();
            let [host, verb, unit] = words[..] else { continue };
            let name = (host.to_owned(), unit.to_owned());
            let outcome = match verb {
                "end" => Ok(()),
                "start" => self.start(&name),
                "stop" => self.stop(&name),
                "restart" => self.stop(&name).and_then(|()| self.start(&name)),
                "reload" => self.signal(&name, "HUP"),
                "kill" => self.kill(&name),
                _ => Err(format!("no verb {verb}")),
            };
            let said = outcome.err().unwrap_or_else(|| "done".to_owned());
            let _ = writeln!(stream, "{}", said.replace('\n', " "));
            if verb == "end" {
                break;
            }
        }
        for mut child in self.running.into_values() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn start(&mut self, name: &Name) -> Result<(), String> {
        let Some(unit) = self.units.get(name) else { return Err("unit not found".to_owned()) };
        if self.running.get_mut(name).is_some_and(|it| matches!(it.try_wait(), Ok(None))) {
            return Ok(());
        }
        let folder = self.root.join(&name.0);
        let socket = folder.join("notify");
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).map_err(|it| it.to_string())?;
        let log = fs::File::options().create(true).append(true).open(folder.join("service.log"));
        let log = log.map_err(|it| it.to_string())?;
        let root = self.root.display().to_string();
        let words = unit.command.iter().map(|word| word.replace("ROOT", &root));
        let mut command = on_host(self.within, &name.0, "setpriv");
        command.args(["--pdeathsig", "KILL"]).args(words).current_dir(crate::support::root());
        without_consul(&mut command);
        command
            .env("LUA_PATH", "./?.lua;./lua/?.lua;;")
            .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
            .env("CONFIGURATION_DIRECTORY", folder.join("etc/tsdb"))
            .env("STATE_DIRECTORY", folder.join("var/lib/tsdb"))
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(|it| it.to_string())?)
            .stdout(log);
        let mut child = command.spawn().map_err(|it| it.to_string())?;
        let started = if unit.notifies { wait_for_ready(&notified, &mut child) } else { Ok(()) };
        self.running.insert(name.clone(), child);
        started
    }

    fn stop(&mut self, name: &Name) -> Result<(), String> {
        let _ = self.signal(name, "TERM");
        let end = Instant::now() + ENDS_WITHIN;
        while let Some(child) = self.running.get_mut(name) {
            if !matches!(child.try_wait(), Ok(None)) {
                self.running.remove(name);
            } else if Instant::now() >= end {
                return self.kill(name);
            } else {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn kill(&mut self, name: &Name) -> Result<(), String> {
        if let Some(mut child) = self.running.remove(name) {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    }

    fn signal(&mut self, name: &Name, signal: &str) -> Result<(), String> {
        let Some(child) = self.running.get(name) else { return Err("it does not run".to_owned()) };
        let status =
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        if status.is_ok_and(|it| it.success()) { Ok(()) } else { Err("it has ended".to_owned()) }
    }
}

/// Waits until a service says that it has started.
fn wait_for_ready(notified: &UnixDatagram, child: &mut Child) -> Result<(), String> {
    let _ = notified.set_read_timeout(Some(PAUSE));
    let end = Instant::now() + STARTS_WITHIN;
    let mut text = [0; 256];
    while Instant::now() < end {
        match notified.recv(&mut text) {
            Ok(length) if String::from_utf8_lossy(&text[..length]).contains("READY=1") => {
                return Ok(());
            }
            Err(why) if !matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(why.to_string());
            }
            _ => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it has ended: {status}"));
        }
    }
    Err("it has not started in time".to_owned())
}
