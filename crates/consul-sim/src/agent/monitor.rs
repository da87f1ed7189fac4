//! `GET /v1/agent/monitor`, which streams the agent's log.

use crate::acl::{Access, Resource};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::log::{Level, Line, Monitor};
use crate::store::State;
use consul_api::table::Endpoint;
use http::StatusCode;

impl State {
    /// Sends a line to all monitors.
    pub fn log(
        &self,
        level: Level,
        module: &'static str,
        message: &'static str,
        fields: &[(&'static str, &str)],
    ) {
        if self.log.is_read() {
            let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            let since_1970 = self.since_1970();
            self.log.send(Line { level, module, message, fields, since_1970 });
        }
    }
}

pub(super) static ROUTES: &[Route] = &[Route(&MONITOR, Handler::Now(monitor))];

/// Not a method of the client, which has whole answers.
static MONITOR: Endpoint =
    Endpoint::read("agent_monitor", "/v1/agent/monitor", "The agent's log from now on.");

const LEVELS: &[(&str, Level)] = &[
    ("trace", Level::Debug),
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("warn", Level::Warn),
    ("err", Level::Error),
    ("error", Level::Error),
];

fn monitor(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Read)?;
    let given = match call.query.get("loglevel") {
        "" => "info",
        given => given,
    };
    let known = LEVELS.iter().find(|(name, _)| given.eq_ignore_ascii_case(name));
    let Some((_, level)) = known else {
        return Err(Refusal::bad(format!("Unknown log level: {given}")));
    };
    let as_json = call.query.has("logjson");
    let monitor = Monitor { log: state.log.clone(), level: *level, as_json };
    Ok(Reply { monitor: Some(monitor), ..Reply::empty(StatusCode::OK) })
}
