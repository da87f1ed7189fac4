//! Auth methods of type `kubernetes`: their configuration, without logins, for which Consul asks the API of Kubernetes.

use super::jwt;
use crate::http::decode::Json;
use consul_process::files::pem;
use std::collections::BTreeMap;

/// The fields of `Config` that a method of this type knows.
const KNOWN: &[&str] = &["CACert", "Host", "MapNamespaces", "ServiceAccountJWT"];

/// The variables of templates.
const VARIABLES: [&str; 3] =
    ["serviceaccount.name", "serviceaccount.namespace", "serviceaccount.uid"];

/// Refuses a configuration that Consul refuses.
pub(super) fn check(config: &[(String, Json)]) -> Result<(), String> {
    jwt::check_known(config, KNOWN)?;
    let text = |name: &str| {
        let member = config.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        // A number is the text of it.
        match member.map(|(_, value)| value) {
            None | Some(Json::Null) => Ok(String::new()),
            Some(Json::Text(text)) => Ok(text.clone()),
            Some(Json::Number(number)) => Ok(number.to_string()),
            Some(_) => Err(jwt::refused(&format!("'{name}' expected type 'string'"))),
        }
    };
    let required = |name: &str| match text(name)? {
        text if text.is_empty() => Err(format!("Config.{name} is required")),
        text => Ok(text),
    };
    required("Host")?;
    if !pem::is_certificate(&required("CACert")?) {
        let why = "data does not contain any valid RSA or ECDSA certificates";
        return Err(format!("error parsing kubernetes ca cert: {why}"));
    }
    check_token(&required("ServiceAccountJWT")?)
        .map_err(|why| format!("Config.ServiceAccountJWT is not a valid JWT: {why}"))
}

/// Refuses what does not have the form of a JWT.
fn check_token(token: &str) -> Result<(), String> {
    match token.split('.').count() {
        3 => Ok(()),
        _ => Err("go-jose/go-jose: compact JWS format must have three parts".to_owned()),
    }
}

/// The variables of templates, each with the text that stands for it when a rule is checked.
pub(super) fn variables() -> BTreeMap<String, String> {
    VARIABLES.map(|name| (name.to_owned(), "fake".to_owned())).into()
}

/// The refusal of a login.
pub(super) fn refuse(token: &str) -> String {
    match check_token(token) {
        Err(why) => format!("failed to parse and validate JWT: {why}"),
        Ok(()) => "the simulated agent does not ask the API of Kubernetes, so nobody logs in by this method".to_owned(),
    }
}
