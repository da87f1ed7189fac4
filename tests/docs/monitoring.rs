//! The dashboard, the rules and the pages name metrics and labels that exist.

use crate::support::prometheus::{check_rules, test_rules};
use consul_process::metrics::{Metric, Type, all};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DASHBOARD: &str = "docs/monitoring/dashboard.json";
const RULES: &str = "docs/monitoring/alerts.yml";

/// The tests of each rule, for promtool.
const TESTS: &str = "tests/docs/monitoring/alerts.yml";

/// The alerts of each failure, as a test has seen them.
const TOLD: &str = "xtask/src/reference/texts/prose/told.md";

/// A week with outages, for promtool.
const WEEK: &str = "tests/docs/monitoring/week.yml";

/// The labels that Prometheus, its configuration and Grafana add.
const ADDED: [&str; 4] = ["job", "instance", "datacenter", "le"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The metric of a name in a query.
fn metric(name: &str) -> Option<&'static Metric> {
    all().find(|metric| match metric.kind {
        Type::Histogram => {
            let part = name.strip_prefix(metric.base);
            matches!(part, Some("_bucket" | "_sum" | "_count"))
        }
        _ => metric.name() == name,
    })
}

/// The names of metrics in a text, each with what follows.
fn names(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("consul_ffi_").map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        rest.split_at(end.unwrap_or(rest.len()))
    })
}

/// The labels of a selector `{a="1",b=~"2"}` at the beginning of a text.
fn selected(text: &str) -> Vec<&str> {
    let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return Vec::new();
    };
    let parts = inside.0.split('"').step_by(2);
    let names = parts.map(|part| part.trim_matches([',', ' ', '=', '~', '!']));
    names.filter(|name| !name.is_empty()).collect()
}

/// The labels by which a query groups, from `by (…)`.
fn grouped(query: &str) -> Vec<&str> {
    let groups = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',').map(str::trim)).collect()
}

/// The mistakes in the metrics and labels of a query.
fn mistakes(query: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut known: BTreeSet<&str> = ADDED.into();
    for (name, rest) in names(query) {
        let Some(metric) = metric(name) else {
            mistakes.push(format!("there is no metric {name}"));
            continue;
        };
        known.extend(metric.labels);
        let has = |label: &&str| metric.labels.contains(label) || ADDED.contains(label);
        let without = selected(rest).into_iter().filter(|label| !has(label));
        mistakes.extend(without.map(|label| format!("{name} has no label {label}")));
    }
    let without = grouped(query).into_iter().filter(|label| !known.contains(label));
    mistakes.extend(without.map(|label| format!("it groups by {label}, which none has")));
    mistakes
}

/// The queries of the panels, with the titles of these.
fn of_dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (panel["title"].to_string(), target["expr"].to_string()))
    });
    targets.map(|(title, query)| (title, query.replace("\\\"", "\""))).collect()
}

/// The expressions of the rules, with the names of these.
fn of_rules() -> Vec<(String, String)> {
    let text = read(RULES);
    let rules = text.split("- alert: ").skip(1).map(|rule| {
        let (name, rest) = rule.split_once('\n').expect("a name");
        let expr = rest.split_once("expr:").expect("an expression").1;
        let end = expr.find("\n        for:").or_else(|| expr.find("\n        labels:"));
        (name.to_owned(), expr[..end.expect("labels")].to_owned())
    });
    rules.collect()
}

#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_and_labels_that_exist() {
    let (dashboard, rules) = (of_dashboard(), of_rules());
    assert!(dashboard.len() > 40 && rules.len() > 20, "{} {}", dashboard.len(), rules.len());
    for (place, query) in dashboard.iter().chain(&rules) {
        assert!(names(query).next().is_some(), "{place} asks for none: {query}");
        assert_eq!(mistakes(query), [""; 0], "{place}: {query}");
    }
    // Also in titles, variables and comments.
    for name in [DASHBOARD, RULES] {
        let text = read(name);
        for (found, _) in names(&text) {
            assert!(metric(found).is_some(), "{name}: there is no metric {found}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let shown = of_dashboard();
    let asked: BTreeSet<_> = shown
        .iter()
        .flat_map(|(_, query)| names(query))
        .filter_map(|it| metric(it.0))
        .map(|it| it.base)
        .collect();
    let missing: Vec<_> =
        all().map(|metric| metric.base).filter(|it| !asked.contains(it)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_query_with_a_mistake_is_found() {
    for (query, wanted) in [
        ("consul_ffi_views_total > 1", "there is no metric consul_ffi_views_total"),
        ("consul_ffi_client_requests > 1", "there is no metric consul_ffi_client_requests"),
        ("consul_ffi_views{kind=\"a\"}", "consul_ffi_views has no label kind"),
        ("sum by (kind) (consul_ffi_views)", "it groups by kind, which none has"),
    ] {
        assert_eq!(mistakes(query), [wanted]);
    }
    let right = "sum by (instance, kind) (rate(consul_ffi_locks_lost_total{kind!=\"lock\", job=~\"a|b\"}[5m]))";
    assert_eq!(mistakes(right), [""; 0]);
}

#[test]
fn prometheus_takes_the_rules() {
    check_rules(&path(RULES));
}

#[test]
fn each_rule_has_a_test_with_metrics_that_exist() {
    let tests = read(TESTS);
    let untested = of_rules().into_iter().map(|(name, _)| name);
    let untested = untested.filter(|name| !tests.contains(&format!("alertname=\"{name}\"")));
    assert_eq!(untested.collect::<Vec<_>>(), [""; 0]);
    let week = read(WEEK);
    let unknown: BTreeSet<&str> =
        names(&week).map(|(name, _)| name).filter(|name| metric(name).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
#[ignore = "computes long: make test-all"]
fn each_rule_fires_for_its_cause_alone_and_ends_with_it() {
    test_rules(&path(TESTS));
}

#[test]
#[ignore = "computes long: make test-all"]
fn in_a_week_each_outage_fires_its_alerts_once_and_none_stays() {
    test_rules(&path(WEEK));
}

/// The alerts of each failure of the table that wake somebody, without those that Alertmanager keeps back as on the page.
#[test]
fn one_failure_wakes_somebody_once() {
    let (rules, page, told) = (read(RULES), read("docs/monitoring.md"), read(TOLD));
    let named = |line: &str| -> Vec<String> {
        line.split('"').nth(1).into_iter().flat_map(|it| it.split('|')).map(str::to_owned).collect()
    };
    let is_named = |alert: &str, names: &[String]| {
        let fits = |name: &String| match name.strip_suffix(".*") {
            Some(begin) => alert.starts_with(begin),
            None => name == alert,
        };
        names.iter().any(fits)
    };
    let lines = |what: &str| -> Vec<Vec<String>> {
        page.lines().filter(|line| line.contains(what)).map(named).collect()
    };
    let inhibits: Vec<_> =
        lines("source_matchers").into_iter().zip(lines("target_matchers")).collect();
    assert!(inhibits.len() > 5, "{inhibits:?}");
    // An alert of one cluster keeps back nothing of another one in the same job.
    let of_cluster = |name: &String| name.starts_with("Cluster") || name.starts_with("Store");
    let equal: Vec<&str> = page.lines().filter(|line| line.contains("equal: [")).collect();
    for ((source, target), equal) in inhibits.iter().zip(equal) {
        let is_of_cluster = target.iter().any(of_cluster);
        assert!(!is_of_cluster || equal.contains("cluster"), "{source:?} {target:?} {equal}");
    }
    let is_page = |alert: &str| {
        let (_, rule) = rules.split_once(&format!("alert: {alert}\n")).expect("a rule");
        rule.split_once("severity: ").is_some_and(|(_, severity)| severity.starts_with("critical"))
    };
    let mut pages = 0;
    for row in told.lines() {
        let (_, alerts) = row.trim_end_matches(" |").rsplit_once("| ").expect("alerts");
        let alerts: Vec<&str> = alerts.split('`').skip(1).step_by(2).collect();
        let is_kept_back = |alert: &str| {
            let by = |(source, target): &(Vec<String>, Vec<String>)| {
                is_named(alert, target) && alerts.iter().any(|it| is_named(it, source))
            };
            inhibits.iter().any(by)
        };
        let left: Vec<_> =
            alerts.iter().filter(|alert| is_page(alert) && !is_kept_back(alert)).collect();
        assert!(left.len() <= 1, "{row}: {left:?}");
        pages += left.len();
    }
    assert!(pages > 4, "{pages}");
}

/// Two clusters in one Prometheus are not taken for one: of one name in different jobs, or with stores of one name.
#[test]
fn no_rule_or_panel_mixes_clusters() {
    for (place, query) in of_dashboard().iter().chain(&of_rules()) {
        let groups = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
        for (labels, _) in
            groups.filter(|(labels, _)| labels.contains("cluster") || labels.contains("store"))
        {
            let is_rate = query.contains("rate(") || query.contains("increase(");
            let has_job = labels.split(", ").any(|label| label == "job");
            assert!(has_job || is_rate && query.contains("$job"), "{place}: {query}");
            assert!(labels.split(", ").any(|label| label == "cluster"), "{place}: {query}");
        }
    }
    // Nor in one process: what a metric knows of its cluster, the alert tells.
    for (alert, query) in of_rules() {
        let has_cluster = |(name, _)| metric(name).is_some_and(|it| it.labels.contains(&"cluster"));
        if names(&query).any(has_cluster) {
            for (labels, _) in query.split("by (").skip(1).filter_map(|it| it.split_once(')')) {
                assert!(labels.contains("cluster"), "{alert}: {query}");
            }
        }
    }
}
