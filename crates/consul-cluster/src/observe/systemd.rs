//! Tells systemd that a node takes part in its cluster, and that its program is alive: `Type=notify` and
//! `WatchdogSec` of systemd.service(5), by the messages of sd_notify(3).

use super::report::Overviews;
use consul_api::error::{Error, Kind};
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the stores are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Every 10 s a start that waits for replicas gets another minute.
const EXTEND: &str = "EXTEND_TIMEOUT_USEC=60000000";
const EXTEND_EVERY: u32 = 100;

/// The way to systemd from a service that it started.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    /// How often the program must be alive; `None`: systemd does not watch this process.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// The way that the environment of this process names: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    /// None if systemd has not started the process, or not with `Type=notify`.
    ///
    /// # Errors
    /// [`Kind::Config`] if the environment is invalid or nothing receives at the socket.
    pub fn of_environment(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, Error> {
        let Some(address) = variable("NOTIFY_SOCKET") else { return Ok(None) };
        let socket = connect(address.as_bytes()).map_err(|error| {
            let why =
                format!("notify is true, and NOTIFY_SOCKET {address:?} cannot be used: {error}");
            Error::new(Kind::Config, why).not_sent()
        })?;
        let number = |name| match variable(name) {
            None => Ok(None),
            Some(text) => match text.to_str().and_then(|text| text.parse::<u64>().ok()) {
                Some(number) => Ok(Some(number)),
                None => {
                    let why =
                        format!("notify is true, and {name} is {text:?}: it must be a number");
                    Err(Error::new(Kind::Config, why).not_sent())
                }
            },
        };
        let is_watched =
            number("WATCHDOG_PID")?.is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC")?.filter(|limit| is_watched && *limit > 0);
        Ok(Some(Systemd { socket, watchdog: watchdog.map(Duration::from_micros) }))
    }

    /// Reports that the node takes part when it does, and its stores do what they have to.
    pub async fn report(&self, node: &Overviews) -> Infallible {
        if node.cluster().started().await.is_ok() {
            let mut extended = 0;
            while node.stores_serve().is_err() {
                // A copy may take long; what fails is not waited for longer than the unit says.
                if extended == 0 && !node.has_faults() {
                    self.tell(EXTEND);
                }
                extended = (extended + 1) % EXTEND_EVERY;
                node.cluster().client().clock().sleep(LOOK).await;
            }
            self.tell("READY=1");
        }
        pending().await
    }

    /// Reports twice in each time of the watchdog that the program is alive, whenever it is. Requires a tokio
    /// runtime.
    pub async fn keep_alive(&self, is_alive: impl Fn() -> bool) -> Infallible {
        let Some(limit) = self.watchdog else { return pending().await };
        loop {
            if is_alive() {
                self.tell("WATCHDOG=1");
            }
            tokio::time::sleep(limit / 2).await;
        }
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send(state.as_bytes()) {
            tracing::warn!(state, %error, "systemd was not told");
        }
    }
}

/// A socket to a path, or to a name of the abstract namespace, which begins with `@`.
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let to = match address {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
        _ => return Err(io::Error::other("it must begin with / or @")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&to)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Systemd>, Error> {
        Systemd::of_environment(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn only_a_service_of_systemd_has_a_way_to_it() {
        assert!(of(&[("WATCHDOG_USEC", "5")]).expect("no socket is named").is_none());
        for (variables, why) in [
            (
                [("NOTIFY_SOCKET", "relative"), ("", "")],
                "\"relative\" cannot be used: it must begin with / or @",
            ),
            (
                [("NOTIFY_SOCKET", "/nobody/there"), ("", "")],
                "\"/nobody/there\" cannot be used: No such file",
            ),
        ] {
            let error = of(&variables).expect_err("no way");
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[test]
    fn the_watchdog_is_of_the_process_that_systemd_names() {
        let name = format!("consul_ffi-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let systemd = UnixDatagram::bind_addr(&address).expect("a free name");
        let way = |variables: &[(&str, &str)]| {
            let socket = format!("@{name}");
            of(&[&[("NOTIFY_SOCKET", socket.as_str())], variables].concat())
        };
        let watchdog = |variables: &[(&str, &str)]| {
            way(variables).expect("a good way").expect("a way").watchdog
        };
        let (own, other) = (std::process::id().to_string(), "1");
        let limit = Some(Duration::from_secs(3));
        assert_eq!(watchdog(&[]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000")]), limit);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", &own)]), limit);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", other)]), None);
        let error = way(&[("WATCHDOG_USEC", "soon")]).expect_err("no number");
        assert!(
            error.message().contains("WATCHDOG_USEC is \"soon\": it must be a number"),
            "{error}"
        );
        way(&[]).expect("a good way").expect("a way").tell("READY=1");
        let mut text = [0; 16];
        let length = systemd.recv(&mut text).expect("a message");
        assert_eq!(&text[..length], b"READY=1");
    }
}
