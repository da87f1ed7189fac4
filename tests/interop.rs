//! HashiCorp's own Go client sees the same on consul-sim as on real Consuls: the program in
//! `tests/interop` tells what it sees, and its accounts are compared.
//!
//! `scripts/with-consul.sh 1.21 sh -c 'cd tests/interop && go run .'` prints one of them.
//!
//! The program also contends with ours for a lock and a semaphore.

#[allow(dead_code)]
#[path = "support/consul.rs"]
mod consul;

use consul::RealConsul;
use consul_ffi::client::coordination::lock::{self, LockOptions};
use consul_ffi::client::coordination::semaphore::{self, SemaphoreOptions};
use consul_ffi::client::coordination::{Lease, Presence, Profile, Service, Wait};
use consul_ffi::client::{Client, Settings};
use consul_ffi::clock::SystemClock;
use consul_ffi::transport::http::HttpTransport;
use consul_ffi::transport::{Options, Transport};
use consul_ffi::wire::request::Defaults;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Most of an account is waiting.
const THREADS: usize = 4;

/// The account of consul-sim without and with ACLs, which the comparisons with all versions need.
static SIMULATED: [OnceLock<Result<String, String>>; 2] = [const { OnceLock::new() }; 2];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let what = "the official Go client on consul-sim";
    let program = program();
    if let Err(Missing::Skipped(why)) = &program {
        consul::say_skipped(what, why);
    }
    let mut trials = Vec::new();
    for version in ["1.21", "1.8"] {
        let missing = matches!(program, Err(Missing::Skipped(_)))
            || consul::is_missing(version, &format!("{what} and on Consul {version}"));
        for (acl, name) in [
            (false, "the_go_client_sees_the_same"),
            (true, "the_go_client_sees_the_same_where_acls_are_enforced"),
        ] {
            let program = program.clone();
            let trial = Trial::test(format!("{name} [{version}]"), move || {
                the_go_client_sees_the_same(&program?, version, acl)
            });
            trials.push(trial.with_ignored_flag(missing));
        }
    }
    for target in ["consul-sim", "1.21"] {
        let missing = matches!(program, Err(Missing::Skipped(_)))
            || target == "1.21"
                && consul::is_missing(target, "locks beside the official Go client");
        let program = program.clone();
        let name = format!("the_go_client_and_ours_are_never_both_in [{target}]");
        let trial = Trial::test(name, move || {
            let server = match target {
                "consul-sim" => RealConsul::start_program(consul_sim().unwrap_or_default())?,
                version => RealConsul::start(version)?,
            };
            the_go_client_and_ours_are_never_both_in(&program?, &server)
        });
        trials.push(trial.with_ignored_flag(missing));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Why there is no program.
#[derive(Clone)]
enum Missing {
    /// What it needs cannot be had here.
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
    if consul_sim().is_none() {
        return Err(Missing::Skipped("built without the feature server".to_owned()));
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let go = |arguments: &[&str]| {
        let mut go = Command::new("go");
        go.args(arguments).current_dir(root().join("tests/interop")).env("GOWORK", "off");
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
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn consul_sim() -> Option<&'static str> {
    option_env!("CARGO_BIN_EXE_consul-sim")
}

fn the_go_client_sees_the_same(program: &Path, version: &str, acl: bool) -> Result<(), Failed> {
    let real = account(program, version, None, acl)?;
    let simulated = &SIMULATED[usize::from(acl)];
    let simulated =
        simulated.get_or_init(|| account(program, "1.21", consul_sim(), acl)).clone()?;
    if simulated == real && real.ends_with("the end\n") && real.contains("# tokens") == acl {
        return Ok(());
    }
    Err(format!("on consul-sim:\n{simulated}\non {version}:\n{real}").into())
}

/// What the program tells of a fresh Consul, or of `consul` in its place.
fn account(
    program: &Path,
    version: &str,
    consul: Option<&str>,
    acl: bool,
) -> Result<String, String> {
    let mut script = Command::new(root().join("scripts/with-consul.sh"));
    script.args(acl.then_some(["--acl", "deny"]).iter().flatten());
    script.arg(version).arg(program).envs(consul.map(|consul| ("CONSUL_BIN", consul)));
    let output = script.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(said(&output)),
    }
}

/// As the program in `contend.go`.
const ROUNDS: usize = 10;
const PERMITS: usize = 2;
const STAY: Duration = Duration::from_millis(20);

fn the_go_client_and_ours_are_never_both_in(
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
    // Ours come when it is in.
    let limit = Instant::now() + Duration::from_secs(20);
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

/// One of ours: 0 contends for the lock, others for a permit.
async fn contend(url: String, folder: PathBuf, number: usize) -> Result<(), String> {
    let transport = HttpTransport::new(&url, &Options::default()).map_err(|e| e.to_string())?;
    let (timeout, retry_count) = (Duration::from_secs(5), 3);
    let settings = Settings { timeout, retry_count, defaults: Defaults::default() };
    let transports: Vec<Arc<dyn Transport>> = vec![Arc::new(transport)];
    let (clock, rng) = (Arc::new(SystemClock::new()), fastrand::Rng::new());
    let client = Arc::new(Client::new(transports, settings, clock, rng));
    let service = Service::of_a_process(&client);
    let presence = Presence::new(Arc::clone(&client), client, Profile::standard(), service);
    let running = Arc::clone(&presence);
    let up = tokio::spawn(async move { match running.run().await {} });
    let wait = Wait::For(Duration::from_secs(60));
    for _ in 0..ROUNDS {
        let lease = match number {
            0 => {
                lock::acquire(&presence, "contended/lock", &LockOptions { value: None, wait }).await
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
        lease.release().await.map_err(|error| error.to_string())?;
    }
    up.abort();
    Ok(())
}

/// Stays inside for a while, and looks who else is.
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
