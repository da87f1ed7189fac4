//! The members of a cluster of one: `agent/members`, `join`, `leave`, and the commands of an
//! operator.

use super::agent_self;
use crate::acl::{Access, Resource};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::agent as wire;
use std::net::{IpAddr, SocketAddr};

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::MEMBERS, Handler::Now(members)),
    Route(&wire::JOIN, Handler::Now(join)),
    Route(&wire::LEAVE, Handler::Now(leave)),
    Route(&wire::FORCE_LEAVE, Handler::Now(force_leave)),
    Route(&wire::RELOAD, Handler::Now(reload)),
];

fn done(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Write)?;
    Ok(Reply::done())
}

/// Ends the service of a served agent. One in a program's own process stays, for its other users.
fn leave(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let reply = done(state, call)?;
    state.left.notify_one();
    Ok(reply)
}

fn reload(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let reply = done(state, call)?;
    state.reload().map_err(Refusal::server)?;
    Ok(reply)
}

/// Any value of the parameter but the empty one counts.
fn is_wan(call: &Call) -> bool {
    !call.query.get("wan").is_empty()
}

fn members(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    match (is_wan(call), call.query.get("segment")) {
        (_, "" | "_all") => {}
        (true, _) => return Err(Refusal::bad("Cannot provide a segment with wan=true")),
        (false, _) => {
            return Err(Refusal::server(
                "Network segments are not supported in this version of Consul",
            ));
        }
    }
    let own = match is_wan(call) {
        true => agent_self::wan_member(state),
        false => Some(agent_self::member(state)),
    };
    let authority = state.authority(call);
    authority.known()?;
    let is_pool = own.is_some();
    let seen = own.filter(|_| authority.sees(Resource::Node, &state.node_name));
    let members = call.select(seen.into_iter())?;
    let members = is_pool.then_some(members);
    Ok(authority.mark(Reply::json(call.style, &members)))
}

/// Joining itself succeeds; there are no other agents.
fn join(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Write)?;
    let address = call.rest_text();
    let ports = &state.settings.ports;
    let port = if is_wan(call) { ports.serf_wan } else { Some(ports.serf_lan) };
    let port = port.ok_or_else(|| Refusal::server("WAN Federation is disabled"))?;
    let failed = |why: String| Err(Refusal::server(format!("1 error occurred:\n\t* {why}\n\n")));
    let own = SocketAddr::from(([127, 0, 0, 1], port));
    let found = match (address.parse(), address.parse::<IpAddr>()) {
        (Ok(found), _) => found,
        (_, Ok(ip)) => SocketAddr::new(ip, port),
        _ if address == "localhost" => own,
        _ => {
            let host = address.split(':').next().unwrap_or("");
            return failed(format!("Failed to resolve {host}: lookup {host}: no such host"));
        }
    };
    if found == own {
        return Ok(Reply::done());
    }
    failed(format!("Failed to join {found}: dial tcp {found}: connect: connection refused"))
}

fn force_leave(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Operator, "", Access::Write)?;
    let name = call.rest_text();
    let own = match call.query.has("wan") {
        true => state.wan_name(),
        false => state.node_name.clone(),
    };
    if name == own {
        return Ok(Reply::done());
    }
    // Consul does not name the members of other datacenters.
    let name = if call.query.has("wan") { String::new() } else { name };
    Err(Refusal::server(format!("agent: No node found with name '{name}'")))
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;

    #[test]
    fn only_the_agent_itself_can_be_joined() {
        let world = World::new();
        for (address, status) in
            [("127.0.0.1", 200), ("127.0.0.1:8301", 200), ("localhost", 200), ("127.0.0.1:1", 500)]
        {
            assert_eq!(world.put(&format!("agent/join/{address}"), "").status(), status);
        }
        assert_eq!(world.put("agent/join/127.0.0.1:8302?wan=1", "").status(), 200);
        let answer = world.put("agent/join/nowhere", "");
        assert!(answer.text().contains("Failed to resolve nowhere"), "{}", answer.text());
    }
}
