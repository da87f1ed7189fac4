//! The numbers at one moment, and their text.

use super::table::{Metric, Type, all};
use super::{Format, Histogram};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

/// The numbers at one moment, by metric and labels.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<&'static str, BTreeMap<Vec<String>, Value>>);

/// The most names of services in one metric; further ones are [`OTHER`] together.
const MAX_SERVICES: usize = 100;

const OTHER: &str = "other";

#[derive(Debug)]
enum Value {
    Count(u64),
    Level(f64),
    Durations(Vec<(f64, u64)>, f64),
}

impl Page {
    /// Adds to the number with these labels, the values of the metric's in their order.
    pub fn count(&mut self, metric: &'static Metric, labels: &[&str], count: u64) {
        match self.value(metric, labels, Value::Count(0)) {
            Value::Count(sum) => *sum += count,
            _ => debug_assert!(false, "{} counts nothing", metric.base),
        }
    }

    /// Adds to the number with these labels.
    pub fn level(&mut self, metric: &'static Metric, labels: &[&str], level: f64) {
        if let Value::Level(sum) = self.value(metric, labels, Value::Level(0.0)) {
            *sum += level;
        }
    }

    /// The largest of these levels is the number.
    pub fn at_least(&mut self, metric: &'static Metric, labels: &[&str], level: f64) {
        if let Value::Level(most) = self.value(metric, labels, Value::Level(level)) {
            *most = most.max(level);
        }
    }

    /// The smallest of these levels is the number.
    pub fn at_most(&mut self, metric: &'static Metric, labels: &[&str], level: f64) {
        if let Value::Level(least) = self.value(metric, labels, Value::Level(level)) {
            *least = least.min(level);
        }
    }

    pub(super) fn durations(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        histogram: &Histogram,
    ) {
        let (buckets, sum) = histogram.buckets();
        self.value(metric, labels, Value::Durations(buckets, sum));
    }

    fn value(&mut self, metric: &'static Metric, labels: &[&str], first: Value) -> &mut Value {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.base);
        let samples = self.0.entry(metric.base).or_default();
        let mut labels: Vec<_> = labels.iter().map(|label| (*label).to_owned()).collect();
        let is_full = metric.labels == ["service"] && samples.len() >= MAX_SERVICES;
        if is_full && !samples.contains_key(&labels) {
            labels = vec![OTHER.to_owned()];
        }
        samples.entry(labels).or_insert(first)
    }

    /// The text.
    pub fn text(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Formatted { page: self, format }));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = match format {
            Format::Prometheus => text::encode_registry(&mut text, &registry),
            Format::OpenMetrics => text::encode(&mut text, &registry),
        };
        text
    }
}

#[derive(Debug)]
struct Formatted {
    page: Page,
    format: Format,
}

impl Collector for Formatted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for metric in all() {
            let Some(samples) = self.page.0.get(metric.base) else { continue };
            let kind = match metric.kind {
                Type::Counter => MetricType::Counter,
                Type::Gauge => MetricType::Gauge,
                Type::Histogram => MetricType::Histogram,
            };
            // In OpenMetrics only the samples of a counter have `_total`; the encoder adds it.
            let name = match self.format {
                Format::Prometheus => metric.name(),
                Format::OpenMetrics => metric.base.to_owned(),
            };
            let mut family = encoder.encode_descriptor(&name, metric.help, None, kind)?;
            for (values, value) in samples {
                if values.is_empty() {
                    self.sample(&mut family, value)?;
                } else {
                    let values = values.iter().map(String::as_str);
                    let labels: Vec<_> = metric.labels.iter().copied().zip(values).collect();
                    self.sample(&mut family.encode_family(&labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Formatted {
    fn sample(&self, encoder: &mut MetricEncoder, value: &Value) -> fmt::Result {
        match value {
            Value::Count(count) if self.format == Format::OpenMetrics => {
                encoder.encode_counter::<NoLabelSet, u64, f64>(count, None)
            }
            // The name has its `_total` already.
            Value::Count(count) => encoder.encode_gauge(count),
            Value::Level(level) if level.fract() == 0.0 => encoder.encode_gauge(&(*level as i64)),
            Value::Level(level) => encoder.encode_gauge(level),
            Value::Durations(buckets, sum) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}
