//! The reference, generated from the rows, the options and the annotations in `texts/`: pages for
//! people, tables in pages that are otherwise written by hand, pictures, and annotations for the Lua language server.

mod annotations;
mod endpoints;
mod kinds;
mod lua_meta;
mod monitoring;
mod objects;
mod options;
mod page;
mod part;
mod pictures;
mod quick;

/// Every file with something generated: its path in the repository, and its text.
pub fn files() -> [(&'static str, String); 14] {
    let [errors, errors_zh] = kinds::pages();
    let [lock, write, migration, gateway] = pictures::files();
    [
        errors,
        errors_zh,
        ("docs/api.md", objects::markdown()),
        ("docs/api-endpoints.md", endpoints::markdown()),
        ("docs/quick-reference.md", quick::markdown()),
        ("docs/faq.md", objects::faq()),
        ("docs/monitoring.md", monitoring::markdown()),
        ("docs/zh/monitoring.md", monitoring::chinese()),
        ("docs/configuration.md", options::markdown()),
        ("lua/meta/library/consul_ffi.d.lua", lua_meta::text()),
        lock,
        write,
        migration,
        gateway,
    ]
}
