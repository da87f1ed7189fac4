//! Network coordinates: `/v1/coordinate`.

use crate::acl::{Access, Resource};
use crate::blocking::{Headers, Read, ResultIndex};
use crate::http::decode::{GoType, Json, Object, body, decode_error};
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::coordinate::{Coordinate, DIMENSIONS};
use crate::store::timer::Timer;
use crate::store::watch::Topic;
use consul_api::api::coordinate as wire;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::DATACENTERS, Handler::Now(datacenters)),
    Route(&wire::NODES_LIST, Handler::Read(&NODES)),
    Route(&wire::NODE, Handler::Read(&NODE)),
    Route(&wire::UPDATE, Handler::Now(update)),
];

/// The time for which updates are collected before they are written together.
///
/// Source: `CoordinateUpdatePeriod`, which is fixed in the server.
const UPDATE_PERIOD: Duration = Duration::from_secs(5);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct View<'a> {
    node: &'a str,
    segment: &'static str,
    coord: &'a Coordinate,
}

impl<'a> View<'a> {
    fn new((node, coord): (&'a str, &'a Coordinate)) -> Self {
        Self { node, segment: "", coord }
    }
}

fn datacenters(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    let own = Coordinate::default();
    let servers = [View::new((&state.node_name, &own))];
    let pool =
        json!({"Datacenter": state.settings.datacenter, "AreaID": "wan", "Coordinates": servers});
    let pools = state.settings.ports.serf_wan.map(|_| pool);
    Ok(Reply::json(call.style, &Vec::from_iter(pools)))
}

/// Whether the caller asks for the only segment that there is.
fn is_in_segment(call: &Call) -> bool {
    call.query.get("segment").is_empty()
}

static NODES: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Coordinates],
    index: |state, _| ResultIndex::new(state.coordinates.newest()),
    answer: |state, call| {
        let authority = state.authority(call);
        let all = state.coordinates.all().filter(|_| is_in_segment(call));
        let seen = all.filter(|(node, _)| authority.sees(Resource::Node, node));
        Ok(authority.mark(Reply::json(call.style, &seen.map(View::new).collect::<Vec<_>>())))
    },
    headers: Headers::Deferred,
};

static NODE: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Coordinates],
    index: |state, _| ResultIndex::new(state.coordinates.newest()),
    answer: |state, call| {
        let name = call.rest_text();
        state.authority(call).check(Resource::Node, &name, Access::Read)?;
        let is_named = |(node, _): &(&str, &Coordinate)| node.eq_ignore_ascii_case(&name);
        Ok(match state.coordinates.all().find(is_named) {
            Some(found) if is_in_segment(call) => Reply::json(call.style, &[View::new(found)]),
            _ => Reply::empty(StatusCode::NOT_FOUND),
        })
    },
    headers: Headers::OfSuccess,
};

fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const UPDATE: GoType =
        GoType { value: "structs.CoordinateUpdateRequest", fields: "CoordinateUpdateRequest." };
    let json = body(&call.body)?;
    let given = Object::of_body(&json, UPDATE)?;
    given
        .check_known(&["Datacenter", "Node", "Segment", "Partition", "Coord", "Token"])
        .map_err(decode_error)?;
    for name in ["Datacenter", "Segment", "Partition", "Token"] {
        given.text(name).map_err(decode_error)?;
    }
    let node = given.text("Node").map_err(decode_error)?;
    let coordinate = read(&given).map_err(decode_error)?;
    state.authority(call).check(Resource::Node, &node, Access::Write)?;
    let coordinate = coordinate.ok_or_else(|| Refusal::server("incompatible coordinate"))?;
    if state.coordinates.queue(node, coordinate) {
        state.timers.set(state.now + UPDATE_PERIOD, Timer::ApplyCoordinates);
    }
    Ok(Reply::done())
}

/// The coordinate of an update; `None` if its number of dimensions is wrong.
fn read(given: &Object<'_>) -> Result<Option<Coordinate>, String> {
    let members = given.object("Coord", "coordinate.Coordinate")?.unwrap_or_default();
    let coord = Object::of_members(members, "CoordinateUpdateRequest.Coord.");
    coord.check_known(&["Vec", "Error", "Adjustment", "Height"])?;
    let number = |name: &str| match coord.get(name) {
        None => Ok(0.0),
        Some(json) => float(json, name),
    };
    let places = coord.list("Vec", "[]float64")?.unwrap_or_default();
    let vec = places.iter().map(|json| float(json, "Vec")).collect::<Result<Vec<_>, _>>()?;
    let coordinate = Coordinate {
        error: number("Error")?,
        adjustment: number("Adjustment")?,
        height: number("Height")?,
        vec,
    };
    Ok((coordinate.vec.len() == DIMENSIONS).then_some(coordinate))
}

fn float(json: &Json, name: &str) -> Result<f64, String> {
    match json {
        Json::Null => Ok(0.0),
        Json::Number(number) => Ok(number.as_f64().unwrap_or(0.0)),
        other => {
            Err(other.field_type_error(&format!("CoordinateUpdateRequest.Coord.{name}"), "float64"))
        }
    }
}

impl State {
    /// Writes the collected updates; updates of unknown nodes are dropped.
    pub fn apply_coordinates(&mut self) {
        let index = self.next_index();
        for (name, coordinate) in self.coordinates.take_pending() {
            let Some(node) = self.catalog.node(&name).map(|record| record.node.node.clone()) else {
                continue;
            };
            self.coordinates.put(&node, coordinate, index);
            self.touch(Topic::Coordinates);
        }
    }
}
