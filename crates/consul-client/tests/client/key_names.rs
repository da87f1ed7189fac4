//! Names of keys that servers from 1.21.5 on do not take.

use crate::support::between::{INVALID_KEY_NAME, WithoutColons};
use crate::support::world::World;
use consul_api::error::Kind;
use consul_client::coordination::lock::{self, LockOptions};
use consul_client::coordination::semaphore::{self, SemaphoreOptions};
use consul_client::coordination::{Presence, Profile, Service, Wait};
use consul_process::clock::Clock;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "jobs/import: daily";

#[test]
fn a_lock_and_a_semaphore_end_at_once_when_the_server_does_not_take_their_name() {
    for wait in [Wait::Once, Wait::For(Duration::from_secs(30)), Wait::Forever] {
        for is_lock in [true, false] {
            let world = World::new();
            let server = WithoutColons::new(&world.agent);
            let client = server.client(Arc::new(world.clock.clone()));
            let service = Service::for_process(&client);
            let presence = Presence::new(Arc::clone(&client), client, Profile::standard(), service);
            let running = Arc::clone(&presence);
            world.clock.spawn(async move { match running.run().await {} });
            let begun = world.clock.now();
            let acquired = world.run(async {
                match is_lock {
                    true => {
                        lock::acquire(
                            &presence,
                            NAME,
                            &LockOptions { value: None, wait, is_own: false },
                        )
                        .await
                    }
                    false => {
                        let options = SemaphoreOptions { limit: 1, value: Vec::new(), wait };
                        semaphore::acquire(&presence, NAME, &options).await
                    }
                }
            });
            let error = acquired.expect_err("a refusal");
            assert_eq!((error.kind(), error.maybe_applied()), (Kind::Argument, false), "{error}");
            let message = error.message();
            assert!(message.contains(INVALID_KEY_NAME) && message.contains(NAME), "{error}");
            assert!(world.clock.now() - begun < Duration::from_secs(1), "{error}");
            assert_eq!(server.refused(), 1, "{error}");
        }
    }
}
