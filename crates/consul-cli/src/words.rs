//! Errors about the module's options in the words of a program's flags.

use consul_api::error::{Error, Kind};

/// Options and their flags.
#[derive(Debug)]
pub struct Words {
    /// The options that flags give. Their names are in a message wherever it speaks of them.
    pub flags: &'static [(&'static str, &'static str)],
    /// Options whose names are words: they are an option's name at the beginning of a message alone.
    pub first: &'static [(&'static str, &'static str)],
    /// A setting that programs have in their options, and a reader of a command line elsewhere.
    pub phrases: &'static [(&'static str, &'static str)],
}

/// The words of [`super::consul::Consul`].
pub const CONSUL: Words = Words {
    flags: &[
        ("token_file", "--token-file"),
        ("tls_ca_file", "--ca-file"),
        ("tls_ca_path", "CONSUL_CAPATH"),
        ("tls_cert_file", "--client-cert"),
        ("tls_key_file", "--client-key"),
        ("tls_server_name", "--tls-server-name"),
        ("tls_verify", "CONSUL_HTTP_SSL_VERIFY"),
    ],
    first: &[
        ("endpoints", "--http-addr"),
        ("timeout", "--timeout-ms"),
        ("datacenter", "--datacenter"),
    ],
    phrases: &[
        ("set tls = true or use https://", "give --http-addr https://…"),
        ("which the option http_auth takes", "which CONSUL_HTTP_AUTH takes"),
    ],
};

/// A message about options as one about flags. A quoted text stays as it is.
pub fn of_flags(message: &str, words: &[&Words]) -> String {
    let mut message = message.to_owned();
    for (phrase, other) in words.iter().flat_map(|words| words.phrases) {
        message = message.replace(phrase, other);
    }
    for (option, flag) in words.iter().flat_map(|words| words.first) {
        let rest = message.strip_prefix(*option).filter(|rest| !rest.starts_with(is_of_word));
        if let Some(rest) = rest {
            message = format!("{flag}{rest}");
        }
    }
    let parts = message.split('"').enumerate();
    let parts = parts.map(|(place, part)| match place % 2 {
        0 => with_flags(part, words),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("\"")
}

/// An error whose message names options, now with flags; others quote servers and keys.
pub fn in_flags(error: Error, words: &[&Words]) -> Error {
    match error.kind() {
        Kind::Config | Kind::Tls => error.map_message(|message| of_flags(message, words)),
        _ => error,
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn with_flags(text: &str, words: &[&Words]) -> String {
    let all = words.iter().flat_map(|words| words.flags);
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_of_word) {
        let length = rest[start..].find(|c| !is_of_word(c)).unwrap_or(rest.len() - start);
        let (before, word) = (&rest[..start], &rest[start..start + length]);
        let flag = all.clone().find(|(option, _)| *option == word).map_or(word, |(_, flag)| flag);
        shown.push_str(before);
        shown.push_str(flag);
        rest = &rest[start + length..];
    }
    shown + rest
}
