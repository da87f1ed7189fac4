//! `rockspec/build.sh` under the settings of cargo that a user may have, and `scripts/rocks.sh`, with a package that is built in
//! a second.

use super::support::outside::outside_cargo;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = r#"
[package]
name = "consul_ffi"
version = "0.1.0"
edition = "2024"
rust-version = "1.88"
[lib]
crate-type = ["cdylib"]
[features]
lua53 = []
lua54 = []
[profile.guard]
inherits = "release"
[profile.quick]
inherits = "dev"
[workspace]
members = ["crates/consul-guard"]
"#;

const GUARD: &str = "[package]\nname = \"consul-guard\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";

const LOCK: &str = "version = 4\n[[package]]\nname = \"consul-guard\"\nversion = \"0.1.0\"\n\
    [[package]]\nname = \"consul_ffi\"\nversion = \"0.1.0\"\n";

const ROCKSPEC: &str = r#"
rockspec_format = "3.0"
package = "consul_ffi"
version = "0.1.0-1"
source = { url = "git+https://localhost/consul_ffi.git" }
dependencies = { "lua >= 5.1, < 5.5" }
build = {
  type = "command",
  build_command = "false",
  install = {
    lib = { consul_ffi = "target/rock/consul_ffi.so", "target/rock/consul-guard" },
    lua = { z = "lua/z.lua", a = "lua/a.lua" },
  },
}
"#;

struct Package(PathBuf);

impl Package {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        let package = Self(folder);
        for script in [
            "rockspec/build.sh",
            "rockspec/build-tools.sh",
            "rockspec/lib.sh",
            "scripts/rocks.sh",
            "scripts/packages.sh",
            "crates/consul-sim/packages/Containerfile",
        ] {
            package.write(script, "");
            let original = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
            fs::copy(original, package.0.join(script)).expect("it can be copied");
        }
        package.write("Cargo.toml", MANIFEST);
        package.write("Cargo.lock", LOCK);
        package.write("crates/consul-guard/Cargo.toml", GUARD);
        package
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("its folder")).expect("a folder can be made");
        fs::write(path, text).expect("it can be written");
    }

    /// With this text in the module and the guard, and the engine beside it in the module, which must unwind.
    fn saying(&self, text: &str) {
        let module = format!(
            "const _: () = assert!(cfg!(panic = \"unwind\"));
             #[unsafe(no_mangle)] pub static TEXT: &[u8; 5] = b\"{text}\";
             #[cfg(feature = \"lua53\")] #[unsafe(no_mangle)] pub static ENGINE: &[u8; 5] = b\"lua53\";
             #[cfg(feature = \"lua54\")] #[unsafe(no_mangle)] pub static ENGINE: &[u8; 5] = b\"lua54\";"
        );
        self.write("src/lib.rs", &module);
        self.write(
            "crates/consul-guard/src/main.rs",
            &format!("fn main() {{ print!(\"{text}\") }}"),
        );
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = Command::new(program);
        outside_cargo(&mut command).args(arguments).current_dir(&self.0);
        command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true");
        let output = command.envs(variables.iter().copied()).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether the module that was made has this in it.
    fn module_has(&self, text: &str) -> bool {
        let module = fs::read(self.0.join("made/consul_ffi.so")).expect("a module");
        module.windows(5).any(|it| it == text.as_bytes())
    }

    #[track_caller]
    fn has(&self, text: &str) {
        assert!(self.module_has(text), "the module is an earlier one");
        let guard = Command::new(self.0.join("made/consul-guard")).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&guard.stdout), text);
    }
}

#[test]
fn what_was_built_is_taken_also_where_a_target_is_configured() {
    let package = Package::new("a configured target");
    let build = ["lua54", "made/consul_ffi.so"];
    package.saying("early");
    package.run("rockspec/build.sh", &build, &[]);
    package.has("early");
    package.saying("later");
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    package.run("rockspec/build.sh", &build, &[("CARGO_BUILD_TARGET", &host)]);
    package.has("later");
}

/// One folder for what is built on the way, colours, silence, and panics that abort.
#[test]
fn each_engine_has_its_module_whatever_cargo_is_told() {
    let package = Package::new("a configured cargo");
    package.saying("engin");
    let shared = package.0.join("shared");
    let set = [
        ("CARGO_BUILD_BUILD_DIR", shared.to_str().expect("a path")),
        ("CARGO_TERM_COLOR", "always"),
        ("CARGO_TERM_QUIET", "true"),
        ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
        ("CARGO_PROFILE_DEV_PANIC", "abort"),
    ];
    for quick in ["", "1"] {
        for (engine, other) in [("lua53", "lua54"), ("lua54", "lua53"), ("lua53", "lua54")] {
            let set: Vec<_> = set.into_iter().chain([("QUICK", quick)]).collect();
            package.run("rockspec/build.sh", &[engine, "made/consul_ffi.so"], &set);
            assert!(package.module_has(engine) && !package.module_has(other), "{engine} {quick}");
        }
    }
}

/// With an interpreter that prints what it runs first.
#[test]
fn the_engine_is_known_whatever_lua_init_prints() {
    let package = Package::new("an interpreter with LUA_INIT");
    package.saying("known");
    package.write("lua", "#!/bin/sh\necho \"$LUA_INIT$LUA_INIT_5_4\"Lua 5.4\n");
    package.run("chmod", &["+x", "lua"], &[]);
    let set = [("LUA_INIT", "hello"), ("LUA_INIT_5_4", "hello")];
    package.run("rockspec/build.sh", &["./lua", "made/consul_ffi.so"], &set);
    package.has("known");
}

/// A folder with links to all programs of the `PATH` but one.
fn path_without(program: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("without {program}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder can be made");
    for other in std::env::split_paths(&std::env::var_os("PATH").expect("a PATH")) {
        for entry in fs::read_dir(other).into_iter().flatten().flatten() {
            if entry.file_name() != program {
                // The first of a name runs.
                let _ = symlink(entry.path(), folder.join(entry.file_name()));
            }
        }
    }
    folder
}

impl Package {
    /// Runs a script that ends with this error before it has built anything.
    #[track_caller]
    fn refuses(&self, script: &str, arguments: &[&str], variables: &[(&str, &str)], says: &str) {
        let mut command = Command::new(self.0.join(script));
        outside_cargo(&mut command).args(arguments).current_dir(&self.0);
        command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true").env_remove("CC");
        let output = command.envs(variables.iter().copied()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {said}");
        assert!(said.contains(says), "{script}: {said}");
        assert!(!said.contains("Compiling"), "{script}: {said}");
    }
}

#[test]
fn what_a_build_lacks_is_named_before_it() {
    let package = Package::new("a machine that lacks something");
    package.saying("never");
    let build = ("rockspec/build.sh", ["lua54", "made/consul_ffi.so"].as_slice());
    let tools = ("rockspec/build-tools.sh", ["made"].as_slice());
    let rocks = ("scripts/rocks.sh", ["5.4"].as_slice());
    for (lacks, of, (script, arguments)) in [
        ("cc", "gcc", build),
        ("cc", "gcc", tools),
        ("luarocks", "luarocks", rocks),
        ("zip", "zip", rocks),
        ("unzip", "unzip", rocks),
        ("objdump", "binutils", rocks),
    ] {
        let path = path_without(lacks);
        let path = path.to_str().expect("a path");
        package.refuses(script, arguments, &[("PATH", path)], &format!("{lacks} is missing"));
        package.refuses(script, arguments, &[("PATH", path)], &format!("Debian's package {of}"));
    }
    let path = path_without("df");
    let stub = path.join("df");
    fs::write(&stub, "#!/bin/sh\necho Head\necho /dev/sda 9 9 40960 1% /\n").expect("a stub");
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("it can be run");
    for (script, arguments) in [build, tools] {
        let path = [("PATH", path.to_str().expect("a path"))];
        package.refuses(script, arguments, &path, "has 40 MB of free disk space");
    }
}

/// A user gets the crates that were tested.
#[test]
fn a_module_is_built_by_the_lock_file_alone() {
    let package = Package::new("an older lock file");
    package.saying("never");
    let older = LOCK.replace("\"consul_ffi\"\nversion = \"0.1", "\"consul_ffi\"\nversion = \"0.0");
    package.write("Cargo.lock", &older);
    for (script, arguments) in [
        ("rockspec/build.sh", &["lua54", "made/consul_ffi.so"][..]),
        ("rockspec/build-tools.sh", &["made"]),
    ] {
        let mut command = Command::new(package.0.join(script));
        outside_cargo(&mut command).args(arguments).current_dir(&package.0);
        let output = command.env("CARGO_NET_OFFLINE", "true").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--locked"), "{script}: {said}");
    }
}

/// A file where a folder is needed: nobody can write there, root neither.
#[test]
fn where_nothing_can_be_written_nothing_is_built() {
    let package = Package::new("folders that cannot be made");
    package.saying("never");
    package.write("file", "");
    let build = ("rockspec/build.sh", "lua54");
    for (script, arguments, target) in [
        (build.0, &[build.1, "file/consul_ffi.so"][..], "made"),
        (build.0, &[build.1, "made/consul_ffi.so"], "file"),
        ("rockspec/build-tools.sh", &["file"], "made"),
        ("rockspec/build-tools.sh", &["made"], "file"),
    ] {
        let target = package.0.join(target);
        let target = [("CARGO_TARGET_DIR", target.to_str().expect("a path"))];
        package.refuses(script, arguments, &target, "cannot write to ");
    }
}

/// A module in a folder of the user's `LUA_PATH` is not found by the programs, which have another one.
#[test]
fn a_module_of_the_users_lua_path_is_installed_for_the_tests() {
    let folder = path_without("apt-get");
    let lua = folder.join("lua of a test");
    fs::write(&lua, "#!/bin/sh\ntest \"$LUA_PATH$LUA_CPATH$LUA_PATH_5_4\"\n").expect("a stub");
    fs::set_permissions(&lua, fs::Permissions::from_mode(0o755)).expect("it can be run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-deps.sh");
    let mut command = Command::new(script);
    outside_cargo(&mut command).arg("tsdb").env("PATH", &folder).env("LUA", &lua);
    for name in ["LUA_PATH", "LUA_CPATH", "LUA_PATH_5_4"] {
        command.env(name, "/home/user/.luarocks/?.lua");
    }
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("install what these Debian packages have: lua-sql-sqlite3"), "{said}");
}

/// With a builder that writes down what it gets.
#[test]
fn the_image_is_the_static_program_with_its_licences() {
    let package = Package::new("an image");
    let script = ("scripts/packages.sh", ["image", "podman"].as_slice());
    package.refuses(script.0, script.1, &[], "make dist ONLY=consul-sim TARGETS=");
    let name = format!("consul-sim-0.1.0-linux-{}-musl", std::env::consts::ARCH);
    for file in ["consul-sim", "LICENSE-MIT"] {
        package.write(&format!("target/dist/{name}/{file}"), "");
    }
    let archive = format!("{name}.tar.gz");
    package.run(
        "tar",
        &["-czf", &format!("target/dist/{archive}"), "-C", "target/dist", &name],
        &[],
    );
    package.write(
        "bin/podman",
        "#!/bin/sh\n[ $1 = info ] && exit\nfor it; do last=$it; done\n{ echo \"$@\"; ls \"$last\"; } >said\n",
    );
    package.run("chmod", &["+x", "bin/podman"], &[]);
    let path =
        format!("{}:{}", package.0.join("bin").display(), std::env::var("PATH").expect("a PATH"));
    package.run("scripts/packages.sh", &["image", "podman"], &[("PATH", &path)]);
    let said = fs::read_to_string(package.0.join("said")).expect("what the builder got");
    assert!(said.starts_with("build --build-arg VERSION=0.1.0 --tag consul-sim:0.1.0 "), "{said}");
    assert!(said.ends_with("\nLICENSE-MIT\nconsul-sim\n"), "{said}");
    let file = said.split(' ').skip_while(|it| *it != "--file").nth(1).expect("a Containerfile");
    let text = fs::read_to_string(package.0.join(file)).expect("the Containerfile");
    assert!(text.contains("\nFROM scratch\n") && text.contains("[\"/consul-sim\"]"), "{text}");
}

/// With programs that write down how they are called.
#[test]
fn each_registry_gets_its_files_only_with_its_key() {
    let package = Package::new("a published release");
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile");
    fs::copy(makefile, package.0.join("Makefile")).expect("it can be copied");
    for file in [
        "dist/a.tar.gz",
        "rocks/consul_ffi-0.1.0-51.linux-x86_64.rock",
        "rocks/consul_ffi-0.1.0-51.rockspec",
        "packages/consul_sim-0.1.0.whl",
        "packages/consul-sim-0.1.0.tgz",
    ] {
        package.write(&format!("target/{file}"), "");
    }
    let stub = "#!/bin/sh\n[ \"$1 $2\" != 'config get' ] || { echo https://registry/; exit; }\n\
        echo \"${0##*/} $1\" >>said\n";
    for program in ["bin/gh", "bin/luarocks", "bin/npm", "target/packages/python/bin/maturin"] {
        package.write(program, stub);
        package.run("chmod", &["+x", program], &[]);
    }
    let path =
        format!("{}:{}", package.0.join("bin").display(), std::env::var("PATH").expect("a PATH"));
    let released = "gh release\n";
    for (key, uploaded) in [
        ("NO_KEY", ""),
        ("LUAROCKS_KEY", "luarocks upload\n"),
        ("PYPI_TOKEN", "maturin upload\n"),
        ("NPM_TOKEN", "npm config\nnpm publish\n"),
    ] {
        package.write("said", "");
        package.run("make", &["publish"], &[("PATH", &path), (key, "secret")]);
        let said = fs::read_to_string(package.0.join("said")).expect("what was called");
        assert_eq!(said, format!("{released}{uploaded}"), "{key}");
    }
}

/// With other folders, times, zones and permissions.
#[test]
fn a_rock_of_the_same_source_has_the_same_bytes() {
    let rocks =
        [("a rock", "022", "UTC"), ("the same rock", "077", "UTC-9")].map(|(name, mask, zone)| {
            let package = Package::new(name);
            package.saying("rocks");
            package.write("rockspec/consul_ffi-0.1.0-1.rockspec", ROCKSPEC);
            package.write("lua/a.lua", "");
            package.write("lua/z.lua", "");
            package.run("touch", &["-d", "@1700000000", "Cargo.toml"], &[]);
            let script = format!("umask {mask}; scripts/rocks.sh 5.4");
            package.run("bash", &["-c", &script], &[("TZ", zone)]);
            let architecture = std::env::consts::ARCH;
            let rock = format!("target/rocks/consul_ffi-0.1.0-54.linux-{architecture}.rock");
            fs::read(package.0.join(rock)).expect("a rock")
        });
    assert!(rocks[0] == rocks[1], "they differ");
}
