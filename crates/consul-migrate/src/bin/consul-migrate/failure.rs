//! Why the program ends without success, and its exit status.

use consul_api::error::Error;
use consul_migrate::Stop;
use consul_migrate::etcd::Refused;
use std::fmt;
use std::io;
use std::process::ExitCode;

pub enum Failure {
    /// The command line or the configuration is wrong.
    Usage(String),
    /// The shown state has a problem; it is printed already.
    NotWell,
    /// A signal has ended the run.
    Interrupted,
    /// The run itself has ended.
    Stopped(Stop),
}

impl Failure {
    pub fn status(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::NotWell => 1,
            Failure::Usage(_) => 2,
            Failure::Interrupted => 130,
            Failure::Stopped(Stop::Refused(_) | Stop::Compacted) => 1,
            Failure::Stopped(Stop::Held(_)) => 4,
            Failure::Stopped(Stop::Failed(error)) => error.exit_status(),
        })
    }

    /// Of a file that cannot be opened or made. A full disk is not a mistake of the command line.
    pub fn of_file(why: String, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Stop::Refused(why).into(),
            _ => Failure::Usage(why),
        }
    }

    /// The name of its kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::NotWell => "not_well",
            Failure::Interrupted => "interrupted",
            Failure::Stopped(Stop::Refused(_)) => "refused",
            Failure::Stopped(Stop::Compacted) => "compacted",
            Failure::Stopped(Stop::Held(_)) => "held",
            Failure::Stopped(Stop::Failed(error)) => error.kind().name(),
        }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Failure::Stopped(stop)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Stopped(Stop::Failed(error))
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Stopped(refused.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(why) => f.write_str(why),
            Failure::NotWell => Ok(()),
            Failure::Interrupted => f.write_str("interrupted; the same command goes on"),
            Failure::Stopped(stop) => stop.fmt(f),
        }
    }
}
