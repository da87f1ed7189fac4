//! The cut-over and the way back.

use super::arguments::{CommandLine, Cutover, Freeze as Given, Rollback};
use super::connection::{Session, is_dead};
use super::document::{document, of_failure, of_taking};
use super::failure::Failure;
use super::progress::Progress;
use super::report::ReportFile;
use super::verbs::{Done, by_kind, held, listed, of, open_if, without};
use consul_api::error::{Error, Kind};
use consul_cli::print::{PROGRAM, counted, failed, say};
use consul_migrate::etcd::Right;
use consul_migrate::job::{self, Instance, Keys, Phase, Record};
use consul_migrate::{
    CutOver, Freeze, LAST_LOOK, Left, MayChange, Report, RolledBack, Run, Stop, Until,
    alarm_of_others, cut_over, lift_left, may_cut_over, may_roll_back, opened_late, rights_now,
    roll_back, rollback_has_begun, tail, taken_late,
};
use serde_json::{Value, json};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const ALARM: &str = "Now all writers of this etcd cluster are stopped, those of other keys too, until programs use Consul or \
                     rollback lifts the alarm.";

const OPENS: &str = "If etcd has users and is not 3.6 or later, nobody's rights are checked from now on: anyone who reaches it can \
                     delete keys, and switch its access control off.";

const FOLLOWS: &str = "etcd is the truth: programs write there, and Consul follows";

const IF_LOST: &str = "if the job in Consul is lost, give the rights back by:";

const STILL_REFUSED: &str = "not cut over, and etcd STILL REFUSES WRITES: unless `status` says that the job is cut over, give the rights \
                             back by";

const NOT_NAMED: &str = "roles of etcd lack rights that this cut-over has taken, and the job does not name them, so that nothing gives them \
                         back; when etcd is to take writes again, give them back by:";

const KEEP_STOPPED: &str = "leave etcd's writers stopped";

const ROLES: &str = "Now the roles of etcd that may write keys of this job lose that right, for other keys of the same permission \
                     too, until programs use Consul or rollback gives it back.";

const OPERATOR: &str = "Stop all writers of etcd now, such as by a read-only role.";

pub async fn cutover(
    session: &Session,
    line: &CommandLine,
    asked: &Cutover,
    report: &ReportFile,
) -> Result<Done, Failure> {
    let name = &line.job.name;
    let (freeze, warning) = match (asked.freeze, asked.accept_open_deletes) {
        (Given::Alarm, false) => (Freeze::Alarm, ALARM.to_owned()),
        (Given::Alarm, true) => (Freeze::AlarmThatOpens, format!("{ALARM} {OPENS}")),
        (Given::Roles, false) => (Freeze::Roles, ROLES.to_owned()),
        (Given::Operator, false) => (Freeze::Operator, OPERATOR.to_owned()),
        (Given::Roles | Given::Operator, true) => {
            let why = "--accept-open-deletes is for --freeze alarm, and another --freeze is given";
            return Err(Failure::Usage(why.to_owned()));
        }
    };
    require_consent(asked.yes)?;
    let may = async |record: &Record| {
        may_cut_over(&session.etcd, &session.target, record, &Keys::new(name), freeze).await
    };
    let opened = open_if(session, name, &asked.hold, may).await?;
    let Some(job) = opened else { return Err(without(name)) };
    let why = "the cut-over was about to stop the writers of etcd, and has not come to its end: `status` says how far the job is";
    let head = of_failure(session, line, failed("unfinished", why));
    let teller = Teller { progress: session.progress.clone(), report: report.clone(), head };
    let run = Run { report: Arc::new(teller), ..of(session, job) };
    let consent = async |lag: Duration| {
        let text = format!("The changes of etcd arrive within {:.1} s.", lag.as_secs_f64());
        let mut warning = warning;
        if freeze == Freeze::Roles {
            let users = session.etcd.root_users().await?.join(", ");
            warning += &format!(
                " Users with the role root still can write, so stop their programs: {users}."
            );
        }
        agree(session, &format!("{text} {warning}"), asked.yes).await
    };
    let limit = Duration::from_secs(asked.within);
    let done = held(session, &run, async || {
        let done = cut_over(&run, freeze, &session.frozen, limit, consent).await?;
        if asked.follow && done.differences.is_empty() {
            told(&done, asked.freeze).lines().for_each(|line| session.progress.note(line));
            // It is followed until a signal comes.
            if line.report.is_some()
                && let Err(why) = report.write(&document(session, line, as_json(&done)).await)
            {
                session.progress.note(&why.to_string());
            }
            tail(&run, &Until::Dropped).await?;
        }
        Ok(done)
    });
    let mut done = done.await?;
    if !done.differences.is_empty() {
        // First: writers are not to wait for those that read the output.
        unfreeze(session, name).await?;
        done.taken = session.frozen.taken();
    }
    let (text, json) = (told(&done, asked.freeze), as_json(&done));
    Ok(Done { text, json, is_well: done.differences.is_empty() && done.opened.is_none() })
}

/// The progress of a cut-over, and what it stops.
struct Teller {
    progress: Arc<Progress>,
    report: ReportFile,
    /// The report of a cut-over that has not come to its end.
    head: Value,
}

impl Report for Teller {
    fn progress(&self, phase: &'static str, done: u64, of: Option<u64>) {
        self.progress.progress(phase, done, of);
    }

    fn behind(&self, revisions: u64, time: Duration) {
        self.progress.behind(revisions, time);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }

    fn stops(&self, how: &str, taken: &[Right]) -> Result<(), Stop> {
        self.progress.stops(how, taken)?;
        let kept = self.report.begin(&of_taking(&self.head, taken))?;
        kept.iter().for_each(|why| self.note(why));
        Ok(())
    }
}

fn as_json(done: &CutOver) -> Value {
    let [missing, extra, different] = by_kind(&done.differences);
    json!({
        "verb": "cutover", "keys": done.is_whole.then_some(&done.tally), "revision": done.revision,
        "stopped_seconds": done.stopped.as_secs_f64(), "missing": missing, "extra": extra, "different": different,
        "differences": done.differences, "whole": done.is_whole, "digests": done.digests, "taken": done.taken,
        "opened": done.opened,
    })
}

/// How a cut-over came to its end.
fn told(done: &CutOver, freeze: Given) -> String {
    let seconds = done.stopped.as_secs_f64();
    let keys = counted(done.tally.moved as usize, "key");
    if !done.differences.is_empty() {
        let count = done.differences.len();
        let mut text = match done.is_whole {
            true => format!("not cut over: of {keys} of etcd and those of Consul {count} differ\n"),
            false => format!("not cut over: at least {count} keys differ\n"),
        };
        text += &listed(&done.differences, count, "--json names all");
        if done.is_whole {
            text += &format!("{}\n", done.tally);
        }
        return text;
    }
    let state = match freeze {
        _ if done.opened.is_some() => "another program has let etcd take writes meanwhile",
        Given::Alarm => "etcd refuses writes, and `rollback` undoes that",
        Given::Roles => "the roles of etcd may not write, and `rollback` undoes that",
        Given::Operator => KEEP_STOPPED,
    };
    let are = if done.tally.moved == 1 { "is" } else { "are" };
    let mut text = format!(
        "cut over: {keys} {are} equal; writers were stopped for {seconds:.2} s\n{}\n\
         start the programs with Consul's address: {state}",
        done.tally
    );
    if let Some(opened) = &done.opened {
        text += &format!("\n{opened}");
    }
    if !done.taken.is_empty() {
        text += &format!("\n{IF_LOST}\n");
        text += listed(&done.taken, done.taken.len(), "--json names all").trim_end();
    }
    text
}

/// Names the rights that this process has taken and not given back.
fn name_taken(session: &Session, why: &str) {
    let taken = session.frozen.taken();
    if !taken.is_empty() {
        say(&format!("{PROGRAM}: {why}"));
        taken.iter().for_each(|right| say(&format!("  {right}")));
    }
}

/// Says, too, that what this process has given back is open under another one's cut-over, if its request came late.
pub async fn with_opened(session: &Session, name: &str, failure: Failure) -> Failure {
    let keys = Keys::new(name);
    let opened = opened_late(&session.etcd, &session.target, &keys);
    match (timeout(LAST_LOOK, opened).await, failure) {
        (Ok(Ok(Some(opened))), Failure::Stopped(stop)) => stop.with(&opened).into(),
        (Ok(Ok(Some(opened))), failure) => {
            say(&format!("{PROGRAM}: {opened}"));
            failure
        }
        (_, failure) => failure,
    }
}

/// Lifts the alarm of a cut-over that has not come to its end, and deletes its keys in etcd.
pub async fn unfreeze(session: &Session, name: &str) -> Result<(), Failure> {
    if is_undone(session, name).await? {
        // Nothing waits for it.
        let _ = timeout(LAST_LOOK, session.frozen.clean(&session.etcd)).await;
    }
    Ok(())
}

/// Returns whether the job is not cut over.
async fn is_undone(session: &Session, name: &str) -> Result<bool, Failure> {
    let frozen = &session.frozen;
    let (is_on, may_be_switched) = (frozen.may_be_on(), frozen.may_be_switched());
    if !is_on && !may_be_switched {
        return Ok(true);
    }
    // The last request of the cut-over may be on its way, or have been applied.
    match timeout(LAST_LOOK, switched(session, name)).await {
        Ok(Ok(Some(record))) if !frozen.has_switched(&record) => {
            // Nothing relies on what this process has stopped.
            let lifted = frozen.lift(&session.etcd, &session.target, &Keys::new(name)).await;
            say(&format!(
                "{PROGRAM}: another instance has cut the job over meanwhile: `{PROGRAM} status` says whether etcd takes writes"
            ));
            name_taken(session, NOT_NAMED);
            lifted?;
            return Ok(false);
        }
        Ok(Ok(Some(_))) => {
            let state = if is_on { "etcd refuses writes" } else { KEEP_STOPPED };
            say(&format!("{PROGRAM}: the cut-over had come to its end: {state}"));
            name_taken(session, IF_LOST);
            return Ok(false);
        }
        Ok(Err(_)) | Err(_) if may_be_switched => {
            let (state, lifts) = match is_on {
                true => ("etcd REFUSES WRITES STILL", ", which lets etcd take writes if it is not"),
                false => (KEEP_STOPPED, ""),
            };
            say(&format!(
                "{PROGRAM}: it is not known whether the job is cut over, because Consul does not answer: {state}; \
                 run `{PROGRAM} status` when Consul answers{lifts}"
            ));
            name_taken(session, IF_LOST);
            return Ok(false);
        }
        _ => {}
    }
    let keys = Keys::new(name);
    // Giving rights back is noted in Consul first.
    let cure = frozen.cure();
    let lifted = async {
        if frozen.may_be_taken() {
            let found = timeout(LAST_LOOK, job::record(&session.target, &keys)).await;
            found.map_err(|_| Stop::Refused("Consul does not answer".to_owned()))??;
        }
        frozen.lift(&session.etcd, &session.target, &keys).await
    };
    match lifted.await {
        Ok(Some(missing)) if missing.is_empty() => {
            let state = if is_on { "etcd takes writes again" } else { "its writers may go on" };
            say(&format!("{PROGRAM}: not cut over: {state}"));
            Ok(true)
        }
        Ok(Some(_)) => {
            name_taken(session, STILL_REFUSED);
            Ok(true)
        }
        Ok(None) => {
            say(&format!(
                "{PROGRAM}: another instance has gone on with the job: `{PROGRAM} status` says how far"
            ));
            Ok(true)
        }
        Err(stop) => {
            say(&format!(
                "{PROGRAM}: etcd REFUSES WRITES STILL: run `{PROGRAM} status`, or {cure}"
            ));
            Err(stop.into())
        }
    }
}

/// The record if the job is cut over; from now on this instance changes nothing any more.
async fn switched(session: &Session, name: &str) -> Result<Option<Record>, Error> {
    let keys = Keys::new(name);
    job::end(&session.target, &keys, &session.me).await?;
    let record = job::record(&session.target, &keys).await?;
    Ok(record.map(|(record, _)| record).filter(|it| it.phase == Phase::Switched))
}

/// Says, too, what stops the writers of etcd although Consul has no record of the job: it may have lost it.
pub async fn with_lost(session: &Session, keys: &Keys, failure: Failure) -> Failure {
    let (etcd, target) = (&session.etcd, &session.target);
    let record = Record::new(String::new(), session.mapping.clone(), 0, false);
    let look = async {
        let taken = taken_late(etcd, target, &record, keys).await?.map(|it| it.to_string());
        let raised = alarm_of_others(etcd, target, keys, None).await?;
        Ok::<_, Stop>(raised.or(taken))
    };
    match (timeout(LAST_LOOK, look).await, failure) {
        (Ok(Ok(Some(state))), Failure::Stopped(stop)) => stop.with(&state).into(),
        (_, failure) => failure,
    }
}

/// The state of the freeze, for `status`. It lifts a freeze that was left.
pub async fn freeze_left(session: &Session, keys: &Keys, record: &Record) -> Result<Left, Failure> {
    if !record.may_be_taken().is_empty() {
        return rights_left(session, keys, record).await;
    }
    let left = alarm_left(session, keys, record).await?;
    let is_by_roles = record.phase == Phase::Switched && !record.taken.is_empty();
    match left == Left::Unfrozen && is_by_roles {
        true => Ok(Left::Known(rights_now(&session.etcd, record).await?)),
        false => Ok(left),
    }
}

async fn alarm_left(session: &Session, keys: &Keys, record: &Record) -> Result<Left, Failure> {
    let on = match session.etcd.alarms().await {
        // A user of etcd may not ask.
        Err(_) if record.alarms.is_empty() => return Ok(Left::Unfrozen),
        on => on?,
    };
    if on.is_empty() && record.alarms.is_empty() {
        return Ok(Left::Unfrozen);
    }
    let is_on = on.iter().any(|alarm| record.alarms.contains(alarm));
    let has_others = on.iter().any(|alarm| !record.alarms.contains(alarm));
    let dead = |instance: &Instance| is_dead(instance, &session.me);
    match (record.phase, is_on) {
        (_, false) if on.iter().any(|alarm| record.has_raised(keys, *alarm)) => {
            return Ok(Left::forgotten());
        }
        (Phase::Switched, true) if has_others => {
            let why = "etcd refuses writes since the cut-over, and by an alarm that is not this job's, too";
            return Ok(why.into());
        }
        (Phase::Switched, true) => return Ok("etcd refuses writes since the cut-over".into()),
        (_, false) if !on.is_empty() => {
            return Ok("etcd refuses writes by an alarm that is not this job's".into());
        }
        (Phase::Switched, false) => {
            return Ok("etcd TAKES WRITES although the job is cut over".into());
        }
        (_, false) => return Ok(Left::Unfrozen),
        _ if job::end_abandoned(&session.target, keys, &dead).await?.is_none() => {}
        _ => return Ok("etcd refuses writes during a cut-over".into()),
    }
    // The instance may have come to its end since: from now on it changes nothing any more. Another one may have begun,
    // whose alarm the record that was read before does not name.
    let Some((now, _)) = job::record(&session.target, keys).await? else {
        return Ok(Left::Unfrozen);
    };
    let left = Record { alarms: record.alarms.clone(), ..now };
    Ok(match lift_left(&session.etcd, &left).await? {
        true => "etcd refused writes since a cut-over was killed; now it takes them again".into(),
        false if left.phase == Phase::Switched => "etcd refuses writes since the cut-over".into(),
        false => Left::Unfrozen,
    })
}

/// The same where roles have lost their right to write.
async fn rights_left(session: &Session, keys: &Keys, record: &Record) -> Result<Left, Failure> {
    let dead = |instance: &Instance| is_dead(instance, &session.me);
    if record.phase == Phase::Switched {
        return Ok(Left::Known(rights_now(&session.etcd, record).await?));
    }
    if job::end_abandoned(&session.target, keys, &dead).await?.is_some() {
        return Ok("etcd refuses writes during a cut-over".into());
    }
    // The instance may have come to its end since: from now on it changes nothing any more. Another one may have begun.
    Ok(match job::give_back(&session.etcd, &session.target, keys, record.taking).await? {
        Some(true) => {
            "the roles of etcd could not write since a cut-over was killed; now they can again"
                .into()
        }
        Some(false) => Left::Unfrozen,
        None => match job::record(&session.target, keys).await? {
            Some((now, _)) if now.phase == Phase::Switched => {
                Left::Known(rights_now(&session.etcd, &now).await?)
            }
            _ => "another instance has gone on with the cut-over".into(),
        },
    })
}

/// Which side is the truth, as a word and in a line.
pub async fn truth(
    session: &Session,
    keys: &Keys,
    record: &Record,
    is_forgotten: bool,
) -> Result<(&'static str, String), Failure> {
    if record.finishing {
        let (truth, line) = match record.phase {
            Phase::Switched => ("consul", "Consul is the truth"),
            _ => ("etcd", "etcd is the truth"),
        };
        return Ok((
            truth,
            format!("{line}, and a finish has begun and has not ended: run it again"),
        ));
    }
    if record.phase != Phase::Switched && is_forgotten {
        let line = "etcd is the truth up to that cut-over; what programs have set in Consul since is in Consul alone";
        return Ok(("etcd", line.to_owned()));
    }
    if record.phase != Phase::Switched {
        let line = match job::refuse_switched(&session.target, keys, &record.mapping).await {
            Err(Stop::Refused(why)) => {
                format!("etcd is the truth, but not for keys of another job: {why}")
            }
            // A token that may not list the jobs is enough for the rest.
            Err(Stop::Failed(error)) if error.kind() == Kind::PermissionDenied => {
                FOLLOWS.to_owned()
            }
            Err(stop) => return Err(stop.into()),
            Ok(()) => FOLLOWS.to_owned(),
        };
        return Ok(("etcd", line));
    }
    let is_going_back = rollback_has_begun(&session.etcd, record, keys).await?;
    let line = match is_going_back {
        true => {
            "Consul is the truth, but a rollback has begun and has not ended: run it again; etcd is the truth after it"
        }
        false => {
            "Consul is the truth: what programs set in etcd does not come to it; `rollback` makes etcd the truth"
        }
    };
    Ok(("consul", line.to_owned()))
}

pub async fn rollback(session: &Session, name: &str, asked: &Rollback) -> Result<Done, Failure> {
    require_consent(asked.yes || asked.dry_run)?;
    let may = async |record: &Record| may_roll_back(record);
    let opened = open_if(session, name, &asked.hold, may).await?;
    let Some(job) = opened else { return Err(without(name)) };
    let run = of(session, job);
    let may_change = match asked {
        Rollback { dry_run: true, .. } => MayChange::Nothing,
        Rollback { overwrite: true, .. } => MayChange::Restored,
        _ => MayChange::NoNewKeys,
    };
    let done = held(session, &run, async || {
        if !asked.dry_run {
            let text = "etcd becomes as Consul is now, and takes writes again. Stop the programs that write to either.";
            let text = format!("{text}{}", also_opened(&run, name).await?);
            agree(session, &text, asked.yes).await?;
        }
        roll_back(&run, may_change).await
    });
    let done = done.await?;
    let is_well = done.without_source.is_empty()
        && done.changed.is_empty()
        && done.left_different == 0
        && done.not_given_back.is_empty();
    let json = json!({ "verb": "rollback", "dry_run": asked.dry_run, "done": done });
    Ok(Done { text: told_back(&done, asked.dry_run), json, is_well })
}

/// The warning that other jobs' keys of etcd take writes, too.
pub async fn also_opened(run: &Run<'_>, name: &str) -> Result<String, Stop> {
    let (target, record) = (run.job.target, run.job.record());
    let others = job::also_opened(target, &Keys::new(name), &record).await?;
    Ok(match others.is_empty() {
        true => String::new(),
        false => format!(
            " The roles may then write keys of other jobs that are cut over, too, which does not come to Consul: {}.",
            others.join(", ")
        ),
    })
}

fn told_back(done: &RolledBack, is_dry: bool) -> String {
    let (set, deleted) = (counted(done.set as usize, "key"), counted(done.deleted as usize, "key"));
    let mut text = match is_dry {
        true => format!("a rollback would set {set} of etcd and delete {deleted}\n"),
        false => {
            let is_alike = done.changed.is_empty() && done.left_different == 0;
            let state = match (is_alike, done.not_given_back.is_empty()) {
                (true, true) => "it is as Consul, and takes writes",
                (false, true) => "it now takes writes",
                (true, false) => "it is as Consul",
                (false, false) => "Consul is followed again by `tail`",
            };
            format!("set {set} of etcd and deleted {deleted}: {state}\n")
        }
    };
    if is_dry {
        text += &listed(&done.keys, (done.set + done.deleted) as usize, "--json names 1000");
    }
    if done.left > 0 {
        text += &format!(
            "left as they are, with a session or a lease: {}\n",
            counted(done.left as usize, "key")
        );
        text += &listed(&done.left_keys, done.left as usize, "--json names 1000");
    }
    if !done.changed.is_empty() {
        text += "programs have set these keys of etcd since the cut-over, or have deleted them now; they stay, and `tail` takes \
                 that to Consul:\n";
        text += &listed(&done.changed, done.changed.len(), "--json names all");
    }
    if !done.not_given_back.is_empty() {
        text += "etcd STILL REFUSES WRITES of roles, because somebody else has changed them since the cut-over:\n";
        text += &listed(&done.not_given_back, done.not_given_back.len(), "--json names all");
    }
    if !done.without_source.is_empty() {
        text += "these keys of Consul have no place in etcd:\n";
        let keys = done.without_source.iter().map(|key| format!("{key:?}"));
        text += &listed(keys, done.without_source.len(), "--json names all");
    }
    text
}

pub fn require_consent(is_given: bool) -> Result<(), Failure> {
    match is_given || io::stdin().is_terminal() {
        true => Ok(()),
        false => Err(Failure::Usage("there is no terminal to agree on: use --yes".to_owned())),
    }
}

/// Asks on the terminal.
pub async fn agree(session: &Session, text: &str, is_given: bool) -> Result<(), Stop> {
    session.progress.ask(!is_given);
    say(&format!("{PROGRAM}: {text}"));
    if is_given {
        return Ok(());
    }
    say("Type yes to go on:");
    let (sender, answer) = tokio::sync::oneshot::channel();
    // A blocked read does not keep the program from ending.
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = io::stdin().read_line(&mut line);
        let _ = sender.send(line);
    });
    let answer = answer.await.unwrap_or_default();
    session.progress.ask(false);
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Stop::Refused("not agreed: nothing was changed".to_owned())),
    }
}
