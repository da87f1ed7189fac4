//! How a client stands for what it holds: its presence, and what waits and holds by it, in the
//! background.

use super::background::{Home, Job};
use crate::client::Client;
use crate::client::coordination::lock::{self, LockOptions};
use crate::client::coordination::semaphore::{self, SemaphoreOptions};
use crate::client::coordination::{Event, Lease, Presence, Profile, Service, Wait};
use crate::error::{Error, Kind};
use crate::sync::lock as locked;
use futures_util::future::{Either, join_all, ready, select};
use futures_util::stream::{self, Stream, StreamExt};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the end of a lock, a client or a Lua state may wait for what it held to be given up.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// A presence that is kept up in the background.
pub struct Standing {
    presence: Arc<Presence>,
    home: Home,
    up: Job<Infallible>,
    is_closed: AtomicBool,
    places: Mutex<Vec<Weak<Place>>>,
}

impl Standing {
    /// A standing of this client; queries that wait go through `waiting`.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors to give.
    pub fn new(
        client: Arc<Client>,
        waiting: Arc<Client>,
        profile: Profile,
        home: Home,
    ) -> Result<Arc<Self>, Error> {
        let service = Service::of_a_process(&client);
        let presence = Presence::new(client, waiting, profile, service);
        let running = Arc::clone(&presence);
        let up = Job::start(&home, stream::once(async move { running.run().await }))?;
        let (is_closed, places) = (AtomicBool::new(false), Mutex::default());
        Ok(Arc::new(Self { presence, home, up, is_closed, places }))
    }

    /// The times that it goes by.
    pub fn profile(&self) -> &Profile {
        self.presence.profile()
    }

    /// Gives up what it holds and withdraws, waiting a little for both.
    pub fn close(&self) {
        if self.up.is_of_parent() || self.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.up.cancel();
        let places: Vec<_> = locked(&self.places).iter().filter_map(Weak::upgrade).collect();
        let presence = Arc::clone(&self.presence);
        let farewell = async move {
            join_all(places.iter().map(|place| place.leave())).await;
            // Sessions that are left end with the service's check.
            if let Err(error) = presence.withdraw().await {
                tracing::info!(%error, "the service is left to its check");
            }
        };
        self.home.finish(farewell, FAREWELL);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a lock or a semaphore is about.
#[derive(Clone, Debug)]
pub enum Goal {
    /// The lock on a key, and the key's value while it is held.
    Lock(String, Option<Vec<u8>>),
    /// A permit of the semaphore under a prefix, how many there are, and the contender's value.
    Permit(String, u64, Vec<u8>),
}

/// A wait for a lock or a permit and what follows from it, counted from 1 at each place.
pub type Turn = u64;

/// What becomes of a turn.
pub enum News {
    /// It was granted, with this fencing token.
    Acquired(Turn, u64),
    /// It was not acquired.
    Failed(Turn, Error),
    /// Something happened to what was granted.
    Event(Event),
    /// Nothing more comes of it.
    Over(Turn),
}

/// What is to be done in the background.
struct Order {
    turn: Turn,
    wait: Wait,
    /// Its sender is dropped when nobody wants it any more.
    unwanted: oneshot::Receiver<Infallible>,
}

/// One that waits for a lock or holds it.
pub struct Place {
    standing: Arc<Standing>,
    goal: Goal,
    state: Mutex<State>,
    turns: AtomicU64,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Dropped, it ends the wait.
    Waiting {
        turn: Turn,
        _wanted: oneshot::Sender<Infallible>,
    },
    Granted(Arc<Lease>),
}

impl Place {
    /// A place, and the job that gives its news.
    ///
    /// # Errors
    /// [`Kind::Config`] when the system has no descriptors to give.
    pub fn new(standing: Arc<Standing>, goal: Goal) -> Result<(Arc<Self>, Job<News>), Error> {
        let (orders, ordered) = mpsc::unbounded_channel();
        let home = standing.home.clone();
        let (state, turns) = (Mutex::default(), AtomicU64::new(0));
        let place = Arc::new(Self { standing, goal, state, turns, orders });
        {
            let mut places = locked(&place.standing.places);
            places.retain(|place| place.strong_count() > 0);
            places.push(Arc::downgrade(&place));
        }
        let ordered = stream::unfold(ordered, |mut ordered| async move {
            ordered.recv().await.map(|order| (order, ordered))
        });
        let worker = Arc::downgrade(&place);
        let presence = Arc::clone(&place.standing.presence);
        let goal = place.goal.clone();
        let news = ordered.flat_map(move |order| {
            play(Arc::clone(&presence), goal.clone(), worker.clone(), order)
        });
        Ok((place, Job::start(&home, news)?))
    }

    /// Begins a turn: waits in the background.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when it waits or holds already, [`Kind::Closed`] when the client is closed.
    pub fn begin(&self, wait: Wait) -> Result<Turn, Error> {
        if self.standing.is_closed.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Closed, "the client is closed").not_sent());
        }
        let mut state = locked(&self.state);
        let is_free = match &*state {
            State::Idle => true,
            State::Waiting { .. } => false,
            State::Granted(lease) => lease.has_ended(),
        };
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let (_wanted, unwanted) = oneshot::channel();
        if !is_free || self.orders.send(Order { turn, wait, unwanted }).is_err() {
            let message = "this client holds it or waits for it already";
            return Err(Error::new(Kind::Conflict, message).not_sent());
        }
        *state = State::Waiting { turn, _wanted };
        Ok(turn)
    }

    /// Where its work goes on.
    pub fn home(&self) -> Home {
        self.standing.home.clone()
    }

    /// Gives up waiting; whether it waited.
    pub fn cancel(&self) -> bool {
        let mut state = locked(&self.state);
        let waits = matches!(*state, State::Waiting { .. });
        if waits {
            *state = State::Idle;
        }
        waits
    }

    /// Whether it waits.
    pub fn waits(&self) -> bool {
        matches!(*locked(&self.state), State::Waiting { .. })
    }

    /// What was granted last; it may have ended.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        match &*locked(&self.state) {
            State::Granted(lease) => Some(Arc::clone(lease)),
            _ => None,
        }
    }

    /// Gives up what it holds or waits for, waiting a little for that.
    pub fn end(self: Arc<Self>) {
        self.home().finish(async move { self.leave().await }, FAREWELL);
    }

    async fn leave(&self) {
        self.cancel();
        if let Some(lease) = self.lease().filter(|lease| !lease.has_ended())
            && let Err(error) = lease.release().await
        {
            tracing::info!(%error, "not released");
        }
    }

    /// Takes what came of a turn, if it is wanted still.
    fn take(&self, turn: Turn, outcome: &Result<Arc<Lease>, Error>) -> bool {
        let mut state = locked(&self.state);
        let is_wanted = matches!(&*state, State::Waiting { turn: wanted, .. } if *wanted == turn);
        if is_wanted {
            *state = match outcome {
                Ok(lease) => State::Granted(Arc::clone(lease)),
                Err(_) => State::Idle,
            };
        }
        is_wanted
    }
}

/// One turn, from the wait to the end of what was granted.
fn play(
    presence: Arc<Presence>,
    goal: Goal,
    place: Weak<Place>,
    Order { turn, wait, unwanted }: Order,
) -> impl Stream<Item = News> + Send {
    let outcome = async move {
        let given_up = || Error::new(Kind::Closed, "the wait was given up");
        let outcome = match select(pin!(acquire(&presence, &goal, wait)), unwanted).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(given_up()),
        };
        let is_wanted = place.upgrade().is_some_and(|place| place.take(turn, &outcome));
        if is_wanted { outcome } else { Err(given_up()) }
    };
    let news = stream::once(outcome).flat_map(move |outcome| match outcome {
        Ok(lease) => {
            let acquired = News::Acquired(turn, lease.token());
            stream::once(ready(acquired)).chain(events(lease)).left_stream()
        }
        Err(error) => stream::once(ready(News::Failed(turn, error))).right_stream(),
    });
    news.chain(stream::once(ready(News::Over(turn))))
}

async fn acquire(presence: &Arc<Presence>, goal: &Goal, wait: Wait) -> Result<Arc<Lease>, Error> {
    match goal {
        Goal::Lock(key, value) => {
            lock::acquire(presence, key, &LockOptions { value: value.clone(), wait }).await
        }
        Goal::Permit(prefix, limit, value) => {
            let options = SemaphoreOptions { limit: *limit, value: value.clone(), wait };
            semaphore::acquire(presence, prefix, &options).await
        }
    }
}

/// Keeps a lease, and tells what happens to it until it ends.
fn events(lease: Arc<Lease>) -> impl Stream<Item = News> + Send {
    let keeper = Arc::clone(&lease);
    let keeping = stream::once(async move { keeper.keep().await }).filter_map(|_| ready(None));
    let happening = stream::unfold(lease, |lease| async move {
        lease.next_event().await.map(|event| (News::Event(event), lease))
    });
    stream::select(happening, keeping)
}
