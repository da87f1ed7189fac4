//! Checks that run a program.

use crate::agent::checks::ProbeResult;
use crate::go;
use consul_process::os;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;

/// The output that is read; the rest is read and forgotten.
const MAX_OUTPUT: usize = 1 << 20;

/// Ends a group of processes when it is dropped.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        os::kill_group(self.0);
    }
}

/// The exit status and the output of a program. Its processes end with the check's timeout.
pub(super) async fn run(arguments: &[String]) -> Result<ProbeResult, String> {
    let [program, arguments @ ..] = arguments else { return Err("no program".to_owned()) };
    let failed = |error: std::io::Error| format!("fork/exec {program}: {}", go::error_text(&error));
    // One pipe, so that lines keep their order.
    let (sender, receiver) = pipe::pipe().map_err(failed)?;
    let to = sender.into_blocking_fd().map_err(failed)?;
    let mut child = Command::new(program)
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(to.try_clone().map_err(failed)?)
        .stderr(to)
        .spawn()
        .map_err(failed)?;
    let _group = child.id().map(Group);
    let output = all(receiver).await;
    let status = child.wait().await.map_err(failed)?;
    Ok(ProbeResult::Exited { code: status.code(), output })
}

async fn all(mut from: pipe::Receiver) -> Vec<u8> {
    let (mut output, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let room = MAX_OUTPUT - output.len();
        output.extend_from_slice(&part[..length.min(room)]);
    }
    output
}
