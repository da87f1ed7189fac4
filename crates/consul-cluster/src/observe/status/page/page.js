"use strict";

// The page of the status server. It draws the document of /cluster, which comes by server-sent events, and changes only
// what differs. Text from the document reaches the page as text alone: node names may be hostile.

const VERSION = 1;
// Silence after which the server is asked, and the time that it has to answer.
const SILENCE_MS = 5000, ANSWER_MS = 4000;
// Pauses before the connection is opened again.
const PAUSES_MS = [500, 1000, 2000, 4000];
// A hidden page leaves its connection to others after this time.
const HIDDEN_MS = 30000;
// Rows of each kind for a store; what is beyond them is counted.
const ROWS = { risk: 4, repair: 5, move: 8 };
// Colours of nodes: lightness, chroma and hue of neighbours differ, also for eyes that see fewer hues.
const COLOURS = [
  [0.55, 0.14, 256], [0.74, 0.13, 72], [0.66, 0.11, 172], [0.52, 0.15, 328], [0.77, 0.09, 222], [0.68, 0.13, 122],
  [0.45, 0.13, 290], [0.82, 0.11, 98], [0.6, 0.07, 200],
];
const TIERS = [0, 0.12, -0.12];
// What makes a shard stand out, the worst first.
const MARKS = {
  lost: "without a live replica",
  risk: "at risk",
  down: "with the primary down",
  short: "with a replica missing",
  stale: "stale, in repair",
  move: "moving",
};
const PLACE = { a: "available", i: "initializing", l: "leaving" };
const SHAPES = { live: "●", ok: "●", unavailable: "▲", benched: "▲", down: "✕" };

const $ = (id) => document.getElementById(id);
const now = () => performance.now();

// ---- values of the document, which may lack anything

const list = (value) => (Array.isArray(value) ? value : []);
const text = (value) => (value === null || value === undefined ? "" : String(value));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = new Intl.NumberFormat("en");
const count = (value) => (isNumber(value) ? grouped.format(value) : "–");
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
const byName = new Intl.Collator("en", { numeric: true }).compare;
const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayTime = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function timeOf(ms) {
  if (!isNumber(ms)) return "";
  const at = new Date(ms);
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? clockTime.format(at) : `${dayTime.format(at)} ${clockTime.format(at)}`;
}

const latency = (ms) => (isNumber(ms) ? `${ms < 10 ? ms.toFixed(1) : count(Math.round(ms))} ms` : "not measured");
const percent = (done) => `${Math.floor(done * 100)} %`;

// ---- elements

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function say(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function shown(node, is) {
  if (node.hidden === is) node.hidden = !is;
}

const kept = new WeakMap();

// Makes the children of `parent` those of `items`, and keeps the elements of items that were there.
function children(parent, items, keyOf, make, fill) {
  const before = kept.get(parent) || new Map();
  const after = new Map();
  for (const item of items) {
    let key = String(keyOf(item));
    while (after.has(key)) key += "+";
    after.set(key, [before.get(key)?.[0] || make(item), item]);
  }
  const focused = document.activeElement;
  for (const [key, [node]] of before) if (!after.has(key)) node.remove();
  let place = parent.firstElementChild;
  for (const [node, item] of after.values()) {
    fill(node, item);
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  kept.set(parent, after);
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

const bdi = (words, className) => {
  const made = element("bdi", className);
  made.textContent = words;
  return made;
};

// Text with `code` in backquotes.
function withCode(parent, words) {
  if (parent.words === words) return;
  parent.words = words;
  parent.replaceChildren(...words.split("`").map((part, i) => (i % 2 ? element("code", "", part) : part)));
}

// ---- colours of nodes: a node keeps its colour while the page is open

const slots = new Map();

function slotOf(id) {
  let slot = slots.get(id);
  if (slot === undefined) {
    slot = slots.size;
    slots.set(id, slot);
    const [lightness, chroma, hue] = COLOURS[slot % COLOURS.length];
    const tier = TIERS[Math.floor(slot / COLOURS.length) % TIERS.length];
    const colour = `oklch(${(lightness + tier).toFixed(2)} ${chroma} ${hue})`;
    document.documentElement.style.setProperty(`--n${slot}`, colour);
  }
  return slot;
}

function swatch(id) {
  const made = element("i", "swatch");
  made.setAttribute("aria-hidden", "true");
  made.style.color = `var(--n${slotOf(id)})`;
  return made;
}

// ---- the state of the page

let cluster = null; // the document
let receivedAt = 0;
let view = null; // what is drawn of its shard map

const sinceReceived = () => now() - receivedAt;
const isLive = (node) => Boolean(node) && node.state !== "down";

// Whether the replicas that are left can make new ones.
const isEnough = ({ left, needed }) => isNumber(needed) && left >= needed;

// The shard map with what the stores report of its shards.
function viewOf(told) {
  const map = told.map;
  if (!map || typeof map !== "object" || !list(map.placement).length) return null;
  const names = list(map.nodes).map(text);
  [...names].sort(byName).forEach(slotOf);
  const nodes = new Map(list(told.nodes).map((node) => [text(node.id), node]));
  const placement = list(map.placement);
  const stores = list(told.stores).filter((store) => store.shards === placement.length);
  const reported = { risk: new Set(), short: new Set(), stale: new Set(), move: new Set() };
  for (const store of stores) {
    for (const one of list(store.at_risk)) (isEnough(one) ? reported.short : reported.risk).add(one.shard);
    for (const one of list(store.repairing)) reported.stale.add(one.shard);
    for (const one of list(store.moving)) reported.move.add(one.shard);
  }
  const down = new Set(names.filter((name) => !isLive(nodes.get(name))));
  return { map, names, nodes, placement, stores, reported, down, slots: names.map(slotOf) };
}

function markOf(seen, shard) {
  const replicas = seen.placement[shard];
  const isDown = ([node]) => seen.down.has(seen.names[node]);
  if (replicas.every((replica) => isDown(replica) || replica[1] === "i")) return "lost";
  if (seen.reported.risk.has(shard)) return "risk";
  if (isDown(replicas[0])) return "down";
  if (seen.reported.short.has(shard) || replicas.some(isDown)) return "short";
  if (seen.reported.stale.has(shard)) return "stale";
  return seen.reported.move.has(shard) || replicas.some(([, state]) => state !== "a") ? "move" : "";
}

// ---- the shard map

const grid = $("grid");
let cells = [], drawn = [], marks = [], columns = 0, focusedShard = 0, hovered = null, highlighted = null, pinned = null;
const highlightRules = new CSSStyleSheet();
document.adoptedStyleSheets = [highlightRules];

// The columns for so wide a grid: the most that leave a cell large enough, but no thin strip.
function columnsFor(shards, width) {
  const least = shards > 4096 ? 5 : shards > 1024 ? 7 : 9;
  const fit = [8, 16, 32, 64, 128].filter((n) => width / n >= least && (n * n) / shards <= 6);
  return fit.length ? fit[fit.length - 1] : 8;
}

function buildGrid(shards) {
  const width = (grid.clientWidth || 320) - 34;
  const wanted = columnsFor(shards, width);
  if (wanted === columns && cells.length === shards) return;
  const hadFocus = grid.contains(document.activeElement);
  columns = wanted;
  cells = [];
  drawn = [];
  const size = Math.min(26, width / columns);
  const labelled = Math.ceil(12 / size);
  const rows = document.createDocumentFragment();
  for (let first = 0; first < shards; first += columns) {
    const row = element("div", "row");
    row.setAttribute("role", "row");
    const label = element("span", "first", (first / columns) % labelled ? "" : first);
    label.setAttribute("aria-hidden", "true");
    row.append(label);
    for (let shard = first; shard < Math.min(first + columns, shards); shard += 1) {
      const cell = element("span", "cell");
      cell.setAttribute("role", "gridcell");
      cell.dataset.shard = shard;
      cells.push(cell);
      row.append(cell);
    }
    rows.append(row);
  }
  grid.style.setProperty("--columns", columns);
  attribute(grid, "data-size", size < 8 ? "small" : "large");
  attribute(grid, "aria-rowcount", String(Math.ceil(shards / columns)));
  attribute(grid, "aria-colcount", String(columns));
  grid.replaceChildren(rows);
  focusedShard = Math.min(focusedShard, shards - 1);
  cells[focusedShard].tabIndex = 0;
  if (hadFocus) cells[focusedShard].focus({ preventScroll: true });
}

function drawCells() {
  const { placement, names, slots: places } = view;
  marks = placement.map((_, shard) => markOf(view, shard));
  for (let shard = 0; shard < placement.length; shard += 1) {
    let holders = "";
    for (const [node] of placement[shard]) holders += places[node] + " ";
    const key = holders + marks[shard];
    if (drawn[shard] === key) continue;
    drawn[shard] = key;
    const cell = cells[shard];
    const primary = placement[shard][0]?.[0];
    const name = primary === undefined ? "no primary" : (names[primary] ?? "unknown node");
    cell.dataset.p = primary === undefined ? "" : places[primary];
    cell.dataset.n = holders;
    cell.dataset.mark = marks[shard];
    cell.style.color = primary === undefined ? "" : `var(--n${places[primary]})`;
    cell.setAttribute("aria-label", `Shard ${shard}, ${name}${marks[shard] ? `, ${MARKS[marks[shard]]}` : ""}`);
  }
}

function drawMarks() {
  const numbers = new Map(Object.keys(MARKS).map((mark) => [mark, 0]));
  for (const mark of marks) if (mark) numbers.set(mark, numbers.get(mark) + 1);
  const present = Object.keys(MARKS).filter((mark) => numbers.get(mark));
  children($("marks"), present.length ? present : ["none"], (mark) => mark, makeMark, (node, mark) => {
    if (mark === "none") return say(node, `All ${count(marks.length)} shards are in place.`);
    say(node.querySelector("b"), count(numbers.get(mark)));
  });
}

function makeMark(mark) {
  if (mark === "none") return element("li", "calm");
  const glyph = element("i", "cell");
  glyph.dataset.mark = mark;
  const button = element("button", "", glyph, element("b"), ` ${MARKS[mark]}`);
  button.type = "button";
  button.title = "Go to the next of them";
  button.addEventListener("click", () => goToNext((found) => found === mark));
  return element("li", "", button);
}

function drawLegend() {
  const primaries = new Map();
  for (const [first] of view.placement) if (first) primaries.set(first[0], (primaries.get(first[0]) || 0) + 1);
  const names = view.names.map((name, i) => ({ name, primaries: primaries.get(i) || 0 }));
  names.sort((a, b) => byName(a.name, b.name));
  children($("legend"), names, (node) => node.name, makeLegend, (node, { name, primaries: number }) => {
    const button = node.firstChild;
    say(button.querySelector("small"), count(number));
    attribute(button, "aria-pressed", String(pinned === name));
    button.classList.toggle("away", view.down.has(name));
  });
}

function makeLegend({ name }) {
  const button = element("button", "", swatch(name), bdi(name), " ", element("small"));
  button.type = "button";
  button.title = "Shards with this primary; press to highlight the node's shards";
  button.addEventListener("click", () => {
    pinned = pinned === name ? null : name;
    highlight(pinned);
    drawLegend();
  });
  return element("li", "", button);
}

// Dims all shards without a replica on this node, and half of it those with another primary.
function highlight(name) {
  if (highlighted === name) return;
  highlighted = name;
  const slot = name === null ? undefined : slots.get(name);
  highlightRules.replaceSync(slot === undefined ? "" : `
    #grid .cell:not([data-n~="${slot}"]) { opacity: 0.12; }
    #grid .cell[data-n~="${slot}"]:not([data-p="${slot}"]) { opacity: 0.42; }`);
}

// Goes to the next shard with such a mark, after the one that has the focus.
function goToNext(matches) {
  for (let step = 1; step <= marks.length; step += 1) {
    const shard = (focusedShard + step) % marks.length;
    if (matches(marks[shard])) return goTo(shard);
  }
}

function goTo(shard) {
  if (!cells.length) return;
  const next = Math.max(0, Math.min(cells.length - 1, shard));
  cells[focusedShard].removeAttribute("tabindex");
  focusedShard = next;
  cells[next].tabIndex = 0;
  cells[next].focus();
}

function gridKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const here = focusedShard, column = here % columns, last = cells.length - 1;
  const within = (shard) => (shard < 0 || shard > last ? here : shard);
  const targets = {
    ArrowLeft: () => here - 1,
    ArrowRight: () => here + 1,
    ArrowUp: () => within(here - columns),
    ArrowDown: () => within(here + columns),
    PageUp: () => Math.max(here - 8 * columns, column),
    PageDown: () => (here + 8 * columns <= last ? here + 8 * columns : last - ((last - column) % columns)),
    Home: () => here - column,
    End: () => here - column + columns - 1,
  };
  if (event.key in targets) goTo(targets[event.key]());
  else if (event.key === "n" || event.key === "N") goToNext(Boolean);
  else return;
  event.preventDefault();
}

const shardAt = (target) => (target.classList?.contains("cell") ? Number(target.dataset.shard) : null);

grid.addEventListener("keydown", gridKey);
grid.addEventListener("click", (event) => {
  const shard = shardAt(event.target);
  if (shard !== null) goTo(shard);
});
grid.addEventListener("pointerover", (event) => {
  hovered = shardAt(event.target);
  drawDetails();
});
grid.addEventListener("pointerleave", () => {
  hovered = null;
  drawDetails();
});
grid.addEventListener("focusin", () => {
  hovered = null;
  drawDetails();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || pinned === null) return;
  pinned = null;
  highlight(null);
  if (view) drawLegend();
});

$("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = $("find-shard");
  const wanted = Number(field.value.replace(/[\s,]/g, ""));
  const exists = field.value.trim() !== "" && Number.isInteger(wanted) && wanted >= 0 && wanted < cells.length;
  attribute(field, "aria-invalid", exists ? null : "true");
  if (exists) goTo(wanted);
});

let width = 0;
new ResizeObserver(() => {
  if (!view || grid.clientWidth === width) return;
  width = grid.clientWidth;
  buildGrid(view.placement.length);
  drawCells();
}).observe($("map"));

// ---- details of a shard

let isVisited = false;

function drawDetails() {
  const details = $("details");
  if (grid.contains(document.activeElement)) isVisited = true;
  const shard = hovered ?? (isVisited ? focusedShard : null);
  if (!view || shard === null || !view.placement[shard]) {
    if (details.signature === "") return;
    details.signature = "";
    details.replaceChildren(element("p", "hint", "Point at a shard, or move to it with the keys, to see its replicas."));
    return;
  }
  const replicas = view.placement[shard].map(replicaLine);
  const states = view.stores.flatMap((store) => storeLines(store, shard));
  const mark = marks[shard];
  const signature = JSON.stringify([shard, mark, replicas, states]);
  if (details.signature === signature) return;
  details.signature = signature;
  const title = element("h3", "", `Shard ${shard}`);
  if (mark) title.append(element("span", `tag ${mark}`, MARKS[mark]));
  const holders = element("ol", "", ...replicas.map(({ name, words }) =>
    element("li", "", swatch(name), bdi(name, "name"), element("span", "", ` ${words}`))));
  if (!replicas.length) holders.append(element("li", "", "no replica"));
  const reports = element("ul", "", ...states.map((words) => element("li", "", words)));
  details.replaceChildren(title, holders, ...(states.length ? [reports] : []));
}

function replicaLine([place, state, from], i) {
  const name = view.names[place] ?? "unknown node";
  const node = view.nodes.get(name);
  const words = [i === 0 ? "primary" : "replica"];
  if (state !== "a") words.push(PLACE[state] || text(state));
  if (state === "i" && isNumber(from)) words.push(`copies from ${view.names[from] ?? "an unknown node"}`);
  if (!node) words.push("not a member");
  else if (node.state !== "live") words.push(text(node.state));
  else if (node.mode && node.mode !== "active") words.push(text(node.mode));
  if (node?.zone) words.push(`zone ${node.zone}`);
  return { name, words: words.join(", ") };
}

function storeLines(store, shard) {
  const lines = [];
  const entries = (kind) => list(store[kind]).filter((entry) => entry.shard === shard);
  for (const one of entries("at_risk")) lines.push(`${text(store.name)}: ${riskOf(one)}`);
  for (const { on } of entries("repairing")) lines.push(`${text(store.name)}: being repaired on ${text(on)}`);
  for (const { to } of entries("moving")) lines.push(`${text(store.name)}: being copied to ${text(to)}`);
  return lines;
}

function riskOf(one) {
  const missing = list(one.missing).map(text).join(", ");
  const without = missing ? `, ${missing} missing` : "";
  if (isEnough(one)) return `${plural(one.left, "replica", "replicas")} left${without}`;
  return `at risk: ${count(one.left)}${isNumber(one.needed) ? ` of ${count(one.needed)} needed` : ""} left${without}`;
}

// ---- the parts of the page

function drawTop() {
  const prefix = text(cluster.prefix);
  say($("prefix"), prefix);
  withCode($("by"), cluster.told_by ? `as \`${text(cluster.told_by).replaceAll("`", "'")}\` knows it` : "as an observer knows it");
  const problems = list(cluster.problems).filter((one) => levelOf(one) !== "note").length;
  const title = `${problems ? `(${problems}) ` : ""}${hasLeader() ? "" : "No leader · "}${prefix || "Cluster"}`;
  if (document.title !== title) document.title = title;
  const colour = problems ? "%23c0392b" : "%232e8b57";
  const shape = problems ? "M8 1 15 14H1Z" : "M8 2a6 6 0 1 0 .01 0Z";
  attribute($("icon"), "href", `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>\
<path fill='${colour}' d='${shape}'/></svg>`);
}

// The levels of problems, the worst first; one without a level is an error.
const LEVELS = { error: ["problem", "problems"], warning: ["warning", "warnings"], note: ["note", "notes"] };
const levelOf = (problem) => (problem.level in LEVELS ? problem.level : "error");

function drawProblems() {
  const problems = list(cluster.problems);
  const numbers = Object.keys(LEVELS).map((level) => [level, problems.filter((one) => levelOf(one) === level).length]);
  const present = numbers.filter(([, number]) => number);
  const worst = present.length ? present[0][0] : cluster.in_touch === false ? "unsure" : "none";
  const section = $("problems");
  shown(section, true);
  attribute(section, "data-level", worst);
  const calm = { none: "No problems.", unsure: "No problem is known.", note: "No problems; " }[worst] || "";
  say($("problems-title"), calm + present.map(([level, number]) => plural(number, ...LEVELS[level])).join(", "));
  const make = () => element("li", "", element("p", "what"), element("p", "cure"));
  children($("problem-list"), problems, (one) => `${text(one.problem)} ${text(one.of)}`, make, (node, one) => {
    attribute(node, "data-level", levelOf(one));
    withCode(node.children[0], text(one.text) || text(one.problem));
    withCode(node.children[1], text(one.cure));
    shown(node.children[1], Boolean(one.cure));
  });
}

function factsOf() {
  const { leader, map } = cluster;
  const nodes = list(cluster.nodes);
  const live = nodes.filter(isLive).length;
  const facts = [leader
    ? { name: "Leader", value: text(leader.node_id), more: [text(leader.address), leads(leader)].filter(Boolean).join(" · "),
      bad: !hasLeader() }
    : { name: "Leader", value: "none", more: "no shards are assigned until a node is elected", bad: true }];
  facts.push({ name: "Lease", ...leaseOf(leader) });
  facts.push({ name: "Nodes", value: nodes.length ? `${live} of ${nodes.length}` : "none", more: nodesMore(nodes, live),
    bad: live < nodes.length });
  facts.push(map
    ? { name: "Map epoch", value: count(map.epoch), more: `${count(map.shards)} shards × ${plural(map.replicas, "replica", "replicas")}` }
    : { name: "Map epoch", value: "none", more: "no shard map is known" });
  const consul = new Map([[true, "answers"], [false, "no answer"]]).get(cluster.in_touch) || "unknown";
  facts.push({ name: "Consul", value: consul, more: endpointsMore(), bad: cluster.in_touch === false });
  return facts;
}

// A node can have the leader's key and tell that it does not lead, and the key can name none of the nodes.
function hasLeader() {
  const isUnknown = list(cluster.problems).some((one) => one.problem === "leader_unknown");
  return Boolean(cluster.leader) && cluster.leader.leads !== false && !isUnknown;
}

function leads(leader) {
  if (!hasLeader()) return "has the key and does not lead";
  if (!isNumber(leader.elected_at_ms) || !isNumber(cluster.at_ms)) return "";
  return `for ${duration(cluster.at_ms - leader.elected_at_ms + sinceReceived())}`;
}

function leaseOf(leader) {
  if (!leader) return { value: "none", more: "" };
  const token = leader.token === null || leader.token === undefined ? "" : `token ${text(leader.token)}`;
  if (!isNumber(leader.lease_ms)) return { value: "unknown", more: token || "only the leader knows it" };
  const age = sinceReceived();
  const told = age > 2500 ? `told ${duration(age)} ago` : "";
  const seconds = `${(leader.lease_ms / 1000).toFixed(1)} s`;
  return { value: seconds, more: [token, told].filter(Boolean).join(" · "), bad: leader.lease_ms <= 0 };
}

function nodesMore(nodes, live) {
  if (!nodes.length) return "no member has a key";
  const modes = nodes.filter((node) => node.mode && node.mode !== "active").map((node) => `${text(node.id)} ${text(node.mode)}`);
  const zones = new Set(nodes.map((node) => text(node.zone))).size;
  return [live < nodes.length ? "live" : "all live", modes.slice(0, 3).join(", ") || plural(zones, "zone", "zones")].join(" · ");
}

function endpointsMore() {
  const endpoints = list(cluster.endpoints);
  const benched = endpoints.filter((one) => one.state === "benched").length;
  if (!endpoints.length) return "";
  return benched ? `${benched} of ${plural(endpoints.length, "endpoint", "endpoints")} benched` : plural(endpoints.length, "endpoint", "endpoints");
}

function drawFacts() {
  const make = () => element("div", "", element("dt"), element("dd", "value"), element("dd", "more"));
  children($("facts"), factsOf(), (fact) => fact.name, make, (node, fact) => {
    say(node.children[0], fact.name);
    say(node.children[1], fact.value);
    say(node.children[2], fact.more);
    node.classList.toggle("bad", Boolean(fact.bad));
  });
}

function drawShards() {
  view = viewOf(cluster);
  shown($("map"), Boolean(view));
  shown($("no-map"), !view);
  if (!view) {
    cells = drawn = marks = [];
    columns = 0;
    grid.replaceChildren();
    say($("map-facts"), "");
    const why = cluster.leader ? "The leader has not published one yet." : "Without a leader none is published.";
    return say($("no-map"), `No shard map is known. ${why}`);
  }
  say($("map-facts"), mapFacts());
  buildGrid(view.placement.length);
  drawCells();
  drawLegend();
  drawMarks();
  drawDetails();
}

function mapFacts() {
  const facts = ["a cell is a shard, its colour the primary"];
  const frozen = list(cluster.frozen).map(text);
  if (frozen.length) facts.unshift(`frozen by the loss of ${frozen.join(", ")}`);
  if (cluster.paused) facts.unshift(`paused by ${text(cluster.paused.by)}`);
  if (cluster.restored) facts.unshift("restored from a snapshot");
  return facts.join(" · ");
}

function drawMembers() {
  const nodes = list(cluster.nodes);
  const zones = new Map();
  for (const node of nodes) {
    const zone = text(node.zone);
    if (!zones.has(zone)) zones.set(zone, []);
    zones.get(zone).push(node);
  }
  const table = $("members");
  shown(table, nodes.length > 0);
  shown($("no-members"), nodes.length === 0);
  say($("no-members"), "No member is known.");
  say($("member-facts"), nodes.length ? `${plural(nodes.length, "node", "nodes")} in ${plural(zones.size, "zone", "zones")}` : "");
  const most = Math.max(1, ...nodes.map(shardsOf));
  const sorted = [...zones].sort(([a], [b]) => byName(a, b));
  drawZones(table, sorted, most);
}

function drawZones(table, zones, most) {
  const make = () => {
    const heading = element("th", "", element("span"), element("small"));
    heading.scope = "rowgroup";
    heading.colSpan = 5;
    const head = element("tr", "zone", heading);
    return element("tbody", "", head);
  };
  const sections = [null, ...zones];
  children(table, sections, (zone) => (zone ? `zone ${zone[0]}` : "head"), (zone) => (zone ? make() : table.tHead), (body, zone) => {
    if (!zone) return;
    const [name, nodes] = zone;
    const [title, more] = body.rows[0].firstChild.children;
    say(title, name ? `Zone ${name}` : "No zone");
    const live = nodes.filter(isLive).length;
    say(more, live < nodes.length ? `${live} of ${nodes.length} live` : plural(nodes.length, "node", "nodes"));
    nodes.sort((a, b) => byName(text(a.id), text(b.id)));
    const rows = [null, ...nodes];
    children(body, rows, (node) => (node ? `node ${text(node.id)}` : "head"), (node) => (node ? makeMember(node) : body.rows[0]),
      (row, node) => node && drawMember(row, node, most));
  });
}

const number = (value) => (isNumber(value) ? value : 0);
const shardsOf = (node) => number(node.primaries) + number(node.replicas);

function makeMember(node) {
  const id = text(node.id);
  const name = element("th", "", element("span", "id", swatch(id), bdi(id, "name"), element("span", "tag leader", "leader")), element("small", "address"));
  name.scope = "row";
  const state = element("td", "", element("span", "state"), element("small"), element("small", "output"));
  const bar = element("i", "share");
  bar.setAttribute("aria-hidden", "true");
  bar.style.color = `var(--n${slotOf(id)})`;
  const numbers = ["map lag", "primaries", "replicas"].map((label) => {
    const cell = element("td", "number", element("span"), element("small"));
    cell.dataset.label = label;
    return cell;
  });
  numbers[2].append(bar);
  const row = element("tr", "member", name, state, ...numbers);
  row.addEventListener("pointerenter", () => highlight(id));
  row.addEventListener("pointerleave", () => highlight(pinned));
  return row;
}

function drawMember(row, node, most) {
  const [name, state, lag, primaries, replicas] = row.children;
  const isLeader = hasLeader() && text(cluster.leader.node_id) === text(node.id);
  shown(name.querySelector(".leader"), isLeader);
  const addresses = [text(node.address), node.data_address && node.data_address !== node.address ? `data ${text(node.data_address)}` : ""];
  if (isNumber(node.weight) && node.weight !== 1) addresses.push(`weight ${node.weight}`);
  say(name.children[1], addresses.filter(Boolean).join(" · "));
  drawState(state.children[0], text(node.state));
  const more = node.mode && node.mode !== "active" ? [text(node.mode)] : [];
  if (node.unknown_mode) more.push(`unknown mode ${text(node.unknown_mode)}`);
  if (isNumber(node.down_for_ms)) more.push(`for ${duration(node.down_for_ms + sinceReceived())}`);
  say(state.children[1], more.join(" · "));
  const silence = node.silent ? `does not answer: ${text(node.silent)}` : "";
  say(state.children[2], [text(node.check_output), silence].filter(Boolean).join("; "));
  row.classList.toggle("away", !isLive(node));
  say(lag.firstChild, isNumber(node.map_lag) ? (node.map_lag ? plural(node.map_lag, "epoch", "epochs") : "0") : "unknown");
  lag.classList.toggle("bad", node.map_lag > 0);
  say(primaries.firstChild, count(node.primaries));
  say(replicas.children[0], count(node.replicas));
  const moves = [node.moving_in ? `${count(node.moving_in)} in` : "", node.moving_out ? `${count(node.moving_out)} out` : ""];
  say(replicas.children[1], moves.filter(Boolean).join(", "));
  const bar = replicas.children[2];
  bar.style.setProperty("--part", (shardsOf(node) / most).toFixed(3));
  bar.style.setProperty("--primaries", (number(node.primaries) / Math.max(1, shardsOf(node))).toFixed(3));
}

function drawState(node, state) {
  say(node, `${SHAPES[state] || "○"}\u00a0${state || "unknown"}`);
  attribute(node, "data-state", state);
}

function drawStores() {
  const stores = list(cluster.stores);
  const moving = view ? view.placement.filter((replicas) => replicas.some(([, state]) => state !== "a")).length : 0;
  shown($("no-stores"), stores.length === 0);
  const quiet = moving ? `${plural(moving, "shard moves", "shards move")} on the shard map.` : "Nothing moves.";
  say($("no-stores"), `No replicated store is known. ${quiet}`);
  const make = () => element("div", "store", element("h3"), element("p", "side"), element("p", "sum"), element("ul", "tasks"), element("p", "side"));
  children($("stores"), stores, (store) => text(store.name), make, drawStore);
}

function drawStore(node, store) {
  const [title, facts, sum, tasks, rest] = node.children;
  say(title, text(store.name));
  say(facts, `${plural(store.shards, "shard", "shards")} × ${plural(store.replicas, "replica", "replicas")} · quorum ${
    text(store.write_quorum)} for writes, ${text(store.read_quorum)} for reads · map version ${count(store.map_version)}`);
  const risks = list(store.at_risk), repairs = list(store.repairing), moves = list(store.moving);
  const parts = [];
  const few = risks.filter((one) => !isEnough(one)).length;
  if (few) parts.push(`${plural(few, "shard", "shards")} at risk`);
  if (risks.length > few) parts.push(`${plural(risks.length - few, "shard", "shards")} with a replica missing`);
  if (number(store.unrecovered)) parts.push(`${plural(store.unrecovered, "shard", "shards")} unrecovered`);
  if (repairs.length) parts.push(plural(repairs.length, "repair", "repairs"));
  if (moves.length) parts.push(plural(moves.length, "move", "moves"));
  say(sum, parts.length ? parts.join(", ") : "Nothing moves, nothing is repaired.");
  sum.classList.toggle("bad", few > 0 || number(store.unrecovered) > 0);
  const rows = [
    ...risks.map((one) => ({ kind: "risk", shard: one.shard, words: riskOf(one) })),
    ...repairs.map((one) => ({ kind: "repair", shard: one.shard, words: "repair on", on: text(one.on), done: one.done })),
    ...moves.map((one) => ({ kind: "move", shard: one.shard, words: "to", on: text(one.to), done: one.done })),
  ];
  const numbers = { risk: 0, repair: 0, move: 0 };
  const isShown = ({ kind }) => (numbers[kind] += 1) <= ROWS[kind];
  const [listed, others] = [[], []];
  for (const row of rows) (isShown(row) ? listed : others).push(row);
  children(tasks, listed, (row) => `${row.kind} ${row.shard} ${row.on}`, makeTask, drawTask);
  say(rest, others.length ? `and ${further(others)}` : "");
}

// Counts the rows that are not shown, by kind and node.
function further(rows) {
  const numbers = new Map();
  for (const row of rows) {
    const what = row.kind === "risk" ? "with a replica missing" : `${row.words} ${row.on}`;
    numbers.set(what, (numbers.get(what) || 0) + 1);
  }
  return [...numbers].map(([what, number]) => `${count(number)} more ${what}`).join(", ");
}

function makeTask(task) {
  const button = element("button", "", `Shard ${text(task.shard)}`);
  button.type = "button";
  button.addEventListener("click", () => goTo(Number(task.shard)));
  return element("li", task.kind, button, element("span", "", ` ${task.words} `, task.on ? bdi(task.on) : ""), element("progress"), element("small", "number"));
}

function drawTask(node, task) {
  const [, words, bar, share] = node.children;
  if (task.kind === "risk") say(words, task.words);
  const isKnown = isNumber(task.done);
  shown(bar, isKnown);
  if (isKnown && bar.value !== task.done) bar.value = task.done;
  attribute(bar, "aria-label", `Shard ${text(task.shard)} ${task.words} ${text(task.on)}`);
  say(share, isKnown ? percent(task.done) : task.kind === "risk" ? "" : "progress unknown");
}

function drawEndpoints() {
  const endpoints = list(cluster.endpoints).slice();
  const rank = (one) => (one.state === "ok" ? 1 : 0);
  endpoints.sort((a, b) => rank(a) - rank(b) || byName(text(a.address), text(b.address)) || byName(text(a.told_by), text(b.told_by)));
  shown($("endpoints"), endpoints.length > 0);
  shown($("no-endpoints"), endpoints.length === 0);
  say($("no-endpoints"), "No endpoint is known.");
  const make = () => element("div", "endpoint", element("span", "state"), element("span", "address", bdi(""), element("small")), element("span", "number"));
  children($("endpoints"), endpoints, (one) => `${text(one.told_by)} ${text(one.address)}`, make, (node, one) => {
    drawState(node.children[0], text(one.state));
    say(node.children[1].children[0], text(one.address));
    say(node.children[1].children[1], one.told_by ? `from ${text(one.told_by)}` : "");
    say(node.children[2], latency(one.latency_ms));
  });
}

function drawEvents() {
  const events = list(cluster.events).slice().reverse();
  shown($("events"), events.length > 0);
  shown($("no-events"), events.length === 0);
  say($("no-events"), "No event is known since the nodes started.");
  const make = () => element("li", "", element("time"), element("span", "what"), bdi("", "by"));
  children($("events"), events, (one) => `${text(one.node_id)} ${text(one.seq)} ${text(one.at_ms)}`, make, (node, one) => {
    const [time, what, by] = node.children;
    say(time, timeOf(one.at_ms));
    attribute(time, "datetime", isNumber(one.at_ms) ? new Date(one.at_ms).toISOString() : null);
    const words = text(one.event).replaceAll("_", " ");
    say(what, one.detail === null || one.detail === undefined || one.detail === "" ? words : `${words}: ${text(one.detail)}`);
    say(by, text(one.node_id));
  });
}

const PARTS = [drawTop, drawProblems, drawFacts, drawShards, drawMembers, drawStores, drawEndpoints, drawEvents];

function draw() {
  for (const part of PARTS) {
    try {
      part();
    } catch (why) {
      notes.set("part", `A part of the document cannot be shown: ${why.message}`);
      console.error(why);
    }
  }
  drawNotes();
}

// ---- the connection

const notes = new Map();
let restUntil = 0;
let source = null, state = "connecting", confirmedAt = now(), attempts = 0, pending = null, timer = 0, hiddenTimer = 0, isAsking = false;

function drawNotes() {
  const note = $("note");
  if (cluster && cluster.in_touch === false) {
    notes.set("touch", `${cluster.told_by ? text(cluster.told_by) : "The observer"} gets no answer from Consul. This is what it knew last.`);
  } else notes.delete("touch");
  if (cluster && cluster.version !== VERSION) {
    notes.set("version", `The server's document has version ${text(cluster.version) || "none"}, this page knows version ${VERSION}. Load the page again.`);
  } else notes.delete("version");
  if (state === "lost") {
    const age = duration(now() - confirmedAt);
    notes.set("lost", cluster ? `The connection to the server is lost. What is shown is ${age} old.` : `The server has not answered for ${age}.`);
  } else notes.delete("lost");
  shown(note, notes.size > 0);
  children(note, [...notes], ([kind]) => kind, () => element("p"), (node, [, words]) => say(node, words));
}

function drawLink() {
  const words = {
    connecting: "Connecting",
    live: "Live",
    paused: "Paused while hidden",
    asking: "Asks every few seconds",
    lost: "Lost, reconnecting",
  };
  attribute($("link"), "data-state", state);
  attribute(document.body, "data-old", state === "lost" && cluster ? "yes" : null);
  say($("link-text"), words[state]);
  say($("link-age"), state === "lost" ? `for ${duration(now() - confirmedAt)}` : "");
}

function become(next) {
  state = next;
  drawLink();
  drawNotes();
}

function confirmed() {
  confirmedAt = now();
  attempts = 0;
  if (state !== "live") become("live");
}

function receive(data) {
  confirmed();
  schedule(data);
}

function schedule(data) {
  const isScheduled = pending !== null;
  pending = data;
  if (!isScheduled) setTimeout(() => requestAnimationFrame(take), Math.max(0, restUntil - now()));
}

function take() {
  const data = pending;
  pending = null;
  try {
    const told = JSON.parse(data);
    if (!told || typeof told !== "object") throw new TypeError("not an object");
    cluster = told;
    notes.delete("unreadable");
    notes.delete("part");
  } catch (why) {
    notes.set("unreadable", `The server's document cannot be read: ${why.message}`);
    return drawNotes();
  }
  receivedAt = now();
  shown($("parts"), true);
  draw();
  // A large map on a slow machine: drawing leaves time for the reader. The timer comes after the painting.
  setTimeout(() => (restUntil = now() + Math.min(1000, 2 * (now() - receivedAt))));
}

function open() {
  close();
  source = new EventSource("events" + location.search);
  source.addEventListener("cluster", (event) => receive(event.data));
  source.addEventListener("open", () => {
    notes.delete("refused");
    confirmed();
  });
  source.addEventListener("error", lost);
}

function close() {
  clearTimeout(timer);
  if (source) source.close();
  source = null;
}

function lost() {
  const isRefused = source?.readyState === EventSource.CLOSED;
  close();
  if (isRefused) askInstead();
  else become("lost");
  timer = setTimeout(open, PAUSES_MS[Math.min(attempts, PAUSES_MS.length - 1)]);
  attempts += 1;
}

const getCluster = () =>
  fetch("cluster" + location.search, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });

// The server is there and does not send events: it has no place for one more page, or no node.
async function askInstead() {
  try {
    const answer = await getCluster();
    const data = await answer.text();
    const why = answer.ok ? "The server has no place for one more page that follows it." : `The server says: ${data.slice(0, 200)}`;
    notes.set("refused", why);
    if (!answer.ok) return become("lost");
    confirmedAt = now();
    schedule(data);
    become("asking");
  } catch {
    become("lost");
  }
}

// Comments of the stream are not seen here, and events leave out changes of latency and lease: silence needs a question.
async function ask() {
  if (state !== "live" || isAsking || now() - confirmedAt < SILENCE_MS) return;
  isAsking = true;
  const asked = source;
  try {
    const answer = await getCluster();
    const data = await answer.text();
    if (asked === source) answer.ok ? receive(data) : confirmed();
  } catch {
    if (asked === source && source) lost();
  }
  isAsking = false;
}

function tick() {
  drawLink();
  drawNotes();
  if (cluster && state === "live") {
    drawFacts();
    drawMembers();
  }
  ask();
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (!document.hidden) return state === "live" ? undefined : open();
  hiddenTimer = setTimeout(() => {
    close();
    become("paused");
  }, HIDDEN_MS);
});
addEventListener("online", () => state === "live" || open());

setInterval(tick, 1000);
open();
