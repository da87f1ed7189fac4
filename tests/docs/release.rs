//! The base of a release: one version and one repository in all files, crates whose licences and lowest Rust
//! are allowed, workflows that call the same `make` targets.

use super::support::outside::outside_cargo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The packages of the lock file that this machine builds.
static PACKAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked", "--all-features"]);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = outside_cargo(&mut cargo)
        .arg(format!("--filter-platform={host}"))
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("a list").clone()
});

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// The major, minor and patch version.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().expect("a number"));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// The files of the checkout, without what is built.
pub fn files() -> Vec<PathBuf> {
    let mut folders = vec![root().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default();
            // In a worktree .git is a file: with it a copy would be that worktree, and commit to its branch.
            match path.is_dir() {
                _ if name == ".git" => {}
                true if name == "target" => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files
}

#[test]
fn the_rockspecs_and_the_changelog_are_those_of_the_version() {
    let output = Command::new(root().join("scripts/rockspecs.sh")).arg("--check").output();
    let output = output.expect("bash runs");
    assert!(
        output.status.success(),
        "run scripts/rockspecs.sh: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let changelog = read("CHANGELOG.md");
    let newest = changelog.lines().find(|line| line.starts_with("## ")).expect("a version");
    let own = format!("## [{}] - ", env!("CARGO_PKG_VERSION"));
    assert!(newest.starts_with(&own) || newest == "## [Unreleased]", "{newest}");
}

#[test]
fn the_rock_has_every_lua_file_and_the_annotations() {
    let rockspec = read(concat!("rockspec/consul_ffi-", env!("CARGO_PKG_VERSION"), "-1.rockspec"));
    let lua = root().join("lua");
    let is_lua = |path: &PathBuf| path.extension().is_some_and(|it| it == "lua");
    for path in files().into_iter().filter(|path| path.starts_with(&lua) && is_lua(path)) {
        let name = path.strip_prefix(root()).expect("a path in the checkout").display().to_string();
        assert!(rockspec.contains(&format!("\"{name}\"")), "the rockspec does not install {name}");
    }
}

#[test]
fn the_pages_name_the_rocks_of_the_version() {
    let own = concat!(env!("CARGO_PKG_VERSION"), "-5");
    let mut named = 0;
    for page in ["docs/installing.md", "docs/zh/installing.md", "docs/openresty.md"] {
        let text = read(page).replace('\n', " ");
        for rock in text.split("install consul_ffi-").skip(1) {
            let rock = rock.split('`').next().unwrap_or_default();
            assert!(rock.starts_with(own), "{page}: consul_ffi-{rock}");
            named += 1;
        }
    }
    assert_eq!(named, 3);
}

#[test]
fn the_repository_stands_in_one_place() {
    let repository = env!("CARGO_PKG_REPOSITORY");
    let own = ["Cargo.toml", "rockspec"];
    let others = files().into_iter().filter(|path| {
        let is_own = own
            .iter()
            .any(|name| path.extension().is_some_and(|it| it == *name) || path.ends_with(name));
        !is_own && fs::read_to_string(path).is_ok_and(|text| text.contains(repository))
    });
    assert_eq!(others.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn no_crate_requires_a_newer_rust() {
    let own = version(env!("CARGO_PKG_RUST_VERSION"));
    let newer =
        PACKAGES.iter().filter(|it| version(it["rust_version"].as_str().unwrap_or("1.0")) > own);
    let newer: Vec<_> = newer.map(|it| (text(it, "name"), text(it, "rust_version"))).collect();
    assert_eq!(newer, [], "raise rust-version in Cargo.toml, or lock an older release of these");
}

#[test]
fn every_crate_has_an_allowed_licence_and_source() {
    let rules = read("deny.toml");
    let rules = toml::de::DeTable::parse(&rules).expect("TOML");
    let allowed = rules.get_ref()["licenses"].get_ref()["allow"].get_ref().as_array();
    let allowed = allowed.expect("a list").iter().filter_map(|it| it.get_ref().as_str());
    let allowed: BTreeSet<_> = allowed.collect();
    for rule in ["unknown-registry", "unknown-git"] {
        let rule = rules.get_ref()["sources"].get_ref()[rule].get_ref().as_str();
        assert_eq!(rule, Some("deny"));
    }
    for package in PACKAGES.iter() {
        let licence = text(package, "license");
        let parsed = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
        let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", text(package, "name")));
        let may = parsed.evaluate(|it| it.license.id().is_some_and(|id| allowed.contains(id.name)));
        assert!(may, "{}: {licence}", text(package, "name"));
        let source = package["source"].as_str();
        assert!(source.is_none_or(|it| it == CRATES_IO), "{}: {source:?}", text(package, "name"));
    }
}

#[test]
fn the_workflows_call_make_with_the_lowest_rust() {
    let workflow = read(".github/workflows/test.yml");
    let workflows = fs::read_dir(root().join(".github/workflows")).expect("a folder").count();
    assert_eq!(workflows, 1, "another workflow needs these checks, too");
    let lowest = env!("CARGO_PKG_RUST_VERSION").trim_end_matches(".0");
    assert!(workflow.contains(&format!("RUST: \"{lowest}\"")), "{lowest}");
    // All steps of the tests may lint, and so does make soak, in the unpacked archive.
    let linting = ["make test\n", "scripts/test.sh ", "make soak\n"];
    let linting = linting.iter().map(|it| workflow.matches(&format!("- run: {it}")).count());
    let components = workflow.matches("rustup component add rustfmt clippy").count();
    assert_eq!(components, linting.sum::<usize>());
    let script = read("scripts/test.sh");
    let steps = script.split("added_steps=(").nth(1).and_then(|it| it.split(')').next());
    let matrix = workflow.split("        steps:\n").nth(1).and_then(|it| it.split(':').next());
    let run: BTreeSet<_> = matrix.expect("the parts").split_whitespace().collect();
    for step in steps.expect("the steps").split_whitespace() {
        assert!(run.contains(step), "the workflow leaves {step} out");
    }
    let soak = workflow.split("\n  soak:\n").nth(1).expect("a job");
    let soak = soak.split("make soak").next().unwrap_or_default();
    assert!(soak.contains("fetch-depth: 0"), "make soak builds the releases of the clone's tags");
    assert!(workflow.contains("\npermissions:\n  contents: read\n"), "a job needs no more rights");
    // But for the job that attaches files to a release.
    let rights = "permissions: { contents: write, id-token: write, attestations: write }";
    let release = workflow.split("\n  release:\n").nth(1).expect("a job");
    assert!(release.contains(rights));
    assert_eq!(workflow.matches("permissions:").count(), 2);
    // Another commit can get the name of a tag or a branch. The steps need no token after the checkout.
    for action in workflow.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")) {
        let (_, commit) = action.split_once('@').expect("a commit");
        let (commit, version) = commit.split_once(" # v").unwrap_or((commit, ""));
        let is_pinned = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
        assert!(is_pinned && version.contains('.'), "{action}: not @COMMIT # vVERSION");
    }
    let checkouts = workflow.matches("uses: actions/checkout@").count();
    assert_eq!(workflow.matches("uses:").count(), checkouts + 1, "and the attestation");
    assert_eq!(workflow.matches("persist-credentials: false").count(), checkouts);
    for published in ["uses: actions/attest-build-provenance@", "make publish"] {
        let (before, after) = release.split_once(published).expect("a step");
        let step = before.rsplit("- ").next().unwrap_or_default().to_owned() + after;
        let is_own = step
            .split("\n      - ")
            .next()
            .is_some_and(|it| it.contains("!github.event.repository.fork"));
        assert!(is_own, "a fork publishes nothing");
    }
    assert!(
        release.contains("fetch-depth: 0"),
        "the golden files are compared with those of the tags"
    );
    assert!(release.contains("if: startsWith(github.ref, 'refs/tags/v')\n"), "{release}");
    let makefile = read("Makefile");
    // The scripts are for Linux.
    let (before, macos) = workflow.split_once("\n  macos:\n").expect("a job");
    let (_, after) = macos.split_once("\n  soak:\n").expect("a job");
    let script = "scripts/test.sh ${{ matrix.steps }}";
    for step in
        before.lines().chain(after.lines()).filter_map(|line| line.trim().strip_prefix("- run: "))
    {
        match step.strip_prefix("make ") {
            Some(target) => assert!(makefile.contains(&format!("\n{target}:")), "{step}"),
            None => assert!(step.starts_with("rustup ") || step == script, "{step}"),
        }
    }
}
