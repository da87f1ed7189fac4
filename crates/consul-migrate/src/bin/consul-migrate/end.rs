//! The end of a move.

use super::arguments::Finish;
use super::connection::Session;
use super::failure::Failure;
use super::switch::{agree, also_opened, require_consent};
use super::verbs::{Done, held, listed, of, open_if, open_without_etcd, without};
use consul_cli::print::{PROGRAM, counted, say};
use consul_migrate::job::{Keys, Phase, Record};
use consul_migrate::{Finished, Stop, finish as end, finish_without_etcd, may_finish};
use serde_json::json;

const TEXT: &str = "this job stops no writer of etcd any more, and the job is forgotten: no rollback can follow. Stop the programs that still use etcd.";

const WITHOUT: &str = "nothing is done in etcd, and the job is forgotten: no rollback can follow.";

const GONE: &str =
    "if etcd is gone for good, `finish --without-etcd` removes what the job has left in Consul";

const NOT_CUT_OVER: &str = " The job is not cut over: what programs have written to etcd since its last change is not in Consul.";

pub async fn finish(session: &Session, name: &str, asked: &Finish) -> Result<Done, Failure> {
    require_consent(asked.yes)?;
    let may = async |record: &Record| {
        may_finish(&session.etcd, record, &Keys::new(name), asked.abandon_rollback).await
    };
    let opened = match asked.without_etcd {
        true => open_without_etcd(session, name, &asked.hold).await?,
        false => open_if(session, name, &asked.hold, may).await.inspect_err(|failure| {
            if matches!(failure, Failure::Stopped(Stop::Failed(error)) if error.is_retryable()) {
                say(&format!("{PROGRAM}: {GONE}"));
            }
        })?,
    };
    let Some(job) = opened else { return Err(without(name)) };
    let run = of(session, job);
    let done = held(session, &run, async || {
        if asked.without_etcd {
            let is_late = run.job.record().phase == Phase::Switched;
            let text = format!("{WITHOUT}{}", if is_late { "" } else { NOT_CUT_OVER });
            agree(session, &text, asked.yes).await?;
            return finish_without_etcd(&run).await;
        }
        let text = format!("{TEXT}{}", also_opened(&run, name).await?);
        agree(session, &text, asked.yes).await?;
        end(&run, asked.abandon_rollback).await
    });
    let done = done.await?;
    let json = json!({ "verb": "finish", "keys": done.keys, "done": done });
    Ok(Done { text: told(&done), json, is_well: true })
}

fn told(done: &Finished) -> String {
    let lifted = match done.lifted {
        _ if done.without_etcd => "etcd was left alone",
        _ if !done.not_lifted.is_empty() => "etcd STILL REFUSES WRITES",
        true => "etcd takes writes again",
        false if done.alarms_unknown => "etcd's user may not ask whether an alarm is on",
        false => "etcd took writes already",
    };
    let unmarked = counted(done.unmarked as usize, "key");
    let mut text =
        done.keys.as_ref().map_or(String::new(), |keys| format!("at the cut-over: {keys}\n"));
    text += &format!(
        "finished: {lifted}; {unmarked} of Consul lost the mark of the job, and its own keys are removed\n"
    );
    if let Some(left) = done.left {
        text += &format!("etcd still has {} of the job", counted(left as usize, "key"));
        if let Some(all) = done.all {
            text += &format!(", and {} in all", counted(all as usize, "key"));
        }
        text += "; it can go when no program uses it\n";
    }
    if !done.not_lifted.is_empty() {
        text += match done.without_etcd {
            true => "if that etcd comes back, it still refuses:\n",
            false => "what etcd still refuses, and what undoes that:\n",
        };
        text += &listed(&done.not_lifted, done.not_lifted.len(), "--json names all");
    }
    if !done.set_since.is_empty() {
        text += "programs have set these keys of etcd since the cut-over, which Consul does not have so:\n";
        text += &listed(&done.set_since, done.set_since.len(), "--json names up to 1000");
    }
    if !done.jobs.is_empty() {
        text += &format!("other jobs of this Consul: {}\n", done.jobs.join(", "));
    }
    text
}
