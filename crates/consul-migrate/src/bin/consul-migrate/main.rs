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
mod signals;
mod switch;
mod verbs;

use arguments::{CommandLine, Verb};
use connection::Session;
use consul_cli::line::{completion, parsed};
use consul_cli::print::{self, PROGRAM, failed, print_json, say};
use failure::Failure;
use report::ReportFile;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

fn main() -> ExitCode {
    let line: CommandLine = parsed();
    if let Verb::Completion { shell } = line.verb {
        completion::<CommandLine>(shell);
        return ExitCode::SUCCESS;
    }
    if let Verb::Report { file } = &line.verb {
        return print::status(match document::show(file, line.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failed_with(&line, &failure, None),
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    print::status(match runtime {
        Ok(runtime) => runtime.block_on(run(&line)),
        Err(error) => failed_with(&line, &Failure::Usage(format!("no runtime: {error}")), None),
    })
}

/// Prints why a run has failed, also into its report, and returns its exit status.
fn failed_with(
    line: &CommandLine,
    failure: &Failure,
    begun: Option<(&Session, &ReportFile)>,
) -> ExitCode {
    let text = failure.to_string();
    if text.is_empty() {
        return failure.status();
    }
    let mut document = failed(failure.kind(), &text);
    if let Some((session, report)) = begun {
        document = document::of_failure(session, line, document);
        if let Err(why) = report.write(&document) {
            say(&format!("{PROGRAM}: {why}"));
        }
    }
    if line.json {
        print_json(&document);
    }
    say(&format!("{PROGRAM}: {text}"));
    failure.status()
}

async fn run(line: &CommandLine) -> ExitCode {
    let mut session = match Session::new(line) {
        Ok(session) => session,
        Err(failure) => return failed_with(line, &failure, None),
    };
    let (report, unopened) = match ReportFile::open(line.report.as_deref()) {
        Ok(report) => (report, None),
        Err(failure) => (ReportFile::none(), Some(failure)),
    };
    let done = match unopened {
        Some(failure) => Err(failure),
        None => work(&mut session, line, &report).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed_with(line, &failure, Some((&session, &report))),
    }
}

async fn work(
    session: &mut Session,
    line: &CommandLine,
    report: &ReportFile,
) -> Result<(), Failure> {
    let unheard = |error| Failure::Usage(format!("no signals: {error}"));
    let mut signals = signals::listen().map_err(unheard)?;
    tokio::select! {
        learned = session.learn(line) => learned?,
        () = signals.come() => return Err(Failure::Interrupted),
    }
    let session = &*session;
    let any = async {
        loop {
            signals.come().await;
            if !session.has_result.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    let done = tokio::select! {
        done = verbs::run(session, line, report) => done,
        () = any => Err(Failure::Interrupted),
    };
    let undone = switch::unfreeze(session, &line.job.name).await;
    if let (Err(_), Err(failure)) = (&done, &undone) {
        say(&format!("{PROGRAM}: {failure}"));
    }
    match done.and(undone) {
        Err(failure) => Err(switch::with_opened(session, &line.job.name, failure).await),
        done => done,
    }
}
