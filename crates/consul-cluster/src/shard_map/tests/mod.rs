mod document;
mod hand_off;
mod rebalanced;
mod spread;

use super::*;

/// Members of equal weight in three zones.
fn members(count: usize) -> Vec<Member> {
    (1..=count)
        .map(|number| Member {
            id: format!("node-{number}"),
            zone: format!("zone-{}", number % 3),
            weight: 1.0,
            ready: None,
            is_down: false,
        })
        .collect()
}

fn decoded(text: &str) -> Result<ShardMap, String> {
    ShardMap::decode(text.as_bytes()).map_err(|error| {
        assert_eq!(error.kind(), Kind::Decode);
        error.message().to_owned()
    })
}
