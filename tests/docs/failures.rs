//! The end of a log of `make test` says why tests failed.

use std::process::Command;

/// The output of cargo, of the tests on several targets and of busted.
const LOG: &str = "\
test host::leaks [luajit]       ... FAILED
test host::works                ... ok

failures:

---- host::leaks [luajit] ----
exit status: 1: descriptors 5 -> 6
second
third
fourth

failures:
    host::leaks [luajit]

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
test unit ... FAILED

failures:

---- unit stdout ----

thread 'unit' panicked at tests/unit.rs:12:5:
why
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

failures:
    unit

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
Failure → spec/a_spec.lua @ 12
a spec fails
spec/a_spec.lua:15: Expected objects to be equal.

1 success / 1 failure / 0 errors / 0 pending : 1.2 seconds
test killed ... FAILED
";

const REASONS: &str = "\
FAILED: host::leaks [luajit]: exit status: 1: descriptors 5 -> 6 | second | third
FAILED: unit: thread 'unit' panicked at tests/unit.rs:12:5: | why
FAILED: spec/a_spec.lua @ 12: a spec fails | spec/a_spec.lua:15: Expected objects to be equal.
FAILED: killed
";

#[test]
fn each_failed_test_has_its_reason_in_the_summary() {
    let output = Command::new("bash")
        .args(["-euc", "source scripts/lib.sh; failed_tests <(printf %s \"$1\")", "bash", LOG])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), REASONS, "{output:?}");
}
