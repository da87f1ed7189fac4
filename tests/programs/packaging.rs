//! The rock: built, packed and installed for each engine, into separate trees.

use crate::support::outside::outside_cargo;
use crate::support::trials::{Trials, add};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each engine with its luarocks version.
const ENGINES: &[(&str, &str)] = &[("luajit", "5.1"), ("lua5.1", "5.1"), ("lua5.4", "5.4")];

const PROGRAM: &str = "local c = require('consul_ffi').new({ simulate = true }) \
    assert(c:kv_put('k', 'v')) print((select(2, c:kv_get('k')))) \
    assert(require('consul_ha_cluster').ConsulHACluster.new) \
    assert(require('consul_production_config').ConsulManager) \
    assert(require('consistent_hash_cluster').HighAvailabilityCluster.new)";

/// `new` succeeds only if the guard's program is found; it sends nothing.
const GUARDED: &str = "require('consul_ffi').new({ guard = true }) print('guarded')";

/// The aim is 1 MB; TLS alone takes more than half of it.
const LARGEST_GUARD: u64 = 1_600_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command and returns its standard output and error together.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn path_of(program: &str) -> String {
    run(Command::new("sh").args(["-c", &format!("command -v {program}")]))
        .expect(program)
        .trim()
        .into()
}

fn luarocks(version: &str, tree: &Path, folder: &Path) -> Command {
    let mut luarocks = Command::new("luarocks");
    luarocks.arg(format!("--lua-version={version}")).arg("--tree").arg(tree);
    outside_cargo(&mut luarocks).current_dir(folder).env("CARGO_NET_OFFLINE", "true");
    luarocks
}

/// Runs a program with the module of one tree, in another folder.
fn lua(engine: &str, tree: &Path, version: &str, program: &str) -> Result<String, String> {
    let cpath = format!("{}/lib/lua/{version}/?.so", tree.display());
    let path = format!("{}/share/lua/{version}/?.lua", tree.display());
    let mut lua = Command::new(engine);
    run(lua.args(["-e", program]).env("LUA_CPATH", cpath).env("LUA_PATH", path).current_dir("/"))
}

fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the folder can be made");
    folder
}

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    add!(trials, the_rock_is_made_packed_and_installed_for_each_engine);
    add!(trials, a_build_for_another_engine_is_refused_with_the_command_to_build_it);
    trials
}

fn the_rock_is_made_packed_and_installed_for_each_engine() {
    for (engine, version) in ENGINES {
        let (made, packed, installed) = (
            fresh(&format!("{engine}-made")),
            fresh("packed"),
            fresh(&format!("{engine}-installed")),
        );
        let interpreter = format!("LUA={}", path_of(engine));
        run(luarocks(version, &made, root()).args(["make", &interpreter])).expect(engine);
        assert_eq!(lua(engine, &made, version, PROGRAM).expect(engine), "v\n");
        has_its_guard(engine, &made, version);

        run(luarocks(version, &made, &packed).args(["pack", "consul_ffi"])).expect(engine);
        let rock = fs::read_dir(&packed).expect("it is there").next().expect("a rock").expect("it");
        run(luarocks(version, &installed, &packed).arg("install").arg(rock.path())).expect(engine);
        assert_eq!(lua(engine, &installed, version, PROGRAM).expect(engine), "v\n");
        has_its_guard(engine, &installed, version);
    }
}

/// The rock's guard is found by its module.
#[allow(clippy::print_stdout)]
fn has_its_guard(engine: &str, tree: &Path, version: &str) {
    let program = tree.join("bin/consul-guard");
    let said = run(Command::new(&program).arg("version")).expect("a program");
    assert_eq!(said, format!("consul-guard {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(lua(engine, tree, version, GUARDED).expect(engine), "guarded\n");

    let size = fs::metadata(&program).expect("it is there").len();
    println!("consul-guard: {} kB", size / 1000);
    assert!(size < LARGEST_GUARD, "consul-guard: {size} bytes");

    fs::remove_file(&program).expect("it can be removed");
    let refusal = lua(engine, tree, version, GUARDED).expect_err("there is no guard");
    assert!(refusal.contains("guard: there is no program"), "{refusal}");
}

fn a_build_for_another_engine_is_refused_with_the_command_to_build_it() {
    for (built_for, engine, command) in [
        ("luajit", "lua5.1", "luarocks --lua-version=5.1 make LUA=$(command -v lua5.1)"),
        ("5.1", "luajit", "luarocks --lua-version=5.1 make LUA=$(command -v luajit)"),
    ] {
        let cpath = root().join(format!("target/lua/{built_for}/?.so"));
        let refusal = run(Command::new(engine)
            .args(["-e", "require('consul_ffi')"])
            .env("LUA_CPATH", cpath)
            .current_dir("/"))
        .expect_err("the wrong flavour was loaded");
        assert!(refusal.contains(command), "{refusal}");
    }
}
