//! Whether etcd is still the one of a job.

use super::Stop;
use super::etcd::{Etcd, Range};
use super::job::{Phase, Record};

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
        false => Err(Stop::Refused(format!(
            "the job began with the etcd cluster {}, and this is {found}: give its addresses, or begin another --job \
             with `copy --replace` if etcd was replaced or restored as a new cluster",
            record.cluster_id
        ))),
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
