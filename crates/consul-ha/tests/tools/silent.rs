//! A Consul that takes requests and answers none.

use crate::program::{PATIENCE, Server};
use crate::support::agent::{MANAGEMENT, served, with_acl};
use crate::support::proxy::{Network, Proxy};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than the pause between two looks of a page at Consul.
const LOOK: Duration = Duration::from_millis(1200);

fn problems(document: &Value) -> Vec<&str> {
    let problems = document["problems"].as_array().into_iter().flatten();
    problems.filter_map(|it| it["problem"].as_str()).collect()
}

fn comes_in_touch(server: &Server) {
    let end = Instant::now() + PATIENCE;
    while server.cluster()["in_touch"] != true {
        assert!(Instant::now() < end, "{}", server.cluster());
        thread::sleep(LOOK);
    }
}

/// From its start on, or later.
pub fn is_told_by_the_page() {
    let (address, _agent) = served(with_acl());
    let proxy = Proxy::new(&address);
    for begins_silent in [true, false] {
        let network = if begins_silent { Network::BlackHole } else { Network::Good };
        proxy.set(network);
        let url = proxy.url();
        let server =
            Server::start(&[("CONSUL_HTTP_ADDR", url.as_str()), ("CONSUL_HTTP_TOKEN", MANAGEMENT)]);
        if !begins_silent {
            comes_in_touch(&server);
            proxy.set(Network::BlackHole);
            thread::sleep(LOOK);
        }
        let document = server.cluster();
        assert_eq!(document["in_touch"], false, "begins silent: {begins_silent}: {document}");
        let problems = problems(&document);
        assert!(problems.contains(&"not_in_touch"), "{problems:?}");
        assert!(!problems.contains(&"no_leader"), "that is unknown: {problems:?}");
        proxy.set(Network::Good);
        comes_in_touch(&server);
    }
}
