//! Every task of an operator has a recipe, a test runs every recipe (crates/consul-ha/tests/tools/recipes), and a recipe that
//! changes a cluster ends where a command fails.

use crate::support::authority::Folder;
use crate::support::recipes::{RECIPES, recipes};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Writes down how it is called, and fails if it is the call of this number.
const PROGRAM: &str = r#"#!/bin/bash
echo "${0##*/} $*" >>"$CALLS"
[ "$(wc -l <"$CALLS")" != "$FAILS" ] || exit 1
case "$*" in
    *'token read'*) echo 'AccessorID: a' ;;
    *'token create'*) echo 'SecretID: s' ;;
esac
"#;

/// The recipes whose commands stop what runs or delete what is in use, one after the other.
const DANGEROUS: [&str; 6] = [
    "Rolling restart",
    "Adding a node",
    "Rotating the tokens",
    "Rotating the cluster key",
    "Upgrading",
    "Going back to a backup of the records",
];

const CHANGES: [&str; 6] = [
    "systemctl restart",
    "systemctl stop",
    "systemctl start",
    "token delete",
    "kv delete",
    "rm -f",
];

/// An operator's folder, with stand-ins for the programs of the recipes.
struct Operator(Folder);

impl Operator {
    fn new() -> Self {
        let folder = Folder::new();
        for host in ["all", "n1", "n2", "n3", "n4", "gateway"] {
            fs::create_dir_all(folder.path("config").join(host)).expect("a folder");
        }
        fs::create_dir(folder.path("bin")).expect("a folder");
        for program in ["ssh", "scp", "consul", "consul-ha", "sleep"] {
            let path = folder.path("bin").join(program);
            fs::write(&path, PROGRAM).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
        }
        Self(folder)
    }

    /// The calls of commands in a shell that goes on after a failure, as an operator's does. The call of this number fails.
    fn calls(&self, commands: &str, fails: usize) -> Vec<String> {
        for (name, text) in [("cluster-key", "old\nnew\n"), ("consul-token", "old\n")] {
            fs::write(self.0.path("config/all").join(name), text).expect("a file");
        }
        let (calls, path) = (self.0.path("calls"), std::env::var("PATH").expect("a PATH"));
        fs::write(&calls, "").expect("a file");
        let _ = fs::remove_file(self.0.path("new-token"));
        let mut bash = Command::new("bash");
        bash.args(["-c", commands]).current_dir(self.0.path(".")).env("CALLS", &calls);
        bash.env("FAILS", fails.to_string());
        bash.env("PATH", format!("{}:{path}", self.0.path("bin").display()));
        bash.output().expect("bash runs");
        let calls = fs::read_to_string(calls).expect("the calls");
        calls.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_recipe_ends_where_a_command_fails() {
    let (operator, (preamble, recipes)) = (Operator::new(), recipes());
    let is_change = |call: &String| CHANGES.iter().any(|change| call.contains(change));
    for name in DANGEROUS {
        let recipe = recipes.iter().find(|it| it.name == name);
        let steps = &recipe.unwrap_or_else(|| panic!("no recipe {name:?}")).steps;
        let commands = steps.iter().map(|step| format!("{preamble}\n{}", step.commands));
        let mut changes = 0;
        for commands in commands {
            let all = operator.calls(&commands, 0);
            changes += all.iter().filter(|call| is_change(call)).count();
            for at in 1..=all.len() {
                let calls = operator.calls(&commands, at);
                let later = calls[at..].iter().filter(|call| is_change(call)).collect::<Vec<_>>();
                assert!(later.is_empty(), "{name}: after {:?} failed: {later:?}", calls[at - 1]);
            }
        }
        assert!(changes > 0, "{name} changes nothing");
    }
}

#[test]
fn every_recipe_of_operators_is_run_by_a_test() {
    let (preamble, recipes) = recipes();
    assert!(preamble.contains("export CONSUL_HTTP_ADDR"), "the commands before the recipes");
    let mut listed: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
    let mut of_page: Vec<&str> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    listed.sort_unstable();
    of_page.sort_unstable();
    assert_eq!(of_page, listed, "the sections of the page, and the recipes that tests run");
    for recipe in &recipes {
        assert!(!recipe.steps.is_empty(), "{} has no commands", recipe.name);
        assert!(
            recipe.steps.iter().any(|step| step.prints.is_some()),
            "{} prints nothing",
            recipe.name
        );
    }
}
