//! `docs/monitoring.md` and the table of `docs/zh/monitoring.md`: what each metric means.

use super::part::replaced;
use consul_process::metrics::{AREAS, CHINESE, Metric, Type};
use std::fmt::Write;

/// The page in Markdown.
pub(super) fn markdown() -> String {
    let mut tables = String::new();
    for (title, metrics) in AREAS {
        let _ = write!(
            tables,
            "### {title}\n\n| metric | type, unit | labels | |\n|---|---|---|---|\n"
        );
        for metric in *metrics {
            tables.push_str(&row(metric, ", seconds", metric.help));
        }
        tables.push('\n');
    }
    include_str!("texts/prose/monitoring.md").replace("{metrics}", tables.trim_end())
}

/// The Chinese page; only its tables are generated.
pub(super) fn chinese() -> String {
    let mut tables = String::new();
    for ((_, metrics), (title, helps)) in AREAS.iter().zip(CHINESE) {
        let _ =
            write!(tables, "### {title}\n\n| 指标 | 类型，单位 | 标签 | |\n|---|---|---|---|\n");
        for (metric, help) in metrics.iter().zip(*helps) {
            tables.push_str(&row(metric, "，秒", help));
        }
        tables.push('\n');
    }
    replaced(include_str!("../../../docs/zh/monitoring.md"), "metrics", &tables)
}

fn row(metric: &Metric, seconds: &str, help: &str) -> String {
    let kind = match metric.kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    };
    let unit = if metric.unit().is_empty() { "" } else { seconds };
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {kind}{unit} | {} | {help} |\n", metric.name(), labels.join(", "))
}
