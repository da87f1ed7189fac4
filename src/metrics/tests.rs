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
