//! The effect of the alarm on the access control of a cluster.

use super::{Etcd, Refused};
use consul_api::error::Error;
use std::time::Duration;

/// The first version that checks users while an alarm is on.
const CHECKS: (u64, u64) = (3, 6);

const VERSION_WITHIN: Duration = Duration::from_secs(5);

impl Etcd {
    /// Why nobody's rights are checked while the alarm is on, or why that is not known; `None` if it changes nothing: the
    /// cluster has no access control, or all its servers are new enough.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn opened_by_alarm(&self) -> Result<Option<String>, Refused> {
        let users = match self.has_users().await {
            Ok(false) => return Ok(None),
            Ok(true) => "etcd has users".to_owned(),
            Err(Refused::Failed(error)) if !error.is_retryable() => {
                format!("it cannot be learnt whether etcd has users ({})", error.message())
            }
            Err(refused) => return Err(refused),
        };
        Ok(match self.cluster_version().await {
            Ok(Ok(version)) if version >= CHECKS => None,
            Ok(Ok((major, minor))) => Some(format!("{users}, and is version {major}.{minor}")),
            Ok(Err(said)) => Some(format!("{users}, and its version cannot be learnt ({said})")),
            Err(error) => {
                Some(format!("{users}, and its version cannot be learnt ({})", error.message()))
            }
        })
    }

    /// That of its oldest server; else why it is not known.
    async fn cluster_version(&self) -> Result<Result<(u64, u64), String>, Error> {
        let at = self.at();
        let versions = async { Ok(self.versions(at).await?) };
        let versions = self.in_time(VERSION_WITHIN, at, "version", versions);
        let versions = match self.silence.tell(versions).await {
            Ok(versions) => versions,
            Err(refused) => return Err(refused.into_error()),
        };
        let said = versions["etcdcluster"].as_str().unwrap_or("/version does not say it");
        let mut numbers = said.split('.').map(|part| part.parse().ok());
        Ok(match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(said.to_owned()),
        })
    }
}
