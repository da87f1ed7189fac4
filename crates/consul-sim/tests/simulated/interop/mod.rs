//! HashiCorp's Go client gets the same answers from consul-sim as from real Consuls: the program in
//! this folder prints a report of them, and the reports are compared.
//!
//! `scripts/with-consul.sh 1.21 sh -c 'cd crates/consul-sim/tests/simulated/interop && go run .'` prints a report.
//!
//! The program also contends with ours for a lock and a semaphore.

use crate::support::PATIENCE;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use consul_api::error::Kind;
use consul_api::request::Defaults;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Lease, Presence, Profile, Service, Wait};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::{Options, Transport};
use consul_client::{Client, Settings};
use consul_process::clock::SystemClock;
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The reports on consul-sim without and with ACLs, with which all versions are compared.
static SIMULATED: [OnceLock<Result<String, String>>; 2] = [const { OnceLock::new() }; 2];

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    if consul::is_quick() {
        return trials;
    }
    let what = "the official Go client";
    let program = program();
    if let Err(Missing::Skipped(why)) = &program {
        consul::say_skipped(what, why);
    }
    let is_missing = |version| {
        matches!(program, Err(Missing::Skipped(_)))
            || consul::is_missing(version, &format!("{what} on Consul {version}"))
    };
    for version in ["1.21", "1.8"] {
        let missing = is_missing(consul::SIM) || is_missing(version);
        for (acl, name) in [
            (false, "the_go_client_gets_the_same_answers"),
            (true, "the_go_client_sees_the_same_where_acls_are_enforced"),
        ] {
            let program = program.clone();
            trials.add_unless(missing, format!("{name} [{version}]"), move || {
                the_go_client_gets_the_same_answers(&program?, version, acl)
            });
        }
    }
    for version in [consul::SIM, "1.21"] {
        let program = program.clone();
        let name = format!("the_go_client_and_ours_never_hold_at_the_same_time [{version}]");
        trials.add_unless(is_missing(version), name, move || {
            let server = RealConsul::start(version)?;
            the_go_client_and_ours_never_hold_at_the_same_time(&program?, &server)
        });
    }
    trials
}

/// The reason why a program could not be built, or its client installed.
#[derive(Clone)]
pub enum Missing {
    /// A prerequisite is not available here.
    Skipped(String),
    Broken(String),
}

impl From<Missing> for Failed {
    fn from(missing: Missing) -> Self {
        let (Missing::Skipped(why) | Missing::Broken(why)) = missing;
        why.into()
    }
}

/// Builds the program.
fn program() -> Result<PathBuf, Missing> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.args(arguments)
            .current_dir(root().join("crates/consul-sim/tests/simulated/interop"))
            .env("GOWORK", "off");
        match go.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(said(&output)),
            Err(error) => Err(format!("go: {error}")),
        }
    };
    go(&["version"]).map_err(Missing::Skipped)?;
    go(&["mod", "download"]).map_err(Missing::Skipped)?;
    go(&["build", "-o", &program.to_string_lossy(), "."]).map_err(Missing::Broken)?;
    Ok(program)
}

fn root() -> &'static Path {
    Path::new(crate::support::root())
}

fn the_go_client_gets_the_same_answers(
    program: &Path,
    version: &str,
    acl: bool,
) -> Result<(), Failed> {
    let real = account(program, version, acl)?;
    let simulated = &SIMULATED[usize::from(acl)];
    let simulated = simulated.get_or_init(|| account(program, consul::SIM, acl)).clone()?;
    if simulated == real && real.ends_with("the end\n") && real.contains("# tokens") == acl {
        return Ok(());
    }
    Err(format!("on consul-sim:\n{simulated}\non {version}:\n{real}").into())
}

/// The report of the program on a fresh Consul of this version.
fn account(program: &Path, version: &str, acl: bool) -> Result<String, String> {
    let mut script = consul::script(version, if acl { &["--acl", "deny"] } else { &[] })?;
    let output = script.arg(program).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(said(&output)),
    }
}

/// The counterpart of `contend.go`.
const ROUNDS: usize = 10;
const PERMITS: usize = 2;
const STAY: Duration = Duration::from_millis(20);

fn the_go_client_and_ours_never_hold_at_the_same_time(
    program: &Path,
    server: &RealConsul,
) -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("consul_ffi-in-{:016x}", fastrand::u64(..)));
    for name in ["lock", "semaphore"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let mut go = Command::new(program);
    go.arg("contend").arg(&folder).env("CONSUL_HTTP_ADDR", &server.address);
    let go = go.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Our contenders start when it holds.
    let limit = Instant::now() + PATIENCE;
    while !folder.join("lock/go").exists() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let url = format!("http://{}", server.address);
    let ours = runtime.block_on(async {
        let all =
            (0..=PERMITS).map(|number| tokio::spawn(contend(url.clone(), folder.clone(), number)));
        for one in all.collect::<Vec<_>>() {
            one.await.map_err(|error| error.to_string())??;
        }
        Ok::<(), String>(())
    });
    let output = go.wait_with_output()?;
    let _ = std::fs::remove_dir_all(&folder);
    ours?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(&output).into()),
    }
}

/// One of our contenders: 0 contends for the lock, the others for a permit.
async fn contend(url: String, folder: PathBuf, number: usize) -> Result<(), String> {
    let transport = HttpTransport::new(&url, &Options::default()).map_err(|e| e.to_string())?;
    let (timeout, retry_count) = (Duration::from_secs(5), 3);
    let settings = Settings { timeout, retry_count, defaults: Defaults::default() };
    let transports: Vec<Arc<dyn Transport>> = vec![Arc::new(transport)];
    let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::new());
    let client = Arc::new(Client::new(transports, settings, clock, rng));
    let service = Service::for_process(&client);
    let presence = Presence::new(Arc::clone(&client), client, Profile::standard(), service);
    let running = Arc::clone(&presence);
    let up = tokio::spawn(async move { match running.run().await {} });
    let wait = Wait::For(Duration::from_secs(60));
    for _ in 0..ROUNDS {
        let lease = match number {
            0 => {
                lock::acquire(
                    &presence,
                    "contended/lock",
                    &LockOptions { value: None, wait, is_own: false },
                )
                .await
            }
            _ => {
                let options = SemaphoreOptions { limit: PERMITS as u64, value: Vec::new(), wait };
                semaphore::acquire(&presence, "contended/semaphore", &options).await
            }
        };
        let lease = lease.map_err(|error| error.to_string())?;
        let (folder, limit) = match number {
            0 => (folder.join("lock"), 1),
            _ => (folder.join("semaphore"), PERMITS),
        };
        inside(&folder, limit, number, &lease).await?;
        match lease.release().await {
            Err(error) if error.kind() == Kind::Conflict => return Err(error.to_string()),
            // After any other error, such as a busy server's, it is not held either, and others wait.
            _ => {}
        }
    }
    up.abort();
    Ok(())
}

/// Holds for a while, and checks for other holders.
async fn inside(folder: &Path, limit: usize, number: usize, lease: &Lease) -> Result<(), String> {
    let own = folder.join(format!("ours-{number}"));
    std::fs::write(&own, "").map_err(|error| error.to_string())?;
    let others = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let inside: Vec<_> = others.flatten().map(|entry| entry.file_name()).collect();
    if inside.len() > limit {
        return Err(format!("{}: too many are in: {inside:?}", folder.display()));
    }
    tokio::time::sleep(STAY).await;
    if !lease.is_held() {
        return Err(format!("{}: it was lost", folder.display()));
    }
    std::fs::remove_file(&own).map_err(|error| error.to_string())
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}").trim().to_owned()
}
