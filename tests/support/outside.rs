//! Programs as they run outside of cargo.

use std::process::Command;

/// Takes away what `cargo test` says about itself: a cargo inside would take it for a change of what
/// build scripts depend on, and build half of the dependencies anew.
pub fn outside_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars() {
        let is_the_users = ["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str());
        if (name.starts_with("CARGO") || name == "OUT_DIR") && !is_the_users {
            command.env_remove(name);
        }
    }
    command
}
