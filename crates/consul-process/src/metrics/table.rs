//! Every metric, declared once; docs/monitoring.md, the dashboard and the rules are checked against it.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by upper bounds, their number and their sum.
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name, without the `_total` of counters.
    pub base: &'static str,
    /// What kind of number it is.
    pub kind: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Its name, as queries use it; those of a histogram add `_bucket`, `_sum` and `_count`.
    pub fn name(&self) -> String {
        let suffix = if self.kind == Type::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.base)
    }

    /// The unit of its value.
    pub fn unit(&self) -> &'static str {
        if self.base.ends_with("_seconds") { "seconds" } else { "" }
    }
}

macro_rules! metrics {
    ($($area:literal { $($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal)+ })+) => {
        $($(#[doc = $help]
        pub static $id: Metric = Metric {
            base: concat!("consul_ffi_", $name),
            kind: Type::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+)+

        /// The areas: titles and metrics.
        pub static AREAS: &[(&str, &[&Metric])] = &[$(($area, &[$(&$id,)+]),)+];
    };
}

/// Every metric, area by area.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    AREAS.iter().flat_map(|(_, metrics)| *metrics).copied()
}

metrics! {
    "Calls to Consul" {
        CLIENT_REQUESTS Counter "client_requests" ["endpoint", "outcome"]
            "Calls to Consul that have ended, by the method's name and ok or the kind of the error."
        CLIENT_ATTEMPTS Counter "client_attempts" ["endpoint"]
            "Requests sent for these calls: those above the number of calls are retries."
        CLIENT_DURATION Histogram "client_request_duration_seconds" ["endpoint"]
            "How long a call took with its retries, without calls that wait for a change."
        CLIENT_CONNECTIONS Gauge "client_connections" []
            "Connections to agents that are open, without those of TLS."
        CLIENT_CONNECTIONS_OPENED Counter "client_connections_opened" []
            "Connections to agents that were opened, without those of TLS."
        CLIENT_BENCHED Gauge "client_benched_endpoints" []
            "Endpoints that calls avoid since they have failed, over all clients."
        CLIENT_FAILURES Counter "client_endpoint_failures" []
            "How often an endpoint failed so that calls avoid it for a time."
    }
    "Watches and views" {
        WATCHES Gauge "watches" ["endpoint"]
            "Watches that run, those of views and nodes included."
        WATCHES_FAILING Gauge "watches_failing" ["endpoint"]
            "Watches that get no answer at the moment."
        WATCH_UPDATES Counter "watch_updates" ["endpoint"]
            "Answers that watches got, also without a change."
        WATCH_FAILURES Counter "watch_failures" ["endpoint"]
            "Queries of watches that failed, after the retries of the call."
        VIEWS Gauge "views" ["service"]
            "Service views that are kept up to date, by the name of the service."
        VIEW_AGE Gauge "view_age_seconds" ["service"]
            "Time since Consul last confirmed the list of a view, of the service's view with the oldest one."
    }
    "Locks and semaphores" {
        LOCKS_ACQUIRED Counter "locks_acquired" ["kind"]
            "Locks and permits of semaphores that were acquired, leaderships included."
        LOCKS_RELEASED Counter "locks_released" ["kind"]
            "Those that were released."
        LOCKS_LOST Counter "locks_lost" ["kind"]
            "Those that were lost while held."
        LOCKS_SUSPENDED Counter "locks_suspended" ["kind"]
            "How often the proof of one expired, so that its holder must not act until there is another."
        LOCKS_HELD Gauge "locks_held" ["kind"]
            "Locks and permits that are held, suspended ones included."
    }
    "Clusters" {
        CLUSTER_STATE Gauge "cluster_node_state" ["cluster", "node", "state"]
            "1 for the state that this process's node is in, 0 for the others."
        CLUSTER_IN_TOUCH Gauge "cluster_in_touch" ["cluster", "node"]
            "1 while this node gets answers from Consul about the leader, otherwise 0."
        CLUSTER_HAS_LEADER Gauge "cluster_has_leader" ["cluster", "node"]
            "1 while this node knows a leader, otherwise 0."
        CLUSTER_NODES Gauge "cluster_nodes" ["cluster", "node", "state"]
            "Members of the cluster by state, as this node sees them."
        CLUSTER_MAP_EPOCH Gauge "cluster_map_epoch" ["cluster", "node"]
            "The epoch of the shard map that this node knows; 0 without one."
        CLUSTER_FROZEN Gauge "cluster_frozen" ["cluster", "node"]
            "1 while the shard map is frozen because many members vanished at once, otherwise 0."
        CLUSTER_HIDDEN Gauge "cluster_hidden" ["cluster", "node"]
            "1 while ACLs hide, or may hide, nodes from this one for lack of a right, otherwise 0."
        CLUSTER_SHARDS Gauge "cluster_shards" ["cluster", "node", "state"]
            "Replicas of shards in the map by state."
        CLUSTER_OWN_SHARDS Gauge "cluster_own_shards" ["cluster", "node", "role"]
            "Shards that the map gives to this node, as their primary or as another replica."
        CLUSTER_ELECTIONS_WON Counter "cluster_elections_won" []
            "How often a node of this process became the leader."
        CLUSTER_LEADER_CHANGES Counter "cluster_leader_changes" []
            "How often a node of this process saw the leader change or go."
        CLUSTER_SUSPENSIONS Counter "cluster_suspensions" []
            "How often a leader in this process must not act since it had no recent proof."
    }
    "Calls between nodes" {
        CALLS Counter "data_plane_calls" ["outcome"]
            "Calls to other nodes that have ended, by ok or the kind of the error."
        CALL_DURATION Histogram "data_plane_call_duration_seconds" []
            "How long a call took with its retries."
        CALL_RETRIES Counter "data_plane_retries" []
            "Attempts of calls after the first one."
        SERVED Counter "data_plane_served" ["outcome"]
            "Requests of other nodes that were answered, by ok or the kind of the error."
        AVOIDED Gauge "data_plane_avoided_nodes" []
            "Nodes to which calls fail at once, since they did not answer."
        AVOIDANCES Counter "data_plane_circuit_openings" []
            "How often calls to a node began to fail at once."
        STRANGERS Counter "data_plane_strangers_refused" ["reason"]
            "Connections and requests that were refused since they did not prove that they are a node's."
        WAITING Gauge "data_plane_waiting_requests" ["cluster", "node"]
            "Requests that wait for this node's program."
    }
    "Replicated shards" {
        STORE_OPERATIONS Counter "store_operations" ["store", "operation", "outcome"]
            "Reads, writes and deletions of one shard that have ended, by ok or the kind of the error."
        STORE_DURATION Histogram "store_operation_duration_seconds" ["store", "operation"]
            "How long they took."
        STORE_RECORDS Counter "store_records" ["store", "operation"]
            "Records that were read, written or deleted by them."
        STORE_COPIES Counter "store_copies" ["store"]
            "Replicas that were copied to this process, since a shard moved or a replica was lost."
        STORE_DOUBTED Counter "store_doubted_disks" ["store"]
            "Disks that this process has opened and that may lack something: their machine was restarted, or they are old."
        STORE_UNITED Counter "store_united_shards" ["store"]
            "Shards of which too few replicas were whole, so that this process, as the leader, had all that is left brought together."
        STORE_REPAIRS Counter "store_repairs" ["store"]
            "Comparisons of two replicas that have ended."
        STORE_REPAIRED_RECORDS Counter "store_repaired_records" ["store"]
            "Records that one of the compared replicas lacked and has now."
        STORE_AT_RISK Gauge "store_shards_at_risk" ["store"]
            "Shards with too few live replicas for a failover: until a node returns, no other can take its place."
        STORE_MOVING Gauge "store_replicas_moving" ["store"]
            "Replicas that are on their way to another node."
        STORE_REPLACED Gauge "store_replicas_replaced" ["store"]
            "Replicas that are made again since they were lost."
        STORE_USABLE Gauge "store_usable" ["store"]
            "1 while this process can use the store, 0 before it knows the map and after a permanent error."
        STORE_STORAGE_ERRORS Counter "store_storage_errors" ["store", "function"]
            "Calls of functions of this process's storage that did not do what they have to."
        STORE_STORAGE_FAILING Gauge "store_storage_failing" ["store"]
            "1 while a function of this process's storage fails, otherwise 0."
    }
    "Log" {
        LOG_LEFT_OUT Counter "log_lines_left_out" []
            "Log lines that were left out since there were too many of their kind."
    }
}
