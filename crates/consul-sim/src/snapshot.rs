//! Snapshots: `/v1/snapshot`, the server's tables in MessagePack behind a line that says so. A real Consul cannot read them, nor
//! this those of a real one.

use super::acl::{Access, Resource};
use super::blocking::index_headers;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::store::State;
use super::store::image::Image;
use consul_api::api::operator as wire;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::SNAPSHOT_SAVE, Handler::Checked(save)),
    Route(&wire::SNAPSHOT_RESTORE, Handler::Now(restore)),
];

const HEAD: &[u8] = b"snapshot of consul-sim\n";

fn save(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let mut body = HEAD.to_vec();
    rmp_serde::encode::write_named(&mut body, &state.image())
        .map_err(|why| Refusal::server(format!("failed to write snapshot file: {why}")))?;
    let reply = Reply { body: body.into(), ..Reply::empty(StatusCode::OK) };
    let reply = reply.with(CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
    Ok(index_headers(reply, state.index(), true)
        .with_text("x-consul-query-backend", "blocking-query"))
}

fn restore(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let tables = call.body.strip_prefix(HEAD).ok_or_else(|| {
        Refusal::server(
            "failed to decompress snapshot: it is not one of consul-sim, which cannot read those of Consul",
        )
    })?;
    let image = read(tables)
        .map_err(|why| Refusal::server(format!("failed to read snapshot file: {why}")))?;
    state.restore(image);
    Ok(Reply::empty(StatusCode::OK)
        .with(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")))
}

fn read(tables: &[u8]) -> Result<Image, String> {
    let mut image: Image = rmp_serde::from_slice(tables).map_err(|why| why.to_string())?;
    image.acl.complete()?;
    Ok(image)
}
