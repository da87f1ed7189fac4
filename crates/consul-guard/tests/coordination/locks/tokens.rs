//! Tokens that are replaced or lose their rights while locks and permits are held: on the simulated agent and a
//! clock that the test advances, then on consul-sim and real Consuls.

use super::on_a_clock::Simulated;
use super::{
    KEY, MANAGEMENT, SLACK, Token, acquire, call, permit, present, runtime, settings, with_acl,
};
use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::lines::logged;
use crate::support::trials::Trials;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_client::Client;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::{Event, Lease, Presence, Profile, Wait};
use consul_client::transport::http::HttpTransport;
use consul_client::transport::token_file::{TokenFile, WithTokenFile};
use consul_client::transport::{Options, Transport};
use consul_process::clock::{Clock, SystemClock};
use consul_sim::SimTransport;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::Level;

/// The rights that locks and semaphores need.
const RULES: &str = r#"
    key_prefix "" { policy = "write" }
    node_prefix "" { policy = "read" }
    service_prefix "" { policy = "write" }
    session_prefix "" { policy = "write" }
"#;

/// The time that a waiter's pause between two attempts in a lock delay, and a beat that was just answered, add.
const PAUSE: Duration = Duration::from_millis(100);

/// Within this time after the file has another token, everything has it.
const TAKEN_UP: Duration = Duration::from_secs(3);

const FOREVER: LockOptions = LockOptions { value: None, wait: Wait::Forever, is_own: false };

type Test = fn(&World, Claim, End);

const ON_A_CLOCK: &[(&str, Test)] = &[
    ("a_death_after_the_token_was_replaced_is_noticed_as_soon_as_before", replaced),
    ("a_holder_whose_token_is_refused_for_long_is_lost_and_says_why", refused),
    ("a_holder_whose_token_is_refused_for_a_while_is_suspended_and_resumes", refused_for_a_while),
];

const WITHOUT_SERVICE: &[(&str, fn())] = &[
    (
        "a_holder_without_service_write_keeps_its_lock_and_the_log_says_so_once",
        holder_without_service_write,
    ),
    ("without_service_write_waits_without_a_session_end", waits_without_service_write),
    (
        "a_release_that_may_not_read_its_semaphore_says_that_it_is_refused",
        release_without_right_to_keys,
    ),
];

pub fn add_to(trials: &mut Trials) {
    for (name, run) in ON_A_CLOCK {
        trials.add(format!("{name} [simulated]"), || {
            for claim in [Claim::Lock, Claim::Permit] {
                for end in [End::Deleted, End::NoRight, End::NoRightToKeys] {
                    run(&World::new(), claim, end);
                }
            }
        });
    }
    for (name, run) in WITHOUT_SERVICE {
        trials.add(format!("{name} [simulated]"), run);
    }
    for version in [consul::SIM, "1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("replaced tokens on Consul {version}"));
        trials.add_unless(missing, format!("{} [{version}]", ON_A_CLOCK[0].0), move || {
            RealConsul::start_with_acl(version, "deny")
                .map(|consul| runtime().block_on(replaced_on_sockets(&consul)))
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Claim {
    Lock,
    Permit,
}

impl Claim {
    async fn acquire(self, process: &Arc<Presence>) -> Arc<Lease> {
        self.try_to_acquire(process).await.expect("it becomes free")
    }

    async fn try_to_acquire(self, process: &Arc<Presence>) -> Result<Arc<Lease>, Error> {
        match self {
            Claim::Lock => acquire(process, Wait::Forever).await,
            Claim::Permit => permit(process, 1, Wait::Forever).await,
        }
    }
}

/// The ways to take the rights of a token away.
#[derive(Clone, Copy, Debug)]
enum End {
    Deleted,
    NoRight,
    NoRightToKeys,
}

impl Token {
    async fn end(&self, manager: &Client, end: End) {
        match end {
            End::Deleted => {
                call(manager, "acl_token_delete", Args::new().arg(self.accessor.as_str())).await;
            }
            End::NoRight => self.set_rules(manager, "").await,
            End::NoRightToKeys => {
                self.set_rules(manager, &RULES.replace("key_prefix", "query_prefix")).await;
            }
        }
    }
}

fn with_file(transport: Arc<dyn Transport>, file: &str, clock: Arc<dyn Clock>) -> Client {
    let token = TokenFile::open(Path::new(file), Arc::clone(&clock)).expect("a token");
    let transport = WithTokenFile { transport, file: token };
    Client::new(vec![Arc::new(transport)], settings(None), clock, fastrand::Rng::with_seed(1))
}

/// A process whose token is in a file, which the agent's faults call `holder`, and another to which nothing happens.
struct World {
    simulated: Simulated,
    manager: Client,
    folder: Folder,
    token: Token,
    holder: Arc<Presence>,
    other: Arc<Presence>,
}

impl World {
    fn new() -> World {
        let simulated = Simulated::with(with_acl());
        let clock: Arc<dyn Clock> = Arc::new(simulated.clock.clone());
        let transport = || SimTransport::new(Arc::clone(&simulated.agent), "simulated");
        let client = || {
            let (transport, clock) = (Arc::new(transport()), Arc::clone(&clock));
            let rng = fastrand::Rng::with_seed(2);
            Client::new(vec![transport], settings(Some(MANAGEMENT)), clock, rng)
        };
        let (manager, folder) = (client(), Folder::new());
        let token = simulated.run(Token::new(&manager, RULES));
        let file = folder.file("token", &token.secret);
        let its = Arc::new(transport().for_client("holder"));
        let holder = present(with_file(its, &file, Arc::clone(&clock)), Profile::standard());
        let holder = simulated.running(holder);
        let other = simulated.running(present(client(), Profile::standard()));
        World { manager, folder, token, holder, other, simulated }
    }

    /// Acquires it by the process whose token is in a file.
    fn held(&self, claim: Claim) -> Arc<Lease> {
        let lease = self.simulated.run(claim.acquire(&self.holder));
        self.simulated.keep(&lease);
        lease
    }

    fn advance(&self, time: Duration) {
        self.simulated.clock.advance(time);
    }
}

fn replaced(world: &World, claim: Claim, end: End) {
    let lease = world.held(claim);
    world.advance(Duration::from_secs(10));
    let new = world.simulated.run(Token::new(&world.manager, RULES));
    world.folder.file("token", &new.secret);
    world.advance(TAKEN_UP);
    world.simulated.run(world.token.end(&world.manager, end));
    world.advance(Duration::from_secs(60));
    assert!(lease.is_held() && lease.poll_event().is_none(), "{claim:?}, {end:?}");
    world.simulated.cut_off("holder");
    let begun = world.simulated.clock.now();
    world.simulated.run(claim.acquire(&world.other));
    let took = world.simulated.clock.now() - begun;
    assert!(took <= world.other.profile().takeover() + PAUSE, "{claim:?}, {end:?}: {took:?}");
}

fn refused(world: &World, claim: Claim, end: End) {
    let lease = world.held(claim);
    let profile = world.holder.profile();
    logged(Level::WARN, Arc::new(world.simulated.clock.clone()), |lines| {
        world.simulated.run(world.token.end(&world.manager, end));
        world.advance(profile.lease);
        let text = lines.text();
        let said = text.lines().find(|line| line.contains("suspended: no proof within the lease"));
        let reasons: &[&str] = match end {
            End::Deleted => &["ACL not found"],
            _ => &["Permission denied", "ACLs hide keys"],
        };
        let is_told = said.is_some_and(|said| reasons.iter().any(|reason| said.contains(reason)));
        assert!(is_told, "{claim:?}, {end:?}: {text}");
    });
    assert_eq!(lease.poll_event(), Some(Event::Suspended), "{claim:?}, {end:?}");
    world.advance(profile.session_ttl * 2 - profile.lease);
    assert_eq!(lease.poll_event(), None, "{claim:?}, {end:?}: its session may live");
    world.advance(profile.proof_interval() * 2);
    match lease.poll_event() {
        Some(Event::Lost(why)) => {
            assert!(why.starts_with("Consul refuses its token: "), "{claim:?}, {end:?}: {why}");
        }
        event => panic!("{claim:?}, {end:?}: {event:?}"),
    }
    // The session of a token that may still end it does not live any more.
    let begun = world.simulated.clock.now();
    world.simulated.run(claim.acquire(&world.other));
    let took = world.simulated.clock.now() - begun;
    assert!(took <= profile.takeover() + PAUSE, "{claim:?}, {end:?}: {took:?}");
}

fn refused_for_a_while(world: &World, claim: Claim, end: End) {
    if matches!(end, End::Deleted) {
        return;
    }
    let lease = world.held(claim);
    let profile = world.holder.profile();
    // Refusals with proofs between them do not add up.
    for _ in 0..2 {
        world.simulated.run(world.token.end(&world.manager, end));
        world.advance(profile.session_ttl - Duration::from_secs(3));
        assert_eq!(lease.poll_event(), Some(Event::Suspended), "{claim:?}, {end:?}");
        world.simulated.run(world.token.set_rules(&world.manager, RULES));
        world.advance(profile.session_ttl * 3);
        let event = lease.poll_event();
        assert_eq!((event, lease.is_held()), (Some(Event::Resumed), true), "{claim:?}, {end:?}");
    }
}

/// Rules that lack the right to the service alone.
fn without_service() -> String {
    RULES.replace(
        r#"service_prefix "" { policy = "write" }"#,
        r#"service_prefix "" { policy = "read" }"#,
    )
}

/// The agent forgets a service whose check was critical for a minute, which ends its sessions.
const FORGOTTEN: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(150)];

/// Its beats are refused, and no agent can tell Consul's servers of its death.
fn holder_without_service_write() {
    const ONCE: &str = "by the TTL of its sessions alone";
    for claim in [Claim::Lock, Claim::Permit] {
        for lasts in FORGOTTEN {
            let (world, is_lost) = (World::new(), lasts == FORGOTTEN[1]);
            logged(Level::WARN, Arc::new(world.simulated.clock.clone()), |lines| {
                let lease = world.held(claim);
                world.simulated.run(world.token.set_rules(&world.manager, &without_service()));
                world.advance(lasts);
                assert_eq!(lease.is_held(), !is_lost, "{claim:?}: {}", lines.text());
                assert_eq!(lines.count(ONCE), 1, "{}", lines.text());
                assert!(lines.count("not registered again") <= 1, "{}", lines.text());
                if is_lost {
                    return;
                }
                // It has the right again, and loses it once more.
                world.simulated.run(world.token.set_rules(&world.manager, RULES));
                world.advance(Duration::from_secs(10));
                assert!(lease.is_held() && lease.poll_event().is_none(), "{claim:?}");
                world.simulated.run(world.token.set_rules(&world.manager, &without_service()));
                world.advance(Duration::from_secs(10));
                assert_eq!(lines.count(ONCE), 2, "{}", lines.text());
                world.simulated.cut_off("holder");
                let begun = world.simulated.clock.now();
                world.simulated.run(claim.acquire(&world.other));
                let took = world.simulated.clock.now() - begun;
                let limit = world.other.profile().machine_takeover();
                assert!(took <= limit + PAUSE, "{claim:?}: {took:?}");
            });
        }
    }
}

fn waits_without_service_write() {
    for (is_held, lasts) in
        [false, true].into_iter().flat_map(|it| FORGOTTEN.map(|lasts| (it, lasts)))
    {
        for claim in [Claim::Lock, Claim::Permit] {
            let world = World::new();
            // It is registered.
            let first = lock::acquire(&world.holder, "first", &FOREVER);
            world.simulated.run(first).expect("it is free");
            if is_held {
                let held = world.simulated.run(claim.acquire(&world.other));
                world.simulated.keep(&held);
            }
            world.simulated.run(world.token.set_rules(&world.manager, &without_service()));
            world.advance(lasts);
            let what = format!("{claim:?}, held: {is_held}, {lasts:?}");
            let error = world.simulated.run(async {
                tokio::select! {
                    biased;
                    error = claim.try_to_acquire(&world.holder) => error.expect_err("it is refused"),
                    () = world.simulated.clock.sleep(Duration::from_secs(5)) => {
                        panic!("{what}: it waits")
                    }
                }
            });
            assert_eq!(error.kind(), Kind::PermissionDenied, "{what}: {error}");
            assert!(error.message().contains("service:write"), "{what}: {error}");
        }
    }
}

fn release_without_right_to_keys() {
    for claim in [Claim::Lock, Claim::Permit] {
        let world = World::new();
        let lease = world.held(claim);
        world.simulated.run(world.token.end(&world.manager, End::NoRightToKeys));
        let error = world.simulated.run(lease.release()).expect_err("it is refused");
        assert_eq!(error.kind(), Kind::PermissionDenied, "{claim:?}: {error}");
    }
}

async fn replaced_on_sockets(consul: &RealConsul) {
    let url = format!("http://{}", consul.address);
    let transport = || Arc::new(HttpTransport::new(&url, &Options::default()).expect("an agent"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let client = || {
        let (clock, rng) = (Arc::clone(&clock), fastrand::Rng::new());
        Client::new(vec![transport()], settings(Some(&consul.token)), clock, rng)
    };
    let (manager, folder) = (client(), Folder::new());
    let old = Token::new(&manager, RULES).await;
    let file = folder.file("token", &old.secret);
    let holder = present(with_file(transport(), &file, Arc::clone(&clock)), Profile::standard());
    let running = Arc::clone(&holder);
    let alive = tokio::spawn(async move { match running.run().await {} });
    let lease = acquire(&holder, Wait::Forever).await.expect("it is free");
    let new = Token::new(&manager, RULES).await;
    folder.file("token", &new.secret);
    tokio::time::sleep(TAKEN_UP + SLACK).await;
    old.end(&manager, End::Deleted).await;
    // Nothing renews the session or proves the lease from here on.
    alive.abort();
    let other = present(client(), Profile::standard());
    let running = Arc::clone(&other);
    let others = tokio::spawn(async move { match running.run().await {} });
    let begun = clock.now();
    acquire(&other, Wait::Forever).await.expect("it becomes free");
    let (took, session) = (clock.now() - begun, other.profile().session_ttl);
    // Without a report of the dead process's check only the session's TTL would end it.
    assert!(took < other.profile().takeover() + SLACK * 2, "{KEY}: {took:?}, session {session:?}");
    drop(lease);
    others.abort();
}
