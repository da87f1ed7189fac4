//! `/v1/catalog`: nodes and services.

pub(super) mod body;
mod coordinate;
mod distance;
mod health;
pub(super) mod proxy;
mod registration;
pub(super) mod service_json;
pub(super) mod txn;

use super::acl::{Authority, Resource};
use super::blocking::{
    Headers, MERGE, Read, ResultIndex, check_cache_control, consistency, from_cache,
};
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::catalog::{Node, Record, Service};
use super::store::tree;
use super::store::watch::Topic;
use consul_api::api::catalog as wire;
use http::header::CACHE_CONTROL;
use serde::Serialize;
use service_json::{NodeService, ServiceNode};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    let all = [ROUTES, coordinate::ROUTES, health::ROUTES];
    all.into_iter().flatten()
}

static ROUTES: &[Route] = &[
    Route(&wire::REGISTER, Handler::Now(registration::register)),
    Route(&wire::DEREGISTER, Handler::Now(registration::deregister)),
    Route(&wire::DATACENTERS, Handler::Now(datacenters)),
    Route(&wire::NODES_LIST, Handler::Read(&NODES)),
    Route(&wire::SERVICES, Handler::Read(&SERVICES)),
    Route(&wire::SERVICE, Handler::Read(&SERVICE)),
    Route(&wire::NODE, Handler::Read(&NODE)),
    Route(&wire::NODE_SERVICES, Handler::Read(&NODE_SERVICES)),
    Route(&wire::CONNECT, Handler::Read(&CONNECT)),
];

const UNCACHED: Headers = Headers::Catalog { cache: false };
const CACHED: Headers = Headers::Catalog { cache: true };

fn datacenters(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    consistency(&call.query)?;
    check_cache_control(call.header(&CACHE_CONTROL))?;
    let reply = Reply::json(call.style, &[&state.settings.datacenter]);
    if !call.query.has("cached") {
        return Ok(reply);
    }
    // The agent does not renew this list by itself, and it is the same for all tokens.
    let control = call.header(&CACHE_CONTROL).to_ascii_lowercase();
    let mut directives = control.split(',').map(str::trim);
    let is_new = directives.any(|directive| ["max-age=0", "must-revalidate"].contains(&directive));
    let is_first = state.cached.insert((None, call.endpoint.name.to_owned()));
    Ok(from_cache(reply, is_first || is_new))
}

/// Whether a node has all the metadata of the query.
fn has_meta(call: &Call, record: &Record) -> bool {
    call.query.all("node-meta").all(|pair| {
        let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
        let meta = record.node.meta.as_ref();
        meta.and_then(|meta| meta.get(name)).is_some_and(|present| present == value)
    })
}

/// Whether a service has all these tags, which are in lower case.
fn has_tags(wanted: &[String], service: &Service) -> bool {
    let tags = service.tags.as_deref().unwrap_or_default();
    wanted.iter().all(|wanted| tags.iter().any(|tag| tag.to_lowercase() == *wanted))
}

static NODES: Read = Read {
    check: |_| Ok(()),
    topics: |_, _| vec![Topic::Nodes],
    index: |state, _| ResultIndex::new(state.catalog.nodes_newest),
    answer: |state, call| {
        let authority = state.authority(call);
        let records = state.catalog.nodes().filter(|record| has_meta(call, record));
        let nodes = records.map(|record| &record.node);
        let seen = nodes.filter(|node| authority.sees(Resource::Node, &node.node));
        let seen = call.select(seen)?;
        Ok(authority.mark(distance::sorted(state, call, seen, |node| &node.node)))
    },
    headers: UNCACHED,
};

static SERVICES: Read = Read {
    check: |_| Ok(()),
    topics: |_, call| match call.query.has("node-meta") {
        true => vec![Topic::Services, Topic::Nodes],
        false => vec![Topic::Services],
    },
    index: |state, call| {
        let services = state.catalog.services_newest;
        match call.query.all("node-meta").next() {
            Some(pair) => ResultIndex {
                mark: if call.query.has("index") { mark_of_meta(state, call, pair) } else { 0 },
                ..ResultIndex::new(services.max(state.catalog.nodes_newest))
            },
            None => ResultIndex::new(services),
        }
    },
    answer: |state, call| {
        let authority = state.authority(call);
        let records = state.catalog.nodes().filter(|record| has_meta(call, record));
        let instances = records
            .flat_map(|record| record.services.values().map(|service| (&record.node, service)))
            .filter(|(node, service)| authority.sees_instance(&node.node, &service.name))
            .map(|(node, service)| ServiceNode::new(node, service));
        let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for instance in call.select(instances)? {
            let tags = services.entry(instance.name()).or_default();
            tags.extend(instance.tags().iter().map(String::as_str));
        }
        Ok(authority.mark(Reply::json(call.style, &services)))
    },
    headers: CACHED,
};

/// The mark that wakes a query for the services of nodes with this metadata: changes where the nodes are in Consul's
/// index of metadata, and of their services.
fn mark_of_meta(state: &State, call: &Call, pair: &str) -> u64 {
    let (name, value) = pair.split_once(':').unwrap_or((pair, ""));
    let nodes = state.catalog.nodes().flat_map(|record| {
        let node = &record.node;
        let key = |(name, value): (&String, &String)| {
            tree::key(&[name, value, &node.node.to_lowercase()])
        };
        let keys: Vec<_> = node.meta.iter().flatten().map(key).collect();
        keys.into_iter().map(|key| (key, node.modify_index))
    });
    let found = tree::mark(nodes, &tree::key(&[name, value]));
    let services = || {
        let all = state.catalog.nodes().flat_map(|record| {
            record.services.values().map(move |service| (&record.node.node, service))
        });
        all.map(|(node, service)| {
            let node = node.to_lowercase();
            (tree::key(&[&node, &node, &service.id]), service.modify_index)
        })
    };
    let records = state.catalog.nodes().filter(|record| has_meta(call, record));
    records.fold(found, |mark, record| {
        let own = tree::mark(services(), &tree::key(&[&record.node.node.to_lowercase()]));
        mark.rotate_left(1) ^ own
    })
}

static SERVICE: Read = Read {
    check: |call| call.required_rest("Missing service name").map(|_| ()),
    topics: |state, call| {
        let name = call.rest_text().to_lowercase();
        let unknown = state.catalog.is_unknown(&name).then_some(Topic::Services);
        [Topic::Instances(name)].into_iter().chain(unknown).collect()
    },
    index: |state, call| ResultIndex::new(state.catalog.service_newest(&call.rest_text())),
    answer: |state, call| {
        let name = call.rest_text();
        instances(state, call, ByTag::Yes, state.catalog.instances(&name))
    },
    headers: CACHED,
};

static CONNECT: Read = Read {
    check: |call| call.required_rest("Missing service name").map(|_| ()),
    topics: |state, call| match state.catalog.connect_instances(&call.rest_text()).next() {
        Some(_) => vec![Topic::Mesh, Topic::Nodes],
        None => vec![Topic::Mesh],
    },
    index: connect_index,
    answer: |state, call| {
        let name = call.rest_text();
        instances(state, call, ByTag::No, state.catalog.connect_instances(&name))
    },
    headers: CACHED,
};

/// The index is the service's own, whatever instances are found.
fn connect_index(state: &State, call: &Call) -> ResultIndex {
    let name = call.rest_text();
    ResultIndex::new(match state.catalog.connect_instances(&name).next() {
        Some(_) => state.catalog.known_service_newest(&name),
        None => state.catalog.missing_newest(&name),
    })
}

fn instances<'a>(
    state: &'a State,
    call: &Call,
    by_tag: ByTag,
    instances: impl Iterator<Item = (&'a Record, &'a Service)>,
) -> Result<Reply, Refusal> {
    let authority = state.authority(call);
    let found = matching(call, &authority, by_tag, instances)?;
    let found = found.map(|(record, service)| ServiceNode::new(&record.node, service));
    let found = call.select(found)?;
    Ok(authority.mark(distance::sorted(state, call, found, |instance| instance.node())))
}

/// Whether a read regards the parameter `tag`; reads of instances in the mesh do not.
#[derive(Clone, Copy, PartialEq)]
enum ByTag {
    Yes,
    No,
}

/// The instances that the caller may see, with the tags and node metadata of the query.
fn matching<'a>(
    call: &Call,
    authority: &Authority,
    by_tag: ByTag,
    instances: impl Iterator<Item = (&'a Record, &'a Service)>,
) -> Result<impl Iterator<Item = (&'a Record, &'a Service)>, Refusal> {
    let tags = call.query.all("tag").filter(|_| by_tag == ByTag::Yes);
    let tags: Vec<_> = tags.map(str::to_lowercase).collect();
    let found: Vec<_> = instances
        .filter(move |(record, service)| has_meta(call, record) && has_tags(&tags, service))
        .filter(|(record, service)| authority.sees_instance(&record.node.node, &service.name))
        .collect();
    check_unmerged(call, found.iter().map(|(_, service)| *service))?;
    Ok(found.into_iter())
}

/// Refuses to merge defaults: only proxies and gateways have them.
fn check_unmerged<'a>(
    call: &Call,
    mut services: impl Iterator<Item = &'a Service>,
) -> Result<(), Refusal> {
    match call.query.has(MERGE) && services.any(|service| !service.kind.is_empty()) {
        false => Ok(()),
        true => Err(Refusal::bad(format!(
            "Invalid query parameter: \"{MERGE}\" - a simulated agent does not merge central configuration"
        ))),
    }
}

/// A node by its name, else by its UUID.
fn find_node<'a>(state: &'a State, call: &Call) -> Option<&'a Record> {
    let name = call.rest_text();
    state.catalog.node(&name).or_else(|| state.catalog.node_by_id(&name))
}

/// The requested node, if the caller may see it.
fn visible_node<'a>(state: &'a State, call: &Call, authority: &Authority) -> Option<&'a Record> {
    find_node(state, call).filter(|record| authority.sees(Resource::Node, &record.node.node))
}

/// Shorter names are not looked up as UUIDs either, and have no index.
const MIN_LOOKUP_LENGTH: usize = 2;

/// A node that does not exist is waited for among those that go, too.
fn node_topics(state: &State, call: &Call) -> Vec<Topic> {
    let unknown = find_node(state, call).is_none().then_some(Topic::Nodes);
    let node = Topic::Node(call.rest_text().to_lowercase());
    [node].into_iter().chain(unknown).collect()
}

fn node_index(state: &State, call: &Call) -> ResultIndex {
    ResultIndex::new(match find_node(state, call) {
        Some(record) => record.newest,
        None if call.rest.len() < MIN_LOOKUP_LENGTH => 0,
        None => state.catalog.node_removed_index,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeView<'a, S> {
    node: Option<&'a Node>,
    services: Option<S>,
}

static NODE: Read = Read {
    check: |call| call.required_rest("Missing node name").map(|_| ()),
    topics: node_topics,
    index: node_index,
    answer: |state, call| {
        let authority = state.authority(call);
        let Some(record) = visible_node(state, call, &authority) else {
            return Ok(authority.mark(Reply::json(call.style, &())));
        };
        // Consul takes the instance's id for the name of its service here. Source: `filterNodeServices` of its ACL filter.
        let all = record.services.values();
        let seen = all.filter(|service| authority.sees(Resource::Service, &service.id));
        let services = call.select(seen.map(NodeService::from))?.into_iter();
        let services = BTreeMap::from_iter(services.map(|service| (service.id(), service)));
        let view = NodeView { node: Some(&record.node), services: Some(services) };
        Ok(authority.mark(Reply::json(call.style, &view)))
    },
    headers: UNCACHED,
};

static NODE_SERVICES: Read = Read {
    check: |call| call.required_rest("Missing node name").map(|_| ()),
    topics: node_topics,
    index: node_index,
    answer: |state, call| {
        let authority = state.authority(call);
        let record = visible_node(state, call, &authority);
        let all = record.into_iter().flat_map(|record| record.services.values());
        let seen = all.clone().filter(|service| authority.sees(Resource::Service, &service.name));
        check_unmerged(call, seen.clone())?;
        let services = call.select(seen.map(NodeService::from))?;
        // An empty list is null in Go, unless a filter made a new one or its services were left out.
        let is_list = call.filter.is_some() || all.count() > 0;
        let services = is_list.then_some(services);
        let view = NodeView { node: record.map(|record| &record.node), services };
        Ok(authority.mark(Reply::json(call.style, &view)))
    },
    headers: UNCACHED,
};

#[cfg(test)]
mod tests {
    use super::super::control::testing::World;

    fn register(world: &World, body: &str) {
        assert_eq!(world.put("catalog/register", body).text(), "true", "{body}");
    }

    #[test]
    fn a_fresh_server_has_its_own_node_and_service_only() {
        let world = World::new();
        assert_eq!(world.get("catalog/datacenters").text(), r#"["dc1"]"#);
        assert_eq!(world.get("catalog/services").text(), r#"{"consul":[]}"#);
        let nodes = world.get("catalog/nodes").json();
        assert_eq!((&nodes[0]["Node"], &nodes[1]), (&"sim".into(), &serde_json::Value::Null));
        assert_eq!(world.get("health/node/sim").json()[0]["CheckID"], "serfHealth");
    }

    #[test]
    fn an_instance_reads_as_consul_writes_it() {
        let world = World::new();
        register(
            &world,
            r#"{"Node":"ext","Address":"10.9.9.9","Service":{"ID":"e2","Service":"esvc"}}"#,
        );
        let answer = world.get("catalog/service/ESVC");
        let index = answer.index();
        assert_eq!(
            answer.text(),
            format!(
                "[{{\"ID\":\"\",\"Node\":\"ext\",\"Address\":\"10.9.9.9\",\"Datacenter\":\"dc1\",\
                 \"TaggedAddresses\":null,\"NodeMeta\":null,\"ServiceKind\":\"\",\
                 \"ServiceID\":\"e2\",\"ServiceName\":\"esvc\",\"ServiceTags\":[],\
                 \"ServiceAddress\":\"\",\"ServiceWeights\":{{\"Passing\":1,\"Warning\":1}},\
                 \"ServiceMeta\":{{}},\"ServicePort\":0,\"ServiceSocketPath\":\"\",\
                 \"ServiceEnableTagOverride\":false,\
                 \"ServiceProxy\":{{\"Mode\":\"\",\"MeshGateway\":{{}},\"Expose\":{{}}}},\
                 \"ServiceConnect\":{{}},\"ServiceLocality\":null,\
                 \"CreateIndex\":{index},\"ModifyIndex\":{index}}}]"
            )
        );
        let node = world.get("catalog/node/EXT");
        let services = node.text().split_once("\"Services\":").map(|(_, services)| services);
        assert_eq!(
            services,
            Some(
                format!(
                    "{{\"e2\":{{\"ID\":\"e2\",\"Service\":\"esvc\",\"Tags\":[],\"Address\":\"\",\
                     \"Meta\":null,\"Weights\":{{\"Passing\":1,\"Warning\":1}},\
                     \"EnableTagOverride\":false,\
                     \"Proxy\":{{\"Mode\":\"\",\"MeshGateway\":{{}},\"Expose\":{{}}}},\
                     \"Connect\":{{}},\"PeerName\":\"\",\
                     \"CreateIndex\":{index},\"ModifyIndex\":{index}}}}}}}"
                )
                .as_str()
            )
        );
    }

    #[test]
    fn unknown_entries_are_empty_or_null() {
        let world = World::new();
        assert_eq!(world.get("catalog/service/none").text(), "[]");
        assert_eq!(world.get("catalog/node/none").text(), "null");
        let services = world.get("catalog/node-services/none");
        assert_eq!(services.text(), r#"{"Node":null,"Services":null}"#);
        assert_eq!(world.get("catalog/node/").text(), "Missing node name");
        assert_eq!(world.get("catalog/service/").text(), "Missing service name");
    }

    #[test]
    fn all_tags_and_all_metadata_must_match() {
        let world = World::new();
        register(
            &world,
            r#"{"Node":"n","Address":"1","NodeMeta":{"a":"b","c":"d"},"Service":{"Service":"s","Tags":["T1","t2"]}}"#,
        );
        for (path, count) in [
            ("catalog/service/s?tag=t1&tag=T2", 1),
            ("catalog/service/s?tag=t1&tag=t3", 0),
            ("catalog/service/s?tag=", 0),
            ("catalog/nodes?node-meta=a:b&node-meta=c:d", 1),
            ("catalog/nodes?node-meta=a:b&node-meta=c:x", 0),
            ("catalog/nodes?node-meta=a", 0),
        ] {
            let found = world.get(path).json();
            assert_eq!(found.as_array().map(Vec::len), Some(count), "{path}");
        }
        assert_eq!(world.get("catalog/services?node-meta=a:b").text(), r#"{"s":["T1","t2"]}"#);
    }

    #[test]
    fn registering_the_same_again_moves_no_index() {
        let world = World::new();
        let body = r#"{"Node":"n","Address":"1","Service":{"Service":"s"},"Check":{"Name":"c"}}"#;
        register(&world, body);
        let indexes = |world: &World| {
            ["catalog/nodes", "catalog/services", "catalog/node/n", "health/state/any"]
                .map(|path| world.get(path).index())
        };
        let before = indexes(&world);
        register(&world, body);
        assert_eq!(indexes(&world), before);
    }

    #[test]
    fn a_node_registered_again_without_its_metadata_loses_it() {
        let world = World::new();
        register(
            &world,
            r#"{"Node":"n","Address":"1","NodeMeta":{"a":"b"},"TaggedAddresses":{"lan":"1"}}"#,
        );
        register(&world, r#"{"Node":"n","Address":"1"}"#);
        let node = world.get("catalog/node/n").json()["Node"].clone();
        assert!(node["Meta"].is_null() && node["TaggedAddresses"].is_null());
    }

    #[test]
    fn invalid_registrations_are_refused_as_a_whole() {
        let world = World::new();
        for (body, status, text) in [
            ("", 400, "Request decode failed: EOF"),
            ("{}", 500, "Must provide node"),
            (r#"{"Node":"e"}"#, 500, "Must provide address if SkipNodeUpdate is not set"),
            (
                r#"{"Node":"e","Address":"1","Foo":1}"#,
                400,
                "Request decode failed: json: unknown field \"Foo\"",
            ),
            (
                r#"{"Node":"e","Address":"1","Service":{"ID":"a"}}"#,
                500,
                "Must provide service name (Service.Service) when service ID is provided",
            ),
            (
                r#"{"Node":"e","Address":"1","Check":{"Name":"orphan","ServiceID":"no"}}"#,
                500,
                "Unknown service ID 'no' for check ID 'orphan'",
            ),
            (
                r#"{"Node":"e","Address":"1","Check":{"Name":"x","Node":"o"}}"#,
                500,
                "Node 'o' for check 'x' doesn't match register request node 'e'",
            ),
            (
                r#"{"Node":"e","Address":"1","ID":"xx"}"#,
                500,
                "Bad node ID: uuid string is wrong length",
            ),
            (r#"{"Node":"e","Address":"1","Datacenter":"dc9"}"#, 500, "No path to datacenter"),
        ] {
            let answer = world.put("catalog/register", body);
            assert_eq!((answer.status(), answer.text()), (status, text), "{body}");
        }
        assert_eq!(world.get("catalog/node/e").text(), "null");
        assert_eq!(world.put("catalog/deregister", "{}").text(), "Must provide node");
        assert_eq!(world.put("catalog/deregister", r#"{"Node":"nope"}"#).text(), "true");
    }

    #[test]
    fn a_definition_is_shown_in_consuls_order_and_names_the_type() {
        let world = World::new();
        register(
            &world,
            r#"{"Node":"d","Address":"1","Check":{"Name":"c","Definition":{"HTTP":"h","Interval":"10s","TCP":"","TTL":"5s","Foo":1}}}"#,
        );
        let checks = world.get("health/node/d");
        let expected = r#""Type":"http","Interval":"","Timeout":"","ExposedPort":0,"Definition":{"Interval":"10s","HTTP":"h","TTL":5000000000}"#;
        assert!(checks.text().contains(expected), "{}", checks.text());
    }

    /// Consul 1.21 closes the connection there. In a transaction the proxy may be null.
    #[test]
    fn null_where_consuls_handler_panics_is_refused() {
        let world = World::new();
        for part in [
            r#""Check":{"Name":"c","Definition":null}"#,
            r#""Checks":[{"Name":"c","definition":null}]"#,
            r#""Service":{"Service":"s","Proxy":null}"#,
            r#""Service":{"Service":"s","Proxy":{"Upstreams":[null]}}"#,
            r#""Service":{"Service":"s","Proxy":{"Expose":{"Paths":[null]}}}"#,
        ] {
            let answer =
                world.put("catalog/register", &format!(r#"{{"Node":"p","Address":"1",{part}}}"#));
            assert_eq!(answer.status(), 400, "{part}: {}", answer.text());
        }
        assert_eq!(world.get("catalog/node/p").text(), "null");
        register(&world, r#"{"Node":"p","Address":"1"}"#);
        let check = r#"{"Node":"p","CheckID":"c","Name":"c","Definition":null}"#;
        let body = format!(r#"[{{"Check":{{"Verb":"set","Check":{check}}}}}]"#);
        assert!(world.put("txn", &body).status() >= 400);
        let body =
            r#"[{"Service":{"Verb":"set","Node":"p","Service":{"Service":"s","Proxy":null}}}]"#;
        assert_eq!(world.put("txn", body).status(), 200);
    }

    #[test]
    fn a_node_with_a_known_id_is_renamed_and_a_living_nodes_name_is_reserved() {
        let world = World::new();
        let id = "11111111-1111-1111-1111-111111111111";
        register(&world, &format!("{{\"Node\":\"r1\",\"Address\":\"1\",\"ID\":\"{id}\"}}"));
        let created = world.get("catalog/node/r1").json()["Node"]["CreateIndex"].clone();
        register(&world, &format!("{{\"Node\":\"r2\",\"Address\":\"1\",\"ID\":\"{id}\"}}"));
        assert_eq!(world.get("catalog/node/r1").text(), "null");
        assert_eq!(world.get(&format!("catalog/node/{id}")).json()["Node"]["CreateIndex"], created);
        let body = r#"{"Node":"sim","Address":"1","ID":"11111111-1111-1111-1111-111111111112"}"#;
        let answer = world.put("catalog/register", body);
        assert_eq!(answer.status(), 500);
        assert!(answer.text().contains("Node name sim is reserved by node"), "{}", answer.text());
    }

    #[test]
    fn a_deregistered_node_takes_its_sessions_with_it() {
        let world = World::new();
        register(&world, r#"{"Node":"n","Address":"1"}"#);
        let id = world.session(r#"{"Node":"n","NodeChecks":[]}"#);
        world.put("catalog/deregister", r#"{"Node":"N"}"#);
        assert_eq!(world.get(&format!("session/info/{id}")).text(), "[]");
    }

    #[test]
    fn the_list_of_services_wakes_for_services_and_that_of_nodes_for_nodes() {
        let world = World::new();
        let index = |path: &str| world.get(path).index();
        let mut services =
            world.watch(&format!("catalog/services?index={}", index("catalog/services")));
        register(&world, r#"{"Node":"n","Address":"1","Check":{"Name":"c"}}"#);
        assert!(services.waits());
        let mut nodes = world.watch(&format!("catalog/nodes?index={}", index("catalog/nodes")));
        register(&world, r#"{"Node":"n","Address":"1","Service":{"Service":"s"}}"#);
        assert!(!services.waits() && nodes.waits());
        register(&world, r#"{"Node":"n","Address":"2"}"#);
        assert!(!nodes.waits());
    }
}
