//! Network coordinates of the nodes, from which round-trip times are estimated.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The number of dimensions of a coordinate. Source: Consul's HTTP reference of coordinates.
pub(crate) const DIMENSIONS: usize = 8;

/// A position in the model of the network; times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Coordinate {
    #[serde(serialize_with = "as_go_numbers")]
    pub vec: Vec<f64>,
    #[serde(serialize_with = "as_go_number")]
    pub error: f64,
    #[serde(serialize_with = "as_go_number")]
    pub adjustment: f64,
    #[serde(serialize_with = "as_go_number")]
    pub height: f64,
}

/// Go writes an integral float without a fraction.
fn as_go_number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = (1u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() < EXACT {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

fn as_go_numbers<S: Serializer>(numbers: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    struct Number(f64);
    impl Serialize for Number {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            as_go_number(&self.0, serializer)
        }
    }
    serializer.collect_seq(numbers.iter().map(|number| Number(*number)))
}

impl Default for Coordinate {
    /// The coordinate of a node that has not measured any other.
    fn default() -> Self {
        Self { vec: vec![0.0; DIMENSIONS], error: 1.5, adjustment: 0.0, height: 0.000_01 }
    }
}

impl Coordinate {
    /// The estimated round-trip time between the two, in seconds.
    ///
    /// Source: "Working with Coordinates" in Consul's documentation.
    pub fn distance(&self, other: &Coordinate) -> f64 {
        let squares = self.vec.iter().zip(&other.vec).map(|(one, other)| (one - other).powi(2));
        let raw = squares.sum::<f64>().sqrt() + self.height + other.height;
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }
}

/// The coordinates of the nodes, in the order of their names.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct CoordinateTable {
    nodes: BTreeMap<String, (String, Coordinate)>,
    /// Updates that are applied together later.
    pending: BTreeMap<String, Coordinate>,
    newest: u64,
}

impl CoordinateTable {
    pub fn get(&self, node: &str) -> Option<&Coordinate> {
        self.nodes.get(&node.to_lowercase()).map(|(_, coordinate)| coordinate)
    }

    /// All nodes that have a coordinate.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Coordinate)> {
        self.nodes.values().map(|(node, coordinate)| (node.as_str(), coordinate))
    }

    /// The index of the newest change; 0 before the first one.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn put(&mut self, node: &str, coordinate: Coordinate, index: u64) {
        self.newest = index;
        self.nodes.insert(node.to_lowercase(), (node.to_owned(), coordinate));
    }

    pub fn remove(&mut self, node: &str, index: u64) {
        if self.nodes.remove(&node.to_lowercase()).is_some() {
            self.newest = index;
        }
    }

    /// Queues an update; returns whether it is the first one.
    pub fn queue(&mut self, node: String, coordinate: Coordinate) -> bool {
        let first = self.pending.is_empty();
        self.pending.insert(node, coordinate);
        first
    }

    pub fn take_pending(&mut self) -> BTreeMap<String, Coordinate> {
        std::mem::take(&mut self.pending)
    }
}
