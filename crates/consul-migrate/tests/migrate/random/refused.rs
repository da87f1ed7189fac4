//! Changes of etcd that the mapping refuses while the tail runs.

use super::World;
use consul_migrate::mapping::{Choice, Problem};
use consul_migrate::{Stop, Until, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// A change of etcd: its key, and what it is set to.
type Put = (&'static str, Option<&'static str>);

/// Most keys have a leading slash; `b` has none.
const BEFORE: [Put; 3] = [("/a", Some("1")), ("/c", Some("1")), ("b", Some("1"))];

pub fn run() {
    for (changes, key, why) in [
        // The one of the rarer form comes second, or first.
        (&[("a", Some("2"))][..], "a", "beside"),
        (&[("/b", Some("2"))], "/b", "beside"),
        (&[("d", Some("2")), ("/d", Some("2"))], "/d", "beside"),
        (&[("b", None), ("b", Some("2")), ("/b", Some("2"))], "/b", "beside"),
        (&[("/x//y", Some("2"))], "/x//y", "no URL"),
    ] {
        let (said, world) = followed(changes, &[]);
        let said = said.unwrap();
        assert!(said.contains(&format!("has set the key {key} in revision")), "{said}");
        assert!(said.contains(why) && said.contains("=skip or"), "{said}");
        let (a, b) = world.works(async { (world.stored("a").await, world.stored("b").await) });
        assert_eq!(a.as_deref(), Some("1"), "{changes:?}");
        assert!(b.is_none_or(|b| b != "2" || changes.len() == 3), "{changes:?}");
    }
    let moved = [("b", None), ("/b", Some("2")), ("/b", None), ("b", Some("3"))];
    assert_eq!(followed(&moved, &[]).0, None);
    assert_eq!(followed(&[("d", Some("2"))], &[]).0, None);
    assert_eq!(followed(&[("/x//y", Some("2"))], &[(Problem::PathKey, Choice::Skip)]).0, None);
    can_be_chosen_then();
}

/// The message of a tail that ends at one of these changes; `None` if it follows them all.
fn followed(changes: &[Put], on: &[(Problem, Choice)]) -> (Option<String>, World) {
    let world = World::plain(1, on);
    BEFORE.iter().for_each(|(key, value)| world.put(key, *value));
    let said = world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        load(&run, kept).await.unwrap();
        let changes = async {
            for (key, value) in changes {
                world.clock.sleep(Duration::from_millis(50)).await;
                world.put(key, *value);
            }
            world.clock.sleep(Duration::from_secs(1)).await;
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(changes)).await {
            Either::Left((Err(Stop::Refused(why)), _)) => Some(why),
            Either::Left((other, _)) => panic!("{other:?}"),
            Either::Right(_) => None,
        }
    });
    (said, world)
}

/// Each choice may change as long as it is to refuse, as the message of the tail says.
fn can_be_chosen_then() {
    for problem in &Problem::ALL {
        let world = World::plain(1, &[(*problem, Choice::Refuse)]);
        world.put("/a", Some("1"));
        world.works(async {
            let (run, _) = world.hold(1).await.unwrap();
            let choose = async |choice| run.job.choose(&[(*problem, choice)].into()).await;
            choose(Choice::Skip).await.unwrap();
            assert_eq!(run.job.record().mapping.choice(*problem), Choice::Skip);
            let said = choose(Choice::Encode).await.unwrap_err().to_string();
            assert!(said.contains("can no longer change"), "{said}");
        });
    }
}
