//! The first tokens, and the tokens of the agent itself.

use super::token_view::View;
use super::{
    ANONYMOUS, ANONYMOUS_SECRET, Access, GLOBAL_MANAGEMENT, RESERVED, Resource, Secret, Token,
    is_uuid,
};
use crate::go;
use crate::http::decode::{GoType, Json, Object, body, decode_error};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use consul_api::api::{acl as wire, agent};
use http::StatusCode;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::BOOTSTRAP, Handler::Now(bootstrap)),
    Route(&agent::TOKEN_UPDATE, Handler::Now(set_agent_token)),
];

const BOOTSTRAP: GoType = GoType { value: "api.BootstrapRequest", fields: "BootstrapRequest." };
const AGENT_TOKEN: GoType = GoType { value: "api.AgentToken", fields: "AgentToken." };

/// The tokens of an agent, with their older names. Source: "Update ACL tokens" in Consul's HTTP
/// reference of agents.
const AGENT_TOKENS: &[&str] = &[
    "default",
    "acl_token",
    "agent",
    "acl_agent_token",
    "agent_recovery",
    "agent_master",
    "acl_agent_master_token",
    "replication",
    "acl_replication_token",
    "config_file_service_registration",
    "dns",
    "dns_token",
];

fn bootstrap(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let secret = bootstrap_secret(call)
        .map_err(|why| Refusal::bad(format!("Request decoding failed: {why}")))?;
    if let Some(index) = state.acl.bootstrapped {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!("Permission denied: ACL bootstrap no longer allowed (reset index: {index})"),
        ));
    }
    let secret = match secret {
        none if none.is_empty() => state.new_id(),
        wrong if !is_uuid(&wrong) => {
            return Err(Refusal::server("uuid string is wrong length"));
        }
        taken if taken.starts_with(RESERVED) => {
            return Err(Refusal::server(
                "Provided token cannot be used because a token with that secret already exists.",
            ));
        }
        secret => secret,
    };
    let secret = Secret::new(secret);
    add_management(state, secret.clone(), "Bootstrap Token (Global Management)");
    let token = state.acl.tokens.get(&secret);
    let token = token.ok_or_else(super::tokens::not_found)?;
    Ok(Reply::json(call.style, &View::new(state, token).with_id()))
}

fn bootstrap_secret(call: &Call) -> Result<String, String> {
    if call.body.is_empty() {
        return Ok(String::new());
    }
    let json = Json::read(&call.body)?;
    let given = Object::new(&json, BOOTSTRAP)?;
    given.check_known(&["BootstrapSecret"])?;
    given.text("BootstrapSecret")
}

/// Adds the first management token.
pub(super) fn add_management(state: &mut State, secret: Secret, description: &str) {
    let index = state.next_index();
    state.acl.bootstrapped = Some(index);
    let token = Token {
        accessor: state.new_id(),
        policies: vec![GLOBAL_MANAGEMENT.to_owned()],
        ..new_token(state, secret, description, index)
    };
    state.put_token(token);
}

/// Adds the token of requests without one.
pub(super) fn add_anonymous(state: &mut State) {
    let index = state.next_index();
    let token = new_token(state, Secret::new(ANONYMOUS_SECRET), "Anonymous Token", index);
    state.put_token(Token { accessor: ANONYMOUS.to_owned(), ..token });
}

/// A token without permissions, and without an accessor id yet.
fn new_token(state: &State, secret: Secret, description: &str, index: u64) -> Token {
    Token {
        accessor: String::new(),
        secret,
        description: description.to_owned(),
        policies: Vec::new(),
        roles: Vec::new(),
        services: Vec::new(),
        nodes: Vec::new(),
        templates: Vec::new(),
        local: false,
        method: None,
        created: state.date(Duration::ZERO),
        expires: None,
        create_index: index,
        modify_index: index,
    }
}

fn set_agent_token(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Agent, &state.node_name, Access::Write)?;
    let json = body(&call.body)?;
    let given = Object::of_body(&json, AGENT_TOKEN)?;
    given.check_known(&["Token"]).map_err(decode_error)?;
    let secret = given.text("Token").map_err(decode_error)?;
    let kind = call.rest_text();
    if !AGENT_TOKENS.contains(&kind.as_str()) {
        return Err(Refusal::unknown(format!("Token {} is unknown", go::quoted(&kind))));
    }
    let secret = (!secret.is_empty()).then(|| Secret::new(secret));
    let config = &mut state.acl.config;
    let of_agent = match kind.as_str() {
        "default" | "acl_token" => &mut config.default_token,
        "agent" | "acl_agent_token" => &mut config.agent_token,
        other => {
            match other {
                "dns" | "dns_token" => config.dns_token = secret,
                "agent_recovery" | "agent_master" | "acl_agent_master_token" => {
                    config.recovery_token = secret;
                }
                "config_file_service_registration" => config.registration_token = secret,
                // That for replication is for other datacenters.
                _ => {}
            }
            return Ok(Reply::done());
        }
    };
    if *of_agent != secret {
        *of_agent = secret;
        state.sync_all();
    }
    Ok(Reply::done())
}
