//! Service views: the instances of a service, kept up to date by a watch, so that a choice needs no
//! request.
//!
//! An instance with a critical check is not in the list. The others have the weight that they
//! registered for their state, as in the answers of Consul's DNS interface (RFC 2782): an instance
//! of weight 0 is chosen only when all have weight 0.

use super::Client;
use super::watch::{State, WatchOptions, is_leaderless, states};
use consul_api::api::health;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Meta;
use consul_api::ring::Ring;
use consul_api::value::Value;
use consul_process::clock::{Clock, Instant};
use consul_process::metrics::{self, Page, Registered, Source, table};
use consul_process::sync::lock;
use futures_util::future::{Either, select};
use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The default time for which an empty answer right after an outage does not empty a list. Agents
/// register their services again when they notice that Consul has lost them.
pub const EMPTY_HOLD: Duration = Duration::from_secs(30);

/// How long one query blocks. An unchanged list is confirmed that often, and a dead connection
/// noticed.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// The pause before it is asked again whether the last instances have gone, and after two answers that contradict each other.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// The pause before a query that verifies an answer is made again after a failure.
const VERIFY_PAUSE: Duration = Duration::from_secs(2);

/// The limit of an instance's weight on the ring, which has 160 points for each unit. Greater
/// weights are scaled down, and the greatest of them is then more than half of this.
const MAX_RING_WEIGHT: u32 = 16;

/// One instance of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The service's id on its node.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Its own address, or its node's when it has none.
    pub address: String,
    /// Its port; 0 when it was registered without one.
    pub port: u16,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its metadata.
    pub meta: Vec<(String, String)>,
    /// Its node's name.
    pub node: String,
    /// Whether one of its checks has the status `warning`.
    pub warns: bool,
    /// Its share of the picks, relative to the others.
    pub weight: u32,
}

/// The instances of a service at one moment.
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

    /// Whether it has an instance that another list has not.
    pub(super) fn has_others_than(&self, other: &List) -> bool {
        let there: BTreeSet<_> = other.instances.iter().map(identity).collect();
        self.instances.iter().any(|instance| !there.contains(&identity(instance)))
    }

    /// The weights of the instances; all are 1 when all are 0.
    fn weights(&self) -> impl Iterator<Item = u32> {
        let all_zero = self.instances.iter().all(|instance| instance.weight == 0);
        self.instances.iter().map(move |one| if all_zero { 1 } else { one.weight })
    }

    /// Built when first needed. All weights are divided by the same power of two, which changes
    /// only when the greatest weight doubles or halves.
    fn ring(&self) -> &Ring {
        self.ring.get_or_init(|| {
            let greatest = self.weights().max().unwrap_or(0);
            let scale = greatest.div_ceil(MAX_RING_WEIGHT).max(1).next_power_of_two();
            let weights = self.weights().map(|weight| f64::from(weight) / f64::from(scale));
            Ring::new(&self.instances.iter().map(identity).zip(weights).collect::<Vec<_>>())
        })
    }
}

/// Unique among all instances: the id of a service is unique on its node.
fn identity(instance: &Instance) -> String {
    format!("{}/{}", instance.node, instance.id)
}

/// A picked instance, as a reference into its list.
#[derive(Clone, Debug)]
pub struct Picked {
    /// The list that it was picked from.
    pub list: Arc<List>,
    /// Its index in that list.
    pub index: usize,
}

impl Picked {
    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.list.instances[self.index]
    }
}

/// The last known instances of a service.
#[derive(Debug)]
pub struct View {
    label: String,
    /// The name of the service.
    service: String,
    clock: Arc<dyn Clock>,
    state: Mutex<ViewState>,
}

#[derive(Debug, Default)]
struct ViewState {
    /// `None` before the first answer.
    list: Option<Arc<List>>,
    round_robin: RoundRobin,
    /// The time of the last answer, and its age at that time.
    confirmed: (Instant, Duration),
    /// How many instances the last answer has whose checks fail.
    failing: usize,
    /// How many of its entries are left out because they cannot be used.
    invalid: usize,
    /// Whether ACLs hide instances, or may hide some, as [`Meta::hidden`] says it.
    hidden: Option<&'static str>,
    /// The error of the current outage.
    last_error: Option<Error>,
    /// Whether the list is an older one than the last answer, which lacked instances and is not verified yet, or had none
    /// and came right after an outage.
    is_held: bool,
    has_ended: bool,
}

impl ViewState {
    fn has_some(&self) -> bool {
        self.list.as_ref().is_some_and(|list| !list.instances.is_empty())
    }
}

impl View {
    /// Its name in messages: `service_view "web"`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All instances.
    ///
    /// # Errors
    /// Before the first answer, the error of the outage or [`Kind::Timeout`]; [`Kind::Closed`]
    /// after the end of the view.
    pub fn all(&self) -> Result<Arc<List>, Error> {
        self.state().list(&self.label).cloned()
    }

    /// The next instance by smooth weighted round robin, as in nginx: in any sequence of picks each
    /// instance gets its share by weight, evenly spread.
    ///
    /// # Errors
    /// As [`View::all`]; [`Kind::NotFound`] when there is no instance.
    pub fn pick(&self) -> Result<Picked, Error> {
        let mut state = self.state();
        let list = Arc::clone(state.list(&self.label)?);
        let index = state.round_robin.next();
        let index = index.ok_or_else(|| self.empty(&state))?;
        Ok(Picked { list, index })
    }

    /// The instance that a key belongs to on a consistent hash ring with shares by weight.
    ///
    /// # Errors
    /// As [`View::pick`].
    pub fn pick_by(&self, key: &[u8]) -> Result<Picked, Error> {
        let list = self.all()?;
        let index = list.ring().owner(key);
        let index = index.ok_or_else(|| self.empty(&self.state()))?;
        Ok(Picked { list, index })
    }

    /// The time since Consul last confirmed the list. While nothing changes it does so every ten
    /// seconds or a little more.
    ///
    /// # Errors
    /// As [`View::all`].
    pub fn age(&self) -> Result<Duration, Error> {
        let state = self.state();
        state.list(&self.label)?;
        let (at, age) = state.confirmed;
        Ok((self.clock.now() - at).saturating_add(age))
    }

    /// Notes that the list was still right at a moment.
    pub(super) fn confirm(&self, at: Instant) {
        let mut state = self.state();
        if state.list.is_some() && !state.is_held && state.confirmed.0 < at {
            state.confirmed = (at, Duration::ZERO);
        }
    }

    /// The instances of the list that an answer has not, whatever their checks say.
    fn lacks(&self, answer: &Value) -> BTreeSet<String> {
        let text = |entry: &Value, of: &str, name: &str| {
            let member = entry.get(of).and_then(|of| of.get(name));
            member.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let own =
            |entry| format!("{}/{}", text(entry, "Node", "Node"), text(entry, "Service", "ID"));
        let there: BTreeSet<_> = answer.items().iter().map(own).collect();
        let list = self.state().list.clone();
        let known = list.iter().flat_map(|list| &list.instances).map(identity);
        known.filter(|identity| !there.contains(identity)).collect()
    }

    fn empty(&self, state: &ViewState) -> Error {
        let why = match (state.failing, state.invalid) {
            (0, 0) => "Consul lists none".to_owned(),
            (0, invalid) => format!("of {invalid} the entries are invalid, as the log says"),
            (failing, 0) => format!("of {failing} the checks fail"),
            (failing, invalid) => {
                format!("of {failing} the checks fail, and of {invalid} the entries are invalid")
            }
        };
        let mut message = format!("{}: there is no instance whose checks pass: {why}", self.label);
        if let Some(hidden) = state.hidden {
            message.push_str(&format!("; instances {hidden} (service:read and node:read)"));
        }
        Error::new(Kind::NotFound, message).not_sent()
    }

    fn state(&self) -> MutexGuard<'_, ViewState> {
        lock(&self.state)
    }
}

impl Source for View {
    fn write(&self, page: &mut Page) {
        page.level(&table::VIEWS, &[&self.service], 1.0);
        if let Ok(age) = self.age() {
            page.at_least(&table::VIEW_AGE, &[&self.service], age.as_secs_f64());
        }
    }
}

impl ViewState {
    fn list(&self, label: &str) -> Result<&Arc<List>, Error> {
        match (&self.list, &self.last_error) {
            _ if self.has_ended => {
                Err(Error::new(Kind::Closed, format!("{label}: the view has ended")))
            }
            (Some(list), _) => Ok(list),
            (None, Some(error)) => Err(error.clone().context(&format!("{label}: no answer yet"))),
            (None, None) => {
                let message = format!("{label}: no answer from Consul yet");
                Err(Error::new(Kind::Timeout, message).retryable())
            }
        }
    }

    fn replace(&mut self, list: List, fraction: f64) {
        self.round_robin = match &self.list {
            Some(before) => self.round_robin.after(before, &list),
            None => RoundRobin::new(&list, fraction),
        };
        // Built here if it is in use, so that no pick has to wait for it.
        if self.list.as_ref().is_some_and(|before| before.ring.get().is_some()) {
            list.ring();
        }
        self.list = Some(Arc::new(list));
    }
}

/// Smooth weighted round robin.
#[derive(Debug, Default)]
struct RoundRobin {
    /// The weight and the current credit of each instance. The one with the most credit is next.
    entries: Vec<(i64, i64)>,
    total: i64,
}

impl RoundRobin {
    /// Starts at a random instance, so that not all programs start with the same one.
    fn new(list: &List, fraction: f64) -> Self {
        let entries: Vec<_> = list.weights().map(|weight| (weight.into(), 0)).collect();
        let total = entries.iter().map(|(weight, _)| weight).sum();
        let mut round_robin = RoundRobin { entries, total };
        for _ in 0..(fraction * round_robin.entries.len() as f64) as usize {
            round_robin.next();
        }
        round_robin
    }

    /// Continues with another list: an instance in both keeps its credit.
    fn after(&self, before: &List, list: &List) -> Self {
        let ids = before.instances.iter().map(identity);
        let credits = BTreeMap::from_iter(ids.zip(self.entries.iter().map(|(_, credit)| *credit)));
        let entries = list.instances.iter().zip(list.weights()).map(|(instance, weight)| {
            (weight.into(), credits.get(&identity(instance)).copied().unwrap_or(0))
        });
        let entries: Vec<_> = entries.collect();
        let total = entries.iter().map(|(weight, _)| weight).sum();
        RoundRobin { entries, total }
    }

    fn next(&mut self) -> Option<usize> {
        let mut best: Option<(usize, i64)> = None;
        for (index, (weight, credit)) in self.entries.iter_mut().enumerate() {
            *credit += *weight;
            if *weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        self.entries[index].1 -= self.total;
        Some(index)
    }
}

/// A view of a service, and the stream that keeps it up to date while it is polled, with an item
/// for each answer of Consul and for a list that is emptied after its hold. `args` are as for `health_service`.
///
/// An answer without instances right after an outage empties the list only if there are still none
/// after `empty_hold`.
///
/// # Errors
/// As [`super::watch::watch`].
pub fn view(
    client: Arc<Client>,
    args: Args,
    empty_hold: Duration,
) -> Result<(Arc<View>, impl Stream<Item = ()> + Send), Error> {
    let options = WatchOptions { wait: WAIT, ..WatchOptions::default() };
    let states = states(Arc::clone(&client), &health::SERVICE, args.clone(), options)?.boxed();
    view_of(client, args, empty_hold, states)
}

/// As [`view`], of states that somebody else reads.
///
/// # Errors
/// An unacceptable argument.
pub(super) fn view_of(
    client: Arc<Client>,
    args: Args,
    empty_hold: Duration,
    states: BoxStream<'static, Result<State, Error>>,
) -> Result<(Arc<View>, impl Stream<Item = ()> + Send + use<>), Error> {
    let request = client.request(&health::SERVICE, &args)?;
    let service = request.subject().map_or_else(String::new, |(_, service)| service);
    let label = request.label.replacen(health::SERVICE.name, "service_view", 1);
    let view = Arc::new(View {
        label,
        service,
        clock: Arc::clone(client.clock()),
        state: Mutex::new(ViewState::default()),
    });
    let registered = metrics::register(Arc::downgrade(&view) as _);
    let updater = Updater {
        view: Arc::clone(&view),
        _registered: registered,
        client,
        args,
        states,
        empty_hold,
        empties_at: None,
        skipped: BTreeSet::new(),
    };
    let answers = unfold(updater, |mut updater| async move {
        updater.next().await?;
        Some(((), updater))
    });
    Ok((view, answers))
}

/// Keeps a view up to date.
struct Updater {
    view: Arc<View>,
    _registered: Registered,
    client: Arc<Client>,
    args: Args,
    states: BoxStream<'static, Result<State, Error>>,
    empty_hold: Duration,
    /// When the list is emptied unless an answer has instances before.
    empties_at: Option<Instant>,
    /// The unusable entries of the last answer, which are logged once.
    skipped: BTreeSet<String>,
}

impl Drop for Updater {
    fn drop(&mut self) {
        self.view.state().has_ended = true;
    }
}

impl Updater {
    /// Waits for the next answer and applies it, or empties the list when it is time to; `None` after the last answer.
    async fn next(&mut self) -> Option<()> {
        loop {
            let empties = self.view.clock.sleep_until_any(self.empties_at);
            match select(self.states.next(), empties).await {
                Either::Left((Some(Ok(state)), _)) => {
                    let state = verified(&self.view, &self.client, &self.args, state).await;
                    self.view.state().hidden = state.answer.meta.hidden();
                    self.take(state);
                    return Some(());
                }
                Either::Left((Some(Err(error)), _)) => {
                    // The answer after the outage decides.
                    self.empties_at = None;
                    self.view.state().last_error = Some(error);
                }
                Either::Left((None, _)) => return None,
                Either::Right(_) => {
                    self.hold_until(None);
                    self.replace(Vec::new());
                    return Some(());
                }
            }
        }
    }

    fn take(&mut self, state: State) {
        let (instances, failing) = self.read(&state.answer.value);
        let invalid = state.answer.value.items().len() - instances.len() - failing;
        {
            let mut current = self.view.state();
            (current.failing, current.invalid) = (failing, invalid);
        }
        let after_outage = state.is_resynchronised || self.empties_at.is_some();
        let has_some = self.view.state().has_some();
        if instances.is_empty() && has_some && after_outage && !self.empty_hold.is_zero() {
            if self.empties_at.is_none() {
                let hold_s = self.empty_hold.as_secs_f64();
                tracing::warn!(
                    view = self.view.label,
                    hold_s,
                    "no instances right after an outage: the last list stays for now"
                );
                self.hold_until(Some(self.view.clock.now() + self.empty_hold));
            }
            return;
        }
        self.hold_until(None);
        self.replace(instances);
        let mut current = self.view.state();
        current.confirmed = (self.view.clock.now(), age(&state.answer.meta));
        current.last_error = None;
    }

    fn hold_until(&mut self, ends: Option<Instant>) {
        self.empties_at = ends;
        self.view.state().is_held = ends.is_some();
    }

    fn replace(&self, instances: Vec<Instance>) {
        let mut current = self.view.state();
        let is_same = current.list.as_ref().is_some_and(|list| list.instances == instances);
        if !is_same {
            current.replace(List::new(instances), self.client.random_fraction());
        }
    }

    /// The instances in an answer, and how many others have checks that fail. Unusable entries are left out and logged
    /// once.
    fn read(&mut self, answer: &Value) -> (Vec<Instance>, usize) {
        let mut instances = Vec::new();
        let mut failing = 0;
        let mut skipped = BTreeSet::new();
        for entry in answer.items() {
            match instance(entry) {
                Ok(Some(instance)) => instances.push(instance),
                Ok(None) => failing += 1,
                Err(why) => {
                    if !self.skipped.contains(&why) {
                        tracing::warn!(view = self.view.label, why, "an instance is left out");
                    }
                    skipped.insert(why);
                }
            }
        }
        self.skipped = skipped;
        (instances, failing)
    }
}

/// A state. If it lacks instances of the list, or ACLs may hide all of it, it comes from queries that do not wait,
/// until two answers agree. A stream does not say whether ACLs hide some, and one answer may be another's, of a server
/// that is behind or of a cache.
async fn verified(view: &View, client: &Client, args: &Args, state: State) -> State {
    let meta = &state.answer.meta;
    let is_empty = state.answer.value.items().is_empty();
    let may_hide = is_empty && meta.is_streamed() && meta.default_acl_policy == Some("deny");
    let mut lacks = view.lacks(&state.answer.value);
    if lacks.is_empty() && !may_hide {
        return state;
    }
    view.state().is_held = true;
    if is_empty && !may_hide {
        view.clock.sleep(SECOND_LOOK).await;
    }
    loop {
        let pause = match client.read_past_caches(&health::SERVICE, args).await {
            Ok(answer) => {
                let last = mem::replace(&mut lacks, view.lacks(&answer.value));
                let is_refused = !lacks.is_empty() && is_leaderless(&answer.meta);
                if !is_refused && lacks.is_subset(&last) {
                    return State { answer, ..state };
                }
                SECOND_LOOK
            }
            Err(error) => {
                view.state().last_error = Some(error);
                VERIFY_PAUSE
            }
        };
        view.clock.sleep(pause).await;
    }
}

/// The age of a cached or stale answer when it arrived.
fn age(meta: &Meta) -> Duration {
    let cached = Duration::from_secs(meta.age_s.unwrap_or(0));
    cached.saturating_add(Duration::from_millis(meta.last_contact_ms.unwrap_or(0)))
}

/// The instance in an entry of `health_service`; `None` when one of its checks is critical.
///
/// # Errors
/// The reason why the entry cannot be used.
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
    let Some(port) = port else { return refuse("its Port is not a number from 0 to 65535") };
    let Some(tags) = texts(member("Service", "Tags")) else {
        return refuse("its Tags are not a list of strings");
    };
    let Some(meta) = texts_by_name(member("Service", "Meta")) else {
        return refuse("its Meta is not a table of strings");
    };
    let Some((passing, warning)) = weights(member("Service", "Weights")) else {
        return refuse("its Weights are not numbers from 0 to 65535");
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

/// The weights of an instance with passing and with warning checks. The default is 1; a catalog has
/// two zeros for an instance that was registered without weights.
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
