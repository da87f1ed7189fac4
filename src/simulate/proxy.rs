//! What the definition of a mesh proxy must say.

use super::store::catalog::Service;
use serde_json::Value;

const CONNECT_PROXY: &str = "connect-proxy";

/// The service that a proxy speaks for; `None` for what is no proxy.
pub(super) fn destination(service: &Service) -> Option<&str> {
    if service.kind != CONNECT_PROXY {
        return None;
    }
    service.proxy.as_ref()?.get("DestinationServiceName")?.as_str()
}

/// Whether a service is native to the mesh.
pub(super) fn is_native(service: &Service) -> bool {
    let native = service.connect.as_ref().and_then(|connect| connect.get("Native"));
    native == Some(&Value::Bool(true))
}

/// Refuses a proxy that does not say what it is for, and what is in the mesh without a place.
pub(super) fn check(service: &Service) -> Result<(), String> {
    let has_place = service.port != 0 || !service.socket_path.is_empty();
    let mut wrong = Vec::new();
    if service.kind == CONNECT_PROXY {
        check_proxy(service, has_place, &mut wrong);
    }
    if is_native(service) && !has_place {
        wrong.push("Port or SocketPath must be set for a Connect native service.");
    }
    let lines: String = wrong.iter().map(|why| format!("\n\t* {why}")).collect();
    match wrong.len() {
        0 => Ok(()),
        1 => Err(format!("1 error occurred:{lines}\n\n")),
        count => Err(format!("{count} errors occurred:{lines}\n\n")),
    }
}

fn check_proxy(service: &Service, has_place: bool, wrong: &mut Vec<&'static str>) {
    if !has_place {
        wrong.push("Port or SocketPath must be set for a connect-proxy");
    }
    match destination(service).map(str::trim) {
        None | Some("") => {
            wrong.push("Proxy.DestinationServiceName must be non-empty for Connect proxy services");
        }
        Some("*") => {
            wrong.push(
                "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services",
            );
        }
        Some(_) => {}
    }
    if is_native(service) {
        wrong.push("A Proxy cannot also be Connect Native, only typical services");
    }
}
