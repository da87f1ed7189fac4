//! A node as a service of systemd, which this test stands in for: it starts the program with a socket for
//! notifications and a watchdog.

use crate::support::authority::Folder;
use crate::support::trials::{Trials, add};
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A node with a handler, whose program polls for as many seconds as each line of its input says, and then stops the
/// node. The check's TTL of its profile is 2 s.
const PROGRAM: &str = r#"
local node = require("consul_ffi").ConsulHACluster:new({
  node_id = "n1", node_address = false, simulate = true, notify = true, profile = "fast",
})
assert(node:handle("ping", function() return "pong" end))
print("starts") io.stdout:flush()
io.read()
assert(node:start())
for line in io.lines() do
  local polls_until = os.time() + tonumber(line)
  while os.time() < polls_until do node:poll(50) end
  print("idle") io.stdout:flush()
  if line == "3" then break end
end
node:stop()
node = nil
collectgarbage()
print("stopped") io.stdout:flush()
io.read()
"#;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, systemd_learns_when_a_node_takes_part_and_that_its_program_polls);
    add!(trials, systemd_accepts_the_unit_of_the_example);
    trials
}

/// `systemd-analyze verify` tells what it does not know or cannot use, each in a line, and takes settings that it does not
/// know for no error.
fn systemd_accepts_the_unit_of_the_example() -> Result<(), Failed> {
    let unit = std::fs::read_to_string("examples/systemd/node.service")?;
    let programs = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/luajit "));
    let programs: Vec<_> = programs.filter_map(|path| path.strip_prefix("/opt/tsdb/")).collect();
    assert_eq!(programs, ["examples/systemd/node.lua"]);
    assert!(std::path::Path::new(programs[0]).is_file(), "{programs:?} is not in the tree");
    // The program of the unit need not be installed here.
    let unit = unit.replace("/usr/bin/luajit", "/bin/sh");
    let folder = Folder::new();
    assert_eq!(complaints(&folder, &unit)?, "");
    let misspelt = unit.replace("WatchdogSec=", "WatchDogSec=");
    assert!(complaints(&folder, &misspelt)?.contains("WatchDogSec"));
    Ok(())
}

fn complaints(folder: &Folder, unit: &str) -> Result<String, Failed> {
    let path = folder.path("node.service");
    std::fs::write(&path, unit)?;
    let verify = Command::new("systemd-analyze").arg("verify").arg(&path).output()?;
    Ok(String::from_utf8(verify.stdout)? + &String::from_utf8(verify.stderr)?)
}

/// The messages that come within a time, each once.
fn told(systemd: &UnixDatagram, within: Duration) -> Result<Vec<String>, Failed> {
    let (mut all, end) = (Vec::new(), Instant::now() + within);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        systemd.set_read_timeout(Some(left))?;
        let mut text = [0; 64];
        match systemd.recv(&mut text) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&text[..length]).into_owned();
                if !all.contains(&text) {
                    all.push(text);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn systemd_learns_when_a_node_takes_part_and_that_its_program_polls() -> Result<(), Failed> {
    let folder = Folder::new();
    let socket = folder.path("notify");
    let systemd = UnixDatagram::bind(&socket)?;
    let mut program = Command::new("luajit")
        .args(["-e", PROGRAM])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
        .env_remove("CONSUL_HTTP_ADDR")
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = (program.stdin.take(), program.stdout.take());
    let (mut stdin, stdout) = (stdin.ok_or("a pipe")?, stdout.ok_or("a pipe")?);
    let mut lines = BufReader::new(stdout).lines();
    let (alive, ready) = ("WATCHDOG=1".to_owned(), "READY=1".to_owned());
    let observed = || -> Result<(), Failed> {
        assert_eq!(lines.next().transpose()?.as_deref(), Some("starts"));
        assert_eq!(told(&systemd, Duration::from_millis(300))?, [""; 0], "it has not joined yet");
        writeln!(stdin, "\n8")?;
        let mut first = told(&systemd, Duration::from_secs(6))?;
        first.sort();
        assert_eq!(first, [ready, alive.clone()]);
        assert_eq!(lines.next().transpose()?.as_deref(), Some("idle"));
        // Four seconds without a poll are allowed.
        told(&systemd, Duration::from_secs(5))?;
        assert_eq!(told(&systemd, Duration::from_secs(2))?, [""; 0], "its program does not poll");
        writeln!(stdin, "3")?;
        assert_eq!(told(&systemd, Duration::from_secs(2))?, [&*alive], "its program polls again");
        assert_eq!(lines.next().transpose()?.as_deref(), Some("idle"));
        assert_eq!(lines.next().transpose()?.as_deref(), Some("stopped"));
        told(&systemd, Duration::from_secs(1))?;
        let without_node = told(&systemd, Duration::from_secs(5))?;
        assert_eq!(without_node, [alive], "a program goes on without its node");
        Ok(())
    };
    let observed = observed();
    program.kill()?;
    program.wait()?;
    observed
}
