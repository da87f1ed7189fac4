package main

import (
	"bytes"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

func keysAndValues(s story) {
	kv := s.KV()
	for _, name := range []string{"b", "a", "dir/one", "dir/two", "dir/deep/three", "ä ?&=+%"} {
		pair := &api.KVPair{Key: "kv/" + name, Value: []byte("value of " + name), Flags: uint64(len(name))}
		done(kv.Put(pair, nil))
	}
	pair, _ := get(kv.Get("kv/ä ?&=+%", nil))
	s.say("a key", pair.Key, pair.Value, pair.Flags, pair.LockIndex, pair.Session == "")
	pair, index := get(kv.Get("kv/none", nil))
	s.say("no key", pair == nil, index > 0)
	pairs, _ := get(kv.List("kv/", nil))
	for _, pair := range pairs {
		s.say("in the list", pair.Key, pair.Value, pair.Flags)
	}
	none, _ := get(kv.List("none/", nil))
	s.say("below no key", len(none))
	keys, _ := get(kv.Keys("kv/", "/", nil))
	s.say("up to the separator", strings.Join(keys, ", "))
	keys, _ = get(kv.Keys("kv/dir", "", nil))
	s.say("by a prefix", strings.Join(keys, ", "))

	binary := make([]byte, 256)
	for place := range binary {
		binary[place] = byte(place)
	}
	done(kv.Put(&api.KVPair{Key: "kv/binary", Value: binary}, nil))
	pair, _ = get(kv.Get("kv/binary", nil))
	s.say("all bytes come back", bytes.Equal(pair.Value, binary))
	done(kv.Put(&api.KVPair{Key: "kv/empty"}, nil))
	pair, _ = get(kv.Get("kv/empty", nil))
	s.say("an empty value", pair.Value == nil, len(pair.Value))
	_, err := kv.Put(&api.KVPair{Key: "kv/big", Value: make([]byte, 512*1024+1)}, nil)
	s.refused("a value too large", err, "too large")
	done(kv.Put(&api.KVPair{Key: "kv/big", Value: make([]byte, 512*1024)}, nil))
	pair, _ = get(kv.Get("kv/big", nil))
	s.say("the largest value", len(pair.Value))

	first, _ := get(kv.Get("kv/a", nil))
	done(kv.Put(&api.KVPair{Key: "kv/a", Value: []byte("new")}, nil))
	second, _ := get(kv.Get("kv/a", nil))
	s.say("a write", second.Value, second.Flags,
		second.CreateIndex == first.CreateIndex, second.ModifyIndex > first.ModifyIndex)
	done(kv.Delete("kv/a", nil))
	done(kv.Delete("kv/a", nil))
	s.say("deleted twice", s.value("kv/a"))
	done(kv.DeleteTree("kv/dir/", nil))
	keys, _ = get(kv.Keys("kv/", "", nil))
	s.say("a tree deleted", strings.Join(keys, ", "))
	_, _, err = kv.Get("kv/a", &api.QueryOptions{Datacenter: "elsewhere"})
	s.refused("another datacenter", err, "No path to datacenter")
	_, _, err = kv.Get("kv/a", &api.QueryOptions{RequireConsistent: true, AllowStale: true})
	s.refused("consistent and stale", err, "Cannot specify ?stale with ?consistent")
	_, meta, err := kv.Get("kv/b", &api.QueryOptions{AllowStale: true})
	s.must(err)
	s.say("a stale read", meta.KnownLeader, meta.LastContact < time.Minute)
}

func checkAndSet(s story) {
	kv := s.KV()
	cas := func(value string, index uint64) bool {
		return put(kv.CAS(&api.KVPair{Key: "cas/k", Value: []byte(value), ModifyIndex: index}, nil))
	}
	s.say("created", cas("one", 0), s.value("cas/k"))
	s.say("created again", cas("two", 0), s.value("cas/k"))
	pair, _ := get(kv.Get("cas/k", nil))
	s.say("with its index", cas("three", pair.ModifyIndex), s.value("cas/k"))
	s.say("with an old index", cas("four", pair.ModifyIndex), s.value("cas/k"))
	s.say("deleted with an old index", put(kv.DeleteCAS(pair, nil)), s.value("cas/k"))
	pair, _ = get(kv.Get("cas/k", nil))
	s.say("deleted with its index", put(kv.DeleteCAS(pair, nil)), s.value("cas/k"))
	s.say("with an index but no key", cas("five", pair.ModifyIndex), s.value("cas/k"))
}

func blockingQueries(s story) {
	kv := s.KV()
	type seen struct {
		values []string
		index  uint64
	}
	// watch reads a prefix when its index has passed the given one.
	watch := func(index uint64) <-chan seen {
		return start(func() seen {
			pairs, index := get(kv.List("watch/", &api.QueryOptions{WaitIndex: index, WaitTime: patience}))
			return seen{names(pairs, func(pair *api.KVPair) string { return string(pair.Value) }), index}
		})
	}
	_, index := get(kv.List("watch/", nil))
	waiting := watch(index)
	s.say("nothing there, waits", waits(waiting))
	done(kv.Put(&api.KVPair{Key: "watch/k", Value: []byte("one")}, nil))
	woken := in(waiting)
	s.say("woken by the first key", woken.values, woken.index > index)
	waiting = watch(woken.index)
	done(kv.Put(&api.KVPair{Key: "unwatched", Value: []byte("other")}, nil))
	s.say("not by another key", waits(waiting))
	done(kv.Put(&api.KVPair{Key: "watch/l", Value: []byte("two")}, nil))
	more := in(waiting)
	s.say("by the second key", more.values, more.index > woken.index)
	waiting = watch(more.index)
	done(kv.Delete("watch/k", nil))
	less := in(waiting)
	s.say("by a deletion", less.values, less.index > more.index)

	begun := time.Now()
	pair, same := get(kv.Get("watch/l", &api.QueryOptions{WaitIndex: more.index, WaitTime: time.Second}))
	s.say("an old index does not wait", pair.Value, same == more.index)
	_, same = get(kv.Get("watch/l", &api.QueryOptions{WaitIndex: same, WaitTime: 200 * time.Millisecond}))
	s.say("the time is up", same == more.index, time.Since(begun) >= 200*time.Millisecond)
}

func transactions(s story) {
	set := func(verb api.KVOp, key, value string) *api.TxnOp {
		return &api.TxnOp{KV: &api.KVTxnOp{Verb: verb, Key: key, Value: []byte(value), Flags: 7}}
	}
	run := func(what string, operations ...*api.TxnOp) {
		ok, response, _, err := s.Txn().Txn(operations, nil)
		s.must(err)
		s.say(what, ok, len(response.Results), len(response.Errors))
		for _, result := range response.Results {
			s.say("  result", result.KV.Key, result.KV.Value, result.KV.Flags)
		}
		for _, failure := range response.Errors {
			s.say("  operation", failure.OpIndex, failure.What)
		}
	}
	run("all or nothing", set(api.KVSet, "txn/a", "one"), set(api.KVSet, "txn/b", "two"),
		set(api.KVGet, "txn/a", ""), set(api.KVGetTree, "txn/", ""), set(api.KVCheckNotExists, "txn/c", ""))
	run("refused", set(api.KVSet, "txn/a", "three"), set(api.KVGet, "txn/none", ""))
	s.say("nothing of it", s.value("txn/a"))
	run("refused twice", set(api.KVCheckNotExists, "txn/a", ""), set(api.KVGet, "txn/none", ""))
	pair, _ := get(s.KV().Get("txn/a", nil))
	cas := &api.KVTxnOp{Verb: api.KVCAS, Key: pair.Key, Value: []byte("four"), Index: pair.ModifyIndex}
	check := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: pair.Key, Index: pair.ModifyIndex}
	run("with its index", &api.TxnOp{KV: check}, &api.TxnOp{KV: cas})
	run("deleted", set(api.KVDeleteTree, "txn/", ""), set(api.KVCheckNotExists, "txn/b", ""))

	session := put(s.Session().CreateNoChecks(&api.SessionEntry{Name: "of a transaction"}, nil))
	locked := &api.KVTxnOp{Verb: api.KVLock, Key: "txn/lock", Value: []byte("held"), Session: session}
	held := &api.KVTxnOp{Verb: api.KVCheckSession, Key: "txn/lock", Session: session}
	run("locked", &api.TxnOp{KV: locked}, &api.TxnOp{KV: held})
	held = &api.KVTxnOp{Verb: api.KVUnlock, Key: "txn/lock", Value: []byte("free"), Session: session}
	run("unlocked", &api.TxnOp{KV: held})
	done(s.Session().Destroy(session, nil))

	many := make(api.TxnOps, 129)
	for place := range many {
		many[place] = set(api.KVSet, "txn/many", "x")
	}
	_, _, _, err := s.Txn().Txn(many, nil)
	// The client makes an error without a status of this one.
	said := "Transaction contains too many operations"
	s.say("too many operations", err != nil && strings.Contains(err.Error(), said))
}
