//! The refusals and results of `scripts/release.sh`, and the words that are searched for in an unpacked archive.

use super::release::files;
use super::support::outside::outside_cargo;
use super::support::pages::read;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The day of each commit in UTC. Here it is the next day already.
const COMMITTED: &str = "2001-02-04";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with copies of these files of the checkout. The repository of the checkout ignores it, as one around an
/// unpacked archive may do.
fn copy(name: &str, files: impl IntoIterator<Item = PathBuf>) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    for file in files {
        let copy = folder.join(file.strip_prefix(root()).expect("a path in the checkout"));
        fs::create_dir_all(copy.parent().expect("its folder")).expect("a folder can be made");
        fs::copy(&file, copy).expect("a file can be copied");
    }
    folder
}

/// Runs a program in a folder, with a git that nothing else configures, and returns what it prints.
fn run(folder: &Path, program: impl AsRef<Path>, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program.as_ref());
    outside_cargo(&mut command).args(arguments);
    finish(folder, command)
}

fn finish(folder: &Path, mut command: Command) -> Result<String, String> {
    command.current_dir(folder);
    let given: BTreeSet<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    // In a hook, the variables of the checkout.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GIT_")) {
        if !given.contains(OsStr::new(&name)) {
            command.env_remove(name);
        }
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    // As some users have it.
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "color.ui");
    command.env("GIT_CONFIG_VALUE_0", "always");
    command.env("GIT_COMMITTER_DATE", format!("{COMMITTED}T23:59:59Z")).env("TZ", "UTC-1");
    for who in ["AUTHOR", "COMMITTER"] {
        let name = format!("GIT_{who}_NAME");
        if !given.contains(OsStr::new(&name)) {
            command.env(name, "a test");
        }
        command.env(format!("GIT_{who}_EMAIL"), "test@localhost");
    }
    let output = command.env("CARGO_NET_OFFLINE", "true").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text.into()) } else { Err(text.into()) }
}

/// A checkout with one commit, whose newest changes are dated.
struct Checkout(PathBuf);

impl Checkout {
    fn git(&self, arguments: &str) {
        run(&self.0, "git", &arguments.split(' ').collect::<Vec<_>>()).expect(arguments);
    }

    fn release(&self, arguments: &[&str]) -> Result<String, String> {
        run(&self.0, self.0.join("scripts/release.sh"), arguments)
    }

    fn replace(&self, file: &str, old: &str, new: &str) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(old), "{file} has no {old:?}");
        fs::write(path, text.replacen(old, new, 1)).expect("it can be written");
    }

    fn commit(&self) {
        self.git("add --all");
        self.git("commit --quiet --allow-empty --message=change");
    }

    /// The release is refused with these words after this replacement.
    #[track_caller]
    fn refuses(&self, file: &str, old: &str, new: &str, why: &str) {
        self.replace(file, old, new);
        self.commit();
        let refusal = self.release(&["--check"]).expect_err(why);
        assert!(refusal.contains(why), "{why:?} is not in {refusal}");
        self.git("reset --quiet --hard HEAD~1");
    }

    #[track_caller]
    fn accepts(&self, saying: &str) {
        let said = self.release(&["--check"]).expect("all agree");
        assert!(said.contains(&format!("all files are those of {VERSION}, dated ")), "{said}");
        assert!(said.contains(saying), "{saying:?} is not in {said}");
    }
}

#[test]
#[ignore = "computes long: make test-all"]
fn a_release_is_refused_if_its_files_do_not_agree() {
    let checkout = Checkout(copy("a release", files()));
    // A release that is not refused shall not run all tests.
    fs::write(checkout.0.join("Makefile"), "test-all:\n\tfalse\n").expect("it can be written");
    checkout.git("init --quiet");
    checkout.commit();
    let changelog = "CHANGELOG.md";
    let text = fs::read_to_string(checkout.0.join(changelog)).expect("a changelog");
    let newest = text.lines().find(|line| line.starts_with("## ")).expect("a section");
    let dated = &format!("## [{VERSION}] - 2001-02-03");
    checkout.replace(changelog, newest, dated);
    let refusal = checkout.release(&["--check"]).expect_err("a file was changed");
    assert!(refusal.contains("commit everything first:\n M CHANGELOG.md\n"), "{refusal}");
    checkout.commit();
    checkout.accepts(&format!("there is no tag v{VERSION} here"));
    fs::write(checkout.0.join("forgotten"), "").expect("a file");
    let refusal = checkout.release(&["--check"]).expect_err("a file is not committed");
    assert!(refusal.contains("commit everything first:\n?? forgotten\n"), "{refusal}");
    fs::remove_file(checkout.0.join("forgotten")).expect("it can be removed");

    for wrong in [
        "## [Unreleased]",
        "## [9.9.9] - 2001-02-03",
        &format!("## [{VERSION}] - not released yet"),
        &format!("## [{VERSION}] - 2001-13-45"),
        &format!("## [{VERSION}]"),
    ] {
        checkout.refuses(changelog, dated, wrong, &format!("is \"{wrong}\": "));
    }
    let why = format!("the rockspecs are not those of {VERSION}");
    let own = format!("version = \"{VERSION}");
    let other = "version = \"9.9.9";
    for rock in [
        "rockspec/consul_ffi",
        "rockspec/tools/consul_ffi-tools",
        "etcd/etcd_ffi",
        "resty/resty_consul",
    ] {
        checkout.refuses(&format!("{rock}-{VERSION}-1.rockspec"), &own, other, &why);
        let homepage = ["homepage = \"https:", "homepage = \"http:"];
        checkout.refuses(&format!("{rock}-scm-1.rockspec"), homepage[0], homepage[1], &why);
    }
    checkout.refuses("Cargo.toml", &own, other, "the rockspecs are not those of 9.9.9");
    let package = "name = \"consul_ffi\"\n";
    checkout.refuses(
        "Cargo.lock",
        &format!("{package}{own}"),
        &format!("{package}{other}"),
        "Cargo.lock is not that of Cargo.toml",
    );
    let mut elsewhere = Command::new(checkout.0.join("scripts/release.sh"));
    outside_cargo(elsewhere.arg("--check"))
        .env("CARGO_HOME", checkout.0.with_extension("no crates"));
    let refusal = finish(&checkout.0, elsewhere).expect_err("no crates");
    assert!(refusal.contains("cargo does not get the crates of Cargo.lock:\n"), "{refusal}");
    let golden = format!("tests/golden/{VERSION}/messages.txt");
    checkout.git("mv tests/golden tests/earlier");
    fs::create_dir_all(checkout.0.join("tests/golden/9.9.9")).expect("a folder");
    checkout.git(&format!("mv tests/earlier/{VERSION}/messages.txt tests/golden/9.9.9"));
    checkout.git(&format!("mv tests/earlier/{VERSION} tests/golden"));
    checkout.refuses(changelog, dated, dated, &format!("{golden} is missing: run make golden"));

    refuses_before_it_builds(&checkout);
}

/// The other refusals of a release.
fn refuses_before_it_builds(checkout: &Checkout) {
    let refusal = checkout.release(&[]).expect_err("it is dated 2001");
    assert!(refusal.contains("on 2001-02-03, and the last commit is of "), "{refusal}");
    checkout.git(&format!("tag v{VERSION}"));
    checkout.accepts(&format!("this commit is v{VERSION}"));
    stays_as_it_was_released(checkout);
    let refusal = checkout.release(&[]).expect_err("it is tagged");
    assert!(refusal.contains(&format!("there is a tag v{VERSION}")), "{refusal}");
    checkout.commit();
    checkout.accepts(&format!("v{VERSION} is another commit"));
    assert!(!checkout.0.join("target").exists(), "something was built");
    fs::write(checkout.0.join(".git/HEAD"), "").expect("it can be written");
    let refusal = checkout.release(&["--check"]).expect_err("it is not a repository");
    assert!(refusal.contains("git cannot read this checkout"), "{refusal}");
}

/// The golden files of a version that has a tag, and a commit with the tag of another version.
fn stays_as_it_was_released(checkout: &Checkout) {
    let makefile = root().join("Makefile");
    let golden = ["-f", makefile.to_str().expect("a path"), "golden"];
    let refusal = run(&checkout.0, "make", &golden).expect_err("it is released");
    assert!(refusal.contains("raise the version in Cargo.toml first"), "{refusal}");
    let why = &format!("tests/golden/{VERSION} is not that of v{VERSION}: restore it");
    let file = &format!("tests/golden/{VERSION}/messages.txt");
    checkout.refuses(file, "Request", "Reply", why);
    checkout.git("tag v9.9.8");
    let why = &format!("this commit is tagged v9.9.8, and Cargo.toml has {VERSION}");
    let refusal = checkout.release(&["--check"]).expect_err(why);
    assert!(refusal.contains(why), "{refusal}");
    checkout.git("tag --delete v9.9.8");
}

/// A folder where releases are built, with no settings of the user's above it.
fn cache() -> PathBuf {
    std::env::temp_dir().join(format!("consul_ffi-release.{}", std::process::id()))
}

impl Checkout {
    /// A release of this checkout, in which each engine has the build of its rock, with variables that a developer may have.
    fn make_release(&self, engines: &Path, committer: &str) -> Result<String, String> {
        let mut release = Command::new(self.0.join("scripts/release.sh"));
        let path = std::env::var("PATH").unwrap_or_default();
        release.env("PATH", format!("{}:{path}", engines.display()));
        outside_cargo(&mut release).env("QUICK", "1").env("CARGO_TARGET_DIR", "/nowhere");
        release.env("RUSTFLAGS", "-C target-cpu=native").env("CARGO_BUILD_TARGET", "nowhere");
        release.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CFLAGS", "-march=native");
        release.env("XDG_CACHE_HOME", cache()).env("CARGO_HOME", self.cargo_home());
        release.env("LUA_CPATH_5_3", "/nowhere").env("LUA_CPATH_5_4", "/nowhere");
        release.env("GIT_COMMITTER_NAME", committer).env("GIT_DIR", "/nowhere");
        finish(&self.0, release)
    }

    /// A home of cargo with the crates of the user's own, and without its settings.
    fn cargo_home(&self) -> PathBuf {
        let users = std::env::var_os("CARGO_HOME").map_or_else(
            || Path::new(&std::env::var_os("HOME").expect("a home")).join(".cargo"),
            PathBuf::from,
        );
        let own = self.0.with_extension("cargo");
        fs::create_dir_all(&own).expect("a folder");
        let _ = std::os::unix::fs::symlink(users.join("registry"), own.join("registry"));
        own
    }

    /// Replaces a file by a program of the shell.
    fn program(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("its folder")).expect("a folder");
        fs::write(&path, format!("#!/bin/sh -e\n{text}\n")).expect("it can be written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it can be run");
    }
}

/// Flags in a file that cargo reads, and a release that another one makes meanwhile.
fn refuses_settings_and_a_second_release(checkout: &Checkout, engines: &Path) {
    let cache = cache();
    for (settings, refused) in [
        ("[target.x86_64-unknown-linux-gnu]\nrustflags = [\"-Ctarget-cpu=native\"]\n", true),
        ("build.rustc-wrapper = \"other\"\n", true),
        ("[net]\noffline = true\n", false),
    ] {
        let file = cache.join(".cargo/config.toml");
        fs::create_dir_all(file.parent().expect("its folder")).expect("a folder");
        fs::write(&file, settings).expect("it can be written");
        let committer = if refused { "a test" } else { "" };
        let refusal = checkout.make_release(engines, committer).expect_err(settings);
        let why = format!("{} configures what cargo builds", file.display());
        assert_eq!(refusal.contains(&why), refused, "{refusal}");
    }
    let mut other = Command::new("flock");
    other
        .arg(checkout.0.join("Cargo.toml"))
        .arg("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut other = other.spawn().expect("flock runs");
    let mut input = other.stdin.take().expect("its input");
    input.write_all(b".").expect("it reads");
    let mut output = other.stdout.take().expect("its output");
    output.read_exact(&mut [0]).expect("it has the lock");
    let refusal = checkout.make_release(engines, "a test").expect_err("there are two");
    drop(input);
    other.wait().expect("it ends");
    assert!(refusal.contains("another release is being made in this checkout"), "{refusal}");
}

/// With stand-ins for the tests, the builds and the engines, which would take an hour.
#[test]
#[ignore = "computes long: make test-all"]
fn a_release_is_what_is_committed_and_tested() {
    let checkout = Checkout(copy("a whole release", files()));
    let text = fs::read_to_string(checkout.0.join("CHANGELOG.md")).expect("a changelog");
    let newest = text.lines().find(|line| line.starts_with("## ")).expect("a section");
    checkout.replace("CHANGELOG.md", newest, &format!("## [{VERSION}] - {COMMITTED}"));
    let tests = "test-all:\n\ttest ! -e .git\n\ttest -z \"$(QUICK)$(RUSTFLAGS)$(CARGO_BUILD_TARGET)$(CARGO_PROFILE_RELEASE_LTO)$(CFLAGS)\"\n\
        \ttest \"$(CARGO_TARGET_DIR)\" = \"$(CURDIR)/target\"\n\ttest ! -e broken\n\techo tested >tested\n";
    fs::write(checkout.0.join("Makefile"), tests).expect("it can be written");
    checkout.program(
        "scripts/rocks.sh",
        "cd \"$(dirname \"$0\")/..\"\ntest -e tested\ntest -z \"$QUICK\"\n\
         test \"$CARGO_TARGET_DIR\" = \"$PWD/target\"\nmkdir -p target/rocks\n\
         for flavour; do\nmkdir -p \"target/rock/$flavour\"\n\
         cp version \"target/rock/$flavour/consul_ffi.so\"\necho \"$flavour\" >\"target/rocks/$flavour.rock\"\ndone",
    );
    let folder = Checkout(checkout.0.with_extension("engines"));
    for (engine, flavour) in
        [("luajit", "luajit"), ("lua5.1", "5.1"), ("lua5.3", "5.3"), ("lua5.4", "5.4")]
    {
        let cpath = format!(
            "test \"$LUA_CPATH_5_3$LUA_CPATH_5_4$LUA_CPATH\" = './target/rock/{flavour}/?.so'"
        );
        folder.program(engine, &format!("{cpath}\ncat target/rock/{flavour}/consul_ffi.so"));
    }
    let engines = &folder.0;
    checkout.git("init --quiet");
    for (file, text, why) in [
        ("version", "9.9.9", "the build for luajit says 9.9.9"),
        ("broken", "", "test ! -e broken"),
    ] {
        fs::write(checkout.0.join("version"), VERSION).expect("it can be written");
        fs::write(checkout.0.join(file), text).expect("it can be written");
        checkout.commit();
        let refusal = checkout.make_release(engines, "a test").expect_err(why);
        assert!(refusal.contains(why), "{refusal}");
        let left = fs::read_dir(checkout.0.join("target")).expect("a folder").count();
        assert_eq!(left, 0, "something is left of a release that failed");
        fs::remove_file(checkout.0.join(file)).expect("it can be removed");
    }
    fs::write(checkout.0.join("version"), VERSION).expect("it can be written");
    checkout.commit();
    let refusal = checkout.make_release(engines, "").expect_err("nobody makes the tag");
    assert!(refusal.contains("git does not know the author of the tag"), "{refusal}");
    refuses_settings_and_a_second_release(&checkout, engines);
    let made = checkout.0.join(format!("target/release-{VERSION}"));
    fs::create_dir(&made).expect("a folder");
    fs::write(made.join("earlier.rock"), "").expect("a file");
    let said = checkout.make_release(engines, "a test").expect("a release");
    assert!(said.contains(&format!("git push origin v{VERSION} publishes it")), "{said}");

    let git = |arguments: &[&str]| run(&checkout.0, "git", arguments).expect("git runs");
    assert_eq!(git(&["cat-file", "-t", &format!("v{VERSION}")]), "tag\n");
    let message = git(&["tag", "--list", "--format=%(contents)"]);
    assert!(message.contains("Built with rustc 1."), "{message}");
    let tagged = git(&["rev-parse", &format!("v{VERSION}^{{commit}}")]);
    assert_eq!(tagged, git(&["rev-parse", "HEAD"]));
    let archive = format!("consul_ffi-{VERSION}.tar.gz");
    let packed = run(&made, "tar", &["-tzf", &archive]).expect("an archive");
    let committed = git(&["ls-tree", "-r", "--name-only", "HEAD"]);
    let committed = committed.lines().map(|name| format!("consul_ffi-{VERSION}/{name}"));
    let packed = packed.lines().filter(|name| !name.ends_with('/')).map(str::to_owned);
    assert_eq!(packed.collect::<BTreeSet<_>>(), committed.collect());
    run(&made, "sha256sum", &["--strict", "-c", "SHA256SUMS"]).expect("the sums are right");
    let sums = fs::read_to_string(made.join("SHA256SUMS")).expect("sums");
    let page = read("docs/upgrading.md");
    let command = page.lines().find(|line| line.ends_with("| sha256sum")).expect("a command");
    // For any configuration of git.
    git(&["config", "tar.umask", "0077"]);
    let sum = run(&checkout.0, "sh", &["-c", command]).expect("the archive again");
    assert!(sums.contains(&format!("{}  {archive}\n", &sum[..64])), "{sum} is not in {sums}");
    let sums: BTreeSet<_> =
        sums.lines().filter_map(|line| Some(line.split_once("  ")?.1)).collect();
    let rocks = ["luajit", "5.1", "5.3", "5.4"].map(|flavour| format!("{flavour}.rock"));
    let rockspecs = ["consul_ffi", "consul_ffi-tools", "etcd_ffi", "resty_consul"]
        .map(|rock| format!("{rock}-{VERSION}-1.rockspec"));
    let wanted = rocks.iter().chain(&rockspecs).chain([&archive]).map(String::as_str);
    assert_eq!(sums, wanted.collect());
    assert_eq!(fs::read_dir(&made).expect("a folder").count(), sums.len() + 1, "and the sums");
    fs::remove_dir_all(cache()).expect("it can be removed");
}

#[test]
fn a_clone_has_the_bytes_of_the_checkout_whatever_git_converts() {
    let lint = ["scripts/lint-words.sh", ".gitattributes"].map(|name| root().join(name));
    let checkout = Checkout(copy("a clone's origin", lint));
    fs::write(checkout.0.join("recorded"), "one\r\ntwo\n").expect("it can be written");
    checkout.git("init --quiet");
    checkout.commit();
    for converts in ["true", "input", "false"] {
        let clone = checkout.0.with_extension(converts);
        let _ = fs::remove_dir_all(&clone);
        let config = format!("core.autocrlf={converts}");
        let (from, to) = (checkout.0.display().to_string(), clone.display().to_string());
        run(root(), "git", &["-c", &config, "clone", "--quiet", &from, &to]).expect("a clone");
        for name in ["scripts/lint-words.sh", ".gitattributes", "recorded"] {
            let read = |folder: &Path| fs::read(folder.join(name)).expect("a file");
            assert!(read(&clone) == read(&checkout.0), "{name}: {config}");
        }
    }
}

#[test]
fn words_are_refused_in_an_unpacked_archive() {
    let lint = ["scripts/lint-words.sh", "scripts/lint-words.allow"];
    let folder = copy("an archive", lint.map(|name| root().join(name)));
    fs::write(folder.join("page.md"), "It is refused.\n").expect("it can be written");
    run(&folder, folder.join(lint[0]), &[]).expect("no such word");
    fs::write(folder.join("page.md"), concat!("It is ", "no page.\n")).expect("it can be written");
    let said = run(&folder, folder.join(lint[0]), &[]).expect_err("such a word");
    assert!(said.starts_with("page.md:1: "), "{said}");
    fs::remove_file(folder.join("page.md")).expect("it can be removed");
    for (name, line, is_refused) in [
        ("a.rs", "/// What it is.", true),
        ("a.rs", "/// It is. Whatever it is, it stays.", true),
        ("a.rs", "// What is it?", false),
        ("a.rs", concat!("fn a() {} // those ", "of others"), true),
        ("a.rs", concat!("let a = \"those ", "of others\";"), false),
        ("a.rs", "/// The argument `said`.", false),
        ("a.lua", concat!("local a = 1 -- one ", "that stays"), true),
        ("a.lua", "---What it is.", true),
    ] {
        fs::write(folder.join(name), format!("{line}\n")).expect("it can be written");
        let found = run(&folder, folder.join(lint[0]), &[]);
        assert_eq!(found.is_err(), is_refused, "{line}: {found:?}");
        fs::remove_file(folder.join(name)).expect("it can be removed");
    }
}
