//! The rights that a job has taken from roles of etcd: how its record has them, and how they are given back.

use super::{Keys, Phase, Record, Rights, encoded, others, record};
use crate::Stop;
use crate::etcd::{Etcd, Pages, Range, Refused, Right};
use crate::target::{Check, Outcome, Target};
use bytes::Bytes;
use consul_api::error::Error;
use serde::{Deserialize, Serialize};

/// The note of a cut-over in the key that it leaves in etcd, for a Consul that loses the job's record of it.
#[derive(Deserialize, Serialize)]
struct Taking {
    taking: u64,
    taken: Vec<Right>,
}

/// The keys that cut-overs leave in etcd, and that are looked at together: each has a value that may be large.
const LOOKED_AT: u64 = 10;

/// The value of the key that a cut-over leaves in etcd, if it takes these rights.
///
/// # Errors
/// It cannot be encoded.
pub(crate) fn noted(taking: u64, taken: &[Right]) -> Result<Bytes, Error> {
    Ok(encoded(&Taking { taking, taken: taken.to_vec() })?.into())
}

/// The rights that cut-overs of the job have taken, as etcd itself has them, and that its record does not have: Consul was restored
/// to a state before. They may have been given back since.
///
/// # Errors
/// See [`Refused`].
pub(crate) async fn forgotten(
    etcd: &Etcd,
    record: &Record,
    keys: &Keys,
) -> Result<Vec<Right>, Refused> {
    let range = Range::prefix(&keys.left_by_cutovers(&record.mapping));
    let (mut pages, mut found) = (Pages::new(etcd, range, 0, LOOKED_AT), Vec::new());
    while let Some(page) = pages.next().await? {
        let takings = page.kvs.iter().filter_map(|kv| serde_json::from_slice(&kv.value.0).ok());
        let others = takings.filter(|it: &Taking| it.taking != record.taking);
        found.extend(others.flat_map(|it| it.taken));
    }
    Ok(found)
}

/// The other jobs that are cut over, and whose keys of etcd programs may set again when this job gives its rights back.
///
/// # Errors
/// Consul's.
pub async fn also_opened(
    target: &Target,
    keys: &Keys,
    record: &Record,
) -> Result<Vec<String>, Error> {
    let rights = record.may_be_taken();
    if rights.is_empty() {
        return Ok(Vec::new());
    }
    let is_opened = |other: &Record| rights.iter().any(|right| other.is_opened_by(right));
    let others = others(target, keys).await?.into_iter();
    Ok(others.filter(|(_, other)| is_opened(other)).map(|(name, _)| name).collect())
}

/// Notes what this instance, which need not hold the job, does with the rights of a taking; returns whether it may: the job is
/// not cut over, and no other instance has taken others.
///
/// # Errors
/// Consul's.
pub async fn note_rights(
    target: &Target,
    keys: &Keys,
    taking: u64,
    next: Rights,
) -> Result<bool, Error> {
    loop {
        let Some((found, index)) = record(target, keys).await? else { return Ok(false) };
        let is_own = found.taking == taking && found.phase != Phase::Switched;
        // It may have taken one after another instance has given them back.
        if !is_own || found.taken.is_empty() {
            return Ok(false);
        }
        if found.rights == next {
            return Ok(true);
        }
        let next = Record { rights: next, step: found.step + 1, ..found };
        let swap = Check::Swap(keys.record.clone(), index, encoded(&next)?);
        if let Outcome::Applied(_) = target.txn_surely(&[swap], &[]).await? {
            return Ok(true);
        }
    }
}

/// Gives back the rights of a taking as [`note_rights`] allows; returns whether a role lacked one, or `None` if another instance
/// has gone on with them.
///
/// # Errors
/// Errors of both sides.
pub async fn give_back(
    etcd: &Etcd,
    target: &Target,
    keys: &Keys,
    taking: u64,
) -> Result<Option<bool>, Stop> {
    if !note_rights(target, keys, taking, Rights::GivingBack).await? {
        return Ok(None);
    }
    let Some((found, _)) = record(target, keys).await? else { return Ok(None) };
    let may_go_on = async |_: &Right| {
        let found = record(target, keys).await?;
        let is_own = |it: &Record| it.taking == taking && it.rights == Rights::GivingBack;
        Ok::<_, Stop>(found.is_some_and(|(it, _)| is_own(&it) && it.phase != Phase::Switched))
    };
    let was_taken = etcd.give_back(&found.taken, may_go_on).await?;
    // Otherwise another instance has, and may have taken them since.
    let is_done = note_rights(target, keys, taking, Rights::GivenBack).await?;
    Ok(is_done.then_some(was_taken))
}

/// Gives back rights that this instance has taken, without a note in Consul: that takes no write, or its record does not have
/// this taking, because it was restored, or another instance has begun another one. Each right may be given back, also while
/// another instance holds the job, unless a cut-over may rely on it: while the record has another taking, which was begun when
/// roles lacked this right, and while this job, or another one whose keys the right has, is cut over.
///
/// # Errors
/// Errors of both sides.
pub async fn give_back_unnoted(
    etcd: &Etcd,
    target: &Target,
    keys: &Keys,
    taken: &[Right],
    taking: u64,
) -> Result<(), Stop> {
    let may_go_on = async |right: &Right| {
        let found = record(target, keys).await?;
        let has_another = |it: &Record| it.taking != taking && !it.may_be_taken().is_empty();
        if found.is_some_and(|(it, _)| it.phase == Phase::Switched || has_another(&it)) {
            return Ok(false);
        }
        Ok::<_, Stop>(!others(target, keys).await?.iter().any(|(_, it)| it.is_opened_by(right)))
    };
    etcd.give_back(taken, may_go_on).await.map(|_| ())
}
