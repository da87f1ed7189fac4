//! Reads are answered, and watches are not: something between refuses them, ends them, or holds their answers back.

use super::World;
use super::waits::Said;
use bytes::Bytes;
use consul_migrate::etcd::Etcd;
use consul_migrate::mapping::{Choice, Problem};
use consul_migrate::{Freeze, Frozen, Run, Stop, Until, cut_over, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Nothing is silent for longer, but for what has not failed yet.
const LONGEST: Duration = Duration::from_secs(3);

const OUTAGE: Duration = Duration::from_secs(40);

/// The answers in the place of etcd's; `None` is nothing at all.
const ANSWERS: &[Option<(u16, &str)>] = &[
    None,
    Some((200, "")),
    Some((302, "")),
    Some((403, "<html>forbidden</html>")),
    Some((404, "404 page not found")),
    Some((408, "")),
    Some((429, "slow down")),
    Some((500, "oops")),
    Some((502, "<html>bad gateway</html>")),
    Some((503, "")),
    Some((504, "<html>gateway timeout</html>")),
];

fn hold_up(world: &World, answer: Option<(u16, &'static str)>) {
    match answer {
        None => world.fake.hold_watches_up(true),
        answer => world.fake.answer_watches_as(answer),
    }
}

fn let_through(world: &World) {
    world.fake.let_watches_through();
    world.fake.answer_watches_as(None);
}

fn world(on: &[(Problem, Choice)]) -> (World, Arc<Said>) {
    let mut world = World::plain(1, on);
    ["/a", "/gone"].iter().for_each(|key| world.put(key, Some("1")));
    let said = Arc::new(Said::new(&world.clock));
    let servers = vec![Arc::new(world.fake.clone()) as _];
    let clock = Arc::new(world.clock.clone());
    let etcd = Etcd::new(servers, None, clock, Duration::from_secs(20), super::PATIENCE);
    world.etcd = etcd.reporting(said.clone());
    (world, said)
}

async fn copied<'w>(world: &'w World, said: &Arc<Said>) -> Run<'w> {
    let (run, kept) = world.hold(1).await.unwrap();
    load(&run, kept).await.unwrap();
    Run { report: said.clone(), ..run }
}

pub fn run() {
    for answer in ANSWERS {
        for before in [false, true] {
            is_said(*answer, before);
        }
        is_over_after_patience(*answer);
    }
    for (change, is_told) in [
        (&[("/gone", None)][..], true),
        (&[("/new", Some("2"))], true),
        (&[("/a", Some("2"))], true),
        (&[("/gone", None), ("/new", Some("2"))], true),
        (&[], false),
    ] {
        a_watch_that_is_stuck_is_left(change, is_told);
    }
}

/// A tail says why it follows nothing, from its beginning on or from a moment in its middle, and goes on.
fn is_said(answer: Option<(u16, &'static str)>, before: bool) {
    let (world, said) = world(&[]);
    let begun = world.works(async {
        let run = copied(&world, &said).await;
        world.etcd.wait_without_end();
        if before {
            hold_up(&world, answer);
        }
        let looks = async {
            if !before {
                world.clock.sleep(Duration::from_secs(2)).await;
                world.fake.cut_watches();
                hold_up(&world, answer);
            }
            let begun = world.clock.now();
            world.put("/gone", None);
            world.put("/new", Some("2"));
            world.clock.sleep(OUTAGE).await;
            let_through(&world);
            world.clock.sleep(Duration::from_secs(10)).await;
            begun
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
            Either::Left((ended, _)) => panic!("{answer:?}: {ended:?}"),
            Either::Right((begun, _)) => begun,
        }
    });
    let found = world.works(world.found());
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["a", "new"], "{answer:?}");
    let notes = said.notes.lock().unwrap();
    let mut last = begun;
    for (at, text) in notes.iter().filter(|(at, _)| *at >= begun && *at < begun + OUTAGE) {
        assert!(*at - last <= LONGEST, "{answer:?}: {:?} of silence before {text:?}", *at - last);
        last = *at;
    }
    assert!(begun + OUTAGE - last <= LONGEST, "{answer:?}, {before}: {notes:?}");
    let reason = if answer.is_none() { "proxy_buffering" } else { "no watch of etcd has lasted" };
    assert!(notes.iter().any(|(_, text)| text.contains(reason)), "{answer:?}: {notes:?}");
}

/// A cut-over does not wait forever, and stops no writer.
fn is_over_after_patience(answer: Option<(u16, &'static str)>) {
    let (world, said) = world(&[]);
    world.works(async {
        let run = copied(&world, &said).await;
        hold_up(&world, answer);
        let frozen = Frozen::default();
        let limit = Duration::from_secs(30);
        let cut = cut_over(&run, Freeze::Alarm, &frozen, limit, async |_| Ok(()));
        match select(pin!(cut), world.clock.sleep(Duration::from_secs(300))).await {
            Either::Left((Err(Stop::Failed(_)), _)) => {}
            Either::Left((ended, _)) => panic!("{answer:?}: {ended:?}"),
            Either::Right(_) => panic!("{answer:?}: it waits forever"),
        }
        assert!(world.fake.alarms().is_empty() && !frozen.may_be_on());
    });
}

/// A watch that was open lets nothing through any more, while each other request is answered.
fn a_watch_that_is_stuck_is_left(change: &[(&str, Option<&str>)], is_told: bool) {
    let (world, said) = world(&[]);
    world.works(async {
        let run = copied(&world, &said).await;
        let looks = async {
            world.clock.sleep(Duration::from_secs(2)).await;
            world.fake.hold_watches_up(false);
            change.iter().for_each(|(key, value)| world.put(key, *value));
            world.clock.sleep(Duration::from_secs(120)).await;
        };
        match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
            Either::Left((ended, _)) => panic!("{change:?}: {ended:?}"),
            Either::Right(_) => {}
        }
    });
    let found = world.works(world.found());
    let wanted = world.works(async {
        let mapping = world.record().await.unwrap().mapping;
        world.wanted(&mapping, world.fake.revision())
    });
    assert_eq!(found, wanted, "{change:?}");
    let notes = said.notes.lock().unwrap();
    let told = notes.iter().any(|(_, text)| text.contains("another one is opened"));
    assert_eq!(told, is_told, "{change:?}: {notes:?}");
}

/// One line of etcd is longer than is read: a new snapshot has it, unless its key is refused.
pub fn a_line_is_too_large() {
    const LARGE: usize = 600_000;
    for (choice, stays) in [(Choice::Skip, true), (Choice::Skip, false), (Choice::Refuse, true)] {
        let (mut world, said) = world(&[(Problem::LargeValue, choice)]);
        let servers = vec![Arc::new(world.fake.clone()) as _];
        let clock = Arc::new(world.clock.clone());
        let etcd = Etcd::new(servers, None, clock, Duration::from_secs(20), super::PATIENCE);
        world.etcd = etcd.reading_lines_up_to(LARGE);
        let ended = world.works(async {
            let run = copied(&world, &said).await;
            let looks = async {
                world.clock.sleep(Duration::from_secs(2)).await;
                world.fake.cut_watches();
                let value = Bytes::from(vec![b'x'; LARGE]);
                world.fake.write(&[(b"/large".to_vec(), Some((value, 0)))]);
                if !stays {
                    world.put("/large", Some("small"));
                }
                world.put("/gone", None);
                world.put("/new", Some("2"));
                world.clock.sleep(Duration::from_secs(20)).await;
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
                Either::Left((ended, _)) => Some(ended),
                Either::Right(_) => None,
            }
        });
        let notes = said.notes.lock().unwrap();
        assert!(notes.iter().any(|(_, text)| text.contains("more than 64 MB")), "{notes:?}");
        match (choice, ended) {
            (Choice::Refuse, Some(Err(Stop::Refused(why)))) if why.contains("/large") => continue,
            (Choice::Skip, None) => {}
            (_, ended) => panic!("{choice}, {stays}: {ended:?}"),
        }
        let found = world.works(world.found()).into_keys().collect::<Vec<_>>();
        let wanted = if stays { &["a", "new"][..] } else { &["a", "large", "new"] };
        assert_eq!(found, wanted);
    }
}
