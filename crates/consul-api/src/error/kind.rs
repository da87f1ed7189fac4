//! The kinds of errors, declared once: their names, causes and cures.
//!
//! The README, docs/errors.md and the annotations show the same words.

use std::fmt;

macro_rules! kinds {
    ($($kind:ident $name:literal cause: $cause:literal cure: $cure:literal)+) => {
        /// What kind of failure an [`Error`](super::Error) is. The names are part of the public interface.
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

            /// What a user can do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Kind::$kind => $cure,)+ }
            }
        }
    };
}

kinds! {
    Argument "argument"
        cause: "A value is invalid: for the client, which then sent nothing (there is no `status`), or for the server (status 300 to 400)."
        cure: "Correct the value; the message names it."
    Config "config"
        cause: "The configuration is invalid or contradicts itself (raised by `new`), a file in it cannot be used, or the process has no descriptors or threads left."
        cure: "Correct it; the message names the option."
    Connect "connect"
        cause: "No connection, or it broke: refused, unreachable, name not found, cut, not HTTP; or the agent cannot reach any server."
        cure: "Check that the agent runs and that address and port are right; list several endpoints. After a cut connection check `maybe_applied`."
    Timeout "timeout"
        cause: "No answer within the timeout, or nothing to return before the end of a wait."
        cure: "Check whether the servers have a leader (`status_leader`); set a longer `timeout`; set `stale_if_error` for reads."
    Tls "tls"
        cause: "The TLS handshake failed; the message gives the reason."
        cure: "Correct the authority, the server name, the client certificate, or the clock."
    Http "http"
        cause: "The server returned an error that has no kind of its own."
        cure: "Read the message, which is the server's, and the log of the server."
    NotFound "not_found"
        cause: "The object to change, or an ACL object to read, does not exist; a service view has no instance to pick."
        cure: "Create it first; an agent that was restarted without its data has lost its services and checks."
    PermissionDenied "permission_denied"
        cause: "The token lacks a permission."
        cure: "The message names the permission (Consul 1.8 does not); add it to a policy of the token. `acl_authorize` returns which permissions a token has."
    AclNotFound "acl_not_found"
        cause: "The server does not know the token."
        cure: "Use a token that exists; a new one takes a moment to reach all servers. With `token_file` the client has already retried the call if the file had another token by then."
    RateLimited "rate_limited"
        cause: "Too many requests, or more than 200 connections from one address."
        cure: "Make fewer calls at once, use fewer clients in a process or a lower `max_connections`; check Consul's `limits`."
    NoLeader "no_leader"
        cause: "The servers have no Raft leader at the moment."
        cure: "Wait: an election takes seconds. If it lasts, too few servers run."
    NotReady "not_ready"
        cause: "A cluster node cannot serve yet: it has not joined, too few replicas answered, or its program has handlers and has not polled for twice its check's TTL."
        cure: "The message names the reason: start the missing nodes or Consul, or let the program call `poll`, `run` or any method that waits more often."
    Conflict "conflict"
        cause: "Consul answered `false`: a compare-and-set failed, or the lock is held by another session or within its lock delay."
        cure: "Read again and decide again; wait with a blocking query."
    TxnFailed "txn_failed"
        cause: "A transaction was refused, and none of its operations was applied."
        cure: "`err.operations` lists the operations that failed, with the reasons."
    SessionInvalid "session_invalid"
        cause: "The session does not exist, or no longer: it expired, or one of its checks failed."
        cure: "Its locks are lost: stop the work that they protect, and create another session."
    TooLarge "too_large"
        cause: "The request is larger than the server accepts, or the answer is larger than 256 MiB."
        cure: "A value holds up to 512 KiB; split larger ones; list keys and read them in parts."
    Decode "decode"
        cause: "The answer is not Consul's: truncated JSON, JSON of another form, a web page, a 404 of another program; or it is about another key or object, which a proxy has confused."
        cure: "Check which program listens there: the message names the address and, unless the answer can hold a secret, shows its beginning."
    Closed "closed"
        cause: "The client was closed, or the handle, watch, view, lock or node that was used."
        cure: "Create another one."
    Unsupported "unsupported"
        cause: "The server does not support the operation, or access control is off."
        cure: "Use a newer Consul; the message names the version."
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
