//! The page of the status server in Chromium, served by one of three nodes, each a process.
//!
//! `AXE_CORE` is the path of axe-core's axe.min.js, which then looks at the page; `SCREENSHOTS` is the folder that gets
//! pictures of it.

mod canned;
pub mod documents;

use crate::support::browser::{self, Browser, key};
use crate::support::consul::{self, RealConsul};
use crate::support::trials::Trials;
use libtest_mimic::Failed;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How soon the page shows what its server knows, in milliseconds.
const SOON_MS: f64 = 2000.0;

/// A name that would run as a script if it were put in as HTML.
const HOSTILE_ZONE: &str = "<img src=x onerror=alert(1)>";

/// The zones of n1, n2 and n3.
const ZONES: [&str; 3] = ["a", "b", HOSTILE_ZONE];

/// Notes when a member's line first says a word.
const NOTE: &str = "
    window.noted = {};
    const look = () => document.querySelectorAll('#members .member').forEach((row) => {
      for (const word of ['draining', 'down']) {
        const what = row.querySelector('.name').textContent + ' ' + word;
        if (row.cells[1].textContent.includes(word)) noted[what] ??= Date.now();
      }
    });
    const what = { subtree: true, childList: true, characterData: true };
    new MutationObserver(look).observe(document.getElementById('members'), what);";

/// Whether every member has its share of the shards, and nothing moves or is wrong.
const IS_WELL: &str = "
    fetch('/cluster').then((answer) => answer.json()).then(({ map, nodes, stores, problems }) => {
      const most = Math.max(...nodes.map(({ replicas }) => replicas));
      const isSettled = (node) =>
        node.state === 'live' && node.map_lag === 0 && node.moving_in + node.moving_out === 0 && node.replicas >= most - 2;
      const isWhole = ({ moving, repairing, at_risk }) => moving.length + repairing.length + at_risk.length === 0;
      return problems.length === 0 && nodes.every(isSettled) && stores.length > 0 && stores.every(isWhole)
        && map.placement.every((shard) => shard.every(([, state]) => state === 'a'));
    })";

/// How long that may take.
const SETTLES_WITHIN: Duration = Duration::from_secs(300);

const CELLS: &str = "document.querySelectorAll('#grid [role=gridcell]')";
const FOCUSED: &str = "return Number(document.activeElement.dataset.shard)";

type Outcome = Result<(), Failed>;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = browser::is_missing("the page of the status server")
        || consul::is_missing(consul::SIM, "the page of the status server");
    trials.add_unless(missing, "the_page_follows_its_cluster_by_itself", follows_its_cluster);
    trials.add("without_a_browser_the_page_is_skipped_aloud", skipped_without_a_browser);
    if let Some(axe) = std::env::var_os("AXE_CORE") {
        let name = "axe_has_no_serious_finding";
        trials.add_unless(missing, name, move || axe_has_no_serious_finding(Path::new(&axe)));
    }
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        trials.add_unless(missing, "screenshots", move || screenshots(Path::new(&folder)));
    }
    trials
}

/// The output of this program about its tests where no program can be found.
fn skipped_without_a_browser() -> Outcome {
    let output =
        Command::new(std::env::current_exe()?).arg("--list").env("PATH", "/nowhere").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = "SKIPPED: the page of the status server: chromium is missing: scripts/install-deps.sh page installs it";
    check(output.status.success() && said.lines().any(|said| said == line), &said)
}

fn follows_its_cluster() -> Outcome {
    let mut world = World::start(&ZONES)?;
    world.shows_the_cluster()?;
    world.is_used_with_the_keyboard()?;
    world.fits_a_phone()?;
    world.follows_a_drain()?;
    world.follows_a_kill()?;
    let console = world.browser.console()?;
    check(console.is_empty(), &format!("the console: {console:?}"))?;
    world.survives_its_server()
}

/// A cluster, and the page of its first node in a browser.
struct World {
    browser: Browser,
    nodes: Vec<Node>,
    consul: RealConsul,
}

impl World {
    /// Starts a node for each zone, and opens the page when all shards have a primary.
    fn start(zones: &[&str]) -> Result<World, Failed> {
        let consul = RealConsul::start(consul::SIM)?;
        let start =
            |(i, zone): (usize, &&str)| Node::start(&consul, &format!("n{}", i + 1), zone, 0);
        let nodes = zones.iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        let browser = Browser::start()?;
        browser.resize(1440, 1000)?;
        browser.open(&format!("http://{}/", nodes[0].address))?;
        let world = World { browser, nodes, consul };
        let members =
            format!("document.querySelectorAll('#members .member').length == {}", zones.len());
        world.browser.wait_for("all members", &members)?;
        let all =
            format!("{CELLS}.length == 1024 && ![...{CELLS}].some((cell) => cell.dataset.mark)");
        world.browser.wait_for("1,024 shards in place", &all)?;
        Ok(world)
    }

    fn wait_until_well(&self) -> Outcome {
        let begun = Instant::now();
        while self.browser.evaluate(IS_WELL)? != true {
            check(begun.elapsed() < SETTLES_WITHIN, "the cluster does not settle")?;
            thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    fn shows_the_cluster(&mut self) -> Outcome {
        let browser = &self.browser;
        let leader = self.nodes[0].ask("cluster:get_leader_info().node_id")?;
        browser.wait_for(
            "the leader",
            &format!("document.querySelector('#facts .value').textContent == '{leader}'"),
        )?;
        browser.wait_for(
            "a live connection",
            "document.getElementById('link').dataset.state == 'live'",
        )?;
        for shard in [0, 511, 1023] {
            let primary =
                self.nodes[0].ask(&format!("cluster:get_shard_replicas({shard})[1].id"))?;
            let label = format!(
                "{CELLS}[{shard}].getAttribute('aria-label') == 'Shard {shard}, {primary}'"
            );
            browser.wait_for("the primary of a shard", &label)?;
        }
        let zones = browser.run(
            "return [...document.querySelectorAll('.zone')].map((zone) => zone.textContent).join()",
        )?;
        check(zones.to_string().contains(HOSTILE_ZONE), &format!("the zones: {zones}"))?;
        let images = browser.run("return document.images.length")?;
        check(images == 0, "a name was put in as HTML")
    }

    fn is_used_with_the_keyboard(&mut self) -> Outcome {
        let browser = &self.browser;
        browser.run("document.body.tabIndex = -1; document.body.focus()")?;
        let mut tabs = 0;
        while browser.run(FOCUSED)?.is_null() {
            tabs += 1;
            check(tabs < 20, "no cell has the focus after 20 tabs")?;
            browser.press(&[key::TAB])?;
        }
        let columns = browser
            .run("return Number(document.getElementById('grid').getAttribute('aria-colcount'))")?;
        let columns = columns.as_u64().ok_or("no columns")?;
        let steps = [
            (key::RIGHT, 1),
            (key::DOWN, columns + 1),
            (key::LEFT, columns),
            (key::END, 2 * columns - 1),
            (key::HOME, columns),
            (key::UP, 0),
            (key::UP, 0),
            (key::RIGHT, 1),
        ];
        for (stroke, shard) in steps {
            browser.press(&[stroke])?;
            let focused = browser.run(FOCUSED)?;
            check(focused == shard, &format!("shard {focused} has the focus, not {shard}"))?;
        }
        let tabbable = format!("return [...{CELLS}].filter((cell) => cell.tabIndex == 0).length");
        check(browser.run(&tabbable)? == 1, "more than one cell is reached with tab")?;
        let details =
            browser.run("return document.getElementById('details').textContent")?.to_string();
        for replica in [1, 2] {
            let node =
                self.nodes[0].ask(&format!("cluster:get_shard_replicas(1)[{replica}].id"))?;
            check(details.contains("Shard 1") && details.contains(&node), &details)?;
        }
        Ok(())
    }

    fn fits_a_phone(&mut self) -> Outcome {
        for (width, height) in [(360, 740), (320, 640), (1440, 1000)] {
            fits(&self.browser, width, height)?;
            let all = format!(
                "{CELLS}.length == 1024 && {CELLS}[1023].getBoundingClientRect().width >= 5"
            );
            self.browser.wait_for("cells of some size", &all)?;
            check(self.browser.run(FOCUSED)? == 1, "the focus is lost with the width")?;
        }
        Ok(())
    }

    fn follows_a_drain(&mut self) -> Outcome {
        self.browser.run(NOTE)?;
        self.nodes[0].ask("cluster:drain(true, 'n3')")?;
        self.is_soon_noted("n3 draining", now_ms())?;
        self.browser.wait_for("no shard on n3", &without("n3"))?;
        self.nodes[0].ask("cluster:drain(false, 'n3')")?;
        self.browser.wait_for("shards on n3 again", &format!("!({})", without("n3")))
    }

    fn follows_a_kill(&mut self) -> Outcome {
        self.nodes[1].kill()?;
        let events = "document.getElementById('events').textContent";
        self.browser.wait_for("the event", &format!("{events}.includes('node left: n2')"))?;
        let left = self.browser.evaluate(
            "fetch('cluster').then((answer) => answer.json()).then((told) => \
             told.events.find((event) => event.event == 'node_left' && event.detail == 'n2').at_ms)",
        )?;
        self.is_soon_noted("n2 down", left.as_f64().ok_or("no time of the event")?)?;
        self.browser.wait_for(
            "a problem",
            "document.querySelector('#problem-list .what').textContent.includes('n2')",
        )?;
        self.browser.wait_for("no shard on n2", &without("n2"))?;
        check(self.browser.run(FOCUSED)? == 1, "the focus is lost with an update")
    }

    fn is_soon_noted(&self, what: &str, since_ms: f64) -> Outcome {
        self.browser.wait_for(what, &format!("noted['{what}']"))?;
        let noted = self.browser.run(&format!("return noted['{what}']"))?;
        let late = noted.as_f64().ok_or("no time")? - since_ms;
        check(late <= SOON_MS, &format!("{what}: shown after {late} ms"))
    }

    /// The page says that its server is gone, and goes on with the next one.
    fn survives_its_server(&mut self) -> Outcome {
        self.nodes[0].kill()?;
        self.browser.wait_for(
            "a lost connection",
            "document.getElementById('link').dataset.state == 'lost'",
        )?;
        let note = "document.getElementById('note').textContent.includes('s old')";
        self.browser.wait_for("the age of what is shown", note)?;
        let port = self.nodes[0].address.rsplit(':').next().ok_or("no port")?.parse()?;
        self.nodes[0] = Node::start(&self.consul, "n1", "a", port)?;
        self.browser.wait_for(
            "the connection again",
            "document.getElementById('link').dataset.state == 'live'",
        )?;
        self.browser.wait_for("no note", "document.getElementById('note').hidden")
    }
}

/// Makes the window so wide; the page must not scroll sideways then.
fn fits(browser: &Browser, width: u32, height: u32) -> Outcome {
    browser.resize(width, height)?;
    let is_within = format!("document.documentElement.scrollWidth <= {width}");
    browser.wait_for(&format!("a page within {width} pixels"), &is_within)
}

/// Whether the map has no shard on a node.
fn without(node: &str) -> String {
    format!(
        "![...document.querySelectorAll('#legend bdi')].some((name) => name.textContent == '{node}')"
    )
}

/// axe-core looks at the page: all well, with a node that is down, dark, and on a phone.
fn axe_has_no_serious_finding(axe: &Path) -> Outcome {
    let mut world = World::start(&ZONES)?;
    world.browser.evaluate(&fs::read_to_string(axe)?)?;
    world.look_with_axe("all well")?;
    world.nodes[1].kill()?;
    world.browser.wait_for("a problem", "document.querySelector('#problem-list .what')")?;
    world.look_with_axe("a node is down")?;
    world.browser.prefer("dark")?;
    world.look_with_axe("dark")?;
    world.browser.resize(360, 740)?;
    world.look_with_axe("on a phone")
}

impl World {
    fn look_with_axe(&self, when: &str) -> Outcome {
        let found = self.browser.evaluate(
            "axe.run().then(({ passes, violations }) => passes.length ? violations\
             .filter((rule) => ['serious', 'critical'].includes(rule.impact))\
             .map((rule) => `${rule.id}: ${rule.nodes.map((node) => node.html).join(' ')}`) : ['no rule was checked'])",
        )?;
        check(found.as_array().is_some_and(Vec::is_empty), &format!("{when}: {found}"))
    }
}

/// Six nodes in three zones: one has just died, one is drained.
fn screenshots(folder: &Path) -> Outcome {
    let mut world = World::start(&["eu-1", "eu-2", "eu-3", "eu-1", "eu-2", "eu-3"])?;
    world.wait_until_well()?;
    // The page shows the same as its server, and how long it takes to answer when nothing else is done.
    thread::sleep(Duration::from_secs(5));
    let shoot = |world: &World, name: &str, width, height| {
        fits(&world.browser, width, height)?;
        fs::write(folder.join(format!("{name}.png")), world.browser.screenshot()?)?;
        Outcome::Ok(())
    };
    shoot(&world, "page-wide", 1280, 900)?;
    world.browser.prefer("dark")?;
    world.nodes[0].ask("cluster:drain(true, 'n6')")?;
    world.nodes[4].kill()?;
    world.browser.wait_for("n5 is down", "document.querySelector('#marks [data-mark=down]')")?;
    shoot(&world, "page-dark", 1280, 900)?;
    world.browser.prefer("light")?;
    shoot(&world, "page-narrow", 390, 1100)
}

/// A process of node.lua. It ends when this is dropped.
struct Node {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The address of its status server.
    address: String,
}

impl Node {
    /// Starts it; port 0 is any free port.
    fn start(consul: &RealConsul, name: &str, zone: &str, port: u16) -> Result<Node, Failed> {
        let port =
            if port == 0 { TcpListener::bind("127.0.0.1:0")?.local_addr()?.port() } else { port };
        let mut child = Command::new("luajit")
            .args(["tests/programs/page/node.lua", name, zone, &port.to_string()])
            .env("LUA_PATH", "./lua/?.lua;;")
            .env("LUA_CPATH", "./target/lua/luajit/?.so;;")
            .env("CONSUL_HTTP_ADDR", &consul.address)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut node = Node { child, input, output, address: String::new() };
        node.address = node.line()?;
        Ok(node)
    }

    fn line(&mut self) -> Result<String, Failed> {
        Ok(self.output.next().ok_or("the node has ended")??)
    }

    /// The value of an expression with `cluster`.
    fn ask(&mut self, expression: &str) -> Result<String, Failed> {
        writeln!(self.input, "{expression}")?;
        self.line()
    }

    fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

fn check(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_owned().into()) }
}
