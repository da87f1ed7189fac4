//! The kinds of errors, declared once: their names, causes and cures in both languages, and the exit statuses.
//!
//! `cargo xtask reference` writes these words into docs/errors.md, docs/zh/errors.md and the annotations.

use std::fmt;

macro_rules! kinds {
    ($($kind:ident $name:literal exit: $exit:literal cause: $cause:literal cure: $cure:literal
        zh: $cause_zh:literal $cure_zh:literal)+) => {
        /// The kind of failure of an [`Error`](super::Error). The names are part of the public interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $cause] $kind,)+
        }

        impl Kind {
            /// Every kind, in the order of the reference.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)+];

            /// The name that Lua programs compare with.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)+ }
            }

            /// Why a call fails so, in one sentence.
            pub const fn cause(self) -> &'static str {
                match self { $(Kind::$kind => $cause,)+ }
            }

            /// The cure.
            pub const fn cure(self) -> &'static str {
                match self { $(Kind::$kind => $cure,)+ }
            }

            /// Cause and cure in Chinese.
            pub const fn chinese(self) -> (&'static str, &'static str) {
                match self { $(Kind::$kind => ($cause_zh, $cure_zh),)+ }
            }

            /// The exit status of a program whose call failed so: 2 for its arguments and options, 3 without
            /// Consul, 5 without a permission, otherwise 1.
            pub const fn exit_status(self) -> u8 {
                match self { $(Kind::$kind => $exit,)+ }
            }
        }
    };
}

kinds! {
    Argument "argument" exit: 2
        cause: "A value is invalid: for the client, which then sent nothing (there is no `status`), or for the server (status 300 to 400)."
        cure: "Correct the value; the message names it."
        zh: "某个值不合法：或者客户端不接受（此时没有发出任何请求，也没有 `status`），或者服务器不接受（状态码 300 到 400）。"
            "改正该值；错误信息会指出它。"
    Config "config" exit: 2
        cause: "The configuration is invalid or contradicts itself (raised by `new`), a file in it cannot be used, or the process has no descriptors or threads left."
        cure: "Correct it; the message names the option."
        zh: "配置不合法或自相矛盾（由 `new` 抛出），其中的某个文件无法使用，或者进程的描述符或线程已用尽。"
            "改正它；错误信息会指出选项。"
    Connect "connect" exit: 3
        cause: "No connection, or it broke: refused, unreachable, name not found, cut, not HTTP; or the agent cannot reach any server."
        cure: "Check that the agent runs and that address and port are right; list several endpoints. After a cut connection check `maybe_applied`."
        zh: "无法连接或连接中断：被拒绝、不可达、域名无法解析、被切断、对方不是 HTTP；或者 agent 自身连不上任何服务器。"
            "检查 agent 是否在运行，地址和端口是否正确；列出多个端点。连接中断之后检查 `maybe_applied`。"
    Timeout "timeout" exit: 3
        cause: "No answer within the timeout, or nothing to return before the end of a wait."
        cure: "Check whether the servers have a leader (`status_leader`); set a longer `timeout`; set `stale_if_error` for reads."
        zh: "在超时时间内没有应答，或者等待结束时没有可返回的内容。"
            "检查服务器是否有 leader（`status_leader`）；设置更长的 `timeout`；为读取设置 `stale_if_error`。"
    Tls "tls" exit: 3
        cause: "The TLS handshake failed; the message gives the reason."
        cure: "Correct the authority, the server name, the client certificate, or the clock."
        zh: "TLS 握手失败；错误信息给出原因。"
            "改正 CA、服务器名称、客户端证书或时钟。"
    Http "http" exit: 1
        cause: "The server returned an error that has no kind of its own."
        cure: "Read the message, which is the server's, and the log of the server."
        zh: "服务器返回了错误，且该错误没有专门的类型。"
            "阅读来自服务器的错误信息，以及服务器的日志。"
    NotFound "not_found" exit: 1
        cause: "The object to change, or an ACL object to read, does not exist; a service view has no instance to pick."
        cure: "Create it first; an agent that was restarted without its data has lost its services and checks."
        zh: "要修改的对象或要读取的 ACL 对象不存在；服务视图中没有可选的实例。"
            "先创建它；不带数据重启的 agent 已失去它的服务和检查。"
    PermissionDenied "permission_denied" exit: 5
        cause: "The token lacks a permission."
        cure: "The message names the permission (Consul 1.8 does not); add it to a policy of the token. `acl_authorize` returns which permissions a token has."
        zh: "令牌（token）缺少权限。"
            "错误信息会指出权限（Consul 1.8 不会）；把它加入令牌的策略。`acl_authorize` 返回令牌拥有哪些权限。"
    AclNotFound "acl_not_found" exit: 5
        cause: "The server does not know the token."
        cure: "Use a token that exists; a new one takes a moment to reach all servers. With `token_file` the client has already retried the call, with the token that the file had by then and with the last accepted token."
        zh: "服务器不认识该令牌。"
            "使用存在的令牌；新令牌要过片刻才能到达所有服务器。使用 `token_file` 时，客户端已经用文件届时的令牌和上一次被接受的令牌重试过该调用。"
    RateLimited "rate_limited" exit: 3
        cause: "Too many requests, or more than 200 connections from one address."
        cure: "Make fewer calls at once, use fewer clients in a process or a lower `max_connections`; check Consul's `limits`."
        zh: "请求过多，或者来自同一地址的连接超过 200 个。"
            "减少同时进行的调用，在进程中使用更少的客户端或更小的 `max_connections`；检查 Consul 的 `limits`。"
    NoLeader "no_leader" exit: 3
        cause: "The servers have no Raft leader at the moment."
        cure: "Wait: an election takes seconds. If it lasts, too few servers run."
        zh: "服务器当前没有 Raft leader。"
            "等待：选举需要几秒。如果持续如此，说明运行的服务器太少。"
    NotReady "not_ready" exit: 1
        cause: "A cluster node cannot serve yet: it has not joined, too few replicas answered, or its program has handlers and has not polled for twice its check's TTL."
        cure: "The message names the reason: start the missing nodes or Consul, or let the program call `poll`, `run` or any method that waits more often."
        zh: "集群节点还不能提供服务：它尚未加入集群，应答的副本太少，或者它的程序有处理函数（handler），但超过其检查 TTL 的两倍时间没有 poll。"
            "错误信息给出原因：启动缺少的节点或 Consul，或使程序更频繁地调用 `poll`、`run` 或任何等待的方法。"
    Conflict "conflict" exit: 1
        cause: "Consul answered `false`: a compare-and-set failed, or the lock is held by another session or within its lock delay. Or it left a check out of a transaction."
        cure: "Read again and decide again; wait with a blocking query."
        zh: "Consul 应答 `false`：比较并交换（compare-and-set，CAS）失败，或锁由其他会话持有，或仍处于锁延迟期内。或者 Consul 在事务中漏掉了某个检查。"
            "重新读取并重新决定；用阻塞查询等待。"
    TxnFailed "txn_failed" exit: 1
        cause: "A transaction was refused, and none of its operations was applied."
        cure: "`err.operations` lists the operations that failed, with the reasons."
        zh: "事务被拒绝，其中的任何操作都没有生效。"
            "`err.operations` 列出失败的操作及原因。"
    SessionInvalid "session_invalid" exit: 1
        cause: "The session does not exist, or no longer: it expired, or one of its checks failed."
        cure: "Its locks are lost: stop the work that they protect, and create another session."
        zh: "会话（session）不存在，或已经失效：它已过期，或它的某个检查失败。"
            "它的锁已经丢失：停止这些锁所保护的工作，并创建另一个会话。"
    TooLarge "too_large" exit: 1
        cause: "The request is larger than the server accepts, or the answer is larger than 256 MiB."
        cure: "A value holds up to 512 KiB, that of a lock and all of a transaction some 380 KiB; split larger ones; list keys and read them in parts."
        zh: "请求超过了服务器接受的大小，或应答超过了 256 MiB。"
            "一个值最大 512 KiB，锁的值以及一个事务的全部值约 380 KiB；更大的请拆分；列出键并分批读取。"
    Decode "decode" exit: 1
        cause: "The answer is not Consul's: truncated JSON, JSON of another form, a web page, a 404 of another program; or it is about another key or object, which a proxy has confused."
        cure: "Check which program listens there: the message names the address and, unless the answer can hold a secret, shows its beginning."
        zh: "应答不是来自 Consul：被截断的 JSON、形式不同的 JSON、网页、其他程序的 404；或者属于另一个键或对象，即代理混淆了应答。"
            "检查在那里监听的是哪个程序：错误信息给出地址，并且在应答不可能含有机密时显示其开头。"
    Closed "closed" exit: 1
        cause: "The client was closed, or the handle, watch, view, lock or node that was used."
        cure: "Create another one."
        zh: "客户端，或者所使用的句柄、监视、视图、锁或节点已关闭。"
            "重新创建一个。"
    Unsupported "unsupported" exit: 1
        cause: "The server does not support the operation, or access control is off."
        cure: "Use a newer Consul; the message names the version."
        zh: "服务器不支持该操作，或者没有启用访问控制。"
            "使用更新的 Consul；错误信息会指出版本。"
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;
    use std::collections::HashSet;

    #[test]
    fn names_of_kinds_are_distinct() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
