//! Why a job has nothing to move.

use crate::Stop;
use crate::etcd::{Etcd, Pages, Range, Refused};
use crate::mapping::shown::shown;
use crate::mapping::{Mapping, Place};
use crate::target::Target;
use consul_api::error::Error;
use std::collections::BTreeSet;

/// The keys of the first look; almost always the first of them is to be moved.
const LOOKED_AT: u64 = 100;

/// How many beginnings of keys are named.
const NAMED: usize = 5;

/// Why there is nothing to move, and what etcd has instead; `None` if there is a key to move.
///
/// # Errors
/// etcd's.
pub async fn nothing(etcd: &Etcd, mapping: &Mapping) -> Result<Option<String>, Stop> {
    let mut left_out = BTreeSet::new();
    let mut pages = Pages::new(etcd, Range::prefix(&mapping.etcd_prefix), 0, LOOKED_AT);
    while let Some(page) = pages.next().await? {
        for kv in &page.kvs {
            match mapping.place(kv) {
                Place::Plain(_) | Place::Encoded(_) => return Ok(None),
                Place::Nowhere(problem) => _ = left_out.insert(problem.name()),
                Place::Sentinel => {}
            }
        }
    }
    let prefix = &mapping.etcd_prefix;
    if !left_out.is_empty() {
        let kinds = left_out.into_iter().collect::<Vec<_>>().join(", ");
        return Ok(Some(format!(
            "there is nothing to move: all keys of etcd that begin with {} are left out ({kinds}); --on KIND=encode takes them \
             along",
            quoted(prefix)
        )));
    }
    if prefix.is_empty() {
        return Ok(Some("there is nothing to move: etcd has no keys".to_owned()));
    }
    let instead = match beginnings(etcd, mapping).await {
        Ok(found) if found.is_empty() => "etcd has no keys at all".to_owned(),
        Ok(found) => format!("etcd has keys that begin with {}", found.join(", ")),
        // A role that has this prefix alone.
        Err(_) => "the user may not see which keys etcd has instead".to_owned(),
    };
    Ok(Some(format!(
        "there is nothing to move: no key of etcd begins with --etcd-prefix {}; {instead}",
        quoted(prefix)
    )))
}

/// Whether Consul has no key in the place of one of the job, neither as it is nor encoded.
///
/// # Errors
/// Consul's.
pub async fn has_none(target: &Target, mapping: &Mapping) -> Result<bool, Error> {
    let plain = target.keys(&mapping.plain_prefix(), Some("/")).await?;
    if plain.iter().any(|name| !mapping.is_own(name)) {
        return Ok(false);
    }
    let encoded = target.keys(&mapping.encoded_prefix(), None).await?;
    Ok(!encoded.iter().any(|name| mapping.is_own_part(name)))
}

fn quoted(key: &[u8]) -> String {
    format!("\"{}\"", shown(key))
}

/// The first segments that etcd has, up to their slash.
async fn beginnings(etcd: &Etcd, mapping: &Mapping) -> Result<Vec<String>, Refused> {
    let (mut found, mut rest) = (Vec::new(), Range::prefix(b""));
    while let Some(kv) = etcd.first(&rest).await? {
        let key = &kv.key.0;
        let slash = key.iter().skip(1).position(|byte| *byte == b'/');
        let segment = &key[..slash.map_or(key.len(), |at| at + 2)];
        rest.start = Range::prefix(segment).end;
        // Else it is that of a sentinel of the job itself.
        if !segment.starts_with(&mapping.etcd_prefix) {
            if found.len() == NAMED {
                found.push("others".to_owned());
                break;
            }
            found.push(quoted(segment));
        }
        if rest.start[..] == *b"\0" {
            break;
        }
    }
    Ok(found)
}
