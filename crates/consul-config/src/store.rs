//! Every option of a store of replicated shards, declared once.

use super::options::Setting;
use super::sources::{names_of, unknown_option};
use super::takes::Takes;
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_api::value::shape::ValuePath;
use consul_cluster::Options;
use consul_cluster::stores::{MAX_SHARDS, StoreOptions};
use consul_replication::map::Quorums;

/// Every option of a store. A quorum that is not given follows from the ones before it.
pub const STORE_OPTIONS: &[Setting<StoreOptions>] = &[
    Setting::new(
        "replicas",
        Takes::Count(1, 16, |options, count| {
            options.quorums = Quorums::majorities(count as usize);
        }),
        "that of the node",
        "N, the number of replicas of each shard: of the first map, the same on all nodes. Later that of the map counts.",
    ),
    Setting::new(
        "write_quorum",
        Takes::Count(1, 16, |options, count| {
            options.quorums.write = count as usize;
        }),
        "a majority of the replicas",
        "W, the number of replicas that have a write before it returns; counts as `replicas` does.",
    ),
    Setting::new(
        "read_quorum",
        Takes::Count(1, 16, |options, count| {
            options.quorums.read = count as usize;
        }),
        "a majority of the replicas",
        "R, the number of replicas that a read asks; W + R must be more than N. It counts as `replicas` does.",
    ),
    Setting::new(
        "shards",
        Takes::Count(1, MAX_SHARDS, |options, count| options.shards = count),
        "that of the node, up to 8192",
        "The number of shards; the same on all nodes, and never changed. Shards times replicas are up to 24576.",
    ),
    Setting::new(
        "repair_s",
        Takes::Seconds(|options, time| options.repair_every = time),
        "600",
        "How often the replicas of a shard are compared and made equal. Deleted records are removed for good by that.",
    ),
    Setting::new(
        "drop_after_s",
        Takes::Seconds(|options, time| options.drop_after = time),
        "30",
        "How long a node keeps the records of a shard that has moved away from it.",
    ),
    Setting::new(
        "move_timeout_s",
        Takes::Seconds(|options, time| options.move_timeout = time),
        "60",
        "How long a move may make no progress before it is cancelled.",
    ),
    Setting::new(
        "max_skew_s",
        Takes::Seconds(|options, time| options.max_skew = time),
        "2",
        "How far the clocks of two nodes may differ: a write by a clock that is further ahead is refused. For so long a write that failed may still replace a later one.",
    ),
    Setting::new(
        "timeout_ms",
        Takes::Millis(|options, time| options.timeout = time),
        "5000",
        "The time limit of one request between nodes. The time limit of a whole call is an option of the call.",
    ),
];

/// The options of a store of a node with these options.
///
/// # Errors
/// [`Kind::Config`], naming the option, what was given and what is allowed.
pub fn of_store(
    name: &str,
    of_node: &Options,
    given: &[(String, Value)],
) -> Result<StoreOptions, Error> {
    let in_config = |error: Error| Error::new(Kind::Config, error.message()).not_sent();
    for (name, _) in given {
        if !STORE_OPTIONS.iter().any(|option| option.is_called(name)) {
            return Err(unknown_option(name, &names_of(STORE_OPTIONS)));
        }
    }
    let mut options = StoreOptions::new(name, of_node);
    for option in STORE_OPTIONS {
        let found = given.iter().find(|(name, v)| option.is_called(name) && *v != Value::Null);
        if let Some((name, value)) = found {
            option.takes.apply(&mut options, value, &ValuePath::top(name)).map_err(in_config)?;
        }
    }
    options.check()?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[(&str, Value)]) -> Result<StoreOptions, Error> {
        let given: Vec<_> =
            given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        of_store("points", &Options::new("n1", "a:1"), &given)
    }

    #[test]
    fn quorums_are_majorities_of_the_replicas_unless_given() {
        let quorums = |given: &[(&str, Value)]| {
            let Quorums { replicas, write, read } = of(given).expect("good options").quorums;
            (replicas, write, read)
        };
        assert_eq!(quorums(&[]), (2, 2, 2));
        assert_eq!(quorums(&[("replicas", 3.into())]), (3, 2, 2));
        assert_eq!(quorums(&[("write_quorum", 4.into()), ("replicas", 5.into())]), (5, 4, 3));
        assert_eq!(quorums(&[("replicas", 3.into()), ("write_quorum", Value::Null)]), (3, 2, 2));
    }

    #[test]
    fn the_defaults_are_those_of_the_reference() {
        let options = of(&[]).expect("good options");
        for (name, value) in [
            ("repair_s", options.repair_every.as_secs()),
            ("drop_after_s", options.drop_after.as_secs()),
            ("move_timeout_s", options.move_timeout.as_secs()),
            ("max_skew_s", options.max_skew.as_secs()),
            ("timeout_ms", options.timeout.as_millis() as u64),
        ] {
            let option = STORE_OPTIONS.iter().find(|it| it.name == name).expect("an option");
            assert_eq!(option.default, value.to_string(), "{name}");
        }
        assert_eq!(options.shards, 1024);
    }

    #[test]
    fn an_error_names_option_value_and_what_is_allowed() {
        let given: &[(&[(&str, Value)], &str)] = &[
            (&[("replica", 3.into())], "did you mean \"replicas\""),
            (&[("replicas", 0.into())], "replicas is 0: it must be an integer from 1 to 16"),
            (&[("replicas", "3".into())], "replicas must be an integer from 1 to 16, got a string"),
            (&[("shards", 0.into())], "shards is 0"),
            (&[("repair_s", "often".into())], "repair_s"),
            (&[("timeout_ms", 0.into())], "timeout_ms"),
            (&[("replicas", 3.into()), ("write_quorum", 4.into())], "write_quorum is 4"),
            (&[("replicas", 3.into()), ("read_quorum", 1.into())], "must be more than"),
        ];
        for (given, why) in given {
            let error = of(given).expect_err("a bad option");
            assert!(error.message().contains(why), "{}", error.message());
        }
    }
}
