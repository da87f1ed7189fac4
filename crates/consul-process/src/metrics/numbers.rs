//! The numbers of a process: their structs are made of the rows in `table.rs`.

use super::source::Sources;
use super::table::*;
use super::{Counter, Gauge, Histogram, Metric, Outcomes, Page, Strangers};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

/// More than Consul has endpoints.
const MAX_ENDPOINTS: usize = 256;

/// Makes a struct of the rows that name it, after its other fields.
macro_rules! numbers {
    ([$({ $field:ident: $type:ident $(, if $is_shown:ident)? => $id:ident $help:literal })*]
     $(#[$attribute:meta])* $name:ident { $($more:tt)* }) => {
        $(#[$attribute])*
        #[derive(Default)]
        pub struct $name {
            $($more)*
            $(#[doc = $help] pub $field: $type,)*
        }

        impl $name {
            /// Adds its own numbers, each under the metric of its row.
            fn write_rows(&self, page: &mut Page, labels: &[&str]) {
                $(if true $(&& self.$is_shown())? {
                    self.$field.write(page, &$id, labels);
                })*
            }
        }
    };
}

/// Sorts the rows by their structs, whose order is that of the lists in brackets.
macro_rules! sorted {
    ($process:tt $endpoint:tt $claim:tt $call:tt $store:tt $operation:tt;) => {
        numbers! { $process
            /// The numbers of a process.
            Numbers {
                endpoints: Endpoints,
                /// Locks.
                pub locks: ClaimNumbers,
                /// Permits of semaphores.
                pub permits: ClaimNumbers,
                clusters: Mutex<BTreeMap<String, &'static ClusterNumbers>>,
                stores: Mutex<BTreeMap<[String; 2], &'static StoreNumbers>>,
                pub(super) sources: Sources,
            }
        }
        numbers! { $endpoint
            /// The calls of one of Consul's endpoints, and its watches.
            #[derive(Debug)]
            EndpointNumbers { name: &'static str, }
        }
        numbers! { $claim
            /// Locks, or permits of semaphores.
            #[derive(Debug)]
            ClaimNumbers {}
        }
        numbers! { $call
            /// The leaders of a cluster, and the calls between its nodes.
            #[derive(Debug)]
            ClusterNumbers {}
        }
        numbers! { $store
            /// The operations on the shards of a store.
            #[derive(Debug)]
            StoreNumbers {
                /// The reads of a page.
                pub reads: OperationNumbers,
                /// The writes.
                pub writes: OperationNumbers,
                /// The writes that only delete.
                pub deletions: OperationNumbers,
            }
        }
        numbers! { $operation
            /// One operation on the shards of a store.
            #[derive(Debug)]
            OperationNumbers {}
        }
    };
    ([$($own:tt)*] $e:tt $c:tt $d:tt $s:tt $o:tt;
     $id:ident $help:literal (Numbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { [$($own)* { $($place)+ => $id $help }] $e $c $d $s $o; $($rest)* }
    };
    ($p:tt [$($own:tt)*] $c:tt $d:tt $s:tt $o:tt;
     $id:ident $help:literal (EndpointNumbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { $p [$($own)* { $($place)+ => $id $help }] $c $d $s $o; $($rest)* }
    };
    ($p:tt $e:tt [$($own:tt)*] $d:tt $s:tt $o:tt;
     $id:ident $help:literal (ClaimNumbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { $p $e [$($own)* { $($place)+ => $id $help }] $d $s $o; $($rest)* }
    };
    ($p:tt $e:tt $c:tt [$($own:tt)*] $s:tt $o:tt;
     $id:ident $help:literal (ClusterNumbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { $p $e $c [$($own)* { $($place)+ => $id $help }] $s $o; $($rest)* }
    };
    ($p:tt $e:tt $c:tt $d:tt [$($own:tt)*] $o:tt;
     $id:ident $help:literal (StoreNumbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { $p $e $c $d [$($own)* { $($place)+ => $id $help }] $o; $($rest)* }
    };
    ($p:tt $e:tt $c:tt $d:tt $s:tt [$($own:tt)*];
     $id:ident $help:literal (OperationNumbers.$($place:tt)+) $($rest:tt)*) => {
        sorted! { $p $e $c $d $s [$($own)* { $($place)+ => $id $help }]; $($rest)* }
    };
    // An object has it.
    ($p:tt $e:tt $c:tt $d:tt $s:tt $o:tt; $id:ident $help:literal () $($rest:tt)*) => {
        sorted! { $p $e $c $d $s $o; $($rest)* }
    };
}

macro_rules! structs {
    ($($area:literal $area_zh:literal {
        $($id:ident $kind:ident $name:literal $labels:tt $place:tt $help:literal $help_zh:literal)+
    })+) => {
        sorted! { [] [] [] [] [] []; $($($id $help $place)+)+ }
    };
}

rows!(structs);

/// The numbers of each endpoint that was used.
struct Endpoints([OnceLock<Box<EndpointNumbers>>; MAX_ENDPOINTS]);

impl Default for Endpoints {
    fn default() -> Self {
        Endpoints([const { OnceLock::new() }; MAX_ENDPOINTS])
    }
}

/// Calls of a storage's functions that failed.
#[derive(Debug, Default)]
pub struct StorageErrors(Mutex<BTreeMap<&'static str, u64>>);

impl StorageErrors {
    /// Counts one more of a function.
    pub fn add(&self, function: &'static str) {
        *lock(&self.0).entry(function).or_default() += 1;
    }
}

impl Numbers {
    /// The numbers of the endpoint with this place in the caller's list and this name.
    pub fn endpoint(&self, place: usize, name: &'static str) -> &EndpointNumbers {
        self.endpoints.0[place.min(MAX_ENDPOINTS - 1)]
            .get_or_init(|| Box::new(EndpointNumbers { name, ..EndpointNumbers::default() }))
    }

    /// The numbers of the cluster with this prefix of its nodes' keys, which stay when its nodes have stopped.
    pub fn cluster(&self, prefix: &str) -> &'static ClusterNumbers {
        let mut clusters = lock(&self.clusters);
        clusters.entry(prefix.to_owned()).or_insert_with(|| Box::leak(Box::default()))
    }

    /// The numbers of a cluster's store with this name, which stay when it is closed.
    pub fn store(&self, cluster: &str, name: &str) -> &'static StoreNumbers {
        let mut stores = lock(&self.stores);
        stores
            .entry([cluster, name].map(str::to_owned))
            .or_insert_with(|| Box::leak(Box::default()))
    }

    pub(super) fn write(&self, page: &mut Page) {
        for endpoint in self.endpoints.0.iter().filter_map(OnceLock::get) {
            endpoint.write_rows(page, &[endpoint.name]);
        }
        self.write_rows(page, &[]);
        self.locks.write_rows(page, &["lock"]);
        self.permits.write_rows(page, &["semaphore"]);
        for (cluster, numbers) in &*lock(&self.clusters) {
            numbers.write_rows(page, &[cluster]);
        }
        for (labels, store) in &*lock(&self.stores) {
            store.write(page, labels.each_ref().map(String::as_str));
        }
    }
}

impl EndpointNumbers {
    /// Whether there was a call, not only a watch.
    fn was_called(&self) -> bool {
        self.attempts.get() > 0
    }

    fn was_watched(&self) -> bool {
        self.watches.was_used()
    }
}

impl StoreNumbers {
    fn write(&self, page: &mut Page, [cluster, store]: [&str; 2]) {
        let Self { reads, writes, deletions, .. } = self;
        for (operation, numbers) in [("read", reads), ("write", writes), ("delete", deletions)] {
            numbers.write_rows(page, &[cluster, store, operation]);
        }
        self.write_rows(page, &[cluster, store]);
    }
}

/// A number that a row shows.
trait Number {
    /// Adds it under the metric, with these labels before its own.
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]);
}

impl Number for Counter {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        page.count(metric, labels, self.get());
    }
}

impl Number for Gauge {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        page.level(metric, labels, self.get() as f64);
    }
}

impl Number for Histogram {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        page.durations(metric, labels, self);
    }
}

/// Only the outcomes that it has counted.
impl Number for Outcomes {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        for (outcome, count) in self.counted() {
            page.count(metric, &[labels, &[outcome]].concat(), count);
        }
    }
}

impl Number for Strangers {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        for (why, count) in self.counted() {
            page.count(metric, &[labels, &[why]].concat(), count);
        }
    }
}

impl Number for StorageErrors {
    fn write(&self, page: &mut Page, metric: &'static Metric, labels: &[&str]) {
        for (function, count) in &*lock(&self.0) {
            page.count(metric, &[labels, &[function]].concat(), *count);
        }
    }
}
