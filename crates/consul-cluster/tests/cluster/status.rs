//! The server for operators: its answers, whom it refuses, and what a client can hold.

use crate::data_plane::world::{Node, World, keyed};
use crate::support::PATIENCE;
use consul_api::api::kv;
use consul_api::request::Args;
use consul_cluster::observe::report::Overviews;
use consul_cluster::observe::status::{MAX_CONNECTIONS, MAX_STREAMS, Nodes, StatusServer};
use consul_cluster::{Mode, Options};
use consul_process::metrics::{Format, text};
use serde_json::Value;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes of the page with its files; the module has a copy of them.
const LARGEST_PAGE: usize = 64_000;

/// A process with these nodes, and its server.
struct Process {
    address: SocketAddr,
    _nodes: Vec<(Node, Arc<Overviews>)>,
}

impl Process {
    fn new(world: &World, nodes: Vec<Node>) -> Self {
        let shown = Arc::<Nodes>::default();
        let nodes = nodes.into_iter().map(|node| {
            let plane = Some(Arc::clone(&node.plane));
            let overviews = Overviews::new(Arc::clone(&node.cluster), plane);
            shown.add(&overviews);
            (node, overviews)
        });
        let nodes = nodes.collect();
        let server = {
            let _entered = world.runtime.enter();
            let hosts = ["status.example".to_owned()];
            StatusServer::bind("127.0.0.1:0", &hosts, Arc::clone(&shown)).expect("a server")
        };
        let address = server.address();
        world.runtime.spawn(server.serve());
        Process { address, _nodes: nodes }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// The head and the body of the answer to a request, up to the end of the connection.
    fn answer(&self, request: &str) -> (String, String) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("a request");
        whole(stream)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (head, body) = self.answer(&request);
        (status(&head), body)
    }
}

fn whole(mut stream: TcpStream) -> (String, String) {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The server closes a connection whose request it did not read to the end.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    let answer = String::from_utf8(answer).expect("a text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Three processes with a node each.
fn processes(world: &World) -> [Process; 3] {
    let nodes = ["n1", "n2", "n3"].map(|id| world.node_with(keyed(id), drop));
    world.settle();
    nodes.map(|node| Process::new(world, vec![node]))
}

#[test]
fn load_balancers_and_programs_get_what_they_ask_for() {
    let world = World::new();
    let all = processes(&world);
    for process in &all {
        assert_eq!(process.get("/live"), (200, "live\n".to_owned()));
        assert_eq!(process.get("/ready"), (200, "ready\n".to_owned()));
        let (status, document) = process.get("/cluster");
        let document: Value = serde_json::from_str(&document).expect("JSON");
        assert_eq!((status, &document["leader"]["node_id"]), (200, &Value::from("n1")));
        let (status, numbers) = process.get("/metrics");
        assert!(status == 200 && numbers.contains("# TYPE consul_ffi_"), "{numbers}");
        assert_eq!(process.get("/nothing").0, 404);
    }
    assert_eq!(all.each_ref().map(|process| process.get("/leader").0), [200, 503, 503]);
    assert_eq!(all[1].get("/leader").1, "the leader is n1\n");
    let (head, body) =
        all[0].answer("HEAD /cluster HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(status(&head) == 200 && body.is_empty(), "{head}");
    assert_eq!(all[0].answer("GET /leader HTTP/1.0\r\n\r\n").1, "n1 leads\n");
}

/// Its key is back after a restore of Consul.
#[test]
fn a_node_whose_leadership_is_over_does_not_call_itself_the_leader() {
    let world = World::new();
    let all = processes(&world);
    let backup = world.simulated.agent.back_up();
    all[0]._nodes[0].0.cluster.hand_over();
    world.simulated.wait(Duration::from_secs(5));
    assert_ne!(all[0].get("/leader").1, "the leader is n1\n");
    world.simulated.agent.restore_snapshot(&backup);
    world.settle();
    let own = "n1 has the leader's key, and no proof that it leads\n".to_owned();
    assert_eq!(all[0].get("/leader"), (503, own));
    assert_eq!(all[1].get("/leader"), (503, "the leader is n1\n".to_owned()));
}

#[test]
fn a_scrape_gets_the_format_that_it_asks_for() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    let scrape = |accept: &str| {
        let (head, body) = process.answer(&format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{accept}\r\n"
        ));
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
        (kind.unwrap_or_default().to_owned(), body.ends_with("# EOF\n"))
    };
    let (plain, open) = (Format::Prometheus.content_type(), Format::OpenMetrics.content_type());
    assert_eq!(scrape(""), (plain.to_owned(), false));
    assert_eq!(scrape("Accept: text/plain;version=0.0.4\r\n"), (plain.to_owned(), false));
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3\r\n";
    assert_eq!(scrape(accept), (open.to_owned(), true));
}

#[test]
fn a_scrape_has_the_problems_of_its_moment() {
    let world = World::new();
    let nodes = ["s1", "s2", "s3"].map(|id| world.node_with(keyed(id), drop));
    world.settle();
    let [one, two, _three] = nodes.map(|node| Process::new(&world, vec![node]));
    let of = |node: &str, numbers: &str| -> Vec<String> {
        let own = format!(
            "consul_ffi_cluster_problems{{cluster=\"tsdb/cluster/nodes/\",node=\"{node}\",problem="
        );
        let mut lines: Vec<_> = numbers.lines().filter_map(|it| it.strip_prefix(&own)).collect();
        lines.sort_unstable();
        lines.into_iter().map(str::to_owned).collect()
    };
    let scrape = |process: &Process, node: &str| of(node, &process.get("/metrics").1);
    assert_eq!(scrape(&one, "s1"), [""; 0]);
    let set = |id: &str, mode| {
        world.simulated.run(one._nodes[0].0.cluster.set_mode(id, mode)).expect("a mode");
        world.settle();
    };
    for (id, shown) in [("s2", "\"node_maintenance\"} 1"), ("s3", "\"node_maintenance\"} 2")] {
        set(id, Mode::Maintenance);
        assert_eq!(scrape(&one, "s1"), [shown]);
        // Each node that is asked says it.
        assert_eq!(scrape(&two, "s2"), [shown]);
    }
    ["s2", "s3"].iter().for_each(|id| set(id, Mode::Active));
    // The other one was not asked this time.
    let numbers = one.get("/metrics").1;
    assert_eq!((of("s1", &numbers), of("s2", &numbers).len()), (vec![], 1));
    // Nobody looks any more.
    world.simulated.wait(Duration::from_secs(60));
    assert_eq!(of("s2", &text(Format::Prometheus)), [""; 0]);
}

#[test]
fn the_page_may_load_nothing_but_its_own_files() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    let mut size = 0;
    for (path, kind) in
        [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
    {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (head, body) = process.answer(&request);
        assert!(status(&head) == 200 && head.contains(&format!("content-type: {kind}")), "{head}");
        assert!(body.len() > 100, "{path}: {body}");
        size += body.len();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{header}: {head}");
        }
        assert!(!head.contains("access-control"), "{head}");
    }
    assert!(size <= LARGEST_PAGE, "the page has {size} bytes");
}

#[test]
fn a_process_without_a_node_lives_and_is_not_ready() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    assert_eq!(process.get("/live").0, 200);
    let why = "there is no node of a cluster in this process\n".to_owned();
    for (path, status) in [("/ready", 503), ("/leader", 503), ("/cluster", 404), ("/events", 404)] {
        assert_eq!(process.get(path), (status, why.clone()), "{path}");
    }
}

#[test]
fn several_nodes_of_a_process_are_told_apart() {
    let world = World::new();
    let nodes = ["n1", "a b"].map(|id| world.node_with(keyed(id), drop));
    world.settle();
    let set = nodes[0].cluster.set_mode("a b", Mode::Maintenance);
    world.simulated.run(set).expect("a mode");
    world.settle();
    let process = Process::new(&world, nodes.into());
    let told_by = |path: &str| {
        let document: Value = serde_json::from_str(&process.get(path).1).expect("JSON");
        document["told_by"].as_str().map(str::to_owned)
    };
    assert_eq!(told_by("/cluster").as_deref(), Some("n1"));
    assert_eq!(told_by("/cluster?node=a%20b").as_deref(), Some("a b"));
    assert_eq!(process.get("/cluster?node=n3").0, 404);
    assert_eq!(process.get("/leader?node=n1").0, 200);
    assert_eq!(process.get("/leader?node=a%20b").0, 503);
    assert_eq!(process.get("/ready?node=n1").0, 200);
    assert_eq!(process.get("/ready"), (503, "a b: it is in maintenance\n".to_owned()));
}

#[test]
fn a_node_that_does_not_serve_is_not_ready() {
    let world = World::new();
    let [one, two, _three] = processes(&world);
    let sleeps = &two._nodes[0].0;
    sleeps.plane.set_handler("echo", true);
    world.simulated.wait(Duration::from_secs(120));
    let why = "n2: its program does not poll for requests\n".to_owned();
    assert_eq!(two.get("/ready"), (503, why));
    sleeps.plane.set_handler("echo", false);
    assert_eq!(two.get("/ready").0, 200);
    let check =
        r#"{"Name":"down","ServiceID":"tsdb-cluster-nodes-n1","TTL":"1h","Status":"critical"}"#;
    world.simulated.send("PUT", "/v1/agent/check/register", check);
    world.settle();
    assert_eq!(one.get("/ready"), (503, "n1: its check does not pass\n".to_owned()));
    world.simulated.send("PUT", "/v1/agent/check/deregister/down", "");
    world.settle();
    assert_eq!(one.get("/ready").0, 200);
    // Another start of the node, which lives on another machine.
    let instance = r#"{"Node":"other","Address":"10.0.0.9","Service":{"ID":"tsdb-cluster-nodes-n1",
        "Service":"tsdb-cluster-nodes","Meta":{"incarnation":"another"}}}"#;
    world.simulated.send("PUT", "/v1/catalog/register", instance);
    let key = "/v1/kv/tsdb/cluster/nodes/n1";
    let record = world.simulated.value(key).expect("a record");
    let mut record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    record["incarnation"] = "another".into();
    world.simulated.send("PUT", key, &record.to_string());
    // It has to stay so for 3 s.
    let why = (503, "n1: another process has its name\n".to_owned());
    let is_shown = (0..100).any(|_| {
        world.simulated.wait(Duration::from_millis(50));
        one.get("/ready") == why
    });
    assert!(is_shown, "{:?}", one.get("/ready"));
}

#[test]
fn an_observer_is_ready_when_it_has_seen_the_cluster() {
    let world = World::new();
    let _node = world.node_with(keyed("n1"), drop);
    world.settle();
    let operator =
        || Options { cluster_key: keyed("").cluster_key, ..Options::observer("operator") };
    let why = Overviews::new(world.cluster(operator()), None).ready();
    assert_eq!(why, Err("operator has not joined yet".to_owned()));
    let started = world.node_with(operator(), drop);
    assert_eq!(Overviews::new(started.cluster, None).ready(), Ok(()));
}

#[test]
fn other_methods_bodies_and_names_are_refused() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    let refused = |request: &str| status(&process.answer(request).0);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        assert_eq!(refused(&format!("{method} /live HTTP/1.1\r\nHost: localhost\r\n\r\n")), 405);
    }
    assert_eq!(
        refused("GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"),
        400
    );
    for host in ["evil.example", "evil.example:80", "10.1.2.3", "localhost.evil.example"] {
        for path in ["/", "/cluster", "/metrics", "/nothing"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let (head, body) = process.answer(&request);
            assert!(status(&head) == 421 && !body.contains("n1"), "{head}");
        }
    }
    assert_eq!(refused("GET /live HTTP/1.1\r\n\r\n"), 400);
    let allowed = |host: &str| {
        refused(&format!("GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    let own = process.address.to_string();
    for host in ["localhost:8080", "127.0.0.1", own.as_str(), "[::1]:1", "STATUS.example"] {
        assert_eq!(allowed(host), 200, "{host}");
    }
    let long = format!("GET /live HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9000));
    assert_eq!(refused(&long), 431);
}

#[test]
fn clients_that_do_not_go_on_keep_nobody_out() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    let mut held = Vec::new();
    for number in 0..MAX_CONNECTIONS {
        let mut stream = process.connect();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /live HTTP/1.1\r\nHost: localh").expect("half a request"),
            // It asks for more than the buffers between the two hold, and reads nothing.
            _ => {
                let request = "GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(150);
                stream.write_all(request.as_bytes()).expect("requests");
            }
        }
        held.push(stream);
    }
    // They make room at once, as often as somebody else asks.
    for _ in 0..2 * MAX_CONNECTIONS {
        assert_eq!(process.get("/live"), (200, "live\n".to_owned()));
    }
    let mut again: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| process.connect()).collect();
    for stream in &mut again {
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    drop(held);
}

/// Reads events until one is of this kind; returns its document.
fn event_where(stream: &mut TcpStream, is_it: impl Fn(&Value) -> bool) -> Value {
    let (mut text, begun) = (String::new(), Instant::now());
    let mut buffer = [0; 1 << 16];
    while begun.elapsed() < PATIENCE {
        let count = stream.read(&mut buffer).expect("more of the stream");
        assert!(count > 0, "the stream has ended");
        text.push_str(std::str::from_utf8(&buffer[..count]).expect("ASCII"));
        // The chunks of the transfer begin with their lengths.
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event
                .split_once("event: cluster\ndata: ")
                .map(|(_, data)| data.replace("\r\n", ""));
            let document = data.and_then(|data| serde_json::from_str(&data).ok());
            text = rest.to_owned();
            if let Some(document) = document.filter(&is_it) {
                return document;
            }
        }
    }
    panic!("no such event within {PATIENCE:?}")
}

fn follow(process: &Process) -> TcpStream {
    let mut stream = process.connect();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    stream
}

#[test]
fn events_follow_what_happens_and_their_places_are_limited() {
    let world = World::new();
    let [one, two, _three] = processes(&world);
    let mut stream = follow(&two);
    let first = event_where(&mut stream, |_| true);
    assert_eq!(
        (&first["told_by"], &first["problems"]),
        (&Value::from("n2"), &Value::Array(vec![]))
    );
    let set = one._nodes[0].0.cluster.set_mode("n3", Mode::Draining);
    world.simulated.run(set).expect("a mode");
    world.settle();
    event_where(&mut stream, |document| document["nodes"][2]["mode"] == "draining");
    let mut others: Vec<TcpStream> = (1..MAX_STREAMS).map(|_| follow(&two)).collect();
    for other in &mut others {
        event_where(other, |_| true);
    }
    let (head, _) =
        two.answer("GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&head), 503, "{head}");
    assert_eq!(two.get("/live").0, 200);
    // A page that is closed leaves its place.
    others[0].shutdown(Shutdown::Both).expect("an end");
    let begun = Instant::now();
    loop {
        let mut again = follow(&two);
        let mut answer = [0; 15];
        again.read_exact(&mut answer).expect("an answer");
        if &answer == b"HTTP/1.1 200 OK" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the place is taken forever");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn nothing_of_the_programs_data_is_shown() {
    let world = World::new();
    const PLANTED: &str = "planted-in-the-data";
    let planted = |what: &str| format!("{PLANTED}-{what}");
    let secret = consul_cluster::data_plane::ClusterKey::new(&planted("cluster-key"));
    let options = |id: &str| Options {
        cluster_key: Some(secret.clone()),
        meta: [(planted("name"), planted("meta"))].into(),
        ..keyed(id)
    };
    let nodes = ["n1", "n2"].map(|id| world.echo(options(id)));
    world.settle();
    let client = world.simulated.client();
    world.simulated.run(async {
        let put = Args::new().arg(planted("key")).arg(planted("value").into_bytes());
        client.call(&kv::PUT, &put).await.expect("a value");
    });
    world.call(&nodes[0], "n2", "echo", &planted("body"), PATIENCE).0.expect("a reply");
    world.call(&nodes[0], "n2", &planted("handler"), "", PATIENCE).0.expect_err("no such handler");
    let [one, two] = nodes.map(|node| Process::new(&world, vec![node]));
    for process in [&one, &two] {
        for path in ["/", "/live", "/ready", "/leader", "/cluster", "/metrics"] {
            let (status, body) = process.get(path);
            assert!(status > 0 && !body.contains(PLANTED), "{path}: {body}");
        }
        let shown = event_where(&mut follow(process), |_| true).to_string();
        assert!(shown.contains("\"n1\"") && !shown.contains(PLANTED), "{shown}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let world = World::new();
    let process = Process::new(&world, Vec::new());
    let _entered = world.runtime.enter();
    let address = process.address.to_string();
    let why = StatusServer::bind(&address, &[], Arc::default()).expect_err("it is in use");
    assert!(why.message().starts_with(&format!("address {address:?} is in use")), "{why}");
    for (given, why) in [
        ("localhost", "must be host:port, with a port from 0 to 65535"),
        ("127.0.0.1:65536", "must be host:port, with a port from 0 to 65535"),
        ("192.0.2.1:0", "is not one of this machine"),
        ("host.invalid:0", "cannot be listened at: "),
    ] {
        let error = StatusServer::bind(given, &[], Arc::default()).expect_err(given);
        assert!(error.message().starts_with(&format!("address {given:?} {why}")), "{error}");
    }
}
