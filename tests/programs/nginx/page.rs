//! The commands of docs/openresty.md, from the installed module to a gateway that has lost Consul.

use super::{Outcome, check, temporary_paths};
use crate::packaging::path_of;
use crate::support::consul;
use crate::support::outside::outside_cargo;
use crate::support::pages::{blocks, read};
use crate::support::recipes::compare;
use libtest_mimic::Failed;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// The ports of the page.
const PORTS: [&str; 4] = ["8500", "8080", "8081", "8082"];

/// A program in the place of one that the reader has installed.
fn program(bin: &Path, name: &str, text: &str) -> Outcome {
    let path = bin.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Four ports in a row, of which the second ends in 0, as on the page.
fn free_ports() -> Result<[u16; 4], Failed> {
    let firsts = (20_009..30_000).step_by(10).cycle();
    // Another run begins elsewhere.
    for first in firsts.skip(std::process::id() as usize % 999).take(999) {
        let ports = [first, first + 1, first + 2, first + 3];
        if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(ports);
        }
    }
    Err("no free ports".into())
}

pub fn commands(unpacked: &Path) -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::temp_dir().join(format!("consul_ffi-page.{}", std::process::id()));
    let (bin, examples) = (folder.join("bin"), folder.join("examples/openresty"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&examples)?;
    let ports = free_ports()?;
    let with_ports = |text: &str| {
        let second = text.replace("808$n", &format!("{}$n", ports[1] / 10));
        let named = PORTS.iter().zip(ports);
        named.fold(second, |text, (page, port)| text.replace(page, &port.to_string()))
    };
    for file in ["gateway.conf", "gateway.lua"] {
        let text = with_ports(&fs::read_to_string(root.join("examples/openresty").join(file))?);
        fs::write(examples.join(file), temporary_paths(&text))?;
    }
    // The installation is the page's own, from the checkout into a tree of this test.
    let make = format!("exec {} -C {} \"$@\" >&2", path_of("make"), root.display());
    program(&bin, "make", &make)?;
    let tree = folder.join("tree");
    let luarocks = format!("exec {} --tree={} \"$@\"", path_of("luarocks"), tree.display());
    program(&bin, "luarocks", &luarocks)?;
    symlink(consul::binary(consul::SIM)?, bin.join("consul-sim"))?;
    program(
        &bin,
        "consul",
        &format!("exec consul-sim \"$@\" -dns-port=-1 -http-port={}", ports[0]),
    )?;
    let modules = unpacked.join("usr/lib/nginx/modules").display().to_string();
    let load = ["ndk_http_module", "ngx_http_lua_module"]
        .map(|it| format!("load_module {modules}/{it}.so;"));
    let nginx = unpacked.join("usr/sbin/nginx").display().to_string();
    let libraries = unpacked.join("libraries").display().to_string();
    let nginx = format!(
        "LD_LIBRARY_PATH={libraries} exec {nginx} -g 'user root; {}' \"$@\"",
        load.concat()
    );
    program(&bin, "openresty", &nginx)?;

    let page = read("docs/openresty.md");
    let section = page.split("\n## ").find(|text| text.starts_with("A gateway in ten minutes"));
    let mut script = "exec 2>errors\nset -e\ntrap 'set +e; kill $(jobs -p) 2>/dev/null; openresty -p $PWD -c gateway.conf -s stop' EXIT\n".to_owned();
    let mut shown = String::new();
    for (language, block) in blocks(section.ok_or("no section")?) {
        match language.as_str() {
            "sh" => script.push_str(&format!("{}\n", with_ports(&block))),
            _ => shown.push_str(&format!("{block}\n")),
        }
    }
    let mut commands = Command::new("timeout");
    let output = outside_cargo(&mut commands)
        .args(["300", "bash", "-c", &script])
        .current_dir(&folder)
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH")?))
        .env("CARGO_NET_OFFLINE", "true")
        .env("LUA_PATH", format!("{}/usr/share/lua/5.1/?.lua;;", unpacked.display()))
        .env_remove("LUA_CPATH")
        .stdin(Stdio::null())
        .output()?;
    let errors = fs::read_to_string(folder.join("errors")).unwrap_or_default();
    let printed = String::from_utf8_lossy(&output.stdout);
    check(output.status.success(), &format!("{}: {printed}\n{errors}", output.status))?;
    compare(&shown, &printed)?;
    Ok(fs::remove_dir_all(&folder)?)
}
