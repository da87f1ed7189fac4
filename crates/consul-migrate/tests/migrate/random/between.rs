//! Something between a tail and etcd answers for a while: a router, a login page, a firewall. The tail goes on.

use super::World;
use consul_api::error::Kind;
use consul_migrate::etcd::{Range, Refused};
use consul_migrate::{Stop, Until, load, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::time::Duration;

/// Statuses and bodies that are not etcd's.
const PAGES: &[(u16, &str)] = &[
    (200, "{}"),
    (200, "[]"),
    (200, "null"),
    (200, ""),
    (200, "<html>please log in</html>"),
    (200, r#"{"error":"please log in"}"#),
    (302, ""),
    (400, "bad request"),
    (401, r#"{"message":"Unauthorized"}"#),
    (403, "<html>forbidden</html>"),
    (404, "404 page not found"),
    (404, r#"{"error":{"code":404}}"#),
    (405, ""),
    (429, "slow down"),
    (500, "oops"),
    (502, "<html>bad gateway</html>"),
    (503, ""),
];

pub fn run() {
    for page in PAGES {
        let world = World::plain(1, &[]);
        ["/a", "/gone"].iter().for_each(|key| world.put(key, Some("1")));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            let looks = async {
                world.clock.sleep(Duration::from_secs(1)).await;
                world.fake.answer_as(Some(*page));
                world.fake.cut_watches();
                world.put("/gone", None);
                world.put("/new", Some("2"));
                world.clock.sleep(Duration::from_secs(1)).await;
                world.fake.answer_as(None);
                world.clock.sleep(Duration::from_secs(5)).await;
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
                Either::Left((ended, _)) => panic!("{page:?}: {ended:?}"),
                Either::Right(_) => {}
            }
            assert_eq!(
                world.found().await.into_keys().collect::<Vec<_>>(),
                ["a", "new"],
                "{page:?}"
            );
        });
    }
}

/// Lines of a watch that are not etcd's.
const LINES: &[&str] = &[
    "<html>please log in</html>\n",
    "[]\n",
    " [{}]\n",
    "{}\n",
    "null\n",
    "1\n",
    "\"x\"\n",
    "{\"result\":null}\n",
    "{\"result\":{}}\n",
    "{\"result\":[]}\n",
    "{\"result\":{\"header\":{}}}\n",
    "{\"result\":{\"header\":[],\"created\":true}}\n",
    "{\"status\":\"ok\"}\n",
];

/// Reads go to etcd, and watches do not.
pub fn for_watches_alone() {
    for line in LINES {
        let world = World::plain(1, &[]);
        world.put("/a", Some("1"));
        world.works(async {
            let (run, kept) = world.hold(1).await.unwrap();
            load(&run, kept).await.unwrap();
            world.fake.answer_watches_as(Some((200, line)));
            let looks = pin!(world.clock.sleep(Duration::from_secs(600)));
            match select(pin!(tail(&run, &Until::Dropped)), looks).await {
                Either::Left((Err(Stop::Failed(error)), _)) => {
                    assert_eq!(error.kind(), Kind::Decode, "{line}: {error}");
                }
                Either::Left((other, _)) => panic!("{line}: {other:?}"),
                Either::Right(_) => panic!("{line}: it says nothing, and follows nothing"),
            }
        });
    }
}

/// A later read would be one of another moment.
pub fn a_count_without_a_revision_is_none() {
    let world = World::plain(1, &[]);
    world.works(async {
        world.fake.answer_as(Some((200, r#"{"header":{"cluster_id":"7"},"count":"5"}"#)));
        match world.etcd.count(&Range::prefix(b""), 0).await {
            Err(Refused::Failed(error)) => assert_eq!(error.kind(), Kind::Decode, "{error}"),
            other => panic!("{other:?}"),
        }
    });
}
