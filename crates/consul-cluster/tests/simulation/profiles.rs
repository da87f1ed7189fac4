//! Profiles with times of their own: any that are accepted.

use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_client::coordination::Profile;
use std::time::Duration;

/// The times that are tried for each member, in milliseconds, the bounds of each rule among them.
const CHECK_TTLS: [u64; 7] = [100, 1000, 1500, 3000, 5000, 10_000, 20_000];
const LEASES: [u64; 7] = [80, 203, 500, 1000, 3000, 6667, 13_000];
const FLIGHTS: [u64; 4] = [1, 250, 1003, 6000];

/// A profile whose check's TTL is not shorter than this; `number` is a random one below its argument.
pub fn random(shortest_ttl: Duration, mut number: impl FnMut(u64) -> u64) -> Profile {
    loop {
        let mut of = |times: &[u64]| times[number(times.len() as u64) as usize];
        let (check_ttl, lease, in_flight) = (of(&CHECK_TTLS), of(&LEASES), of(&FLIGHTS));
        // Clocks of the simulation differ by up to one percent.
        let drift = [0.01, 0.013, 0.1, 0.5][number(4) as usize];
        let beat = check_ttl as f64 / [3.0, 3.001, 6.0, 10.0][number(4) as usize];
        let mut times = vec![
            ("check_ttl_ms", check_ttl.into()),
            ("lease_ms", lease.into()),
            ("in_flight_ms", in_flight.into()),
            ("drift", drift.into()),
            ("beat_ms", beat.into()),
            ("node_checks", (number(2) == 0).into()),
        ];
        if number(3) == 0 {
            let least = (lease + in_flight) as f64 * (1.0 + drift);
            times.push((
                "lock_delay_ms",
                (least * [0.5, 1.0, 1.0001, 2.0][number(4) as usize]).into(),
            ));
        }
        if number(3) == 0 {
            times.push(("session_ttl_s", [10, 12, 20, 40][number(4) as usize].into()));
        }
        let times = times.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value));
        let chosen = Profile::from_value(&Value::Map(times.collect()), &ValuePath::top("profile"));
        if let Some(profile) = chosen.ok().filter(|it| it.check_ttl >= shortest_ttl) {
            return profile;
        }
    }
}
