//! Errors about the module's options in the words of this program's flags.

use consul_api::error::{Error, Kind};

/// The options that flags give. Their names are in a message wherever it speaks of them.
const FLAGS: [(&str, &str); 13] = [
    ("token_file", "--token-file"),
    ("tls_ca_file", "--ca-file"),
    ("tls_cert_file", "--client-cert"),
    ("tls_key_file", "--client-key"),
    ("tls_server_name", "--tls-server-name"),
    ("leader_key", "--leader-key"),
    ("nodes_prefix", "--nodes-prefix"),
    ("shards_prefix", "--shards-prefix"),
    ("config_key", "--config-key"),
    ("cluster_key", "--cluster-key-file"),
    ("cert_file", "--data-cert"),
    ("key_file", "--data-key"),
    ("ca_file", "--data-ca"),
];

/// Options whose names are words: they are an option's name at the beginning of a message alone.
const FIRST: [(&str, &str); 4] = [
    ("endpoints", "--http-addr"),
    ("timeout", "--timeout-ms"),
    ("datacenter", "--datacenter"),
    ("address", "--listen"),
];

/// What a program sets in its options, and the reader of a command line elsewhere.
const PHRASES: [(&str, &str); 3] = [
    ("data_tls: ", ""),
    ("set tls = true or use https://", "give --http-addr https://…"),
    ("which the option http_auth takes", "which CONSUL_HTTP_AUTH takes"),
];

/// The message of an error.
pub fn message(error: &Error) -> String {
    match error.kind() {
        Kind::Config => of_flags(error.message()),
        _ => error.message().to_owned(),
    }
}

/// A message about options as one about flags. What it quotes stays as it is.
pub fn of_flags(message: &str) -> String {
    let mut message = message.to_owned();
    for (phrase, other) in PHRASES {
        message = message.replace(phrase, other);
    }
    for (option, flag) in FIRST {
        let rest = message.strip_prefix(option).filter(|rest| !rest.starts_with(is_of_word));
        if let Some(rest) = rest {
            message = format!("{flag}{rest}");
        }
    }
    let parts = message.split('"').enumerate();
    let parts = parts.map(|(place, part)| match place % 2 {
        0 => with_flags(part),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("\"")
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn with_flags(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_of_word) {
        let length = rest[start..].find(|c| !is_of_word(c)).unwrap_or(rest.len() - start);
        let (before, word) = (&rest[..start], &rest[start..start + length]);
        let flag = FLAGS.iter().find(|(option, _)| *option == word).map_or(word, |(_, flag)| flag);
        words.push_str(before);
        words.push_str(flag);
        rest = &rest[start + length..];
    }
    words + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_outside_of_what_is_quoted() {
        for (message, shown) in [
            ("token_file: /nope: No such file", "--token-file: /nope: No such file"),
            (
                r#"nodes_prefix is "leader_key/" and leader_key is "x": they overlap"#,
                r#"--nodes-prefix is "leader_key/" and --leader-key is "x": they overlap"#,
            ),
            ("tls_ca_file has no effect", "--ca-file has no effect"),
            (r#"endpoints is "": it is not a URL"#, r#"--http-addr is "": it is not a URL"#),
            ("endpoints[2] is wrong", "--http-addr[2] is wrong"),
            ("timeout is 0", "--timeout-ms is 0"),
            ("timeouts of the endpoints", "timeouts of the endpoints"),
            ("data_tls: cert_file: f", "--data-cert: f"),
            ("my_token_file", "my_token_file"),
        ] {
            assert_eq!(of_flags(message), shown);
        }
    }
}
