//! The numbers of this process, in the text formats of Prometheus.
//!
//! Counters, gauges and histograms are atomics, which never block: a call adds to them on whichever thread
//! it runs. A number of an object that exists now, such as the epoch of a node's map, is asked of the object when the
//! text is made ([`Source`]), so it ends with the object.

mod number;
mod numbers;
mod page;
mod source;
pub mod table;

pub use number::{Counter, Gauge, Held, Histogram, Outcomes, Stranger, Strangers};
pub use numbers::{
    ClaimNumbers, ClusterNumbers, EndpointNumbers, Numbers, OperationNumbers, StoreNumbers,
};
pub use page::Page;
pub use source::{Registered, Source, register};
pub use table::{AREAS, CHINESE, Metric, Type, all};

use crate::os::PerProcess;

/// The text formats that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The header `Content-Type` of an answer with such a text.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Every number of this process.
pub fn text(format: Format) -> String {
    let mut page = Page::default();
    let numbers = numbers();
    numbers.write(&mut page);
    source::write(numbers, &mut page);
    page.text(format)
}

static NUMBERS: PerProcess<Numbers> = PerProcess::new();

/// The numbers of this process, which all clients and Lua states share. A forked child begins with zeros.
pub fn numbers() -> &'static Numbers {
    NUMBERS.get()
}

#[cfg(test)]
mod tests;
