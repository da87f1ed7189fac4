//! `/v1/health`: nodes and services with their checks.

use super::service_json::Instance;
use super::{ByTag, distance, has_meta, matching};
use crate::acl::{Access, Resource};
use crate::blocking::{Headers, MERGE, Read, ResultIndex};
use crate::go;
use crate::http::handler::{Handler, Route};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::catalog::{Check, Record, Service};
use crate::store::tree;
use crate::store::watch::Topic;
use consul_api::api::health as wire;
use http::StatusCode;

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::SERVICE, Handler::Read(&SERVICE)),
    Route(&wire::NODE, Handler::Read(&NODE)),
    Route(&wire::CHECKS, Handler::Read(&CHECKS)),
    Route(&wire::STATE, Handler::Read(&STATE)),
    Route(&wire::CONNECT, Handler::Read(&CONNECT)),
];

const HEADERS: Headers = Headers::Catalog { cache: false };

static SERVICE: Read = Read {
    check: check_service,
    topics: |state, call| {
        let name = call.rest_text().to_lowercase();
        // The streaming backend does not report other services.
        let unknown = !may_stream(call) && state.catalog.is_unknown(&name);
        let others = unknown.then_some(Topic::Services);
        [Topic::Health(name.clone()), Topic::Instances(name)].into_iter().chain(others).collect()
    },
    index: |state, call| {
        let newest = service_index(state, call);
        ResultIndex::new(match may_stream(call) && is_here(call) {
            true => newest.max(state.catalog.renamed_index(&call.rest_text())),
            false => newest,
        })
    },
    answer: |state, call| {
        let name = call.rest_text();
        instances(state, call, ByTag::Yes, state.catalog.instances(&name))
    },
    headers: Headers::Instances { streams: true },
};

static CONNECT: Read = Read {
    check: check_service,
    topics: |state, call| match state.catalog.connect_instances(&call.rest_text()).next() {
        Some(_) => vec![Topic::Mesh, Topic::Nodes, Topic::Checks],
        None if may_stream(call) => vec![Topic::MeshOf(call.rest_text().to_lowercase())],
        None => vec![Topic::Mesh],
    },
    index: connect_index,
    answer: |state, call| {
        let name = call.rest_text();
        // The streaming backend leaves out what the caller may not see.
        if !may_stream(call) {
            check_target(state, call, &name)?;
        }
        instances(state, call, ByTag::No, state.catalog.connect_instances(&name))
    },
    headers: Headers::Instances { streams: true },
};

/// The index of reads of a service's instances.
fn service_index(state: &State, call: &Call) -> u64 {
    if is_here(call) { state.catalog.service_newest(&call.rest_text()) } else { 0 }
}

/// Whether the streaming backend answers where it can.
fn may_stream(call: &Call) -> bool {
    let waits = !matches!(call.query.get("index"), "" | "0");
    (call.query.has("cached") || waits)
        && call.query.get("near").is_empty()
        && !call.query.has(MERGE)
}

/// The newest index among the services of the instances found.
fn connect_index(state: &State, call: &Call) -> ResultIndex {
    if !is_here(call) {
        return ResultIndex::new(0);
    }
    let name = call.rest_text();
    let found = state.catalog.connect_instances(&name);
    let newest = found.map(|(_, service)| state.catalog.known_service_newest(&service.name)).max();
    ResultIndex::new(newest.unwrap_or_else(|| state.catalog.missing_newest(&name)))
}

/// Refuses a caller who may not read the service behind the instances in question.
fn check_target(state: &State, call: &Call, name: &str) -> Result<(), Refusal> {
    let authority = state.authority(call);
    authority.known()?;
    match authority.allows(Resource::Service, name, Access::Read) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::FORBIDDEN, "Permission denied")),
    }
}

fn check_service(call: &Call) -> Result<(), Refusal> {
    match (call.query.get("peer"), call.query.get("sg")) {
        (_, "") => {}
        ("", _) => {
            return Err(Refusal::server("sameness groups are not supported in consul CE"));
        }
        _ => return Err(Refusal::bad("peer-name and sameness-group are mutually exclusive")),
    }
    call.required_rest("Missing service name")?;
    passing(call).map(|_| ())
}

/// Whether instances of this cluster are asked for. No other one is known, so nothing was imported from one.
fn is_here(call: &Call) -> bool {
    call.query.get("peer").is_empty()
}

fn instances<'a>(
    state: &'a State,
    call: &Call,
    by_tag: ByTag,
    instances: impl Iterator<Item = (&'a Record, &'a Service)>,
) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    let is_here = is_here(call);
    let found = matching(call, &authority, by_tag, instances.filter(|_| is_here))?
        .map(|(record, service)| Instance::new(record, service));
    let mut found = call.select(found)?;
    if passing(call)? {
        keep_passing(&mut found);
    }
    Ok(authority.mark(distance::sorted(state, call, found, |instance| instance.node())))
}

/// Removes the instances that do not pass, in the order of Consul: the last one takes the place of
/// a removed one.
fn keep_passing(instances: &mut Vec<Instance<'_>>) {
    let mut place = 0;
    while place < instances.len() {
        if instances[place].passes() {
            place += 1;
        } else {
            instances.swap_remove(place);
        }
    }
}

/// Whether only passing instances are requested. The parameter without a value means so.
fn passing(call: &Call) -> Result<bool, Refusal> {
    if !call.query.has("passing") {
        return Ok(false);
    }
    match call.query.get("passing") {
        "" => Ok(true),
        text => go::boolean(text).ok_or_else(|| Refusal::bad("Invalid value for ?passing")),
    }
}

/// The index of a list of checks by a member: that of all checks, after changes where the list is in Consul's index of this member.
fn of_checks(state: &State, call: &Call, member: fn(&Check) -> &String) -> ResultIndex {
    let newest = ResultIndex::new(state.catalog.checks_newest);
    if !call.query.has("index") {
        return newest;
    }
    let checks = state.catalog.nodes().flat_map(|record| record.checks.values());
    let entries = checks.filter(|check| !member(check).is_empty()).map(|check| {
        let parts = [member(check), &check.node, &check.check_id];
        (
            tree::key(&parts.map(|part| part.to_lowercase()).each_ref().map(String::as_str)),
            check.modify_index,
        )
    });
    let mark = tree::mark(entries, &tree::key(&[&call.rest_text().to_lowercase()]));
    ResultIndex { mark, ..newest }
}

static NODE: Read = Read {
    check: |call| call.required_rest("Missing node name").map(|_| ()),
    topics: |_, _| vec![Topic::Checks],
    index: |state, call| of_checks(state, call, |check| &check.node),
    answer: |state, call| {
        let record = state.catalog.node(&call.rest_text());
        let checks = record.into_iter().flat_map(|record| record.checks.values());
        let authority = state.authority(call);
        let seen =
            call.select(checks.filter(|check| authority.sees_check(check)).map(Check::shown))?;
        Ok(authority.mark(Reply::json(call.style, &seen)))
    },
    headers: HEADERS,
};

static CHECKS: Read = Read {
    check: |call| call.required_rest("Missing service name").map(|_| ()),
    topics: |_, call| match call.query.has("node-meta") {
        true => vec![Topic::ServiceChecks(call.rest_text().to_lowercase())],
        false => vec![Topic::Checks],
    },
    index: |state, call| {
        let name = call.rest_text();
        // With a filter of nodes, the index is the service's.
        match call.query.has("node-meta") {
            true => ResultIndex::new(state.catalog.known_service_newest(&name)),
            false => of_checks(state, call, |check| &check.service_name),
        }
    },
    answer: |state, call| {
        let name = call.rest_text().to_lowercase();
        let of_service = |check: &Check| check.service_name.to_lowercase() == name;
        checks(state, call, of_service)
    },
    headers: HEADERS,
};

static STATE: Read = Read {
    check: |call| call.required_rest("Missing check state").map(|_| ()),
    topics: |_, _| vec![Topic::Checks],
    index: |state, call| match call.rest_text().as_str() {
        "any" => ResultIndex::new(state.catalog.checks_newest),
        _ => of_checks(state, call, |check| &check.status),
    },
    answer: |state, call| {
        let wanted = call.rest_text();
        let in_state =
            |check: &Check| wanted == "any" || check.status.eq_ignore_ascii_case(&wanted);
        checks(state, call, in_state)
    },
    headers: HEADERS,
};

fn checks(state: &State, call: &Call, wanted: impl Fn(&Check) -> bool) -> Result<Reply, Refusal> {
    let records = state.catalog.nodes().filter(|record: &&Record| has_meta(call, record));
    let checks = records.flat_map(|record| record.checks.values());
    let authority = state.authority(call);
    let seen = checks.filter(|check| wanted(check) && authority.sees_check(check));
    let seen = call.select(seen.map(Check::shown))?;
    Ok(authority.mark(distance::sorted(state, call, seen, |check| &check.node)))
}

#[cfg(test)]
mod tests {
    use crate::control::testing::World;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn register(world: &World, body: &str) {
        assert_eq!(world.put("catalog/register", body).text(), "true", "{body}");
    }

    fn with_check(world: &World, service: &str, check: &str, status: &str) {
        register(
            world,
            &format!(
                "{{\"Node\":\"n\",\"Address\":\"1.1.1.1\",\"Service\":{{\"Service\":\"{service}\"}},\
                 \"Check\":{{\"Name\":\"{check}\",\"ServiceID\":\"{service}\",\"Status\":\"{status}\"}}}}"
            ),
        );
    }

    #[test]
    fn an_instance_has_the_checks_of_its_node_first() {
        let world = World::new();
        with_check(&world, "w", "a", "passing");
        register(
            &world,
            r#"{"Node":"n","Address":"1.1.1.1","Check":{"Name":"z","Status":"passing"}}"#,
        );
        with_check(&world, "other", "b", "passing");
        let checks = world.get("health/service/W").json()[0]["Checks"].clone();
        assert_eq!((&checks[0]["Name"], &checks[1]["Name"]), (&"z".into(), &"a".into()));
        assert!(checks[2].is_null());
    }

    #[test]
    fn the_index_of_an_unknown_service_is_that_of_the_last_one_that_went() {
        let world = World::new();
        with_check(&world, "w", "a", "passing");
        assert_eq!(world.put("catalog/deregister", r#"{"Node":"n"}"#).text(), "true");
        let gone = world.get("health/service/none").index();
        world.put("kv/later", "");
        assert!(gone > 1);
        assert_eq!(world.get("health/connect/none").index(), gone);
    }

    #[test]
    fn passing_wants_every_check_to_pass() {
        let world = World::new();
        with_check(&world, "w", "a", "warning");
        for (query, count) in [("", 1), ("?passing=0", 1), ("?passing", 0), ("?passing=true", 0)] {
            let found = world.get(&format!("health/service/w{query}")).json();
            assert_eq!(found.as_array().map(Vec::len), Some(count), "{query}");
        }
        let answer = world.get("health/service/w?passing=x");
        assert_eq!((answer.status(), answer.text()), (400, "Invalid value for ?passing"));
    }

    #[test]
    fn a_waiting_read_is_answered_by_streaming_and_keeps_to_the_time() {
        let world = World::new();
        let index = world.get("health/service/consul").index();
        let mut watch = world.watch(&format!("health/service/consul?index={index}&wait=16s"));
        world.advance(SECOND * 16);
        let answer = watch.answer().expect("the time is over");
        assert_eq!(answer.header("x-consul-query-backend"), "streaming");
        assert_eq!(answer.header("x-consul-knownleader"), "false");
        assert_eq!(answer.header("x-consul-effective-consistency"), "leader");
        let near = world.get("health/service/consul?index=1&near=_agent");
        assert_eq!(near.header("x-consul-query-backend"), "blocking-query");
        assert_eq!(near.header("x-consul-knownleader"), "true");
    }

    #[test]
    fn a_cached_read_is_a_miss_and_then_a_hit() {
        let world = World::new();
        for (cache, age) in [("MISS", ""), ("HIT", "0"), ("HIT", "0")] {
            let answer = world.get("health/service/consul?cached");
            assert_eq!((answer.header("x-cache"), answer.header("age")), (cache, age));
        }
        assert_eq!(world.get("health/node/sim?cached").header("x-cache"), "");
    }

    #[test]
    fn a_watch_of_a_service_wakes_for_its_checks_and_those_of_its_node_only() {
        let world = World::new();
        with_check(&world, "w", "a", "passing");
        let watch = |world: &World| {
            let index = world.get("health/service/w").index();
            world.watch(&format!("health/service/w?index={index}"))
        };
        let mut quiet = watch(&world);
        with_check(&world, "other", "b", "critical");
        register(&world, r#"{"Node":"m","Address":"1.1.1.1","Check":{"Name":"x"}}"#);
        with_check(&world, "w", "a", "passing");
        assert!(quiet.waits());
        with_check(&world, "w", "a", "critical");
        assert!(!quiet.waits());
        let mut node = watch(&world);
        register(&world, r#"{"Node":"n","Address":"1.1.1.1","Check":{"Name":"x"}}"#);
        assert!(!node.waits());
        let mut address = watch(&world);
        register(&world, r#"{"Node":"n","Address":"2.2.2.2"}"#);
        assert!(!address.waits());
        let mut last = watch(&world);
        world.put("catalog/deregister", r#"{"Node":"n"}"#);
        assert_eq!(last.answer().expect("woken").text(), "[]");
    }

    #[test]
    fn an_unknown_service_sleeps_while_others_come_and_go() {
        let world = World::new();
        with_check(&world, "gone", "g", "passing");
        world.put("catalog/deregister", r#"{"Node":"n","ServiceID":"gone"}"#);
        let index = world.get("health/service/w").index();
        let mut watch = world.watch(&format!("health/service/w?index={index}"));
        with_check(&world, "other", "b", "passing");
        assert_eq!(world.get("health/service/w").index(), index);
        assert!(watch.waits());
        with_check(&world, "w", "a", "passing");
        assert!(!watch.waits());
    }

    #[test]
    fn states_and_nodes_list_their_checks() {
        let world = World::new();
        with_check(&world, "w", "a", "warning");
        let names = |path: &str| {
            let checks = world.get(path).json();
            let names = checks.as_array().into_iter().flatten().map(|check| check["Name"].clone());
            names.map(|name| name.as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("health/state/any"), ["a", "Serf Health Status"]);
        assert_eq!(names("health/state/Warning"), ["a"]);
        assert_eq!(names("health/state/nope"), [""; 0]);
        assert_eq!(names("health/node/N"), ["a"]);
        assert_eq!(names("health/checks/w"), ["a"]);
    }

    #[test]
    fn a_state_wakes_for_the_checks_that_enter_and_leave_it() {
        let world = World::new();
        with_check(&world, "w", "a", "passing");
        let index = world.get("health/state/warning").index();
        let mut warning = world.watch(&format!("health/state/warning?index={index}"));
        let mut passing = world.watch(&format!("health/state/passing?index={index}"));
        with_check(&world, "w", "a", "critical");
        // No check has the other state, so each change wakes who waits for it.
        assert!(!warning.waits() && !passing.waits());
        let index = world.get("health/state/warning").index();
        let mut warning = world.watch(&format!("health/state/warning?index={index}"));
        with_check(&world, "w", "a", "warning");
        assert!(!warning.waits());
    }

    #[test]
    fn names_must_be_given() {
        let world = World::new();
        for (path, text) in [
            ("health/service/", "Missing service name"),
            ("health/checks/", "Missing service name"),
            ("health/node/", "Missing node name"),
            ("health/state/", "Missing check state"),
        ] {
            let answer = world.get(path);
            assert_eq!((answer.status(), answer.text()), (400, text));
        }
    }
}
