//! Tests that run on several Consuls or engines, or that are ignored without their prerequisites.
//!
//! `#[test]` can do neither. A module of such tests has a function `trials` that lists them, and the
//! `main` of its binary calls `run` with these functions; a test or a list that is left out is dead
//! code, which each of these binaries denies.

use libtest_mimic::{Arguments, Failed, Trial};
use std::env;
use std::fmt::Display;

/// Parts of the names of the tests that `make test-all` adds to `make test`: they need real servers, other clients or
/// other engines, or compute long.
const ADDED: [&str; 8] =
    ["1.21", "1.8", "[etcd]", "[long]", "go_client", "the_example_runs", "lua5.1", "lua5.4"];

/// Whether a test of this name runs: all do; with `PART=quick` in the environment only `make test`'s, with `PART=added`
/// only the tests that `make test-all` adds.
pub fn is_in_part(name: &str) -> bool {
    let is_added = ADDED.iter().any(|word| name.contains(word));
    match env::var("PART").as_deref() {
        Ok("quick") => !is_added,
        Ok("added") => is_added,
        _ => true,
    }
}

/// The tests of one module.
pub struct Trials {
    prefix: String,
    list: Vec<Trial>,
}

impl Trials {
    /// An empty list; the names of its tests begin with the module, as with `#[test]`. They run in the folder of
    /// the checkout; cargo starts them in that of their crate.
    pub fn of(module_path: &'static str) -> Trials {
        env::set_current_dir(crate::root()).expect("the checkout");
        let prefix = module_path.split_once("::").map(|(_, module)| format!("{module}::"));
        Trials { prefix: prefix.unwrap_or_default(), list: Vec::new() }
    }

    pub fn add<R: Outcome>(
        &mut self,
        name: impl Display,
        run: impl FnOnce() -> R + Send + 'static,
    ) {
        self.add_unless(false, name, run);
    }

    /// Adds a test that is ignored if its prerequisite is missing.
    pub fn add_unless<R: Outcome>(
        &mut self,
        missing: bool,
        name: impl Display,
        run: impl FnOnce() -> R + Send + 'static,
    ) {
        let trial = Trial::test(format!("{}{name}", self.prefix), || run().outcome());
        self.list.push(trial.with_ignored_flag(missing));
    }
}

/// Adds a function as the test of its name.
#[macro_export]
macro_rules! add {
    ($trials:ident, $test:ident) => {
        $trials.add(stringify!($test), $test)
    };
    ($trials:ident, $test:ident, long) => {
        $trials.add(concat!(stringify!($test), " [long]"), $test)
    };
}
pub use add;

/// The result of a test: nothing, or the reason of its failure. A panic is a failure too.
pub trait Outcome {
    fn outcome(self) -> Result<(), Failed>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), Failed> {
        Ok(())
    }
}

impl<E: Into<Failed>> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), Failed> {
        self.map_err(Into::into)
    }
}

/// Runs the tests of these modules, `threads` at a time unless the command line says otherwise, and
/// ends the process.
pub fn run(threads: usize, modules: &[fn() -> Trials]) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    let all = modules.iter().flat_map(|trials| trials().list);
    let all = all.filter(|trial| is_in_part(trial.name())).collect();
    libtest_mimic::run(&arguments, all).exit()
}
