//! The page with documents of a test: marks of shards, large maps, names that are HTML, and documents that lack something.

use super::canned::Canned;
use super::{CELLS, Outcome, check, fits};
use crate::support::browser::{self, Browser};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use serde_json::{Value, json};

/// A text that would run as a script if it were put in as HTML, and has what breaks attributes, code and lines.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'`</script>\u{202e}\n__proto__";

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = browser::is_missing("documents on the page of the status server");
    let name = "the_page_shows_marks_large_maps_hostile_names_and_what_is_missing";
    trials.add_unless(missing, name, || {
        let browser = Browser::start()?;
        browser.resize(1440, 1000)?;
        shards_that_stand_out_have_marks(&browser)?;
        only_cells_that_differ_change(&browser, 1024)?;
        only_cells_that_differ_change(&browser, 16384)?;
        every_name_is_text(&browser)?;
        what_a_document_lacks_is_told(&browser)?;
        let console = browser.console()?;
        check(console.is_empty(), &format!("the console: {console:?}"))
    });
    trials
}

/// The document of a cluster in which all is well: shard i has its primary on node i modulo 3.
fn document(shards: usize) -> Value {
    let placement: Vec<Value> = (0..shards).map(|i| placed(i, "a")).collect();
    let node = |id: &str| {
        json!({ "id": id, "address": "10.0.0.1:9000", "data_address": "10.0.0.1:9100", "zone": "a",
            "weight": 1.0, "mode": "active", "state": "live", "down_for_ms": null, "map_epoch": 12,
            "map_lag": 0, "primaries": shards / 3, "replicas": shards / 3, "moving_in": 0,
            "moving_out": 0, "check_output": "" })
    };
    json!({ "version": 1, "at_ms": 1_790_000_000_000_u64, "told_by": "n0", "in_touch": true,
        "prefix": "ha/", "frozen": [], "restored": false, "endpoints": [], "events": [],
        "problems": [], "nodes": [node("n0"), node("n1"), node("n2"), node("gone")],
        "leader": { "node_id": "n0", "address": "10.0.0.1:9000", "token": 17, "lease_ms": 7400,
            "elected_at_ms": 1_789_999_990_000_u64 },
        "map": { "epoch": 12, "shards": shards, "replicas": 2, "nodes": ["n0", "n1", "n2", "gone"],
            "placement": placement },
        "stores": [{ "name": "points", "shards": shards, "replicas": 2, "write_quorum": 2,
            "read_quorum": 1, "map_version": 40, "moving": [], "repairing": [], "at_risk": [] }] })
}

/// The replicas of a shard, the second one in this state.
fn placed(shard: usize, state: &str) -> Value {
    json!([[shard % 3, "a"], [(shard + 1) % 3, state]])
}

fn open(browser: &Browser, document: &Value) -> Result<Canned, Failed> {
    let canned = Canned::serve(document)?;
    browser.open(&canned.url)?;
    browser.wait_for("the first document", "!document.getElementById('parts').hidden")?;
    Ok(canned)
}

fn shards_that_stand_out_have_marks(browser: &Browser) -> Outcome {
    let mut told = document(64);
    told["nodes"][3]["state"] = json!("down");
    let places = &mut told["map"]["placement"];
    places[1] = json!([]);
    places[2] = json!([[3, "a"]]);
    places[3] = json!([[3, "a"], [0, "a"]]);
    places[4] = json!([[0, "a"], [3, "a"]]);
    places[5] = placed(5, "i");
    places[6] = placed(6, "l");
    let store = &mut told["stores"][0];
    store["at_risk"] = json!([{ "shard": 7, "missing": ["n1"], "left": 1, "needed": 2 },
        { "shard": 8, "missing": ["n1"], "left": 1, "needed": 1 }]);
    store["repairing"] = json!([{ "shard": 9, "on": "n1", "done": 0.5 }]);
    store["moving"] = json!([{ "shard": 10, "to": "n1", "done": null }]);
    let _canned = open(browser, &told)?;
    let marks = browser.run(&format!("return [...{CELLS}].map((cell) => cell.dataset.mark)"))?;
    let expected =
        ["", "lost", "lost", "down", "short", "move", "move", "risk", "short", "stale", "move", ""];
    check(
        marks.as_array().map(|all| &all[..12]) == Some(&expected.map(Value::from)),
        &marks.to_string(),
    )?;
    let counts =
        "return [...document.querySelectorAll('#marks b')].map((b) => b.textContent).join()";
    check(browser.run(counts)? == "2,1,1,2,1,3", "other counts of marks")?;
    // Each mark looks different, also without colours.
    let looks = format!(
        "const look = ({{ backgroundImage, borderTopStyle, outlineStyle }}) => backgroundImage + borderTopStyle + outlineStyle;\
         return new Set([0, 2, 3, 4, 5, 7, 9].map((shard) => look(getComputedStyle({CELLS}[shard])))).size"
    );
    check(browser.run(&looks)? == 7, "two marks look the same")
}

/// A large map is drawn whole on a phone, too, and an update changes the cells that differ and no other.
fn only_cells_that_differ_change(browser: &Browser, shards: usize) -> Outcome {
    let mut told = document(shards);
    let canned = open(browser, &told)?;
    browser.wait_for("all cells", &format!("{CELLS}.length == {shards}"))?;
    browser.run(
        "window.changed = new Set();\
         new MutationObserver((records) => records.forEach(({ target }) => changed.add(target.dataset.shard)))\
             .observe(document.getElementById('grid'), { subtree: true, childList: true, attributes: true });",
    )?;
    let moved: Vec<usize> = (5..shards).step_by(shards / 10).collect();
    for shard in &moved {
        told["map"]["placement"][*shard] = placed(*shard, "l");
    }
    told["map"]["epoch"] = json!(13);
    canned.say(&told);
    browser.wait_for(
        "the other epoch",
        "document.getElementById('facts').textContent.includes('Map epoch13')",
    )?;
    let changed = browser.run("return [...changed].map(Number).sort((a, b) => a - b)")?;
    check(changed == json!(moved), &format!("changed: {changed}"))?;
    fits(browser, 360, 740)?;
    let is_wide = format!("{CELLS}[{shards} - 1].getBoundingClientRect().width >= 4");
    browser.wait_for("cells of some size", &is_wide)?;
    browser.resize(1440, 1000)
}

fn every_name_is_text(browser: &Browser) -> Outcome {
    let hostile = Value::from(HOSTILE);
    let mut told = document(64);
    for field in ["id", "zone", "address", "mode", "state", "check_output"] {
        told["nodes"][1][field] = hostile.clone();
    }
    told["map"]["nodes"][1] = hostile.clone();
    told["stores"][0]["name"] = hostile.clone();
    told["stores"][0]["moving"] = json!([{ "shard": 1, "to": hostile, "done": 0.5 }]);
    told["leader"]["node_id"] = hostile.clone();
    told["told_by"] = hostile.clone();
    told["prefix"] = hostile.clone();
    told["problems"] = json!([{ "problem": HOSTILE, "level": HOSTILE, "of": HOSTILE, "text": HOSTILE, "cure": HOSTILE }]);
    told["events"] =
        json!([{ "seq": 1, "at_ms": 1, "node_id": HOSTILE, "event": HOSTILE, "detail": HOSTILE }]);
    told["endpoints"] =
        json!([{ "told_by": HOSTILE, "address": HOSTILE, "state": HOSTILE, "latency_ms": 1 }]);
    let _canned = open(browser, &told)?;
    let parts = ["top", "problems", "facts", "legend", "members", "stores", "endpoints", "events"];
    for part in parts {
        let selector = if part == "top" { ".top".to_owned() } else { format!("#{part}") };
        let text =
            browser.run(&format!("return document.querySelector('{selector}').textContent"))?;
        check(
            text.as_str().is_some_and(|text| text.contains("<img src=x")),
            &format!("{part}: {text}"),
        )?;
    }
    check(browser.run("return document.images.length")? == 0, "a name was put in as HTML")?;
    fits(browser, 360, 740)?;
    browser.resize(1440, 1000)
}

fn what_a_document_lacks_is_told(browser: &Browser) -> Outcome {
    let bare = json!({ "version": 1, "at_ms": 1, "told_by": null, "in_touch": false, "prefix": "ha/",
        "leader": null, "frozen": [], "restored": false, "nodes": [], "map": null, "stores": [],
        "endpoints": [], "events": [], "problems": [] });
    let mut unlike = document(64);
    unlike["version"] = json!(2);
    unlike["leader"]["lease_ms"] = Value::Null;
    unlike["leader"]["leads"] = json!(false);
    unlike["nodes"][0] = json!({});
    unlike["map"]["placement"][0] = json!([[9, "z"]]);
    unlike["stores"] = json!([{}]);
    unlike["problems"] = json!([{}]);
    let mut of_nobody = document(64);
    of_nobody["leader"]["node_id"] = json!("ghost");
    of_nobody["problems"] = json!([{ "problem": "leader_unknown", "of": "ghost" }]);
    let cases = [
        (of_nobody, &["has the key and does not lead"][..]),
        (
            bare,
            &[
                "gets no answer from Consul",
                "No problem is known",
                "No shard map is known",
                "No member is known",
                "No replicated store is known",
                "No endpoint is known",
                "No event is known",
            ],
        ),
        (json!({}), &["version none", "No shard map is known", "unknown"]),
        (
            unlike,
            &[
                "version 2",
                "1 problem",
                "Lease\nunknown",
                "has the key and does not lead",
                "○\u{a0}unknown",
            ],
        ),
    ];
    for (told, words) in cases {
        let _canned = open(browser, &told)?;
        let text = browser.run("return document.body.innerText")?;
        for word in words {
            check(
                text.as_str().is_some_and(|text| text.contains(word)),
                &format!("{word:?} is not in {text}"),
            )?;
        }
    }
    Ok(())
}
