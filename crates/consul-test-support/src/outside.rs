//! The environment of programs: without the variables of cargo, or of Consul.

use std::process::Command;

/// Removes the variables of `cargo test`: an inner cargo would take them for a change of what build
/// scripts depend on, and rebuild half of the dependencies.
pub fn outside_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars() {
        let is_the_users = ["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str());
        if (name.starts_with("CARGO") || name == "OUT_DIR") && !is_the_users {
            command.env_remove(name);
        }
    }
    command
}

/// Removes the variables of Consul's programs, and ours, that the user has set.
pub fn without_consul(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONSUL_")) {
        command.env_remove(name);
    }
    command
}
