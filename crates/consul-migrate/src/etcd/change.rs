//! Writes to etcd, and the alarm with which it refuses all others' writes.

use super::message::{Alarms, Base64, Changed, Compared, Int};
use super::{Etcd, Range, Refused};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use serde_json::{Value, json};

/// The operations of a transaction and the bytes of its keys and values that etcd takes by default are 128
/// and 1.5 MiB. One operation is for the mark. An etcd with lower limits refuses more: [`Refused::Oversized`].
const MAX_OPS: usize = 100;
const MAX_BYTES: usize = 1 << 20;

/// The value of a mark whose changes are not made.
pub const BEGUN: &[u8] = b"begun";

/// The alarm for a full disk: etcd refuses each write but deletions.
const ALARM: &str = "NOSPACE";

/// A change of one key; without a value it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key in etcd.
    pub key: Bytes,
    /// The new value of the key; `None` deletes it.
    pub value: Option<Bytes>,
    /// The revision that has set the key as it is; 0: it does not exist.
    pub from: u64,
}

fn put(key: &Bytes, value: &Bytes) -> Value {
    json!({ "requestPut": { "key": Base64(key.clone()), "value": Base64(value.clone()) } })
}

impl Change {
    fn operation(&self) -> Value {
        match &self.value {
            Some(value) => put(&self.key, value),
            None => json!({ "requestDeleteRange": { "key": Base64(self.key.clone()) } }),
        }
    }

    fn compare(&self) -> Value {
        json!({
            "key": Base64(self.key.clone()), "target": "MOD", "result": "EQUAL",
            "mod_revision": Int(self.from),
        })
    }

    /// The key is in the comparison, too.
    fn size(&self) -> usize {
        2 * self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// How many of these changes one transaction takes, and one at least.
    pub fn fitting(changes: &[Change]) -> usize {
        let mut bytes = 0;
        let fits = |change: &&Change| {
            bytes += change.size();
            bytes <= MAX_BYTES
        };
        changes.iter().take(MAX_OPS).take_while(fits).count().max(1)
    }
}

impl Etcd {
    /// Sets a key to an empty value.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn touch(&self, key: &Bytes) -> Result<(), Refused> {
        self.set(key, &Bytes::new()).await
    }

    /// Sets a key.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn set(&self, key: &Bytes, value: &Bytes) -> Result<(), Refused> {
        let Changed { .. } = self.ask("kv/txn", &json!({ "success": [put(key, value)] })).await?;
        Ok(())
    }

    /// Puts a mark, if it does not exist, and returns its revision; `None` if an attempt whose answer was lost has put it.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn begin(&self, mark: &Bytes) -> Result<Option<u64>, Refused> {
        self.change_as(&[], mark, 0, BEGUN).await
    }

    /// Makes changes of different keys and sets the mark, all in one revision, if each key is as the change says, and the mark
    /// as it was begun, so that a request which is repeated or comes late changes nothing; returns that revision. `None`: they
    /// were not made, or by an attempt whose answer was lost.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn change(
        &self,
        changes: &[Change],
        mark: &Bytes,
        begun: u64,
    ) -> Result<Option<u64>, Refused> {
        self.change_as(changes, mark, begun, b"").await
    }

    async fn change_as(
        &self,
        changes: &[Change],
        mark: &Bytes,
        from: u64,
        value: &'static [u8],
    ) -> Result<Option<u64>, Refused> {
        let mark = Change { key: mark.clone(), value: Some(Bytes::from_static(value)), from };
        let all = || changes.iter().chain([&mark]);
        let compares: Vec<Value> = all().map(Change::compare).collect();
        let operations: Vec<Value> = all().map(Change::operation).collect();
        let asked = json!({ "compare": compares, "success": operations });
        let done: Compared = self.ask("kv/txn", &asked).await?;
        Ok(done.succeeded.then_some(done.header.revision.0))
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

    /// Deletes these keys, without those that were set since they were read at these revisions.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn delete_unchanged(&self, keys: &[(Bytes, u64)]) -> Result<(), Refused> {
        for (key, from) in keys {
            let change = Change { key: key.clone(), value: None, from: *from };
            let asked = json!({ "compare": [change.compare()], "success": [change.operation()] });
            let Compared { .. } = self.ask("kv/txn", &asked).await?;
        }
        Ok(())
    }

    /// The members, as numbers, for which the alarm is on.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn alarms(&self) -> Result<Vec<u64>, Refused> {
        let found = self.alarm("GET", 0).await?;
        Ok(found.alarms.into_iter().map(|alarm| alarm.member.0).collect())
    }

    /// Why this user may not raise an alarm; `None` if it may. Lifting an alarm that is not on changes nothing, and takes the
    /// same right.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn may_not_alarm(&self) -> Result<Option<Error>, Refused> {
        match self.alarm("DEACTIVATE", fastrand::u64(1..1 << 48)).await {
            Ok(_) => Ok(None),
            Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => {
                Ok(Some(error))
            }
            Err(refused) => Err(refused),
        }
    }

    /// Raises the alarm for a member, which need not exist: the whole cluster refuses writes while it is on
    /// for any.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn raise_alarm(&self, member: u64) -> Result<(), Refused> {
        self.alarm("ACTIVATE", member).await.map(|_| ())
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
                self.alarm("DEACTIVATE", member).await?;
            }
        }
    }

    async fn alarm(&self, action: &str, member: u64) -> Result<Alarms, Refused> {
        let asked = json!({ "action": action, "memberID": Int(member), "alarm": ALARM });
        self.ask("maintenance/alarm", &asked).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_so_many_changes_as_etcd_does_by_default() {
        let change = |size: usize| {
            let value = Some(vec![0; size].into());
            Change { key: Bytes::from_static(b"key"), value, from: 0 }
        };
        let fitting = |sizes: &[usize]| {
            Change::fitting(&sizes.iter().map(|size| change(*size)).collect::<Vec<_>>())
        };
        assert_eq!(fitting(&[1; 250]), 100);
        assert_eq!(fitting(&[500_000; 4]), 2);
        // Without it nothing would go on.
        assert_eq!(fitting(&[2_000_000, 1]), 1);
    }
}
