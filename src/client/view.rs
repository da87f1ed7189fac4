//! Service views: the instances of a service, kept up to date by a watch, so that choosing one asks
//! nobody.
//!
//! An instance whose checks are critical is not in the list. The others weigh what they registered
//! for their state, as in the answers of Consul's DNS interface (RFC 2782): one of weight 0 is
//! chosen only when all are.

use super::Client;
use super::watch::{State, WatchOptions, states};
use crate::clock::{Clock, Instant};
use crate::error::{Error, Kind};
use crate::ring::Ring;
use crate::sync::lock;
use crate::wire::health;
use crate::wire::request::Args;
use crate::wire::response::Meta;
use crate::wire::value::Value;
use futures_util::future::{Either, select};
use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// How long an empty answer right after an outage does not empty a list, unless the program says
/// otherwise. Services register again when their agents find that Consul forgot them.
pub const EMPTY_HOLD: Duration = Duration::from_secs(30);

/// The longest that one query waits: a quiet service is confirmed so often, and a connection that is
/// dead without a word found out.
const WAIT: Duration = Duration::from_secs(10);

/// The greatest weight of an instance on the ring is between half of this and this, or what was
/// registered when that is less: a ring has 160 points for each unit.
const MOST_ON_RING: u32 = 16;

/// One instance of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The service's id on its node.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Where it is: its own address, or its node's when it has none.
    pub address: String,
    /// Its port; 0 when it was registered without one.
    pub port: u16,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its metadata.
    pub meta: Vec<(String, String)>,
    /// Its node's name.
    pub node: String,
    /// Whether one of its checks warns.
    pub warns: bool,
    /// How many picks it gets, in proportion to the others.
    pub weight: u32,
}

/// What all instances of a service came to at one time.
#[derive(Debug)]
pub struct List {
    instances: Vec<Instance>,
    ring: OnceLock<Ring>,
}

impl List {
    fn new(instances: Vec<Instance>) -> Self {
        List { instances, ring: OnceLock::new() }
    }

    /// The instances, in the order of Consul's answer.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// What each weighs against the others.
    fn weights(&self) -> impl Iterator<Item = u32> {
        let none_weighs = self.instances.iter().all(|instance| instance.weight == 0);
        self.instances.iter().map(move |one| if none_weighs { 1 } else { one.weight })
    }

    /// The ring is made when it is needed first. All weights are divided by the same power of two,
    /// which changes only when the greatest of them comes to be twice as much or half.
    fn ring(&self) -> &Ring {
        self.ring.get_or_init(|| {
            let greatest = self.weights().max().unwrap_or(0);
            let scale = greatest.div_ceil(MOST_ON_RING).max(1).next_power_of_two();
            let weights = self.weights().map(|weight| f64::from(weight) / f64::from(scale));
            Ring::new(&self.instances.iter().map(identity).zip(weights).collect::<Vec<_>>())
        })
    }
}

/// What tells an instance apart from all others.
fn identity(instance: &Instance) -> String {
    format!("{}/{}", instance.node, instance.id)
}

/// An instance that was picked.
#[derive(Clone, Debug)]
pub struct Picked {
    /// The list that it was picked from.
    pub list: Arc<List>,
    /// Its place in that list.
    pub place: usize,
}

impl Picked {
    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.list.instances[self.place]
    }
}

/// The instances of a service as they were last known.
#[derive(Debug)]
pub struct View {
    label: String,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// None before the first answer.
    list: Option<Arc<List>>,
    turns: Turns,
    /// When Consul said so last, and how old its answer was then.
    confirmed: (Instant, Duration),
    /// Why there is no answer.
    trouble: Option<Error>,
    has_ended: bool,
}

impl View {
    /// What it is, for messages: `service_view "web"`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All instances.
    ///
    /// # Errors
    /// Why there was never an answer, of the kind of the outage or [`Kind::Timeout`];
    /// [`Kind::Closed`] when the view was ended.
    pub fn all(&self) -> Result<Arc<List>, Error> {
        self.known().list(&self.label).cloned()
    }

    /// The instance whose turn it is: in any row of picks each gets its share by weight, evenly
    /// spread ("smooth weighted round robin", as in nginx).
    ///
    /// # Errors
    /// As [`View::all`]; [`Kind::NotFound`] when there is no instance.
    pub fn pick(&self) -> Result<Picked, Error> {
        let mut known = self.known();
        let list = Arc::clone(known.list(&self.label)?);
        let place = known.turns.next().ok_or_else(|| self.empty())?;
        Ok(Picked { list, place })
    }

    /// The instance that a key belongs to on a consistent hash ring, on which weights are shares.
    ///
    /// # Errors
    /// As [`View::pick`].
    pub fn pick_by(&self, key: &[u8]) -> Result<Picked, Error> {
        let list = self.all()?;
        let place = list.ring().owner(key).ok_or_else(|| self.empty())?;
        Ok(Picked { list, place })
    }

    /// How long ago Consul said that the instances are these. While nothing changes it says so every
    /// ten seconds or a little more.
    ///
    /// # Errors
    /// As [`View::all`].
    pub fn age(&self) -> Result<Duration, Error> {
        let known = self.known();
        known.list(&self.label)?;
        let (at, age) = known.confirmed;
        Ok(self.clock.now() - at + age)
    }

    fn empty(&self) -> Error {
        let message = format!("{}: there is no instance whose checks pass", self.label);
        Error::new(Kind::NotFound, message).not_sent()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Known {
    fn list(&self, label: &str) -> Result<&Arc<List>, Error> {
        match (&self.list, &self.trouble) {
            _ if self.has_ended => {
                Err(Error::new(Kind::Closed, format!("{label}: the view has ended")))
            }
            (Some(list), _) => Ok(list),
            (None, Some(trouble)) => {
                Err(trouble.clone().context(&format!("{label}: no answer yet")))
            }
            (None, None) => {
                let message = format!("{label}: no answer from Consul yet");
                Err(Error::new(Kind::Timeout, message).transient())
            }
        }
    }

    fn replace(&mut self, list: List, chance: f64) {
        self.turns = match &self.list {
            Some(before) => self.turns.after(before, &list),
            None => Turns::new(&list, chance),
        };
        // Whoever picks should not have to wait for it.
        if self.list.as_ref().is_some_and(|before| before.ring.get().is_some()) {
            list.ring();
        }
        self.list = Some(Arc::new(list));
    }
}

/// Whose turn it is, by weight.
#[derive(Debug, Default)]
struct Turns {
    /// For each instance its weight, and how far it is ahead of the others.
    of: Vec<(i64, i64)>,
    total: i64,
}

impl Turns {
    /// The first turns. They begin anywhere, so that not all programs begin with the same instance.
    fn new(list: &List, chance: f64) -> Self {
        let of: Vec<_> = list.weights().map(|weight| (weight.into(), 0)).collect();
        let total = of.iter().map(|(weight, _)| weight).sum();
        let mut turns = Turns { of, total };
        for _ in 0..(chance * turns.of.len() as f64) as usize {
            turns.next();
        }
        turns
    }

    /// Those of another list: whoever is in both stays where it is.
    fn after(&self, before: &List, list: &List) -> Self {
        let places = before.instances.iter().map(identity);
        let ahead: BTreeMap<_, _> = places.zip(self.of.iter().map(|(_, ahead)| *ahead)).collect();
        let of = list.instances.iter().zip(list.weights()).map(|(instance, weight)| {
            (weight.into(), ahead.get(&identity(instance)).copied().unwrap_or(0))
        });
        let of: Vec<_> = of.collect();
        let total = of.iter().map(|(weight, _)| weight).sum();
        Turns { of, total }
    }

    fn next(&mut self) -> Option<usize> {
        let mut best: Option<(usize, i64)> = None;
        for (place, (weight, ahead)) in self.of.iter_mut().enumerate() {
            *ahead += *weight;
            if *weight > 0 && best.is_none_or(|(_, most)| *ahead > most) {
                best = Some((place, *ahead));
            }
        }
        let (place, _) = best?;
        self.of[place].1 -= self.total;
        Some(place)
    }
}

/// A view of the service that is the argument in `args`, which can have the options of
/// `health_service`; and what keeps it up to date for as long as it is polled, with an item for each
/// answer of Consul.
///
/// An answer without instances right after an outage empties the list only when there are still none
/// `empty_hold` later.
///
/// # Errors
/// As [`super::watch::watch`].
pub fn view(
    client: Arc<Client>,
    args: Args,
    empty_hold: Duration,
) -> Result<(Arc<View>, impl Stream<Item = ()> + Send), Error> {
    let label = client.request(&health::SERVICE, &args)?.label;
    let label = label.replacen(health::SERVICE.name, "service_view", 1);
    let options = WatchOptions { wait: WAIT, ..WatchOptions::default() };
    let states = states(Arc::clone(&client), &health::SERVICE, args, options)?.boxed();
    let view = Arc::new(View {
        label,
        clock: Arc::clone(client.clock()),
        known: Mutex::new(Known::default()),
    });
    let feed = Feed {
        view: Arc::clone(&view),
        client,
        states,
        empty_hold,
        empties_at: None,
        skipped: BTreeSet::new(),
    };
    let answers = unfold(feed, |mut feed| async move {
        feed.next().await;
        Some(((), feed))
    });
    Ok((view, answers))
}

/// What keeps a view up to date.
struct Feed {
    view: Arc<View>,
    client: Arc<Client>,
    states: BoxStream<'static, Result<State, Error>>,
    empty_hold: Duration,
    /// When answers without instances will be believed.
    empties_at: Option<Instant>,
    /// What the last answer had that is no instance, which was logged already.
    skipped: BTreeSet<String>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.view.known().has_ended = true;
    }
}

impl Feed {
    /// Until the next answer.
    async fn next(&mut self) {
        loop {
            let empties = self.view.clock.sleep_until_any(self.empties_at);
            match select(self.states.next(), empties).await {
                Either::Left((Some(Ok(state)), _)) => return self.take(state),
                Either::Left((Some(Err(error)), _)) => {
                    // The answer after the outage decides anew.
                    self.empties_at = None;
                    self.view.known().trouble = Some(error);
                }
                // A watch does not end.
                Either::Left((None, _)) => std::future::pending().await,
                Either::Right(_) => {
                    self.empties_at = None;
                    self.replace(Vec::new());
                }
            }
        }
    }

    fn take(&mut self, state: State) {
        let instances = self.read(&state.answer.value);
        let after_outage = state.is_resynchronised || self.empties_at.is_some();
        let has_some = self.view.known().list.as_ref().is_some_and(|l| !l.instances.is_empty());
        if instances.is_empty() && has_some && after_outage && !self.empty_hold.is_zero() {
            if self.empties_at.is_none() {
                let hold_s = self.empty_hold.as_secs_f64();
                tracing::warn!(
                    view = self.view.label,
                    hold_s,
                    "none after an outage: not yet believed"
                );
                self.empties_at = Some(self.view.clock.now() + self.empty_hold);
            }
            return;
        }
        self.empties_at = None;
        self.replace(instances);
        let mut known = self.view.known();
        known.confirmed = (self.view.clock.now(), age(&state.answer.meta));
        known.trouble = None;
    }

    fn replace(&self, instances: Vec<Instance>) {
        let mut known = self.view.known();
        let is_same = known.list.as_ref().is_some_and(|list| list.instances == instances);
        if !is_same {
            known.replace(List::new(instances), self.client.chance());
        }
    }

    /// The instances in an answer. What is none is left out, and logged once.
    fn read(&mut self, answer: &Value) -> Vec<Instance> {
        let mut instances = Vec::new();
        let mut skipped = BTreeSet::new();
        for entry in answer.items() {
            match instance(entry) {
                Ok(Some(instance)) => instances.push(instance),
                Ok(None) => {}
                Err(why) => {
                    if !self.skipped.contains(&why) {
                        tracing::warn!(view = self.view.label, why, "an instance is left out");
                    }
                    skipped.insert(why);
                }
            }
        }
        self.skipped = skipped;
        instances
    }
}

/// How old an answer was when it came: a cached one, or a stale one.
fn age(meta: &Meta) -> Duration {
    let cached = Duration::from_secs(meta.age_s.unwrap_or(0));
    cached + Duration::from_millis(meta.last_contact_ms.unwrap_or(0))
}

/// The instance that an entry of `health_service` is; `None` when one of its checks is critical.
///
/// # Errors
/// Why it is no instance that can be used.
fn instance(entry: &Value) -> Result<Option<Instance>, String> {
    let member = |of: &str, name: &str| entry.get(of).and_then(|of| of.get(name));
    let text = |of, name| member(of, name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(entry.get("Service"), Some(Value::Map(_))) {
        return Err(format!("it has no Service, on node {:?}", text("Node", "Node")));
    }
    let (id, node) = (text("Service", "ID"), text("Node", "Node"));
    let refuse = |why: &str| Err(format!("{id:?} on node {node:?}: {why}"));
    if id.is_empty() || node.is_empty() {
        return refuse("an id or a name is missing");
    }
    let addresses = [text("Service", "Address"), text("Node", "Address")];
    let Some(address) = addresses.into_iter().find(|address| !address.is_empty()) else {
        return refuse("neither it nor its node has an address");
    };
    let port = match member("Service", "Port") {
        None | Some(Value::Null) => Some(0),
        Some(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()),
    };
    let Some(port) = port else { return refuse("its Port is no number from 0 to 65535") };
    let Some(tags) = texts(member("Service", "Tags")) else {
        return refuse("its Tags are no list of strings");
    };
    let Some(meta) = texts_by_name(member("Service", "Meta")) else {
        return refuse("its Meta is no table of strings");
    };
    let Some((passing, warning)) = weights(member("Service", "Weights")) else {
        return refuse("its Weights are no numbers from 0 to 65535");
    };
    let checks = entry.get("Checks").map_or(&[][..], Value::items);
    let mut warns = false;
    for check in checks {
        match check.get("Status").and_then(Value::as_str) {
            Some("passing") => {}
            Some("warning") => warns = true,
            _ => return Ok(None),
        }
    }
    let (name, weight) = (text("Service", "Service"), if warns { warning } else { passing });
    Ok(Some(Instance { id, name, address, port, tags, meta, node, warns, weight }))
}

/// A list of strings; null is an empty one.
fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value.unwrap_or(&Value::Null) {
        Value::Null => Some(Vec::new()),
        Value::List(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn texts_by_name(value: Option<&Value>) -> Option<Vec<(String, String)>> {
    match value.unwrap_or(&Value::Null) {
        Value::Null => Some(Vec::new()),
        Value::Map(members) => members
            .iter()
            .map(|(name, member)| Some((name.clone(), member.as_str()?.to_owned())))
            .collect(),
        _ => None,
    }
}

/// What an instance weighs while it passes and while it warns. Who says nothing weighs 1; zeros are
/// what a catalog holds that was told nothing.
fn weights(value: Option<&Value>) -> Option<(u32, u32)> {
    let value = match value {
        None | Some(Value::Null) => return Some((1, 1)),
        Some(value @ Value::Map(_)) => value,
        Some(_) => return None,
    };
    let weight = |name| match value.get(name) {
        None | Some(Value::Null) => Some(1),
        Some(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    match (weight("Passing")?, weight("Warning")?) {
        (0, 0) => Some((1, 1)),
        (passing, warning) => Some((passing.into(), warning.into())),
    }
}
