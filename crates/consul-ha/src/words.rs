//! Errors about the module's options in the words of this program's flags.

use consul_api::error::{Error, Kind};
use consul_cli::words::{self, CONSUL, Words};

/// The options of a cluster.
const CLUSTER: Words = Words {
    flags: &[
        ("leader_key", "--leader-key"),
        ("nodes_prefix", "--nodes-prefix"),
        ("shards_prefix", "--shards-prefix"),
        ("config_key", "--config-key"),
        ("cluster_key", "--cluster-key-file"),
        ("cert_file", "--data-cert"),
        ("key_file", "--data-key"),
        ("ca_file", "--data-ca"),
    ],
    first: &[("address", "--listen")],
    phrases: &[("data_tls: ", ""), ("data_tls.", "")],
};

/// The message of an error.
pub fn message(error: &Error) -> String {
    match error.kind() {
        Kind::Config | Kind::Tls => of_flags(error.message()),
        // An agent has answered, which has no connection to any server.
        Kind::Connect if error.status().is_some() => format!(
            "Consul's agent runs, and reaches none of Consul's servers: start most of them; until then the page of each \
             node shows what that node knows ({})",
            error.message()
        ),
        _ => error.message().to_owned(),
    }
}

/// A message about options as one about flags. A quoted text stays as it is.
pub fn of_flags(message: &str) -> String {
    words::of_flags(message, &[&CONSUL, &CLUSTER])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hints of the client are in the words of the module's options.
    #[test]
    fn no_option_for_tls_is_named_as_the_module_names_it() {
        let of_tls = |name: &&str| name.starts_with("tls_");
        for option in consul_config::OPTIONS.iter().map(|option| option.name).filter(of_tls) {
            let error =
                Error::new(Kind::Tls, format!("the certificate is not trusted (set {option})"));
            assert!(!message(&error).contains("tls_"), "{option}: {}", message(&error));
        }
    }

    /// Each answer of an agent that reaches no server.
    #[test]
    fn servers_that_are_away_are_named_with_the_cure() {
        for (kind, status, is_told) in [
            (Kind::Connect, Some(500), true),
            (Kind::Connect, Some(503), true),
            (Kind::Connect, None, false),
            (Kind::Timeout, Some(500), false),
            (Kind::Http, Some(500), false),
        ] {
            let error = Error::new(kind, "kv_list \"tsdb/nodes/\": as Consul says it");
            let error = status.into_iter().fold(error, Error::with_status);
            let said = message(&error);
            assert_eq!(said.contains("start most of them"), is_told, "{kind:?} {status:?}: {said}");
            assert!(said.contains("as Consul says it") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn options_become_flags_outside_of_what_is_quoted() {
        for (message, shown) in [
            ("token_file: /nope: No such file", "--token-file: /nope: No such file"),
            (
                r#"nodes_prefix is "leader_key/" and leader_key is "x": they overlap"#,
                r#"--nodes-prefix is "leader_key/" and --leader-key is "x": they overlap"#,
            ),
            ("tls_ca_file has no effect", "--ca-file has no effect"),
            ("that tls_ca_file or tls_ca_path names", "that --ca-file or CONSUL_CAPATH names"),
            (r#"endpoints is "": it is not a URL"#, r#"--http-addr is "": it is not a URL"#),
            ("endpoints[2] is wrong", "--http-addr[2] is wrong"),
            ("timeout is 0", "--timeout-ms is 0"),
            ("timeouts of the endpoints", "timeouts of the endpoints"),
            ("data_tls: cert_file: f", "--data-cert: f"),
            ("data_tls.cert_file: f", "--data-cert: f"),
            ("my_token_file", "my_token_file"),
        ] {
            assert_eq!(of_flags(message), shown);
        }
    }
}
