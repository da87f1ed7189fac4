//! The rock: built, packed and installed for each engine, into separate trees.

use crate::support::outside::outside_cargo;
use crate::support::trials::{Trials, add};
use crate::support::{consul, islands};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each engine with its luarocks version, its folder in `target/lua`, and its name.
const ENGINES: &[(&str, &str, &str, &str); 4] = &[
    ("luajit", "5.1", "luajit", "LuaJIT"),
    ("lua5.1", "5.1", "5.1", "Lua 5.1"),
    ("lua5.4", "5.4", "5.4", "Lua 5.4"),
    ("lua5.3", "5.3", "5.3", "Lua 5.3"),
];

/// The engines with an optimised build in `make test-all`; with LONG all are built.
fn built_engines() -> &'static [(&'static str, &'static str, &'static str, &'static str)] {
    if std::env::var_os("LONG").is_some() { ENGINES } else { &ENGINES[..3] }
}

const PROGRAM: &str = "local c = require('consul_ffi').new({ simulate = true }) \
    assert(c:kv_put('k', 'v')) print((select(2, c:kv_get('k')))) \
    assert(require('consul_ha_cluster').ConsulHACluster.new) \
    assert(require('consul_production_config').ConsulManager) \
    assert(require('consistent_hash_cluster').HighAvailabilityCluster.new)";

/// `new` succeeds only if the guard's program is found; it sends nothing.
const GUARDED: &str = "require('consul_ffi').new({ guard = true }) print('guarded')";

/// 16 MB, as `ls -h` counts them (decision 014).
const LARGEST_MODULE: u64 = 16 << 20;

/// Half of it is TLS, and a quarter is the rows by which it knows Consul's answers.
const LARGEST_GUARD: u64 = 2_200_000;

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

pub fn path_of(program: &str) -> String {
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
    let mut lua = Command::new(engine);
    run(with_tree(lua.args(["-e", program]), tree, version).current_dir("/"))
}

fn with_tree<'a>(lua: &'a mut Command, tree: &Path, version: &str) -> &'a mut Command {
    lua.env("LUA_CPATH", format!("{}/lib/lua/{version}/?.so", tree.display()))
        .env("LUA_PATH", format!("{}/share/lua/{version}/?.lua", tree.display()))
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
    add!(trials, each_build_for_another_engine_is_refused);
    add!(trials, a_build_that_fails_leaves_the_installed_module);
    add!(trials, a_rust_that_is_too_old_is_refused_with_the_one_that_is_needed);
    add!(trials, a_rock_of_one_user_is_found_after_the_command_of_the_page);
    for what in ["wheel", "npm"] {
        let missing = packages(&format!("check-{what}")).err();
        if let Some(why) = &missing {
            consul::say_skipped(&format!("consul-sim as a package ({what})"), why.trim());
        }
        let name = format!("consul_sim_is_installed_and_tested_as_a_package [{what}]");
        trials.add_unless(missing.is_some(), name, move || {
            packages(&format!("test-{what}")).unwrap_or_else(|said| panic!("{said}"));
        });
    }
    // Ten minutes, so not of `make test-all`.
    if std::env::var_os("LONG").is_some() {
        let missing = dist("").err();
        if let Some(why) = &missing {
            consul::say_skipped("files for other machines", why.trim());
        }
        trials.add_unless(
            missing.is_some(),
            "a_program_for_download_is_static_and_has_its_licences",
            a_program_for_download_is_static_and_has_its_licences,
        );
    }
    let missing = islands::are_missing();
    trials.add_unless(
        missing.inspect(|why| consul::say_skipped("the rocks in a namespace", why)).is_some(),
        "rocks_need_no_rust_no_compiler_and_no_network",
        rocks_need_no_rust_no_compiler_and_no_network,
    );
    trials
}

/// Runs the script for these packages; its output.
fn packages(verb: &str) -> Result<String, String> {
    let mut script = Command::new(root().join("scripts/packages.sh"));
    run(outside_cargo(script.args([verb, "dev"])).current_dir(root()))
}

/// Makes what `make dist` makes of these, not optimised, with a program that runs on each Linux of this architecture; for
/// nothing it looks whether zig and the standard library can be had.
fn dist(only: &str) -> Result<String, String> {
    let mut script = Command::new(root().join("scripts/dist.sh"));
    script.arg(format!("{}-unknown-linux-musl", std::env::consts::ARCH));
    let script = outside_cargo(&mut script).env("SOURCE_DATE_EPOCH", "1700000000");
    run(script.envs([("ONLY", only), ("QUICK", "1")]).current_dir(root()))
}

fn a_program_for_download_is_static_and_has_its_licences() {
    let name =
        format!("consul-sim-{}-linux-{}-musl", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let [archive, again] = [(); 2].map(|()| {
        dist("consul-sim").unwrap_or_else(|said| panic!("{said}"));
        fs::read(root().join(format!("target/dist/{name}.tar.gz"))).expect("an archive")
    });
    assert!(archive == again, "the bytes differ");
    let mut sums = Command::new("sha256sum");
    sums.args(["--strict", "-c", &format!("{name}.tar.gz.sha256")]);
    run(sums.current_dir(root().join("target/dist"))).expect("its sum");

    let folder = fresh("dist");
    let mut tar = Command::new("tar");
    run(tar
        .arg("-xzf")
        .arg(root().join(format!("target/dist/{name}.tar.gz")))
        .arg("-C")
        .arg(&folder))
    .expect("an archive");
    let folder = folder.join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|it| it.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    files.sort();
    let wanted = [
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "THIRD-PARTY-LICENSES.txt",
        "consul-sim",
        "sbom.spdx.json",
    ];
    assert_eq!(files, wanted);
    let program = folder.join("consul-sim");
    let said = run(Command::new(&program).arg("version")).expect("it runs");
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    let headers = run(Command::new("objdump").arg("-p").arg(&program)).expect("a program");
    assert!(!headers.contains("NEEDED"), "{headers}");
    shows_no_folder_of_the_user(&program);
    let licences = fs::read_to_string(folder.join("THIRD-PARTY-LICENSES.txt")).expect("licences");
    let sbom = fs::read_to_string(folder.join("sbom.spdx.json")).expect("an SBOM");
    let packages = sbom.matches("\"versionInfo\"").count();
    assert!(sbom.contains("pkg:cargo/rustls@") && sbom.contains("\"musl\""), "{sbom}");
    let (list, _) = licences.split_once("\n\n").expect("a list");
    assert_eq!(list.lines().count(), packages);
}

fn the_rock_is_made_packed_and_installed_for_each_engine() {
    for (engine, version, ..) in built_engines() {
        let (made, packed, installed) = (
            fresh(&format!("{engine}-made")),
            fresh("packed"),
            fresh(&format!("{engine}-installed")),
        );
        let interpreter = format!("LUA={}", path_of(engine));
        for built in ["consul_ffi.so", "consul-guard"] {
            let _ = fs::remove_file(root().join("target/rock").join(built));
        }
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
fn has_its_guard(engine: &str, tree: &Path, version: &str) {
    let folder = tree.join("lib/lua").join(version);
    let module = folder.join("consul_ffi.so");
    is_smaller(&module, LARGEST_MODULE);
    shows_no_folder_of_the_user(&module);
    needs_only_the_c_library(&module);
    let program = folder.join("consul-guard");
    let said = run(Command::new(&program).arg("version")).expect("a program");
    assert_eq!(said, format!("consul-guard {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(lua(engine, tree, version, GUARDED).expect(engine), "guarded\n");

    is_smaller(&program, LARGEST_GUARD);
    shows_no_folder_of_the_user(&program);
    let away = program.with_extension("away");
    fs::rename(&program, &away).expect("it can be moved");
    let refusal = lua(engine, tree, version, GUARDED).expect_err("there is no guard");
    assert!(refusal.contains("guard: there is no program"), "{refusal}");
    fs::rename(&away, &program).expect("it can be moved back");
}

/// As docs/installing.md says; libm is of the C library.
fn needs_only_the_c_library(file: &Path) {
    let headers = run(Command::new("objdump").arg("-p").arg(file)).expect("a library");
    let needed = headers.lines().filter_map(|line| line.trim().strip_prefix("NEEDED"));
    let needed: Vec<_> = needed.map(str::trim).collect();
    assert!(needed.contains(&"libc.so.6"), "{needed:?}");
    for library in needed {
        let is_known = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].contains(&library);
        assert!(is_known || library.starts_with("ld-linux"), "{}: {library}", file.display());
    }
}

fn shows_no_folder_of_the_user(file: &Path) {
    let bytes = fs::read(file).expect("it is there");
    let shows = bytes.windows(8).any(|part| part == b".cargo/r");
    assert!(!shows, "{}", file.display());
}

#[allow(clippy::print_stdout)]
fn is_smaller(file: &Path, limit: u64) {
    let size = fs::metadata(file).expect("it is there").len();
    println!("{}: {} kB", file.display(), size / 1000);
    assert!(size < limit, "{}: {size} bytes", file.display());
}

fn each_build_for_another_engine_is_refused() {
    for (_, _, flavour, built_for) in ENGINES {
        let is_built = built_engines().iter().any(|engine| engine.2 == *flavour);
        let folder = if is_built { "target/lua" } else { "target/lua-quick" };
        let cpath = root().join(format!("{folder}/{flavour}/?.so"));
        for (engine, _, _, loaded_by) in ENGINES {
            let loaded = run(Command::new(engine)
                .args(["-e", "print(require('consul_ffi')._VERSION)"])
                .env("LUA_CPATH", &cpath)
                .current_dir("/"));
            if built_for == loaded_by {
                assert_eq!(loaded.expect(engine), format!("{}\n", env!("CARGO_PKG_VERSION")));
                continue;
            }
            let refusal = loaded.expect_err("the wrong flavour was loaded");
            let said = format!(
                "this build of consul_ffi is for {built_for}, but {loaded_by} loads it; in a checkout of consul_ffi \
                 run: make install LUA={engine}\n"
            );
            let is_one_of_two =
                ["luajit", "lua5.1"].contains(engine) && ["luajit", "5.1"].contains(flavour);
            let said = if is_one_of_two { said.as_str() } else { "undefined symbol: lua" };
            assert!(refusal.contains(said), "{refusal}");
        }
    }
}

/// Packs the rocks of these engines, as `make rocks` does, and returns their paths. Of Lua 5.3 `make test-all` has a build that
/// is not optimised.
fn rocks(flavours: &[&str]) -> Vec<PathBuf> {
    let (built, not_built): (Vec<&str>, Vec<&str>) = flavours
        .iter()
        .copied()
        .partition(|flavour| built_engines().iter().any(|engine| engine.2 == *flavour));
    let mut all = Vec::new();
    for (flavours, quick) in [(built, None), (not_built, Some("1"))] {
        if flavours.is_empty() {
            continue;
        }
        let mut script = Command::new("scripts/rocks.sh");
        outside_cargo(script.args(&flavours)).current_dir(root()).env("CARGO_NET_OFFLINE", "true");
        let said = run(script.envs(quick.map(|it| ("QUICK", it)))).expect("rocks");
        let lines = said.lines().filter(|line| line.contains(", needs GLIBC_2."));
        all.extend(lines.filter_map(|line| Some(root().join(line.split_once(": ")?.0))));
    }
    all
}

fn rock(flavour: &str) -> PathBuf {
    rocks(&[flavour]).pop().expect("a rock")
}

fn a_rock_of_one_user_is_found_after_the_command_of_the_page() {
    let home = fresh("one-user");
    let for_user = |program: &str| {
        let mut command = Command::new(program);
        outside_cargo(command.current_dir("/").env("HOME", &home));
        command
    };
    let mut install = for_user("luarocks");
    run(install.args(["--lua-version=5.4", "--local", "install"]).arg(rock("5.4")))
        .expect("a rock");
    let page = fs::read_to_string(root().join("docs/installing.md")).expect("a page");
    let command = page.lines().find(|line| line.starts_with("eval ")).expect("a command");
    let script = format!("{command}\nexec lua5.4 -e \"$1\"");
    let said = run(for_user("sh").args(["-c", &script, "sh", PROGRAM]));
    assert_eq!(said.expect("it is found"), "v\n");
}

/// Hides Rust, each compiler and linker, and the network from a command.
const BARE: &str = r#"
    for folder in .cargo .rustup .luarocks .cache; do
        [ ! -d "$HOME/$folder" ] || mount -t tmpfs none "$HOME/$folder"
    done
    for program in cargo rustc rustup cc c++ gcc g++ clang as ld ld.lld make go; do
        while path=$(command -v $program) && [ -s "$path" ]; do
            mount --bind /dev/null "$(realpath "$path")"
        done
    done
    ! cargo --version 2>/dev/null && ! cc --version 2>/dev/null || exit 90
    ! ip route get 192.0.2.1 2>/dev/null || exit 91
    exec "$@"
"#;

fn bare(command: &Command) -> Result<String, String> {
    let mut bare = Command::new("unshare");
    bare.args(["--mount", "--net", "sh", "-c", BARE, "sh"]).arg(command.get_program());
    bare.args(command.get_args()).current_dir("/");
    for (name, value) in command.get_envs() {
        bare.env(name, value.unwrap_or_default());
    }
    run(&mut bare)
}

/// From a folder as a server, by the name alone: luarocks chooses by the version of Lua, and the rock of 5.1 by the engine. The
/// rocks of two versions in one tree are apart, so that removing one leaves the other whole.
fn rocks_need_no_rust_no_compiler_and_no_network() {
    let (tree, server) = (fresh("bare"), fresh("server"));
    let flavours = ENGINES.map(|engine| engine.2);
    for rock in rocks(&flavours) {
        let rockspec = rock.with_extension("").with_extension("rockspec");
        for file in [&rock, &rockspec] {
            fs::copy(file, server.join(file.file_name().expect("a name"))).expect("it is copied");
        }
    }
    run(outside_cargo(Command::new("luarocks-admin").arg("make-manifest").arg(&server)))
        .expect("a server");
    for (engine, version, ..) in ENGINES {
        let mut install = luarocks(version, &tree, Path::new("/"));
        install.arg(format!("--only-server={}", server.display()));
        bare(install.args(["install", "consul_ffi"])).expect(engine);
    }
    for (engine, version, ..) in ENGINES {
        let mut shown = Command::new(engine);
        shown.arg(root().join("examples/demo.lua"));
        let said = bare(with_tree(&mut shown, &tree, version)).expect(engine);
        assert!(said.contains("stored greeting and read back: hello"), "{said}");
    }
    run(luarocks("5.1", &tree, Path::new("/")).args(["remove", "consul_ffi"])).expect("removed");
    assert!(lua("luajit", &tree, "5.1", PROGRAM).is_err(), "it is not removed");
    assert_eq!(lua("lua5.4", &tree, "5.4", PROGRAM).expect("the other"), "v\n");
    has_its_guard("lua5.4", &tree, "5.4");
}

/// A folder for PATH with a program of this text.
fn with_program(folder: &Path, name: &str, text: &str) -> String {
    let program = folder.join(name);
    fs::write(&program, text).expect("a program can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be run");
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

fn a_build_that_fails_leaves_the_installed_module() {
    let (tree, programs) = (fresh("upgraded"), fresh("upgrade-programs"));
    let install = |path: &str| {
        let mut make = Command::new("make");
        make.args(["install", "LUA=lua5.4", &format!("ARGS=--tree={}", tree.display())]);
        run(outside_cargo(&mut make).current_dir(root()).env("PATH", path))
    };
    let path = std::env::var("PATH").unwrap_or_default();
    for _ in 0..2 {
        install(&path).expect("it is installed");
        assert_eq!(lua("lua5.4", &tree, "5.4", PROGRAM).expect("it loads"), "v\n");
    }
    for (program, why) in [("objdump", "which glibc it needs"), ("cargo", "broken")] {
        let path = with_program(&programs, program, "#!/bin/sh\necho broken >&2\nexit 1\n");
        let refusal = install(&path).expect_err(why);
        assert!(refusal.contains(why), "{refusal}");
        assert_eq!(lua("lua5.4", &tree, "5.4", PROGRAM).expect("it is still there"), "v\n");
    }
    // As luarocks does on a full disk.
    let (programs, luarocks) = (fresh("full-disk"), path_of("luarocks"));
    for file in ["lib/lua/5.4/consul_ffi.so", "share/lua/5.4/consul_ffi/luv.lua"] {
        let file = tree.join(file);
        let cut = format!("case \"$*\" in *install*) truncate -s 100 '{}' ;; esac", file.display());
        let text = format!("#!/bin/sh -e\n{luarocks} \"$@\"\n{cut}\n");
        let refusal = install(&with_program(&programs, "luarocks", &text)).expect_err("it is cut");
        let why = format!("{} is not that of target/rocks/", file.display());
        assert!(refusal.contains(&why), "{refusal}");
    }
    install(&path).expect("it is installed again");
    assert_eq!(lua("lua5.4", &tree, "5.4", PROGRAM).expect("it loads"), "v\n");
}

fn a_rust_that_is_too_old_is_refused_with_the_one_that_is_needed() {
    let folder = fresh("old-rust");
    let path =
        with_program(&folder, "rustc", "#!/bin/sh\necho 'rustc 1.75.0 (82e1608df 2023-12-21)'\n");
    let needed = env!("CARGO_PKG_RUST_VERSION");
    for script in [&["build.sh", "lua54", "no/module.so"][..], &["build-tools.sh", "no/folder"]] {
        let mut build = Command::new(root().join("rockspec").join(script[0]));
        let refusal = run(build.args(&script[1..]).env("PATH", &path)).expect_err("it is too old");
        assert!(refusal.contains("this is Rust 1.75.0, and the "), "{refusal}");
        assert!(
            refusal.contains(&format!(" needs {needed} or newer: run \"rustup update\"")),
            "{refusal}"
        );
    }
    // Not compared as texts.
    let newer = "#!/bin/sh\necho 'rustc 1.1000.0 (82e1608df 2099-12-21)'\n";
    with_program(&folder, "rustc", newer);
    with_program(&folder, "cargo", "#!/bin/sh\necho broken >&2\nexit 1\n");
    let mut build = Command::new(root().join("rockspec/build.sh"));
    build.args(["lua54", "no/module.so"]).env("PATH", &path);
    build.env("CARGO_TARGET_DIR", folder.join("target"));
    let refusal = run(&mut build).expect_err("it cannot be built");
    assert!(refusal.ends_with("broken\n"), "{refusal}");
}
