//! The questions and the output of the program on a terminal.

#![allow(unsafe_code)] // a terminal is made by calls of the system

use super::cutover::{alarms, try_put};
use super::etcd::Gateway;
use super::program::{PATIENCE, Servers};
use crate::support::proxy::{Network, Proxy};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const PROMPT: &str = "Type yes to go on:";

const END_OF_INPUT: &str = "\u{4}";
const CTRL_C: &str = "\u{3}";
const CTRL_S: &str = "\u{13}";
const CTRL_Q: &str = "\u{11}";
const ESCAPE: char = '\u{1b}';

/// A terminal of its own, with a program.
struct Terminal {
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    program: Child,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

impl Terminal {
    /// Runs a program; its standard output or standard error may go into a file.
    fn run(mut command: Command, out: Option<&Path>, err: Option<&Path>) -> Terminal {
        let (keyboard, screen) = pair();
        let to = |file: Option<&Path>| match file {
            Some(file) => Stdio::from(File::create(file).unwrap()),
            None => Stdio::from(screen.try_clone().unwrap()),
        };
        command.env("TERM", "xterm").stdin(to(None)).stdout(to(out)).stderr(to(err));
        let take = || {
            // SAFETY: both take numbers only. Standard input is the terminal.
            let is_taken =
                unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) >= 0 };
            if is_taken { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: it makes calls of the system alone.
        unsafe { command.pre_exec(take) };
        let program = command.spawn().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut part = [0; 4096];
            // When the program has ended, reading is an error.
            while let Ok(count) = from.read(&mut part) {
                to.lock().unwrap().extend(&part[..count]);
            }
        });
        Terminal { keyboard, shown, program }
    }

    fn shown(&self) -> String {
        String::from_utf8(self.shown.lock().unwrap().clone()).unwrap()
    }

    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.shown().contains(words) {
            let has_ended = self.program.try_wait().unwrap().is_some();
            assert!(!has_ended && Instant::now() < end, "{words}: {}", self.shown());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Requires its end with this status, and these words.
    #[track_caller]
    fn ends(mut self, status: i32, words: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(ended) = self.program.try_wait().unwrap() {
                break ended;
            }
            assert!(Instant::now() < end, "it goes on: {}", self.shown());
            thread::sleep(Duration::from_millis(20));
        };
        for word in words {
            while !self.shown().contains(word) {
                assert!(Instant::now() < end, "{word}: {}", self.shown());
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(ended.code(), Some(status), "{}", self.shown());
        self.shown()
    }
}

/// Both ends of a terminal: that of the keyboard, and that of the program.
fn pair() -> (File, File) {
    let mut name = [0; 64];
    // SAFETY: the descriptor is valid while it is used, and the name has room.
    let keyboard = unsafe {
        let number = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(number >= 0, "no terminal");
        assert_eq!(libc::grantpt(number) + libc::unlockpt(number), 0);
        assert_eq!(libc::ptsname_r(number, name.as_mut_ptr(), name.len()), 0);
        File::from_raw_fd(number)
    };
    let size = libc::winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the size lives during the call.
    assert_eq!(unsafe { libc::ioctl(keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    // SAFETY: the call before has written the name with its end.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    let name = std::ffi::OsStr::from_bytes(name.to_bytes());
    let mut options = File::options();
    let screen = options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    (keyboard, screen)
}

pub fn run(version: &'static str) {
    let servers = Servers::start("terminal", version);
    let gateway = servers.etcd.gateway();
    gateway.put(b"/app/a", b"1");
    servers.run(&["copy"]).ok();
    let ask = |verb: &[&str]| {
        let mut terminal = Terminal::run(servers.program(verb), None, None);
        terminal.wait_for(PROMPT);
        terminal
    };
    let cutover = ["cutover", "--within", "300"];
    for refusal in ["no\n", "y\n", "yes, please\n", "\n", END_OF_INPUT] {
        let mut terminal = ask(&cutover);
        assert!(takes_writes(&gateway));
        terminal.types(refusal);
        terminal.ends(1, &["not agreed: nothing was changed"]);
        assert!(takes_writes(&gateway), "{refusal:?}");
    }
    let mut terminal = ask(&cutover);
    terminal.types("ye");
    terminal.types(CTRL_C);
    terminal.ends(130, &["interrupted; the same command goes on"]);
    assert!(takes_writes(&gateway));
    servers.run(&["status"]).ends(0, &["all changes before revision", "has ended"]);

    // While it waits for the answer, changes arrive, and no other instance takes the job.
    let mut terminal = ask(&cutover);
    assert!(terminal.shown().contains("The changes of etcd arrive within"));
    let end = Instant::now() + PATIENCE;
    // A bar for a change would be on the screen before the one after the next has arrived.
    for value in [b"1", b"3", b"2"] {
        gateway.put(b"/app/meanwhile", value);
        while servers.stored("app/meanwhile").as_deref() != Some(value) {
            assert!(Instant::now() < end, "{}", terminal.shown());
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(200));
    }
    let shown = terminal.shown();
    let (_, after) = shown.split_once(PROMPT).unwrap();
    assert!(after.trim().is_empty(), "it hides the question: {after:?}");
    servers.run(&["tail"]).ends(4, &["another instance holds the job"]);
    terminal.types("yes\n");
    terminal.ends(0, &["cut over: 3 keys are equal"]);
    assert!(!takes_writes(&gateway));

    servers.consul().send("PUT", "/v1/kv/app/a", "of Consul").unwrap();
    for (refusal, status) in [("no\n", 1), (END_OF_INPUT, 1), (CTRL_C, 130)] {
        let mut terminal = ask(&["rollback"]);
        terminal.types(refusal);
        terminal.ends(status, &[]);
        assert!(!takes_writes(&gateway), "{refusal:?}");
    }
    let mut terminal = ask(&["rollback"]);
    terminal.types(" yes \n");
    terminal.ends(0, &["set 1 key of etcd"]);
    assert!(takes_writes(&gateway));
    is_held(&servers);
    asks_before_it_deletes(&servers, &ask);
    shows_a_bar(&servers);
    shows_a_bar_after_a_note(servers);
}

/// A terminal that is held takes nothing while the writers are stopped: the cut-over comes to its end.
fn is_held(servers: &Servers) {
    let name = format!("migrate-{}-held", std::process::id());
    let file = std::env::temp_dir().join(name);
    let cutover = ["cutover", "--within", "300"];
    let mut terminal = Terminal::run(servers.program(&cutover), Some(&file), None);
    terminal.wait_for(PROMPT);
    terminal.types(CTRL_S);
    terminal.types("yes\n");
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&file).unwrap().contains("cut over: ") {
        assert!(Instant::now() < end, "{}", terminal.shown());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!terminal.shown().contains("stops the writers"), "{}", terminal.shown());
    assert!(!takes_writes(&servers.etcd.gateway()));
    terminal.types(CTRL_Q);
    terminal.ends(0, &["stops the writers of etcd now"]);
    std::fs::remove_file(&file).unwrap();
    servers.run(&["rollback", "--yes"]).ok();
}

/// A copy that deletes keys of Consul tells how many, and nothing is deleted without consent.
fn asks_before_it_deletes(servers: &Servers, ask: &dyn Fn(&[&str]) -> Terminal) {
    let consul = servers.consul();
    for name in ["a", "b"] {
        consul.send("PUT", &format!("/v1/kv/of-another/{name}"), "x").unwrap();
    }
    let copy = ["copy", "--again", "--replace"];
    for (answer, status) in [("no\n", 1), (CTRL_C, 130), ("yes\n", 0)] {
        let mut terminal = ask(&copy);
        let shown = terminal.shown();
        let words = "--replace deletes 2 keys of Consul that etcd does not have";
        assert!(shown.contains(words), "{shown}");
        terminal.types(answer);
        terminal.ends(status, &[]);
        assert_eq!(servers.stored("of-another/a").is_none(), status == 0, "{answer:?}");
    }
}

/// Whether etcd takes a write, and no alarm is on; or else neither.
fn takes_writes(gateway: &Gateway) -> bool {
    let is_taken = try_put(gateway, b"/app/write", b"v") == 200;
    assert_eq!(is_taken, alarms(gateway) == 0);
    is_taken
}

/// A bar with rate and time left is on a terminal only.
fn shows_a_bar(servers: &Servers) {
    servers.etcd.gateway().fill((0..600).map(|place| (format!("/bar/{place}"), String::new())));
    let slow = ["copy", "--again", "--in-flight", "1", "--txn", "3", "--page", "100"];
    let name = format!("migrate-{}-terminal", std::process::id());
    let file = std::env::temp_dir().join(name);
    let read = || std::fs::read_to_string(&file).unwrap();

    let shown = Terminal::run(servers.program(&slow), Some(&file), None);
    let shown = shown.ends(0, &["copied"]);
    let bar = shown.split(['\r', '\n']).find(|line| line.contains("keys, "));
    let bar = bar.expect(&shown);
    let (count, rest) = bar.split_once(" keys, ").unwrap();
    assert!(count.contains("copied [") && count.contains("/60"), "{bar}");
    assert!(rest.contains("/s, ") && rest.contains(" left"), "{bar}");
    assert!(shown.contains(ESCAPE));
    let said = read();
    assert!(said.starts_with("copied 603 keys") && !said.contains([ESCAPE, '\r']), "{said:?}");

    let shown = Terminal::run(servers.program(&slow), None, Some(&file)).ends(0, &["copied 603"]);
    assert!(!shown.contains(ESCAPE), "{shown:?}");
    let said = read();
    assert!(said.contains("copying a new snapshot"), "{said:?}");
    assert!(!said.contains([ESCAPE, '\r']), "{said:?}");

    let quiet = [&slow[..], &["--json"]].concat();
    let shown = Terminal::run(servers.program(&quiet), None, None).ends(0, &["\"moved\":603"]);
    assert!(!shown.contains(ESCAPE), "{shown:?}");
    std::fs::remove_file(&file).unwrap();
}

/// A tail at rest shows how far it is also after an outage of etcd.
fn shows_a_bar_after_a_note(mut servers: Servers) {
    let proxy = Proxy::new(servers.etcd.url.strip_prefix("http://").unwrap());
    servers.etcd.url = proxy.url();
    let mut tail = Terminal::run(servers.program(&["tail"]), None, None);
    tail.wait_for("followed");
    proxy.set(Network::BlackHole);
    tail.wait_for("etcd has not answered");
    proxy.set(Network::Good);
    tail.wait_for("etcd answers again");
    let shown = |tail: &Terminal| {
        let shown = tail.shown();
        shown.rsplit_once("etcd answers again").is_some_and(|(_, rest)| rest.contains("followed"))
    };
    let end = Instant::now() + PATIENCE;
    while !shown(&tail) {
        assert!(Instant::now() < end, "{}", tail.shown());
        thread::sleep(Duration::from_millis(20));
    }
    tail.types(CTRL_C);
    tail.ends(130, &[]);
}
