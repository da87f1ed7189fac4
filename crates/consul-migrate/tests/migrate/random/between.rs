//! Something between a tail and etcd answers for a while: a router, a login page, a firewall. The tail goes on.

use super::super::fake::Void;
use super::{PATIENCE, World};
use consul_api::error::Kind;
use consul_migrate::etcd::{Etcd, Login, Range, Refused};
use consul_migrate::{Freeze, Frozen, MayChange, Stop, Until, cut_over, load, roll_back, tail};
use consul_process::clock::Clock as _;
use futures_util::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
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

/// The work under way when the token of the user ends, as after `--auth-token-ttl` or a change of roles.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Copy,
    Tail,
    CutOver,
    Rollback,
}

/// etcd 3.4.22, 3.4.23 and 3.5.7 say nothing of a void token: they close the connection.
pub fn tokens() {
    for by in [Void::Closed, Void::Empty, Void::BadGateway] {
        for has_grpc in [false, true] {
            for work in [Work::Copy, Work::Tail, Work::CutOver, Work::Rollback] {
                is_logged_in_again(by, has_grpc, work);
            }
        }
    }
}

fn is_logged_in_again(by: Void, has_grpc: bool, work: Work) {
    let world = World::plain(1, &[]);
    world.fake.have_users("3.4.0");
    world.fake.permit("app", "READWRITE", "/", "0");
    if has_grpc {
        world.fake.speak_grpc();
    }
    let login = Login { name: "root".to_owned(), password: "pw".to_owned() };
    let etcd = Etcd::new(
        vec![Arc::new(world.fake.clone()) as _],
        Some(login),
        Arc::clone(world.etcd.clock()),
        Duration::from_secs(5),
        PATIENCE,
    );
    let world = World { etcd, ..world };
    world.put("/a", Some("1"));
    world.works(async {
        let (run, kept) = world.hold(1).await.unwrap();
        if work == Work::Copy {
            world.fake.end_tokens(by);
        }
        load(&run, kept).await.unwrap();
        if work == Work::Tail {
            let looks = async {
                for key in ["/b", "/c"] {
                    world.clock.sleep(Duration::from_secs(2)).await;
                    world.fake.end_tokens(by);
                    world.fake.cut_watches();
                    world.put(key, Some("1"));
                }
                world.clock.sleep(Duration::from_secs(20)).await;
            };
            match select(pin!(tail(&run, &Until::Dropped)), pin!(looks)).await {
                Either::Left((ended, _)) => panic!("{by:?}: {ended:?}"),
                Either::Right(_) => {}
            }
            assert_eq!(world.found().await.len(), 3, "{by:?} {has_grpc}");
            return;
        }
        if matches!(work, Work::CutOver | Work::Rollback) {
            let limit = Duration::from_secs(20);
            let ends = async |_| {
                if work == Work::CutOver {
                    world.fake.end_tokens(by);
                }
                Ok(())
            };
            cut_over(&run, Freeze::Roles, &Frozen::default(), limit, ends).await.unwrap();
            assert_eq!(world.fake.permitted("app"), ["READ"], "{by:?} {work:?}");
        }
        if work == Work::Rollback {
            world.fake.end_tokens(by);
            roll_back(&run, MayChange::NoNewKeys).await.unwrap();
            assert_eq!(world.fake.permitted("app"), ["READWRITE"], "{by:?} {work:?}");
        }
    });
}
