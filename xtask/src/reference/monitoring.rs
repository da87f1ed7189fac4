//! `docs/monitoring.md`: what each metric means.

use consul_process::metrics::{AREAS, Metric, Type};
use std::fmt::Write;

/// The page in Markdown.
pub(super) fn markdown() -> String {
    let mut tables = String::new();
    for (title, metrics) in AREAS {
        let _ = write!(
            tables,
            "### {title}\n\n| metric | type, unit | labels | |\n|---|---|---|---|\n"
        );
        metrics.iter().for_each(|metric| tables.push_str(&row(metric)));
        tables.push('\n');
    }
    include_str!("texts/prose/monitoring.md").replace("{metrics}", tables.trim_end())
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    };
    let kind = match metric.unit() {
        "" => kind.to_owned(),
        unit => format!("{kind}, {unit}"),
    };
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {kind} | {} | {} |\n", metric.name(), labels.join(", "), metric.help)
}
