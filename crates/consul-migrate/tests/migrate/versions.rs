//! Each verb, shortly, on each version of etcd with each way to log in.

use super::etcd::{Access, Etcd, binary};
use super::program::{Run, Servers, VERBS};
use crate::support::authority::{Authority, Folder, Identity};
use crate::support::consul::RealConsul;
use consul_client::transport::TlsOptions;

pub const PASSWORD: &str = "s3cret-of-all";

/// The options of an etcd whose users log in fast.
const FAST: [&str; 2] = ["--bcrypt-cost", "4"];

const PREFIX: [&str; 2] = ["--etcd-prefix", "/app/"];

/// How a program logs in.
#[derive(Clone, Copy, Debug)]
pub enum Login {
    /// etcd has no users.
    None,
    /// The tokens of etcd itself.
    Password,
    /// Tokens that end after two seconds.
    Jwt,
    /// A client certificate without a common name, and a password.
    Certificate,
}

impl Login {
    pub const ALL: [Login; 4] = [Login::None, Login::Password, Login::Jwt, Login::Certificate];

    pub fn name(self) -> &'static str {
        match self {
            Login::None => "nobody",
            Login::Password => "passwords",
            Login::Jwt => "jwt",
            Login::Certificate => "certificates",
        }
    }
}

/// The versions of the tests: 3.4 and 3.6; in a long run also 3.5 and 3.7.
pub fn versions() -> &'static [&'static str] {
    match std::env::var_os("LONG") {
        Some(_) => &["3.4", "3.5", "3.6", "3.7"],
        None => &["3.4", "3.6"],
    }
}

/// An etcd with some keys below `/app/`, and a Consul of this version.
pub fn servers(etcd: &str, login: Login, consul: RealConsul, folder: &Folder) -> Servers {
    let name = format!("{}-{etcd}", login.name());
    let program = binary(etcd).unwrap();
    let key = folder.file("jwt", "a key that both sides of a JWT know");
    let jwt = format!("jwt,priv-key={key},sign-method=HS256,ttl=2s");
    let mut access = Access::default();
    let mut options: Vec<String> = FAST.map(str::to_owned).to_vec();
    if matches!(login, Login::Jwt) {
        options.extend(["--auth-token".to_owned(), jwt]);
    }
    if matches!(login, Login::Certificate) {
        let authority = Authority::new("of-etcd");
        let file = |name: &str, text: &str| folder.file(name, text);
        let named = |name: &str, it: &Identity| {
            (file(&format!("{name}.pem"), &it.certificate), file(&format!("{name}.key"), &it.key))
        };
        let ca = file("ca.pem", &authority.pem());
        let (certificate, key) = named("server", &authority.sign(&["127.0.0.1"]));
        let nameless = |name: &str| {
            let it = authority.sign_changed(&[], |it| it.distinguished_name = Default::default());
            named(name, &it)
        };
        let (own_certificate, own_key) = nameless("own");
        named("common-name", &authority.sign(&[]));
        options.extend(["--client-cert-auth", "--trusted-ca-file"].map(str::to_owned));
        options.extend([ca.clone(), "--cert-file".to_owned(), certificate]);
        options.extend(["--key-file".to_owned(), key]);
        access.tls = TlsOptions {
            ca_file: Some(ca.into()),
            cert_file: Some(own_certificate.into()),
            key_file: Some(own_key.into()),
            ..TlsOptions::default()
        };
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut etcd = Etcd::of(program, &name, &options, access.clone());
    for key in ["/app/a", "/app/b", "/app//odd", "/other/a"] {
        etcd.gateway().put(key.as_bytes(), b"1");
    }
    if !matches!(login, Login::None) {
        let users = [("nothing", None), ("read", Some("READ")), ("readwrite", Some("READWRITE"))];
        etcd.require_users(PASSWORD, &users);
    }
    let mut servers = Servers::beside(etcd, consul);
    let path = |file: &Option<std::path::PathBuf>| file.as_ref().map(|it| it.display().to_string());
    for (name, value) in [
        ("ETCDCTL_CACERT", path(&access.tls.ca_file)),
        ("ETCDCTL_CERT", path(&access.tls.cert_file)),
        ("ETCDCTL_KEY", path(&access.tls.key_file)),
    ] {
        servers.environment.extend(value.map(|value| (name, value)));
    }
    servers
}

/// Has the program be this user from now on.
pub fn log_in(servers: &mut Servers, user: &str) {
    servers.environment.retain(|(name, _)| !["ETCDCTL_USER", "ETCDCTL_PASSWORD"].contains(name));
    let login = [("ETCDCTL_USER", user), ("ETCDCTL_PASSWORD", PASSWORD)];
    servers.environment.extend(login.map(|(name, value)| (name, value.to_owned())));
}

pub fn run(etcd: &str, login: Login) {
    let folder = Folder::new();
    let mut servers = servers(etcd, login, RealConsul::start("1.21").unwrap(), &folder);
    if matches!(login, Login::None) {
        moves(&servers, "alarm", &[]);
        moves(&servers, "operator", &[]);
        return;
    }
    servers.run(&["plan"]).ends(5, &["requires a user"]);
    log_in(&mut servers, "readwrite");
    servers.run(&["plan"]).ends(5, &["the right to read all keys", "needs --etcd-prefix"]);
    servers.run(&["plan", "--etcd-prefix", "/ap"]).ends(5, &["keys that begin with \"/ap\""]);
    moves(&servers, "operator", &PREFIX);
    log_in(&mut servers, "root");
    moves(&servers, "alarm", &[]);
    if matches!(login, Login::Certificate) {
        by_any_certificate(&mut servers);
        by_common_name(&mut servers, &folder);
    }
}

/// Each verb once, with this freeze.
fn moves(servers: &Servers, freeze: &str, prefix: &[&str]) {
    let job = format!("{freeze}-{}", prefix.len());
    let place = format!("{job}/");
    let of_job = [&["--job", &job, "--consul-prefix", &place, "--on", "path-key=skip"][..], prefix];
    let run = |verb: &[&str]| -> Run { servers.run(&[&of_job.concat()[..], verb].concat()) };
    let gateway = servers.etcd.gateway();
    let in_place = |key: &str| servers.stored(&format!("{place}{key}"));
    gateway.put(b"/app/a", b"1");
    run(&["plan"]).ends(0, &["nothing is in the way of a copy"]);
    run(&["copy"]).ok();
    let tail = servers.start_run(&[&of_job.concat()[..], &["tail"]].concat());
    // Longer than a JWT lives.
    for value in ["2", "3", "4"] {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        gateway.put(b"/app/a", value.as_bytes());
        wait_for(|| in_place("app/a").as_deref() == Some(value.as_bytes()));
    }
    tail.signal("INT");
    tail.end().ends(130, &[]);
    run(&["verify"]).ends(0, &["0 missing, 0 extra, 0 different"]);
    let mut cutover = vec!["cutover", "--yes", "--within", "300", "--freeze", freeze];
    // Where it is not needed it changes nothing.
    cutover.extend((freeze == "alarm").then_some("--accept-open-deletes"));
    run(&cutover).ends(0, &["cut over"]);
    run(&["status"]).ends(0, &["cut over"]);
    let folder = Folder::new();
    let (file, copy) = (folder.path("export"), format!("copy-of-{place}"));
    let file = file.to_str().unwrap();
    servers.run(&["export", file, "--consul-prefix", &place]).ok();
    let lines = std::fs::read_to_string(file).unwrap().replace(&place, &copy);
    std::fs::write(file, lines).unwrap();
    servers.run(&["import", "--merge", file]).ok();
    assert_eq!(servers.stored(&format!("{copy}app/a")).unwrap(), b"4");
    let path = format!("/v1/kv/{place}app/a");
    assert_eq!(servers.consul().send("PUT", &path, "5").unwrap().0, 200);
    run(&["rollback", "--yes"]).ok();
    run(&["verify"]).ends(0, &["0 missing, 0 extra, 0 different"]);
    let value = super::cutover::value(&gateway, b"/app/a");
    assert_eq!(value.as_deref(), Some("NQ=="));
}

/// etcd's gateway ignores the common name of a certificate, and says so in plain text.
/// Without etcd's CA its certificate is refused, unless any is taken.
fn by_any_certificate(servers: &mut Servers) {
    const SKIP: &str = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY";
    let known = servers.environment.clone();
    servers.environment.retain(|(name, _)| *name != "ETCDCTL_CACERT");
    let plan = ["plan", "--job", "any", "--patience", "1"];
    let skips = [&plan[..], &["--etcd-skip-verify"]].concat();
    servers.run(&skips).ends(1, &["keys in etcd"]);
    for (value, is_taken) in [(None, false), (Some("false"), false), (Some("true"), true)] {
        servers.environment.retain(|(name, _)| *name != SKIP);
        servers.environment.extend(value.map(|value| (SKIP, value.to_owned())));
        let run = servers.run(&plan);
        assert_eq!(run.out.contains("keys in etcd"), is_taken, "{value:?}: {run:?}");
        assert_eq!(run.err.contains("certificate"), !is_taken, "{value:?}: {run:?}");
    }
    servers.environment = known;
}

fn by_common_name(servers: &mut Servers, folder: &Folder) {
    servers.environment.retain(|(name, _)| *name == "ETCDCTL_CACERT");
    let file = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    servers.environment.push(("ETCDCTL_CERT", file("common-name.pem")));
    servers.environment.push(("ETCDCTL_KEY", file("common-name.key")));
    let words = "CommonName of client sending a request against gateway will be ignored";
    for verb in VERBS {
        servers
            .run(&[&["--job", "alarm-0", "--consul-prefix", "alarm-0/"], verb].concat())
            .ends(1, &[words]);
    }
}

#[track_caller]
pub fn wait_for(mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + super::program::PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "it did not become so");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
