//! Writes to etcd, and the alarm with which it refuses those of all others.

use super::message::{Base64, Changed, Int};
use super::{Etcd, Range, Refused};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// The operations of a transaction and the bytes of its keys and values that etcd takes by default are 128
/// and 1.5 MiB.
const MAX_OPS: usize = 100;
const MAX_BYTES: usize = 1 << 20;

/// The alarm for a full disk: etcd refuses each write but deletions.
const ALARM: &str = "NOSPACE";

/// A change of one key; without a value it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Alarms {
    alarms: Vec<Alarm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Alarm {
    #[serde(rename = "memberID")]
    member: Int,
}

impl Change {
    fn operation(&self) -> Value {
        let key = Base64(self.key.clone());
        match &self.value {
            Some(value) => json!({ "requestPut": { "key": key, "value": Base64(value.clone()) } }),
            None => json!({ "requestDeleteRange": { "key": key } }),
        }
    }

    fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Etcd {
    /// Applies changes of different keys, those that fit together at once.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn change(&self, changes: &[Change]) -> Result<(), Refused> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |change: &&Change| {
                bytes += change.size();
                bytes <= MAX_BYTES
            };
            let fitting = rest.iter().take(MAX_OPS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(fitting);
            let operations: Vec<Value> = now.iter().map(Change::operation).collect();
            let Changed { .. } = self.ask("kv/txn", &json!({ "success": operations })).await?;
            rest = later;
        }
        Ok(())
    }

    /// Deletes all keys of a range.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn delete(&self, range: &Range) -> Result<(), Refused> {
        let (key, end) = (Base64(range.start.clone()), Base64(range.end.clone()));
        let asked = json!({ "key": key, "range_end": end });
        let Changed { .. } = self.ask("kv/deleterange", &asked).await?;
        Ok(())
    }

    /// The members, as numbers, for which the alarm is on.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn alarms(&self) -> Result<Vec<u64>, Refused> {
        let found: Alarms = self.alarm("GET", 0).await?;
        Ok(found.alarms.into_iter().map(|alarm| alarm.member.0).collect())
    }

    /// Raises the alarm for a member, which need not exist: the whole cluster refuses writes while it is on
    /// for any.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn raise_alarm(&self, member: u64) -> Result<(), Refused> {
        let IgnoredAny = self.alarm("ACTIVATE", member).await?;
        Ok(())
    }

    /// Lifts the alarm for each of these members for which it is on, until it is on for none; returns whether
    /// it was.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn lift_alarms(&self, members: &[u64]) -> Result<bool, Refused> {
        let mut was_on = false;
        loop {
            let mut on = self.alarms().await?;
            on.retain(|member| members.contains(member));
            if on.is_empty() {
                return Ok(was_on);
            }
            was_on = true;
            for member in on {
                let IgnoredAny = self.alarm("DEACTIVATE", member).await?;
            }
        }
    }

    async fn alarm<T: for<'de> Deserialize<'de>>(
        &self,
        action: &str,
        member: u64,
    ) -> Result<T, Refused> {
        let asked = json!({ "action": action, "memberID": Int(member), "alarm": ALARM });
        self.ask("maintenance/alarm", &asked).await
    }
}
