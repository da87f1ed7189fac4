use super::table::{VIEW_AGE, VIEWS};
use super::*;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn names_are_distinct_and_in_base_units() {
    let names: HashSet<_> = all().map(Metric::name).collect();
    assert_eq!(names.len(), all().count());
    for metric in all() {
        let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(metric.base.chars().all(is_plain), "{}", metric.base);
        assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.base);
        let units = ["_ms", "_us", "_minutes", "_kb", "_total"];
        assert!(!units.iter().any(|unit| metric.base.ends_with(unit)), "{}", metric.base);
    }
}

#[test]
fn both_formats_have_the_numbers() {
    let page = || {
        let (numbers, mut page) = (Numbers::default(), Page::default());
        let endpoint = numbers.endpoint(3, "kv_get");
        endpoint.requests.of(None).add(2);
        endpoint.attempts.add_one();
        endpoint.durations.add(Duration::from_micros(100));
        endpoint.durations.add(Duration::from_secs(60));
        numbers.write(&mut page);
        page
    };
    let prometheus = page().text(Format::Prometheus);
    for line in [
        "# TYPE consul_ffi_client_requests_total counter",
        "consul_ffi_client_requests_total{endpoint=\"kv_get\",outcome=\"ok\"} 2",
        "# TYPE consul_ffi_client_request_duration_seconds histogram",
        "consul_ffi_client_request_duration_seconds_sum{endpoint=\"kv_get\"} 60.0001",
        "consul_ffi_client_request_duration_seconds_bucket{le=\"0.0001\",endpoint=\"kv_get\"} 1",
        "consul_ffi_client_request_duration_seconds_bucket{le=\"10.0\",endpoint=\"kv_get\"} 1",
        "consul_ffi_client_request_duration_seconds_bucket{le=\"+Inf\",endpoint=\"kv_get\"} 2",
    ] {
        assert!(prometheus.lines().any(|found| found == line), "no {line} in\n{prometheus}");
    }
    assert!(!prometheus.contains("EOF"), "{prometheus}");
    let open = page().text(Format::OpenMetrics);
    for line in [
        "# TYPE consul_ffi_client_requests counter",
        "consul_ffi_client_requests_total{endpoint=\"kv_get\",outcome=\"ok\"} 2",
    ] {
        assert!(open.lines().any(|found| found == line), "no {line} in\n{open}");
    }
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn an_object_is_shown_while_it_exists() {
    struct Client;
    impl Source for Client {
        fn write(&self, page: &mut Page) {
            page.count(all().next().expect("a metric"), &["test \"x\"", "ok"], 7);
        }
    }
    let line = "consul_ffi_client_requests_total{endpoint=\"test \\\"x\\\"\",outcome=\"ok\"} 7";
    let is_shown = || text(Format::Prometheus).contains(line);
    let client = Arc::new(Client);
    let weak: std::sync::Weak<Client> = Arc::downgrade(&client);
    let registered = register(weak.clone());
    assert!(is_shown(), "{}", text(Format::Prometheus));
    drop(registered);
    assert!(!is_shown());
    let _registered = register(weak);
    assert!(is_shown());
    drop(client);
    assert!(!is_shown());
}

#[test]
fn further_services_are_shown_together() {
    let mut page = Page::default();
    for service in 0..103 {
        page.at_least(&VIEW_AGE, &[&format!("s{service}")], f64::from(service));
        page.level(&VIEWS, &["s1"], 1.0);
    }
    page.at_least(&VIEW_AGE, &["s0"], 7.0);
    let text = page.text(Format::Prometheus);
    let ages: Vec<_> =
        text.lines().filter(|line| line.starts_with("consul_ffi_view_age")).collect();
    assert_eq!(ages.len(), 101, "{text}");
    for line in [
        "consul_ffi_view_age_seconds{service=\"other\"} 102",
        "consul_ffi_view_age_seconds{service=\"s0\"} 7",
        "consul_ffi_views{service=\"s1\"} 103",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

/// The numbers with these operations, each number another one.
fn distinct() -> Numbers {
    let (numbers, mut next) = (Numbers::default(), 0);
    let mut set = |counter: &Counter| {
        next += 1;
        counter.add(next);
    };
    let claims = [&numbers.locks, &numbers.permits];
    for it in claims.map(|it| [&it.acquired, &it.released, &it.lost, &it.suspended]).as_flattened()
    {
        set(it);
    }
    let cluster = numbers.cluster("ha/nodes");
    for it in [
        &numbers.connections_opened,
        &numbers.endpoint_failures,
        &cluster.elections_won,
        &cluster.leader_changes,
        &cluster.suspensions,
        &numbers.lines_left_out,
        cluster.sent.of(None),
        cluster.served.of(None),
        &cluster.retries,
        &cluster.avoidances,
    ] {
        set(it);
    }
    let store = numbers.store("ha/nodes", "points");
    for it in [&store.reads, &store.writes, &store.deletions] {
        set(it.outcomes.of(None));
        set(&it.records);
    }
    [&store.copies, &store.repairs, &store.repaired_records].into_iter().for_each(set);
    numbers
}

#[test]
fn each_number_has_its_own_name() {
    let mut page = Page::default();
    let numbers = distinct();
    for (why, times) in [
        (Stranger::NoTls, 1),
        (Stranger::Tls, 2),
        (Stranger::Handshake, 3),
        (Stranger::Signature, 4),
        (Stranger::Replay, 5),
        (Stranger::Crowd, 6),
    ] {
        (0..times).for_each(|_| numbers.cluster("ha/nodes").strangers.refuse(why));
    }
    numbers.write(&mut page);
    let text = page.text(Format::Prometheus);
    let shown: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("consul_ffi_"))
        .filter(|line| !line.contains("duration") && !line.ends_with(" 0"))
        .collect();
    let expected = [
        "client_connections_opened_total 9",
        "client_endpoint_failures_total 10",
        "locks_acquired_total{kind=\"lock\"} 1",
        "locks_acquired_total{kind=\"semaphore\"} 5",
        "locks_released_total{kind=\"lock\"} 2",
        "locks_released_total{kind=\"semaphore\"} 6",
        "locks_lost_total{kind=\"lock\"} 3",
        "locks_lost_total{kind=\"semaphore\"} 7",
        "locks_suspended_total{kind=\"lock\"} 4",
        "locks_suspended_total{kind=\"semaphore\"} 8",
        "cluster_elections_won_total{cluster=\"ha/nodes\"} 11",
        "cluster_leader_changes_total{cluster=\"ha/nodes\"} 12",
        "cluster_suspensions_total{cluster=\"ha/nodes\"} 13",
        "data_plane_calls_total{cluster=\"ha/nodes\",outcome=\"ok\"} 15",
        "data_plane_retries_total{cluster=\"ha/nodes\"} 17",
        "data_plane_served_total{cluster=\"ha/nodes\",outcome=\"ok\"} 16",
        "data_plane_circuit_openings_total{cluster=\"ha/nodes\"} 18",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"crowd\"} 6",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"handshake\"} 3",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"no_tls\"} 1",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"replay\"} 5",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"signature\"} 4",
        "data_plane_strangers_refused_total{cluster=\"ha/nodes\",reason=\"tls\"} 2",
        "store_operations_total{cluster=\"ha/nodes\",store=\"points\",operation=\"delete\",outcome=\"ok\"} 23",
        "store_operations_total{cluster=\"ha/nodes\",store=\"points\",operation=\"read\",outcome=\"ok\"} 19",
        "store_operations_total{cluster=\"ha/nodes\",store=\"points\",operation=\"write\",outcome=\"ok\"} 21",
        "store_records_total{cluster=\"ha/nodes\",store=\"points\",operation=\"delete\"} 24",
        "store_records_total{cluster=\"ha/nodes\",store=\"points\",operation=\"read\"} 20",
        "store_records_total{cluster=\"ha/nodes\",store=\"points\",operation=\"write\"} 22",
        "store_copies_total{cluster=\"ha/nodes\",store=\"points\"} 25",
        "store_repairs_total{cluster=\"ha/nodes\",store=\"points\"} 26",
        "store_repaired_records_total{cluster=\"ha/nodes\",store=\"points\"} 27",
        "log_lines_left_out_total 14",
    ];
    assert_eq!(shown, expected, "{text}");
}
