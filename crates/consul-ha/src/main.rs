//! `consul-ha`: shows a cluster and changes it, from outside.
//!
//! ```text
//! consul-ha --prefix ha/ nodes
//! consul-ha --prefix ha/ drain n2 --wait
//! consul-ha --prefix ha/ shards --json
//! ```
//!
//! It is not a member: it reads Consul as an observer does, and leaves no key, check or session.

mod arguments;
mod change;
mod complete;
mod connection;
mod doctor;
mod failure;
mod follow;
mod look;
mod output;
mod profile;
mod progress;
mod signals;
mod wait;
mod words;

use arguments::{CommandLine, Verb};
use connection::Session;
use consul_cli::line::{man, parsed};
use consul_cli::print;
use failure::Failure;
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    let line: CommandLine = parsed();
    let output = Output { json: line.json };
    match line.verb {
        Verb::Completion { shell } => {
            print::print(&complete::script(shell));
            return print::status(ExitCode::SUCCESS);
        }
        Verb::Man => {
            print::print(&man::<CommandLine>());
            return print::status(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let line = match profile::with_profile(line) {
        Ok(line) => line,
        Err(failure) => {
            output.failure(&failure);
            return print::status(failure.status());
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(&line, output)),
        Err(error) => Err(Failure::Usage(format!("no runtime: {error}"))),
    };
    print::status(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.status()
        }
    })
}

async fn run(line: &CommandLine, output: Output) -> Result<(), Failure> {
    let session = Session::new(line)?;
    match run_verb(line, &session, output).await {
        Err(failure) => Err(session.explained(failure).await),
        done => done,
    }
}

async fn run_verb(line: &CommandLine, session: &Session, output: Output) -> Result<(), Failure> {
    match &line.verb {
        Verb::Nodes(watched) => output.repeated(session, watched, || look::nodes(session)).await,
        Verb::Shards(shards) => {
            output.repeated(session, &shards.watched, || look::shards(session, shards)).await
        }
        Verb::Leader(watched) => output.repeated(session, watched, || look::leader(session)).await,
        Verb::Locks(locks) => {
            output.repeated(session, &locks.watched, || look::locks(session, &locks.prefix)).await
        }
        Verb::Why(given) if given.wait => {
            follow::wait_until_well(session, given.limit, output).await
        }
        Verb::Why(given) => output.repeated(session, &given.watched, || follow::why(session)).await,
        Verb::Events(events) => follow::events(session, events, output).await,
        Verb::Serve(given) => follow::serve(session, given, output).await,
        Verb::Doctor(given) => output.show(&doctor::doctor(session, given).await?),
        Verb::HandOver(it) => change::hand_over(session, it, output).await,
        Verb::Leave(it) => change::leave(session, it, output).await,
        Verb::Drain(drain) => change::drain(session, drain, output).await,
        Verb::Maintenance(it) => change::maintenance(session, it, output).await,
        Verb::Thaw(it) => change::thaw(session, it, output).await,
        Verb::Pause(it) => change::pause(session, it, output).await,
        Verb::Resume(change) => change::resume(session, change, output).await,
        Verb::Forget(it) => change::forget(session, it, output).await,
        Verb::AcceptLoss(it) => change::accept_loss(session, it, output).await,
        Verb::ForgetStore(it) => change::forget_store(session, it, output).await,
        Verb::Reinit(it) => change::reinit(session, it, output).await,
        Verb::StoreSet(it) => change::store_set(session, it, output).await,
        Verb::SetWeight(it) => change::set_weight(session, it, output).await,
        Verb::History(watched) => {
            output.repeated(session, watched, || look::history(session)).await
        }
        Verb::Names => output.show(&look::names(session).await?),
        Verb::Completion { .. } | Verb::Man => Ok(()),
    }
}
