//! `docs/monitoring.md` and the table of `docs/zh/monitoring.md`: what each metric means.

use super::part::replaced;
use consul_process::metrics::{AREAS, CHINESE, Metric, Type};
use std::fmt::Write;

/// The rows of what is reported of each failure, which a test has written.
const TOLD: &str = include_str!("texts/prose/told.md");

/// The failures in Chinese.
const FAILURES: &[(&str, &str)] = &[
    ("the disk of a node is full", "节点的磁盘已满"),
    ("the disks of two nodes are full", "两个节点的磁盘已满"),
    ("the storage of a node raises", "节点的存储抛出错误"),
    ("the storage of a node hangs", "节点的存储挂起"),
    ("a node died", "节点死亡"),
    ("a node was stopped", "节点被停止"),
    ("a node was never started", "节点从未启动"),
    ("a node is cut off from Consul alone", "节点仅与 Consul 隔断"),
    ("a node is cut off from its peers alone", "节点仅与其他节点隔断"),
    ("two nodes do not reach each other", "两个节点之间互不可达"),
    ("Consul has no Raft leader", "Consul 没有 Raft leader"),
    ("Consul has lost all data", "Consul 丢失了所有数据"),
    ("Consul was restored from a snapshot with another leader", "Consul 从 leader 不同的快照恢复"),
    ("the token of a node has lost half its rights", "节点的令牌失去一半权限"),
    ("a node has another `cluster_key`", "节点的 `cluster_key` 不同"),
    ("an operator has another `cluster_key`", "运维人员的 `cluster_key` 不同"),
    ("the clock of a node is 5 s ahead", "节点的时钟快 5 s"),
    ("the clock of an operator is 5 s ahead", "运维人员的时钟快 5 s"),
    ("the certificate of a node ends in 13 days", "节点的证书 13 天后到期"),
    ("the certificate of a node ends today", "节点的证书今天到期"),
    ("nobody replicates a store any more", "某个存储不再有任何节点复制"),
    ("another program has written the weights of nodes", "另一个程序写入了节点的权重"),
    ("two healthy clusters have one name", "两个健康的集群同名"),
];

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
    let head = "| failure of n3 | `why` | page and `/cluster` | numbers | alerts |\n|---|---|---|---|---|\n";
    let told = format!("{head}{}", TOLD.trim_end());
    let page = include_str!("texts/prose/monitoring.md").replace("{told}", &told);
    page.replace("{metrics}", tables.trim_end())
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
    let mut told =
        "| n3 的故障 | `why` | 状态页与 `/cluster` | 数值 | 告警 |\n|---|---|---|---|---|\n"
            .to_owned();
    let words = [("; then ", "；之后 "), ("of n", "n"), ("; n", "；n")];
    for row in TOLD.lines() {
        let name = |(english, _): &&(&str, &str)| row.starts_with(&format!("| {english} |"));
        let row = match FAILURES.iter().find(name) {
            Some((english, chinese)) => row.replacen(english, chinese, 1),
            None => row.to_owned(),
        };
        let row = words.iter().fold(row, |row, (english, chinese)| row.replace(english, chinese));
        let _ = writeln!(told, "{row}");
    }
    let page = include_str!("../../../docs/zh/monitoring.md");
    replaced(&replaced(page, "told", &told), "metrics", &tables)
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
