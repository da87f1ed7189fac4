//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use consul_cli::consul::Consul;
use consul_cli::print::PROGRAM;
use consul_migrate::mapping::{Choice, Problem, RESERVED, check_prefix};

const AFTER: &str = "\
A move, while the programs go on writing to etcd:
  consul-migrate --etcd 10.0.0.1:2379 plan      what is there, and what Consul would refuse
  consul-migrate --etcd 10.0.0.1:2379 copy      a snapshot; after an interruption it goes on
  consul-migrate --etcd 10.0.0.1:2379 tail      the changes since then, until it is stopped
  consul-migrate --etcd 10.0.0.1:2379 verify    compares both, key by key
  consul-migrate --etcd 10.0.0.1:2379 cutover   stops etcd's writers, applies what is left, compares: start the
                                                programs with Consul's address then
  consul-migrate --etcd 10.0.0.1:2379 rollback  if need be: what programs have changed in Consul back to etcd
  consul-migrate --etcd 10.0.0.1:2379 finish    at last: etcd takes writes again, the job and its marks go

Kinds of keys that Consul does not take as they are, for --on KIND=skip|encode|refuse:
  empty-key     the key is `/`
  collision     `/a` beside `a`; skip or encode applies to all keys of the rarer form
  control-key   NUL or another character in the key that is not printable: no URL of Consul reads it
  path-key      `//`, `.` or `..` between slashes: no URL that clients use reads it
  url-key       this Consul refuses the key in a URL, as those from 1.21.5 on do with some
  not-utf8      the key is not UTF-8
  reserved-key  the key begins with _etcd/ or _migrate/, or would in Consul
  long-key      the name has more than 64,000 bytes in a URL
  huge-key      the name has more than some 199,900 bytes: no request takes it, and it cannot be encoded
  large-value   more than 524,288 bytes
  leased        the key has a lease; skip by default. encode makes it a plain key

Exit statuses:
  0    done
  1    refused, the two sides differ, or a file was not written to its end: the output says what
  2    the command line or the configuration is wrong
  3    etcd or Consul does not answer, or another program answers in its place
  4    another instance holds the job
  5    etcd's user or Consul's token lacks a right
  130  interrupted; the same command goes on";

/// Moves the keys of etcd to Consul while programs write: a snapshot, then each change exactly once.
#[derive(Parser)]
#[command(name = "consul-migrate", version, after_help = AFTER, max_term_width = 100)]
pub struct CommandLine {
    #[command(flatten)]
    pub etcd: Etcd,
    #[command(flatten)]
    pub consul: Consul,
    #[command(flatten)]
    pub job: Job,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Write what was done as JSON to this file too.
    #[arg(long, global = true, value_name = "FILE")]
    pub report: Option<String>,
    #[command(subcommand)]
    pub verb: Verb,
}

/// How etcd is reached.
#[derive(Args)]
#[command(next_help_heading = "etcd")]
pub struct Etcd {
    /// A server's address, `host:port` or a URL; may be repeated. A host alone has etcd's port 2379.
    #[arg(
        long = "etcd",
        global = true,
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ',',
        value_name = "ADDRESS",
        default_value = "127.0.0.1:2379"
    )]
    pub addresses: Vec<String>,
    /// The user; with a colon and the password only in the environment.
    #[arg(
        long = "etcd-user",
        global = true,
        env = "ETCDCTL_USER",
        hide_env_values = true,
        value_name = "NAME"
    )]
    pub user: Option<String>,
    /// The file with the user's password [env: ETCDCTL_PASSWORD has the password itself].
    #[arg(long = "etcd-password-file", global = true, value_name = "FILE", requires = "user")]
    pub password_file: Option<String>,
    /// The authorities of the servers' certificates.
    #[arg(long = "etcd-ca-file", global = true, env = "ETCDCTL_CACERT", value_name = "FILE")]
    pub etcd_ca_file: Option<String>,
    /// The client certificate.
    #[arg(
        long = "etcd-client-cert",
        global = true,
        env = "ETCDCTL_CERT",
        value_name = "FILE",
        requires = "etcd_client_key"
    )]
    pub etcd_client_cert: Option<String>,
    /// Its key.
    #[arg(
        long = "etcd-client-key",
        id = "etcd_client_key",
        global = true,
        env = "ETCDCTL_KEY",
        value_name = "FILE"
    )]
    pub etcd_client_key: Option<String>,
    /// Take any certificate of the servers, which proves nothing; for tests.
    #[arg(
        long = "etcd-skip-verify",
        global = true,
        env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
        value_parser = clap::builder::BoolishValueParser::new(),
        action = clap::ArgAction::SetTrue
    )]
    pub skip_verify: bool,
    /// The name in the servers' certificates.
    #[arg(long = "etcd-server-name", global = true, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Only the keys that begin with this.
    #[arg(long = "etcd-prefix", global = true, default_value = "", value_name = "PREFIX")]
    pub prefix: String,
}

/// The keys to copy, and the rate.
#[derive(Args)]
#[command(next_help_heading = "Job")]
pub struct Job {
    /// The job's name: its state is in Consul below `_migrate/`, so that any machine can go on with it.
    #[arg(long = "job", global = true, default_value = "etcd", value_name = "NAME", value_parser = job_name)]
    pub name: String,
    /// The beginning of the keys in Consul, before etcd's key without its leading slash.
    #[arg(long, global = true, default_value = "", value_name = "PREFIX", value_parser = consul_prefix)]
    pub consul_prefix: String,
    /// The treatment of the keys of a kind: skip, encode or refuse; may be repeated.
    #[arg(long, global = true, value_name = "KIND=CHOICE", value_parser = choice)]
    pub on: Vec<(Problem, Choice)>,
    /// The most keys of a page of etcd.
    #[arg(long, global = true, default_value_t = 5000, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub page: u64,
    /// The most operations of a transaction; for Consul before 1.14 there are up to 64.
    #[arg(long, global = true, default_value_t = 128, value_name = "N",
        value_parser = clap::value_parser!(u16).range(3..=128))]
    pub txn: u16,
    /// The transactions at once.
    #[arg(long, global = true, default_value_t = 8, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub in_flight: u16,
    /// For how long requests are repeated while etcd or Consul does not answer, in seconds: 60 by default, and once a tail
    /// has begun until it is stopped.
    #[arg(long, global = true, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub patience: Option<u64>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Tell what a copy would do, and each key that Consul does not take as it is. Writes nothing.
    Plan,
    /// Copy a snapshot of etcd. Goes on if it was interrupted.
    Copy(Copy),
    /// Apply each change of etcd since the snapshot, until it is stopped.
    Tail(Hold),
    /// Compare etcd and Consul key by key; status 1 if they differ.
    Verify,
    /// Stop the writers of etcd, apply what is left and compare both: then programs can start with Consul.
    ///
    /// After any interruption etcd takes writes again. After SIGKILL the next `tail`, `cutover` or `status` sees to it.
    Cutover(Cutover),
    /// Make etcd as Consul is now, after a cut-over; etcd takes writes again.
    Rollback(Rollback),
    /// End a move that is cut over: etcd takes writes again, the job and its marks are removed. No rollback can follow.
    Finish(Finish),
    /// Write all keys of Consul as lines of JSON; needs no etcd.
    Export(Export),
    /// Set the keys of an export in Consul; needs no etcd.
    Import(Import),
    /// Show how far the job is and which instance holds it; lift the freeze of a cut-over that was killed.
    Status,
    /// Print the report of a run for people; asks neither side.
    Report {
        /// The file that --report has written, or the output of --json; `-` is standard input.
        file: String,
    },
    /// Print the completion for a shell.
    Completion {
        /// The shell that reads it.
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Args)]
pub struct Copy {
    #[command(flatten)]
    pub hold: Hold,
    /// Begin although Consul has keys in their place: those that etcd does not have are deleted. With --again
    /// too.
    #[arg(long)]
    pub replace: bool,
    /// Copy a new snapshot although one was copied already.
    #[arg(long)]
    pub again: bool,
    /// Agree to --replace in advance; necessary for it without a terminal.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
pub struct Hold {
    /// Replace the instance that holds the job.
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Args)]
pub struct Cutover {
    #[command(flatten)]
    pub hold: Hold,
    /// How the writers are stopped: `alarm` makes the whole etcd cluster refuse writes (NOSPACE), and is refused
    /// if etcd has users and is not 3.6 or later; `roles` takes the right to write from the roles of etcd, and
    /// gives it back; `operator` leaves it to you, before you agree.
    #[arg(long, value_enum, default_value = "alarm")]
    pub freeze: Freeze,
    /// Raise the alarm also where etcd checks nobody's rights while it is on: anyone who reaches etcd can delete
    /// keys, and switch its access control off.
    #[arg(long)]
    pub accept_open_deletes: bool,
    /// Let the writers go on if the cut-over takes longer than this from their stop on, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub within: u64,
    /// Agree in advance; necessary without a terminal.
    #[arg(long)]
    pub yes: bool,
    /// Go on with the deletions and expired leases of etcd until it is stopped, as `tail` does.
    #[arg(long)]
    pub follow: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Freeze {
    Alarm,
    Roles,
    Operator,
}

#[derive(Args)]
pub struct Rollback {
    #[command(flatten)]
    pub hold: Hold,
    /// Overwrite and delete also what programs may have set in an etcd that was restored from a snapshot since the cut-over.
    #[arg(long)]
    pub overwrite: bool,
    /// Only tell what it would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Agree in advance; necessary without a terminal.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
pub struct Finish {
    #[command(flatten)]
    pub hold: Hold,
    /// Remove only what is in Consul, because etcd is gone; also of a job that is not cut over.
    #[arg(long)]
    pub without_etcd: bool,
    /// End the job although a rollback has begun and has not ended: etcd stays as it is then.
    #[arg(long, conflicts_with = "without_etcd")]
    pub abandon_rollback: bool,
    /// Agree in advance; necessary without a terminal.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
pub struct Export {
    /// The file; it must not exist, and does once it is whole. Standard output by default, and for `-`.
    pub file: Option<String>,
    /// `consul-kv` writes the list of `consul kv export`, in which an encoded key is its parts.
    #[arg(long, value_enum, default_value = "lines")]
    pub format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Lines,
    ConsulKv,
}

#[derive(Args)]
pub struct Import {
    /// The file; standard input by default, and for `-`.
    pub file: Option<String>,
    /// `consul-kv` reads the list of `consul kv export`, which is in memory then.
    #[arg(long, value_enum, default_value = "lines")]
    pub format: Format,
    /// Begin although Consul has keys: keys of the file are replaced, others stay.
    #[arg(long)]
    pub merge: bool,
    /// Take a file without the last line of an export: a file that you have made, or an export that was cut.
    #[arg(long)]
    pub partial: bool,
}

fn job_name(name: &str) -> Result<String, String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match !name.is_empty() && name.chars().all(is_of_name) {
        true => Ok(name.to_owned()),
        false => Err("it must have letters, digits, `-` and `_` only".to_owned()),
    }
}

fn consul_prefix(prefix: &str) -> Result<String, String> {
    match RESERVED.iter().find(|reserved| prefix.starts_with(**reserved)) {
        Some(reserved) => Err(format!("{PROGRAM} has keys of its own below `{reserved}`")),
        None => check_prefix(prefix).map(|()| prefix.to_owned()).map_err(str::to_owned),
    }
}

fn choice(text: &str) -> Result<(Problem, Choice), String> {
    let (kind, choice) =
        text.split_once('=').ok_or("it must be KIND=skip, KIND=encode or KIND=refuse")?;
    let known = || Problem::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", ");
    let problem = Problem::ALL.iter().find(|problem| problem.name() == kind);
    let problem = problem.ok_or_else(|| format!("unknown kind {kind:?}; there are {}", known()))?;
    let choice = match choice {
        "skip" => Choice::Skip,
        "encode" if !problem.has_other_form() => {
            return Err(
                "keys of this kind have no other form: it must be skip or refuse".to_owned()
            );
        }
        "encode" => Choice::Encode,
        "refuse" => Choice::Refuse,
        _ => return Err(format!("{choice:?} must be skip, encode or refuse")),
    };
    Ok((*problem, choice))
}
