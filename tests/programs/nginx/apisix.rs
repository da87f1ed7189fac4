//! Service discovery of Apache APISIX by `apisix.discovery.consul_ffi`: the parts of apisix/own.sh, which starts an nginx
//! with two workers and a consul-sim of its own.

use super::{Outcome, check};
use crate::support::consul;
use std::path::Path;
use std::process::Command;

pub fn follows_consul(_: &Path) -> Outcome {
    runs(&["follows", "token", "weight"])
}

pub fn goes_on_without_consul(_: &Path) -> Outcome {
    runs(&["consul_goes"])
}

pub fn starts_from_the_dump(_: &Path) -> Outcome {
    runs(&["starts"])
}

pub fn many_services(_: &Path) -> Outcome {
    runs(&["many", "large"])
}

fn runs(parts: &[&str]) -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("tests/programs/nginx/apisix/own.sh"))
        .args(parts)
        .env("CONSUL_PROGRAM", consul::binary(consul::SIM)?)
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    check(output.status.success(), &String::from_utf8_lossy(&said))
}
