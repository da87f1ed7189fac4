//! Every metric, declared once: the numbers of a process, docs/monitoring.md and the table of docs/zh/monitoring.md are made
//! from it, the dashboard and the rules are checked against it.

/// The kind of a number.
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
    /// Its kind of number.
    pub kind: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Its meaning, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Its name, as queries use it; a histogram's names add `_bucket`, `_sum` and `_count`.
    pub fn name(&self) -> String {
        let suffix = if self.kind == Type::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.base)
    }

    /// The unit of its value.
    pub fn unit(&self) -> &'static str {
        if self.base.ends_with("_seconds") { "seconds" } else { "" }
    }
}

/// Hands the rows to another macro. A row is a metric: its name here, its type, its name without prefix and suffix, its
/// labels, what it means in English and in Chinese, and in parentheses the number of the process that it shows: a field of
/// one of the structs in `numbers.rs`, its type, and a condition without which it is not shown. Without such a field an
/// object that exists now has the number ([`Source`](super::Source)).
macro_rules! rows {
    ($macro:ident) => {
        $macro! {
            "Calls to Consul" "对 Consul 的调用" {
                CLIENT_REQUESTS Counter "client_requests" ["endpoint", "outcome"] (EndpointNumbers.requests: Outcomes)
                    "Calls to Consul that have ended, by the method's name and ok or the kind of the error."
                    "已结束的对 Consul 的调用，按方法名称，以及 ok 或错误类型。"
                CLIENT_ATTEMPTS Counter "client_attempts" ["endpoint"] (EndpointNumbers.attempts: Counter, if was_called)
                    "Requests sent for these calls: those above the number of calls are retries."
                    "为这些调用发送的请求：超出调用次数的部分是重试。"
                CLIENT_DURATION Histogram "client_request_duration_seconds" ["endpoint"] (EndpointNumbers.durations: Histogram, if was_called)
                    "How long a call took with its retries, without calls that wait for a change."
                    "一次调用（包括重试）的时长，不含等待变化的调用。"
                CLIENT_CONNECTIONS Gauge "client_connections" [] (Numbers.connections: Gauge)
                    "Connections to agents that are open, without connections with TLS."
                    "到 agent 的已打开的连接，不含 TLS 连接。"
                CLIENT_CONNECTIONS_OPENED Counter "client_connections_opened" [] (Numbers.connections_opened: Counter)
                    "Connections to agents that were opened, without connections with TLS."
                    "打开过的到 agent 的连接，不含 TLS 连接。"
                CLIENT_BENCHED Gauge "client_benched_endpoints" [] (Numbers.benched: Gauge)
                    "Endpoints that calls avoid since they have failed, over all clients."
                    "因出过故障而被调用避开的端点，所有客户端合计。"
                CLIENT_FAILURES Counter "client_endpoint_failures" [] (Numbers.endpoint_failures: Counter)
                    "How often an endpoint failed so that calls avoid it for a time."
                    "端点出故障以致调用在一段时间内避开它的次数。"
            }
            "Watches and views" "监视与视图" {
                WATCHES Gauge "watches" ["endpoint"] (EndpointNumbers.watches: Gauge, if was_watched)
                    "Watches that run, also for views and nodes."
                    "运行中的监视，包括视图和节点的监视。"
                WATCHES_FAILING Gauge "watches_failing" ["endpoint"] (EndpointNumbers.watches_failing: Gauge, if was_watched)
                    "Watches that get no answer at the moment."
                    "目前得不到应答的监视。"
                WATCH_UPDATES Counter "watch_updates" ["endpoint"] (EndpointNumbers.watch_updates: Counter, if was_watched)
                    "Answers that watches got, also without a change."
                    "监视得到的应答，包括没有变化的应答。"
                WATCH_FAILURES Counter "watch_failures" ["endpoint"] (EndpointNumbers.watch_failures: Counter, if was_watched)
                    "Queries of watches that failed, after the retries of the call."
                    "监视的查询在调用的重试之后仍然失败的次数。"
                VIEWS Gauge "views" ["service"] ()
                    "Service views that are kept up to date, by the name of the service."
                    "保持更新的服务视图，按服务名称。"
                VIEW_AGE Gauge "view_age_seconds" ["service"] ()
                    "Time since Consul last confirmed the list of a view, of the service's view with the oldest one."
                    "距 Consul 上一次确认视图列表的时间，取该服务最旧的视图。"
            }
            "Locks and semaphores" "锁与信号量" {
                LOCKS_ACQUIRED Counter "locks_acquired" ["kind"] (ClaimNumbers.acquired: Counter)
                    "Locks and permits of semaphores that were acquired, leaderships included."
                    "获得的锁和信号量许可，包括领导权。"
                LOCKS_RELEASED Counter "locks_released" ["kind"] (ClaimNumbers.released: Counter)
                    "Those that were released."
                    "其中已释放的。"
                LOCKS_LOST Counter "locks_lost" ["kind"] (ClaimNumbers.lost: Counter)
                    "Those that were lost while held."
                    "其中在持有期间丢失的。"
                LOCKS_SUSPENDED Counter "locks_suspended" ["kind"] (ClaimNumbers.suspended: Counter)
                    "How often the proof of one expired, so that its holder must not act until there is another."
                    "证明过期的次数；在得到下一次证明之前，持有者不得操作。"
                LOCKS_HELD Gauge "locks_held" ["kind"] (ClaimNumbers.held: Gauge)
                    "Locks and permits that are held, suspended ones included."
                    "持有中的锁和许可，包括挂起的。"
            }
            "Clusters" "集群" {
                CLUSTER_STATE Gauge "cluster_node_state" ["cluster", "node", "state"] ()
                    "1 for the state that this process's node is in, 0 for the others."
                    "本进程的节点所处的状态为 1，其他状态为 0。"
                CLUSTER_IN_TOUCH Gauge "cluster_in_touch" ["cluster", "node"] ()
                    "1 while this node gets answers from Consul about the leader, otherwise 0."
                    "本节点能从 Consul 得到关于 leader 的应答时为 1，否则为 0。"
                CLUSTER_HAS_LEADER Gauge "cluster_has_leader" ["cluster", "node"] ()
                    "1 while this node knows a leader, otherwise 0."
                    "本节点知道 leader 时为 1，否则为 0。"
                CLUSTER_CLOCK Gauge "cluster_clock_seconds" ["cluster", "node"] ()
                    "The time of day by this node's clock, in Unix time: a difference from the time of the scrape is an error of a clock."
                    "本节点时钟的时间（Unix 时间）：它与抓取时刻之差就是时钟的误差。"
                CLUSTER_NODES Gauge "cluster_nodes" ["cluster", "node", "state"] ()
                    "Members of the cluster by state, as this node sees them."
                    "本节点所见的各状态的集群成员数。"
                CLUSTER_MAP_EPOCH Gauge "cluster_map_epoch" ["cluster", "node"] ()
                    "The epoch of the shard map that this node knows; 0 without one."
                    "本节点所知的分片映射的 epoch；没有映射时为 0。"
                CLUSTER_FROZEN Gauge "cluster_frozen" ["cluster", "node"] ()
                    "1 while the shard map is frozen because many members vanished at once, otherwise 0."
                    "因许多成员同时消失而冻结分片映射期间为 1，否则为 0。"
                CLUSTER_PAUSED Gauge "cluster_paused" ["cluster", "node"] ()
                    "1 while an operator has paused all automatic moves of shards, otherwise 0."
                    "运维人员暂停分片的所有自动迁移期间为 1，否则为 0。"
                BUILD_INFO Gauge "build_info" ["cluster", "node", "version"] ()
                    "1, with the version of the node's release."
                    "恒为 1，带有节点的版本。"
                CLUSTER_HIDDEN Gauge "cluster_hidden" ["cluster", "node"] ()
                    "1 while ACLs hide, or may hide, nodes from this one for lack of a right, otherwise 0."
                    "因缺少权限，ACL 使（或可能使）本节点看不到其他节点期间为 1，否则为 0。"
                CONSUL_CERTIFICATE_EXPIRY Gauge "cluster_consul_certificate_expiry_timestamp_seconds" ["cluster", "node"] ()
                    "When the first of the certificates for this node's connections to Consul expires, in Unix time: its own, or the last of the authorities."
                    "本节点连接 Consul 所用证书中最先到期者的到期时间（Unix 时间）：自身的证书，或最后一个 CA 证书。"
                CLUSTER_PROBLEMS Gauge "cluster_problems" ["cluster", "node", "problem"] ()
                    "Problems of the cluster by name, as `consul-ha why` names them, that this process has found within the last minute: when its status server was asked for a page, for `/cluster` or for these numbers."
                    "本进程在最近一分钟内发现的集群问题，按名称（与 `consul-ha why` 的名称相同）：其状态服务器被请求页面、`/cluster` 或这些指标时查找。"
                CLUSTER_SHARDS Gauge "cluster_shards" ["cluster", "node", "state"] ()
                    "Replicas of shards in the map by state."
                    "映射中各状态的分片副本数。"
                CLUSTER_OWN_SHARDS Gauge "cluster_own_shards" ["cluster", "node", "role"] ()
                    "Shards that the map gives to this node, as their primary or as another replica."
                    "映射分配给本节点的分片，按主节点或其他副本区分。"
                CLUSTER_ELECTIONS_WON Counter "cluster_elections_won" ["cluster"] (ClusterNumbers.elections_won: Counter)
                    "How often a node of this process became the leader."
                    "本进程的节点成为 leader 的次数。"
                CLUSTER_LEADER_CHANGES Counter "cluster_leader_changes" ["cluster"] (ClusterNumbers.leader_changes: Counter)
                    "How often a node of this process saw the leader change or go."
                    "本进程的节点看到 leader 更换或消失的次数。"
                CLUSTER_SUSPENSIONS Counter "cluster_suspensions" ["cluster"] (ClusterNumbers.suspensions: Counter)
                    "How often a leader in this process must not act since it had no recent proof."
                    "本进程中的 leader 因没有近期的证明而不得操作的次数。"
            }
            "Calls between nodes" "节点之间的调用" {
                CALLS Counter "data_plane_calls" ["cluster", "outcome"] (ClusterNumbers.sent: Outcomes)
                    "Calls to other nodes that have ended, by ok or the kind of the error."
                    "已结束的对其他节点的调用，按 ok 或错误类型。"
                CALL_DURATION Histogram "data_plane_call_duration_seconds" ["cluster"] (ClusterNumbers.durations: Histogram)
                    "How long a call took with its retries."
                    "一次调用（包括重试）的时长。"
                CALL_RETRIES Counter "data_plane_retries" ["cluster"] (ClusterNumbers.retries: Counter)
                    "Attempts of calls after the first one."
                    "调用在第一次之后的尝试次数。"
                SERVED Counter "data_plane_served" ["cluster", "outcome"] (ClusterNumbers.served: Outcomes)
                    "Requests of other nodes that were answered, by ok or the kind of the error."
                    "已应答的其他节点的请求，按 ok 或错误类型。"
                AVOIDED Gauge "data_plane_avoided_nodes" ["cluster"] (ClusterNumbers.avoided: Gauge)
                    "Nodes to which calls fail at once, since they did not answer."
                    "因不应答而使调用立即失败的节点。"
                AVOIDANCES Counter "data_plane_circuit_openings" ["cluster"] (ClusterNumbers.avoidances: Counter)
                    "How often calls to a node began to fail at once."
                    "对某个节点的调用开始立即失败的次数。"
                STRANGERS Counter "data_plane_strangers_refused" ["cluster", "reason"] (ClusterNumbers.strangers: Strangers)
                    "Connections and requests that were refused since they did not prove that they are a node's."
                    "因不能证明来自节点而被拒绝的连接和请求。"
                CERTIFICATE_EXPIRY Gauge "data_plane_certificate_expiry_timestamp_seconds" ["cluster", "node"] ()
                    "When this node's certificate for calls ends, in Unix time."
                    "本节点用于调用的证书的到期时间（Unix 时间）。"
                WAITING Gauge "data_plane_waiting_requests" ["cluster", "node"] ()
                    "Requests that wait for this node's program."
                    "等待本节点程序处理的请求。"
            }
            "Replicated shards" "带副本的分片" {
                STORE_OPERATIONS Counter "store_operations" ["cluster", "store", "operation", "outcome"] (OperationNumbers.outcomes: Outcomes)
                    "Reads, writes and deletions of one shard that have ended, by ok or the kind of the error."
                    "已结束的单个分片的读取、写入和删除，按 ok 或错误类型。"
                STORE_DURATION Histogram "store_operation_duration_seconds" ["cluster", "store", "operation"] (OperationNumbers.durations: Histogram)
                    "How long they took."
                    "它们的时长。"
                STORE_RECORDS Counter "store_records" ["cluster", "store", "operation"] (OperationNumbers.records: Counter)
                    "Records that were read, written or deleted by them."
                    "它们读取、写入或删除的记录数。"
                STORE_COPIES Counter "store_copies" ["cluster", "store"] (StoreNumbers.copies: Counter)
                    "Replicas that were copied to this process, since a shard moved or a replica was lost."
                    "因分片迁移或副本丢失而复制到本进程的副本。"
                STORE_DOUBTED Counter "store_doubted_disks" ["cluster", "store"] (StoreNumbers.doubted: Counter)
                    "Disks that this process has opened and that may lack something: their machine was restarted, or they are old."
                    "本进程打开的、可能缺少数据的磁盘：其机器重启过，或数据是旧的。"
                STORE_UNITED Counter "store_united_shards" ["cluster", "store"] (StoreNumbers.united: Counter)
                    "Shards with too few whole replicas, so that this process, as the leader, had all that is left brought together."
                    "完整副本过少、因而由本进程作为 leader 把剩余数据合并起来的分片。"
                STORE_REPAIRS Counter "store_repairs" ["cluster", "store"] (StoreNumbers.repairs: Counter)
                    "Comparisons of two replicas that have ended."
                    "已结束的两个副本之间的比较。"
                STORE_REPAIRED_RECORDS Counter "store_repaired_records" ["cluster", "store"] (StoreNumbers.repaired_records: Counter)
                    "Records that one of the compared replicas lacked and has now."
                    "被比较的副本之一原来缺少、现在已有的记录。"
                STORE_UNREPAIRED Gauge "store_shards_unrepaired" ["cluster", "store"] ()
                    "Shards of this process in which no repair has found all replicas equal for three times repair_s."
                    "本进程持有的、已有三倍 repair_s 没有任何修复发现全部副本一致的分片。"
                STORE_AT_RISK Gauge "store_shards_at_risk" ["cluster", "store"] ()
                    "Shards with too few working replicas for writes, reads or a failover, until a node or its storage works again."
                    "可用副本少于写入、读取或故障转移所需的分片，直到节点或其存储恢复。"
                STORE_MISSING Gauge "store_replicas_missing" ["cluster", "store"] ()
                    "Replicas that are lost, whose node is down or forgotten or whose storage fails, or that no node is there for; without those that their own node makes again."
                    "已丢失的副本、其节点失效或已被移除或存储出错的副本，以及没有节点可放置的副本；不含由其自身节点重新生成的副本。"
                STORE_MOVING Gauge "store_replicas_moving" ["cluster", "store"] ()
                    "Replicas that are on their way to another node."
                    "正在迁往另一个节点的副本。"
                STORE_REPLACED Gauge "store_replicas_replaced" ["cluster", "store"] ()
                    "Replicas that are made again since they were lost."
                    "因丢失而正在重新生成的副本。"
                STORE_USABLE Gauge "store_usable" ["cluster", "store"] ()
                    "1 while this process can use the store, 0 before it knows the map and after a permanent error."
                    "本进程能使用该存储时为 1；在得知映射之前以及发生永久错误之后为 0。"
                STORE_STORAGE_ERRORS Counter "store_storage_errors" ["cluster", "store", "function"] (StoreNumbers.storage_errors: StorageErrors)
                    "Calls of functions of this process's storage that did not do what they have to."
                    "本进程的存储的函数未能完成其工作的调用次数。"
                STORE_STORAGE_FAILING Gauge "store_storage_failing" ["cluster", "store"] ()
                    "1 while a function of this process's storage fails, otherwise 0."
                    "本进程的存储有函数失败时为 1，否则为 0。"
            }
            "Process" "进程" {
                NO_DESCRIPTORS Counter "no_descriptors" [] (Numbers.no_descriptors: Counter)
                    "How often this process could not accept a connection, since no file descriptor was left."
                    "因没有剩余的文件描述符而无法接受连接的次数。"
                LOG_LEFT_OUT Counter "log_lines_left_out" [] (Numbers.lines_left_out: Counter)
                    "Log lines that were left out since there were too many of their kind."
                    "因同类日志行太多而省略的行数。"
            }
        }
    };
}

pub(super) use rows;

macro_rules! metrics {
    ($($area:literal $area_zh:literal {
        $($id:ident $kind:ident $name:literal [$($label:literal),*] ($($place:tt)*) $help:literal $help_zh:literal)+
    })+) => {
        $($(#[doc = $help]
        pub static $id: Metric = Metric {
            base: concat!("consul_ffi_", $name),
            kind: Type::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+)+

        /// The areas: titles and metrics.
        pub static AREAS: &[(&str, &[&Metric])] = &[$(($area, &[$(&$id,)+]),)+];

        /// The titles of the areas in Chinese, each with what its metrics mean.
        pub static CHINESE: &[(&str, &[&str])] = &[$(($area_zh, &[$($help_zh,)+]),)+];
    };
}

rows!(metrics);

/// Every metric, area by area.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    AREAS.iter().flat_map(|(_, metrics)| *metrics).copied()
}
