//! `rockspec/build.sh` under the settings of cargo that a user may have, and `scripts/rocks.sh`, with a package that is built in
//! a second.

use super::support::outside::outside_cargo;
use std::fs;
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
lua54 = []
[profile.guard]
inherits = "release"
[workspace]
members = ["crates/*"]
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
        for script in ["rockspec/build.sh", "rockspec/lib.sh", "scripts/rocks.sh"] {
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

    /// With this text in the module and the guard.
    fn saying(&self, text: &str) {
        let module = format!("#[unsafe(no_mangle)] pub static TEXT: &[u8; 5] = b\"{text}\";");
        self.write("src/lib.rs", &module);
        self.write(
            "crates/consul-guard/src/main.rs",
            &format!("fn main() {{ print!(\"{text}\") }}"),
        );
    }

    fn run(&self, program: &str, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = Command::new(program);
        outside_cargo(&mut command).args(arguments).current_dir(&self.0);
        command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true");
        let output = command.envs(variables.iter().copied()).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[track_caller]
    fn has(&self, text: &str) {
        let module = fs::read(self.0.join("made/consul_ffi.so")).expect("a module");
        assert!(module.windows(5).any(|it| it == text.as_bytes()), "the module is an earlier one");
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
