//! The reference, generated from the rows, the options and the annotations in `texts/`: pages for
//! people, and annotations for the Lua language server.

mod annotations;
mod endpoints;
mod lua_meta;
mod monitoring;
mod objects;
mod options;
mod page;
mod quick;

/// Every generated file: its path in the repository, and its text.
pub fn files() -> [(&'static str, String); 7] {
    [
        ("docs/api.md", objects::markdown()),
        ("docs/api-endpoints.md", endpoints::markdown()),
        ("docs/quick-reference.md", quick::markdown()),
        ("docs/faq.md", objects::faq()),
        ("docs/monitoring.md", monitoring::markdown()),
        ("docs/configuration.md", options::markdown()),
        ("lua/meta/consul_ffi.d.lua", lua_meta::text()),
    ]
}
