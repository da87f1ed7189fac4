//! The data that each release wrote, which every later build must read and answer: `tests/golden/VERSION`.

use std::fs;
use std::path::Path;

/// The text that each release has in a file of this name. `make golden` writes that of this version first.
pub fn of_each_release(file: &str, write: impl FnOnce() -> String) -> Vec<String> {
    let all = Path::new(crate::root()).join("tests/golden");
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        let own = all.join(env!("CARGO_PKG_VERSION"));
        fs::create_dir_all(&own).expect("a folder");
        // Two tests that read a file write it both.
        let written = own.join(format!("{file}.{:?}", std::thread::current().id()));
        fs::write(&written, write() + "\n").expect("a file");
        fs::rename(written, own.join(file)).expect("a file");
    }
    let releases = fs::read_dir(all).expect("golden files").map(|it| it.expect("a folder").path());
    let texts: Vec<String> =
        releases.filter_map(|it| fs::read_to_string(it.join(file)).ok()).collect();
    assert!(!texts.is_empty(), "no release has {file}: run make golden");
    texts
}
