//! The cut-over: etcd takes no writes any more, what is left is applied, and both sides are compared.

use crate::etcd::{Etcd, Pages, Range, Refused, Right};
use crate::job::source;
use crate::job::{self, Job, Phase, Record, Rights};
use crate::mapping::shown::shown;
use crate::mapping::{Mapping, Op};
use crate::snapshot::nothing::nothing;
use crate::switch::rollback::check_names;
use crate::tally::Tally;
use crate::target::Target;
use crate::verify::digest::Digests;
use crate::verify::{self, Difference, Found};
use crate::{Run, Stop, Until, tail};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::Instant;
use consul_process::sync::lock;
use futures_util::future::{Either, select, try_join, try_join_all};
use std::fmt::{self, Display, Formatter};
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

/// After a round as short as this the writers can be stopped.
const SHORT: Duration = Duration::from_millis(500);

/// For how long at least it is looked for writers that the operator has not stopped.
const LOOKED_FOR: Duration = Duration::from_secs(2);

/// With more differences a comparison ends.
const MAX_DIFFERENCES: usize = 1000;

/// For how long Consul is asked to note that rights are given back, before they are given back without a note.
const NOTED_WITHIN: Duration = Duration::from_secs(3);

/// After as many alarms of replaced instances a write fails.
const LATE_ALARMS: usize = 20;

/// How writers are stopped, and what undoes it.
const BY_ALARM: &str = "stops the writers of etcd now, by an alarm; if the job in Consul is lost, `etcdctl alarm disarm` lifts it";
const BY_ROLES: &str = "stops the writers of etcd now, and takes their rights from roles; if the job in Consul is lost, give them back by:";

/// The note for the operator when what a cut-over has left is lifted.
pub const LIFTED: &str =
    "undid what a cut-over had stopped that was killed or replaced: etcd takes writes again";

/// The writers were stopped for keys that are there no more.
const ALL_DELETED: &str = "all keys of the job were deleted in etcd during the cut-over, so that there is nothing to move";

/// An alarm of the job that its record does not name.
const FORGOTTEN: &str = "etcd refuses writes since a cut-over of this job that its record does not have: Consul was restored to a state before it";

/// The state of the writers of etcd, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// No cut-over has stopped them.
    Unfrozen,
    /// A cut-over has that the job's record does not have.
    Forgotten(String),
    /// Another cut-over or an alarm has, or they write although they should not.
    Known(String),
}

impl Left {
    /// That an alarm of the job is on that its record does not name.
    pub fn forgotten() -> Left {
        Left::Forgotten(FORGOTTEN.to_owned())
    }
}

impl From<&str> for Left {
    fn from(text: &str) -> Self {
        Left::Known(text.to_owned())
    }
}

impl Display for Left {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Left::Unfrozen => "no cut-over has stopped the writers of etcd",
            Left::Forgotten(text) | Left::Known(text) => text,
        })
    }
}

/// The cure.
const FORGOTTEN_CURE: &str = "Stop the programs that use Consul, run `etcdctl alarm disarm`, and then `cutover` again: \
                              Consul gets what etcd had then";

/// How the writers of etcd are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// By the alarm for a full disk: etcd refuses all writes but deletions. Not where it would open the cluster to all.
    Alarm,
    /// The same, also there.
    AlarmThatOpens,
    /// By the roles of etcd: the right to write is taken from them.
    Roles,
    /// By the operator, before consent is given.
    Operator,
}

/// The changes that this process leaves if its cut-over does not come to its end.
#[derive(Debug, Default)]
pub struct Frozen(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// The alarms that it must lift: its own, and those that instances before it may have raised since.
    alarms: Vec<u64>,
    own: Own,
    /// The revision of the key that it leaves in etcd.
    left: Option<u64>,
    /// Whether the request that switches the job was sent.
    may_be_switched: bool,
    /// The keys that it has put into etcd, and may not have deleted.
    put: Vec<Range>,
}

/// The rights that this process must give back.
#[derive(Clone, Debug, Default)]
struct Own {
    taken: Vec<Right>,
    /// The number of their taking.
    taking: u64,
    /// Whether a request that takes one was sent.
    is_taking: bool,
}

const OPEN: &str = "etcd TAKES WRITES although the job is cut over";

/// For how long a side is asked at the end for what the result does not depend on, or while writers may be stopped.
pub const LAST_LOOK: Duration = Duration::from_secs(3);

/// A cut-over that came to its end, or found differences.
#[derive(Debug)]
pub struct CutOver {
    /// The keys of both sides that were compared.
    pub tally: Tally,
    /// The digests of both sides, if all keys were compared.
    pub digests: Option<Digests>,
    /// The revision of etcd up to which all changes are applied.
    pub revision: u64,
    /// For how long writes were refused until programs could use Consul.
    pub stopped: Duration,
    /// The rights that were taken from roles, which only the job's record in Consul knows otherwise.
    pub taken: Vec<Right>,
    /// Why writers of etcd can go on although the job is cut over; `None` if they cannot, or that was not told soon.
    pub opened: Option<String>,
    /// If there are any, the job is not switched, and the alarm is to be lifted.
    pub differences: Vec<Difference>,
    /// Whether these are all.
    pub is_whole: bool,
}

impl Frozen {
    /// Whether an alarm may be on, or a right taken.
    pub fn may_be_on(&self) -> bool {
        let open = lock(&self.0);
        !(open.alarms.is_empty() && open.own.taken.is_empty())
    }

    /// Whether a right may be taken.
    pub fn may_be_taken(&self) -> bool {
        lock(&self.0).own.is_taking
    }

    /// The rights that this process may have taken, and has not given back.
    pub fn taken(&self) -> Vec<Right> {
        let own = &lock(&self.0).own;
        if own.is_taking { own.taken.clone() } else { Vec::new() }
    }

    /// The commands that let writers go on if this process cannot.
    pub fn cure(&self) -> String {
        let open = lock(&self.0);
        let alarm = (!open.alarms.is_empty()).then(|| "`etcdctl alarm disarm`".to_owned());
        let cures: Vec<_> =
            alarm.into_iter().chain(open.own.taken.iter().map(Right::to_string)).collect();
        cures.join(", ")
    }

    /// Whether this process has switched the job, by the record of that.
    pub fn has_switched(&self, record: &Record) -> bool {
        lock(&self.0).left == record.left
    }

    /// Whether the job may be switched, because the answer to the request is not known.
    pub fn may_be_switched(&self) -> bool {
        lock(&self.0).may_be_switched
    }

    /// Lifts the alarms, if they may be on, and gives the rights back. Returns the rights that roles lack nevertheless, and that
    /// another instance does not give back; `None` if it does, because it has taken them since.
    ///
    /// # Errors
    /// Errors of both sides: an alarm may be on still, or a right taken.
    pub async fn lift(
        &self,
        etcd: &Etcd,
        target: &Target,
        keys: &job::Keys,
    ) -> Result<Option<Vec<Right>>, Stop> {
        let (alarms, own) = {
            let open = lock(&self.0);
            (open.alarms.clone(), open.own.clone())
        };
        if !alarms.is_empty() {
            etcd.lift_alarms(&alarms).await?;
        }
        let mut missing = Some(Vec::new());
        if !own.taken.is_empty() {
            missing = match give_back(etcd, target, keys, &own).await {
                // Nothing was sent to etcd.
                Err(_) if !own.is_taking => missing,
                // Consul may have answered until all was given back.
                Err(stop) => match etcd.not_given_back(&own.taken).await {
                    Ok(lacking) if lacking.is_empty() => missing,
                    _ => return Err(stop),
                },
                given_back => given_back?,
            };
        }
        let mut open = lock(&self.0);
        let taken = missing.clone().unwrap_or_default();
        let own = Own { is_taking: !taken.is_empty(), taken, taking: own.taking };
        *open = Open { put: std::mem::take(&mut open.put), own, ..Open::default() };
        Ok(missing)
    }

    /// Deletes the keys that this process has put into etcd, once nothing relies on them any more. Without success the next
    /// cut-over does.
    pub async fn clean(&self, etcd: &Etcd) {
        let put = std::mem::take(&mut lock(&self.0).put);
        for range in &put {
            let _ = etcd.delete(range).await;
        }
    }

    /// The alarms are to stay on.
    fn forget(&self) {
        *lock(&self.0) = Open::default();
    }
}

/// Gives back what a cut-over has taken, and returns what [`Frozen::lift`] does. The record that is there now may have
/// nothing of it: Consul was restored, or another instance has cut over since.
async fn give_back(
    etcd: &Etcd,
    target: &Target,
    keys: &job::Keys,
    own: &Own,
) -> Result<Option<Vec<Right>>, Stop> {
    let Own { taken, taking, is_taking } = own;
    let found = async || job::record(target, keys).await.map(|it| it.map(|(record, _)| record));
    let is_own = |it: Record| it.taking == *taking && !it.may_be_taken().is_empty();
    let is_noted = found().await?.is_some_and(is_own) && {
        let noted = pin!(job::give_back(etcd, target, keys, *taking));
        // Consul may take no write, or not soon, and the writers wait: the next instance that holds the job notes it.
        let late = pin!(etcd.clock().sleep(NOTED_WITHIN));
        matches!(select(noted, late).await, Either::Left((Ok(Some(_)), _)))
    };
    if !is_taking {
        return Ok(Some(Vec::new()));
    }
    if !is_noted {
        job::give_back_unnoted(etcd, target, keys, taken, *taking).await?;
    }
    let lacking: Vec<Right> = etcd.not_given_back(taken).await?.into_iter().cloned().collect();
    let now = found().await?;
    let is_of_another =
        |right: &Right| now.as_ref().is_some_and(|it| it.is_taken_since(right, *taking));
    let (of_another, lacking): (Vec<_>, Vec<_>) = lacking.into_iter().partition(is_of_another);
    Ok((of_another.is_empty() || !lacking.is_empty()).then_some(lacking))
}

/// Lifts the alarms that cut-overs have left on, because they were killed. Returns whether one was on.
///
/// # Errors
/// etcd's.
pub async fn lift_left(etcd: &Etcd, record: &Record) -> Result<bool, Refused> {
    match record.phase {
        Phase::Switched => Ok(false),
        _ => lift_alarms(etcd, &record.alarms).await,
    }
}

async fn lift_alarms(etcd: &Etcd, alarms: &[u64]) -> Result<bool, Refused> {
    Ok(!alarms.is_empty() && etcd.lift_alarms(alarms).await?)
}

/// The same, of the job that this instance holds; it also gives back what they have taken from roles.
///
/// # Errors
/// Errors of both sides.
pub async fn lift_left_of(etcd: &Etcd, job: &Job<'_>) -> Result<bool, Stop> {
    match job.record().phase {
        Phase::Switched => Ok(false),
        _ => lift(etcd, job).await,
    }
}

/// Lets the writers of etcd go on, also where it is cut over; returns whether they were stopped.
pub(crate) async fn lift(etcd: &Etcd, job: &Job<'_>) -> Result<bool, Stop> {
    let record = job.record();
    let was_on = lift_alarms(etcd, &record.alarms).await?;
    if record.may_be_taken().is_empty() {
        return Ok(was_on);
    }
    job.save(Record { rights: Rights::GivingBack, ..record.clone() }, &[]).await?;
    // An error if another instance holds it.
    let may_go_on = async |_: &Right| job.apply(&[]).await.map(|_| true);
    let was_taken = etcd.give_back(&record.taken, may_go_on).await?;
    job.save(Record { rights: Rights::GivenBack, ..job.record() }, &[]).await?;
    Ok(was_on || was_taken)
}

/// How far etcd is open although the job is cut over by roles, if this process has given a right back: its request may have come
/// late, below another instance's cut-over.
///
/// # Errors
/// Errors of both sides.
pub async fn opened_late(
    etcd: &Etcd,
    target: &Target,
    keys: &job::Keys,
) -> Result<Option<String>, Stop> {
    if !etcd.has_given_back() {
        return Ok(None);
    }
    let Some((record, _)) = job::record(target, keys).await? else { return Ok(None) };
    match record.phase == Phase::Switched && !record.taken.is_empty() {
        true => Ok(opened(etcd, &record).await?),
        false => Ok(None),
    }
}

/// The rights that roles lack although cut-overs have given them back: a request of it came late, or an operator has changed
/// them. Those that another job's cut-over has taken are not among them. Without the right to ask, none.
///
/// # Errors
/// Errors of both sides.
pub async fn taken_late(
    etcd: &Etcd,
    target: &Target,
    record: &Record,
    keys: &job::Keys,
) -> Result<Option<Left>, Refused> {
    let forgotten = job::forgotten(etcd, record, keys).await?;
    let known = record.given_back();
    let lacking = async |rights: &[Right]| match etcd.not_given_back(rights).await {
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => {
            Ok::<_, Refused>(Vec::new())
        }
        found => {
            let mut lacking = found?;
            if !lacking.is_empty() {
                let others = match job::others(target, keys).await {
                    // A token that may not list the jobs is enough for the rest.
                    Err(error) if error.kind() == Kind::PermissionDenied => Vec::new(),
                    others => others?,
                };
                lacking.retain(|right| !others.iter().any(|(_, it)| it.has_taken(right)));
            }
            Ok(lacking.into_iter().map(Right::to_string).collect::<Vec<_>>())
        }
    };
    let found = lacking(&forgotten).await?;
    if !found.is_empty() && record.phase != Phase::Switched {
        return Ok(Some(Left::Forgotten(format!(
            "{FORGOTTEN}. Stop the programs that use Consul, give the rights back, and then `cutover` again: Consul gets what etcd \
             had then. What gives them back: {}",
            found.join(", ")
        ))));
    }
    let mut missing = lacking(&known).await?;
    missing.extend(found);
    match missing.is_empty() {
        true => Ok(None),
        false => Ok(Some(Left::Known(format!(
            "roles of etcd may not write what a cut-over has taken and given back, because a request of it came late, an \
                 operator has changed them, or etcd or Consul was restored: {}",
            missing.join(", ")
        )))),
    }
}

/// Whether the roles of etcd may write keys of a job that is cut over by them.
///
/// # Errors
/// etcd's.
pub async fn rights_now(etcd: &Etcd, record: &Record) -> Result<String, Refused> {
    let opened = opened(etcd, record).await?;
    Ok(opened.unwrap_or_else(|| "the roles of etcd may not write since the cut-over".to_owned()))
}

async fn opened(etcd: &Etcd, record: &Record) -> Result<Option<String>, Refused> {
    if !etcd.has_users().await? {
        return Ok(Some(format!("{OPEN}: its access control is switched off")));
    }
    let may_write = etcd.rights_to_write(&Range::prefix(&record.mapping.etcd_prefix)).await?;
    if may_write.is_empty() {
        return Ok(None);
    }
    let has_all = etcd.taken(&record.taken).await?.is_empty();
    let why = match (record.rights, has_all) {
        (Rights::GivingBack | Rights::GivenBack, true) => {
            "a rollback or a finish has begun, and has given the rights back"
        }
        (Rights::GivingBack, false) => "a rollback or a finish has begun to give the rights back",
        _ => "another job, an operator, or a request that came late has given rights",
    };
    let state = if has_all { OPEN } else { "etcd TAKES SOME WRITES although the job is cut over" };
    let may_write: Vec<_> = may_write.iter().map(Right::keys).collect();
    Ok(Some(format!("{state}: {why}; these may write: {}", may_write.join("; "))))
}

/// Applies all changes, stops the writers of etcd after `consent`, applies the rest and compares both sides.
/// If they are equal the job is switched. It has to be done within `limit` from the stop on.
///
/// After an error, and when the future is dropped, `frozen` has the alarm that is to be lifted unless the job is
/// switched nevertheless.
///
/// # Errors
/// See [`Stop`], and errors of `consent`.
pub async fn cut_over(
    run: &Run<'_>,
    freeze: Freeze,
    frozen: &Frozen,
    limit: Duration,
    consent: impl AsyncFnOnce(Duration) -> Result<(), Stop>,
) -> Result<CutOver, Stop> {
    prepare(run, freeze).await?;
    lock(&frozen.0).put = put(run);
    let own = run.job.keys.sentinels(&run.job.record().mapping);
    run.report.note(&format!(
        "puts keys of its own into etcd, which begin with {}: it deletes them, but for one that stays until `finish` or `rollback`",
        shown(&own)
    ));
    let short = catch_up(run).await?;
    // The tail has to end by itself: dropped during a write, it would not know the state of the record.
    let sentinel = put_sentinel(run).await?;
    let agreed = async {
        consent(short).await?;
        Ok(run.etcd.delete(&Range::one(&sentinel)).await?)
    };
    try_join(agreed, tail(run, &Until::Deleted(sentinel.clone()))).await?;
    catch_up(run).await?;
    let switched = Box::pin(switch(run, freeze, frozen));
    let mut done = match select(switched, run.etcd.clock().sleep(limit)).await {
        Either::Left((switched, _)) => switched?,
        Either::Right(_) => {
            return Err(Stop::Refused(format!(
                "the cut-over was not done within {} s; --within gives it longer",
                limit.as_secs()
            )));
        }
    };
    if done.differences.is_empty() {
        done.opened = Box::pin(opened_since(run, freeze)).await;
    }
    Ok(done)
}

/// Ends what an earlier cut-over has left.
async fn prepare(run: &Run<'_>, freeze: Freeze) -> Result<(), Stop> {
    let record = run.job.record();
    record.refuse_finishing()?;
    if record.phase == Phase::Switched {
        return Err(cut_over_already());
    }
    if lift_left_of(run.etcd, &run.job).await? {
        run.report.note(LIFTED);
    }
    source::check(run.etcd, &record).await?;
    refuse_other_takings(run, freeze).await?;
    may_freeze(run.etcd, &run.job.record().mapping, freeze).await?;
    // The comparison, during which the writers are stopped, would end with the same error.
    check_names(run).await?;
    // Those that have ended are not watched again while the writers wait.
    let _ = refuse_other_tails(run).await?;
    refuse_alarms(run).await?;
    adopt_forgotten(run).await?;
    delete_left_sentinels(run).await
}

/// The job goes on naming what roles lack by a cut-over that Consul has forgotten, also without the keys that this one has left.
async fn adopt_forgotten(run: &Run<'_>) -> Result<(), Stop> {
    let mut record = run.job.record();
    let mut forgotten = job::forgotten(run.etcd, &record, &run.job.keys).await?;
    forgotten.retain(|it| !record.lost.contains(it));
    if forgotten.is_empty() {
        return Ok(());
    }
    record.lost.extend(forgotten);
    run.job.save(record, &[]).await
}

fn cut_over_already() -> Stop {
    Stop::Refused("the job is cut over already".to_owned())
}

/// Refuses a cut-over by what can be known without the job, so that no instance is replaced for it.
///
/// # Errors
/// See [`Stop`].
pub async fn may_cut_over(
    etcd: &Etcd,
    target: &Target,
    record: &Record,
    keys: &job::Keys,
    freeze: Freeze,
) -> Result<(), Stop> {
    record.refuse_finishing()?;
    match record.phase {
        Phase::Switched => Err(cut_over_already()),
        // The rights that an earlier cut-over has taken are given back before.
        _ if !record.may_be_taken().is_empty() => Ok(()),
        _ => {
            // It may have taken the rights that this one would take.
            job::refuse_switched(target, keys, &record.mapping).await?;
            source::check_revision(etcd, record).await?;
            let frozen = may_freeze(etcd, &record.mapping, freeze).await;
            match frozen {
                // The same roles may write once they have their rights again.
                Err(Stop::Refused(why)) if freeze == Freeze::Roles => {
                    let late = taken_late(etcd, target, record, keys).await?;
                    Err(late
                        .into_iter()
                        .fold(Stop::Refused(why), |stop, late| stop.with(&late.to_string())))
                }
                frozen => frozen,
            }
        }
    }
}

/// Refuses to stop the writers for nothing, and by an alarm that would open the cluster.
async fn may_freeze(etcd: &Etcd, mapping: &Mapping, freeze: Freeze) -> Result<(), Stop> {
    let range = Range::prefix(&mapping.etcd_prefix);
    if let Some(why) = nothing(etcd, mapping).await? {
        return Err(Stop::Refused(format!("not cut over, and no writer was stopped: {why}")));
    }
    match freeze {
        Freeze::Alarm | Freeze::AlarmThatOpens => {
            let refused = alarm_refused(etcd, &mapping.etcd_prefix, freeze == Freeze::AlarmThatOpens).await?;
            refused.map_or(Ok(()), Err)
        }
        Freeze::Roles if !etcd.has_users().await? => Err(Stop::Refused(
            "etcd has no users, so that no role lets programs write: use --freeze alarm or --freeze operator".to_owned(),
        )),
        Freeze::Roles => match etcd.takable(&range).await? {
            Err(why) => Err(Stop::Refused(why)),
            Ok(rights) if rights.is_empty() => Err(Stop::Refused(
                "no role of etcd but root lets programs write keys of this job: use --freeze operator".to_owned(),
            )),
            Ok(_) => Ok(()),
        },
        Freeze::Operator => Ok(()),
    }
}

/// The rights of etcd's roles to write keys of the job.
async fn rights(run: &Run<'_>) -> Result<Vec<Right>, Refused> {
    run.etcd.rights_to_write(&Range::prefix(&run.job.record().mapping.etcd_prefix)).await
}

/// Why `--freeze roles` is refused for these keys; `None` if it is not, if etcd has no users, and if this one may not ask.
///
/// # Errors
/// etcd's.
pub async fn roles_refused(etcd: &Etcd, etcd_prefix: &[u8]) -> Result<Option<String>, Refused> {
    if !etcd.has_users().await? {
        return Ok(None);
    }
    match etcd.takable(&Range::prefix(etcd_prefix)).await {
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => Ok(None),
        found => Ok(found?.err()),
    }
}

/// Why the alarm is refused, and what to do instead; `None` if it is not. `may_open`: also where it opens the cluster to all.
///
/// # Errors
/// etcd's.
pub async fn alarm_refused(
    etcd: &Etcd,
    etcd_prefix: &[u8],
    may_open: bool,
) -> Result<Option<Stop>, Refused> {
    if !may_open && let Some(why) = etcd.opened_by_alarm().await? {
        let roles = match roles_refused(etcd, etcd_prefix).await? {
            None => {
                "Use --freeze roles, which takes the right to write from the roles of etcd and gives it back; or"
            }
            Some(_) => "Use",
        };
        return Ok(Some(Stop::Refused(format!(
            "--freeze alarm is refused: {why}; up to version 3.5 etcd checks nobody's rights while the alarm is on, and anyone \
             who reaches it could delete keys, and switch its access control off. {roles} --freeze operator, and stop the writers yourself; or upgrade all \
             servers to 3.6 first; or accept it with --freeze alarm --accept-open-deletes"
        ))));
    }
    Ok(etcd.may_not_alarm().await?.map(|error| {
        let why = format!(
            "--freeze alarm is refused: {}. Use a user who may (--etcd-user); or --freeze operator, and stop the writers yourself",
            error.message()
        );
        Error::new(error.kind(), why).into()
    }))
}

/// Refuses while another job applies changes of etcd to the same keys, also after this one is cut over: a deletion of etcd
/// would delete what programs have set in Consul. Ends those that do not live; returns what ends those that begin after this look.
async fn refuse_other_tails(run: &Run<'_>) -> Result<Vec<Op>, Stop> {
    let mapping = run.job.record().mapping;
    let mut others = job::others(run.job.target, &run.job.keys).await?;
    others.retain(|(_, it)| mapping.shares_keys(&it.mapping) && it.phase != Phase::Switched);
    let keys: Vec<_> = others.iter().map(|(name, _)| job::Keys::new(name)).collect();
    // Each look takes some seconds.
    let living =
        try_join_all(keys.iter().map(|it| job::end_abandoned(run.job.target, it, &|_| false)))
            .await?;
    let instances =
        others.iter().zip(&living).filter_map(|((name, _), it)| Some((name, it.as_ref()?)));
    if let Some((name, instance)) = instances.into_iter().next() {
        return Err(Stop::Refused(format!(
            "{} applies changes of etcd to the same keys of Consul for the job {name:?}: stop it first",
            instance.shown()
        )));
    }
    Ok(keys.into_iter().map(|it| Op::Delete { key: it.holder }).collect())
}

/// Refuses to rely on rights that another job's cut-over has taken and may give back.
async fn refuse_other_takings(run: &Run<'_>, freeze: Freeze) -> Result<(), Stop> {
    if freeze != Freeze::Roles {
        return Ok(());
    }
    let range = Range::prefix(&run.job.record().mapping.etcd_prefix);
    let others = job::others(run.job.target, &run.job.keys).await?.into_iter();
    let mut takings = others.filter(|(_, other)| {
        let mut rights = other.may_be_taken().iter();
        other.phase != Phase::Switched && rights.any(|right| right.overlaps(&range))
    });
    match takings.next() {
        None => Ok(()),
        Some((name, _)) => Err(Stop::Refused(format!(
            "a cut-over of the job {name:?} has taken rights to write keys of this job, too, and may give them back: wait for \
             its end, or let --job {name} status give back what it has left"
        ))),
    }
}

/// Deletes the sentinels that were there while this instance held the job, each by its name, and none of an instance
/// that has taken over since.
async fn delete_left_sentinels(run: &Run<'_>) -> Result<(), Stop> {
    let left = keys_below(run, &run.job.keys.sentinels(&run.job.record().mapping)).await?;
    if !left.is_empty() {
        run.job.next_epoch().await?;
    }
    Ok(run.etcd.delete_unchanged(&left).await?)
}

/// The keys of etcd below a prefix, with the revisions at which they were set.
pub(crate) async fn keys_below(run: &Run<'_>, prefix: &[u8]) -> Result<Vec<(Bytes, u64)>, Stop> {
    let mut pages = Pages::new(run.etcd, Range::prefix(prefix), 0, run.pace.page);
    let mut found = Vec::new();
    while let Some(page) = pages.next().await? {
        found.extend(page.kvs.into_iter().map(|kv| (kv.key.0, kv.mod_revision.0)));
    }
    Ok(found)
}

/// Refuses alarms of others, and says whose an alarm is. While any is on, this instance must hold the job: another that
/// has taken over may rely on it.
pub(crate) async fn refuse_alarms(run: &Run<'_>) -> Result<(), Stop> {
    let mut on = run.etcd.alarms().await?;
    if on.is_empty() {
        return Ok(());
    }
    run.job.next_epoch().await?;
    let own = run.job.record().alarms;
    on.retain(|alarm| !own.contains(alarm));
    if on.is_empty() {
        return Ok(());
    }
    Err(Stop::Refused(whose(run.job.target, &run.job.keys, Some(&run.job.record()), &on).await?))
}

/// Whose the alarms are that are on and not this job's, for which each cut-over is refused, and what lifts them; `None` if none
/// is on, and if this user may not ask.
///
/// # Errors
/// Errors of both sides.
pub async fn alarm_of_others(
    etcd: &Etcd,
    target: &Target,
    keys: &job::Keys,
    record: Option<&Record>,
) -> Result<Option<String>, Stop> {
    let mut on = match etcd.alarms().await {
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => return Ok(None),
        on => on?,
    };
    on.retain(|alarm| record.is_none_or(|it| !it.alarms.contains(alarm)));
    match on.is_empty() {
        true => Ok(None),
        false => Ok(Some(whose(target, keys, record, &on).await?)),
    }
}

/// Whose the alarms are that are on and not this job's, and what lifts them.
pub(crate) async fn whose(
    target: &Target,
    keys: &job::Keys,
    record: Option<&Record>,
    on: &[u64],
) -> Result<String, Stop> {
    if let Some(record) = record
        && on.iter().any(|alarm| record.has_raised(keys, *alarm))
    {
        return Ok(match record.phase {
            Phase::Switched => format!("{FORGOTTEN}. Run `etcdctl alarm disarm`, and this again"),
            _ => format!("{FORGOTTEN}. {FORGOTTEN_CURE}"),
        });
    }
    let others = job::others(target, keys).await?;
    let is_of = |(name, other): &&(String, Record)| {
        let keys = job::Keys::new(name);
        on.iter().any(|it| other.alarms.contains(it) || other.has_raised(&keys, *it))
    };
    Ok(match others.iter().find(is_of) {
        None => {
            "etcd refuses writes by an alarm that no job in Consul names (`etcdctl alarm list`): after CORRUPT replace the \
             member; after NOSPACE free etcd's disk if it is full, which it is not if Consul has lost the job of a cut-over; \
             then `etcdctl alarm disarm`"
                .to_owned()
        }
        Some((name, other)) if other.finishing => format!(
            "etcd refuses writes by an alarm of the job {name:?}, whose finish has begun: run --job {name} finish again"
        ),
        Some((name, other)) if other.phase == Phase::Switched => format!(
            "etcd refuses writes since the cut-over of the job {name:?}: take it back with --job {name} rollback, or let all \
             programs write to etcd again with `etcdctl alarm disarm`"
        ),
        Some((name, _)) => format!(
            "etcd refuses writes during a cut-over of the job {name:?}: wait for its end, or let --job {name} status lift what \
             it has left"
        ),
    })
}

/// Writes to etcd. An alarm of this job that refuses it was raised late by a replaced instance: it is lifted, if it
/// is on still, and the write repeated. Of another one the error says whose it is.
pub(crate) async fn write<R>(
    run: &Run<'_>,
    attempt: impl AsyncFn() -> Result<R, Refused>,
) -> Result<R, Stop> {
    let mut result = attempt().await;
    for _ in 0..LATE_ALARMS {
        if !matches!(result, Err(Refused::Alarm(_))) {
            break;
        }
        refuse_alarms(run).await?;
        if run.etcd.lift_alarms(&run.job.record().alarms).await? {
            run.report.note(LIFTED);
        }
        result = attempt().await;
    }
    Ok(result?)
}

/// Follows etcd in rounds until they do not get shorter; returns the time of the last one.
async fn catch_up(run: &Run<'_>) -> Result<Duration, Stop> {
    let mut before = Duration::MAX;
    loop {
        let begun = run.etcd.clock().now();
        let sentinel = put_sentinel(run).await?;
        drain(run, sentinel).await?;
        let took = run.etcd.clock().now() - begun;
        if took < SHORT || took > before / 2 {
            return Ok(took);
        }
        before = took;
    }
}

/// The ranges of the keys that this instance puts into etcd.
fn put(run: &Run<'_>) -> Vec<Range> {
    let (mapping, keys) = (run.job.record().mapping, &run.job.keys);
    let own = format!("{}-", run.job.id());
    let own = [keys.sentinels(&mapping), keys.left_by_cutovers(&mapping)]
        .map(|it| [&it[..], own.as_bytes()].concat());
    own.iter().map(|prefix| Range::prefix(prefix)).collect()
}

/// Sets a key that no other instance or round has set.
async fn put_sentinel(run: &Run<'_>) -> Result<Bytes, Stop> {
    put_below(run, &run.job.keys.sentinels(&run.job.record().mapping)).await
}

async fn put_below(run: &Run<'_>, prefix: &[u8]) -> Result<Bytes, Stop> {
    let name = format!("{}-{:016x}", run.job.id(), fastrand::u64(..));
    let key = Bytes::from([prefix, name.as_bytes()].concat());
    write(run, async || run.etcd.touch(&key).await).await?;
    Ok(key)
}

/// Deletes the sentinel, and applies all changes up to its deletion; returns how many set keys.
async fn drain(run: &Run<'_>, sentinel: Bytes) -> Result<u64, Stop> {
    run.etcd.delete(&Range::one(&sentinel)).await?;
    tail(run, &Until::Deleted(sentinel)).await
}

async fn switch(run: &Run<'_>, freeze: Freeze, frozen: &Frozen) -> Result<CutOver, Stop> {
    // Both can have changed since the beginning, before consent was given.
    may_freeze(run.etcd, &run.job.record().mapping, freeze).await?;
    let clock = run.etcd.clock();
    let begun = clock.now();
    // A put would be refused later.
    let key = put_below(run, &run.job.keys.left_by_cutovers(&run.job.record().mapping)).await?;
    // Without it nothing tells later that etcd was restored.
    let left = run.etcd.get(&key, 0).await?.ok_or_else(sentinel_deleted)?.create_revision.0;
    lock(&frozen.0).left = Some(left);
    let sentinel = put_sentinel(run).await?;
    match freeze {
        Freeze::Alarm | Freeze::AlarmThatOpens => stop_writes(run, frozen).await?,
        Freeze::Roles => take_rights(run, frozen, &key).await?,
        Freeze::Operator => {}
    }
    let frozen_at = run.etcd.revision(&sentinel).await?;
    let drained = drain(run, sentinel).await?;
    if run.job.record().revision <= frozen_at {
        return Err(sentinel_deleted());
    }
    if freeze == Freeze::Operator {
        refuse_writers(drained)?;
    }
    let found = compared(run, run.job.record().revision - 1).await?;
    let Found { tally, digests, differences, is_whole } = found;
    if is_whole && tally.moved == 0 {
        return Err(Stop::Refused(ALL_DELETED.to_owned()));
    }
    if differences.is_empty() {
        match freeze {
            Freeze::Alarm | Freeze::AlarmThatOpens => {}
            // Users with the role root can write.
            Freeze::Roles | Freeze::Operator => look_for_writers(run, begun + LOOKED_FOR).await?,
        }
        // One may have begun since the first look. A tail that begins later is ended by the switch, or finds it.
        let ends = refuse_other_tails(run).await?;
        refuse_other_takings(run, freeze).await?;
        are_still_stopped(run, freeze).await?;
        let mut record = run.job.record();
        if freeze != Freeze::Roles {
            // Nothing holds back the writers any more by what an earlier cut-over has taken.
            record.lost = record.given_back();
            record.taken.clear();
        }
        let switched = Record {
            phase: Phase::Switched,
            switched_at: Some(run.job.index()),
            switched_revision: Some(record.revision - 1),
            left: Some(left),
            tally: Some(tally.clone()),
            ..record
        };
        lock(&frozen.0).may_be_switched = true;
        let saved = run.job.save(switched, &ends).await;
        if let Err(Stop::Failed(error)) = &saved
            && !error.maybe_applied()
        {
            // Consul has refused it: writers need not wait until it is known.
            lock(&frozen.0).may_be_switched = false;
        }
        saved?;
        frozen.forget();
    } else {
        // Another instance that has taken over meanwhile applies changes; these are not differences.
        run.job.next_epoch().await?;
    }
    let revision = run.job.record().revision - 1;
    let differences = verify::joined(differences, &run.job.record().mapping);
    let stopped = clock.now() - begun;
    let taken = match differences.is_empty() {
        true => run.job.record().may_be_taken().to_vec(),
        false => Vec::new(),
    };
    let opened = None;
    Ok(CutOver { tally, digests, revision, stopped, taken, opened, differences, is_whole })
}

fn sentinel_deleted() -> Stop {
    Stop::Refused("another program has deleted the sentinel in etcd".to_owned())
}

/// Refuses to end a cut-over if its freeze may have let writers go on.
async fn are_still_stopped(run: &Run<'_>, freeze: Freeze) -> Result<(), Stop> {
    match freeze {
        Freeze::Alarm | Freeze::AlarmThatOpens => is_still_on(run).await,
        Freeze::Roles => are_still_taken(run).await,
        Freeze::Operator => Ok(()),
    }
}

/// Looks once more after the switch: the last look before it was a request earlier, and others know only now that the job is cut
/// over. Returns what lets writers go on; `None` also if etcd does not tell soon.
async fn opened_since(run: &Run<'_>, freeze: Freeze) -> Option<String> {
    let look = async {
        match freeze {
            Freeze::Alarm | Freeze::AlarmThatOpens => {
                Ok((!is_own_on(run).await?).then(|| format!("{OPEN}: the alarm is lifted")))
            }
            Freeze::Roles => opened(run.etcd, &run.job.record()).await,
            Freeze::Operator => Ok(None),
        }
    };
    match select(pin!(look), run.etcd.clock().sleep(LAST_LOOK)).await {
        Either::Left((Ok::<_, Refused>(opened), _)) => opened,
        _ => None,
    }
}

/// Refuses writers that have set keys since the last look, until this moment at least.
async fn look_for_writers(run: &Run<'_>, until: Instant) -> Result<(), Stop> {
    run.etcd.clock().sleep_until(until).await;
    let sentinel = put_sentinel(run).await?;
    refuse_writers(drain(run, sentinel).await?)
}

fn refuse_writers(set: u64) -> Result<(), Stop> {
    match set {
        0 => Ok(()),
        _ => Err(Stop::Refused(format!(
            "programs still write to etcd: {set} keys were set since the last look; stop them first"
        ))),
    }
}

/// Whether the alarm of this cut-over is on.
async fn is_own_on(run: &Run<'_>) -> Result<bool, Refused> {
    let on = run.etcd.alarms().await?;
    Ok(run.job.record().alarms.last().is_some_and(|alarm| on.contains(alarm)))
}

/// Refuses to end a cut-over during which etcd can have taken writes.
async fn is_still_on(run: &Run<'_>) -> Result<(), Stop> {
    if is_own_on(run).await? {
        return Ok(());
    }
    // Another instance that has taken over meanwhile has lifted it.
    run.job.next_epoch().await?;
    Err(Stop::Refused(
        "another program has lifted the alarm that stopped the writers of etcd: some may have written"
            .to_owned(),
    ))
}

/// Refuses to end a cut-over during which a role can have got its right back.
async fn are_still_taken(run: &Run<'_>) -> Result<(), Stop> {
    let done = match run.etcd.has_users().await? {
        true if rights(run).await?.is_empty() => return Ok(()),
        true => "let a role of etcd write again",
        false => "switched etcd's access control off",
    };
    // Another instance that has taken over meanwhile has given it back.
    run.job.next_epoch().await?;
    Err(Stop::Refused(format!("another program has {done}: some programs may have written")))
}

/// Takes the right to write from all roles that have it, after the record, and the key that stays in etcd, name what is to be
/// given back.
async fn take_rights(run: &Run<'_>, frozen: &Frozen, left: &Bytes) -> Result<(), Stop> {
    let taken = rights(run).await?;
    let taking = fastrand::u64(1..1 << 62);
    let (record, rights) = (run.job.record(), Rights::Taken);
    // Those that this cut-over cannot take and is not to give back are still named.
    let before = record.given_back();
    let lost: Vec<Right> = run.etcd.not_given_back(&before).await?.into_iter().cloned().collect();
    run.report.stops(BY_ROLES, &taken)?;
    let noted = job::noted(taking, &taken)?;
    write(run, async || run.etcd.set(left, &noted).await).await?;
    {
        let own = Own { taken: taken.clone(), taking, is_taking: false };
        lock(&frozen.0).own = own;
    }
    run.job.save(Record { taken: taken.clone(), lost, rights, taking, ..record }, &[]).await?;
    // An instance that was replaced meanwhile takes no more.
    let may_go_on = async || {
        run.job.apply(&[]).await?;
        lock(&frozen.0).own.is_taking = true;
        Ok::<_, Stop>(())
    };
    run.etcd.take_all(&taken, may_go_on).await?;
    // An instance that was replaced meanwhile gives them back.
    run.job.next_epoch().await
}

/// Raises an alarm with a number of its own, which the record names first, so that another run can lift it.
/// An instance that was replaced can then lift no alarm that was raised after its own.
async fn stop_writes(run: &Run<'_>, frozen: &Frozen) -> Result<(), Stop> {
    let mut record = run.job.record();
    let alarm = record.new_alarm(&run.job.keys);
    record.alarms.push(alarm);
    run.report.stops(BY_ALARM, &[])?;
    let alarms = record.alarms.clone();
    run.job.save(record, &[]).await?;
    lock(&frozen.0).alarms = alarms;
    run.etcd.raise_alarm(alarm).await?;
    // Another job may have raised its own at this moment: the way back of each would end at the alarm of the other.
    refuse_alarms(run).await
}

async fn compared(run: &Run<'_>, revision: u64) -> Result<Found, Stop> {
    let (etcd, target, mapping) = (run.etcd, run.job.target, &run.job.record().mapping);
    let progress = |done| run.report.progress("compared", done, None);
    let most = MAX_DIFFERENCES;
    verify::compare_up_to(most, etcd, target, mapping, revision, run.pace, progress).await
}
