//! `consul-migrate`: moves the keys of etcd to Consul while programs write.
//!
//! ```text
//! consul-migrate --etcd 10.0.0.1:2379 plan
//! consul-migrate --etcd 10.0.0.1:2379 copy
//! consul-migrate --etcd 10.0.0.1:2379 tail
//! consul-migrate --etcd 10.0.0.1:2379 verify
//! consul-migrate --etcd 10.0.0.1:2379 cutover
//! ```

mod arguments;
mod connection;
mod document;
mod end;
mod failure;
mod lines;
mod progress;
mod report;
mod switch;
mod verbs;

use arguments::{CommandLine, Verb};
use connection::Session;
use consul_cli::line::{completion, parsed};
use consul_cli::print::{self, PROGRAM, failed, print_json, say};
use failure::Failure;
use futures_util::future::select_all;
use report::ReportFile;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let line: CommandLine = parsed();
    if let Verb::Completion { shell } = line.verb {
        completion::<CommandLine>(shell);
        return ExitCode::SUCCESS;
    }
    if let Verb::Report { file } = &line.verb {
        return print::status(match document::show(file, line.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failed_with(&line, &failure),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(&line)),
        Err(error) => Err(Failure::Usage(format!("no runtime: {error}"))),
    };
    print::status(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed_with(&line, &failure),
    })
}

/// Prints why a run has failed, and returns its exit status.
fn failed_with(line: &CommandLine, failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if line.json && !text.is_empty() {
        print_json(&failed(failure.kind(), &text));
    }
    if !text.is_empty() {
        say(&format!("{PROGRAM}: {text}"));
    }
    failure.status()
}

async fn run(line: &CommandLine) -> Result<(), Failure> {
    let session = Session::new(line).await?;
    let report = ReportFile::open(line.report.as_deref())?;
    let unheard = |error| Failure::Usage(format!("no signals: {error}"));
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    let mut signals =
        kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>().map_err(unheard)?;
    let any = async {
        loop {
            select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
            if !session.has_result.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    let done = tokio::select! {
        done = verbs::run(&session, line, &report) => done,
        () = any => Err(Failure::Interrupted),
    };
    let undone = switch::unfreeze(&session, &line.job.name).await;
    if let (Err(_), Err(failure)) = (&done, &undone) {
        say(&format!("{PROGRAM}: {failure}"));
    }
    let done = match done.and(undone) {
        Err(failure) => Err(switch::with_opened(&session, &line.job.name, failure).await),
        done => done,
    };
    if let Err(failure) = &done
        && let text = failure.to_string()
        && !text.is_empty()
        && let Err(why) =
            report.write(&document::of_failure(&session, line, failed(failure.kind(), &text)))
    {
        say(&format!("{PROGRAM}: {why}"));
    }
    done
}
