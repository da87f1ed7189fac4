//! Snapshots: `/v1/snapshot`, the server's tables in an archive as Consul's.
//!
//! The archive is a tar file, compressed with gzip: `meta.json` about Raft, `state.bin`, and `SHA256SUMS` of both. The state is in
//! MessagePack, with which a real Consul cannot do anything, nor this with a real Consul's.
//!
//! Source: the package `snapshot` of Consul.

use super::acl::{Access, Resource};
use super::blocking::index_headers;
use super::http::handler::{Handler, Route};
use super::http::reply::{Refusal, Reply};
use super::http::request::Call;
use super::operator::server_id;
use super::store::State;
use super::store::image::Image;
use consul_api::api::operator as wire;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use ring::digest::{SHA256, digest};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read};

pub(super) static ROUTES: &[Route] = &[
    Route(&wire::SNAPSHOT_SAVE, Handler::Checked(save)),
    Route(&wire::SNAPSHOT_RESTORE, Handler::Now(restore)),
];

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";

/// The limit of an uncompressed snapshot, in bytes, so that a small one cannot take all memory.
const MAX_BYTES: u64 = 1 << 30;

fn save(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let failed = |why: &dyn std::fmt::Display| {
        Refusal::server(format!("failed to write snapshot file: {why}"))
    };
    let tables = rmp_serde::to_vec_named(&state.image()).map_err(|why| failed(&why))?;
    let body = archive(&meta(state, tables.len()), &tables, state.since_1970().as_secs())
        .map_err(|why| failed(&why))?;
    let gzip = HeaderValue::from_static("application/x-gzip");
    let reply = Reply { body: body.into(), ..Reply::empty(StatusCode::OK) };
    let reply = reply.with(CONTENT_TYPE, gzip);
    Ok(index_headers(reply, state.index(), true)
        .with_text("x-consul-query-backend", "blocking-query"))
}

fn restore(state: &mut State, call: &Call) -> Result<Reply, Refusal> {
    state.authority(call).check(Resource::Acl, "", Access::Write)?;
    let tables = unpacked(&call.body).map_err(Refusal::server)?;
    let image = read(&tables).map_err(|why| {
        Refusal::server(format!(
            "failed to restore snapshot: it is not one of consul-sim, which cannot read those of Consul: {why}"
        ))
    })?;
    state.restore(image);
    Ok(Reply::empty(StatusCode::OK)
        .with(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")))
}

fn read(tables: &[u8]) -> Result<Image, String> {
    let mut image: Image = rmp_serde::from_slice(tables).map_err(|why| why.to_string())?;
    image.acl.complete()?;
    Ok(image)
}

fn meta(state: &State, size: usize) -> Vec<u8> {
    let server = json!({
        "Suffrage": 0,
        "ID": server_id(state),
        "Address": state.server_address(),
    });
    let id = format!("2-{}-{}", state.index(), state.since_1970().as_millis());
    let meta = json!({
        "Version": 1,
        "ID": id,
        "Index": state.index(),
        "Term": 2,
        "Peers": "",
        "Configuration": {"Servers": [server]},
        "ConfigurationIndex": 1,
        "Size": size,
    });
    meta.to_string().into_bytes()
}

fn sum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn archive(meta: &[u8], tables: &[u8], since_1970_s: u64) -> io::Result<Vec<u8>> {
    let sums = format!("{}  {META}\n{}  {STATE}\n", sum(meta), sum(tables));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in [(META, meta), (STATE, tables), (SUMS, sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(since_1970_s);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)?;
    }
    tar.into_inner()?.finish()
}

/// The state in an archive, or Consul's error.
fn unpacked(body: &[u8]) -> Result<Vec<u8>, String> {
    let go = |why: &io::Error| match why.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        // The bytes after the archive, or its sum.
        io::ErrorKind::InvalidInput if why.to_string().contains("header") => {
            "gzip: invalid header".to_owned()
        }
        _ => why.to_string(),
    };
    const MAGIC: &[u8] = &[0x1f, 0x8b];
    match body.len() {
        0 => return Err("failed to decompress snapshot: EOF".to_owned()),
        1..10 => return Err("failed to decompress snapshot: unexpected EOF".to_owned()),
        _ if !body.starts_with(MAGIC) => {
            return Err("failed to decompress snapshot: gzip: invalid header".to_owned());
        }
        _ => {}
    }
    let broken = |what: &str| format!("failed to read snapshot file: {what}");
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut tar = tar::Archive::new(MultiGzDecoder::new(body).take(MAX_BYTES));
    let reading = |why: io::Error| broken(&format!("failed reading snapshot: {}", go(&why)));
    for entry in tar.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if ![META, STATE, SUMS].contains(&name.as_str()) {
            return Err(broken(&format!("unexpected file {name:?} in snapshot")));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|why| {
            let what = match name.as_str() {
                META => "failed to read snapshot metadata",
                STATE => "failed to read or write snapshot data",
                _ => "failed to read snapshot hashes",
            };
            broken(&format!("{what}: {}", go(&why)))
        })?;
        files.entry(name).or_default().append(&mut bytes);
    }
    let sums = files.remove(SUMS).unwrap_or_default();
    let sums = String::from_utf8_lossy(&sums);
    let sums: BTreeMap<_, _> = sums
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (name, sum))
        .collect();
    for name in [META, STATE] {
        let integrity = |why: &str| {
            broken(&format!("failed checking integrity of snapshot: {why} for {name:?}"))
        };
        let expected = sums.get(name).ok_or_else(|| integrity("file missing"))?;
        if sum(files.get(name).map_or(&[], Vec::as_slice)) != *expected {
            return Err(integrity("hash check failed"));
        }
    }
    // The end of the compressed data has its sum.
    let mut rest = Vec::new();
    tar.into_inner().read_to_end(&mut rest).map_err(|why| go(&why))?;
    // The archive ends with two empty blocks; its reader takes one of them.
    let rest = rest.strip_prefix(&[0; 512]).unwrap_or(&rest);
    match rest.len() {
        0 => Ok(files.remove(STATE).unwrap_or_default()),
        more => Err(format!("{more} unread uncompressed bytes remain")),
    }
}
