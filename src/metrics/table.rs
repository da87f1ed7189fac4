//! Every metric, declared once; docs/monitoring.md, the dashboard and the rules are checked against it.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by upper bounds, their number and their sum.
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name, without the `_total` of counters.
    pub base: &'static str,
    /// What kind of number it is.
    pub kind: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Its name, as queries use it; those of a histogram add `_bucket`, `_sum` and `_count`.
    pub fn name(&self) -> String {
        let suffix = if self.kind == Type::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.base)
    }

    /// The unit of its value.
    pub fn unit(&self) -> &'static str {
        if self.base.ends_with("_seconds") { "seconds" } else { "" }
    }
}

macro_rules! metrics {
    ($($area:literal { $($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal)+ })+) => {
        $($(pub(super) static $id: Metric = Metric {
            base: concat!("consul_ffi_", $name),
            kind: Type::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+)+

        /// The areas: titles and metrics.
        pub static AREAS: &[(&str, &[&Metric])] = &[$(($area, &[$(&$id,)+]),)+];
    };
}

/// Every metric, area by area.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    AREAS.iter().flat_map(|(_, metrics)| *metrics).copied()
}

metrics! {
    "Calls to Consul" {
        CLIENT_REQUESTS Counter "client_requests" ["endpoint", "outcome"]
            "Calls to Consul that have ended, by the method's name and ok or the kind of the error."
        CLIENT_ATTEMPTS Counter "client_attempts" ["endpoint"]
            "Requests sent for these calls: those above the number of calls are retries."
        CLIENT_DURATION Histogram "client_request_duration_seconds" ["endpoint"]
            "How long a call took with its retries, without calls that wait for a change."
    }
}
