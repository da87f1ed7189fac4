//! Views of any number of services over two waiting queries, for a gateway: one process has them for its machine, and an
//! agent limits the connections of an address.
//!
//! `catalog/services` and `health/state/any` tell that something changed. A service whose name, tags or checks changed is
//! read again at once. A change that neither names (an address, a weight, the metadata) is found by reading all services
//! in turn.

use super::Client;
use super::view::{List, View, WAIT, view_of};
use super::watch::{State, WatchOptions, states};
use consul_api::api::{catalog, health};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::response::Answer;
use consul_api::value::Value;
use consul_process::clock::{BoxFuture, Instant};
use consul_process::sync::lock;
use futures_util::stream::{
    BoxStream, FuturesUnordered, SelectAll, Stream, StreamExt as _, poll_fn, unfold,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How often each of the two queries is made at most, per second.
const RATE_PER_S: f64 = 4.0;

/// How many services are read at a time.
const READS: usize = 4;

/// How long it takes to read all services in turn after a change that names none.
const TURN: Duration = Duration::from_secs(4);

/// The pause before a service is read again after a failure, and after a loss of instances.
const PAUSE: Duration = Duration::from_secs(1);

/// The name of views in messages.
pub const LABEL: &str = "service_views";

/// The views of the services that the program wants.
#[derive(Debug, Default)]
pub struct Views {
    state: Mutex<Known>,
    /// Tells the work that the program has chosen.
    chosen: Notify,
}

#[derive(Debug, Default)]
struct Known {
    views: BTreeMap<String, Arc<View>>,
    /// Services, with their tags, that the program has not decided about.
    offered: BTreeMap<String, Vec<String>>,
    /// The program's decisions, until the work has followed them.
    choices: VecDeque<(String, bool)>,
    /// Whether both queries have been answered.
    is_answered: bool,
    /// The error of the current outage.
    last_error: Option<Error>,
    /// Services that changed since the program took them.
    changed: BTreeSet<String>,
    /// Whether the program has news that it has not looked at.
    is_told: bool,
}

impl Views {
    /// The view of a service.
    pub fn view(&self, name: &str) -> Option<Arc<View>> {
        self.known().views.get(name).cloned()
    }

    /// The names of the services that have a view.
    pub fn names(&self) -> Vec<String> {
        self.known().views.keys().cloned().collect()
    }

    /// To be called for each item of the stream, before the program looks for news.
    pub fn were_told(&self) {
        self.known().is_told = false;
    }

    /// A service that changed since it was last returned here.
    pub fn next_changed(&self) -> Option<String> {
        self.known().changed.pop_first()
    }

    /// A service, with its tags, for [`Views::choose`].
    pub fn next_offered(&self) -> Option<(String, Vec<String>)> {
        let known = self.known();
        known.offered.first_key_value().map(|(name, tags)| (name.clone(), tags.clone()))
    }

    /// Decides whether the program wants a service that was offered.
    pub fn choose(&self, name: String, is_wanted: bool) {
        let mut known = self.known();
        known.offered.remove(&name);
        known.choices.push_back((name, is_wanted));
        self.chosen.notify_one();
    }

    /// Whether each service that the program wants has had an answer.
    ///
    /// # Errors
    /// The reason why not: the error of an outage, or [`Kind::Timeout`].
    pub fn are_ready(&self) -> Result<(), Error> {
        let known = self.known();
        if !known.is_answered || !known.offered.is_empty() || !known.choices.is_empty() {
            return Err(match &known.last_error {
                Some(error) => error.clone().context(&format!("{LABEL}: no answer yet")),
                None => {
                    let why = format!("{LABEL}: no answer from Consul yet");
                    Error::new(Kind::Timeout, why).retryable()
                }
            });
        }
        known.views.values().try_for_each(|view| view.all().map(drop))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.state)
    }
}

/// Which services have a view.
#[derive(Debug)]
pub enum Wanted {
    /// Those with these names.
    Named(Vec<String>),
    /// Those that the program chooses of the ones that there are.
    Chosen,
}

/// Views, and the stream that keeps them up to date while it is polled. It has one item for all news until
/// [`Views::were_told`].
///
/// # Errors
/// An unacceptable name.
pub fn views(
    client: Arc<Client>,
    wanted: Wanted,
    empty_hold: Duration,
) -> Result<(Arc<Views>, impl Stream<Item = ()> + Send), Error> {
    let options = || WatchOptions { wait: WAIT, rate_per_s: RATE_PER_S };
    let any = Args::new().arg("any");
    let views = Arc::new(Views::default());
    let mut work = Work {
        catalog: states(Arc::clone(&client), &catalog::SERVICES, Args::new(), options())?.boxed(),
        checks: states(Arc::clone(&client), &health::STATE, any, options())?.boxed(),
        services: BTreeMap::new(),
        spellings: BTreeMap::new(),
        is_chosen: matches!(wanted, Wanted::Chosen),
        listed: BTreeMap::new(),
        catalog_index: None,
        refused: BTreeSet::new(),
        known_checks: BTreeMap::new(),
        confirmed: (None, None),
        updates: SelectAll::new(),
        reads: FuturesUnordered::new(),
        urgent: VecDeque::new(),
        turn: VecDeque::new(),
        next_in_turn: None,
        retries: VecDeque::new(),
        views: Arc::clone(&views),
        empty_hold,
        client,
    };
    if let Wanted::Named(names) = wanted {
        for name in names {
            work.add(name)?;
        }
    }
    let items = unfold(work, |mut work| async move {
        while !(work.step().await && work.has_to_tell()) {}
        Some(((), work))
    });
    Ok((views, items))
}

/// A service with a view.
struct Service {
    feed: mpsc::UnboundedSender<Result<State, Error>>,
    /// Whether something may have changed that no read has seen.
    is_due: bool,
    /// Whether it is to be read as soon as possible.
    is_queued: bool,
    /// Whether it is left to read in this turn.
    is_in_turn: bool,
    /// Whether its last read failed, and it is not read again before the pause has ended.
    is_paused: bool,
    /// Whether a read is in flight. There is one at a time: of two on two connections the older answer can come last.
    is_read: bool,
    /// Whether it is read because a view of another spelling of its name saw a change.
    is_follow_up: bool,
    /// Whether the next answer comes after an outage.
    is_resynchronised: bool,
    /// The list that the program knows, or will be told.
    told: Option<Arc<List>>,
}

/// The status of a check, and the service that it is of, as Consul compares it; empty for a node's.
type Check = (String, String);

struct Work {
    client: Arc<Client>,
    views: Arc<Views>,
    empty_hold: Duration,
    is_chosen: bool,
    catalog: BoxStream<'static, Result<State, Error>>,
    checks: BoxStream<'static, Result<State, Error>>,
    services: BTreeMap<String, Service>,
    /// The names of these, by the names that Consul compares.
    spellings: BTreeMap<String, BTreeSet<String>>,
    /// The tags of each service of the catalog.
    listed: BTreeMap<String, Vec<String>>,
    catalog_index: Option<u64>,
    /// Services that the program does not want.
    refused: BTreeSet<String>,
    /// By node and id.
    known_checks: BTreeMap<(String, String), Check>,
    /// When each of the two queries was last answered.
    confirmed: (Option<Instant>, Option<Instant>),
    /// The names of services whose views took an answer.
    updates: SelectAll<BoxStream<'static, String>>,
    reads: FuturesUnordered<BoxFuture<'static, (String, Result<Answer, Error>)>>,
    urgent: VecDeque<String>,
    /// The services that are left to read in this turn.
    turn: VecDeque<String>,
    next_in_turn: Option<Instant>,
    /// The services whose last read failed, or showed fewer instances, and when they are read again.
    retries: VecDeque<(Instant, String)>,
}

impl Work {
    fn has_to_tell(&self) -> bool {
        !mem::replace(&mut self.views.known().is_told, true)
    }

    /// Waits for something, and does what follows from it. Returns whether there is news for the program.
    async fn step(&mut self) -> bool {
        let refusal = self.client.refusal_ends().filter(|ends| *ends > self.client.clock().now());
        if refusal.is_none() {
            self.start_reads();
        }
        let refusal = self.client.clock().sleep_until_any(refusal);
        let turn = self.client.clock().sleep_until_any(self.next_in_turn);
        let retry = self.retries.front().map(|(at, _)| *at);
        let retry = self.client.clock().sleep_until_any(retry);
        tokio::select! {
            biased;
            () = self.views.chosen.notified() => self.took_choices(),
            () = refusal => false,
            Some(state) = self.catalog.next() => self.took_catalog(state),
            Some(state) = self.checks.next() => self.took_checks(state),
            Some(name) = self.updates.next(), if !self.updates.is_empty() => self.tell(name),
            Some((name, answer)) = self.reads.next(), if !self.reads.is_empty() => {
                self.took_answer(&name, answer);
                false
            }
            () = retry => {
                if let Some((_, name)) = self.retries.pop_front() {
                    self.retry(&name);
                }
                false
            }
            () = turn => {
                self.next_of_turn();
                let pause = self.pause_of_turn();
                // From the time when it was due: delays do not add up.
                self.next_in_turn = self.next_in_turn.zip(pause).map(|(at, pause)| at + pause);
                false
            }
        }
    }

    fn pause_of_turn(&self) -> Option<Duration> {
        let count = u32::try_from(self.services.len().max(1)).unwrap_or(u32::MAX);
        (!self.turn.is_empty()).then(|| TURN / count)
    }

    /// Begins to read all services in turn, or again those that were read in this one.
    fn begin_turn(&mut self) {
        for (name, service) in &mut self.services {
            if !mem::replace(&mut service.is_in_turn, true) {
                self.turn.push_back(name.clone());
            }
        }
        let now = self.client.clock().now();
        self.next_in_turn.get_or_insert(now);
    }

    fn next_of_turn(&mut self) {
        let Some(name) = self.turn.pop_front() else { return };
        if let Some(service) = self.services.get_mut(&name) {
            service.is_in_turn = false;
        }
        self.due(&name);
    }

    fn add(&mut self, name: String) -> Result<(), Error> {
        let (feed, mut states) = mpsc::unbounded_channel();
        let states = poll_fn(move |context| states.poll_recv(context)).boxed();
        let args = Args::new().arg(name.as_str());
        let (view, answers) = view_of(Arc::clone(&self.client), args, self.empty_hold, states)?;
        self.spellings.entry(compared(&name)).or_default().insert(name.clone());
        let of = name.clone();
        self.updates.push(answers.map(move |()| of.clone()).boxed());
        let mut known = self.views.known();
        if let Some(error) = &known.last_error {
            let _ = feed.send(Err(error.clone()));
        }
        known.views.insert(name.clone(), view);
        drop(known);
        self.services.insert(
            name.clone(),
            Service {
                feed,
                is_due: false,
                is_queued: false,
                is_in_turn: false,
                is_paused: false,
                is_read: false,
                is_follow_up: false,
                is_resynchronised: false,
                told: None,
            },
        );
        self.due(&name);
        Ok(())
    }

    /// Reads a service again as soon as possible.
    fn due(&mut self, name: &str) {
        if let Some(service) = self.services.get_mut(name) {
            service.is_due = true;
            let is_later = service.is_read || service.is_paused;
            if !is_later && !mem::replace(&mut service.is_queued, true) {
                self.urgent.push_back(name.to_owned());
            }
        }
    }

    /// The same for the views of a service that Consul names, in whatever case they were asked for.
    fn due_as(&mut self, name: &str) {
        let names = self.spellings.get(&compared(name)).cloned().unwrap_or_default();
        names.iter().for_each(|name| self.due(name));
    }

    fn retry(&mut self, name: &str) {
        if let Some(service) = self.services.get_mut(name) {
            service.is_paused = false;
        }
        self.due(name);
    }

    /// None before both queries have been answered: a change between a read and the first answer would be in neither.
    fn start_reads(&mut self) {
        let (Some(_), Some(_)) = self.confirmed else { return };
        while self.reads.len() < READS
            && let Some(name) = self.urgent.pop_front()
        {
            let Some(service) = self.services.get_mut(&name) else { continue };
            (service.is_due, service.is_queued, service.is_read) = (false, false, true);
            let client = Arc::clone(&self.client);
            self.reads.push(Box::pin(async move {
                let args = Args::new().arg(name.as_str());
                let answer = client.read_past_caches(&health::SERVICE, &args).await;
                (name, answer)
            }));
        }
    }

    fn took_answer(&mut self, name: &str, answer: Result<Answer, Error>) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.is_read = false;
        match answer {
            Ok(answer) => {
                let is_resynchronised = mem::take(&mut service.is_resynchronised);
                // A state that the query of the checks may never answer with: what follows it is a change.
                let own = compared(name);
                let mut before = BTreeMap::new();
                self.known_checks.retain(|id, check| {
                    let is_own = check.1 == own;
                    if is_own {
                        before.insert(id.clone(), check.clone());
                    }
                    !is_own
                });
                let checks = answer.value.items().iter().flat_map(|instance| {
                    instance.get("Checks").into_iter().flat_map(Value::items).map(known_check)
                });
                let mut nodes = BTreeSet::new();
                let mut now = BTreeMap::new();
                for (id, check) in checks {
                    if check.1 == own {
                        now.insert(id.clone(), check.clone());
                    }
                    let (node, is_of_node) = (id.0.clone(), check.1.is_empty());
                    let known = self.known_checks.insert(id, check.clone());
                    if is_of_node && known.is_none_or(|known| known != check) {
                        nodes.insert(node);
                    }
                }
                // Not of a read that follows from another spelling's: servers that differ would have it go on forever.
                let is_news = !mem::take(&mut service.is_follow_up) && now != before;
                let state = State { answer, is_resynchronised, is_after_error: false };
                let _ = service.feed.send(Ok(state));
                if service.is_due {
                    self.due(name);
                }
                // The query of the checks will not show these as changes any more: neither for the other services on the
                // nodes nor for the views of this service under another spelling.
                self.nodes_changed(&nodes);
                let spellings = self.spellings.get(&own).filter(|_| is_news).cloned();
                for spelling in spellings.iter().flatten().filter(|it| *it != name) {
                    if let Some(service) = self.services.get_mut(spelling) {
                        service.is_follow_up = true;
                    }
                    self.due(spelling);
                }
            }
            Err(error) => {
                let _ = service.feed.send(Err(error));
                (service.is_resynchronised, service.is_due, service.is_paused) = (true, true, true);
                self.retries.push_back((self.client.clock().now() + PAUSE, name.to_owned()));
            }
        }
    }

    /// Puts an error of one of the queries into all views; after an outage all are read again.
    fn answered(&mut self, state: Result<State, Error>) -> Option<State> {
        match state {
            Ok(state) => {
                if state.is_resynchronised {
                    let names: Vec<_> = self.services.keys().cloned().collect();
                    for name in names {
                        if let Some(service) = self.services.get_mut(&name) {
                            service.is_resynchronised = true;
                        }
                        self.due(&name);
                    }
                }
                Some(state)
            }
            Err(error) => {
                for service in self.services.values() {
                    let _ = service.feed.send(Err(error.clone()));
                }
                self.views.known().last_error = Some(error);
                None
            }
        }
    }

    fn took_catalog(&mut self, state: Result<State, Error>) -> bool {
        let Some(state) = self.answered(state) else { return false };
        let listed = tags_by_name(&state.answer.value);
        let before = mem::replace(&mut self.listed, listed);
        let changed: Vec<String> = self
            .listed
            .iter()
            .filter(|(name, tags)| before.get(*name) != Some(tags))
            .map(|(name, _)| name.clone())
            .chain(before.keys().filter(|name| !self.listed.contains_key(*name)).cloned())
            .collect();
        // One answer can stand for several changes, and some of them name no service.
        let index = mem::replace(&mut self.catalog_index, state.answer.meta.index);
        if index != self.catalog_index && self.confirmed.0.is_some() {
            self.begin_turn();
        }
        let mut is_news = false;
        for name in changed {
            if !self.listed.contains_key(&name) {
                self.refused.remove(&name);
                self.views.known().offered.remove(&name);
            }
            if self.is_chosen && !self.services.contains_key(&name) && !self.refused.contains(&name)
            {
                let Some(tags) = self.listed.get(&name) else { continue };
                is_news |= self.views.known().offered.insert(name, tags.clone()).is_none();
            } else {
                self.due_as(&name);
            }
        }
        self.confirmed.0 = Some(self.client.clock().now());
        self.confirm() || is_news
    }

    fn took_checks(&mut self, state: Result<State, Error>) -> bool {
        let Some(state) = self.answered(state) else { return false };
        let known = state.answer.value.items().iter().map(known_check).collect();
        let before = mem::replace(&mut self.known_checks, known);
        let mut changed = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        let mut note = |(node, _): &(String, String), (_, service): &Check| {
            if service.is_empty() {
                nodes.insert(node.clone());
            } else {
                changed.insert(service.clone());
            }
        };
        for (id, check) in &self.known_checks {
            if before.get(id) != Some(check) {
                note(id, check);
            }
        }
        for (id, check) in before.iter().filter(|(id, _)| !self.known_checks.contains_key(*id)) {
            note(id, check);
        }
        if self.confirmed.1.is_some() {
            changed.iter().for_each(|name| self.due_as(name));
            self.nodes_changed(&nodes);
        }
        self.confirmed.1 = Some(self.client.clock().now());
        self.confirm()
    }

    /// Reads again all that can depend on the checks of these nodes.
    fn nodes_changed(&mut self, nodes: &BTreeSet<String>) {
        if nodes.is_empty() {
            return;
        }
        let on_them = self.known_checks.iter().filter(|((node, _), _)| nodes.contains(node));
        let names: BTreeSet<_> = on_them.map(|(_, (_, service))| service.clone()).collect();
        names.iter().for_each(|name| self.due_as(name));
        // Services without checks of their own fail and recover with their node.
        self.begin_turn();
    }

    /// Views without a known change that was not read are right as of the older of the two answers. Returns whether
    /// both have an answer for the first time.
    fn confirm(&self) -> bool {
        let (Some(catalog), Some(checks)) = self.confirmed else { return false };
        let mut known = self.views.known();
        known.last_error = None;
        let is_first = !mem::replace(&mut known.is_answered, true);
        for (name, service) in &self.services {
            if !service.is_due
                && !service.is_in_turn
                && !service.is_read
                && let Some(view) = known.views.get(name)
            {
                view.confirm(catalog.min(checks));
            }
        }
        is_first
    }

    fn took_choices(&mut self) -> bool {
        let next = |views: &Views| views.known().choices.front().cloned();
        while let Some((name, is_wanted)) = next(&self.views) {
            if !is_wanted {
                self.refused.insert(name);
            } else if !self.services.contains_key(&name) {
                // Its name came from Consul.
                if let Err(error) = self.add(name) {
                    tracing::warn!(%error, "a service is left out");
                }
            }
            // Not before there is a view: without both the views would look ready on another thread.
            self.views.known().choices.pop_front();
        }
        true
    }

    /// Takes note of an answer for a service. Returns whether its list is another one.
    fn tell(&mut self, name: String) -> bool {
        let Some(service) = self.services.get_mut(&name) else { return false };
        let mut known = self.views.known();
        let list = known.views.get(&name).and_then(|view| view.all().ok());
        let is_same = match (&list, &service.told) {
            (Some(list), Some(told)) => Arc::ptr_eq(list, told),
            (list, told) => list.is_none() && told.is_none(),
        };
        let is_empty = list.as_ref().is_some_and(|list| list.instances().is_empty());
        let lost_some = match (&service.told, &list) {
            (Some(told), Some(list)) if !is_same && !is_empty => told.has_others_than(list),
            _ => false,
        };
        service.told = list;
        // The two queries do not show an instance that is missing by mistake.
        if lost_some {
            service.is_due = true;
            self.retries.push_back((self.client.clock().now() + PAUSE, name.clone()));
        }
        // With no read to come, whose answer would be taken for one of the service's when it has come back.
        let is_read = service.is_due || service.is_read;
        let is_gone = self.is_chosen && is_empty && !is_read && !self.listed.contains_key(&name);
        if is_gone {
            known.views.remove(&name);
            self.services.remove(&name);
            if let Some(spellings) = self.spellings.get_mut(&compared(&name)) {
                spellings.remove(&name);
            }
        }
        if is_gone || !is_same {
            known.changed.insert(name);
        }
        is_gone || !is_same
    }
}

/// A service's name as Consul compares it.
fn compared(name: &str) -> String {
    name.to_lowercase()
}

fn tags_by_name(services: &Value) -> BTreeMap<String, Vec<String>> {
    let Value::Map(members) = services else { return BTreeMap::new() };
    let tags =
        |tags: &Value| tags.items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    members.iter().map(|(name, given)| (name.clone(), tags(given))).collect()
}

/// The node and the id of a check, and what is known of it.
fn known_check(check: &Value) -> ((String, String), Check) {
    let text = |name| check.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    ((text("Node"), text("CheckID")), (text("Status"), compared(&text("ServiceName"))))
}
