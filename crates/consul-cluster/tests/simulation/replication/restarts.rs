//! A rolling restart: the nodes stop one after another, each for longer than it takes to notice and shorter
//! than the time after which it is replaced.

use super::Scenario;
use super::nodes::TTL;
use std::rc::Rc;
use std::time::Duration;

/// When it begins: after the moves that follow the first map.
const BEGINS: Duration = Duration::from_secs(15);

impl Scenario {
    /// Restarts each node. The map must stay as it is, and every write succeed.
    pub async fn restart_in_turn(self: &Rc<Self>) {
        let world = &self.world;
        world.sleep(BEGINS).await;
        let entries = || self.register.borrow().map().map(|map| map.shards.clone());
        let before = entries();
        self.restarts.set(true);
        let nodes = self.processes.borrow().len();
        for node in 0..nodes {
            self.kill(node);
            world.sleep(TTL + world.millis(500..2000)).await;
            self.start(node);
            world.sleep(world.millis(1000..3000)).await;
        }
        self.restarts.set(false);
        if entries() != before {
            world.violation(|| "a rolling restart has moved shards".to_owned());
        }
    }
}
