//! What `scripts/release.sh` refuses, and the words that are searched for in an unpacked archive.

use super::release::files;
use super::support::outside::outside_cargo;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

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
    outside_cargo(&mut command).args(arguments).current_dir(folder);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a test");
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
fn a_release_is_refused_if_its_files_do_not_agree() {
    let checkout = Checkout(copy("a release", files()));
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

    for wrong in [
        "## [Unreleased]",
        "## [9.9.9] - 2001-02-03",
        &format!("## [{VERSION}] - not released yet"),
        &format!("## [{VERSION}] - 2001-13-45"),
        &format!("## [{VERSION}]"),
    ] {
        checkout.refuses(changelog, dated, wrong, &format!("is \"{wrong}\": "));
    }
    let rockspec = format!("resty/resty_consul-{VERSION}-1.rockspec");
    let own = format!("version = \"{VERSION}");
    let other = "version = \"9.9.9";
    checkout.refuses(&rockspec, &own, other, &format!("the rockspecs are not those of {VERSION}"));
    checkout.refuses("Cargo.toml", &own, other, "the rockspecs are not those of 9.9.9");
    let package = "name = \"consul_ffi\"\n";
    checkout.refuses(
        "Cargo.lock",
        &format!("{package}{own}"),
        &format!("{package}{other}"),
        "Cargo.lock is not that of Cargo.toml",
    );
    checkout.git(&format!("mv tests/golden/{VERSION} tests/golden/9.9.9"));
    checkout.refuses(changelog, dated, dated, "run make golden");

    refuses_before_it_builds(&checkout);
}

/// What a release refuses in addition.
fn refuses_before_it_builds(checkout: &Checkout) {
    let refusal = checkout.release(&[]).expect_err("it is dated 2001");
    assert!(refusal.contains("on 2001-02-03, and the last commit is of "), "{refusal}");
    checkout.git(&format!("tag v{VERSION}"));
    checkout.accepts(&format!("this commit is v{VERSION}"));
    let refusal = checkout.release(&[]).expect_err("it is tagged");
    assert!(refusal.contains(&format!("there is a tag v{VERSION}")), "{refusal}");
    checkout.commit();
    checkout.accepts(&format!("v{VERSION} is another commit"));
    assert!(!checkout.0.join("target").exists(), "something was built");
    fs::write(checkout.0.join(".git/HEAD"), "").expect("it can be written");
    let refusal = checkout.release(&["--check"]).expect_err("it is not a repository");
    assert!(refusal.contains("git cannot read this checkout"), "{refusal}");
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
}
