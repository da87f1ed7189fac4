//! The common parts of the benches: medians, and the comparison of figures with their bounds.

#![allow(dead_code)] // no bench uses all of it

/// The middle value; with an even number of values the larger one of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a figure and its bound; returns whether the bound holds.
pub fn figure(what: &str, measured: f64, bound: f64, unit: &str) -> bool {
    let holds = measured <= bound;
    println!("  {what:<56} {measured:>10.3} {unit:<3} (at most {bound}){}", mark(holds));
    holds
}

/// The mark behind a figure whose bound does not hold.
pub fn mark(holds: bool) -> &'static str {
    if holds { "" } else { "  MISSED" }
}
