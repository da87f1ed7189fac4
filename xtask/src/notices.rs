//! The contents of a program that is offered for download: its crates as an SBOM (SPDX 2.3, JSON), and the texts of
//! their licences.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// How the files begin in which crates have their licences.
const LICENCE_FILES: [&str; 6] =
    ["COPYING", "COPYRIGHT", "LICENCE", "LICENSE", "NOTICE", "UNLICENSE"];

/// A crate that is linked.
struct Crate {
    name: String,
    version: String,
    licence: String,
    repository: Option<String>,
    /// Of its archive; a crate of this workspace has none.
    sha256: Option<String>,
    /// The texts in its folder.
    texts: Vec<String>,
}

/// Writes `sbom.spdx.json` and `THIRD-PARTY-LICENSES.txt` into a folder, for a package with these features on one target.
/// Other linked libraries are in `others`, each as `NAME@VERSION@LICENCE@FILE`, where the file with the text may be empty.
///
/// # Errors
/// cargo fails, a crate has no licence, or a file cannot be read or written.
pub fn write(
    [package, features, target]: [&str; 3],
    folder: &Path,
    others: &[&str],
) -> io::Result<()> {
    let mut crates = linked(package, features, target)?;
    for other in others {
        let [name, version, licence, file] = other.split('@').collect::<Vec<_>>()[..] else {
            return Err(io::Error::other(format!("not NAME@VERSION@LICENCE@FILE: {other}")));
        };
        let texts = if file.is_empty() { Vec::new() } else { vec![fs::read_to_string(file)?] };
        let [name, version, licence] = [name, version, licence].map(str::to_owned);
        crates.push(Crate { name, version, licence, repository: None, sha256: None, texts });
    }
    let name =
        format!("{package}-{}-{target}{}{features}", env!("CARGO_PKG_VERSION"), dash(features));
    let sbom = serde_json::to_string_pretty(&sbom(package, &name, &crates)?)?;
    fs::write(folder.join("sbom.spdx.json"), sbom + "\n")?;
    licences(&crates, &mut fs::File::create(folder.join("THIRD-PARTY-LICENSES.txt"))?)
}

fn dash(features: &str) -> &'static str {
    if features.is_empty() { "" } else { "-" }
}

/// The output of a command of cargo, by the lock file.
fn cargo(words: &[&str]) -> io::Result<String> {
    let output = Command::new(env!("CARGO")).args(words).arg("--locked").output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

/// The crates whose code is in the package, in the order of their names.
fn linked(package: &str, features: &str, target: &str) -> io::Result<Vec<Crate>> {
    let tree = cargo(&[
        "tree",
        "--package",
        package,
        "--no-default-features",
        "--features",
        features,
        "--target",
        target,
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ])?;
    let wanted: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1"])?)?;
    let sums = sums(Path::new(metadata["workspace_root"].as_str().unwrap_or_default()))?;
    let mut crates = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().map(str::to_owned);
        let (name, version) =
            (text("name").unwrap_or_default(), text("version").unwrap_or_default());
        if !wanted.contains(&(&name, &version)) {
            continue;
        }
        let manifest = text("manifest_path").unwrap_or_default();
        crates.push(Crate {
            licence: text("license")
                .ok_or_else(|| io::Error::other(format!("{name} {version} has no licence")))?
                .replace('/', " OR "),
            repository: text("repository"),
            sha256: sums.get(&(name.clone(), version.clone())).cloned(),
            texts: texts(Path::new(&manifest).parent().unwrap_or(Path::new(".")))?,
            name,
            version,
        });
    }
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    if crates.len() == wanted.len() {
        return Ok(crates);
    }
    Err(io::Error::other(format!(
        "{package} has {} crates, and cargo knows {}",
        wanted.len(),
        crates.len()
    )))
}

/// The sums of the crates' archives in Cargo.lock, which cargo writes.
fn sums(root: &Path) -> io::Result<BTreeMap<(String, String), String>> {
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let sum = |package: &str| {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name))?;
            Some(value.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    };
    Ok(lock.split("[[package]]").filter_map(sum).collect())
}

/// The files with licences in the folder of a crate.
fn texts(folder: &Path) -> io::Result<Vec<String>> {
    let mut paths: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            path.is_file() && LICENCE_FILES.iter().any(|start| name.starts_with(start))
        })
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| Ok(String::from_utf8_lossy(&fs::read(path)?).trim().replace("\r\n", "\n")))
        .collect()
}

fn sbom(package: &str, name: &str, crates: &[Crate]) -> io::Result<Value> {
    let id = |it: &Crate| {
        let id = format!("SPDXRef-{}-{}", it.name, it.version);
        id.replace(|it: char| !it.is_ascii_alphanumeric() && it != '.', "-")
    };
    let root = crates.iter().find(|it| it.name == package);
    let root = id(root.ok_or_else(|| io::Error::other(format!("there is no {package}")))?);
    let packages: Vec<_> = crates
        .iter()
        .map(|it| {
            let mut described = json!({
                "SPDXID": id(it),
                "name": it.name,
                "versionInfo": it.version,
                "downloadLocation": it.repository.as_deref().unwrap_or("NOASSERTION"),
                "filesAnalyzed": false,
                "licenseConcluded": it.licence,
                "licenseDeclared": it.licence,
                "copyrightText": "NOASSERTION",
            });
            if let Some(sha256) = &it.sha256 {
                described["checksums"] =
                    json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
                described["externalRefs"] = json!([{
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": format!("pkg:cargo/{}@{}", it.name, it.version),
                }]);
            }
            described
        })
        .collect();
    let describes = json!({ "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": root });
    let contains = crates.iter().map(id).filter(|it| *it != root).map(|it| {
        json!({ "spdxElementId": root, "relationshipType": "CONTAINS", "relatedSpdxElement": it })
    });
    let relationships: Vec<_> = [describes].into_iter().chain(contains).collect();
    Ok(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("{}/spdx/{name}", env!("CARGO_PKG_REPOSITORY")),
        "creationInfo": { "created": created(), "creators": ["Tool: cargo-xtask"] },
        "packages": packages,
        "relationships": relationships,
    }))
}

/// The time in SOURCE_DATE_EPOCH, so that the same source has the same bytes.
fn created() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|it| it.parse::<i64>().ok());
    let date = time::OffsetDateTime::from_unix_timestamp(epoch.unwrap_or_default());
    let date =
        date.ok().and_then(|it| it.format(&time::format_description::well_known::Rfc3339).ok());
    date.unwrap_or_default()
}

/// Each text once, below the crates that have it; then the texts of the licences of crates that have no file.
fn licences(crates: &[Crate], out: &mut impl Write) -> io::Result<()> {
    let mut by_text = BTreeMap::<&str, Vec<String>>::new();
    let mut without = BTreeSet::new();
    for it in crates {
        writeln!(out, "{} {}: {}", it.name, it.version, it.licence)?;
        for text in &it.texts {
            by_text.entry(text).or_default().push(format!("{} {}", it.name, it.version));
        }
        if it.texts.is_empty() {
            without.extend(standard(&it.licence)?);
        }
    }
    let mut by_text: Vec<_> = by_text.into_iter().map(|(text, names)| (names, text)).collect();
    by_text.sort();
    for (names, text) in by_text {
        writeln!(out, "\n{}\nOf {}:\n\n{text}", "=".repeat(80), names.join(", "))?;
    }
    for licence in without {
        writeln!(
            out,
            "\n{}\n{}, of the crates without a text of their own:\n\n{}",
            "=".repeat(80),
            licence.full_name,
            licence.text().trim()
        )?;
    }
    Ok(())
}

/// The licences in an expression.
fn standard(expression: &str) -> io::Result<BTreeSet<spdx::LicenseId>> {
    let parsed =
        spdx::Expression::parse(expression).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(parsed.requirements().filter_map(|it| it.req.license.id()).collect())
}
