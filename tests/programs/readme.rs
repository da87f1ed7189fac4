//! The programs that the README, the page of results and the page of examples show work.

use crate::support::pages::{blocks, read};
use crate::support::trials::{Trials, add};
use std::process::{Command, Output};

/// The pages with programs that use the names of [`BEFORE`].
const PAGES: [&str; 3] = ["README.md", "docs/results-and-errors.md", "examples/README.md"];

/// The names that these programs use: a client, and a service that passes its check. All of it is simulated.
const BEFORE: &str = "local consul_ffi = require('consul_ffi') \
    local client = consul_ffi.new({ simulate = true }) \
    local index, user_id = 1, 'a user' \
    assert(client:agent_service_register({ \
      name = 'web', port = 80, tags = { 'v2' }, check = { ttl = '15s', status = 'passing' }, \
    })) \
    local new = consul_ffi.ConsulHACluster.new \
    function consul_ffi.ConsulHACluster.new(class, options) \
      options.simulate = true \
      return new(class, options) \
    end ";

/// The time after which a program that runs forever is ended, in seconds.
const LONG_ENOUGH: &str = "3";

/// The limit for any other program, on a busy machine.
const LIMIT: &str = "60";

/// The exit status of `timeout` when it ends a program.
const ENDED: i32 = 124;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, every_program_that_is_shown_runs);
    add!(trials, the_first_programs_work_when_pasted);
    add!(trials, the_cluster_that_is_shown_works);
    trials
}

/// Runs a command with the module, and without a Consul in the environment.
fn run(command: &mut Command) -> Output {
    let command = command.env_remove("CONSUL_HTTP_ADDR").current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("LUA_CPATH", "./target/lua/luajit/?.so;;").output().expect("luajit runs")
}

fn every_program_that_is_shown_runs() {
    let programs = PAGES.iter().flat_map(|page| blocks(&read(page)));
    let programs: Vec<_> = programs.filter(|(language, _)| language == "lua").collect();
    assert!(programs.len() >= 14, "{}", programs.len());
    for (_, program) in programs {
        let goes_on = program.contains("while true") || program.contains(":events()");
        let limit = if goes_on { LONG_ENOUGH } else { LIMIT };
        let program = format!("{BEFORE}{program}");
        let output = run(Command::new("timeout").args([limit, "luajit", "-e", &program]));
        let ended = goes_on && output.status.code() == Some(ENDED);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || ended, "{program}\n{said}");
    }
}

fn the_first_programs_work_when_pasted() {
    for page in &PAGES[..2] {
        let blocks = blocks(&read(page));
        let at = blocks.iter().position(|(language, _)| language == "lua").expect("a program");
        let ((_, program), (_, shown)) = (&blocks[at], &blocks[at + 1]);
        let output = run(Command::new("luajit").args(["-e", program]));
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(printed.trim_end(), shown, "{page}");
    }
}

fn the_cluster_that_is_shown_works() {
    let program = read("examples/cluster.lua");
    let blocks = blocks(&read("examples/README.md"));
    let at = blocks.iter().position(|(_, block)| block == program.trim_end());
    let at = at.expect("the page does not show examples/cluster.lua as it is");
    let (_, shown) = &blocks[at + 1];
    let output = run(Command::new("luajit").arg("examples/cluster.lua"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The placement depends on the nodes that had started when the first map was made.
    let words = |text: &str| -> Vec<String> {
        let is_fixed = |word: &&str| !word.contains(|c: char| c.is_ascii_digit());
        text.split_whitespace().filter(is_fixed).map(str::to_owned).collect()
    };
    assert_eq!(words(&String::from_utf8_lossy(&output.stdout)), words(shown));
}
