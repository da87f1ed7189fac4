//! A command of `make test` ends when it hangs, and not because it takes long.

use super::support::PATIENCE;
use super::support::outside::outside_cargo;
use crate::release::files;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

/// After this number of seconds without output and work a command hangs: `idle_limit` of the scripts, which is longer.
const LIMIT: u32 = 2;

/// Runs a shell command as the scripts do.
fn run(command: &str) -> Output {
    let script = format!(
        "source scripts/lib.sh; prepare_runs; idle_limit={LIMIT} grace=1
        status=0; run bash -c \"$1\" || status=$?
        cat \"$notes\"; exit $status"
    );
    Command::new("bash")
        .args(["-euc", &script, "bash", command])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("bash runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_command_that_works_in_silence_goes_on() {
    let by_far = 4 * LIMIT;
    let works = run(&format!("while [ $SECONDS -lt {by_far} ]; do :; done; echo done"));
    assert!(works.status.success(), "{works:?}");
    assert_eq!(text(&works), "done\n");
    // A process below it works while it waits.
    let waits = format!("(while [ $SECONDS -lt {by_far} ]; do :; done) & wait; exit 3");
    let output = run(&waits);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn a_command_that_prints_goes_on() {
    let output =
        run(&format!("for i in {{1..8}}; do sleep {LIMIT}e-1; sleep {LIMIT}e-1; echo $i; done"));
    assert!(output.status.success(), "{output:?}");
}

/// Another command of the same run builds for longer than that on a busy machine, and is watched itself.
#[test]
fn a_command_that_waits_for_the_lock_of_cargo_goes_on() {
    let blocked = "echo '    Blocking waiting for file lock on artifact directory'";
    let by_far = 4 * LIMIT;
    let output = run(&format!("{blocked}; sleep {by_far}; echo done"));
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output).ends_with("done\n"), "{output:?}");
    // It has the lock, and hangs.
    let output = run(&format!("{blocked}; echo goes on; sleep 100000"));
    assert_eq!(output.status.code(), Some(124), "{output:?}");
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn a_command_that_hangs_ends_with_all_below_it() {
    for (name, hangs) in [
        ("sleeps", "sleep 100000"),
        // Like a program that asks a server again and again.
        ("asks", "while sleep 1; do :; done"),
        ("ignores", "trap '' TERM; sleep 100000"),
        ("in its own session", "setsid bash -c 'echo $$ >>\"$0\"; sleep 100000' \"$0\""),
    ] {
        let ids = file(name);
        let _ = fs::remove_file(&ids);
        let child = format!(
            "bash -c 'echo $$ >>\"$0\"; {}' '{}'",
            hangs.replace('\'', "'\\''"),
            ids.display()
        );
        let output = run(&format!("{child} & sleep 100000"));
        assert_eq!(output.status.code(), Some(124), "{name}: {output:?}");
        let said = text(&output);
        assert!(said.contains("FAILED: ended, since for 2 s it printed nothing"), "{name}: {said}");
        let ids = fs::read_to_string(ids).expect("what it has written");
        let lives = |id: &str| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // A zombie has ended.
            !stat.is_empty() && !stat.contains(") Z ")
        };
        // The signal has been sent, and a busy machine lets them end later.
        let mut left = 600;
        while let Some(id) = ids.lines().find(|id| lives(id)) {
            assert!(left > 0, "{name}: {id} lives");
            left -= 1;
            sleep(Duration::from_millis(100));
        }
    }
}

/// The end of `.ci/run`'s output, a line for each failure and the totals, and whether it succeeds, where the two parts
/// print this and end with this status.
fn ci(first: (&str, u8), second: (&str, u8)) -> (String, bool) {
    let folder = file("ci");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join(".ci")).expect("a folder");
    fs::copy(".ci/run", folder.join(".ci/run")).expect("a copy");
    let target = |name, (said, status)| format!("{name}:\n\t@printf '{said}'; exit {status}\n");
    let makefile = target("test", first) + &target("test-added", second);
    fs::write(folder.join("Makefile"), makefile).expect("a file");
    let mut run = Command::new(folder.join(".ci/run"));
    let output = outside_cargo(&mut run).env_remove("MAKEFLAGS").output().expect("bash runs");
    let said = text(&output);
    let end = said.rsplit("\n\n").next().unwrap_or_default();
    (end.trim().to_owned(), output.status.success())
}

#[test]
fn ci_counts_both_parts_of_the_tests() {
    let good = ("one\\n2 passed, 0 failed, 1 skipped\\n", 0);
    let more = ("30 passed, 0 failed, 4 skipped\\n", 0);
    assert_eq!(ci(good, more), ("32 passed, 0 failed, 5 skipped".to_owned(), true));
    let bad =
        ("FAILED: b: why\\nand\\nFAILED: a\\nFAILED: a\\n2 passed, 3 failed, 1 skipped\\n", 1);
    let failures = "FAILED: a\nFAILED: b: why\n32 passed, 3 failed, 5 skipped";
    assert_eq!(ci(bad, more), (failures.to_owned(), false));
    assert_eq!(ci(more, bad), (failures.to_owned(), false));
    assert_eq!(ci(good, ("gone", 0)), ("2 passed, 1 failed, 1 skipped".to_owned(), false));
}

#[test]
fn the_demo_says_first_what_it_does_and_builds_nothing_optimised() {
    for (address, at) in [
        (None, ".lua\""),
        (Some(""), ".lua\""),
        (Some("10.0.0.1:8500"), ".lua on the Consul at CONSUL_HTTP_ADDR, 10.0.0.1:8500\""),
    ] {
        let make = |arguments: &[&str]| {
            let mut make = Command::new("make");
            make.arg("--no-print-directory").args(arguments).env_remove("CONSUL_HTTP_ADDR");
            outside_cargo(&mut make).envs(address.map(|it| ("CONSUL_HTTP_ADDR", it)));
            text(&make.output().expect("make runs"))
        };
        let said = make(&["-n", "demo"]);
        assert!(said.starts_with("echo \"make demo: builds the module for luajit"), "{said}");
        let (first, rest) = said.split_once("examples/demo").expect("the program");
        assert!(rest.starts_with(at) && first.lines().count() < 3, "{address:?}: {said}");
        assert!(rest.contains("\nQUICK=1 rockspec/build.sh luajit target/lua-quick/"), "{said}");
        let shown = "shown: ; @echo $${CONSUL_HTTP_ADDR-simulated}";
        let wanted = address.filter(|it| !it.is_empty()).unwrap_or("simulated");
        assert_eq!(make(&["--eval", shown, "shown"]).trim(), wanted);
    }
}

#[test]
fn tests_have_enough_open_files_or_do_not_begin() {
    let with = |limit: &str| {
        let script = format!("ulimit {limit}; source scripts/lib.sh; prepare_runs; ulimit -Sn");
        let mut bash = Command::new("bash");
        let bash = bash.args(["-euc", &script]).current_dir(env!("CARGO_MANIFEST_DIR"));
        bash.output().expect("bash runs")
    };
    for (limit, has) in [("-Sn 256", "1024\n"), ("-Sn 1025", "1025\n"), ("-n 1024", "1024\n")] {
        assert_eq!(text(&with(limit)), has, "{limit}");
    }
    let refused = with("-n 1023");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("need 1024 open files, and the limit here is 1023"), "{said}");
}

/// In a namespace, if there can be one.
#[test]
fn tests_run_where_programs_do_or_do_not_begin() {
    let folder = file("no programs");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let script = "mount -t tmpfs -o noexec none \"$TMPDIR\" || exit 77
        source scripts/lib.sh; prepare_runs; echo begins";
    let mut unshare = Command::new("unshare");
    let unshare = unshare.args(["--map-root-user", "--mount", "bash", "-euc", script]);
    let unshare = unshare.current_dir(env!("CARGO_MANIFEST_DIR")).env("TMPDIR", &folder);
    let output = unshare.output().expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let has_none = output.status.code() == Some(77) || said.starts_with("unshare: ");
    assert!(has_none || output.status.code() == Some(3), "{output:?}");
    assert!(has_none || said.contains("mounted with noexec: set TMPDIR"), "{said}");
}

/// With folders of the same names in the home, and `cd` that prints.
#[test]
fn each_script_finds_its_checkout_whatever_cdpath_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = file("a home");
    let mut seen = 0;
    for path in files() {
        let Ok(lines) = fs::read_to_string(&path) else { continue };
        let goes = |line: &&str| line.contains("cd \"$(dirname \"$0\")");
        let Some(line) = lines.starts_with("#!").then(|| lines.lines().find(goes)).flatten() else {
            continue;
        };
        let script = path.strip_prefix(root).expect("a path in the checkout");
        let folder = script.parent().expect("its folder");
        fs::create_dir_all(home.join(folder)).expect("a folder can be made");
        let goes_to = |paths: &str| {
            let mut bash = Command::new("bash");
            bash.args(["-euc", &format!("{line}\npwd")]).arg(script);
            bash.current_dir(root).env("CDPATH", paths).output().expect("bash runs")
        };
        let right = text(&goes_to(""));
        for paths in [home.display().to_string(), format!(".:{}", home.display())] {
            assert_eq!(text(&goes_to(&paths)), right, "{}: {paths}", script.display());
        }
        seen += 1;
    }
    assert!(seen >= 30, "{seen} scripts: they go to the checkout in another way");
}

#[test]
fn what_cannot_be_kept_in_the_home_is_unavailable() {
    for home in ["/dev/null", "/proc"] {
        let mut bash = Command::new("bash");
        bash.args(["-euc", "source scripts/lib.sh; cache_once a b true"]).env("HOME", home);
        let output = bash.env_remove("XDG_CACHE_HOME").output().expect("bash runs");
        assert_eq!(output.status.code(), Some(3), "{home}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("set XDG_CACHE_HOME"), "{home}: {said}");
    }
}

#[test]
fn a_demo_finds_the_consul_sim_that_it_builds_whatever_cargo_is_told() {
    for (variable, folder) in [("CARGO_TARGET_DIR", "a folder"), ("CARGO_BUILD_TARGET", "target")] {
        let mut make = Command::new("make");
        let output = outside_cargo(make.args(["-n", "demo-cluster"]))
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CONSUL_HTTP_ADDR")
            .env(variable, folder)
            .output()
            .expect("make runs");
        let said = text(&output);
        let build = format!("env -u CARGO_BUILD_TARGET CARGO_TARGET_DIR=\"{folder}\"");
        assert!(said.contains(&build), "{said}");
        let run = format!("CONSUL_BIN=\"{folder}/debug/consul-sim\" scripts/with-consul.sh 1.21 ");
        assert!(said.contains(&run), "{said}");
    }
}

/// With a busted that shows them.
#[test]
fn a_users_proxy_lua_init_and_colours_do_not_reach_the_tests() {
    let folder = file("a user's settings");
    let busted = folder.join("busted");
    fs::create_dir_all(&folder).expect("a folder can be made");
    let shown = "echo \"$no_proxy;$NO_PROXY;$LUA_INIT$LUA_INIT_5_3$LUA_INIT_5_4;\
                 $CARGO_TERM_COLOR$CLICOLOR_FORCE$FORCE_COLOR;$CARGO_TERM_QUIET$POSIXLY_CORRECT\"";
    fs::write(&busted, format!("#!/bin/sh\n{shown}\n")).expect("it can be written");
    fs::set_permissions(&busted, fs::Permissions::from_mode(0o755)).expect("it can be run");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("a PATH"));
    for command in ["make -s spec BUILT=1", "source scripts/lib.sh; busted"] {
        let mut bash = Command::new("bash");
        let output = outside_cargo(&mut bash)
            .args(["-c", command])
            .envs([("PATH", path.as_str()), ("no_proxy", "intranet")])
            .env_remove("NO_PROXY")
            .envs(["LUA_INIT", "LUA_INIT_5_3", "LUA_INIT_5_4"].map(|name| (name, "print()")))
            .envs(["CLICOLOR_FORCE", "FORCE_COLOR", "POSIXLY_CORRECT"].map(|name| (name, "1")))
            .envs([("CARGO_TERM_COLOR", "always"), ("CARGO_TERM_QUIET", "true")])
            .output()
            .expect("bash runs");
        let own = "intranet,127.0.0.1,localhost,::1";
        let shown = format!("{own};{own};;never;false\n");
        assert_eq!(text(&output), shown, "{command}: {output:?}");
    }
}

#[test]
fn each_step_of_make_soak_has_its_commands_and_its_words() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/soak.sh");
    let script = fs::read_to_string(script).expect("the script");
    let (_, all) = script.split_once("\nall_steps=(").expect("the steps");
    let (all, _) = all.split_once(')').expect("their end");
    let all: BTreeSet<&str> = all.split(' ').collect();
    let made = script.lines().filter_map(|line| line.strip_prefix("step_")?.strip_suffix("() {"));
    assert_eq!(made.collect::<BTreeSet<_>>(), all);
    let said = script.lines().take_while(|line| line.starts_with('#'));
    let said = said.filter_map(|line| line.strip_prefix("#   ")?.split_whitespace().next());
    let said: BTreeSet<&str> = said.filter(|word| !word.starts_with("scripts/")).collect();
    assert!(all.is_subset(&said), "without words: {:?}", all.difference(&said));
}

/// The seconds that a line of a program sets as the limit of a wait, by the name of the limit: `limit = os.time() + 20`,
/// `PATIENCE_MS = 20_000`.
fn limit_of_a_wait(line: &str) -> Option<u64> {
    let (name, value) = line.split_once(" = ").or_else(|| line.split_once('='))?;
    let name = name.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next()?.to_lowercase();
    let unit = if name.ends_with("_ms") || value.contains("_000") { 1000 } else { 1 };
    let is_limit = ["limit", "end", "ends", "ending", "deadline"].contains(&name.as_str());
    let number = match value.split_once("os.time() + ").or_else(|| value.split_once("SECONDS + ")) {
        Some((_, number)) if is_limit => number,
        _ if name.starts_with("patience") => value,
        _ => return None,
    };
    let digits: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '_').collect();
    Some(digits.replace('_', "").parse::<u64>().ok()? / unit)
}

#[test]
fn no_program_of_a_test_has_less_patience_than_the_tests_in_rust() {
    let ours = ["lua", "py", "js", "mjs", "java", "sh"];
    let is_ours =
        |path: &PathBuf| path.extension().is_some_and(|it| ours.iter().any(|ours| it == *ours));
    let mut seen = 0;
    for path in files().into_iter().filter(is_ours) {
        let text = fs::read_to_string(&path).expect("a program");
        for line in text.lines() {
            let Some(limit) = limit_of_a_wait(line) else { continue };
            assert!(limit >= PATIENCE.as_secs(), "{}: {line}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen} limits: they are written in another way");
}
