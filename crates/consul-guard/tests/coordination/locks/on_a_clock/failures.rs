//! The behaviour of a process when agents and proxies refuse, lose or hurry: pauses, sessions and renewals.

use super::*;

pub(super) fn slow_proofs(world: &Simulated) {
    const LATENCY: Duration = Duration::from_millis(300);
    world.agent.add_fault(simulate::Fault { latency: LATENCY, ..simulate::Fault::default() });
    let process = world.process();
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let most = process.profile().lease - LATENCY;
    for _ in 0..400 {
        assert!(lease.is_held() && lease.remaining() <= most, "{:?}", lease.remaining());
        world.clock.advance(Duration::from_millis(10));
    }
}

pub(super) fn refused_transaction(error: &str) -> Response<Bytes> {
    let body = format!(r#"{{"Results":null,"Errors":[{error}]}}"#);
    Response::builder().status(409).body(body.into()).expect("a valid answer")
}

/// The counts of a transport while a lock, and then a semaphore, cannot be acquired.
pub(super) fn counts_of_failures<T: Transport + 'static>(
    world: &Simulated,
    wait: Duration,
    transport: impl FnOnce(SimTransport) -> T,
    counter: impl Fn(&T) -> &AtomicU64,
) -> [u64; 2] {
    let mut made = None;
    let process = world.process_behind(|inner| {
        let transport = Arc::new(transport(inner));
        made = Some(Arc::clone(&transport));
        transport
    });
    let made = made.expect("it was made");
    let wait = Wait::For(wait);
    world.run(acquire(&process, wait)).expect_err("a lock is not acquired");
    let of_lock = counter(&made).swap(0, Ordering::Relaxed);
    world.run(permit(&process, 1, wait)).expect_err("a permit is not acquired");
    [of_lock, counter(&made).swap(0, Ordering::Relaxed)]
}

/// An agent, or a proxy before it, for which every transaction came too late.
#[derive(Debug)]
pub(super) struct TooLate {
    transport: SimTransport,
    transactions: AtomicU64,
}

impl Transport for TooLate {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        if request.uri().path() != "/v1/txn" {
            return self.transport.send(request);
        }
        self.transactions.fetch_add(1, Ordering::Relaxed);
        let answer = refused_transaction(r#"{"OpIndex":0,"What":"key \"k\" exists"}"#);
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn lost_races(world: &Simulated) {
    let counts = counts_of_failures(
        world,
        Duration::from_secs(1),
        |transport| TooLate { transport, transactions: AtomicU64::new(0) },
        |agent| &agent.transactions,
    );
    assert!(counts.iter().all(|count| (10..=50).contains(count)), "{counts:?}");
}

/// An agent, or a proxy before it, that never shows that a session holds a key.
#[derive(Debug)]
pub(super) struct ShowsNoSession {
    transport: SimTransport,
    requests: AtomicU64,
}

impl Transport for ShowsNoSession {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (is_kv, is_txn) = (
            request.uri().path().starts_with("/v1/kv/") && request.method() == "GET",
            request.uri().path() == "/v1/txn",
        );
        Box::pin(async move {
            if is_txn {
                return Ok(refused_transaction(r#"{"OpIndex":1,"What":"invalid session"}"#));
            }
            let mut answer = self.transport.send(request).await?;
            if is_kv {
                let body = String::from_utf8_lossy(answer.body());
                *answer.body_mut() = Bytes::from(body.replace(r#""Session""#, r#""Other""#));
            }
            Ok(answer)
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn useless_sessions(world: &Simulated) {
    let counts = counts_of_failures(
        world,
        Duration::from_secs(3),
        |transport| ShowsNoSession { transport, requests: AtomicU64::new(0) },
        |agent| &agent.requests,
    );
    assert!(counts.iter().all(|count| (10..=20).contains(count)), "{counts:?}");
}

/// An agent, or a proxy before it, that answers blocking queries at once.
#[derive(Debug)]
pub(super) struct NeverBlocks {
    transport: SimTransport,
    requests: AtomicU64,
}

impl Transport for NeverBlocks {
    fn send(&self, mut request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(number < 10_000, "a loop without a pause");
        let target = request.uri().to_string();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: Vec<_> = query.split('&').filter(|part| !part.starts_with("index=")).collect();
        *request.uri_mut() = format!("{path}?{}", query.join("&")).parse().expect("a target");
        self.transport.send(request)
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn unblocked_waiter(world: &Simulated) {
    let holder = world.process();
    let lease = world.run(acquire(&holder, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let mut made = None;
    let waiter = world.process_behind(|transport| {
        let agent = Arc::new(NeverBlocks { transport, requests: AtomicU64::new(0) });
        made = Some(Arc::clone(&agent));
        agent
    });
    let wait = Wait::For(Duration::from_secs(3));
    world.run(acquire(&waiter, wait)).expect_err("another process holds it");
    let requests = made.expect("it was made").requests.load(Ordering::Relaxed);
    assert!((20..=200).contains(&requests), "{requests}");
}

pub(super) fn keeping_ends(world: &Simulated) {
    let process = world.process();
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    let kept = async {
        assert_eq!(lease.keep().await, None);
        world.clock.now()
    };
    let released = async {
        world.clock.sleep(Duration::from_millis(100)).await;
        lease.release().await.expect("it is held");
        world.clock.now()
    };
    let (kept, released) = world.run(futures_util::future::join(kept, released));
    assert!(kept <= released + Duration::from_millis(10), "{:?} later", kept - released);
}

pub(super) fn waiting_sends_little(world: &Simulated) {
    let (one, two) = (world.process(), world.process());
    let lease = world.run(acquire(&one, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    let sent = |work: &dyn Fn()| {
        let before = world.agent.stats().requests;
        work();
        world.agent.stats().requests - before
    };
    let minute = Duration::from_secs(60);
    let alone = sent(&|| world.clock.advance(minute));
    let waiting = sent(&|| {
        let wait = Wait::For(minute);
        world.run(acquire(&two, wait)).expect_err("it is held");
    });
    // One query in 5 s, and the renewal of a session only after a failed attempt.
    assert!(waiting - alone < 60 / 5 * 2 + 5, "{alone} alone, {waiting} while one waits");
    assert!(lease.is_held());
}

/// An agent, or a proxy before it, that answers blocking queries at once and counts renewals.
#[derive(Debug)]
pub(super) struct CountsRenewals(NeverBlocks, AtomicU64);

impl Transport for CountsRenewals {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_renewal = request.uri().path().starts_with("/v1/session/renew");
        self.1.fetch_add(u64::from(is_renewal), Ordering::Relaxed);
        self.0.send(request)
    }

    fn endpoint(&self) -> &str {
        self.0.endpoint()
    }
}

pub(super) fn renewals_of_waiters(world: &Simulated) {
    let holder = world.process();
    let lock = world.run(acquire(&holder, Wait::Forever)).expect("it is free");
    let permit = world.run(permit(&holder, 1, Wait::Forever)).expect("a permit is free");
    world.keep(&lock);
    world.keep(&permit);
    let counts = counts_of_failures(
        world,
        Duration::from_secs(30),
        |transport| {
            let agent = NeverBlocks { transport, requests: AtomicU64::new(0) };
            CountsRenewals(agent, AtomicU64::new(0))
        },
        |agent| &agent.1,
    );
    // A lock's waiter has no session before it is free.
    let usual = 30 / holder.profile().renew_interval().as_secs();
    assert!(counts[0] == 0 && (usual..=usual * 2 + 1).contains(&counts[1]), "{counts:?}");
}

/// A cache of 60 s in front of the agent, whose key is the URL, and which marks nothing.
#[derive(Debug)]
pub(super) struct UrlCache {
    transport: SimTransport,
    clock: ManualClock,
    kept: Mutex<BTreeMap<String, (Instant, Response<Bytes>)>>,
}

impl Transport for UrlCache {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let url = (request.method() == "GET").then(|| request.uri().to_string());
        Box::pin(async move {
            let Some(url) = url else { return self.transport.send(request).await };
            let kept = self.kept.lock().expect("no panic elsewhere").get(&url).cloned();
            if let Some((_, kept)) =
                kept.filter(|(at, _)| self.clock.now() - *at < Duration::from_secs(60))
            {
                return Ok(kept);
            }
            let answer = self.transport.send(request).await?;
            let kept = (self.clock.now(), answer.clone());
            self.kept.lock().expect("no panic elsewhere").insert(url, kept);
            Ok(answer)
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn cached_waiter(world: &Simulated) {
    let holder = world.process();
    let waiter = world.process_behind(|transport| {
        let clock = world.clock.clone();
        Arc::new(UrlCache { transport, clock, kept: Mutex::default() })
    });
    for is_lock in [true, false] {
        let get = |process: Arc<Presence>| async move {
            match is_lock {
                true => acquire(&process, Wait::Forever).await,
                false => permit(&process, 1, Wait::Forever).await,
            }
        };
        let held = world.run(get(Arc::clone(&holder))).expect("it is free");
        world.keep(&held);
        world.run(async {
            let released = async {
                // Several waits of the waiter, with the same index.
                world.clock.sleep(Duration::from_secs(22)).await;
                held.release().await.expect("it is held");
                world.clock.now()
            };
            let (got, free) = futures_util::join!(get(Arc::clone(&waiter)), released);
            let took = world.clock.now() - free;
            assert!(took < Profile::standard().takeover(), "{took:?}");
            got.expect("it is free").release().await.expect("it is held");
        });
    }
}

/// An agent, or something between, whose first reply to a renewal has a TTL of a day.
#[derive(Debug)]
pub(super) struct OneDay {
    transport: SimTransport,
    is_said: AtomicBool,
}

impl Transport for OneDay {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        let is_renewal = request.uri().path().starts_with("/v1/session/renew/");
        Box::pin(async move {
            let answer = self.transport.send(request).await?;
            if !is_renewal || self.is_said.swap(true, Ordering::Relaxed) {
                return Ok(answer);
            }
            Ok(answer.map(|body| {
                Bytes::from(String::from_utf8_lossy(&body).replace("\"10s\"", "\"24h\""))
            }))
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn day_of_renewal(world: &Simulated) {
    let process = world.process_behind(|transport| {
        Arc::new(OneDay { transport, is_said: AtomicBool::new(false) })
    });
    let lease = world.run(acquire(&process, Wait::Forever)).expect("it is free");
    world.keep(&lease);
    world.clock.advance(Duration::from_secs(120));
    assert!(lease.is_held() && !lease.has_ended());
}

/// A network that loses the answer to the first key that a session acquires, whose session ends meanwhile.
#[derive(Debug)]
pub(super) struct LosesSession {
    transport: SimTransport,
    is_lost: AtomicBool,
}

impl Transport for LosesSession {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let session = query.split('&').find_map(|pair| pair.strip_prefix("acquire="));
            let answer = self.transport.send(request).await;
            let Some(session) = session else { return answer };
            if self.is_lost.swap(true, Ordering::Relaxed) {
                return answer;
            }
            let destroy = Request::put(format!("/v1/session/destroy/{session}"));
            let destroy = destroy.body(Bytes::new()).expect("a valid request");
            self.transport.send(destroy).await?;
            Err(Error::new(Kind::Connect, "the connection was cut").retryable())
        })
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

pub(super) fn session_of_a_contender(world: &Simulated) {
    let process = world.process_behind(|transport| {
        Arc::new(LosesSession { transport, is_lost: AtomicBool::new(false) })
    });
    let lease = world.run(permit(&process, 1, Wait::Forever)).expect("nobody has a permit");
    world.keep(&lease);
    assert!(lease.is_held());
}
