//! A program; one of its instances works at a time.

use consul_api::api::{kv, session};
use consul_api::error::Error;
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;

/// Tries once to become the leader, for as long as a session of 10 s is not renewed.
///
/// # Errors
/// Errors of the calls.
pub async fn becomes_leader(client: &Client, instance: &str) -> Result<bool, Error> {
    let definition =
        Value::Map(vec![("ttl".to_owned(), "10s".into()), ("lock_delay".to_owned(), "0s".into())]);
    let id = client.call(&session::CREATE, &Args::new().arg(definition)).await?.value;
    let acquire = Args::new().arg("leader").arg(instance).opt("acquire", id);
    Ok(client.call(&kv::PUT, &acquire).await?.value == Value::Bool(true))
}
