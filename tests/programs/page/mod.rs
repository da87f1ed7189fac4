//! The page of the status server in Chromium.

mod canned;
pub mod documents;

use crate::support::browser::Browser;
use libtest_mimic::Failed;

const CELLS: &str = "document.querySelectorAll('#grid [role=gridcell]')";

type Outcome = Result<(), Failed>;

/// Makes the window so wide; the page must not scroll sideways then.
fn fits(browser: &Browser, width: u32, height: u32) -> Outcome {
    browser.resize(width, height)?;
    let is_within = format!("document.documentElement.scrollWidth <= {width}");
    browser.wait_for(&format!("a page within {width} pixels"), &is_within)
}

fn check(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned().into()) }
}
