package main

import (
	"time"

	"github.com/hashicorp/consul/api"
)

// soon is the least lock-delay: none would be taken for Consul's own default.
const soon = time.Millisecond

func sessions(s story) {
	kv, sessions := s.KV(), s.Session()
	id := put(sessions.Create(&api.SessionEntry{
		Name: "mine", TTL: "30s", Behavior: api.SessionBehaviorDelete, LockDelay: soon,
	}, nil))
	entry, _ := get(sessions.Info(id, nil))
	s.say("a session", entry.Name, entry.TTL, entry.Behavior, entry.LockDelay, entry.NodeChecks,
		len(entry.ServiceChecks), entry.Node != "")
	all, _ := get(sessions.List(nil))
	s.say("all sessions", names(all, func(entry *api.SessionEntry) string { return entry.Name }))
	of, _ := get(sessions.Node(entry.Node, nil))
	s.say("of its node", names(of, func(entry *api.SessionEntry) string { return entry.Name }))
	renewed, _, err := sessions.Renew(id, nil)
	s.must(err)
	s.say("renewed", renewed.ID == id, renewed.TTL)

	other := put(sessions.CreateNoChecks(&api.SessionEntry{Name: "other"}, nil))
	entry, _ = get(sessions.Info(other, nil))
	s.say("by default", entry.TTL == "", entry.Behavior, entry.LockDelay, len(entry.NodeChecks))
	key := func(session string) *api.KVPair {
		return &api.KVPair{Key: "session/k", Value: []byte("held"), Session: session}
	}
	s.say("acquired", put(kv.Acquire(key(id), nil)), put(kv.Acquire(key(id), nil)))
	s.say("by another", put(kv.Acquire(key(other), nil)), put(kv.Release(key(other), nil)))
	pair, _ := get(kv.Get("session/k", nil))
	s.say("held", pair.Session == id, pair.LockIndex)
	s.say("released", put(kv.Release(key(id), nil)), put(kv.Release(key(id), nil)))
	s.say("again", put(kv.Acquire(key(id), nil)))
	pair, _ = get(kv.Get("session/k", nil))
	s.say("held", pair.Session == id, pair.LockIndex)
	done(sessions.Destroy(id, nil))
	done(sessions.Destroy(id, nil))
	s.say("its key went with it", s.value("session/k"))
	entry, _ = get(sessions.Info(id, nil))
	s.say("destroyed", entry == nil)
	renewed, _, err = sessions.Renew(id, nil)
	s.must(err)
	s.say("renewal failed", renewed == nil)
	// Not the same key, which its lock-delay may still keep.
	_, _, err = kv.Acquire(&api.KVPair{Key: "session/other", Session: id}, nil)
	s.refused("acquire failed", err, "invalid session")

	slow := put(sessions.CreateNoChecks(&api.SessionEntry{Name: "slow", LockDelay: 3 * time.Second}, nil))
	isTrue := func(acquired bool) bool { return acquired }
	// The lock-delay of the first session may not have passed yet.
	s.say("acquired with a delay", until(isTrue, func() bool { return put(kv.Acquire(key(slow), nil)) }))
	done(sessions.Destroy(slow, nil))
	s.say("kept, but free", s.value("session/k"), put(kv.Acquire(key(other), nil)))
	acquired := until(isTrue, func() bool { return put(kv.Acquire(key(other), nil)) })
	s.say("after the delay", acquired)
	done(sessions.Destroy(other, nil))

	_, _, err = sessions.Create(&api.SessionEntry{TTL: "1s"}, nil)
	s.refused("too short a life", err, "Invalid Session TTL")
	_, _, err = sessions.Create(&api.SessionEntry{Checks: []string{"none"}}, nil)
	s.refused("an unknown check", err, "Missing check 'none' registration")

	stop := make(chan struct{})
	periodic := put(sessions.Create(&api.SessionEntry{TTL: "10s", LockDelay: soon}, nil))
	ended := start(func() error { return sessions.RenewPeriodic("10s", periodic, nil, stop) })
	s.say("renewed from time to time", waits(ended))
	close(stop)
	s.say("until stopped", in(ended))
	entry, _ = get(sessions.Info(periodic, nil))
	s.say("which destroys it", entry == nil)
}

// contender is a lock or a semaphore of the Go client.
type contender struct {
	session string
	lock    *api.Lock
}

func (s story) contender(name string) contender {
	session := put(s.Session().CreateNoChecks(&api.SessionEntry{Name: name, LockDelay: soon}, nil))
	lock, err := s.LockOpts(&api.LockOptions{Key: "lock/k", Value: []byte(name), Session: session})
	s.must(err)
	return contender{session, lock}
}

// acquire takes a lock elsewhere, and gives the channel that closes when it is lost.
func acquire(take func(<-chan struct{}) (<-chan struct{}, error)) <-chan (<-chan struct{}) {
	return start(func() <-chan struct{} {
		lost, err := take(nil)
		story{}.must(err)
		return lost
	})
}

func lock(s story) {
	anna, ben, cleo := s.contender("Anna"), s.contender("Ben"), s.contender("Cleo")
	lostByAnna := in(acquire(anna.lock.Lock))
	pair, _ := get(s.KV().Get("lock/k", nil))
	s.say("held", pair.Value, pair.Session == anna.session, pair.Flags == api.LockFlagValue)
	_, err := anna.lock.Lock(nil)
	s.say("twice", err)
	s.say("destroyed while held", ben.lock.Destroy())
	waiting := acquire(ben.lock.Lock)
	s.say("contended, waits", waits(waiting))
	s.must(anna.lock.Unlock())
	s.say("the one who unlocks is told", isLost(lostByAnna), anna.lock.Unlock())
	lostByBen := in(waiting)
	s.say("handed over", s.value("lock/k"))

	next := acquire(cleo.lock.Lock)
	s.say("the next one waits", waits(next))
	done(s.Session().Destroy(ben.session, nil))
	s.say("lost with the session", isLost(lostByBen))
	lostByCleo := in(next)
	s.say("and taken", s.value("lock/k"))
	done(s.KV().Delete("lock/k", nil))
	s.say("lost with the key", isLost(lostByCleo))
	s.say("unlocking is not an error", cleo.lock.Unlock())

	once, err := s.LockOpts(&api.LockOptions{
		Key: "lock/k", Value: []byte("Anna"), Session: anna.session,
		LockTryOnce: true, LockWaitTime: 200 * time.Millisecond,
	})
	s.must(err)
	lost, err := once.Lock(nil)
	s.say("tried once, free", lost != nil, err)
	twice, err := s.LockOpts(&api.LockOptions{
		Key: "lock/k", Session: cleo.session, LockTryOnce: true, LockWaitTime: 200 * time.Millisecond,
	})
	s.must(err)
	lost, err = twice.Lock(nil)
	s.say("tried once, held", lost != nil, err)
	s.must(once.Unlock())
	s.say("destroyed", once.Destroy(), s.value("lock/k"))

	own, err := s.LockOpts(&api.LockOptions{Key: "lock/own", SessionTTL: "10s", LockDelay: soon})
	s.must(err)
	lost = in(acquire(own.Lock))
	pair, _ = get(s.KV().Get("lock/own", nil))
	entry, _ := get(s.Session().Info(pair.Session, nil))
	s.say("with a session of its own", entry.Name, entry.TTL)
	s.must(own.Unlock())
	s.say("which is told too", isLost(lost))
	done(s.KV().Put(&api.KVPair{Key: "lock/other"}, nil))
	conflict, err := s.LockKey("lock/other")
	s.must(err)
	_, err = conflict.Lock(nil)
	s.say("on a key that is not a lock", err)
	for _, one := range []contender{anna, cleo} {
		done(s.Session().Destroy(one.session, nil))
	}
}

func semaphore(s story) {
	type slot struct {
		session   string
		semaphore *api.Semaphore
	}
	contender := func(name string, limit int) slot {
		session := put(s.Session().CreateNoChecks(&api.SessionEntry{Name: name, LockDelay: soon}, nil))
		semaphore, err := s.SemaphoreOpts(&api.SemaphoreOptions{
			Prefix: "semaphore/", Limit: limit, Value: []byte(name), Session: session,
		})
		s.must(err)
		return slot{session, semaphore}
	}
	entries := func() []string {
		pairs, _ := get(s.KV().List("semaphore/", nil))
		return names(pairs, func(pair *api.KVPair) string {
			if pair.Key == "semaphore/"+api.DefaultSemaphoreKey {
				return "(the holders)"
			}
			return string(pair.Value)
		})
	}
	anna, ben, cleo := contender("Anna", 2), contender("Ben", 2), contender("Cleo", 2)
	lostByAnna := in(acquire(anna.semaphore.Acquire))
	lostByBen := in(acquire(ben.semaphore.Acquire))
	s.say("two slots taken", entries())
	waiting := acquire(cleo.semaphore.Acquire)
	s.say("the third waits", waits(waiting))
	s.must(anna.semaphore.Release())
	lostByCleo := in(waiting)
	s.say("until one is free", isLost(lostByAnna), entries())
	again := acquire(anna.semaphore.Acquire)
	s.say("the first waits now", waits(again))
	done(s.Session().Destroy(ben.session, nil))
	s.say("a slot is lost with its session", isLost(lostByBen))
	in(again)
	s.say("and taken", entries())

	wrong := contender("Dora", 3)
	_, err := wrong.semaphore.Acquire(nil)
	s.say("another limit", err)
	s.say("destroyed while held", cleo.semaphore.Destroy())
	s.must(cleo.semaphore.Release())
	s.must(anna.semaphore.Release())
	s.say("released", isLost(lostByCleo), anna.semaphore.Release())
	s.say("destroyed", cleo.semaphore.Destroy())
	for _, one := range []slot{anna, cleo, wrong} {
		done(s.Session().Destroy(one.session, nil))
	}
	s.say("left", entries())
}
