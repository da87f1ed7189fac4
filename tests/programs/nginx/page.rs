//! The commands of docs/openresty.md as they stand there, from the installation to a gateway that has lost Consul: on Debian's
//! layout, and on an OpenResty (page.sh).

use super::{Outcome, check};
use crate::packaging::path_of;
use crate::support::consul;
use crate::support::outside::outside_cargo;
use crate::support::pages::{blocks, read};
use crate::support::program;
use crate::support::recipes::compare;
use libtest_mimic::Failed;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// The section with the commands.
const SECTION: &str = "A gateway in ten minutes";

/// The exit status of page.sh when it can have no namespaces.
const UNAVAILABLE: i32 = 3;

fn section() -> Result<String, Failed> {
    let page = read("docs/openresty.md");
    let section = page.split("\n## ").find(|text| text.starts_with(SECTION));
    Ok(section.ok_or("no section")?.to_owned())
}

/// Runs the commands for this kind of nginx, and compares what they print with the page.
fn run(kind: &str, nginx: &Path) -> Outcome {
    let mut commands = Command::new("tests/programs/nginx/page.sh");
    let output = outside_cargo(&mut commands)
        .arg(kind)
        .arg(nginx)
        .current_dir(crate::support::root())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CONSUL_SIM", consul::binary(consul::SIM)?)
        .stdin(Stdio::null())
        .output()?;
    let errors = program::errors(&output);
    if output.status.code() == Some(UNAVAILABLE) {
        consul::say_skipped("the commands of docs/openresty.md", errors.trim());
        return Ok(());
    }
    let printed = program::text(&output);
    check(output.status.success(), &format!("{}: {printed}\n{errors}", output.status))?;
    let texts = blocks(&section()?).into_iter().filter(|(language, _)| language == "text");
    let shown: Vec<String> = texts.map(|(_, block)| block).collect();
    Ok(compare(&shown.join("\n"), &printed)?)
}

pub fn on_debian(unpacked: &Path) -> Outcome {
    run("debian", unpacked)
}

/// On the one in `OPENRESTY`.
pub fn on_openresty(_: &Path) -> Outcome {
    let nginx = std::env::var("OPENRESTY")?;
    run("openresty", Path::new(&nginx))
}

/// Debian's apt-get removes one LuaJIT for the other, unless it is told not to.
pub fn removes_nothing(_: &Path) -> Outcome {
    let mut installs = Vec::new();
    for page in ["docs/installing.md", "docs/openresty.md", "scripts/install-deps.sh"] {
        for line in read(page).lines() {
            let installs_here = line.contains(" install -y");
            if installs_here {
                check(line.contains("--no-remove"), &format!("{page}: {line}"))?;
                installs.push(page);
            }
        }
    }
    check(installs.len() >= 2, &format!("apt-get in {installs:?}"))?;
    names_what_conflicts()
}

/// scripts/install-deps.sh where an installation would remove packages, and where it would not.
fn names_what_conflicts() -> Outcome {
    let folder = std::env::temp_dir().join(format!("consul_ffi-deps.{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    // All that it needs but curl, and root, which needs no sudo.
    for tool in ["bash", "env", "awk", "basename", "cargo", "grep"] {
        symlink(path_of(tool), folder.join(tool))?;
    }
    let stub = |name: &str, text: &str| -> Outcome {
        let path = folder.join(name);
        fs::write(&path, format!("#!{}\n{text}\n", path_of("bash")))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    stub("id", "echo 0")?;
    for (simulated, succeeds) in [("Remv luajit [2.1]\nRemv lua-luv [1.44]", false), ("", true)] {
        let apt = format!(
            "case \"$*\" in *--simulate*) echo 'Inst curl'; echo '{simulated}' ;;
             *--no-remove*) echo \"$*\" >>'{0}/installed' ;; *update) ;; *) exit 1 ;; esac",
            folder.display()
        );
        stub("apt-get", &apt)?;
        let mut command = Command::new("scripts/install-deps.sh");
        let output = outside_cargo(&mut command)
            .arg("gateway")
            .current_dir(crate::support::root())
            .env("PATH", &folder)
            .output()?;
        let (errors, printed) = (program::errors(&output), program::text(&output));
        let is_installed = fs::read_to_string(folder.join("installed")).is_ok_and(|text| {
            text.trim_end().ends_with("install -y --no-remove --no-install-recommends curl")
        });
        let is_told = errors.contains("would remove packages of this machine: luajit lua-luv");
        check(
            [output.status.success(), is_installed, !is_told] == [succeeds; 3],
            &format!("{}: {printed}\n{errors}", output.status),
        )?;
    }
    Ok(fs::remove_dir_all(&folder)?)
}
