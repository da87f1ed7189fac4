//! Validation of mesh proxies, and of services that are in the mesh without one.

use crate::simulate::store::catalog::{CONNECT_PROXY, Service};

/// Refuses a proxy without a destination, and a mesh service without a port or socket.
pub(crate) fn check(service: &Service) -> Result<(), String> {
    let has_port = service.port != 0 || !service.socket_path.is_empty();
    let mut wrong = Vec::new();
    if service.kind == CONNECT_PROXY {
        check_proxy(service, has_port, &mut wrong);
    }
    if service.is_connect_native() && !has_port {
        wrong.push("Port or SocketPath must be set for a Connect native service.");
    }
    let lines: String = wrong.iter().map(|why| format!("\n\t* {why}")).collect();
    match wrong.len() {
        0 => Ok(()),
        1 => Err(format!("1 error occurred:{lines}\n\n")),
        count => Err(format!("{count} errors occurred:{lines}\n\n")),
    }
}

fn check_proxy(service: &Service, has_port: bool, wrong: &mut Vec<&'static str>) {
    if !has_port {
        wrong.push("Port or SocketPath must be set for a connect-proxy");
    }
    match service.proxy_destination().map(str::trim) {
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
    if service.is_connect_native() {
        wrong.push("A Proxy cannot also be Connect Native, only typical services");
    }
}
