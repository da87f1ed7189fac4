//! A token that is replaced in its file and deleted in Consul costs no failed call: on the
//! simulated agent behind a socket and on real Consuls.

use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use consul_api as wire;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_client::Client;
use consul_config::Config;
use consul_config::connect::connect;

/// How many times the token is replaced.
const ROTATIONS: usize = 20;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for version in [consul::SIM, "1.21", "1.8"] {
        let missing = consul::is_missing(version, &format!("a token's file on Consul {version}"));
        trials.add_unless(
            missing,
            format!("a_replaced_token_fails_no_call [{version}]"),
            move || RealConsul::start_with_acl(version, "deny").map(|consul| rotate(&consul)),
        );
    }
    trials
}

fn client(consul: &RealConsul, name: &str, value: &str) -> Client {
    let given = [("endpoint", consul.address.as_str()), (name, value)];
    let given = given.map(|(name, value)| (name.to_owned(), Value::from(value)));
    connect(&Config::new(&given, |_| None).expect("a configuration")).expect("a client")
}

fn call(client: &Client, method: &str, args: Args) -> Result<Answer, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let endpoint = wire::endpoint(method).expect("a method");
    runtime.expect("a runtime").block_on(client.call(endpoint, &args))
}

/// A new token with all permissions: its secret and its accessor.
fn new_token(admin: &Client) -> (String, String) {
    let policy = Value::Map(vec![("Name".to_owned(), "global-management".into())]);
    let token = Value::Map(vec![("Policies".to_owned(), Value::List(vec![policy]))]);
    let created = call(admin, "acl_token_create", Args::new().arg(token)).expect("a token").value;
    let text = |name| created.get(name).and_then(Value::as_str).expect(name).to_owned();
    (text("SecretID"), text("AccessorID"))
}

fn rotate(consul: &RealConsul) {
    let admin = client(consul, "token", &consul.token);
    let folder = Folder::new();
    let (secret, mut accessor) = new_token(&admin);
    let file = folder.file("token", secret);
    let follower = client(consul, "token_file", &file);
    let put = |value: &str| Args::new().arg("k").arg(value);
    call(&follower, "kv_put", put("0").opt("cas", 0)).expect("it is made");
    for rotation in 1..=ROTATIONS {
        let (secret, next) = new_token(&admin);
        folder.file("token", secret + "\n");
        call(&admin, "acl_token_delete", Args::new().arg(accessor)).expect("it is deleted");
        accessor = next;
        // This write may not be repeated, but a refused one was not applied.
        let read = call(&admin, "kv_get", Args::new().arg("k")).expect("an answer");
        let index = read.meta.entry.expect("an entry").modify_index;
        let cas = put(&rotation.to_string()).opt("cas", index);
        call(&follower, "kv_put", cas).expect("no call fails");
    }
    let read = call(&follower, "kv_get", Args::new().arg("k")).expect("an answer");
    assert_eq!(read.value, ROTATIONS.to_string().into());
    call(&admin, "acl_token_delete", Args::new().arg(accessor)).expect("it is deleted");
    let error = call(&follower, "kv_get", Args::new().arg("k")).expect_err("no token is left");
    assert_eq!(error.kind(), Kind::AclNotFound, "{error}");
}
