//! Whether etcd is still the one of a job.

use crate::Stop;
use crate::etcd::{Etcd, Pages, Range};
use crate::job::{Keys, Phase, Record};

/// Refuses another cluster, and a cluster that has gone back.
///
/// # Errors
/// See [`Stop`].
pub async fn check(etcd: &Etcd, record: &Record) -> Result<(), Stop> {
    check_cluster(etcd, record).await?;
    check_revision(etcd, record).await
}

/// Refuses another cluster than the one with which the job began.
///
/// # Errors
/// See [`Stop`].
pub async fn check_cluster(etcd: &Etcd, record: &Record) -> Result<(), Stop> {
    let found = etcd.status(&Range::prefix(&record.mapping.etcd_prefix).start).await?.cluster_id;
    match found == record.cluster_id {
        true => Ok(()),
        false => {
            let cure = match record.phase {
                // A copy would replace what programs have in Consul.
                Phase::Switched => {
                    "give its addresses. If etcd was replaced or restored as a new cluster, no way back leads there: programs use \
                     Consul since the cut-over, which is the truth, and `finish --without-etcd` ends the job"
                }
                _ => {
                    "give its addresses, or begin another --job with `copy --replace` if etcd was replaced or restored as a new cluster"
                }
            };
            Err(Stop::Refused(format!(
                "the job began with the etcd cluster {}, and this is {found}: {cure}",
                record.cluster_id
            )))
        }
    }
}

/// Refuses a cluster that does not have what the job has applied already, because it was restored.
///
/// # Errors
/// See [`Stop`].
pub async fn check_revision(etcd: &Etcd, record: &Record) -> Result<(), Stop> {
    check_read(record, etcd.revision(&Range::prefix(&record.mapping.etcd_prefix).start).await?)
}

/// The same with a revision that a linearizable read has found.
///
/// # Errors
/// See [`Stop`].
pub fn check_read(record: &Record, found: u64) -> Result<(), Stop> {
    let applied = record.revision - u64::from(record.offset == 0);
    if found >= applied {
        return Ok(());
    }
    let cure = match record.phase {
        Phase::Switched if record.finishing => {
            "programs use Consul since the cut-over, and `finish --without-etcd` ends the job"
        }
        _ if record.finishing => "`finish --without-etcd` ends the job",
        Phase::Switched => {
            "programs use Consul since the cut-over, and `rollback` makes etcd as it is"
        }
        _ => {
            "`copy --again` copies what it has now, and deletes what the job has written beyond that"
        }
    };
    Err(Stop::Refused(format!(
        "etcd is at revision {found}, and the job has applied revision {applied}: etcd was restored from a snapshot; {cure}"
    )))
}

/// Refuses to follow an etcd that was restored since the job was cut over: its deletions are of another history.
///
/// # Errors
/// See [`Stop`].
pub async fn check_switched(etcd: &Etcd, record: &Record, keys: &Keys) -> Result<(), Stop> {
    let Some(why) = restored(etcd, record, keys).await? else { return Ok(()) };
    Err(Stop::Refused(format!(
        "{why}. Programs use Consul since the cut-over, so that what is deleted in this etcd stays in Consul: `rollback` makes etcd \
         as Consul is, and `finish --without-etcd` ends the job"
    )))
}

/// Whether etcd was restored from a snapshot since the job was cut over, and why that is known: it lacks what the cut-over has
/// left there, or has gone back. Its revisions do not tell what programs have set since.
///
/// # Errors
/// See [`Stop`].
pub async fn restored(etcd: &Etcd, record: &Record, keys: &Keys) -> Result<Option<String>, Stop> {
    let Some(switched) = record.switched_revision else { return Ok(None) };
    let found = etcd.revision(&Range::prefix(&record.mapping.etcd_prefix).start).await?;
    if found < switched {
        return Ok(Some(format!(
            "etcd is at revision {found}, and the job was cut over at revision {switched}: etcd was restored from a snapshot"
        )));
    }
    let Some(created) = record.left else { return Ok(None) };
    let mut pages =
        Pages::new(etcd, Range::prefix(&keys.left_by_cutovers(&record.mapping)), 0, 100);
    while let Some(page) = pages.next().await? {
        if page.kvs.iter().any(|kv| kv.create_revision.0 == created) {
            return Ok(None);
        }
    }
    Ok(Some(
        "etcd has not the key any more that the cut-over has left there: etcd was restored from a snapshot, all its keys were \
         deleted, or Consul was restored to a state before a rollback or a finish of the job"
            .to_owned(),
    ))
}
