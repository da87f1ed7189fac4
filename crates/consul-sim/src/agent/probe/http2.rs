//! Checks that speak HTTP/2: pings, and the health service of gRPC.

use super::stream;
use crate::agent::checks::{CheckTls, ProbeResult};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{SendRequest, handshake};
use h2::{Ping, PingPong};
use http::{HeaderMap, Request};
use tokio::task::AbortHandle;

const PROTOCOLS: &[&[u8]] = &[b"h2"];

/// A connection that ends when it is dropped.
struct Connection {
    requests: SendRequest<Bytes>,
    pings: Option<PingPong>,
    work: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn connect(address: &str, tls: Option<&CheckTls>) -> Result<Connection, (bool, String)> {
    let stream = stream(address, tls, PROTOCOLS).await.map_err(|why| (false, why))?;
    let (requests, mut connection) =
        handshake(stream).await.map_err(|error| (true, error.to_string()))?;
    let pings = connection.ping_pong();
    let work = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection of a check ended");
        }
    });
    Ok(Connection { requests, pings, work: work.abort_handle() })
}

/// Whether a server answers a ping.
pub(super) async fn ping(address: &str, tls: Option<&CheckTls>) -> Result<ProbeResult, String> {
    let mut connection = connect(address, tls).await.map_err(|(is_connected, why)| {
        if is_connected { failed(why) } else { format!("Failed to dial to {address}: {why}") }
    })?;
    let Some(mut pings) = connection.pings.take() else { return Err(failed("no ping")) };
    pings.ping(Ping::opaque()).await.map_err(failed)?;
    Ok(ProbeResult::Said { status: "passing", output: "HTTP2 ping was successful".to_owned() })
}

fn failed(why: impl ToString) -> String {
    format!("HTTP2 ping failed: {}", why.to_string())
}

/// The answer of a server's health service about a service: `host:port/service`.
///
/// Source: gRPC's "Health Checking Protocol" and "gRPC over HTTP2".
pub(super) async fn grpc(target: &str, tls: Option<&CheckTls>) -> Result<ProbeResult, String> {
    let (address, service) = target.split_once('/').unwrap_or((target, ""));
    let unavailable = |why: String| {
        format!(
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: {why}\""
        )
    };
    let connection = connect(address, tls).await.map_err(|(is_connected, why)| {
        unavailable(match (is_connected, why.starts_with("tls: ")) {
            (false, false) => format!("Error while dialing: {why}"),
            (false, true) => format!("authentication handshake failed: {why}"),
            (true, _) => why,
        })
    })?;
    let status = ask(&connection, address, tls.is_some(), service).await?;
    let name = match status {
        0 => "UNKNOWN",
        1 => {
            let output = format!("gRPC check {target}: success");
            return Ok(ProbeResult::Said { status: "passing", output });
        }
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    };
    Err(format!("gRPC {target} serving status: {name}"))
}

/// The serving status, a number.
async fn ask(
    connection: &Connection,
    address: &str,
    is_tls: bool,
    service: &str,
) -> Result<u64, String> {
    let lost = |error: h2::Error| format!("rpc error: code = Unavailable desc = {error}");
    let scheme = if is_tls { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "Consul Health Check")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut requests = connection.requests.clone().ready().await.map_err(lost)?;
    let (answer, mut body) = requests.send_request(request, false).map_err(lost)?;
    body.send_data(message(service), true).map_err(lost)?;
    let mut answer = answer.await.map_err(lost)?;
    if answer.headers().contains_key("grpc-status") {
        check(answer.headers())?;
    }
    let mut said = BytesMut::new();
    while let Some(part) = answer.body_mut().data().await {
        let part = part.map_err(lost)?;
        let _ = answer.body_mut().flow_control().release_capacity(part.len());
        said.extend_from_slice(&part);
    }
    if let Some(trailers) = answer.body_mut().trailers().await.map_err(lost)? {
        check(&trailers)?;
    }
    Ok(serving_status(&said))
}

/// Refuses any status but OK.
fn check(headers: &HeaderMap) -> Result<(), String> {
    const CODES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code: usize = text("grpc-status").parse().unwrap_or(2);
    match CODES.get(code) {
        Some(&"OK") => Ok(()),
        known => {
            let (code, why) = (known.unwrap_or(&"Unknown"), text("grpc-message"));
            Err(format!("rpc error: code = {code} desc = {why}"))
        }
    }
}

/// The message `HealthCheckRequest { service }`, with its prefix.
fn message(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    message.put(field);
    message.freeze()
}

/// The field `status` of the message `HealthCheckResponse`: 0 if it is absent.
fn serving_status(said: &[u8]) -> u64 {
    match said.get(5..) {
        Some([0x08, status, ..]) => u64::from(*status),
        _ => 0,
    }
}
