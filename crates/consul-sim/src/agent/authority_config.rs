//! The configuration of the mesh's certificate authority. Only the lifetime of certificates has an effect.
//!
//! Source: `ParseConsulCAConfig` of Consul's package `connect/ca`, and Consul 1.21.

use super::authority::{AuthorityConfig, HOUR, nanos};
use super::connect::{authority, disabled};
use crate::acl::{Access, Resource};
use crate::go;
use crate::http::decode::{GoType, Json, Object, body, decode_error};
use crate::http::reply::{Refusal, Reply};
use crate::http::request::Call;
use crate::store::State;
use crate::store::watch::Topic;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// Refuses a configuration that Consul refuses, or that requires another kind of key.
fn check(config: &Value) -> Result<(), String> {
    let time = |name: &str, default: i64| {
        nanos(config.get(name), default * HOUR).map_err(|why| {
            format!(
                "error decoding config: 1 error(s) decoding:\n\n* error decoding '{name}': {why}"
            )
        })
    };
    let (root, intermediate, leaf) = (
        time("RootCertTTL", 87_600)?,
        time("IntermediateCertTTL", 8760)?,
        time("LeafCertTTL", 72)?,
    );
    let is_given =
        |name: &str| config.get(name).is_some_and(|value| value != "" && !value.is_null());
    if is_given("RootCert") && !is_given("PrivateKey") {
        return Err("must provide a private key when providing a root cert".to_owned());
    }
    if root < intermediate {
        let (root, intermediate) =
            (go::signed_duration_text(root), go::signed_duration_text(intermediate));
        return Err(format!(
            "root cert TTL is set and is not greater than intermediate cert ttl. root cert ttl: {root}, intermediate cert ttl: {intermediate}"
        ));
    }
    if leaf < HOUR {
        return Err("leaf cert TTL must be greater or equal than 1h0m0s".to_owned());
    }
    if leaf > 8760 * HOUR {
        return Err("leaf cert TTL must be less than 8760h0m0s".to_owned());
    }
    let bits = config.get("PrivateKeyBits").and_then(Value::as_u64).unwrap_or(256);
    match config.get("PrivateKeyType").and_then(Value::as_str).unwrap_or("ec") {
        "ec" if ![224, 256, 384, 521].contains(&bits) => {
            return Err("EC key length must be one of (224, 256, 384, 521) bits".to_owned());
        }
        "rsa" if ![2048, 4096].contains(&bits) => {
            return Err("RSA key length must be 2048 or 4096 bits".to_owned());
        }
        "ec" if bits == 256 => {}
        "ec" | "rsa" => return Err("consul-sim has only EC keys of 256 bits".to_owned()),
        _ => return Err("private key type must be either 'ec' or 'rsa'".to_owned()),
    }
    if intermediate < 3 * HOUR {
        return Err("Intermediate Cert TTL must be greater or equal than 3h".to_owned());
    }
    if intermediate < 3 * leaf {
        let least = go::signed_duration_text(3 * leaf);
        return Err(format!(
            "Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>={least})."
        ));
    }
    Ok(())
}

pub(super) fn read(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    if !state.connect {
        return Err(disabled());
    }
    state.authority(call).check(Resource::Operator, "", Access::Write)?;
    Ok(Reply::json(call.style, &state.authority_config))
}

pub(super) fn update(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    const REQUEST: GoType = GoType {
        value: "struct { ForceWithoutCrossSigningSnake bool \"json:\\\"force_without_cross_signing\\\"\"; *structs.Alias }",
        fields: ".Alias.",
    };
    const OBJECT: &str = "map[string]interface {}";
    let json = body(&call.body)?;
    let given = Object::of_body(&json, REQUEST)?;
    let read = || {
        given.check_known(&[
            "Provider",
            "Config",
            "State",
            "ForceWithoutCrossSigning",
            "force_without_cross_signing",
            "CreateIndex",
            "ModifyIndex",
        ])?;
        let object = |members: &[(String, Json)]| Value::from(&Json::Object(members.to_vec()));
        let config = given.object("Config", OBJECT)?.map_or(Value::Null, object);
        let force =
            given.flag("ForceWithoutCrossSigning")? || given.flag("force_without_cross_signing")?;
        let expected = given.uint("ModifyIndex")?;
        Ok((given.text("Provider")?, config, given.text_map("State")?, force, expected))
    };
    let (provider, config, known_state, force, expected) = read().map_err(decode_error)?;
    if !state.connect {
        return Err(disabled());
    }
    state.authority(call).check(Resource::Operator, "", Access::Write)?;
    let present = &state.authority_config;
    if known_state.as_ref().is_some_and(|known| !known.is_empty()) && known_state != present.state {
        return Err(Refusal::bad(
            "Provider State is read-only. It must be omitted or identical to the current value",
        ));
    }
    match provider.as_str() {
        "consul" => check(&config),
        "vault" | "aws-pca" => {
            Err(format!("consul-sim has no CA provider {}", go::quoted(&provider)))
        }
        _ => {
            let provider = go::quoted(&provider);
            let why = format!("could not initialize provider: unknown CA provider {provider}");
            return Err(Refusal::server(why));
        }
    }
    .map_err(|why| Refusal::server(format!("error configuring provider: {why}")))?;
    if expected != 0 && expected != present.modify_index {
        return Err(Refusal::server("ModifyIndex did not match existing"));
    }
    let test_state = config.get("test_state").and_then(Value::as_object).map(|members| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        members.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    });
    let index = state.next_index();
    let changed = AuthorityConfig {
        provider,
        config,
        state: test_state.or_else(|| state.authority_config.state.clone()),
        force_without_cross_signing: force,
        create_index: state.authority_config.create_index,
        modify_index: index,
    };
    if changed.given() != state.authority_config.given() {
        let rotated = authority(state)?.rotated(
            &state.settings.cluster_id,
            changed.given(),
            state.since_1970(),
            changed.root_lifetime(),
            index,
        );
        if let Some(rotated) = rotated.map_err(Refusal::server)? {
            state.authority = Arc::new(Ok(rotated).into());
        }
    }
    state.authority_config = changed;
    state.touch(Topic::Authority);
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    Ok(Reply::empty(StatusCode::OK).with(CONTENT_TYPE, JSON))
}
