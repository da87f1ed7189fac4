//! A process that waits for a lock, holds it and writes under it: the test program starts itself
//! again as one, so that tests and benchmarks can kill it.

use consul_api::value::Value;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Event, Lease, Presence, Profile, Service, Wait};
use consul_cluster::{Cluster, Options};
use consul_config::Config;
use consul_config::connect::connect;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// The first argument that makes the program a holder.
const ARGUMENT: &str = "holder";

/// The interval between the writes of a holder.
const WRITES_EVERY: Duration = Duration::from_millis(20);

/// The process, from the side that started it. It is killed when this is dropped.
pub struct Holder {
    pub process: Child,
    commands: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A line that a holder printed, with its time in nanoseconds since 1970.
#[derive(Debug)]
pub struct Said {
    pub at_ns: u128,
    pub what: String,
}

/// The orders of a holder.
#[derive(Clone, Debug)]
pub struct Orders<'a> {
    pub url: &'a str,
    pub key: &'a str,
    pub profile: &'a str,
    /// The path of the guard's program.
    pub guard: Option<&'a str>,
    pub token: Option<&'a str>,
    /// The prefix below which it writes a key for each number while it holds the lock.
    pub writes: Option<&'a str>,
    /// The lock, permit or leadership to acquire.
    pub what: What,
}

/// The kinds of things to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The lock on the key.
    Lock,
    /// The only permit of the semaphore under the key.
    Permit,
    /// The leadership of the cluster whose keys are below the key.
    Leadership,
}

impl<'a> Orders<'a> {
    /// Orders to hold this lock with the default profile and without a guard.
    pub fn new(url: &'a str, key: &'a str) -> Self {
        let (guard, token, writes) = (None, None, None);
        Orders { url, key, profile: "default", guard, token, writes, what: What::Lock }
    }
}

impl Holder {
    /// Starts it. The orders go through a pipe, because every user can read a command line.
    pub fn start(orders: &Orders) -> Holder {
        Self::of(&std::env::current_exe().expect("this program has a file"), orders)
    }

    /// Starts this program as a holder.
    pub fn of(program: &Path, orders: &Orders) -> Holder {
        let mut process = Command::new(program)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut commands = process.stdin.take().expect("it is piped");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let Orders { url, key, profile, guard, token, writes, what } = orders;
        let or_none = |text: &Option<&str>| text.unwrap_or("-").to_owned();
        let [guard, token, writes] = [guard, token, writes].map(or_none);
        writeln!(commands, "{url} {key} {profile} {guard} {token} {writes} {what:?}")
            .expect("it reads");
        Holder { process, commands: Some(commands), lines }
    }

    /// Waits for the next line that begins with this word; panics at a line that says why the lock
    /// was not acquired.
    pub fn wait_for(&mut self, word: &str) -> Said {
        loop {
            let line = self.lines.next().expect("it says something").expect("a line");
            let (at_ns, what) = line.split_once(' ').expect("a time and words");
            if what.starts_with(word) {
                return Said { at_ns: at_ns.parse().expect("a number"), what: what.to_owned() };
            }
            assert!(!what.starts_with("failed"), "{what}");
        }
    }

    /// Waits until it ends by itself; returns its last line.
    pub fn wait_for_end(&mut self) {
        self.lines.by_ref().for_each(drop);
        self.process.wait().expect("it ends");
    }

    /// Sends it a command.
    pub fn command(&mut self, word: &str) {
        let commands = self.commands.as_mut().expect("it is open");
        writeln!(commands, "{word}").expect("it reads");
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "no SIG{name}");
    }

    /// Kills it; returns the time just before.
    pub fn kill(&mut self) -> u128 {
        let now = now_ns();
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
        now
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The time in nanoseconds since 1970.
pub fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_nanos()
}

/// Runs as a holder until the end if the program was started as one, otherwise returns false.
/// Commands that are not a holder's own are passed to `other`.
pub fn is_one(other: fn(&str)) -> bool {
    if std::env::args().nth(1).as_deref() != Some(ARGUMENT) {
        return false;
    }
    let mut lines = BufReader::new(std::io::stdin()).lines().map(|line| line.expect("a line"));
    let orders = lines.next().expect("orders");
    let orders: Vec<&str> = orders.split(' ').collect();
    let [url, key, profile, guard, token, writes, what] = orders[..] else { panic!("{orders:?}") };
    let some = |text: &'static str| move |value: &str| (text.to_owned(), Value::from(value));
    let mut given = vec![some("endpoint")(url)];
    if guard != "-" {
        given.push(some("guard_program")(guard));
        given.push(("guard".to_owned(), true.into()));
    }
    if token != "-" {
        given.push(some("token")(token));
    }
    let config = Config::new(&given, |_| None).expect("a configuration");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (send, mut commands) = mpsc::unbounded_channel();
    runtime.expect("a runtime").block_on(async move {
        let [client, waiting] = [(); 2].map(|()| Arc::new(connect(&config).expect("a client")));
        let profile = Profile::named(profile).expect("a profile");
        let writes = (writes != "-").then_some(writes);
        let commanded = async move {
            std::thread::spawn(move || {
                for line in lines {
                    if line == "release" {
                        let _ = send.send(line);
                    } else {
                        other(&line);
                    }
                }
            });
            if commands.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            say("releases");
        };
        if what == "Leadership" {
            let options = node(key, profile);
            let cluster = Cluster::new(client, waiting, options).expect("good options");
            tokio::select! {
                why = cluster.run() => return say(&format!("failed {why}")),
                never = write(|| cluster.lease(), writes) => match never {},
                () = commanded => {}
            }
            cluster.leave().await.expect("it leaves");
            return say("released");
        }
        let service = Service::for_process(&client);
        let presence = Presence::new(client, waiting, profile, service);
        let hold = async {
            let (value, wait) = (b"held".to_vec(), Wait::Forever);
            let acquired = if what == "Permit" {
                let options = SemaphoreOptions { limit: 1, value, wait };
                semaphore::acquire(&presence, key, &options).await
            } else {
                lock::acquire(
                    &presence,
                    key,
                    &LockOptions { value: Some(value), wait, is_own: false },
                )
                .await
            };
            let lease = match acquired {
                Ok(lease) => lease,
                Err(error) => return say(&format!("failed {error}")),
            };
            say(&format!("held {}", lease.session()));
            let kept = async {
                if let Some(Event::Lost(why)) = lease.keep().await {
                    say(&format!("lost {why}"));
                }
                std::future::pending::<Infallible>().await
            };
            tokio::select! {
                () = commanded => {}
                never = write(|| Some(Arc::clone(&lease)), writes) => match never {},
                never = kept => match never {},
            }
            lease.release().await.expect("it is released");
            presence.deregister().await.expect("it is withdrawn");
            say("released");
        };
        tokio::select! {
            never = presence.run() => match never {},
            () = hold => {}
        }
    });
    true
}

/// Options of a node with a random name, in the cluster whose keys are below a key.
fn node(key: &str, profile: Profile) -> Options {
    let at = |name: &str| format!("{key}/{name}");
    Options {
        leader_key: at("leader"),
        nodes_prefix: at("nodes/"),
        shards_prefix: at("shards/"),
        config_key: at("config"),
        profile,
        ..Options::new(format!("node-{:08x}", fastrand::u32(..)), "127.0.0.1:9000")
    }
}

/// Writes new keys while the lease allows it.
async fn write(lease: impl Fn() -> Option<Arc<Lease>>, prefix: Option<&str>) -> Infallible {
    let Some(prefix) = prefix else { return std::future::pending().await };
    let mut number = 0;
    loop {
        let key = format!("{prefix}/{number}");
        if let Some(lease) = lease().filter(|lease| lease.is_held())
            && lease.fenced_put(&key, Vec::new()).await.is_ok()
        {
            if number == 0 {
                say("writes");
            }
            number += 1;
        }
        tokio::time::sleep(WRITES_EVERY).await;
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    // A reader that is gone must not end it.
    let _ = writeln!(out, "{} {what}", now_ns()).and_then(|()| out.flush());
}
