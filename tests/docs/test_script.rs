//! `scripts/test.sh` with a cargo, a make and servers that only say how their tests ended: every test binary has a step, and no
//! failure and no test that is left out is lost on the way to the last line.

use super::support::outside::outside_cargo;
use crate::release::files;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Writes down how it is called, and does what `OUTCOME` says.
const CARGO: &str = r#"
echo "$PART: $*" >>"$SAID"
outcome=$OUTCOME
case "$*" in build* | *--no-run*)
    case $outcome in fails | unbuilt) exit 101 ;; esac
    mkdir -p "$CARGO_TARGET_DIR/debug"
    touch "$CARGO_TARGET_DIR/debug/libconsul_ffi.so" "$CARGO_TARGET_DIR/debug/consul-guard"
    exit ;;
esac
case $outcome in
    fails) exit 101 ;;
    none) echo 'test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out' ;;
    one)
        echo 'test a::b ... FAILED'
        echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out'
        exit 101 ;;
    crashes) echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101 ;;
    dies)
        id=$PPID
        until grep -qa scripts/test.sh "/proc/$id/cmdline"; do id=$(cut -d ' ' -f 4 "/proc/$id/stat"); done
        kill -KILL "$id" ;;
    *) echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out' ;;
esac
"#;

const MAKEFILE: &str = "lint-quick lint-added:\n\
    \t@[ \"$$OUTCOME\" = empty ] || echo lint-a lint-b\n\
    lint-a lint-b spec:\n\t@./make $@\nbuild-%:\n\t@./make $@\n";

const MAKE: &str = r#"
[ "$OUTCOME" != fails ] || exit 1
case $1-$OUTCOME in
    spec-none) echo '0 successes / 0 failures / 0 errors / 0 pending : 1 seconds' ;;
    spec-one)
        printf 'Error → spec/a_spec.lua @ 1\na spec fails\n2 successes / 0 failures / 1 error / 0 pending : 1 seconds\n'
        exit 1 ;;
    spec-crashes) echo '3 successes / 0 failures / 0 errors / 1 pending : 1 seconds'; exit 139 ;;
    spec-*) echo '3 successes / 0 failures / 0 errors / 1 pending : 1 seconds' ;;
    lint-b-skips) echo 'SKIPPED: there is no b' ;;
esac
"#;

const DEPS: &str = "[ \"$OUTCOME\" != lacks ]\n";

const CONSUL: &str = "[ \"$OUTCOME\" != skips ] || { echo 'it is not here' >&2; exit 3; }\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the test binaries, and their files.
fn binaries() -> Vec<(String, PathBuf)> {
    let crates = fs::read_dir(root().join("crates")).expect("a folder");
    let mut folders = vec![root().join("tests")];
    folders.extend(crates.map(|it| it.expect("a crate").path().join("tests")));
    let entries = folders.into_iter().filter_map(|it| fs::read_dir(it).ok()).flatten();
    let mains = entries.map(|it| it.expect("an entry").path().join("main.rs"));
    let named = |it: PathBuf| (it.iter().nth_back(1).expect("a folder").display().to_string(), it);
    mains.filter(|it| it.exists()).map(named).collect()
}

/// The steps in the list of this name.
fn steps(list: &str) -> Vec<String> {
    let script = fs::read_to_string(root().join("scripts/test.sh")).expect("the script");
    let (_, steps) = script.split_once(&format!("\n{list}=(")).expect("a list");
    let (steps, _) = steps.split_once(')').expect("its end");
    steps.split_whitespace().map(str::to_owned).collect()
}

/// A checkout with the script, all names of test binaries, and stand-ins for what it runs.
struct Checkout(PathBuf);

impl Checkout {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        let checkout = Self(folder);
        for script in ["scripts/test.sh", "scripts/lib.sh"] {
            checkout.program(script, &fs::read_to_string(root().join(script)).expect("a script"));
        }
        for (_, main) in binaries() {
            checkout.write(main.strip_prefix(root()).expect("a path in the checkout"), "");
        }
        checkout.write(Path::new("Makefile"), MAKEFILE);
        for (name, text) in [
            ("bin/cargo", CARGO),
            ("make", MAKE),
            ("scripts/install-deps.sh", DEPS),
            ("scripts/consul.sh", CONSUL),
        ] {
            checkout.program(name, &format!("#!/bin/sh\n{text}"));
        }
        checkout
    }

    fn write(&self, name: &Path, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("its folder")).expect("a folder can be made");
        fs::write(path, text).expect("it can be written");
    }

    fn program(&self, name: &str, text: &str) {
        self.write(Path::new(name), text);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.0.join(name), mode).expect("it can be run");
    }

    /// Runs the script, with what a user may have set.
    fn run(&self, arguments: &[&str], outcome: &str) -> Output {
        let path = std::env::var("PATH").expect("a PATH");
        let mut script = Command::new(self.0.join("scripts/test.sh"));
        outside_cargo(script.args(arguments))
            .env_remove("PART")
            .env("PATH", format!("{}:{path}", self.0.join("bin").display()))
            .env("CARGO_TARGET_DIR", self.0.join("target"))
            .env("SAID", self.0.join("said"))
            .env("OUTCOME", outcome)
            .env("MAKEFLAGS", "n")
            .output()
            .expect("bash runs")
    }

    /// Some steps fail with this outcome: the number of failures is in the last line, and the status says it.
    #[track_caller]
    fn fails(&self, arguments: &[&str], outcome: &str, says: &str) {
        let output = self.run(arguments, outcome);
        let said = String::from_utf8_lossy(&output.stdout);
        let told = format!("{arguments:?}, {outcome}: {said}");
        assert_eq!(output.status.code(), Some(1), "{told}");
        let failed = said.lines().last().and_then(|it| it.split(' ').nth(2)?.parse::<u32>().ok());
        assert!(failed.is_some_and(|it| it > 0), "{told}");
        let (_, notes) = said.split_once("\nstep ").expect("a table");
        assert!(notes.contains(says), "{told}");
    }
}

/// The names after `--test` in the calls of cargo that run tests, each with the part that runs.
fn run_by(said: &str) -> Vec<(String, String)> {
    let calls = said.lines().filter(|it| it.contains(": test ") && !it.contains(" --no-run"));
    let of_call = |call: &str| {
        let (part, arguments) = call.split_once(": ").expect("a part");
        let words = arguments.replace("--test=", "--test ");
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        let names = words.windows(2).filter(|it| it[0] == "--test").map(|it| it[1].clone());
        names.map(|it| (it, part.to_owned())).collect::<Vec<_>>()
    };
    calls.flat_map(of_call).collect()
}

#[test]
fn every_test_binary_has_a_step() {
    let checkout = Checkout::new("all steps");
    let all: BTreeSet<_> = binaries().into_iter().map(|(name, _)| name).collect();
    let [quick, added] = [steps("quick_steps"), steps("added_steps")];
    for (arguments, steps, left_out) in
        [(&[][..], &quick, &["programs", "model"][..]), (&["added"], &added, &[])]
    {
        let _ = fs::remove_file(checkout.0.join("said"));
        let output = checkout.run(arguments, "good");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        let (_, table) = text.split_once("\nstep ").expect("a table");
        let row = |step: &str| table.lines().find(|it| it.split(' ').next() == Some(step));
        for step in steps {
            let row = row(step).unwrap_or_else(|| panic!("{step} is not in {table}"));
            assert_ne!(row.split_whitespace().nth(1), Some("0"), "{row}");
        }
        let said = fs::read_to_string(checkout.0.join("said")).expect("calls of cargo");
        let run = run_by(&said);
        let part = if arguments.is_empty() { "quick" } else { "added" };
        for name in &all {
            let parts: Vec<_> = run.iter().filter(|it| it.0 == *name).map(|it| &*it.1).collect();
            match arguments.is_empty() {
                true if left_out.contains(&name.as_str()) => assert!(parts.is_empty(), "{name}"),
                // The histories are of one seed.
                true if name == "simulation" => assert_eq!(parts, [""], "{name}"),
                true => assert_eq!(parts, [part], "{name}"),
                false => {}
            }
        }
        if part == "added" {
            let run: BTreeSet<_> = run.iter().map(|it| it.0.as_str()).collect();
            let wanted = ["programs", "model", "simulation", "contract", "host", "migrate"];
            assert!(wanted.iter().all(|it| run.contains(it)), "{run:?}");
        }
        assert_eq!(part == "quick", text.contains("make test-all also runs: "), "{text}");
    }
}

#[test]
fn no_failure_of_a_step_is_lost() {
    let checkout = &Checkout::new("steps that fail");
    let all: Vec<_> = [steps("quick_steps"), steps("added_steps")].concat();
    let mut cases = Vec::new();
    for step in all.iter().map(String::as_str) {
        let of_step = |outcome: &'static str, says: &str| (step, outcome, says.to_owned());
        let is_built = step.starts_with("build-") || step.starts_with("compile");
        cases.push(of_step("fails", "FAILED: "));
        if !is_built && !step.starts_with("lint") {
            cases.push(of_step("crashes", &format!("FAILED: {step}: the tests ended with")));
            cases.push(of_step("none", &format!("FAILED: {step}: no test ran")));
            let first = if step.starts_with("busted") { "spec/a_spec.lua @ 1: " } else { "a::b" };
            cases.push(of_step("one", &format!("FAILED: {first}")));
        }
    }
    let building = ["compile", "compile-all", "nodes", "migrations", "long", "busted-quick"];
    for step in building.into_iter().chain(["busted-luajit-consul-sim"]) {
        cases.push((step, "unbuilt", "FAILED: ".to_owned()));
    }
    cases.push(("lint", "empty", "FAILED: lint: ".to_owned()));
    cases.push(("lint", "lacks", "FAILED: programs: ".to_owned()));
    std::thread::scope(|scope| {
        for some in cases.chunks(cases.len().div_ceil(8)) {
            scope.spawn(move || {
                for (step, outcome, says) in some {
                    checkout.fails(&[step], outcome, says);
                }
            });
        }
    });
    // Beside another one.
    checkout.fails(&["contract", "tools"], "one", "FAILED: a::b");
    checkout.fails(&["contract", "tools"], "dies", "FAILED: contract ended without its totals");
}

#[test]
fn what_is_left_out_is_told() {
    let checkout = Checkout::new("steps that are left out");
    for (steps, says, counts) in [
        (&["lint"][..], "SKIPPED: there is no b", "1 passed, 0 failed, 1 skipped"),
        (
            &["busted-luajit-1.21"],
            "SKIPPED: Consul 1.21 is unavailable: it is not here",
            "0 passed, 0 failed, 1 skipped",
        ),
        (&["lint", "busted-luajit-1.8"], "SKIPPED: there is no b", "1 passed, 0 failed, 2 skipped"),
    ] {
        let output = checkout.run(steps, "skips");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{steps:?}: {text}");
        let (_, notes) = text.split_once("\nstep ").expect("a table");
        assert!(notes.contains(says) && notes.ends_with(&format!("\n{counts}\n")), "{text}");
    }
    let output = checkout.run(&["contract", "unknown"], "good");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown step: unknown"));
}

#[test]
fn where_nothing_can_be_written_no_test_begins() {
    let checkout = Checkout::new("a checkout that cannot be written to");
    checkout.write(Path::new("target"), "");
    let output = checkout.run(&["lint"], "good");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/target, which cannot be written"));
}

/// The commands of a target of the Makefile, which do not run.
fn made(target: &str) -> String {
    let mut make = Command::new("make");
    outside_cargo(make.args(["--no-print-directory", "-n", target]).current_dir(root()));
    let output = make.env_remove("MAKEFLAGS").output().expect("make runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn make_test_runs_each_check_of_each_file() {
    assert_eq!(made("test"), "scripts/test.sh\n");
    assert_eq!(made("test-all"), "scripts/test.sh all\n");
    let listed = made("lint-quick") + &made("lint-added");
    let listed: BTreeSet<_> = listed.split_whitespace().filter(|it| *it != "echo").collect();
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let rules = makefile.lines().filter(|it| it.starts_with("lint-") && it.ends_with(':'));
    let rules: BTreeSet<_> = rules.map(|it| it.trim_end_matches(':')).collect();
    let lists = BTreeSet::from(["lint-quick", "lint-added"]);
    let without = rules.difference(&lists).filter(|it| !listed.contains(*it)).collect::<Vec<_>>();
    assert!(without.is_empty(), "in neither list of the Makefile: {without:?}");
    for engine in ["5.1", "5.3", "5.4"] {
        assert!(listed.contains(&*format!("lint-clippy-{engine}")), "{engine}: {listed:?}");
    }
    for (target, extension) in [("lint-shellcheck", "sh"), ("lint-gofmt", "go")] {
        let recipe = made(target);
        let (_, find) = recipe.split_once("$(find").expect("the files are found");
        let (find, _) = find.split_once(')').expect("its end");
        let mut bash = Command::new("bash");
        let found = bash.args(["-c", &format!("find {find}")]).current_dir(root()).output();
        let found = String::from_utf8(found.expect("bash runs").stdout).expect("UTF-8");
        let found: BTreeSet<_> = found.lines().map(|it| root().join(it)).collect();
        let is_one = |it: &PathBuf| it.extension().is_some_and(|it| it == extension);
        let all: BTreeSet<_> = files().into_iter().filter(is_one).collect();
        assert!(all.len() > 8 && all.is_subset(&found), "{extension}: {all:?} {found:?}");
    }
}
