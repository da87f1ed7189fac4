//! A node's report about its replicas.

use super::Holder;
use crate::state::Report;

impl Holder {
    /// The report for the leader.
    pub async fn report(&self, epoch: impl Fn(u32) -> u64) -> Report {
        let mut report = Report::default();
        for shard in self.shards() {
            let state = self.state(shard).await;
            let Some(entry) = &state.entry else { continue };
            if entry.epoch > epoch(shard) {
                report.newer.push((shard, entry.epoch));
            }
            if let Some(work) = state.work.as_ref().filter(|work| work.is_done) {
                report.finished.push((shard, work.since));
            }
            if state.fence > entry.epoch {
                report.fenced.push((shard, state.fence));
            }
            if entry.counting_at(&self.node).is_some() && !self.is_whole(&state, entry) {
                report.missing.push(shard);
            }
            report.doubted.extend(state.doubt.map(|doubt| (shard, doubt)));
            match entry.failover_from(&self.node, self.disk) {
                Some(change) if state.is_whole => report.returned.push((shard, change.since)),
                // It has given up the replica, or has lost a part of it: nobody waits for that one.
                Some(_) => report.missing.push(shard),
                None => {}
            }
        }
        report
    }
}
