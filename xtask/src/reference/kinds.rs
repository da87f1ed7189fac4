//! The tables of the kinds of errors, in both languages.

use super::part::replaced;
use consul_api::error::Kind;

/// The pages with such a table.
pub(super) fn pages() -> [(&'static str, String); 2] {
    let cure = |kind: Kind| format!("{} | {} |", kind.cause(), kind.cure());
    let cure_zh = |kind: Kind| format!("{} | {} |", kind.chinese().0, kind.chinese().1);
    [
        ("docs/errors.md", table(ERRORS, "| kind | cause | cure |\n|---|---|---|\n", cure)),
        (
            "docs/zh/errors.md",
            table(ERRORS_ZH, "| 类型 | 原因 | 解决办法 |\n|---|---|---|\n", cure_zh),
        ),
    ]
}

const ERRORS: &str = include_str!("../../../docs/errors.md");
const ERRORS_ZH: &str = include_str!("../../../docs/zh/errors.md");

fn table(page: &str, head: &str, cells: impl Fn(Kind) -> String) -> String {
    let rows = Kind::ALL.iter().map(|kind| format!("| `{kind}` | {}\n", cells(*kind)));
    replaced(page, "kinds", &(head.to_owned() + &rows.collect::<String>()))
}
